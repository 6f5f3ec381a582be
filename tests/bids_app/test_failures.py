"""Foreign exceptions as errors of the house, and the code of several failures."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import os
import signal
import subprocess
import zlib
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from neurostorm_app import errors
from neurostorm_app.bids_app import failures
from neurostorm_app.bids_app.failures import as_app_error, worst
from neurostorm_app.bids_app.logs import to_file
from neurostorm_app.bids_app.signals import Stopped
from neurostorm_app.errors import AppError, DataError, ExitCode


class OutOfMemoryError(RuntimeError):
    """torch's error of this name, without torch."""


def system(number: int, name: str | None = "/x") -> OSError:
    """Make an error as the operating system does."""
    return OSError(number, os.strerror(number), name)


def killed(code: int) -> subprocess.CalledProcessError:
    return subprocess.CalledProcessError(code, ["program"])


def too_large() -> Exception:
    try:
        np.empty(2**62, dtype=np.int8)
    except MemoryError as error:
        return error
    raise AssertionError("there is that much memory")


def not_text() -> Exception:
    try:
        b"\xe9".decode()
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


def not_json(text: str) -> Exception:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "code", "words", "fix"),
    [
        (KeyboardInterrupt(), 75, "interrupted", "call again"),
        (Stopped(signal.SIGTERM), 75, "stopped by SIGTERM; finished results", "call again"),
        (MemoryError(), 75, "there was not enough memory", "--nprocs"),
        (too_large(), 75, "there was not enough memory", "--mem"),
        (system(errno.ENOMEM), 75, "there was not enough memory", "--nprocs"),
        (RuntimeError("std::bad_alloc"), 75, "there was not enough memory", "--batch-size 1"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            75,
            "there was not enough memory",
            "--batch-size 1",
        ),
        (OutOfMemoryError("CUDA"), 75, "not enough memory on the device: OutOf", "--device cpu"),
        (RuntimeError("CUDA out of memory."), 75, "not enough memory on the device", "--batch"),
        (BrokenProcessPool("died"), 75, "a process of this call was killed", "--nprocs"),
        (BrokenExecutor("died"), 75, "a process of this call was killed", "--mem"),
        (killed(-9), 75, "a process of this call was killed", "--nprocs"),
        (killed(137), 75, "a process of this call was killed", "--nprocs"),
        (killed(1), 1, "unexpected CalledProcessError", "report it"),
        (EOFError("end"), 65, "a compressed file is damaged or ends too early", "checksum"),
        (zlib.error("bad"), 65, "a compressed file is damaged", "checksum"),
        (gzip.BadGzipFile("bad"), 65, "a compressed file is damaged", "checksum"),
        (ImageFileError("no"), 65, "an image file cannot be read: ImageFileError: no", "again"),
        (HeaderDataError("no"), 65, "an image file cannot be read: HeaderDataErr", "again"),
        (not_text(), 65, "a text file cannot be read: UnicodeDecodeError", "UTF-8"),
        (not_json("{"), 65, "a text file cannot be read: JSONDecodeError", "mistake"),
        (not_json("[" * 100_000), 65, "a text file cannot be read: RecursionError", "mistake"),
        (system(errno.EROFS), 73, "/x: Read-only file system", "permissions and mounts"),
        (system(errno.EACCES, None), 73, "a file: Permission denied", "permissions"),
        (system(errno.ENOSPC, None), 73, "a file: No space left on device", "free space"),
        (system(errno.EDQUOT, None), 73, "a file: Disk quota exceeded", "raise the quota"),
        (system(errno.EFBIG, None), 73, "a file: File too large", "free space"),
        (system(errno.ENAMETOOLONG), 73, "/x: File name too long", "shorter"),
        (system(errno.EIO), 74, "/x: Input/output error", "check the disk"),
        (system(errno.ESTALE), 74, "/x: Stale file handle", "network share"),
        (system(errno.ETIMEDOUT), 74, "/x: Connection timed out", "network share"),
        (system(errno.EPIPE, None), 74, "a file: Broken pipe", "then call again"),
        (system(errno.ENOENT), 66, "/x: No such file or directory", "datalad get"),
        (system(errno.ENOTDIR), 74, "/x: Not a directory", "links and mounts"),
        (system(errno.ELOOP), 66, "/x: Too many levels of symbolic links", "links"),
        (system(errno.EMFILE), 75, "/x: Too many open files", "ulimit -n"),
        (system(errno.ENFILE), 75, "/x: Too many open files in system", "ulimit -n"),
        (ValueError("odd"), 1, "unexpected ValueError: odd", "report it"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, BaseException) else None,
)
def test_every_exception_has_a_code_and_a_way_out(error, code, words, fix):
    told = as_app_error(error)
    assert told.exit_code == code
    assert words in told.what
    assert fix in told.fix


