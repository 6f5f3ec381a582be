"""Control groups: what the kernel allows this process, and whom it killed for memory.

Version 2 has one tree of folders, version 1 one for each kind of limit. A limit of a folder holds
for all below it. In a container the root of the tree may be the container's own group.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "PROC",
    "MemoryGroup",
    "find_cgroups",
    "limit_that_killed",
    "read_cpu_quota",
    "read_lines",
    "read_memory_groups",
    "read_memory_limit",
    "read_number",
]

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")
_LEAST: Final = 2**16
"""Bytes that the kernel may ask for at once before it kills, with some room."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group, and what became of the memory in it so far.

    Parameters
    ----------
    limit : int or None
        Bytes that all processes in it may use together; None if there is no limit.
    kills : int
        Processes in it that the kernel killed for memory; under version 2 also those below it.
    full : int
        How often its limit was reached; under version 2 also one of a group below it.
    filled : bool
        Under version 1, whether its use was at its limit once though the kernel, as newer ones do,
        counted nothing.
    """

    limit: int | None
    kills: int
    full: int
    filled: bool = False


def read_memory_groups(proc: Path = PROC, cgroups: Path = CGROUPS) -> list[MemoryGroup]:
    """Read the control groups of this process that count kills, its own first.

    Parameters
    ----------
    proc, cgroups : Path
        Where the kernel shows processes and cgroups.

    Returns
    -------
    list of MemoryGroup
        Empty where the kernel counts nothing, or does not tell it.

    References
    ----------
    Linux, ``Documentation/admin-guide/cgroup-v2.rst`` (``memory.events``) and
    ``cgroup-v1/memory.rst`` (``memory.oom_control``, ``memory.failcnt``,
    ``memory.memsw.failcnt``, ``memory.max_usage_in_bytes``).
    """
    return [group for folder in find_cgroups(proc, cgroups) if (group := _read_group(folder))]


def _read_group(folder: Path) -> MemoryGroup | None:
    """Read the counts of a group, version 2 or 1; None where the kernel tells none."""
    lines = [line.split() for line in read_lines(folder / "memory.events")]
    lines += [line.split() for line in read_lines(folder / "memory.oom_control")]
    # Version 1 has a limit with swap too, asked first: where both are one number it alone counts.
    for name in ("memory.failcnt", "memory.memsw.failcnt"):
        lines += [["oom", line] for line in read_lines(folder / name)]
    counts: Counter[str] = Counter()
    for words in lines:
        if len(words) == 2 and words[1].isdigit():
            counts[words[0]] += int(words[1])
    if "oom_kill" not in counts:
        return None
    limit = read_memory_limit(folder)
    peaks = [read_number(line) or 0 for line in read_lines(folder / "memory.max_usage_in_bytes")]
    filled = limit is not None and not counts["oom"] and max(peaks, default=0) > limit - _LEAST
    return MemoryGroup(limit, counts["oom_kill"], counts["oom"], filled)


def limit_that_killed(before: Sequence[MemoryGroup], after: Sequence[MemoryGroup]) -> int | None:
    """Tell which limit of memory cost a process its life.

    Parameters
    ----------
    before, after : sequence of MemoryGroup
        The groups of this process, read before that one was started and after it was killed.

    Returns
    -------
    int or None
        Bytes of the limit; 0 if the kernel killed it for the memory of the whole machine; None if
        the kernel killed nobody in the group of this process.
    """
    pairs = list(zip(before, after, strict=False))
    if not pairs or pairs[0][1].kills <= pairs[0][0].kills:
        return None
    limits = [new.limit for old, new in pairs if new.limit is not None and new.full > old.full]
    limits = limits or [new.limit for new in after if new.limit is not None and new.filled]
    return min(limits, default=0)


def find_cgroups(proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """Yield the folders whose limits hold for this process, its own first, up to the root."""
    for line in read_lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        names = [c for c in controllers.split(",") if c in {"cpu", "memory"}]
        tops = [cgroups] if not controllers else [cgroups / name for name in names]
        for top in tops:
            folder = top / path.lstrip("/")
            for step in (folder, *folder.parents):
                if not step.is_relative_to(top):
                    break
                yield step


def read_cpu_quota(folder: Path) -> int | None:
    """Cores by the quota of a cgroup, version 2 or 1, rounded up."""
    for line in read_lines(folder / "cpu.max"):
        quota, period = (read_number(word) for word in line.split()[:2])
        return None if quota is None or period is None else math.ceil(quota / period)
    quotas = [read_number(line) for line in read_lines(folder / "cpu.cfs_quota_us")]
    periods = [read_number(line) for line in read_lines(folder / "cpu.cfs_period_us")]
    if quotas and periods and quotas[0] and periods[0]:
        return math.ceil(quotas[0] / periods[0])
    return None


def read_memory_limit(folder: Path) -> int | None:
    """Bytes by the limit of a cgroup, version 2 or 1; version 1 writes a huge number for none."""
    names = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    limits = [read_number(line) for name in names for line in read_lines(folder / name)]
    return min((limit for limit in limits if limit is not None and limit < 2**60), default=None)


def read_lines(path: Path) -> list[str]:
    """Lines of a file of the kernel; none where it is not there or may not be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def read_number(text: str | None) -> int | None:
    """Read a whole number above 0; None if it is none."""
    return int(text) if text is not None and text.strip().isdigit() and int(text) > 0 else None
