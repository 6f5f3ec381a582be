"""What a worker of a Dask cluster does: one unit at a time, with its models kept in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import threading
from typing import TYPE_CHECKING, Any, Final

from distributed import WorkerPlugin, get_worker  # pyright: ignore[reportMissingImports]

from neurostorm_app.bids_app.clusters.executors import work_on
from neurostorm_app.bids_app.logs import to_file
from neurostorm_app.pipelines.resources import detect, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neurostorm_app.bids_app.clusters.executors import Outcome
    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.participant.units import Call

__all__ = ["Shared", "work"]

log = logging.getLogger(__name__)

NAME: Final = "neurostorm"


class Shared(WorkerPlugin):  # type: ignore[misc]
    """What a worker keeps between units: the call, models in memory, hashes.

    Parameters
    ----------
    call : Call
        As the client has it, without what is in memory.
    alone : bool
        Whether the worker plans by its own limits; if not, it takes the plan of the call.
    per_process : int
        Bytes of memory that one process of the preprocessing may need.
    """

    name = NAME
    idempotent = True

    def __init__(self, call: Call, *, alone: bool, per_process: int) -> None:
        self.call = dataclasses.replace(call, loaded={}, hashes={}, held=set())
        self.alone = alone
        self.per_process = per_process

    def setup(self, worker: Any) -> None:
        """Begin on a worker."""
        del worker
        self.lock = threading.Lock()
        if self.alone:
            execution = self.call.settings.execution
            here = plan(
                detect(),
                nprocs=execution.nprocs,
                nthreads=execution.omp_nthreads,
                memory=execution.memory,
                per_process=self.per_process,
            )
            if multiprocessing.current_process().daemon:
                here = dataclasses.replace(here, n_procs=1)
            self.call = dataclasses.replace(self.call, plan=here)

    def work(self, group: Sequence[Participant]) -> Outcome:
        """Do one unit; a worker with several threads does one after the other."""
        with self.lock, to_file(self.call.root / "logs", self.call.rules):
            log.info("sub-%s: on a worker of Dask", " sub-".join(p.label for p in group))
            outcome = work_on(group, self.call)
        # A scratch folder that was given may be on this machine alone; ours is empty by now.
        with contextlib.suppress(OSError):
            self.call.scratch.rmdir()
        return outcome


def work(group: Sequence[Participant]) -> Outcome:
    """Do one unit on the worker that this is called on.

    Parameters
    ----------
    group : sequence of Participant
        The unit.
    """
    shared: Shared = get_worker().plugins[NAME]
    return shared.work(group)
