"""What the verb ``explore`` reads: runs of a derivative. Of many, one may fail."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from neurostorm_app.errors import AppError, NoInputError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.pipelines.explore import Explorer, ReadyRun
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["ask_each", "find_runs", "read_runs"]

T = TypeVar("T")

log = logging.getLogger(__name__)


def find_runs(
    asked: argparse.Namespace, explorer: Explorer
) -> dict[str, StandardSeries | AppError]:
    """Find the runs of a folder by name.

    Parameters
    ----------
    asked : Namespace
        Of the verb: ``derivatives``, ``source``, ``tr`` and ``participant_label``.
    explorer : Explorer
        Says in which space and of which atlas they must be.

    Returns
    -------
    dict of str to StandardSeries or AppError
        A run that cannot be used has its reason.

    Raises
    ------
    NoInputError
        If there is no folder, or no run in it.
    """
    root = asked.derivatives.resolve()
    if not root.is_dir():
        raise NoInputError(f"{root} is not a folder with runs to explore", fix="check the path")
    runs = _find_tables(asked, explorer) if asked.source == "tables" else _find_bold(root, explorer)
    if asked.participant_label:
        people = {f"sub-{label.removeprefix('sub-')}" for label in asked.participant_label}
        runs = {name: run for name, run in runs.items() if name.partition("_")[0] in people}
    if not runs:
        raise NoInputError(
            f"{root}: there are no {asked.source} to explore by {explorer.embedder.card.name}",
            fix="give an output folder of the participant level; --from tables reads tables of "
            "the model's atlas instead of images",
        )
    return runs


def _find_bold(root: Path, explorer: Explorer) -> dict[str, StandardSeries | AppError]:
    from neurostorm_app.bids_app.inputs.dataset import list_participants
    from neurostorm_app.bids_app.inputs.precomputed import find_precomputed
    from neurostorm_app.pipelines.stage import OutputSpace

    wanted = [OutputSpace(name=explorer.embedder.card.contract.space, res="2")]
    runs: dict[str, StandardSeries | AppError] = {}
    for label in list_participants(root):
        for name, item in find_precomputed({root.name: root}, label, wanted, {}).items():
            runs[name] = item if isinstance(item, AppError) else item.series
    return runs


def _find_tables(
    asked: argparse.Namespace, explorer: Explorer
) -> dict[str, StandardSeries | AppError]:
    from neurostorm_app.bids_app.participant.series_tables import open_table

    atlas = getattr(explorer.embedder.card.contract, "atlas", "")
    runs: dict[str, StandardSeries | AppError] = {}
    for path in sorted(asked.derivatives.resolve().glob("sub-*/**/*_timeseries.tsv")):
        if f"_atlas-{atlas}_" not in path.name:
            continue
        table = open_table(path, tr=asked.tr)
        if table.name in runs:
            raise UsageError(
                f"{path}: {table.name} has a second table of {atlas}",
                fix="give a folder with one table of the model's atlas a run",
            )
        runs[table.name] = table
    return runs


def read_runs(
    found: Mapping[str, StandardSeries | AppError], explorer: Explorer
) -> tuple[list[ReadyRun], dict[str, str]]:
    """Read what can be read; the reason of each run that cannot is kept.

    Parameters
    ----------
    found : mapping of str to StandardSeries or AppError
        As of `find_runs`.
    explorer : Explorer
        Makes them ready.

    Returns
    -------
    runs : list of ReadyRun
        One at least.
    left_out : dict of str to str
        Reasons by run.

    Raises
    ------
    AppError
        That of the last run, if none can be read.
    """
    runs, left_out, last = [], {}, None
    for name, item in found.items():
        try:
            if isinstance(item, AppError):
                raise item
            runs.append(explorer.read(item))
        except AppError as error:
            log.warning("%s: left out: %s", name, error.what)
            left_out[name], last = error.what, error
    if not runs and last is not None:
        raise last
    return runs, left_out


def ask_each(
    runs: Sequence[ReadyRun], question: Callable[[ReadyRun], T], left_out: dict[str, str]
) -> list[tuple[ReadyRun, T]]:
    """Ask each run; one that has no answer is left out, and the others go on.

    Parameters
    ----------
    runs : sequence of ReadyRun
        As of `read_runs`.
    question : callable
        Gives the answer of a run.
    left_out : dict of str to str
        Is told the reasons, by run.

    Returns
    -------
    list of (ReadyRun, answer)
        One at least.

    Raises
    ------
    AppError
        That of the last run, if none has an answer.
    """
    answers, last = [], None
    for run in runs:
        try:
            answers.append((run, question(run)))
        except AppError as error:
            log.warning("%s: left out: %s", run.name, error.what)
            left_out[run.name], last = error.what, error
    if not answers and last is not None:
        raise last
    return answers
