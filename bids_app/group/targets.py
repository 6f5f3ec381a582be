"""What is to be predicted: a column found by its name, and read as a value or as classes.

A column is of classes if its JSON has ``Levels``, and a value if it has ``Units``. Without either,
text is classes, and so are whole numbers of at most ten kinds, each of which two people share on
average; all other numbers are a value. Numbers of a column called ``age`` always are: BIDS says so,
and a cohort of students has few of them.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from neurostorm_app.bids_app.group.tables import Column, TableFile, read_column
from neurostorm_app.errors import DataError, NoInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from neurostorm_app.bids_app.group.keys import Key, RowIs

__all__ = ["Labels", "check_target", "find_column", "label_target", "read_labels"]

log = logging.getLogger(__name__)

FEW: Final = 10
"""Whole numbers of more kinds are a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a column says of people, where it says something.

    Parameters
    ----------
    name : str
        Of the column.
    kind : str
        ``value`` or ``classes``.
    values : dict
        By the key of a row: a number, or the index of a class. Missing ones are not here.
    classes : tuple of str
        Names of the classes by index.
    unit : str or None
        Of a value.
    column : Column
        Where it was read.
    """

    name: str
    kind: Literal["value", "classes"]
    values: dict[Key, float]
    classes: tuple[str, ...]
    unit: str | None
    column: Column

    @property
    def row_is(self) -> RowIs:
        """What a row is."""
        return self.column.row_is


def find_column(asked: str, tables: Sequence[TableFile]) -> Column:
    """Find a column by its name.

    Parameters
    ----------
    asked : str
        ``NAME``, or ``FILE:NAME`` with a file's name without its ending.
    tables : sequence of TableFile
        Where to look.

    Raises
    ------
    NoInputError
        If there is no table.
    UsageError
        If no table has the column, or more than one has it.
    """
    if not tables:
        raise NoInputError(
            "there is neither participants.tsv nor phenotype/*.tsv nor sessions.tsv to find "
            f"{asked!r} in",
            fix="give the table with --participants-file",
        )
    stem, colon, name = asked.partition(":")
    having = [table for table in tables if asked in table.columns]
    if not having and colon:
        having = [table for table in tables if table.stem == stem and name in table.columns]
    if len(having) > 1:
        first, second = having[:2]
        raise UsageError(
            f"{asked!r} is a column of {first.shown} and of {second.shown}",
            fix=f"say which: {first.stem}:{asked} or {second.stem}:{asked}",
        )
    if not having:
        raise _no_column(asked, tables)
    return read_column(having[0], asked if asked in having[0].columns else name)


def _no_column(asked: str, tables: Sequence[TableFile]) -> UsageError:
    columns = list(dict.fromkeys(name for table in tables for name in table.columns))
    small = {name.lower(): name for name in reversed(columns)}
    near = difflib.get_close_matches(asked.rpartition(":")[2].lower(), list(small), n=3)
    shown = ", ".join(columns[:20]) + (" and more" if len(columns) > 20 else "")
    return UsageError(
        f"{asked!r} is no column of {', '.join(table.shown for table in tables[:5])}",
        fix=f"did you mean {' or '.join(small[word] for word in near)}?"
        if near
        else f"choose one of {shown or 'a table with columns'}",
    )


def read_labels(column: Column) -> Labels:
    """Read a column as a value or as classes.

    Raises
    ------
    DataError
        If no cell holds anything, or numbers and text are mixed. Messages end in logs, so they
        never quote a cell.
    """
    where = f"{column.name!r} of {column.table.shown}"
    cells = {key: cell for key, cell in column.cells.items() if cell}
    if not cells:
        raise DataError(
            f"{where}: all {len(column.cells)} labels are missing",
            fix="choose another column, or fill this one",
        )
    numbers = {key: _number(cell) for key, cell in cells.items()}
    text = [cell for key, cell in cells.items() if numbers[key] is None]
    said: set[str] = {"Levels", "Units"} & column.about.keys()
    if not said and column.name.lower() == "age" and len(text) < len(cells):
        said = {"Units"}
    if not text and "Levels" not in said and (said or not _are_kinds(numbers.values())):
        unit = column.about.get("Units")
        return Labels(
            name=column.name,
            kind="value",
            values={key: float(number) for key, number in numbers.items() if number is not None},
            classes=(),
            unit=unit if isinstance(unit, str) else None,
            column=column,
        )
    if said == {"Units"} or ("Levels" not in said and len(set(numbers.values())) > FEW + 1):
        raise DataError(
            f"{where}: numbers and text are mixed: {len(text)} of {len(cells)} cells are text",
            fix="write numbers in all rows or n/a, or name Levels in the JSON of the table",
        )
    return _as_classes(column, cells, whole=not text)


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in cell else None


def _are_kinds(numbers: Collection[float | None]) -> bool:
    """Tell whether numbers stand for kinds: whole, few, and shared by people."""
    different = {number for number in numbers if number is not None}
    whole = all(number == int(number) for number in different)
    return whole and len(different) <= min(FEW, len(numbers) / 2)


def _as_classes(column: Column, cells: Mapping[Key, str], *, whole: bool) -> Labels:
    # 1, 1.0 and 01 are one class where all are numbers.
    words = {key: f"{float(cell):.15g}" if whole else cell for key, cell in cells.items()}
    names = sorted(set(words.values()), key=lambda word: (float(word) if whole else 0.0, word))
    index = {name: number for number, name in enumerate(names)}
    return Labels(
        name=column.name,
        kind="classes",
        values={key: float(index[word]) for key, word in words.items()},
        classes=tuple(names),
        unit=None,
        column=column,
    )


def check_target(labels: Labels, rows: Sequence[Key]) -> None:
    """Check that something can be learnt from the rows that are left.

    Parameters
    ----------
    labels : Labels
        Of the target.
    rows : sequence of Key
        Rows with a label and with embeddings.

    Raises
    ------
    DataError
        If there are too few participants, one value only, or a class with too few of them.
    """
    from neurostorm_app.pipelines.evaluate.checks import MIN_PARTICIPANTS

    where = f"{labels.name!r} of {labels.column.table.shown}"
    people = {row[0] for row in rows}
    if len(people) < MIN_PARTICIPANTS:
        raise DataError(
            f"{where}: {len(people)} participants have a label and embeddings; an evaluation takes "
            f"at least {MIN_PARTICIPANTS}",
            fix="embed more participants, or look whether the labels of the table are theirs",
        )
    values = {labels.values[row] for row in rows}
    if len(values) == 1:
        raise DataError(
            f"{where} is constant: the same in all {len(rows)} rows that have embeddings",
            fix="choose a column in which people differ",
        )
    if labels.kind == "classes":
        _check_classes(labels, rows)


def _check_classes(labels: Labels, rows: Sequence[Key]) -> None:
    from neurostorm_app.pipelines.evaluate.checks import MIN_PER_CLASS

    where = f"{labels.name!r} of {labels.column.table.shown}"
    members = Counter(index for _, index in {(row[0], int(labels.values[row])) for row in rows})
    small = [i for i in members if members[i] < MIN_PER_CLASS]
    if small:
        # What one participant alone has may be a date of birth: messages end in logs.
        told = [f"{labels.classes[i]!r} has {members[i]}" for i in sorted(small) if members[i] > 1]
        others = len(small) - len(told[:5])
        listed = [*told[:5], *([f"{others} not named here have as few"] if others else [])]
        raise DataError(
            f"{where}: too few participants in a class: {', '.join(listed)}; an evaluation takes "
            f"at least {MIN_PER_CLASS} of each",
            fix="join small classes or write n/a for them; if it is a value and no class, write its"
            " Units into the JSON of the table",
        )


def label_target(asked: str, taken: Mapping[str, str]) -> str:
    """Make the label of a target for file names: letters and digits.

    Parameters
    ----------
    asked : str
        As asked for: ``NAME`` or ``FILE:NAME``.
    taken : mapping
        Labels of other targets by name.

    Raises
    ------
    UsageError
        If nothing is left of the name, or the label is taken.

    Examples
    --------
    >>> label_target("age_years", {}), label_target("sessions:PANAS-pos score", {})
    ('ageYears', 'PANASPosScore')
    """
    first, *others = re.findall(r"[0-9A-Za-z]+", asked.rpartition(":")[2]) or [""]
    label: str = first + "".join(word[0].upper() + word[1:] for word in others)
    if not label:
        raise UsageError(
            f"--target {asked!r}: no file can be named after it; expected letters or digits",
            fix="rename the column",
        )
    same = [name for name, other in taken.items() if other.lower() == label.lower()]
    if same:
        raise UsageError(
            f"--target {asked!r} and {same[0]!r} would both be written as {label!r}",
            fix="predict one of them, or rename a column",
        )
    return label
