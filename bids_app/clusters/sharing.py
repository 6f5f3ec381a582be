"""How this machine is shared among workers: in as few parts as it takes for each to do any unit."""

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

__all__ = ["divide"]


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
    # Models keep a run in memory where there is room; they need not.
    sparing = replace(call, plan=replace(whole, memory=0))
    participants = (participant for group in groups for participant in group)
    needs = (need for participant in participants for need in _needs(participant, sparing))
    largest = max((need.memory(1) for need in needs), default=0)
    fitting = whole.memory // largest if largest else most
    n_workers = max(1, min(whole.n_procs, most, fitting))
    n_procs = max(1, whole.n_procs // n_workers)
    return n_workers, Plan(n_procs, whole.n_threads, whole.memory // n_workers)


def _needs(participant: Participant, call: Call) -> Iterator[Need]:
    """Yield what the runs of a participant take; what cannot be read is told by the work itself."""
    for run in participant.raw:
        with contextlib.suppress(AppError):
            yield memory_of_run(participant, run, call)
    for item in participant.precomputed:
        with contextlib.suppress(AppError):
            yield need_of_embedding(item.series, call.models, call)
    if call.settings.selection.anat_only:
        with contextlib.suppress(AppError):
            yield need_of_anatomy(participant, anat_pieces(participant, call), call)
