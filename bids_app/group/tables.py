"""Tables of people: participants.tsv, phenotype/*.tsv and sessions.tsv, found and read.

Tables come from everywhere: a mark at the start of the file, Windows' line ends and Latin-1 are
read as what they mean. What would have to be guessed, such as two rows of one participant, is
refused with the file and the line.
"""

from __future__ import annotations

import codecs
import csv
import logging
from contextlib import closing
from dataclasses import dataclass
from itertools import filterfalse
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.group.keys import rows_are
from neurostorm_app.bids_app.group.phenotype_files import is_prediction
from neurostorm_app.bids_app.inputs.sidecars import read_object, read_sidecar
from neurostorm_app.bids_app.words.values import LABEL
from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.group.keys import Key, RowIs

__all__ = ["MISSING", "Column", "TableFile", "find_tables", "is_missing", "read_column"]

log = logging.getLogger(__name__)

MISSING: Final = frozenset({"", "n/a", "na", "nan", "null"})
"""Words for a missing value, in small letters."""
IDS: Final = frozenset({"participant_id", "session_id"})
BYTES_MAX, ROWS_MAX, BLOCK = 2**30, 2**22, 2**16
NARROW: Final = "write the columns that are asked for into a table of their own"
LINE_MAX: Final = 2**20
"""Letters of a line: a table of 50,000 columns has lines of half as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """A table of which only the header has been read.

    Parameters
    ----------
    stem : str
        ``participants``, ``sessions``, or the name of a table of phenotype/.
    paths : tuple of Path
        The file; for sessions one of each participant; none of the names of the runs.
    columns : tuple of str
        Names of the columns, without those of participants and sessions.
    root : Path
        The dataset.
    """

    stem: str
    paths: tuple[Path, ...]
    columns: tuple[str, ...]
    root: Path

    @property
    def shown(self) -> str:
        """The file as a user would name it."""
        if not self.paths:
            return "the names of the runs"
        first, *others = self.paths
        return f"{first} and {len(others)} more" if others else str(first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name : str
        Its name.
    table : TableFile
        Where it stands.
    cells : dict
        Text by the key of a row; a missing value is an empty text.
    about : dict
        What the table's JSON says of it.
    """

    name: str
    table: TableFile
    cells: dict[Key, str]
    about: dict[str, Any]

    @property
    def row_is(self) -> RowIs:
        """What a row is."""
        return rows_are(self.cells)


def is_missing(cell: str) -> bool:
    """Tell whether a cell says that there is no value.

    Examples
    --------
    >>> [is_missing(cell) for cell in ("n/a", "NaN", " ", "0", "none")]
    [True, True, True, False, False]
    """
    return cell.strip().lower() in MISSING


def find_tables(
    roots: Sequence[Path], participants: Iterable[str], *, given: Path | None = None
) -> list[TableFile]:
    """Find the tables of people, and read their headers.

    Parameters
    ----------
    roots : sequence of Path
        Datasets; of each kind of table those of the first that has it, but never predictions.
    participants : iterable of str
        Labels whose sessions.tsv are looked for.
    given : Path, optional
        Stands for participants.tsv.

    Returns
    -------
    list of TableFile
        participants.tsv, then those of phenotype/ by name, then sessions.tsv.
    """
    if given is not None:
        found = [_open_table("participants", [given], given.parent)]
    else:
        found = _first(roots, lambda root: [root / "participants.tsv"])
    found += _first(roots, _phenotypes)
    wanted = sorted(set(participants))
    for root in roots:
        places = [root / f"sub-{label}" / f"sub-{label}_sessions.tsv" for label in wanted]
        paths = [path for path in (root / "sessions.tsv", *places) if path.is_file()]
        if paths:
            found.append(_open_table("sessions", paths, root))
            break
    return found


def _phenotypes(root: Path) -> list[Path]:
    """List the tables of phenotype/ but for predictions and, told in the log, what is damaged."""
    good = []
    for path in filterfalse(is_prediction, sorted((root / "phenotype").glob("*.tsv"))):
        try:
            _read_header(path)
        except (DataError, OSError) as error:
            log.warning("%s", as_app_error(error).what)
        else:
            good.append(path)
    return good


def _first(roots: Sequence[Path], paths_in: Callable[[Path], list[Path]]) -> list[TableFile]:
    for root in roots:
        paths = [path for path in paths_in(root) if path.is_file()]
        if paths:
            return [_open_table(path.stem, [path], root) for path in paths]
    return []


