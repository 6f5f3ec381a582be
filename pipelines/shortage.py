"""What the machine lacked, by the words of whoever ran into it: room on a disk, memory, a disk.

Libraries tell it in many ways: as an error with a number, as one without, or as a text in the
traceback of another process. Here all of them are read, so that a full disk is named wherever it
was met.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import CannotCreateError, InputOutputError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neurostorm_app.errors import AppError

__all__ = ["FULL", "as_shortage", "disk_full", "error_number", "naming_file", "read_shortage"]

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of a disk or a quota that is used up."""
FAILING: Final = frozenset(
    {errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENODEV, errno.ETIMEDOUT}
)
"""Numbers of a disk or a network share that fails."""
NUMBER: Final = re.compile(r"(?:\[errno |errno = )(\d+)", re.IGNORECASE)
"""A number in words, as Python and HDF5 write it."""
PLACE: Final = re.compile(r"\[Errno \d+\] [^\n:']*: '([^'\n]+)'")
"""A path behind it, as Python writes it."""
WORDS: Final = {
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Input/output error": errno.EIO,
    "Stale file handle": errno.ESTALE,
}
"""What C libraries say instead."""
ALLOCATION: Final = (
    "bad_alloc",
    "can't allocate memory",
    "Cannot allocate memory",
    "Failed to allocate memory",
    "MemoryError",
    "Unable to allocate",
    "not enough memory",
)
"""What torch, ITK, numpy and C++ say where there is no memory."""
MIB: Final = 2**20
ROOM: Final = (
    "free space or raise the quota there, or choose another OUTPUT_DIR or --work-dir;"
    " then call again: what is finished is reused"
)
DISK: Final = "check the disk or the network share, then call again"
MEMORY: Final = (
    "call again with a smaller --nprocs and --batch-size 1, or give the job more memory and --mem"
)


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Let errors of the operating system name the file that is being written.

    An open file does not know its name when writing to it fails, and the name that a file has until
    it is whole (``.part-``) says nothing.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)).name.startswith(".part-"):
            error.filename, error.filename2 = str(path), None
        raise


def error_number(error: BaseException) -> int | None:
    """Give the number of an error of the operating system, also where only its words hold it.

    Examples
    --------
    >>> error_number(OSError("Unable to write (errno = 28, error message = 'No space left')"))
    28
    """
    if not isinstance(error, OSError):
        return None
    return error.errno if error.errno is not None else _number_in(str(error))


def as_shortage(error: BaseException) -> AppError | None:
    """Say what the machine lacked, if that is what an error, or one it came from, is about.

    Parameters
    ----------
    error : BaseException
        Whatever was raised.

    Returns
    -------
    AppError or None
        `CannotCreateError` for a full disk, `TemporaryError` for memory, `InputOutputError` for a
        disk that fails; None for anything else.
    """
    for cause in _causes(error):
        if isinstance(cause, MemoryError):
            return _no_memory()
        if isinstance(cause, OSError):
            told = _of_number(error_number(cause), cause.filename)
        else:
            told = read_shortage(str(cause)) if isinstance(cause, RuntimeError) else None
        if told is not None:
            return told
    return None


def read_shortage(text: str) -> AppError | None:
    """Say what the machine lacked, if a traceback or the words of a library tell of it.

    Parameters
    ----------
    text : str
        Of another process, or of a library that raises `RuntimeError` for everything.

    Returns
    -------
    AppError or None
        As of `as_shortage`.
    """
    place = PLACE.findall(text)
    told = _of_number(_number_in(text), place[-1] if place else None)
    if told is None and any(word in text for word in ALLOCATION):
        return _no_memory()
    return told


def disk_full(name: str | bytes | int | None, said: str = "No space left on device") -> AppError:
    """Say that a disk is full, which one, and what is left of it.

    Parameters
    ----------
    name : path or None
        The file that was being written.
    said : str
        In the words of the system.
    """
    known = isinstance(name, str | bytes)
    where = os.fsdecode(name) if isinstance(name, str | bytes) else "a file"
    return CannotCreateError(f"{where}: {said}{_free(where) if known else ''}", fix=ROOM)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those it was raised from, each once."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _number_in(text: str) -> int | None:
    found = [int(number) for number in NUMBER.findall(text)]
    known = [number for number in found if number in FULL | FAILING | {errno.ENOMEM}]
    if known:
        return known[-1]
    return next((number for words, number in WORDS.items() if words in text), None)


def _of_number(number: int | None, name: str | bytes | int | None) -> AppError | None:
    if number == errno.ENOMEM:
        return _no_memory()
    if number in FULL:
        return disk_full(name, os.strerror(number or 0))
    if number in FAILING:
        where = os.fsdecode(name) if isinstance(name, str | bytes) else "a file"
        return InputOutputError(f"{where}: {os.strerror(number or 0)}", fix=DISK)
    return None


def _no_memory() -> AppError:
    return TemporaryError("there was not enough memory", fix=MEMORY)


def _free(name: str) -> str:
    """Say which disk is full, and what is left of it."""
    path = Path(name).absolute()
    folder = next((parent for parent in path.parents if parent.is_dir()), Path("/"))
    mount = next((p for p in (folder, *folder.parents) if os.path.ismount(p)), folder)
    disk = os.statvfs(folder)
    free, files = disk.f_bavail * disk.f_frsize, disk.f_favail
    return f" (the disk at {mount} has {free / MIB:.1f} MiB and {files} files left)"
