"""Who does the work: this process, or the workers of a Dask cluster.

The unit of work is the same everywhere: a participant with all of its runs, for they share an
anatomy, or some participants whose runs are all preprocessed and go through the models together.
What is asked again where it is done already is taken, so a unit may be tried any number of times.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.derivatives import write_json
from neurostorm_app.bids_app.inputs.misnamed import MISNAMED
from neurostorm_app.bids_app.participant.pages import write_page
from neurostorm_app.bids_app.participant.work import process_participants
from neurostorm_app.bids_app.results import Progress, RunResult, contained, tell_result
from neurostorm_app.errors import NothingSelectedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.dataset import Found, Participant
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.errors import AppError

__all__ = ["Outcome", "failed", "forget_renamed", "work_on", "work_through"]

log = logging.getLogger(__name__)

LONGEST: Final = 200
"""Letters of the name of a report; no disk takes more than 255, with its ending."""


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
    path = _report(name, root)
    try:
        holds = json.loads(path.read_text(encoding="utf-8"))["status"] != "failed"
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        holds = False
    if not holds:
        path.unlink(missing_ok=True)


def forget_renamed(found: Found, root: Path) -> None:
    """Remove reports of misnamed images that are gone or have a name of BIDS by now.

    Parameters
    ----------
    found : Found
        What was found of some participants; reports of others, and of those that were not listed
        to the end, stay.
    root : Path
        The output folder.
    """
    looked_at = {f"sub-{label}" for label in found.listed}
    logs = root / "logs"
    for path in logs.iterdir() if logs.is_dir() else ():
        name = path.name.removesuffix("_report.json")
        holds = name in found.failed or name.partition("_")[0] not in looked_at
        if MISNAMED.fullmatch(name) and not holds:
            path.unlink(missing_ok=True)


def _report(name: str, root: Path) -> Path:
    """Place the report of something; of a name that no file can have, a part and a hash remain."""
    safe = re.sub(r"[^0-9A-Za-z_+-]", "", name)[:LONGEST]
    if safe != name:
        safe += f"_cut-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return root / "logs" / f"{safe}_report.json"


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
    if isinstance(error, NothingSelectedError):
        return result
    writing = Progress(name)
    with contained(writing):  # a report that cannot be written stops nobody's results
        content = call.rules.record(result.as_dict())
        write_json(_report(name, call.root), content, root=call.root)
    return replace(result, errors=(error, *writing.errors))


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
