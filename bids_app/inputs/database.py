"""The images of participants from an index that PyBIDS made earlier: its only import.

On a slow disk an index spares the listing of folders, and one index serves many calls. It holds
names alone; whether the files are still there is seen when they are needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.inputs.listing import DATATYPES, ENDINGS
from neurostorm_app.errors import DataError, NoInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["read_database"]

FILE: Final = "layout_index.sqlite"
"""What PyBIDS calls its index."""


def read_database(folder: Path, root: Path) -> Mapping[str, Sequence[Path]]:
    """Read which images an index holds of each participant.

    Parameters
    ----------
    folder : Path
        Of the index, as ``pybids layout BIDS_DIR FOLDER`` writes it.
    root : Path
        The dataset. It may have lain elsewhere when the index was made, as it does in containers.

    Returns
    -------
    mapping of str to list of Path
        By label: images of anatomy, function and field, sorted, under `root`.

    Raises
    ------
    NoInputError
        If there is no index.
    DataError
        If it cannot be read, or names files that do not lie in the folder of their participant.
    """
    if not (folder / FILE).is_file():
        raise NoInputError(
            f"{folder} holds no index of PyBIDS ({FILE})",
            fix=f"make it with: pybids layout {root} {folder} --no-validate; or leave "
            "--bids-database-dir out",
        )
    from bids.layout.db import ConnectionManager
    from bids.layout.models import BIDSFile, LayoutInfo
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # A layout would insist on the folder in which the dataset lay when it was indexed.
        manager = ConnectionManager(folder)
        with manager.sessionmaker() as session:
            top = session.query(LayoutInfo.root).scalar()
            names = [name for (name,) in session.query(BIDSFile.path)]
        manager.engine.dispose()
    except (SQLAlchemyError, OSError) as error:
        raise DataError(
            f"{folder}: the index of PyBIDS cannot be read ({type(error).__name__})",
            fix="make it anew with the version of PyBIDS that reads it, or leave it out",
        ) from error
    found: dict[str, list[Path]] = {}
    for name in names:
        if not name.endswith(ENDINGS):
            continue
        parts = _inside(Path(name), Path(top or ""), folder)
        if parts[0].startswith("sub-") and parts[-2] in DATATYPES and len(parts) in (3, 4):
            found.setdefault(parts[0].removeprefix("sub-"), []).append(root.joinpath(*parts))
    return {label: sorted(paths) for label, paths in found.items()}


def _inside(path: Path, top: Path, folder: Path) -> tuple[str, ...]:
    """Split the path of a file under the top of the dataset that was indexed."""
    parts = path.relative_to(top).parts if path.is_relative_to(top) else ()
    if len(parts) < 2 or ".." in parts:
        raise DataError(
            f"{folder}: the index names {str(path)!r}, which does not lie in {top}",
            fix="make the index anew, of the dataset alone",
        )
    return parts
