"""Runs through a network as one stream: the next is read while the device works on this one.

One thread reads and prepares; the caller's thread computes. Between them stands a queue that
holds so many bytes of windows and no more. Windows of one run, and of the run after it, go
through the network together; which ones, the order of runs and the size of a batch decide and
nothing else, so that the same call gives the same bytes. A run that fails leaves the others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.handover import Closed, Handover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.example import Example
    from neurostorm_app.pipelines.prepare import Prepared
    from neurostorm_app.pipelines.stage import StandardSeries

    Prepare = Callable[[StandardSeries], Prepared]
    Compute = Callable[[Sequence["Item"]], Sequence["Output"]]

__all__ = ["Done", "Item", "Output", "stream_runs"]

PATIENCE = 5.0
"""Seconds that a stream which is given up waits for its reader to notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A window on its way.

    Parameters
    ----------
    run : int
        Which run it is of.
    number : int
        Which window of that run.
    window : ndarray, float32
        (C, X, Y, Z, L) or (V, L).
    prepared : Prepared
        All that is known of its run.
    """

    run: int
    number: int
    window: NDArray[np.float32]
    prepared: Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a network gave for a window.

    Parameters
    ----------
    vector : ndarray, shape (D,), float32
        The embedding.
    values : ndarray, shape (n,), float32, or None
        Of the head of fine-tuned weights.
    error : float or None
        Masked-reconstruction error, where it was measured.
    example : Example or None
        Pictures of that, of one window of a run.
    """

    vector: NDArray[np.float32]
    values: NDArray[np.float32] | None = None
    error: float | None = None
    example: Example | None = None


@dataclass(slots=True, kw_only=True)
class Done:
    """A run whose windows have all gone through the network.

    Parameters
    ----------
    prepared : Prepared
        All that is known of it.
    outputs : list of Output
        One a window, in their order.
    seconds_reading, seconds_computing : float
        Of the two threads, for this run; the time of a batch is shared by its windows.
    """

    prepared: Prepared
    outputs: list[Output] = field(default_factory=list)
    seconds_reading: float = 0.0
    seconds_computing: float = 0.0


def stream_runs(
    runs: Iterable[StandardSeries],
    *,
    prepare: Prepare,
    compute: Compute,
    batch: Callable[[], int],
    ahead: int,
    tell: Callable[[int, int, int], None] | None = None,
) -> Iterator[tuple[int, Done | Exception]]:
    """Prepare and compute runs at the same time; results come in the order of the runs.

    Parameters
    ----------
    runs : iterable of StandardSeries
        Asked for one by one in the reading thread.
    prepare : callable
        Makes a run ready; called in the reading thread, as are its windows.
    compute : callable
        Takes windows of one shape through the network; called in this thread. Gives one output
        a window.
    batch : callable
        Says how many windows go through the network together.
    ahead : int
        Bytes of windows that may wait; one window waits whatever its size.
    tell : callable, optional
        Told which run has how many of how many windows done.

    Yields
    ------
    index : int
        Which run, from 0.
    outcome : Done or Exception
        What came of it. An error of one run does not hurt the others.
    """
    queue: Handover[Item | _End] = Handover(ahead)
    reader = threading.Thread(
        target=_read_all, args=(runs, prepare, queue), name="reader", daemon=True
    )
    reader.start()
    try:
        yield from _Gatherer(compute, batch, tell).gather(queue)
    finally:
        queue.close()
        reader.join(PATIENCE)


@dataclass(frozen=True, slots=True)
class _End:
    """What follows the last window of a run: how long reading took, or what went wrong."""

    run: int
    prepared: Prepared | None
    seconds: float
    error: Exception | None = None


def _read_all(
    runs: Iterable[StandardSeries], prepare: Prepare, queue: Handover[Item | _End]
) -> None:
    """Read run after run; the body of the reading thread."""
    try:
        try:
            for index, run in enumerate(runs):
                _read_one(index, run, prepare, queue)
        except Closed:
            raise
        except BaseException as error:  # noqa: BLE001  it is raised in the other thread
            queue.put(error)
        queue.put(None)
    except Closed:
        return


def _read_one(
    index: int, run: StandardSeries, prepare: Prepare, queue: Handover[Item | _End]
) -> None:
    begin, waited, prepared, error, n_windows = time.perf_counter(), 0.0, None, None, 0
    try:
        prepared = prepare(run)
        for window in prepared.windows:
            item = Item(run=index, number=n_windows, window=window, prepared=prepared)
            ready = time.perf_counter()
            queue.put(item, window.nbytes)
            waited += time.perf_counter() - ready
            n_windows += 1
        _check_number(n_windows, prepared, run)
    except Closed:
        raise
    except Exception as failure:  # noqa: BLE001  one run is not another
        error = failure
    queue.put(_End(index, prepared, time.perf_counter() - begin - waited, error))


def _check_number(n_windows: int, prepared: Prepared, run: StandardSeries) -> None:
    planned = len(prepared.starts)
    if n_windows != planned or not planned:
        raise DataError(
            f"{run.bold}: {n_windows} windows came where {planned} were planned",
            fix="this is a defect of the preparation: please report it",
        )


class _Gatherer:
    """Put windows together to batches, and outputs to runs."""

    def __init__(
        self,
        compute: Compute,
        batch: Callable[[], int],
        tell: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self._compute = compute
        self._batch = batch
        self._tell = tell
        self._items: list[Item] = []
        self._open: dict[int, Done] = {}
        self._failed: dict[int, Exception] = {}
        self._ended: deque[_End] = deque()

    def gather(self, queue: Handover[Item | _End]) -> Iterator[tuple[int, Done | Exception]]:
        """Take what the reader hands over, and yield runs as they are finished."""
        for message in queue:
            if isinstance(message, _End):
                self._ended.append(message)
            else:
                self._take(message)
            del message  # a window must not outlive its batch
            yield from self._finished()
        self._flush()
        yield from self._finished()

    def _take(self, item: Item) -> None:
        if self._items and not _alike(self._items[0], item):
            self._flush()
        self._items.append(item)
        if len(self._items) >= self._batch():
            self._flush()

    def _flush(self) -> None:
        """Take the windows that wait through the network; its failure is that of their runs."""
        items, self._items = [i for i in self._items if i.run not in self._failed], []
        if not items:
            return
        begin = time.perf_counter()
        try:
            outputs = self._compute(items)
        except Exception as error:  # noqa: BLE001  runs that are not in this batch go on
            self._failed |= dict.fromkeys((item.run for item in items), error)
            return
        share = (time.perf_counter() - begin) / len(items)
        for item, output in zip(items, outputs, strict=True):
            run = self._open.setdefault(item.run, Done(prepared=item.prepared))
            run.outputs.append(output)
            run.seconds_computing += share
            if self._tell is not None:
                self._tell(item.run, len(run.outputs), len(item.prepared.starts))

    def _finished(self) -> Iterator[tuple[int, Done | Exception]]:
        """Yield the runs that have ended and of which no window waits."""
        while self._ended:
            end = self._ended[0]
            error = self._failed.get(end.run) or end.error
            if error is None and any(item.run == end.run for item in self._items):
                return
            self._ended.popleft()
            if error is None:
                done = self._open.pop(end.run)
                done.seconds_reading = end.seconds
                yield end.run, done
            else:
                self._open.pop(end.run, None)
                self._items = [item for item in self._items if item.run != end.run]
                yield end.run, error


def _alike(one: Item, other: Item) -> bool:
    """Tell whether two windows can go through a network together."""
    same = one.window.shape == other.window.shape
    return same and (one.prepared.xyz is None) == (other.prepared.xyz is None)
