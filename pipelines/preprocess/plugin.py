"""Nipype's process pool, made to notice the death of a worker instead of waiting for ever."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from neurostorm_app.errors import TemporaryError

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["PoolPlugin"]


class PoolPlugin(MultiProcPlugin):  # type: ignore[misc]
    """Runs nodes in fresh processes; what runs beside a worker that dies fails with it.

    Nipype's own takes results in a callback, where the error of a pool whose worker was killed
    gets lost, and then asks for the result again and again.

    Parameters
    ----------
    n_procs : int
        Processes at a time.
    """

    def __init__(self, n_procs: int) -> None:
        settings = {"n_procs": n_procs, "mp_context": "spawn", "raise_insufficient": False}
        super().__init__(plugin_args=settings)
        self._n_procs = n_procs
        self._broken = False
        self.death: TemporaryError | None = None
        """What to say of the workers that died, if one did."""

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
            context = multiprocessing.get_context("spawn")
            self.pool: Any = ProcessPoolExecutor(self._n_procs, mp_context=context)
            self._broken = False
        return super()._submit_job(node, updatehash=updatehash)
