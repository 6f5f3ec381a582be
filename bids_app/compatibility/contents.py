"""What rules look at inside files: JSON objects, first rows of tables, headers of images.

A file is opened once, and no more of it is read than its beginning; JSON is read whole.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from math import isinf
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.compatibility.folder import File, Folder, Series

__all__ = ["Contents", "Head", "Sheet"]

ROWS: Final = 2
"""Rows of a table that are looked at: a value that is missing in the first alone is mended."""
LINE_MAX: Final = 2**22
LINES: Final = 100
"""Lines among which the header and these rows are looked for; the others are empty."""
EMPTY: Final = frozenset(
    {"", "n/a", "na", "nan", "-nan", "null", "none", "#n/a", "#na", "<na>", "n/a n/a"}
)
"""What pandas takes for a number that is not there, in small letters."""


@dataclass(eq=False)
class Sheet:
    """The beginning of a table.

    Parameters
    ----------
    columns : tuple of str
        Names of the header.
    rows : tuple of tuple of str
        At most two.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @cached_property
    def words(self) -> frozenset[str]:
        """Columns that hold something that is neither a number nor empty."""
        return frozenset(
            name
            for name, cells in self._cells()
            if not all(_is_empty(cell) or _is_number(cell) for cell in cells)
        )

    @cached_property
    def infinite(self) -> frozenset[str]:
        """Columns that hold an infinite number."""
        return frozenset(
            name
            for name, cells in self._cells()
            if any(_is_number(cell) and isinf(float(cell)) for cell in cells)
        )

    @cached_property
    def lost(self) -> frozenset[str]:
        """Columns without a number in any row that is looked at: the next row cannot mend it."""
        return frozenset(name for name, cells in self._cells() if all(map(_is_empty, cells)))

    def _cells(self) -> Iterator[tuple[str, list[str]]]:
        """Go through the columns; a cell that a short row lacks is empty."""
        for i, name in enumerate(self.columns):
            yield name, [row[i] if i < len(row) else "" for row in self.rows]


@dataclass(frozen=True, slots=True)
class Head:
    """What the header of an image says.

    Parameters
    ----------
    shape : tuple of int
        Voxels along each axis, then volumes.
    """

    shape: tuple[int, ...]


@dataclass(eq=False)
class Contents:
    """Reads the files of a folder, each once.

    Parameters
    ----------
    folder : Folder
        Whose files they are.
    """

    folder: Folder
    _objects: dict[str, dict[str, Any] | str] = field(default_factory=dict, repr=False)
    _sheets: dict[str, Sheet | str] = field(default_factory=dict, repr=False)
    _heads: dict[str, Head | str] = field(default_factory=dict, repr=False)

    def read(self, path: str) -> dict[str, Any] | str:
        """Read a JSON object, or say what is wrong with the file."""
        if path not in self._objects:
            try:
                self._objects[path] = read_object(self.folder.root / path)
            except AppError as error:
                self._objects[path] = _reason(error, path)
        return self._objects[path]

    def sheet(self, path: str) -> Sheet | str:
        """Read the header and the first rows of a table, or say what is wrong with the file."""
        if path not in self._sheets:
            self._sheets[path] = _read_sheet(self.folder.root / path)
        return self._sheets[path]

    def head(self, path: str) -> Head | str:
        """Read the header of an image, or say what is wrong with the file."""
        if path not in self._heads:
            self._heads[path] = _read_head(self.folder.root / path, path)
        return self._heads[path]

    def metadata(self, series: Series, key: str) -> object:
        """Look up a key of a series with inheritance, the nearer file first; None: nowhere."""
        beside = f"{series.stem}_desc-preproc_bold.json"
        for path in (beside, *self._above(series)):
            if self.folder.find(path) is None:
                continue
            content = self.read(path)
            if isinstance(content, dict) and key in content:
                found: object = content[key]
                return found
        return None

    def _above(self, series: Series) -> list[str]:
        """Name the JSON files that a series inherits from, the nearest first."""
        place = series.stem.rpartition("/")[0]
        parts = place.split("/")
        places = ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]
        return [
            file.path
            for level in places
            for file in sorted(self.folder.files.get(level, ()), key=_nearest)
            if file.extension == ".json" and _applies(file, series.entities)
        ]


def _nearest(file: File) -> int:
    return -len(file.entities)


def _applies(file: File, entities: Mapping[str, str]) -> bool:
    return file.suffix == "bold" and file.entities.items() <= entities.items()


def _reason(error: AppError, path: str) -> str:
    """Take the path off the front of a message, which names it anyway."""
    words = error.what.partition(path)[2] or error.what
    return words.strip(" :'")


def _read_sheet(path: Path) -> Sheet | str:
    """Read the first rows as pandas does: without a mark of byte order, quotes and empty lines."""
    try:
        with path.open("rb") as file:
            lines = islice(iter(partial(file.readline, LINE_MAX), b""), LINES)
            kept = list(islice((line for line in lines if line.strip(b" \r\n")), 1 + ROWS))
        text = [line.decode("utf-8-sig").rstrip("\r\n") for line in kept]
        header, *rows = csv.reader(text, delimiter="\t")
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, csv.Error):
        return "is empty"
    return Sheet(tuple(header), tuple(map(tuple, rows)))


def _is_empty(cell: str) -> bool:
    return cell.strip().lower() in EMPTY


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_head(path: Path, name: str) -> Head | str:
    from neurostorm_app.pipelines.image import open_image

    try:
        image = open_image(path)
    except AppError as error:
        return _reason(error, name)
    return Head(tuple(int(n) for n in image.shape))
