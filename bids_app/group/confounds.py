"""What else could explain a target: head motion of each run, and site, age and sex of people."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.bids_app.group.keys import row_key
from neurostorm_app.bids_app.group.motion import read_motion
from neurostorm_app.bids_app.group.targets import find_column, read_labels
from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.evaluate.cohort import Confound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.bids_app.group.keys import Key, RowIs
    from neurostorm_app.bids_app.group.store import Collected
    from neurostorm_app.bids_app.group.tables import Column, TableFile
    from neurostorm_app.bids_app.group.targets import Labels
    from neurostorm_app.bids_app.words.options import Prediction

__all__ = ["find_columns", "gather_confounds", "group_rows", "look_up"]

log = logging.getLogger(__name__)

USUAL: Final = ("age", "sex")
"""Columns that are confounds wherever they are there."""
NAMES: Final = frozenset({"site", "sex"})
"""Confounds whose numbers are names."""
MOTION: Final = "motion"
TOLD: Final = 5
"""Damaged tables that a note names."""


def gather_confounds(
    options: Prediction,
    collected: Sequence[Collected],
    tables: Sequence[TableFile],
    links: Mapping[str, Path],
    *,
    labels: Labels,
    keys: Sequence[Key],
) -> tuple[dict[str, Confound], tuple[str, ...]]:
    """Gather all confounds of the rows; one that explains nothing is left out.

    Parameters
    ----------
    options : Prediction
        Which columns.
    collected : sequence of Collected
        The runs of each model, for their motion.
    tables : sequence of TableFile
        Tables of people.
    links : mapping of str to Path
        Datasets by name.
    labels : Labels
        Of the target.
    keys : sequence of Key
        The rows.

    Returns
    -------
    dict
        Confounds by name.
    tuple of str
        What was left out, and why.

    Raises
    ------
    UsageError
        If a column that is asked for is not there, or no sites can be harmonised.
    DataError
        If a column that is asked for cannot be read, or motion is, and a table of it is damaged.
    """
    if "none" in options.covariates:
        return {}, ("confounds were not looked at: --covariates none",)
    motion, damaged = _motion(collected, links, keys, row_is=labels.row_is)
    notes = _tell_damaged(damaged, named=MOTION in options.covariates)
    found: dict[str, NDArray[np.float64] | tuple[str, ...] | None] = {MOTION: motion}
    for name, column in find_columns(options, tables, target=labels.column).items():
        found[name] = _values(column, keys, named=name in options.covariates, name=name)
    confounds = {}
    for name, values in found.items():
        known = 0 if values is None else _known(values)
        if values is None or (known <= len(keys) / 2 and name not in options.covariates):
            notes.append(
                f"{name} is left out of the confounds: "
                + ("it is the same in all rows, or not known" if values is None else "")
                + (f"it is known for {known} of {len(keys)} rows" if values is not None else "")
            )
            continue
        confounds[name] = Confound(name=name, values=values)
    if options.harmonise == "combat" and "site" not in confounds:
        raise UsageError(
            "--harmonise combat: there is no site, or only one, to be taken off",
            fix="name the column of the site with --site-column, or leave out --harmonise",
        )
    return confounds, tuple(notes)


def _values(
    column: Column, keys: Sequence[Key], *, named: bool, name: str
) -> NDArray[np.float64] | tuple[str, ...] | None:
    """Look up a confound; one nobody asked for and that cannot be read is left out."""
    try:
        return look_up(column, keys, names=name in NAMES)
    except DataError as error:
        if named:
            raise
        log.warning("%s is left out of the confounds: %s", name, error.what)
        return None


def _known(values: NDArray[np.float64] | tuple[str, ...]) -> int:
    return sum(bool(v) if isinstance(v, str) else not math.isnan(v) for v in values)


def _motion(
    collected: Sequence[Collected],
    links: Mapping[str, Path],
    keys: Sequence[Key],
    *,
    row_is: RowIs,
) -> tuple[NDArray[np.float64] | None, dict[Path, DataError]]:
    """Average the head motion of the runs of each row, in mm; None if it is not known at all."""
    runs: dict[str, tuple[Key, Path]] = {}
    wanted = set(keys)
    for one in collected:
        for row in one.rows:
            key = row_key(row, row_is)
            if key in wanted:
                runs.setdefault(row.run, (key, row.path))
    motion, damaged = read_motion([path for _, path in runs.values()], links)
    by_row: dict[Key, list[float]] = {}
    for key, path in runs.values():
        if not math.isnan(motion[path]):
            by_row.setdefault(key, []).append(motion[path])
    values = np.array([float(np.mean(by_row[key])) if key in by_row else np.nan for key in keys])
    return (values if np.unique(values[~np.isnan(values)]).size > 1 else None), damaged


def _tell_damaged(damaged: Mapping[Path, DataError], *, named: bool) -> list[str]:
    """Tell which tables of motion are damaged; nobody who did not ask for motion is stopped."""
    for error in damaged.values():
        if named:
            raise error
        log.warning("the motion of a run is not known: %s", error.what)
    if not damaged:
        return []
    names = sorted(table.name for table in damaged)
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    told = "motion is not known where the table of confounds is damaged: "
    return [told + ", ".join(names[:TOLD]) + more]


def find_columns(
    asked: Prediction, tables: Sequence[TableFile], *, target: Column
) -> dict[str, Column]:
    """Find the columns that may explain a target.

    Parameters
    ----------
    asked : Prediction
        Options; which columns, and how that of the site is called.
    tables : sequence of TableFile
        Tables of people.
    target : Column
        Is left out.

    Returns
    -------
    dict
        Columns by the name of the confound: ``site``, ``age``, ``sex`` and those asked for.

    Raises
    ------
    UsageError
        If a column that is asked for is not there, or is the target itself.
    """
    found: dict[str, Column] = {}
    site = asked.site_column
    if site is None:
        site = _present("site", tables)
    if site is not None:
        found["site"] = find_column(site, tables)
    for name in USUAL:
        column = _present(name, tables)
        if column is not None:
            found[name] = find_column(column, tables)
    for name in _named(asked):
        if name not in found:
            found[name] = find_column(name, tables)
    same = {name for name, column in found.items() if _same(column, target)}
    wrong = sorted(same & set(_named(asked)))
    if wrong:
        raise UsageError(
            f"--covariates {wrong[0]}: it is the target itself",
            fix="leave it out of --covariates, or predict it in a call of its own",
        )
    return {name: column for name, column in found.items() if name not in same}


def _named(asked: Prediction) -> list[str]:
    """Columns that the user names as covariates."""
    return [name for name in asked.covariates if name not in {MOTION, "none"}]


def _same(one: Column, other: Column) -> bool:
    return (one.name, one.table.paths) == (other.name, other.table.paths)


def _present(name: str, tables: Sequence[TableFile]) -> str | None:
    """Find a usual column whatever its capitals; of several tables the first has it."""
    for table in tables:
        for column in table.columns:
            if column.lower() == name:
                several = sum(column in other.columns for other in tables) > 1
                return f"{table.stem}:{column}" if several else column
    return None


def look_up(
    column: Column, rows: Sequence[Key], *, names: bool = False
) -> NDArray[np.float64] | tuple[str, ...] | None:
    """Look up a confound of each row: numbers (NaN missing) or names (empty missing).

    Parameters
    ----------
    column : Column
        A column of people or of sessions; one of people holds for all their sessions.
    rows : sequence of Key
        Participants, or sessions or runs of them.
    names : bool
        Numbers are names too, such as those of sites.

    Returns
    -------
    ndarray, tuple or None
        None if it can explain nothing: all missing, or the same in all rows.
    """
    cells = [_cell(column, row) for row in rows]
    if len(set(cells) - {""}) < 2:
        return None
    if names or read_labels(column).kind == "classes":
        return tuple(cells)
    return np.array([float(cell) if cell else math.nan for cell in cells])


def _cell(column: Column, row: Key) -> str:
    """Look up a cell; a row of all sessions has one only if its sessions agree."""
    for key in (row[:2], (row[0], None)):
        if key in column.cells:
            return column.cells[key]
    if row[1] is None:
        of_sessions = {cell for key, cell in column.cells.items() if key[0] == row[0] and cell}
        return of_sessions.pop() if len(of_sessions) == 1 else ""
    return ""


def group_rows(column: Column | None, rows: Sequence[Key]) -> tuple[str, ...]:
    """Say which rows may never be on both sides of a split.

    Parameters
    ----------
    column : Column or None
        Such as a family or a site; None for participants.
    rows : sequence of Key
        Participants, or sessions of them.

    Returns
    -------
    tuple of str
        A name for each row. Who has none in the column is a group alone.

    Raises
    ------
    DataError
        If sessions of one participant are in different groups.
    """
    names: dict[str, str] = {}
    for row in rows:
        cell = _cell(column, row) if column is not None else ""
        name = f"group {cell}" if cell else f"sub-{row[0]}"
        if names.setdefault(row[0], name) != name:
            raise DataError(
                f"sub-{row[0]} is in more than one group of "
                f"{column.name if column else 'participants'!r}",
                fix="choose a --group-column in which all sessions of a participant are alike",
            )
    return tuple(names[row[0]] for row in rows)
