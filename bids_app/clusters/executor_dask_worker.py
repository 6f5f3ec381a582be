"""What a worker of a Dask cluster does: one unit at a time, with its models kept in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import secrets
import threading
from typing import TYPE_CHECKING, Any, cast

from distributed import WorkerPlugin, get_worker

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


class Shared(WorkerPlugin):  # type: ignore[misc]
    """What a worker keeps between units: the call, models in memory, hashes.

    Parameters
    ----------
    call : Call
        As the client has it, without what is in memory.
    alone : bool
        Whether the worker plans by its own limits, and by the memory it offers; if not, it takes
        the plan of the call.
    per_process : int
        Bytes of memory that one process of the preprocessing may need.
    """

    def __init__(self, call: Call, *, alone: bool, per_process: int) -> None:
        # Workers of others may serve several calls, one after the other or at a time.
        self.name = f"neurostorm-{secrets.token_hex(8)}"
        self.call = dataclasses.replace(call, loaded={}, hashes={}, held=set())
        self.alone = alone
        self.per_process = per_process

    def setup(self, worker: Any) -> None:
        """Begin on a worker."""
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
            offered = worker.state.total_resources.get("MEMORY")
            if offered:  # others of this machine may offer the rest of it
                n_procs = max(1, min(here.n_procs, int(offered) // self.per_process))
                memory = min(here.memory, int(offered))
                here = dataclasses.replace(here, n_procs=n_procs, memory=memory)
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


def work(group: Sequence[Participant], name: str) -> Outcome:
    """Do one unit on the worker that this is called on.

    Parameters
    ----------
    group : sequence of Participant
        The unit.
    name : str
        Of the plugin of the call.
    """
    shared = cast("Shared", get_worker().plugins[name])
    return shared.work(group)
