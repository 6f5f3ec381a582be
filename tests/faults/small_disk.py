"""A disk that can be filled: a tmpfs of some megabytes, mounted for one test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

MIB = 2**20
BALLAST = ".ballast"


class SmallDisk:
    """A mounted disk, and a file that takes the room on it."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def free(self) -> int:
        return shutil.disk_usage(self.root).free

    def fill(self, left: int = 0) -> None:
        """Take all room but so many bytes, as somebody else on the same disk may."""
        self.clear()
        with (self.root / BALLAST).open("wb") as file:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, self.free() - left))
            while self.free() > left:  # what rounding to pages left
                try:
                    file.seek(0, os.SEEK_END)
                    file.write(b"\1" * min(4096, self.free()))
                    file.flush()
                except OSError:
                    break

    def clear(self) -> None:
        """Give the room back."""
        (self.root / BALLAST).unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(root: Path, n_bytes: int):
    """Mount a disk; skip the test where that may not be done."""
    root.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(root)]
    if subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("no disk can be mounted here: it takes root")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
