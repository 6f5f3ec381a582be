"""Names of outputs and how they come into being: aside, synced, renamed.

`derivative_path` is the only function that makes a name. A reader of the output folder, or a
process that is killed, never sees half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import numpy as np

from neurostorm_app.bids_app.scratch import open_part
from neurostorm_app.bids_app.words.values import LABEL
from neurostorm_app.errors import CannotCreateError, DataError
from neurostorm_app.pipelines.shortage import naming_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "ORDER",
    "Written",
    "copy_aside",
    "derivative_path",
    "embedding_table",
    "move_aside",
    "read_embedding",
    "write_bytes",
    "write_json",
    "write_text",
]

ORDER: Final = ("from", "to", "mode", "space", "atlas", "res", "label", "fmapid", "desc")
NAME: Final = re.compile(r"sub-[0-9A-Za-z+]+(?:_[a-z]+-[0-9A-Za-z+]+)*")
DATATYPES: Final = frozenset({"anat", "fmap", "func"})
BLOCK: Final = 2**20


def derivative_path(
    root: Path,
    name: str,
    datatype: str,
    *,
    suffix: str,
    extension: str,
    entities: Mapping[str, str | None],
) -> Path:
    """Make the path of an output.

    Parameters
    ----------
    root : Path
        The output folder.
    name : str
        Entities of the source, such as ``sub-01_ses-1_task-rest``.
    datatype : str
        ``anat``, ``func`` or ``fmap``.
    suffix, extension : str
        Such as ``bold`` and ``.nii.gz``.
    entities : mapping
        What the output adds, in any order; None leaves an entity out.

    Returns
    -------
    Path
        In the folder of the participant and the session.

    Raises
    ------
    DataError
        If a name or a label is not BIDS; such a name could leave the output folder.

    Examples
    --------
    >>> from pathlib import Path
    >>> derivative_path(Path(), "sub-01_task-rest", "func", suffix="bold", extension=".nii.gz",
    ...                 entities={"desc": "preproc", "space": "T1w"}).name
    'sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz'
    """
    present = {key: value for key, value in entities.items() if value is not None}
    wrong = [value for value in present.values() if not LABEL.fullmatch(value)]
    if not NAME.fullmatch(name) or wrong or datatype not in DATATYPES:
        raise DataError(
            f"cannot name an output of {name!r} with {present}; expected BIDS labels",
            fix="rename the source as BIDS says: letters, digits and + in labels",
        )
    pairs = [f"{key}-{present.pop(key)}" for key in ORDER if key in present]
    if present:
        raise DataError(f"{sorted(present)} are not entities of outputs", fix=f"use {ORDER}")
    source = dict(pair.split("-", 1) for pair in name.split("_"))
    folder = root / f"sub-{source['sub']}"
    if "ses" in source:
        folder /= f"ses-{source['ses']}"
    return folder / datatype / ("_".join([name, *pairs, suffix]) + extension)


class Written(str):
    """SHA-256 of a file that was written here, and what tells later that it has not changed.

    Size and time are those of the moment at which it took its name: by now another call may have
    put its own file there.

    Parameters
    ----------
    sha256 : str
        Of the content.
    size : int
        Bytes.
    mtime : int
        Time of the last change in nanoseconds.
    """

    __slots__ = ("mtime", "size")
    size: int
    mtime: int

    def __new__(cls, sha256: str, *, size: int, mtime: int) -> Self:
        """Make it of its parts."""
        written = super().__new__(cls, sha256)
        written.size, written.mtime = size, mtime
        return written

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to other processes as a plain string."""
        return str, (str(self),)


def _settle(sha256: str, file: BinaryIO) -> Written:
    """Bring a file to the disk before it takes its name, and stamp it."""
    file.flush()
    os.fsync(file.fileno())
    stat = os.fstat(file.fileno())
    return Written(sha256, size=stat.st_size, mtime=stat.st_mtime_ns)


