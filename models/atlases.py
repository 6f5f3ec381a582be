"""Parcellations that are fetched once and then found on this machine, never shipped.

The parcellation that is shipped, ``GreyParcels100``, has no card here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neurostorm_app.errors import DataError, NoInputError
from neurostorm_app.models.card import AtlasCard, read_named
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.models.weights import list_folders

if TYPE_CHECKING:
    from neurostorm_app.models.card import KnownFile

__all__ = [
    "find_atlas",
    "find_coordinates",
    "list_atlas_places",
    "list_atlases",
    "read_atlas_card",
]

CARDS = Path(__file__).parent / "cards" / "atlases"


def list_atlases() -> list[str]:
    """List the names of all parcellations that can be fetched.

    Returns
    -------
    list of str
        Sorted.

    Examples
    --------
    >>> list_atlases()
    ['A424']
    """
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def read_atlas_card(name: str) -> AtlasCard:
    """Read what is known of a parcellation.

    Parameters
    ----------
    name : str
        One of `list_atlases`.

    Returns
    -------
    AtlasCard
        Its source, licence, files and hashes.

    Raises
    ------
    UsageError
        If there is no parcellation of this name.

    Examples
    --------
    >>> read_atlas_card("A424").n_parcels
    424
    """
    return read_named(AtlasCard, name, CARDS, what="atlas")


def list_atlas_places(card: AtlasCard, *, weights_dir: Path | None = None) -> list[Path]:
    """List the places where the label image of a parcellation may lie, best first.

    Parameters
    ----------
    card : AtlasCard
        The parcellation.
    weights_dir : Path, optional
        A folder of weights.

    Returns
    -------
    list of Path
        In a folder of the parcellation's name, and the file itself.
    """
    folders = list_folders(weights_dir)
    return [at / card.labels.file for folder in folders for at in (folder / card.name, folder)]


def find_atlas(
    card: AtlasCard, *, given: Path | None = None, weights_dir: Path | None = None
) -> Path:
    """Find the label image of a parcellation on this machine.

    Parameters
    ----------
    card : AtlasCard
        The parcellation.
    given : Path, optional
        The file the user named; nothing else is looked at, and it need not be the card's file.
    weights_dir : Path, optional
        A folder of weights; after it, the folder that ``NEUROSTORM_WEIGHTS`` names is looked at.

    Returns
    -------
    Path
        An existing label image; one that was not named has the hash of the card.

    Raises
    ------
    NoInputError
        If it is at none of these places.
    DataError
        If what is there is another file.
    """
    if given is not None:
        if not given.is_file():
            raise NoInputError(f"{given}: there is no such atlas", fix="check the path")
        return given
    places = list_atlas_places(card, weights_dir=weights_dir)
    for place in places:
        if place.is_file():
            _check(place, card.labels)
            return place
    looked = ", ".join(map(str, places)) or "nowhere: neither a file nor a folder was given"
    raise NoInputError(
        f"the atlas {card.name} is not on this machine; looked at {looked}",
        fix=f"get it once with neurostorm-tools weights fetch {card.name} --weights-dir DIR, and "
        f"give --weights-dir DIR; or give the file with --atlas MODEL=PATH ({card.licence})",
    )


def find_coordinates(label_image: Path, card: AtlasCard) -> Path | None:
    """Find the table of coordinates beside a label image.

    Parameters
    ----------
    label_image : Path
        As `find_atlas` found it.
    card : AtlasCard
        The parcellation.

    Returns
    -------
    Path or None
        One row a parcel: index, X, Y, Z, MNI mm. None if it is not there, or if the parcellation
        has none.

    Raises
    ------
    DataError
        If what is there is another file.
    """
    if card.coordinates is None:
        return None
    path = label_image.with_name(card.coordinates.file)
    if not path.is_file():
        return None
    _check(path, card.coordinates)
    return path


def _check(path: Path, known: KnownFile) -> None:
    actual = hash_file(path)
    if actual != known.sha256:
        raise DataError(
            f"{path}: is not the file of the atlas: its SHA-256 is {actual}; the card says "
            f"{known.sha256}",
            fix="move it away and fetch the atlas again",
        )
