"""What this job may use: a table of machines."""

from __future__ import annotations

import subprocess
import sys

import pytest

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.resources import (
    Plan,
    Resources,
    detect,
    find_device,
    own_peak_memory,
    peak_memory,
    plan,
    plan_batch,
    plan_room,
)

GIB = 2**30


class Machine:
    """A made-up machine: what the kernel would show of it."""

    def __init__(self, root):
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text("MemTotal:       33554432 kB\nMemFree: 1 kB\n")
        self.cgroups.mkdir()

    def cgroup(self, line, **files):
        (self.proc / "self" / "cgroup").write_text(line + "\n")
        for path, text in files.items():
            target = self.cgroups / path.replace("__", "/").replace("_max", ".max")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text + "\n")

    def detect(self, affinity=16, **environment):
        return detect(environment, proc=self.proc, cgroups=self.cgroups, affinity=affinity)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_bare_machine_is_used_as_it_is(machine):
    assert machine.detect() == Resources(16, "CPU affinity", 32 * GIB, "the machine")


def test_cgroup_version_2_limits_hold(machine):
    machine.cgroup("0::/job", job__cpu_max="250000 100000", job__memory_max=str(4 * GIB))
    found = machine.detect()
    assert (found.cores, found.cores_from) == (3, "cgroup")
    assert (found.memory, found.memory_from) == (4 * GIB, "cgroup")


def test_the_limit_of_a_parent_holds_too(machine):
    files = {
        "a__memory_max": str(8 * GIB),
        "a__b__memory_max": "max",
        "a__b__cpu_max": "max 100000",
    }
    machine.cgroup("0::/a/b", **files)
    assert machine.detect().memory == 8 * GIB
    assert machine.detect().cores == 16


def test_cgroup_version_1_limits_hold(machine):
    machine.cgroup("4:cpu,cpuacct:/job\n7:memory:/job")
    for name, text in (
        ("cpu/job/cpu.cfs_quota_us", "400000"),
        ("cpu/job/cpu.cfs_period_us", "100000"),
        ("memory/job/memory.limit_in_bytes", str(2 * GIB)),
    ):
        path = machine.cgroups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = machine.detect()
    assert (found.cores, found.memory) == (4, 2 * GIB)


def test_the_huge_number_of_version_1_is_no_limit(machine):
    machine.cgroup("7:memory:/job")
    path = machine.cgroups / "memory" / "job" / "memory.limit_in_bytes"
    path.parent.mkdir(parents=True)
    path.write_text("9223372036854771712")
    assert machine.detect().memory_from == "the machine"


def test_slurm_says_what_the_job_was_given(machine):
    found = machine.detect(SLURM_CPUS_PER_TASK="2", SLURM_MEM_PER_NODE="8192")
    assert found == Resources(2, "SLURM", 8 * GIB, "SLURM")
    found = machine.detect(SLURM_CPUS_PER_TASK="2", SLURM_MEM_PER_CPU="2048")
    assert found.memory == 4 * GIB


def test_a_job_that_asked_for_no_cpus_has_those_of_its_node_that_slurm_gave_it(machine):
    # Affinity shows the whole node where no plugin binds tasks to cores.
    found = machine.detect(affinity=64, SLURM_CPUS_ON_NODE="1", SLURM_MEM_PER_CPU="2048")
    assert found == Resources(1, "SLURM", 2 * GIB, "SLURM")
    both = {"SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_CPU": "2048"}
    assert machine.detect(affinity=64, **both) == Resources(2, "SLURM", 4 * GIB, "SLURM")
    odd = {"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "4"}
    assert machine.detect(affinity=64, **odd).cores == 4


def test_affinity_counts_before_the_scheduler(machine):
    assert machine.detect(affinity=1, SLURM_CPUS_PER_TASK="8").cores == 1


def test_odd_values_of_the_scheduler_are_no_limits(machine):
    assert machine.detect(SLURM_CPUS_PER_TASK="", SLURM_MEM_PER_NODE="0").cores == 16


def test_this_machine_has_something():
    found = detect()
    assert found.cores >= 1
    assert found.memory > 2**28


@pytest.mark.parametrize(
    ("cores", "memory", "asked", "expected"),
    [
        (4, 16, {}, (4, 1)),
        (4, 5, {}, (2, 2)),
        (4, 16, {"nprocs": 2}, (2, 2)),
        (4, 16, {"nprocs": 2, "nthreads": 3}, (2, 3)),
        (4, 16, {"memory": 3 * GIB}, (1, 4)),
        (4, 2, {"memory": 64 * GIB}, (1, 4)),
    ],
)
def test_processes_fit_into_memory(cores, memory, asked, expected):
    resources = Resources(cores, "test", memory * GIB, "test")
    asked = {"nprocs": None, "nthreads": None, "memory": None, **asked}
    made = plan(resources, **asked, per_process=2 * GIB)
    assert (made.n_procs, made.n_threads) == expected


def test_too_little_memory_is_refused_before_any_work():
    resources = Resources(4, "test", 16 * GIB, "cgroup")
    with pytest.raises(UsageError, match=r"GiB of memory by .*--mem; .*one run takes") as caught:
        plan(resources, nprocs=None, nthreads=None, memory=GIB, per_process=2 * GIB)
    assert "at least 2 GiB" in caught.value.fix


def test_a_device_that_was_named_is_kept():
    assert find_device("cpu") == "cpu"
    assert find_device("cuda:1") == "cuda:1"
    assert find_device("auto") in {"cpu", "cuda"}


def test_peak_memory_is_in_bytes():
    assert 2**24 < peak_memory() < 2**40


def test_peak_memory_is_a_process_own_and_not_of_the_one_that_began_it(tmp_path):
    held = b"1" * (own_peak_memory() + 2**27)  # more than the child will have
    code = "from neurostorm_app.pipelines.resources import own_peak_memory as p; print(p())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**23 < int(told.stdout) < len(held) / 2
    assert own_peak_memory(tmp_path) >= own_peak_memory() * 0.9  # a kernel that shows nothing


@pytest.mark.parametrize(
    ("memory", "most", "expected"),
    [(None, 64, 6), (8 * GIB, 64, 14), (8 * GIB, 4, 4), (GIB, 64, 1), (0, 64, 1)],
)
def test_a_batch_fits_into_the_memory_that_is_left(memory, most, expected):
    assert plan_batch(50 * 2**20, cost=6.0, memory=memory, most=most) == expected
    room = plan_room(50 * 2**20, cost=6.0, memory=memory, batch=expected)
    total = room + expected * 50 * 2**20 * 10 + GIB
    assert total == (4 * GIB if memory is None else memory) or room == 0


def test_what_a_batch_takes_is_not_left_for_a_run():
    rooms = [plan_room(2**20, cost=6.0, memory=4 * GIB, batch=n) for n in (1, 10, 1000)]
    assert rooms[0] > rooms[1] > rooms[2] == 0


def test_a_process_that_works_alone_has_the_threads_of_all():
    assert Plan(n_procs=3, n_threads=2, memory=GIB).all_threads == 6
