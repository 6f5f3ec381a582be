"""One run in the cache of training: a header that is checked, places of voxels, and values.

The values of a volume lie together, and volumes follow one another, so that a window is one piece
of the file. The operating system keeps in memory what is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.errors import DataError, NoInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["CachedRun", "open_cached", "write_cached"]

MAGIC: Final = b"NSWINDOW"
BEGIN: Final = len(MAGIC) + 8 + 32
"""Bytes before the header: the magic, the header's length and its SHA-256."""
LINE: Final = 64
"""Arrays begin at a multiple of so many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRun:
    """A run in the cache; its values stay on disk.

    Parameters
    ----------
    path : Path
        The file.
    key : str
        Hash of what went into it.
    shape : tuple of int
        (X, Y, Z) or (V,).
    n_volumes, n_values : int
        Volumes, and values of each that are kept.
    dtype : str
        Of the values on disk.
    background : float
        Value outside the brain.
    places_at, values_at : int
        Bytes before the arrays.
    xyz : ndarray, shape (V, 3), float32, or None
        Where parcels are, MNI mm, where the network is told.
    source : StandardSeries, optional
        The run it was made of, where the caller knows; it is not in the file.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    n_volumes: int
    n_values: int
    dtype: str
    background: float
    places_at: int
    values_at: int
    xyz: NDArray[np.float32] | None = None
    source: StandardSeries | None = None

    def window(self, start: int, length: int) -> NDArray[np.float32]:
        """Cut a window.

        Parameters
        ----------
        start, length : int
            First volume and number of volumes.

        Returns
        -------
        ndarray, shape (1, X, Y, Z, L) or (V, L), float32
            What embedding is given of the same volumes; the caller may keep it.

        Raises
        ------
        DataError
            If the run has no such volumes.
        """
        if not 0 <= start <= self.n_volumes - length:
            raise DataError(
                f"{self.path}: has {self.n_volumes} volumes; {start} to {start + length} were "
                "asked for",
                fix="this is a defect of the sampling: please report it",
            )
        file = np.memmap(self.path, dtype=np.uint8, mode="r")
        dtype = np.dtype(self.dtype)
        offset = self.values_at + start * self.n_values * dtype.itemsize
        values = np.frombuffer(file, dtype, length * self.n_values, offset)
        values = values.reshape(length, self.n_values)
        if len(self.shape) == 1:
            return values.T.astype(np.float32, order="C")
        places = np.frombuffer(file, np.int32, self.n_values, self.places_at)
        index = places.astype(np.intp)  # which indexing would do for each volume anew
        painted = np.empty((length, int(np.prod(self.shape))), dtype=np.float32)
        for volume, row in zip(painted, values, strict=True):
            volume.fill(self.background)  # one by one: a volume stays in the processor's cache
            volume[index] = row.astype(np.float32, copy=False)
        # Volumes lie one after the other in memory: to interleave them takes ten times longer.
        return np.moveaxis(painted.reshape(length, *self.shape), 0, -1)[np.newaxis]


def open_cached(path: Path) -> CachedRun:
    """Open a file of the cache; its header must be whole, and its size as the header says.

    Parameters
    ----------
    path : Path
        Made by `build_cache`.

    Raises
    ------
    NoInputError
        If it is not there.
    DataError
        If it is cut short or damaged.
    """
    if not path.is_file():
        raise NoInputError(f"{path}: is not in the cache", fix="build the cache")
    with path.open("rb") as file:
        begin = file.read(BEGIN)
        length = int.from_bytes(begin[len(MAGIC) : len(MAGIC) + 8], "little")
        text = file.read(min(length, 1 << 24))
    if begin[: len(MAGIC)] != MAGIC or hashlib.sha256(text).digest() != begin[len(MAGIC) + 8 :]:
        raise DataError(
            f"{path}: its header is damaged, or it is no file of the cache", fix="remove it"
        )
    header = json.loads(text)
    xyz = header.pop("xyz")
    size = header.pop("size")
    if path.stat().st_size != size:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes; its header says {size}", fix="remove it"
        )
    header["shape"] = tuple(header["shape"])
    places = None if xyz is None else np.asarray(xyz, dtype=np.float32)
    return CachedRun(path=path, xyz=places, **header)


def write_cached(
    path: Path,
    header: dict[str, Any],
    places: NDArray[np.int32],
    rows: Iterable[NDArray[np.float32]],
) -> None:
    """Write a run aside, and give the file its name when it is whole.

    Parameters
    ----------
    path : Path
        The file.
    header : dict
        ``key``, ``shape``, ``n_volumes``, ``n_values``, ``dtype``, ``background`` and ``xyz`` of
        `CachedRun`.
    places : ndarray, shape (n,), int32
        Voxels that are kept, counted in C order; empty for parcels.
    rows : iterable of ndarray, shape (n,), float32
        One a volume.
    """
    dtype = np.dtype(header["dtype"])
    n_values = header["n_volumes"] * header["n_values"]
    header |= {"places_at": 0, "values_at": 0, "size": 0}
    # The numbers that are not known yet take at most so many digits more.
    places_at = _up(BEGIN + len(json.dumps(header).encode()) + 60)
    values_at = _up(places_at + places.nbytes)
    size = values_at + n_values * dtype.itemsize
    header |= {"places_at": places_at, "values_at": values_at, "size": size}
    text = json.dumps(header).encode()
    begin = MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + text
    handle, aside = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(begin.ljust(places_at, b"\0"))
            file.write(places.tobytes().ljust(values_at - places_at, b"\0"))
            for row in rows:
                file.write(row.astype(dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _up(n: int) -> int:
    return -(-n // LINE) * LINE
