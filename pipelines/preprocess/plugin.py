"""How nodes run: a process pool that notices the death of a worker, and a line for each step."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Literal

from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from neurostorm_app.errors import TemporaryError
from neurostorm_app.pipelines.lifeline import die_with_parent
from neurostorm_app.pipelines.progress import Event, Planned, listening
from neurostorm_app.pipelines.wire import Wire, tell_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from multiprocessing.connection import Connection

    from neurostorm_app.pipelines.progress import Listener

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
        self._counted: dict[tuple[str, str], Event] = {}
        self._steps: dict[str, int] = {}
        self._ended: dict[str, set[str]] = {}
        self._listener: Listener | None = None

    @contextlib.contextmanager
    def following(self, steps: Mapping[str, int], *, apart: bool) -> Iterator[Wire | None]:
        """Pass on what nodes tell, under the names of messages.

        Parameters
        ----------
        steps : mapping of str to int
            How many nodes each part has.
        apart : bool
            Whether nodes run in processes of their own.

        Yields
        ------
        Wire or None
            For those processes.
        """
        self._steps = dict(steps)
        self._ended = {part: set() for part in steps}
        with listening(self.hear) as self._listener, contextlib.ExitStack() as stack:
            yield stack.enter_context(Wire(self.hear)) if apart else None

    def hear(self, event: Event | Planned, /) -> None:
        """Pass on what a node tells; its name is that of its part."""
        if self._listener is None or isinstance(event, Planned):
            return
        self._counted[event.name, event.stage] = event
        self._listener(dataclasses.replace(event, name=self._names.get(event.name, event.name)))

    def __call__(self, node: Any, status: str) -> None:
        """Take note of a node: it will ``start``, or came to its ``end`` or to an exception."""
        now = time.monotonic()
        part, step = node.fullname.split(".")[-2:]
        if status == "start":
            self._began[node.fullname] = now
            self._tell(part, step, "began")
            return
        seconds = now - self._began.get(node.fullname, now)
        if status == "end":
            self._ended.setdefault(part, set()).add(step)
        if status == "end" and seconds >= 1:
            speed = self._speed(part, step, seconds)
            told = (self._names.get(part, part), step, seconds, speed)
            logger.info("%s: %s in %.0f s%s", *told, extra={"step": True})
        self._tell(part, step, "ended" if status == "end" else "failed")

    def _tell(self, part: str, step: str, state: Literal["began", "ended", "failed"]) -> None:
        if self._listener is not None:
            event = Event(
                name=self._names.get(part, part),
                stage=step,
                state=state,
                done=len(self._ended.get(part, ())),
                total=self._steps.get(part, 0),
            )
            self._listener(event)

    def _speed(self, part: str, step: str, seconds: float) -> str:
        """Say how fast a step went, where it counted."""
        event = self._counted.pop((part, step), None)
        if event is None or event.done < event.total:
            return ""
        return f" ({event.total} {event.unit}, {event.total / seconds:.3g} a second)"


def _begin_worker(end: Connection | None) -> None:
    """Prepare a worker: it ends with its parent, and tells it how far it is if it listens."""
    die_with_parent()
    if end is not None:
        tell_parent(end)


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
    wire : Wire, optional
        On which workers tell how far they are.
    """

    def __init__(
        self,
        n_procs: int,
        tell: Callable[[Any, str], None] | None = None,
        wire: Wire | None = None,
    ) -> None:
        settings = {
            "n_procs": n_procs,
            "mp_context": "spawn",
            "raise_insufficient": False,
            "status_callback": tell,
        }
        super().__init__(plugin_args=settings)
        self._n_procs = n_procs
        self._broken = False
        self._end = None if wire is None else wire.end
        self.pool.shutdown(wait=False)
        self.pool: Any = self._new_pool()
        self.death: TemporaryError | None = None
        """What to say of the workers that died, if one did."""

    def _new_pool(self) -> ProcessPoolExecutor:
        """Make a pool whose workers end with this process, even if it is killed."""
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            self._n_procs, mp_context=context, initializer=_begin_worker, initargs=(self._end,)
        )

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
