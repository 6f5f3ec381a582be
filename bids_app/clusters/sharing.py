"""What units of work take, and how this machine is shared among workers by that.

It has as few parts as it takes for each worker to do any unit.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.participant.needs import (
    memory_of_run,
    need_of_anatomy,
    need_of_embedding,
)
from neurostorm_app.bids_app.participant.pieces_anat import anat_pieces
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.resources import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.pipelines.need import Need

__all__ = ["divide", "memory_of_unit"]


def divide(call: Call, groups: Sequence[Sequence[Participant]], *, most: int) -> tuple[int, Plan]:
    """Share this machine among workers, so that each of them can do any unit.

    Participants side by side take less time than processes side by side for each.

    Parameters
    ----------
    call : Call
        With the plan of the whole machine.
    groups : sequence of sequence of Participant
        The units; headers of their runs are read.
    most : int
        Workers at most.

    Returns
    -------
    n_workers : int
        At least 1.
    share : Plan
        Of each.
    """
    whole = call.plan
    largest = max((memory_of_unit(group, call) for group in groups), default=0)
    fitting = whole.memory // largest if largest else most
    n_workers = max(1, min(whole.n_procs, most, fitting))
    n_procs = max(1, whole.n_procs // n_workers)
    return n_workers, Plan(n_procs, whole.n_threads, whole.memory // n_workers)


def memory_of_unit(group: Sequence[Participant], call: Call) -> int:
    """Tell what a unit takes of which nothing is there, in one process.

    Parameters
    ----------
    group : sequence of Participant
        The unit; headers of its runs are read.
    call : Call
        What all participants share.

    Returns
    -------
    int
        Bytes; 0 where nothing can be read.
    """
    # Models keep a run in memory where there is room; they need not. No record is looked for.
    plan, ledger = replace(call.plan, memory=0), replace(call.ledger, planning=True)
    sparing = replace(call, plan=plan, ledger=ledger)
    needs = (need for participant in group for need in _needs(participant, sparing))
    return max((need.memory(1) for need in needs), default=0)


def _needs(participant: Participant, call: Call) -> Iterator[Need]:
    """Yield what the runs of a participant take; what cannot be read is told by the work itself."""
    for run in participant.raw:
        with contextlib.suppress(AppError, OSError):
            yield memory_of_run(participant, run, call)
    for item in participant.precomputed:
        with contextlib.suppress(AppError, OSError):
            yield need_of_embedding(item.series, call.models, call)
    if call.settings.selection.anat_only:
        with contextlib.suppress(AppError, OSError):
            yield need_of_anatomy(participant, anat_pieces(participant, call), call)