@contextlib.contextmanager
def _aside(path: Path, root: Path | None) -> Iterator[BinaryIO]:
    """Open a file that takes the name `path` when all is written and settled.

    It lies in the output folder itself, where the next call looks for what a killed one left, or
    beside `path` if that is on another disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_inside(path, root)
    near = root is not None and root.stat().st_dev == path.parent.stat().st_dev
    folder = root if near and root is not None else path.parent
    with naming_file(path), open_part(folder) as (part, file):
        yield file
        os.fchmod(file.fileno(), 0o666 & ~_umask())  # a temporary file is private
        part.replace(path)
    _sync_folder(path.parent)


def _check_inside(path: Path, root: Path | None) -> None:
    if root is not None and not path.parent.resolve().is_relative_to(root.resolve()):
        raise CannotCreateError(
            f"{path} would leave the output folder {root}",
            fix="remove the link that leads out of the output folder",
        )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes, *, root: Path | None = None) -> Written:
    """Write a file at once and return its SHA-256."""
    with _aside(path, root) as file:
        file.write(content)
        return _settle(hashlib.sha256(content).hexdigest(), file)


def write_text(path: Path, text: str, *, root: Path | None = None) -> Written:
    r"""Write UTF-8 text at once and return its SHA-256.

    A byte of the name of a file that is not UTF-8, which Python holds as half of a pair, is
    written as ``\udc..``; JSON reads that back as it was.
    """
    return write_bytes(path, text.encode(errors="backslashreplace"), root=root)


def write_json(path: Path, content: Mapping[str, Any], *, root: Path | None = None) -> Written:
    """Write a JSON object at once and return its SHA-256."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", root=root)


def copy_aside(source: Path, path: Path, *, root: Path | None = None) -> Written:
    """Copy a file to its place at once and return its SHA-256; it is read one time."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, _aside(path, root) as file:
        while block := reader.read(BLOCK):
            digest.update(block)
            file.write(block)
        return _settle(digest.hexdigest(), file)


def move_aside(source: Path, path: Path, *, root: Path | None = None) -> Written:
    """Move a file to its place at once and return its SHA-256; across disks it is copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_dev != path.parent.stat().st_dev:
        written = copy_aside(source, path, root=root)
        source.unlink()
        return written
    _check_inside(path, root)
    with source.open("rb") as file:
        written = _settle(hashlib.file_digest(file, "sha256").hexdigest(), file)
    source.chmod(0o666 & ~_umask())
    source.replace(path)
    _sync_folder(path.parent)
    return written


def embedding_table(
    vectors: NDArray[np.float32], leading: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None
) -> str:
    """Write vectors as a table whose numbers read back as the same float32.

    Parameters
    ----------
    vectors : ndarray, shape (N, D), float32
        One row a window, a run or a participant.
    leading : mapping, optional
        Columns that come first, each of length N.

    Returns
    -------
    str
        Tab-separated, with a header; D columns ``dim000`` and on.

    Raises
    ------
    DataError
        If a number is not finite.
    """
    if not np.isfinite(vectors).all():
        raise DataError(
            f"an embedding holds {int((~np.isfinite(vectors)).sum())} values that are not finite",
            fix="look at the series: constant or missing voxels are the usual cause",
        )
    leading = leading or {}
    width = max(3, len(str(vectors.shape[1] - 1)))
    out = io.StringIO()
    header = [*leading, *(f"dim{i:0{width}d}" for i in range(vectors.shape[1]))]
    out.write("\t".join(header) + "\n")
    for i, row in enumerate(np.asarray(vectors, dtype=np.float32)):
        first = [_cell(column[i]) for column in leading.values()]
        # str() of a float32 is the shortest text that reads back as the same float32.
        out.write("\t".join([*first, *map(str, row)]) + "\n")
    return out.getvalue()


def _cell(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float | np.floating) else str(value)


def read_embedding(path: Path) -> NDArray[np.float32]:
    """Read the vectors of an embedding table.

    Returns
    -------
    ndarray, shape (N, D), float32
        The ``dim`` columns.

    Raises
    ------
    DataError
        If it is not such a table.
    """
    header, *rows = path.read_text(encoding="utf-8").splitlines() or [""]
    columns = [i for i, name in enumerate(header.split("\t")) if name.startswith("dim")]
    try:
        cells = [[cells[i] for i in columns] for cells in (row.split("\t") for row in rows)]
        vectors = np.array(cells, dtype=np.float32)
    except (IndexError, ValueError) as error:
        raise DataError(f"{path} is not a table of numbers: {error}", fix="remove it") from error
    if vectors.ndim != 2 or not vectors.size:
        raise DataError(f"{path} holds no vector", fix="remove it and run the participant again")
    return vectors
