"""Images whose names are not BIDS, and what their errors are kept under.

Such a name may hold anything, be that of another participant's run, or stand in many folders, so
that no report can bear it. The error is kept under the folder's participant and a hash.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.inputs.entities import FOLDER, check_length, parse_name
from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MISNAMED", "name_misnamed", "parse_image"]

MISNAMED: Final = re.compile(r"sub-([0-9A-Za-z+]+)(?:_ses-[0-9A-Za-z+]+)?_file-[0-9a-f]{8}")
"""What `name_misnamed` gives, and the participant in it."""


def name_misnamed(path: Path, *, tree: str = "") -> str:
    """Name what is wrong about the name of an image.

    Parameters
    ----------
    path : Path
        The image, below the folder of a participant.
    tree : str
        Name of the derivative that it lies in; empty for the raw dataset.

    Returns
    -------
    str
        Participant and session as the folders say, and 8 hexadecimal digits.

    Examples
    --------
    >>> from pathlib import Path
    >>> name_misnamed(Path("sub-01/ses-a/func/my run_bold.nii.gz"))
    'sub-01_ses-a_file-0528874b'
    """
    folders = _folders(path)
    place = os.fsencode("/".join((tree, *folders, path.name)))
    known = [folder for folder in folders[:2] if FOLDER.fullmatch(folder)]
    return "_".join([*known, f"file-{hashlib.sha256(place).hexdigest()[:8]}"])


def _folders(path: Path) -> tuple[str, ...]:
    """List the folders around an image, from that of its participant on."""
    parts = path.parts[:-1]
    return parts[max(i for i, part in enumerate(parts) if part.startswith("sub-")) :]


def parse_image(path: Path) -> dict[str, str]:
    """Take the name of a raw image apart, which becomes the beginning of its results' names.

    Parameters
    ----------
    path : Path
        The image, below the folder of its participant.

    Returns
    -------
    dict
        As of `parse_name`.

    Raises
    ------
    DataError
        If the name or a folder around it is not BIDS, or nothing can be named after it.
    """
    entities = parse_name(path)
    if next(iter(entities)) != "sub":
        raise DataError(
            f"{path.name!r} does not begin with a participant; expected sub-<label> first",
            fix="rename the file as BIDS says, or leave it out",
        )
    for folder in _folders(path):
        if folder.startswith("ses-") and not FOLDER.fullmatch(folder):
            raise DataError(
                f"{path.name!r} lies in the folder {folder!r}, which names no session; expected "
                "ses- and letters, digits and +",
                fix="rename the folder as BIDS says, or leave it out",
            )
    check_length(path, [f"{k}-{v}" for k, v in entities.items() if k != "suffix"])
    return entities
