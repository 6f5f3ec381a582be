"""Bytes to a file as they are, or packed as gzip in several threads: the same bytes everywhere."""

from __future__ import annotations

import struct
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

__all__ = ["open_sink"]

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
"""RFC 1952: deflate, no name, no time, fastest, unknown system: the same bytes everywhere."""


class _Plain:
    """Write bytes as they are."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, block: bytes) -> None:
        self._file.write(block)


class _Gzip:
    """Write one gzip member; its blocks are deflated apart and joined, as pigz does.

    References
    ----------
    RFC 1951, section 3.2.4 (a flush ends a block at a byte); RFC 1952, section 2.3.
    """

    def __init__(self, path: Path, n_threads: int) -> None:
        self._file = path.open("wb")
        self._file.write(GZIP_HEADER)
        self._pool = ThreadPoolExecutor(n_threads)
        self._waiting: deque[Future[bytes]] = deque()
        self._limit = 2 * n_threads
        self._checksum = 0
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file, self._pool:
            while self._waiting:
                self._write_one()
            # An empty last block, then checksum and size of what went in.
            self._file.write(b"\x03\x00" + struct.pack("<II", self._checksum, self._size))

    def put(self, block: bytes) -> None:
        self._checksum = zlib.crc32(block, self._checksum)
        self._size = (self._size + len(block)) % 2**32
        self._waiting.append(self._pool.submit(_deflate, block))
        if len(self._waiting) > self._limit:
            self._write_one()

    def _write_one(self) -> None:
        self._file.write(self._waiting.popleft().result())


def _deflate(block: bytes) -> bytes:
    packer = zlib.compressobj(level=1, wbits=-15)
    return packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)


def open_sink(path: Path, n_threads: int) -> _Plain | _Gzip:
    """Open a file for writing, packed if its name ends in ``.gz``; what is put is not changed.

    Parameters
    ----------
    path : Path
        The file.
    n_threads : int
        Compressors; they do not change a byte.

    Returns
    -------
    context manager
        With ``put(bytes)``.
    """
    return _Gzip(path, n_threads) if path.suffix == ".gz" else _Plain(path)
