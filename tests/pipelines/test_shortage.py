"""What the machine lacked, in the words of those who met it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from neurostorm_app.errors import CannotCreateError, InputOutputError, TemporaryError
from neurostorm_app.pipelines.shortage import (
    as_shortage,
    disk_full,
    error_number,
    naming_file,
    read_shortage,
)

HDF5 = "Unable to write (file write failed: errno = 28, error message = 'No space left on device')"
NIPYPE = (
    "Exception raised while executing Node resample0.\n\nTraceback:\n"
    "\tOSError: [Errno 28] No space left on device: '/out/.work-x/bold.nii.gz'\n"
)


def system(number, name="/somewhere/file"):
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (system(errno.ENOSPC), CannotCreateError, "/somewhere/file: No space left on device (the"),
        (system(errno.EDQUOT), CannotCreateError, "quota exceeded"),
        (OSError(HDF5), CannotCreateError, "No space left on device"),
        (RuntimeError("ITK: No space left on device"), CannotCreateError, "No space left"),
        (RuntimeError(NIPYPE), CannotCreateError, "/out/.work-x/bold.nii.gz: No space left"),
        (system(errno.EIO), InputOutputError, "/somewhere/file: Input/output error"),
        (system(errno.ESTALE), InputOutputError, "Stale file handle"),
        (system(errno.ENOMEM), TemporaryError, "there was not enough memory"),
        (MemoryError(), TemporaryError, "there was not enough memory"),
        (RuntimeError("std::bad_alloc"), TemporaryError, "there was not enough memory"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, Exception) else None,
)
def test_what_was_lacking_is_told(error, kind, words):
    told = as_shortage(error)
    assert type(told) is kind
    assert words in told.what
    assert "call again" in told.fix


def test_a_cause_far_down_is_found():
    def fail():
        try:
            raise system(errno.ENOSPC)
        except OSError as error:
            raise ValueError("cannot write") from error

    with pytest.raises(ValueError, match="cannot write") as caught:
        fail()
    assert isinstance(as_shortage(caught.value), CannotCreateError)


@pytest.mark.parametrize(
    "error", [ValueError("No space left"), system(errno.ENOENT), OSError("odd"), KeyError("memory")]
)
def test_other_errors_are_left_alone(error):
    assert as_shortage(error) is None


def test_the_last_number_in_a_traceback_counts():
    text = "[Errno 2] No such file\n[Errno 5] Input/output error: '/a'\n"
    assert isinstance(read_shortage(text), InputOutputError)
    assert read_shortage("[Errno 2] No such file: '/a'") is None


def test_numbers_are_read_from_words():
    assert error_number(OSError(HDF5)) == errno.ENOSPC
    assert error_number(ValueError("[Errno 28]")) is None


def test_a_full_disk_without_a_name_is_told_too():
    assert disk_full(None).what == "a file: No space left on device"


@pytest.mark.parametrize("name", [None, "/out/.part-0123-4567-x.part", b"/out/.part-0-1-x.part"])
def test_an_error_names_the_file_that_was_to_be_not_what_it_is_called_meanwhile(name):
    with pytest.raises(OSError, match="No space") as caught, naming_file(Path("/out/bold.nii")):
        raise OSError(errno.ENOSPC, "No space left", name)
    assert caught.value.filename == "/out/bold.nii"
    with pytest.raises(OSError, match="No such") as caught, naming_file(Path("/out/bold.nii")):
        raise OSError(errno.ENOENT, "No such file", "/in/t1w.nii")
    assert caught.value.filename == "/in/t1w.nii"
