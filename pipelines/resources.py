"""What this job may use of the machine: the smallest of all limits that somebody set.

The number of cores of the machine is the wrong answer in a container or under a scheduler:
affinity, cgroup and SLURM are read first. Each number is kept with where it came from, so
that the plan can say why only two cores are used.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.cgroups import (
    PROC,
    find_cgroups,
    read_cpu_quota,
    read_lines,
    read_memory_limit,
    read_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Plan",
    "Resources",
    "detect",
    "find_device",
    "own_peak_memory",
    "peak_memory",
    "plan",
    "plan_batch",
    "plan_room",
]

GIB: Final = 2**30
ENOUGH: Final = 4 * GIB
"""Bytes to stay under where nobody said how many."""
RESERVE: Final = GIB
"""Bytes that the process takes beside its windows: packages, weights, volumes being read."""
WAITING: Final = 4
"""Windows beside each that is computed: one waits, one is being made, and both are being put
together."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What this job may use.

    Parameters
    ----------
    cores : int
        Cores.
    cores_from : str
        Which limit that is.
    memory : int
        Bytes.
    memory_from : str
        Which limit that is.
    """

    cores: int
    cores_from: str
    memory: int
    memory_from: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What this call will use.

    Parameters
    ----------
    n_procs : int
        Processes at a time.
    n_threads : int
        Threads of one process.
    memory : int
        Bytes to stay under.
    """

    n_procs: int
    n_threads: int
    memory: int

    @property
    def all_threads(self) -> int:
        """Threads of a process beside which no other one works."""
        return self.n_procs * self.n_threads


def detect(
    environment: Mapping[str, str] | None = None,
    *,
    proc: Path = Path("/proc"),
    cgroups: Path = Path("/sys/fs/cgroup"),
    affinity: int | None = None,
) -> Resources:
    """Read what this job may use.

    Parameters
    ----------
    environment : mapping, optional
        Environment variables; those of this process by default.
    proc, cgroups : Path
        Where the kernel shows processes and cgroups.
    affinity : int, optional
        Cores this process may run on; asked of the kernel by default.
    """
    environment = os.environ if environment is None else environment
    allowed = len(os.sched_getaffinity(0)) if affinity is None else affinity
    cores = {"CPU affinity": allowed}
    memory = {"the machine": _memory_total(proc)}
    for folder in find_cgroups(proc, cgroups):
        if (quota := read_cpu_quota(folder)) is not None:
            cores["cgroup"] = min(quota, cores.get("cgroup", quota))
        if (limit := read_memory_limit(folder)) is not None:
            memory["cgroup"] = min(limit, memory.get("cgroup", limit))
    # Without -c there is no number for a task, but always one for the job on this node; where no
    # plugin binds tasks to cores, affinity shows the whole node.
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if (n := read_number(environment.get(name))) is not None:
            cores["SLURM"] = n
            break
    if (mb := read_number(environment.get("SLURM_MEM_PER_NODE"))) is not None:
        memory["SLURM"] = mb * 2**20
    elif (mb := read_number(environment.get("SLURM_MEM_PER_CPU"))) is not None:
        memory["SLURM"] = mb * 2**20 * cores.get("SLURM", allowed)
    fewest = min(cores, key=lambda limit: cores[limit])
    least = min(memory, key=lambda limit: memory[limit])
    return Resources(max(1, cores[fewest]), fewest, memory[least], least)


def plan(
    resources: Resources,
    *,
    nprocs: int | None,
    nthreads: int | None,
    memory: int | None,
    per_process: int,
) -> Plan:
    """Decide how many processes run, so that memory is kept.

    Parameters
    ----------
    resources : Resources
        What this job may use.
    nprocs, nthreads, memory : int or None
        What the user asked for; memory in bytes.
    per_process : int
        Peak memory of one process in bytes.

    Raises
    ------
    UsageError
        If not even one process fits into the memory asked for.
    """
    limit = resources.memory if memory is None else min(memory, resources.memory)
    fitting = limit // per_process
    if fitting < 1:
        source = "--mem" if memory is not None and memory == limit else resources.memory_from
        raise UsageError(
            f"{limit / GIB:.1f} GiB of memory by {source}; one run takes {per_process / GIB:.1f}",
            fix=f"give the job at least {math.ceil(per_process / GIB)} GiB",
        )
    n_procs = min(nprocs or resources.cores, fitting)
    return Plan(n_procs, nthreads or max(1, resources.cores // n_procs), limit)


def plan_batch(window: int, *, cost: float, memory: int | None, most: int) -> int:
    """Decide how many windows go through a network together.

    Parameters
    ----------
    window : int
        Bytes of a window.
    cost : float
        Bytes of memory that a network takes for each byte of a window.
    memory : int or None
        Bytes to stay under; None for 4 GiB.
    most : int
        More than this gains nothing.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> plan_batch(70_778_880, cost=6, memory=4 * 2**30, most=16)
    4
    """
    left = (ENOUGH if memory is None else memory) - RESERVE
    return max(1, min(most, int(left // (window * (cost + WAITING)))))


def plan_room(window: int, *, cost: float, memory: int | None, batch: int) -> int:
    """Decide how many bytes are left to keep a run in memory, so that it is read once.

    Parameters
    ----------
    window : int
        Bytes of a window.
    cost : float
        Bytes of the host's memory that a network takes for each byte of a window.
    memory : int or None
        Bytes to stay under; None for 4 GiB.
    batch : int
        Windows that go through the network together.

    Returns
    -------
    int
        Bytes, 0 and up.

    Examples
    --------
    >>> plan_room(70_778_880, cost=6, memory=4 * 2**30, batch=1) // 2**20
    2397
    """
    left = (ENOUGH if memory is None else memory) - RESERVE
    return max(0, round(left - batch * window * (cost + WAITING)))


def find_device(asked: str) -> str:
    """Resolve ``auto``: a CUDA device if torch sees one, the CPU if not.

    Parameters
    ----------
    asked : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def peak_memory() -> int:
    """Peak resident memory of this process or of its largest child so far, in bytes."""
    import resource

    return max(own_peak_memory(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)


def own_peak_memory(proc: Path = PROC) -> int:
    """Peak resident memory of this process alone so far, in bytes.

    Parameters
    ----------
    proc : Path
        Where the kernel shows processes. Where it does not, the count of ``getrusage`` is taken,
        which holds what the process that began this one had in use by then.

    Returns
    -------
    int
        Bytes.
    """
    import resource

    for line in read_lines(proc / "self" / "status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory_total(proc: Path) -> int:
    for line in read_lines(proc / "meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
