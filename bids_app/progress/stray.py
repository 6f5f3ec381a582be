"""What libraries print past Python's logging, kept off the screen and handed on line by line.

While a live view stands on the screen nobody else may write there, C libraries and worker processes
included. So standard output and error of this process lead into a file in memory meanwhile. A pipe
would hold up whoever writes much while nobody can read.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Final, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Stray"]

BLOCK: Final = 2**16


class Stray:
    """Takes standard output and error away from the terminal until the end of the block."""

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}
        self._file = -1
        self._read = 0
        self._rest = b""

    def __enter__(self) -> Self:
        sys.stdout.flush()
        sys.stderr.flush()
        self._file = _new_file()
        # Each writer writes at the end, wherever another one has got to.
        fcntl.fcntl(self._file, fcntl.F_SETFL, fcntl.fcntl(self._file, fcntl.F_GETFL) | os.O_APPEND)
        for fd in (1, 2):
            if os.isatty(fd):
                self._kept[fd] = os.dup(fd)
                os.dup2(self._file, fd)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            for fd, kept in self._kept.items():
                os.dup2(kept, fd)
                os.close(kept)
            self._kept.clear()

    def close(self) -> None:
        """Give the file up, after the last line was taken."""
        os.close(self._file)

    def screen(self) -> TextIO:
        """Open the terminal itself, for the only one that may write there."""
        encoding = sys.stderr.encoding or "utf-8"
        return os.fdopen(os.dup(self._kept[2]), "w", encoding=encoding, errors="replace")

    def lines(self, *, last: bool = False) -> Iterator[str]:
        """Take the lines that came since the last time.

        Parameters
        ----------
        last : bool
            Also what was written of a line that is not ended.
        """
        while block := os.pread(self._file, BLOCK, self._read):
            self._read += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                yield _text(line)
        if last and self._rest:
            yield _text(self._rest)
            self._rest = b""


def _new_file() -> int:
    """Open a file that only this process and its children know."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("neurostorm-app", os.MFD_CLOEXEC)
    fd, path = tempfile.mkstemp(prefix="neurostorm-app-")
    os.unlink(path)  # noqa: PTH108  it lives as long as it is open
    return fd


def _text(line: bytes) -> str:
    """Take of a bar that redraws itself what it showed last."""
    return line.decode("utf-8", errors="replace").rstrip("\r").rpartition("\r")[2]
