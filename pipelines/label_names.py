"""Labels of a label image by name, and cards whose voxels are those of such labels.

The package has no map of visual areas. Of the visual network of the cortex there is one that may be
used by everybody: parcels of Schaefer et al. whose names have the part ``Vis``, in TemplateFlow for
MNI152NLin6Asym (``atlas-Schaefer2018``, MIT licence). It is a network of resting-state
connectivity: it holds V1 to V4 and what lies around them, and is no retinotopic map.

References
----------
Schaefer et al. (2018), Cerebral Cortex 28:3095, doi:10.1093/cercor/bhx179.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import ContractError, NoInputError, UsageError
from neurostorm_app.models.card import VoxelContract
from neurostorm_app.pipelines.parcellate import read_labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from neurostorm_app.models.card import Card

__all__ = ["find_labels", "list_label_names", "take_voxels"]


def take_voxels(card: Card, atlas: Path, wanted: Sequence[str]) -> Card:
    """Make a card of a network of voxels eat those of other labels.

    Parameters
    ----------
    card : Card
        Of a network that takes voxels.
    atlas : Path
        Label image in the space of the card.
    wanted : sequence of str
        Numbers of labels, or parts of their names; see `find_labels`.

    Returns
    -------
    Card
        With another contract, and a network of as many voxels. Weights that the card was of do not
        fit it.

    Raises
    ------
    UsageError
        If the model takes no voxels, or the file says that it is in another space.
    ContractError, NoInputError
        If labels are not there, or not a table of their names.

    Examples
    --------
    >>> from neurostorm_app.models import read_card
    >>> from neurostorm_app.pipelines.templates import load_parcellation_path
    >>> atlas = load_parcellation_path()
    >>> card = take_voxels(read_card("mind-vis"), atlas, ["49", "50"])
    >>> card.contract.labels, card.contract.atlas
    ((49, 50), 'GreyParcels100')
    """
    contract = card.contract
    if not isinstance(contract, VoxelContract):
        raise UsageError(
            f"{card.name} takes {contract.kind}, not voxels of labels: they have no meaning for it",
            fix="leave the labels out, or choose mind-vis",
        )
    space = _entity(atlas, "tpl") or _entity(atlas, "space")
    if space and space != contract.space:
        raise UsageError(
            f"{atlas}: a label image in {space}; {card.name} takes voxels of {contract.space}",
            fix=f"give the label image in {contract.space}, such as tpl-{contract.space}_...",
        )
    labels = find_labels(atlas, wanted)
    n_voxels = int(np.isin(read_labels(atlas)[0], labels).sum())
    named = _entity(atlas, "atlas") or _entity(atlas, "seg") or atlas.name.partition(".")[0]
    changed = contract.model_copy(
        update={"atlas": named + _entity(atlas, "desc"), "labels": labels, "n_voxels": n_voxels}
    )
    config = {**card.config, "num_voxels": changed.padded(n_voxels)}
    return card.model_copy(update={"contract": changed, "config": config})


def find_labels(atlas: Path, wanted: Sequence[str]) -> tuple[int, ...]:
    """Find labels by number or by a part of their names.

    Parameters
    ----------
    atlas : Path
        Label image; names are looked up in the table beside it.
    wanted : sequence of str
        Numbers such as ``49``, or parts of names between underscores such as ``Vis``, which
        ``7Networks_LH_Vis_1`` has, or whole names.

    Returns
    -------
    tuple of int
        Ascending, each once.

    Raises
    ------
    ContractError
        If a label is not in the image, or no name has a part.
    NoInputError
        If names are asked for and there is no table.
    """
    numbers = {int(word) for word in wanted if word.isdigit()}
    words = [word for word in wanted if not word.isdigit()]
    names = list_label_names(atlas) if words else {}
    for word in words:
        found = {n for n, name in names.items() if word in (name, *name.split("_"))}
        if not found:
            some = ", ".join(list(names.values())[:4])
            raise ContractError(
                f"{atlas}: no label has a name with the part {word!r}; there are {some}, ...",
                fix="give a part between underscores, as it is spelled there, or numbers",
            )
        numbers |= found
    there = set(np.unique(read_labels(atlas)[0]).tolist()) - {0}
    if not numbers or not numbers <= there:
        lacking = ", ".join(map(str, sorted(numbers - there)[:6])) or "none was asked for"
        raise ContractError(
            f"{atlas}: these labels are not in the image: {lacking}",
            fix="give labels of this image, or the image that its table belongs to",
        )
    return tuple(sorted(numbers))


def list_label_names(atlas: Path) -> dict[int, str]:
    """Read the names of labels from the table beside a label image.

    Parameters
    ----------
    atlas : Path
        Such as ``tpl-X_res-02_atlas-Y_dseg.nii.gz``.

    Returns
    -------
    dict of int to str
        From the columns ``index`` and ``name`` of ``tpl-X_res-02_atlas-Y_dseg.tsv``, or of
        TemplateFlow's ``tpl-X_atlas-Y_dseg.tsv``, which serves all resolutions.

    Raises
    ------
    NoInputError
        If there is no table.
    ContractError
        If it has no such columns.
    """
    stem = atlas.name.removesuffix(".gz").removesuffix(".nii")
    places = [atlas.with_name(f"{s}.tsv") for s in (stem, re.sub(r"_res-[^_]+", "", stem))]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise NoInputError(
            f"{places[0]}: no table says which label is which",
            fix="put the table of the atlas (columns index and name) beside its image, or give "
            "labels by their numbers",
        )
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    try:
        return {int(row["index"]): row["name"] for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ContractError(
            f"{path}: is no table of labels: {error!r}",
            fix="give a column index of whole numbers and a column name, with tabs between",
        ) from error


def _entity(path: Path, key: str) -> str:
    """Read an entity of a BIDS name; empty where there is none."""
    found = re.search(rf"(?:^|_){key}-([^_.]+)", path.name)
    return found.group(1) if found else ""
