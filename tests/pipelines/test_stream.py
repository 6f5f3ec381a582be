"""Runs as one stream: in order, together, within bytes, and each with its own failures."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.prepare import Prepared
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.stream import Output, stream_runs

SHAPE = (3, 4)
SIZE = 3 * 4 * 4  # bytes of a window
N_WINDOWS = sum(range(9))  # of eight runs
PATIENCE = 120
"""Seconds that a thread waits for another one: the machine may be busy with other things."""


def make_runs(n):
    return [
        StandardSeries(
            name=f"run-{i}", bold=Path(f"{i}.nii.gz"), mask=None, confounds=None, tr=1.0,
            space="MNI152NLin6Asym", res="2",
        )
        for i in range(n)
    ]  # fmt: skip


class Pipeline:
    """A preparation and a network that note what they are asked for; run i has i + 1 windows."""

    def __init__(self, broken=(), shapes=None):
        self.broken = dict(broken)
        self.shapes = shapes or {}
        self.prepared, self.batches = [], []
        self.n_windows, self.n_computed = 0, 0

    def prepare(self, run):
        index = int(run.bold.name[0])
        self.prepared.append(index)
        if (index, "prepare") in self.broken:
            raise self.broken[index, "prepare"]
        return Prepared(
            windows=self.windows(index), starts=list(range(index + 1)), window=4, step=1.0,
            findings=Findings(),
        )  # fmt: skip

    def windows(self, index):
        for number in range(index + 1):
            if (index, number) in self.broken:
                raise self.broken[index, number]
            self.n_windows += 1
            yield np.full(self.shapes.get(index, SHAPE), 10 * index + number, dtype=np.float32)

    def compute(self, items):
        self.batches.append([(item.run, item.number) for item in items])
        self.n_computed += len(items)
        for item in items:
            if (item.run, "compute") in self.broken:
                raise self.broken[item.run, "compute"]
        assert len({item.window.shape for item in items}) == 1
        return [Output(vector=item.window[0, :2]) for item in items]

    def stream(self, runs, batch=1, ahead=SIZE):
        return stream_runs(
            runs, prepare=self.prepare, compute=self.compute, batch=lambda: batch, ahead=ahead
        )


def readers():
    """List the reading threads, none of which outlives its stream."""
    found = [thread for thread in threading.enumerate() if thread.name == "reader"]
    for thread in found:
        thread.join(PATIENCE)
    return [thread for thread in found if thread.is_alive()]


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
@pytest.mark.parametrize("ahead", [1, 5 * SIZE])
def test_every_run_gets_its_own_windows_in_order(batch, ahead):
    pipeline = Pipeline()
    found = list(pipeline.stream(make_runs(4), batch=batch, ahead=ahead))
    assert [index for index, _ in found] == [0, 1, 2, 3]
    for index, done in found:
        firsts = [output.vector[0] for output in done.outputs]
        assert firsts == [10 * index + number for number in range(index + 1)]
        assert done.seconds_reading > 0
        assert done.seconds_computing > 0
    assert readers() == []


def test_windows_of_two_runs_go_together():
    pipeline = Pipeline()
    list(pipeline.stream(make_runs(4), batch=4))
    assert pipeline.batches == [
        [(0, 0), (1, 0), (1, 1), (2, 0)],
        [(2, 1), (2, 2), (3, 0), (3, 1)],
        [(3, 2), (3, 3)],
    ]


def test_windows_of_two_shapes_do_not():
    pipeline = Pipeline(shapes={2: (3, 5)})
    found = dict(pipeline.stream(make_runs(4), batch=4))
    assert [len(batch) for batch in pipeline.batches] == [3, 3, 4]
    assert [len(found[index].outputs) for index in range(4)] == [1, 2, 3, 4]


def test_a_run_is_given_as_soon_as_it_is_done():
    pipeline = Pipeline()
    first = threading.Event()

    def slow_runs():
        runs = make_runs(2)
        yield runs[0]
        assert first.wait(PATIENCE)
        yield runs[1]

    stream = pipeline.stream(slow_runs())
    index, _ = next(stream)
    assert index == 0
    first.set()
    assert [index for index, _ in stream] == [1]


def test_the_next_run_is_prepared_while_the_network_works():
    pipeline = Pipeline()
    met = threading.Barrier(2, timeout=PATIENCE)

    def prepare(run):
        if run.name == "run-1":
            met.wait()
        return pipeline.prepare(run)

    def compute(items):
        if items[0].run == 0:
            met.wait()  # only passed if run 1 is being prepared now
        return pipeline.compute(items)

    stream = stream_runs(
        make_runs(2), prepare=prepare, compute=compute, batch=lambda: 1, ahead=SIZE
    )
    assert len(list(stream)) == 2


@pytest.mark.parametrize(("ahead", "most"), [(1, 1), (SIZE, 1), (3 * SIZE, 3)])
def test_no_more_windows_wait_than_the_bytes_allow(ahead, most):
    pipeline = Pipeline()
    waiting = []

    def compute(items):
        # Beside those in the queue the reader holds one, and this batch has left the queue.
        left = N_WINDOWS - pipeline.n_computed - len(items)
        until = time.monotonic() + PATIENCE
        while that_wait(items) < min(most, left - 1) and time.monotonic() < until:
            time.sleep(0.001)  # the reader runs ahead as far as it may
        time.sleep(0.001)  # and no further
        waiting.append(that_wait(items))
        return pipeline.compute(items)

    def that_wait(items):
        return pipeline.n_windows - pipeline.n_computed - len(items) - 1

    stream = stream_runs(
        make_runs(8), prepare=pipeline.prepare, compute=compute, batch=lambda: 1, ahead=ahead
    )
    assert len(list(stream)) == 8
    assert max(waiting) == most


@pytest.mark.parametrize("when", ["prepare", 0, 1, "compute"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_run_that_fails_leaves_the_others(when, batch):
    pipeline = Pipeline(broken={(2, when): CorruptImageError("the file ends", fix="fetch it")})
    found = dict(pipeline.stream(make_runs(5), batch=batch))
    assert list(found) == [0, 1, 2, 3, 4]
    assert isinstance(found[2], CorruptImageError)
    lost = {batch_of for batch_of in (1, 3) if isinstance(found[batch_of], Exception)}
    assert lost <= ({1, 3} if when == "compute" else set())
    assert [len(found[index].outputs) for index in (0, 4)] == [1, 5]
    assert readers() == []


def test_an_unexpected_error_is_the_runs_too():
    pipeline = Pipeline(broken={(0, "prepare"): ZeroDivisionError("division by zero")})
    found = dict(pipeline.stream(make_runs(2)))
    assert isinstance(found[0], ZeroDivisionError)
    assert len(found[1].outputs) == 2


def test_a_preparation_that_loses_windows_is_an_error():
    pipeline = Pipeline()
    lost = pipeline.windows
    pipeline.windows = lambda index: itertools.islice(lost(index), 2)
    found = dict(pipeline.stream(make_runs(3)))
    assert isinstance(found[2], DataError)
    assert "2 windows came where 3 were planned" in str(found[2])


def test_an_error_in_the_list_of_runs_is_raised():
    def runs():
        yield make_runs(1)[0]
        raise KeyError("no more")

    stream = Pipeline().stream(runs())
    assert next(stream)[0] == 0
    with pytest.raises(KeyError, match="no more"):
        next(stream)
    assert readers() == []


@pytest.mark.parametrize("given_up", ["close", "interrupt", "error"])
def test_a_stream_that_is_given_up_leaves_no_thread(given_up):
    pipeline = Pipeline()

    def compute(items):
        if given_up == "interrupt" and items[0].run == 3:
            raise KeyboardInterrupt
        return pipeline.compute(items)

    stream = stream_runs(
        make_runs(9), prepare=pipeline.prepare, compute=compute, batch=lambda: 1, ahead=SIZE
    )
    next(stream)
    if given_up == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            list(stream)
    elif given_up == "close":
        stream.close()
    else:
        with pytest.raises(OSError, match="disk"):
            stream.throw(OSError("disk"))
    assert readers() == []
    assert max(pipeline.prepared) < 8


def test_no_runs_are_no_results():
    assert list(Pipeline().stream([])) == []
