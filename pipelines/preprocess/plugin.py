"""How nodes run: a process pool that notices the death of a worker, and a line for each step."""

from __future__ import annotations

import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from neurostorm_app.errors import TemporaryError
from neurostorm_app.pipelines.lifeline import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

__all__ = ["PoolPlugin", "StepLog"]

logger = logging.getLogger(__name__)


class StepLog:
    """Says which step of which part has ended, and what it took; nipype calls it.

    Parameters
    ----------
    names : mapping of str to str
        What the parts of the graph are called in messages.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._began: dict[str, float] = {}

    def __call__(self, node: Any, status: str) -> None:
        """Take note of a node: it will ``start``, or came to its ``end``."""
        now = time.monotonic()
        if status == "start":
            self._began[node.fullname] = now
            return
        seconds = now - self._began.get(node.fullname, now)
        part, step = node.fullname.split(".")[-2:]
        if status == "end" and seconds >= 1:
            logger.info("%s: %s in %.0f s", self._names.get(part, part), step, seconds)


class PoolPlugin(MultiProcPlugin):  # type: ignore[misc]
    """Runs nodes in fresh processes; what runs beside a worker that dies fails with it.

    Nipype's own takes results in a callback, where the error of a pool whose worker was killed
    gets lost, and then asks for the result again and again.

    Parameters
    ----------
    n_procs : int
        Processes at a time.
    tell : callable, optional
        Told of each node that starts and ends, such as a `StepLog`.
    """

    def __init__(self, n_procs: int, tell: Callable[[Any, str], None] | None = None) -> None:
        settings = {
            "n_procs": n_procs,
            "mp_context": "spawn",
            "raise_insufficient": False,
            "status_callback": tell,
        }
        super().__init__(plugin_args=settings)
        self._n_procs = n_procs
        self._broken = False
        self.pool.shutdown(wait=False)
        self.pool: Any = self._new_pool()
        self.death: TemporaryError | None = None
        """What to say of the workers that died, if one did."""

    def _new_pool(self) -> ProcessPoolExecutor:
        """Make a pool whose workers end with this process, even if it is killed."""
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._n_procs, mp_context=context, initializer=die_with_parent)

    def _async_callback(self, args: Future[Any]) -> None:
        """Leave the result where it is until it is asked for."""

    def _get_result(self, taskid: int) -> Any:
        """Give the result of a node, None while it runs, or the traceback of its death."""
        future = self._task_obj[taskid]
        if not future.done():
            return None
        try:
            return future.result()
        except BrokenProcessPool as error:
            self._broken = True
            self.death = TemporaryError(
                "a worker process of preprocessing died without a word, most often because the"
                " machine ran out of memory",
                fix="try again with fewer processes or more memory; a script that calls this needs"
                ' `if __name__ == "__main__":` around its main part',
            )
            return {"taskid": taskid, "result": None, "traceback": [str(error)]}

    def _submit_job(self, node: Any, updatehash: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Send a node to a worker, of a new pool if the old one broke."""
        if self._broken:
            self.pool = self._new_pool()
            self._broken = False
        return super()._submit_job(node, updatehash=updatehash)
