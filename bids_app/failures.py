"""Any exception as an error of the house: the one place where foreign exceptions are read."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import zlib
from concurrent.futures import BrokenExecutor
from gzip import BadGzipFile
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.signals import Stopped
from neurostorm_app.errors import (
    AppError,
    CannotCreateError,
    CorruptImageError,
    DataError,
    ExitCode,
    InputOutputError,
    NoInputError,
    TemporaryError,
)
from neurostorm_app.pipelines.shortage import FULL, as_shortage, disk_full, error_number

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["as_app_error", "worst"]

log = logging.getLogger(__name__)

NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
DISK: Final = "check the disk or the network share, then call again"
LINKS: Final = "check links and mounts; of a DataLad dataset, run: datalad get on this file"
FILES: Final = "raise the limit of open files (ulimit -n), or use a smaller --nprocs"
OTHERS: Final[dict[int, tuple[type[AppError], str]]] = {
    errno.ENOENT: (NoInputError, LINKS),
    errno.ENOTDIR: (InputOutputError, LINKS),
    errno.ELOOP: (NoInputError, LINKS),
    errno.ENAMETOOLONG: (CannotCreateError, "choose a shorter OUTPUT_DIR or --work-dir"),
    errno.EMFILE: (TemporaryError, FILES),
    errno.ENFILE: (TemporaryError, FILES),
}
"""What other numbers mean, and what to do; the rest is a disk that fails."""
KILLED: Final = frozenset({-9, 128 + 9})
"""Exit status of a program that the kernel killed, and what a shell makes of it."""
SEVERITY: Final = (
    ExitCode.FAILURE,
    ExitCode.INPUT_OUTPUT,
    ExitCode.CANNOT_CREATE,
    ExitCode.USAGE,
    ExitCode.ARGUMENTS_AND_INVOCATION,
    ExitCode.UNKNOWN_LEVEL,
    ExitCode.INVALID_BIDS,
    ExitCode.NO_INPUT,
    ExitCode.DATA,
    ExitCode.NOTHING_SELECTED,
    ExitCode.TEMPORARY,
)
"""Worst first. A code that says "try again" counts only when nothing else went wrong."""


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the exit code that stands for several failures; success if there is none."""
    present = set(codes)
    return next((code for code in SEVERITY if code in present), ExitCode.SUCCESS)


def as_app_error(error: BaseException) -> AppError:
    """Say what an exception means for the user.

    Errors of the house are returned as they are. What nobody expected keeps its traceback
    in the log and asks to be reported.
    """
    if isinstance(error, AppError):
        return error
    if isinstance(error, Stopped):
        return error.told()
    if isinstance(error, KeyboardInterrupt):
        return TemporaryError("interrupted", fix="call again; what is finished is reused")
    known = _of_memory(error) or _of_data(error) or _of_machine(error)
    if known is not None:
        return known
    log.error("unexpected", exc_info=error)
    return AppError(
        f"unexpected {type(error).__name__}: {error}",
        fix="this is a defect: please report it with the log file in OUTPUT_DIR/logs",
    )


def _of_memory(error: BaseException) -> AppError | None:
    """Tell too little memory, in whichever words."""
    killed = isinstance(error, subprocess.CalledProcessError) and error.returncode in KILLED
    if killed or isinstance(error, BrokenExecutor):
        return TemporaryError(
            "a process of this call was killed, most often because its memory was used up",
            fix="call again with a smaller --nprocs, or give the job more memory and --mem",
        )
    # torch is not imported here, and its error for a full device is known by its name.
    device = type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in str(error)
    if device:
        return TemporaryError(
            f"there was not enough memory on the device: {_first_line(error)}",
            fix="call again with --batch-size 1, or --device cpu, or when the device is free",
        )
    return as_shortage(error) if isinstance(error, MemoryError) else None


def _of_data(error: BaseException) -> AppError | None:
    """Tell data that no reader could make sense of."""
    if isinstance(error, EOFError | zlib.error | BadGzipFile):
        return CorruptImageError(
            f"a compressed file is damaged or ends too early: {error}",
            fix="get the file again and compare its size or checksum with the source",
        )
    # nibabel takes long to import, and all its own errors live in its modules.
    if type(error).__module__.partition(".")[0] == "nibabel" and isinstance(error, Exception):
        return CorruptImageError(
            f"an image file cannot be read: {_first_line(error)}",
            fix="get the file again and compare its size or checksum with the source",
        )
    if isinstance(error, UnicodeDecodeError | JSONDecodeError | RecursionError):
        log.info("where a text file could not be read", exc_info=error)
        return DataError(
            f"a text file cannot be read: {_first_line(error)}",
            fix="look for a file that is not UTF-8, or is JSON with a mistake in it; the log file"
            " in OUTPUT_DIR/logs says where it was read",
        )
    return None


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0][:300]


def _of_machine(error: BaseException) -> AppError | None:
    """Tell what the operating system said, or what it must have said to a library."""
    number = error_number(error)
    if isinstance(error, OSError) and number is not None:
        return _of_system(error, number)
    shortage = as_shortage(error)
    if shortage is not None:
        log.info("where something was lacking", exc_info=error)
    return shortage


def _of_system(error: OSError, number: int) -> AppError:
    """Tell an error of the operating system by its number, and by what was being done."""
    words = error.strerror or os.strerror(number)
    said = f"{error.filename or 'a file'}: {words}"
    if number in FULL:
        return disk_full(error.filename, words)
    if number in NOT_OURS:
        if _was_read(error):
            return NoInputError(said, fix="let this user read it, or leave it out of the call")
        return CannotCreateError(said, fix="check permissions and mounts of this place")
    if number == errno.ENOMEM and (shortage := as_shortage(error)) is not None:
        return shortage
    kind, fix = OTHERS.get(number, (InputOutputError, DISK))
    return kind(said, fix=fix)


def _was_read(error: OSError) -> bool:
    """Tell whether a file that may not be used was to be read: it is there, and not readable."""
    if error.filename is None or error.filename2 is not None or error.errno == errno.EROFS:
        return False
    path = Path(os.fsdecode(error.filename))
    if not os.access(path.parent, os.X_OK):
        return True
    return os.path.lexists(path) and not os.access(path, os.R_OK)
