"""The images of a participant, listed by name: nothing of other participants is touched.

Only the folders that BIDS gives images of interest are opened, so that neither a link that leads
back into the dataset nor one that leads out of it can make the list long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.inputs.fieldmaps import SUFFIXES
from neurostorm_app.pipelines.header import check_present

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.errors import AppError

__all__ = ["DATATYPES", "ENDINGS", "list_images"]

DATATYPES: Final = ("anat", "fmap", "func")
WANTED: Final = ("T1w", "bold", "sbref", *SUFFIXES)
"""Suffixes of the images that are looked for."""
ENDINGS: Final = tuple(f"_{suffix}{ext}" for suffix in WANTED for ext in (".nii", ".nii.gz"))


def list_images(folder: Path) -> tuple[list[Path], list[AppError]]:
    """List the images of a participant; no image is opened, and a link is listed unresolved.

    Parameters
    ----------
    folder : Path
        ``sub-<label>`` of a dataset.

    Returns
    -------
    images : list of Path
        Of anatomy, function and field, sorted.
    closed : list of AppError
        Of folders that cannot be listed: links to nothing, or not for this user to read.
    """
    closed: list[AppError] = []
    names = _names(folder, closed)
    sessions = [folder / name for name in names if name.startswith("ses-")]
    inside = {folder: names, **{session: _names(session, closed) for session in sessions}}
    images: list[Path] = []
    for parent, children in inside.items():
        for datatype in DATATYPES:
            if datatype in children:
                place = parent / datatype
                images += [place / name for name in _names(place, closed) if name.endswith(ENDINGS)]
    return sorted(images), closed


def _names(folder: Path, closed: list[AppError]) -> list[str]:
    """List what is not hidden in a folder; a file holds nothing, and what is closed is noted."""
    try:
        check_present(folder)
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path.name for path in paths if not path.name.startswith(".")]
    except OSError as error:
        closed.append(as_app_error(error))
        return []
