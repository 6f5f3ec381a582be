"""Any exception as an error of the house: the one place where foreign exceptions are read."""

from __future__ import annotations

import errno
import logging
import zlib
from gzip import BadGzipFile
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import (
    AppError,
    CannotCreateError,
    CorruptImageError,
    ExitCode,
    InputOutputError,
    TemporaryError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["as_app_error", "worst"]

log = logging.getLogger(__name__)

NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
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
    if isinstance(error, KeyboardInterrupt):
        return TemporaryError("interrupted", fix="call again; what is finished is reused")
    if isinstance(error, MemoryError):
        return TemporaryError(
            "there was not enough memory", fix="give the job more, or set --nprocs 1 and --mem"
        )
    if isinstance(error, EOFError | zlib.error | BadGzipFile):
        return CorruptImageError(
            f"a compressed file is damaged or ends too early: {error}",
            fix="get the file again and compare its size or checksum with the source",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return _from_os(error)
    log.error("unexpected", exc_info=error)
    return AppError(
        f"unexpected {type(error).__name__}: {error}",
        fix="this is a defect: please report it with the log file in OUTPUT_DIR/logs",
    )


def _from_os(error: OSError) -> AppError:
    where = error.filename or "a file"
    if error.errno in NOT_OURS:
        return CannotCreateError(
            f"{where}: {error.strerror}", fix="check permissions and mounts of this place"
        )
    if error.errno in FULL:
        return CannotCreateError(
            f"{where}: {error.strerror}", fix="free space, or set --work-dir and OUTPUT_DIR"
        )
    return InputOutputError(
        f"{where}: {error.strerror}", fix="check the disk or the network share, then call again"
    )
