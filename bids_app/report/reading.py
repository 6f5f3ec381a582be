"""Small files of the output tree: JSON, tables of text, tables of vectors.

A file that is not there is normal and reads as nothing; a damaged one is an error that
names it.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.errors import AppError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Table", "expecting", "finite", "numbers", "read_json", "read_table", "read_vectors"]

Table = dict[str, list[str]]
"""Column to its cells, as text."""

_DIMENSION = re.compile(r"^dim\d+$")
_LARGEST: Final = 2**24
"""Bytes of a JSON file above which it is none of ours."""
_DAMAGE: Final = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    zlib.error,
)
"""What is raised where a file holds something else than what is taken from it."""
_REMEDY = "delete it and run the app again with the same options: it makes what is missing"


@contextmanager
def expecting(what: str, path: Path) -> Iterator[None]:
    """Take something from what a file holds; where that is not there, name the file.

    Parameters
    ----------
    what : str
        What is to be read.
    path : Path
        The file.

    Raises
    ------
    DataError
        If the file holds something else.
    """
    try:
        yield
    except AppError:
        raise
    except _DAMAGE as broken:
        why = f"{type(broken).__name__}: {broken}"
        raise DataError(f"{path}: no {what} can be read ({why})", fix=_REMEDY) from broken


def read_json(path: Path | None) -> dict[str, Any]:
    """Read a JSON object; empty if the file is not there.

    Raises
    ------
    DataError
        If the file is there and holds no JSON object, or is larger than 16 MiB.
    """
    if path is None or not path.is_file():
        return {}
    if (size := path.stat().st_size) > _LARGEST:
        raise DataError(
            f"{path}: {size} bytes; a file of this kind has at most {_LARGEST}", fix=_REMEDY
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as broken:
        raise DataError(f"{path}: not readable as JSON ({broken})", fix=_REMEDY) from broken
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: holds a {type(content).__name__} where an object was expected", fix=_REMEDY
        )
    return content


def finite(value: object) -> float | None:
    """Take a number that says something; None for anything else, as JSON can hold NaN and infinity.

    Examples
    --------
    >>> finite(3), finite(float("nan")), finite(True), finite("3")
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return None
    return number if math.isfinite(number) else None


def read_table(path: Path | None) -> Table:
    """Read a tab-separated table; empty if the file is not there.

    Raises
    ------
    DataError
        If the file is no text in UTF-8, or a row has more or fewer cells than the header.
    """
    if path is None or not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)) or [[]]
    except (OSError, ValueError, csv.Error) as broken:
        raise DataError(f"{path}: not readable as a table ({broken})", fix=_REMEDY) from broken
    for i, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {i + 2} has {len(row)} cells; the header has {len(header)}",
                fix=_REMEDY,
            )
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def numbers(table: Mapping[str, list[str]], name: str) -> NDArray[np.float64] | None:
    """Take a column as numbers.

    Returns
    -------
    ndarray, shape (n_rows,), or None
        NaN where a cell is no number, such as ``n/a``; None if there is no such column.
    """
    if name not in table:
        return None
    return np.array([_number(cell) for cell in table[name]], dtype=np.float64)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def read_vectors(path: Path | None) -> tuple[Table, NDArray[np.float32]]:
    """Read a table of embeddings.

    Returns
    -------
    labels : dict
        The columns that are no dimension of the vectors.
    vectors : ndarray of float32, shape (n_rows, D)
        The columns ``dim000`` and so on, in the order of the file; none if there is no file.

    Raises
    ------
    DataError
        As `read_table`, or if a cell of a vector is no number.
    """
    table = read_table(path)
    names = [name for name in table if _DIMENSION.match(name)]
    labels = {name: cells for name, cells in table.items() if not _DIMENSION.match(name)}
    if not names:
        return labels, np.zeros((0, 0), dtype=np.float32)
    try:
        rows = np.array([table[name] for name in names], dtype=object).astype(np.float32)
    except ValueError as broken:
        raise DataError(
            f"{path}: a cell of a vector is no number ({broken})", fix=_REMEDY
        ) from broken
    return labels, rows.T
