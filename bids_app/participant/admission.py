"""Whether there is room for the work, in memory and on disks, looked at before it begins.

A run that does not fit is refused with its need and what there is, and leaves its place to others.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.participant.needs import (
    memory_of_run,
    need_of_anatomy,
    need_of_run,
)
from neurostorm_app.bids_app.results import contained
from neurostorm_app.errors import AppError, CannotCreateError, UsageError
from neurostorm_app.pipelines.need import Need

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.dataset import Found, Participant
    from neurostorm_app.bids_app.participant.pieces import Anatomy, RunPieces
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.bids_app.results import Progress
    from neurostorm_app.pipelines.resources import Plan

__all__ = ["Disks", "admit", "check_memory", "refuse"]

log = logging.getLogger(__name__)

MIB: Final = 2**20
GIB: Final = 2**30
NEAR: Final = 1.5
"""Times what is needed below which a disk is said to be nearly full."""


@dataclass(slots=True)
class Disks:
    """What is left on the disks that a call writes to, less what was promised to runs.

    Parameters
    ----------
    scratch, output : Path
        Folders; they need not be there yet.
    """

    scratch: Path
    output: Path
    _promised: dict[int, int] = field(default_factory=dict)
    _aside: list[int] = field(default_factory=list)

    def check(self, name: str, need: Need) -> None:
        """Refuse what has no room, and warn where it is nearly so.

        Parameters
        ----------
        name : str
            Of the run, or of the participant.
        need : Need
            What it takes.

        Raises
        ------
        CannotCreateError
            If a disk has too little room.
        """
        for disk, (folder, size) in self._asked(need).items():
            usage = shutil.disk_usage(folder)
            if not usage.total:  # some network disks say nothing of their room
                continue
            free = usage.free - self._promised.get(disk, 0)
            words = f"about {_size(size)} for {name}, and the disk at {_mount(folder)} has"
            if size > free:
                raise CannotCreateError(
                    f"scratch and results take {words} {_size(max(free, 0))}",
                    fix="free space or raise the quota there, or choose another OUTPUT_DIR or"
                    " --work-dir, or fewer --output-spaces; then call again",
                )
            if size * NEAR > free:
                log.warning("scratch and results take %s only %s", words, _size(free))

    def promise(self, need: Need) -> None:
        """Count what a run that was let in will take."""
        for disk, (_, size) in self._asked(need).items():
            self._promised[disk] = self._promised.get(disk, 0) + size
        self._aside.append(need.scratch)

    def clear_scratch(self) -> None:
        """Take back what was promised in the scratch folder, as when a participant is done."""
        for disk, (_, size) in self._asked(Need(scratch=sum(self._aside))).items():
            self._promised[disk] = self._promised.get(disk, 0) - size
        self._aside.clear()

    def _asked(self, need: Need) -> dict[int, tuple[Path, int]]:
        """Bytes by disk, and a folder on it."""
        asked: dict[int, tuple[Path, int]] = {}
        for folder, size in ((self.scratch, need.scratch), (self.output, need.output)):
            there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
            disk = there.stat().st_dev
            asked[disk] = (there, size + asked.get(disk, (there, 0))[1])
        return asked


def check_memory(name: str, need: Need, limit: int) -> None:
    """Refuse a run that takes more memory than there is, even alone in one process.

    Parameters
    ----------
    name : str
        Of the run, or of the participant.
    need : Need
        What it takes.
    limit : int
        Bytes to stay under.

    Raises
    ------
    UsageError
        If it does not fit.
    """
    peak = need.memory(1)
    if peak <= limit:
        return
    worst = max((*need.steps, *need.models), key=lambda step: step.memory)
    raise UsageError(
        f"{name} takes about {peak / GIB:.1f} GiB of memory ({worst.name}), and this call may use"
        f" {limit / GIB:.1f} GiB",
        fix=f"give the job and --mem {math.ceil(peak * 1.1 / GIB)} GiB, or leave the run out",
    )


def refuse(found: Found, call: Call) -> Found:
    """Take out those runs that were never begun and cannot fit into memory, before any work.

    Parameters
    ----------
    found : Found
        What is to be done; headers are read.
    call : Call
        What all participants share.

    Returns
    -------
    Found
        Runs that are left; those refused are among the failed ones.
    """
    if call.settings.execution.executor not in {"local", "dask"}:
        return found  # what this machine has says nothing of the nodes
    failed = dict(found.failed)
    participants = []
    for participant in found.participants:
        left = []
        for run in participant.raw:
            if not call.ledger.path(f"{run.name}_fit").is_file():
                try:
                    check_memory(run.name, memory_of_run(participant, run, call), call.plan.memory)
                except AppError as error:
                    failed[run.name] = error
                    continue
            left.append(run)
        if left or participant.precomputed or not participant.raw:
            participants.append(replace(participant, raw=tuple(left)))
    return replace(found, participants=participants, failed=failed)


def admit(
    participant: Participant,
    anat: Anatomy | None,
    stale: Mapping[str, RunPieces],
    call: Call,
    progress: Mapping[str, Progress],
) -> tuple[dict[str, RunPieces], Plan]:
    """Let those runs in that memory and disks have room for; the others keep their error.

    Parameters
    ----------
    participant : Participant
        Of the runs.
    anat : Anatomy or None
        Pieces of its anatomy, which must fit in any case.
    stale : mapping of str to RunPieces
        Runs in which something is missing.
    call : Call
        What all participants share.
    progress : mapping of str to Progress
        Is told of runs that do not fit.

    Returns
    -------
    stale : dict of str to RunPieces
        Runs that fit.
    plan : Plan
        With as many processes as stay under the limit of memory.

    Raises
    ------
    UsageError, CannotCreateError
        If there is no room for the anatomy.
    """
    disks, limit = Disks(call.scratch, call.root), call.plan.memory
    whole = need_of_anatomy(participant, anat, call)
    check_memory(f"sub-{participant.label}", whole, limit)
    disks.check(f"sub-{participant.label}", whole)
    disks.promise(whole)
    fitting: dict[str, RunPieces] = {}
    for name, pieces in stale.items():
        if call.is_over(progress):
            break
        with contained(progress[name]):
            need = need_of_run(participant, pieces, call)
            check_memory(name, need, limit)
            disks.check(name, need)
            disks.promise(need)
            fitting[name] = pieces
            whole += need
    n_procs = max(1, whole.processes(call.plan.n_procs, limit))
    if n_procs < call.plan.n_procs:
        log.info(
            "sub-%s: %d of %d processes, to stay under %.1f GiB",
            participant.label,
            n_procs,
            call.plan.n_procs,
            limit / GIB,
        )
    return fitting, replace(call.plan, n_procs=n_procs)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB else f"{n_bytes / MIB:.0f} MiB"


def _mount(folder: Path) -> Path:
    return next((p for p in (folder, *folder.parents) if os.path.ismount(p)), folder)
