"""The memory of a call: that of its process and of all that it started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["resident_memory"]


def resident_memory(root: int, proc: Path = Path("/proc")) -> int:
    """Count the bytes that a process and its descendants hold in memory.

    Parameters
    ----------
    root : int
        Number of the process.
    proc : Path
        Where the kernel tells it.

    Returns
    -------
    int
        Resident bytes; pages that two of them share count twice. 0 where the kernel does not
        tell it.
    """
    sizes: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for pid, parent, pages in _processes(proc):
        sizes[pid] = pages
        children.setdefault(parent, []).append(pid)
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        total += sizes.get(pid, 0)
        todo += children.get(pid, [])
    return total * os.sysconf("SC_PAGESIZE")


def _processes(proc: Path) -> Iterator[tuple[int, int, int]]:
    """Yield number, parent and resident pages of each process."""
    if not proc.is_dir():
        return
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # The name of the program, in brackets, may hold anything.
        fields = text.rpartition(")")[2].split()
        yield int(folder.name), int(fields[1]), int(fields[21])