def _open_table(stem: str, paths: Sequence[Path], root: Path) -> TableFile:
    names = dict.fromkeys(name for path in paths for name in _read_header(path))
    columns = tuple(name for name in names if name and name not in IDS)
    return TableFile(stem=stem, paths=tuple(paths), columns=columns, root=root)


def _read_header(path: Path) -> list[str]:
    with closing(_rows(path)) as rows:
        return next(rows, [])


def _rows(path: Path) -> Generator[list[str], None, None]:
    """Read row by row what is not blank; no more than one row is held."""
    try:
        for row in csv.reader(_lines(path), delimiter="\t"):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield cells
    except csv.Error as error:
        raise DataError(
            f"{path} is not a table of cells between tabs: {error}",
            fix="look for a stray quotation mark, or for another kind of file under this name",
        ) from error


def _lines(path: Path) -> Iterator[str]:
    if (size := path.stat().st_size) > BYTES_MAX:
        raise DataError(
            f"{path} has {size} bytes; a table of people has {BYTES_MAX} at most", fix=NARROW
        )
    encoding = _encoding_of(path)
    with path.open(encoding=encoding, errors="replace" if encoding == "utf-16" else None) as file:
        while line := file.readline(LINE_MAX + 1):
            if len(line) > LINE_MAX:
                raise DataError(
                    f"{path} has a line of more than {LINE_MAX} letters; expected fewer", fix=NARROW
                )
            yield line.replace("\0", "")


def _encoding_of(path: Path) -> str:
    """Tell UTF-8, with or without a mark, UTF-16 with one, or else Latin-1."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        block = file.read(BLOCK)
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        try:
            while block:
                decoder.decode(block)
                block = file.read(BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


def read_column(table: TableFile, name: str) -> Column:
    """Read one column of a table.

    Parameters
    ----------
    table : TableFile
        From `find_tables`.
    name : str
        One of its columns.

    Raises
    ------
    DataError
        If a row has too many or too few cells, names no participant, or names one twice.
    """
    cells: dict[Key, str] = {}
    for path in table.paths:
        for key, cell in _read_cells(path, name):
            if len(cells) == ROWS_MAX:
                raise DataError(
                    f"{path} has more than {ROWS_MAX} rows of people; expected one each",
                    fix="look whether this is a table of people at all",
                )
            if key in cells:
                who = f"sub-{key[0]}" + (f" ses-{key[1]}" if key[1] else "")
                raise DataError(
                    f"{path} has more than one row of {who}; {name!r} would be ambiguous",
                    fix="leave one row of each participant (and session) in the table",
                )
            cells[key] = "" if is_missing(cell) else cell
    return Column(name=name, table=table, cells=cells, about=_about(table, name))


def _about(table: TableFile, name: str) -> dict[str, Any]:
    """Read what the data dictionary says of a column."""
    path = table.paths[0]
    if table.stem == "sessions" and path.parent.name.startswith("sub-"):
        found = read_sidecar(path, table.root).get(name, {})
    else:
        beside = path.with_suffix(".json")
        found = read_object(beside).get(name, {}) if beside.is_file() else {}
    return found if isinstance(found, dict) else {}


def _read_cells(path: Path, name: str) -> Iterator[tuple[Key, str]]:
    rows = _rows(path)
    header = next(rows, [])
    own = path.parent.name if path.name.endswith("_sessions.tsv") else None
    first = "participant_id" if own is None else "session_id"
    if first not in header or header.count(name) > 1:
        raise DataError(
            f"{path} has no column {first}, or {name!r} twice; its columns are {header[:9]}",
            fix="separate columns by tabs, and give each a name of its own",
        )
    if name not in header:
        return
    places = {column: header.index(column) for column in (name, *IDS) if column in header}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(row)} cells, the header has {len(header)}",
                fix="write n/a where a value is missing, and look for a stray quotation mark",
            )
        cells = {column: row[place] for column, place in places.items()}
        session = cells.get("session_id", "")
        participant = _label(own or cells["participant_id"], "sub-", path, number)
        key = participant, None if is_missing(session) else _label(session, "ses-", path, number)
        yield key, cells[name]


def _label(text: str, prefix: str, path: Path, number: int) -> str:
    bare = text.removeprefix(prefix)
    if not LABEL.fullmatch(bare):
        raise DataError(
            f"{path}, line {number}: {text!r} is not a BIDS label of a participant or session",
            fix=f"write {prefix} and letters, digits and + behind it",
        )
    return bare