def test_a_full_disk_is_named_with_what_is_left(tmp_path):
    told = as_app_error(system(errno.ENOSPC, str(tmp_path / "not" / "there.nii")))
    assert told.exit_code == 73
    assert f"{tmp_path}/not/there.nii: No space left on device (the disk at /" in told.what
    mount = Path(told.what.partition("the disk at ")[2].split(" has ")[0])
    assert os.path.ismount(mount)
    assert tmp_path.is_relative_to(mount)
    left = float(told.what.partition(" has ")[2].split(" MiB")[0])
    disk = os.statvfs(tmp_path)
    assert left == pytest.approx(disk.f_bavail * disk.f_frsize / 2**20, rel=0.2)
    assert "what is finished is reused" in told.fix


def test_a_full_disk_is_seen_through_a_real_write():
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there: no device that is always full")
    with pytest.raises(OSError, match="No space") as caught:
        Path("/dev/full").write_bytes(b"x")
    assert as_app_error(caught.value).exit_code == 73


@pytest.fixture
def as_somebody(monkeypatch):
    """Say what a user may do, who is root in many tests."""

    def allow(*allowed: tuple[Path, int]) -> None:
        def access(path: Path, mode: int) -> bool:
            return (Path(path), mode) in allowed

        monkeypatch.setattr(failures.os, "access", access)

    return allow


def test_a_file_that_may_not_be_read_is_no_input(tmp_path, as_somebody):
    path = tmp_path / "bold.nii"
    path.touch()
    as_somebody((tmp_path, os.X_OK))
    told = as_app_error(system(errno.EACCES, str(path)))
    assert (int(told.exit_code), told.what) == (66, f"{path}: Permission denied")
    assert "let this user read it" in told.fix


def test_a_folder_that_may_not_be_entered_is_no_input(tmp_path, as_somebody):
    as_somebody()
    assert as_app_error(system(errno.EACCES, str(tmp_path / "a" / "b"))).exit_code == 66


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_may_not_be_written_cannot_be_created(tmp_path, as_somebody, there):
    path = tmp_path / "out.tsv"
    if there:
        path.touch()
    as_somebody((tmp_path, os.X_OK), (path, os.R_OK))
    told = as_app_error(system(errno.EPERM, str(path)))
    assert (int(told.exit_code), told.what) == (73, f"{path}: Operation not permitted")


def test_a_file_that_may_not_be_renamed_cannot_be_created(tmp_path, as_somebody):
    as_somebody()
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path), None, "/other")
    assert as_app_error(error).exit_code == 73


def test_our_own_errors_stay_as_they_are():
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, AppError):
            error = kind("what", fix="fix")
            assert as_app_error(error) is error


def test_the_traceback_of_a_defect_is_in_the_log(tmp_path):
    with to_file(tmp_path / "logs") as path:
        as_app_error(ZeroDivisionError("division by zero"))
        as_app_error(not_text())
    assert "ZeroDivisionError" in path.read_text()
    assert "in not_text" in path.read_text()


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


def test_an_error_of_data_is_not_taken_for_one_of_memory():
    assert as_app_error(DataError("CUDA out of memory", fix="none")).exit_code == 65
