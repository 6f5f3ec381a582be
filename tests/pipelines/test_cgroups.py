"""Whom the kernel killed for memory, and which limit it was: made-up control groups."""

from __future__ import annotations

import shutil

import pytest

from neurostorm_app.pipelines.cgroups import limit_that_killed, read_memory_groups

GIB = 2**30


class Kernel:
    """What a made-up kernel shows: version 2 has one tree, version 1 a tree for memory."""

    def __init__(self, root, version):
        self.proc, self.cgroups, self.version = root / "proc", root / "cgroup", version
        (self.proc / "self").mkdir(parents=True)
        line = "0::/box/job" if version == 2 else "4:memory:/box/job\n2:cpu:/\n0::/"
        (self.proc / "self" / "cgroup").write_text(f"{line}\n")

    def shows(self, group, *, kills, full=0, limit=None):
        """Write the files of a group below the top."""
        folder = self.cgroups / ("" if self.version == 2 else "memory") / group
        folder.mkdir(parents=True, exist_ok=True)
        if self.version == 2:
            events = f"low 0\nhigh 0\nmax {9 * full}\noom {full}\noom_kill {kills}\n"
            (folder / "memory.events").write_text(events)
            (folder / "memory.max").write_text(f"{limit or 'max'}\n")
        else:
            control = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
            (folder / "memory.oom_control").write_text(control)
            (folder / "memory.failcnt").write_text(f"{full}\n")
            limit = limit or 9223372036854771712
            (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")

    def read(self):
        return read_memory_groups(self.proc, self.cgroups)


@pytest.fixture(params=[1, 2], ids=["version 1", "version 2"])
def kernel(request, tmp_path):
    return Kernel(tmp_path, request.param)


def test_the_limit_that_was_reached_is_named_and_not_one_around_it(kernel):
    kernel.shows("box", kills=3, full=7, limit=8 * GIB)
    kernel.shows("box/job", kills=2, full=5, limit=4 * GIB)
    before = kernel.read()
    assert limit_that_killed(before, kernel.read()) is None
    kernel.shows("box/job", kills=3, full=6, limit=4 * GIB)
    assert limit_that_killed(before, kernel.read()) == 4 * GIB


def test_the_limit_with_swap_is_one_too(tmp_path):
    kernel = Kernel(tmp_path, 1)
    kernel.shows("box/job", kills=0, limit=4 * GIB)
    folder = kernel.cgroups / "memory/box/job"
    (folder / "memory.memsw.limit_in_bytes").write_text(f"{3 * GIB}\n")
    (folder / "memory.memsw.failcnt").write_text("2\n")
    before = kernel.read()
    kernel.shows("box/job", kills=1, limit=4 * GIB)
    (folder / "memory.memsw.failcnt").write_text("9\n")
    assert limit_that_killed(before, kernel.read()) == 3 * GIB


@pytest.mark.parametrize(("peak", "found"), [(4 * GIB, 4 * GIB), (3 * GIB, 0)])
def test_a_kernel_that_counts_nothing_tells_the_highest_use(tmp_path, peak, found):
    kernel = Kernel(tmp_path, 1)
    kernel.shows("box/job", kills=0, limit=4 * GIB)
    before = kernel.read()
    kernel.shows("box/job", kills=1, limit=4 * GIB)
    (kernel.cgroups / "memory/box/job/memory.max_usage_in_bytes").write_text(f"{peak}\n")
    assert limit_that_killed(before, kernel.read()) == found


def test_the_limit_around_a_job_may_be_the_one(kernel):
    kernel.shows("box", kills=0, limit=8 * GIB)
    kernel.shows("box/job", kills=0, full=5)
    before = kernel.read()
    kernel.shows("box", kills=1, full=1, limit=8 * GIB)
    kernel.shows("box/job", kills=1, full=5)
    assert limit_that_killed(before, kernel.read()) == 8 * GIB


def test_a_kill_without_a_limit_that_was_reached_is_for_the_machine(kernel):
    kernel.shows("box/job", kills=0, limit=4 * GIB)
    before = kernel.read()
    kernel.shows("box/job", kills=1, limit=4 * GIB)
    assert limit_that_killed(before, kernel.read()) == 0


def test_the_death_of_somebody_beside_us_says_nothing(kernel):
    kernel.shows("box", kills=0, limit=8 * GIB)
    kernel.shows("box/job", kills=0)
    before = kernel.read()
    kernel.shows("box", kills=1, full=1, limit=8 * GIB)
    assert limit_that_killed(before, kernel.read()) is None


def test_where_the_kernel_tells_nothing_nothing_is_known(kernel, tmp_path):
    kernel.shows("box/job", kills=0)
    before = kernel.read()
    assert len(before) == 1
    shutil.rmtree(kernel.cgroups)
    assert kernel.read() == []
    assert limit_that_killed(before, []) is None
    assert limit_that_killed([], before) is None
    assert read_memory_groups(tmp_path / "nowhere", tmp_path / "nowhere") == []


def test_files_of_another_form_are_no_counts(kernel):
    kernel.shows("box/job", kills=0)
    for path in kernel.cgroups.rglob("memory.[eo]*"):
        path.write_text("oom_kill many\n\nlow\n")
    assert kernel.read() == []


def test_this_kernel_is_read():
    now = read_memory_groups()
    assert limit_that_killed(now, now) is None
    assert all(group.kills >= 0 and group.full >= 0 for group in now)
