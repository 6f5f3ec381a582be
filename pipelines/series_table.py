"""Files of parcel series that somebody has extracted: tables, and arrays of numpy.

A table has one row a volume and one column a parcel, as XCP-D writes it and we do; an array is
(T, V), volumes by parcels.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.parcellate import Parcels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["EXTENSIONS", "read_series"]

EXTENSIONS: Final = (".tsv", ".npy", ".npz")
LARGEST: Final = 2**31
"""Bytes that the arrays of one file may unpack to; 2,000 volumes of 1,000 parcels have 16 MB."""
NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][+-]?[0-9]+)?")
"""A value of a series; whole numbers may be labels."""
FLAT: Final = 1e-7
"""A parcel whose standard deviation is a smaller share of its mean does not vary: rounding does."""


def read_series(path: Path) -> tuple[Parcels, tuple[str, ...]]:
    """Read the series of the parcels of a run.

    Parameters
    ----------
    path : Path
        ``.tsv`` with a header and ``n/a`` where there is no value, or ``.npy``, or ``.npz`` with
        one array; arrays are of floating-point numbers, (T, V).

    Returns
    -------
    parcels : Parcels
        (V, T). A parcel without any value, or that does not vary, is missing: its row is NaN.
        Labels are those of the header where all are whole numbers, else 1 to V. How much of a
        parcel was covered is not known.
    names : tuple of str
        Of the columns; empty for an array.

    Raises
    ------
    DataError
        If the file is no such table, a value is infinite or lacks in some volumes only, or no
        parcel varies.
    """
    values, names = _read_table(path) if path.suffix == ".tsv" else (_read_array(path), ())
    if values.ndim != 2 or values.shape[0] < 3 or values.shape[1] < 2:
        raise DataError(
            f"{path}: its numbers have the shape {values.shape}; expected (volumes, parcels), at "
            "least 3 and 2",
            fix="give one row a volume and one column a parcel",
        )
    _check_values(path, values, names)
    series = values.T.astype(np.float64)
    mean, spread = np.abs(series.mean(axis=1)), series.std(axis=1)
    series[np.isfinite(mean) & (spread <= FLAT * mean)] = np.nan
    if np.isnan(series).any(axis=1).all():
        raise DataError(
            f"{path}: none of its {len(series)} parcels varies over its {series.shape[1]} volumes",
            fix="check that this is a series of parcels, and not one volume repeated",
        )
    parcels = Parcels(
        series=series, labels=_labels(names, len(series)), coverage=np.full(len(series), math.nan)
    )
    return parcels, names


def _read_table(path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig") as file:
            names = tuple(file.readline().rstrip("\r\n").split("\t"))
        _check_header(path, names)
        table = pd.read_csv(
            path,
            sep="\t",
            na_values=["n/a", "nan", "NaN", ""],
            keep_default_na=False,
            dtype=np.float64,
        )
    except DataError:
        raise
    except ValueError as error:
        raise _unusable(path, str(error)) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for row names
        raise _unusable(path, f"its rows have more cells than its header, which has {len(names)}")
    return table.to_numpy(), names


def _check_header(path: Path, names: tuple[str, ...]) -> None:
    """Refuse a header whose columns have no names of their own: one may not be a parcel's."""
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _unusable(path, f"the column {twice!r} stands in it twice")
    if "" in names:
        raise _unusable(path, f"column {names.index('') + 1} has no name, as row numbers have none")
    if any(NUMBER.fullmatch(name) for name in names):
        raise _unusable(path, f"its first row holds numbers, such as {names[0]!r}, and no names")


def _read_array(path: Path) -> NDArray[Any]:
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = _read_only_array(path)
    except DataError:
        raise
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _unusable(path, str(error)) from error
    if array.dtype.kind != "f":
        raise _unusable(path, f"its values are {array.dtype}, not floating-point numbers")
    return np.asarray(array)


def _read_only_array(path: Path) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) != 1 or sum(entry.file_size for entry in entries) > LARGEST:
        raise _unusable(
            path,
            f"it holds {len(entries)} arrays of {sum(entry.file_size for entry in entries)} bytes; "
            f"expected one of at most {LARGEST}",
        )
    with np.load(path, allow_pickle=False) as archive:
        only: NDArray[Any] = archive[archive.files[0]]
    return only


def _check_values(path: Path, values: NDArray[Any], names: tuple[str, ...]) -> None:
    lacking = np.isnan(values)
    some = lacking.any(axis=0) & ~lacking.all(axis=0)
    if some.any():
        first = int(np.flatnonzero(some)[0])
        what = f"{names[first]!r}" if names else f"number {first + 1}"
        raise DataError(
            f"{path}: {int(some.sum())} parcels lack a value in some volumes only, the first is "
            f"{what}, in {int(lacking[:, first].sum())} of {len(values)}",
            fix="leave those volumes out or fill them; a parcel without coverage is n/a throughout",
        )
    if np.isinf(values).any():
        raise DataError(
            f"{path}: {int(np.isinf(values).sum())} values are infinite",
            fix="look at how the series was extracted",
        )


def _labels(names: tuple[str, ...], n_parcels: int) -> NDArray[np.int64]:
    if names and all(name.isdecimal() and len(name) < 10 for name in names):
        return np.array([int(name) for name in names], dtype=np.int64)
    return np.arange(1, n_parcels + 1, dtype=np.int64)


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: cannot be read as the series of parcels: {why}",
        fix="give a .tsv with one row a volume and one column a parcel, or a .npy or .npz with one "
        "array of floating-point numbers, (volumes, parcels)",
    )
