"""Who does the work: this process, or the workers of a Dask cluster.

The unit of work is the same everywhere: a participant with all of its runs, for they share an
anatomy, or some participants whose runs are all preprocessed and go through the models together.
What is asked again where it is done already is taken, so a unit may be tried any number of times.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.derivatives import write_json
from neurostorm_app.bids_app.participant.pages import write_page
from neurostorm_app.bids_app.participant.work import process_participants
from neurostorm_app.bids_app.results import Progress, RunResult, contained, tell_result
from neurostorm_app.errors import NothingSelectedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.errors import AppError

__all__ = ["Outcome", "failed", "work_on", "work_through"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What came of a unit of work.

    Parameters
    ----------
    results : list of RunResult
        One a run, and one for each page that failed.
    pages : list of Path
        Pages of the participants.
    written : bool
        Whether a page was written.
    """

    results: list[RunResult] = field(default_factory=list)
    pages: list[Path] = field(default_factory=list)
    written: bool = False


def work_on(group: Sequence[Participant], call: Call) -> Outcome:
    """Do a unit of work: all runs of some participants, and their pages."""
    outcome = Outcome(process_participants(group, call))
    for participant in group:
        page = Progress(f"sub-{participant.label}")
        with contained(page):  # a page that fails stops nobody's results
            path, new = write_page(participant.label, call.ledger, call.engines)
            outcome.pages.append(path)
            outcome.written |= new
        outcome.results += [failed(page.name, error, call) for error in page.errors]
        if page.name not in {result.name for result in outcome.results}:
            _forget(page.name, call.root)
    return outcome


def _forget(name: str, root: Path) -> None:
    """Remove the report of an old failure, of a page or a lost worker, that holds no longer."""
    path = root / "logs" / f"{name}_report.json"
    try:
        holds = json.loads(path.read_text(encoding="utf-8"))["status"] != "failed"
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        holds = False
    if not holds:
        path.unlink(missing_ok=True)


def failed(name: str, error: AppError, call: Call) -> RunResult:
    """Make the result of what could not even be begun, and write its report.

    Parameters
    ----------
    name : str
        Of the run, or of the participant.
    error : AppError
        Why.
    call : Call
        Where the report goes, and what is hidden in it.
    """
    log.error("%s failed: %s", name, error.what)
    result = RunResult(name=name, status="failed", errors=(error,))
    tell_result(result)
    if not isinstance(error, NothingSelectedError) and "/" not in name:
        path = call.root / "logs" / f"{name}_report.json"
        write_json(path, call.rules.record(result.as_dict()), root=call.root)
    return result


def work_through(
    groups: Iterable[Sequence[Participant]], call: Call, *, executor: str, per_process: int
) -> list[Outcome]:
    """Do all units of work; none of them stops the others, unless that was asked.

    Parameters
    ----------
    groups : iterable of sequence of Participant
        The units.
    call : Call
        What they share.
    executor : str
        ``local``, or a Dask cluster: ``dask``, ``dask:ADDRESS`` or ``dask:slurm``.
    per_process : int
        Bytes of memory that one process of the preprocessing may need.

    Returns
    -------
    list of Outcome
        In the order of the units; those after the first failure are left out where that ends the
        work.
    """
    if executor != "local":
        from neurostorm_app.bids_app.clusters.executor_dask import work_through_dask

        return work_through_dask(
            list(groups), call, where=executor.partition(":")[2], per_process=per_process
        )
    outcomes: list[Outcome] = []
    for group in groups:
        if call.stops and any(r.errors for outcome in outcomes for r in outcome.results):
            log.error("stopped at the first failure: sub-%s and after not tried", group[0].label)
            break
        outcomes.append(work_on(group, call))
    return outcomes
