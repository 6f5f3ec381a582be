"""The task of a run as a target: it is read from the names of the runs, and stands in no table.

A row is a run. What one participant does is compared with what the same participant does at
another task: people who were embedded at one task only would say no more than who they are, and
are left out.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.group.keys import row_key
from neurostorm_app.bids_app.group.tables import Column, TableFile
from neurostorm_app.bids_app.group.targets import Labels
from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from neurostorm_app.bids_app.group.keys import Key
    from neurostorm_app.bids_app.group.store import Collected

__all__ = ["NOTE", "choose_tasks", "is_task", "read_tasks"]

log = logging.getLogger(__name__)

TASK: Final = "task"
"""The reserved name of the target."""
RUNS: Final = "runs"
"""Stands for a file in ``runs:task``, where a table has a column ``task`` too."""
NOTE: Final = (
    "runs of different tasks may also differ in length and in settings of the scanner: what tells "
    "tasks apart may tell these"
)


def is_task(asked: str, tables: Iterable[TableFile]) -> bool:
    """Tell whether a target is the task of the runs.

    Parameters
    ----------
    asked : str
        ``task``, ``runs:task``, or the name of a column.
    tables : iterable of TableFile
        Where columns are looked for.

    Raises
    ------
    UsageError
        If ``task`` is a column as well, or ``runs:task`` one of a file ``runs``.
    """
    tables = list(tables)
    namesake = next((one for one in tables if one.stem == RUNS and TASK in one.columns), None)
    if namesake is not None and asked in {TASK, f"{RUNS}:{TASK}"}:
        raise UsageError(
            f"{RUNS}:{TASK} is the task of the runs, and the column {TASK!r} of {namesake.shown}",
            fix=f"rename the file, so that {RUNS}:{TASK} means one thing",
        )
    if asked == TASK:
        having = next((table for table in tables if TASK in table.columns), None)
        if having is not None:
            raise UsageError(
                f"{TASK!r} is the task of the runs, and a column of {having.shown}",
                fix=f"say which: {RUNS}:{TASK} or {having.stem}:{TASK}",
            )
    return asked in {TASK, f"{RUNS}:{TASK}"}


def read_tasks(collected: Iterable[Collected]) -> Labels:
    """Read the task of every run from its name.

    Parameters
    ----------
    collected : iterable of Collected
        The runs of each model.

    Returns
    -------
    Labels
        Classes, of runs. A name without a task has none.
    """
    cells: dict[Key, str] = {}
    for one in collected:
        for row in one.rows:
            cells[row_key(row, "run")] = parse_name(row.path).get(TASK, "")
    classes = tuple(sorted(set(cells.values()) - {""}))
    table = TableFile(stem=RUNS, paths=(), columns=(TASK,), root=Path())
    return Labels(
        name=TASK,
        kind="classes",
        values={key: float(classes.index(cell)) for key, cell in cells.items() if cell},
        classes=classes,
        unit=None,
        column=Column(name=TASK, table=table, cells=cells, about={}),
    )


def choose_tasks(labels: Labels, keys: Sequence[Key]) -> tuple[tuple[Key, ...], dict[str, int]]:
    """Choose the runs whose tasks can be told apart.

    Parameters
    ----------
    labels : Labels
        Of `read_tasks`.
    keys : sequence of Key
        Runs with an embedding of every source.

    Returns
    -------
    tuple of Key
        Runs of tasks that enough participants did, of those who did two of them.
    dict
        How many runs are not among them, by the reason.

    Raises
    ------
    DataError
        If there are not two tasks, or too few participants who did them.
    """
    from neurostorm_app.pipelines.evaluate.checks import MIN_PARTICIPANTS, MIN_PER_CLASS

    kept, left_out = list(keys), Counter[str]()
    rare = f"of a task that fewer than {MIN_PER_CLASS} participants have beside another one"
    while True:
        done: dict[str, set[float]] = defaultdict(set)
        for key in kept:
            done[key[0]].add(labels.values[key])
        people = Counter(task for tasks in done.values() if len(tasks) > 1 for task in tasks)
        why = {}
        for key in kept:
            if people[labels.values[key]] < MIN_PER_CLASS:
                why[key] = rare
            elif len(done[key[0]]) < 2:
                why[key] = "of a participant with one task only"
        if not why:
            break
        left_out.update(why.values())
        kept = [key for key in kept if key not in why]
    if len(people) < 2:
        raise DataError(
            f"tasks cannot be told apart: {_told(labels, keys)}; at least two tasks are needed "
            f"that {MIN_PER_CLASS} participants have beside another one",
            fix="embed runs of a second task of the same participants",
        )
    if len(done) < MIN_PARTICIPANTS:
        raise DataError(
            f"{len(done)} participants have runs of more than one task; an evaluation takes at "
            f"least {MIN_PARTICIPANTS}",
            fix="embed runs of a second task of more participants",
        )
    return tuple(kept), dict(left_out)


def _told(labels: Labels, keys: Sequence[Key]) -> str:
    """Say how many participants have each task."""
    people = Counter(task for _, task in {(key[0], labels.values[key]) for key in keys})
    told = [f"{name!r} has {people[i]}" for i, name in enumerate(labels.classes) if people[i]]
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    return f"participants of each task: {', '.join(told[:5]) or 'none'}{more}"
