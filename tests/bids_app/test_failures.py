"""Foreign exceptions as errors of the house, and the code of several failures."""

from __future__ import annotations

import errno
import gzip
import logging
import zlib

import pytest

from neurostorm_app.bids_app.failures import as_app_error, worst
from neurostorm_app.bids_app.logs import to_file
from neurostorm_app.errors import AppError, DataError, ExitCode


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 75, "interrupted"),
        (MemoryError(), 75, "there was not enough memory"),
        (EOFError("end"), 65, "a compressed file is damaged or ends too early"),
        (zlib.error("bad"), 65, "a compressed file is damaged"),
        (gzip.BadGzipFile("bad"), 65, "a compressed file is damaged"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 73, "/x: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 73, "/x: Read-only"),
        (OSError(errno.ENOSPC, "No space left on device"), 73, "a file: No space left"),
        (OSError(errno.EIO, "Input/output error", "/x"), 74, "/x: Input/output error"),
        (ValueError("odd"), 1, "unexpected ValueError: odd"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_exception_has_a_code_and_a_way_out(error, code, words):
    told = as_app_error(error)
    assert told.exit_code == code
    assert words in told.what
    assert told.fix


def test_our_own_errors_stay_as_they_are():
    error = DataError("what", fix="fix")
    assert as_app_error(error) is error


def test_the_traceback_of_a_defect_is_in_the_log(tmp_path):
    with to_file(tmp_path / "logs") as path:
        as_app_error(ZeroDivisionError("division by zero"))
    assert "ZeroDivisionError" in path.read_text()


def test_a_log_is_closed_after_the_call(tmp_path):
    app = logging.getLogger("neurostorm_app")
    before = list(app.handlers)
    with to_file(tmp_path):
        assert len(app.handlers) == len(before) + 1
    assert app.handlers == before


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([75], 75), ([75, 65], 65), ([65, 66], 66), ([18, 65, 1], 1), ([73, 66], 73)],
)
def test_the_worst_code_stands_for_all(codes, expected):
    assert worst(map(ExitCode, codes)) == expected


def test_every_code_has_its_place():
    for code in ExitCode:
        assert worst([code]) == code


def test_an_error_without_errno_is_unexpected():
    assert type(as_app_error(OSError("odd"))) is AppError
