"""What is said of work that a signal ended."""

from __future__ import annotations

import signal

import pytest

from neurostorm_app.bids_app import deaths
from neurostorm_app.bids_app.deaths import tell_death
from neurostorm_app.errors import TemporaryError
from neurostorm_app.pipelines.cgroups import MemoryGroup

GIB = 2**30
BEFORE = [MemoryGroup(4 * GIB, kills=1, full=2), MemoryGroup(64 * GIB, kills=1, full=2)]


@pytest.mark.parametrize(
    ("before", "after", "words", "fix"),
    [
        (
            BEFORE,
            [MemoryGroup(4 * GIB, kills=2, full=3), MemoryGroup(64 * GIB, kills=2, full=3)],
            "the kernel ended it because the memory limit of 4.0 GiB of its control group",
            "more memory for the job",
        ),
        (
            BEFORE,
            [MemoryGroup(4 * GIB, kills=2, full=2), MemoryGroup(64 * GIB, kills=2, full=2)],
            "the kernel ended it because the memory of the machine was used up",
            "a smaller --nprocs",
        ),
        (
            BEFORE,
            BEFORE,
            "by whom is not known: the kernel did not end it for its memory",
            "ask who ends jobs here",
        ),
        ([], BEFORE, "by whom is not known; most often it is because its memory", "--mem"),
        (BEFORE, [], "by whom is not known; most often it is because its memory", "--mem"),
    ],
    ids=["limit", "machine", "somebody", "not counted", "no longer counted"],
)
def test_who_killed_the_work_is_said_as_far_as_it_is_known(monkeypatch, before, after, words, fix):
    monkeypatch.setattr(deaths, "read_memory_groups", lambda: after)
    told = tell_death(signal.SIGKILL, before)
    assert isinstance(told, TemporaryError)
    assert told.what.startswith("the work was killed (SIGKILL)")
    assert words in told.what
    assert fix in told.fix
