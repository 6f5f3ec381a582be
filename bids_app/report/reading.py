"""Small files of the output tree: JSON, tables of text, tables of vectors.

A file that is not there is normal and reads as nothing; a damaged one is an error that
names it.
"""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Table", "numbers", "read_json", "read_table", "read_vectors"]

Table = dict[str, list[str]]
"""Column to its cells, as text."""

_DIMENSION = re.compile(r"^dim\d+$")
_REMEDY = "delete it and run the app again with the same options: it makes what is missing"


def read_json(path: Path | None) -> dict[str, Any]:
    """Read a JSON object; empty if the file is not there.

    Raises
    ------
    DataError
        If the file is there and holds no JSON object.
    """
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as broken:
        raise DataError(f"{path}: not readable as JSON ({broken})", fix=_REMEDY) from broken
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: holds a {type(content).__name__} where an object was expected", fix=_REMEDY
        )
    return content


def read_table(path: Path | None) -> Table:
    """Read a tab-separated table; empty if the file is not there.

    Raises
    ------
    DataError
        If a row has more or fewer cells than the header.
    """
    if path is None or not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)) or [[]]
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
    """
    table = read_table(path)
    names = [name for name in table if _DIMENSION.match(name)]
    labels = {name: cells for name, cells in table.items() if not _DIMENSION.match(name)}
    if not names:
        return labels, np.zeros((0, 0), dtype=np.float32)
    return labels, np.array([table[name] for name in names], dtype=object).astype(np.float32).T
