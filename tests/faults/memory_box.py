"""A limit of memory that the kernel keeps: a cgroup of version 1 or 2, made for one command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

CGROUPS = Path("/sys/fs/cgroup")


@dataclass
class MemoryBox:
    """A cgroup with a limit.

    Peak memory is that of programs (`rss` or `anon`): pages of files that were read count too as
    long as nobody needs the room, up to the limit, and say nothing.
    """

    folder: Path
    version: int
    peak: int = 0

    def run(self, argv, *, timeout: float, **kwargs) -> subprocess.CompletedProcess[str]:
        """Run a command inside; note its peak twenty times a second."""
        words = ["/bin/sh", "-c", 'echo $$ > "$0"; exec "$@"', str(self.folder / "cgroup.procs")]
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                [*words, *map(str, argv)], stdout=said, stderr=subprocess.STDOUT, **kwargs
            )
            until = time.monotonic() + timeout
            while process.poll() is None and time.monotonic() < until:
                self.peak = max(self.peak, self.used())
                time.sleep(0.05)
            late = process.poll() is None
            if late:
                self.kill()
                process.wait()
            said.seek(0)
            text = said.read()
        assert not late, f"not done in {timeout} s:\n{text[-3000:]}"
        return subprocess.CompletedProcess(argv, process.returncode, text, "")

    def kill(self) -> None:
        """End all that runs inside."""
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def used(self) -> int:
        """Bytes that programs inside hold."""
        words = {"anon", "shmem", "total_rss", "total_shmem"}
        stat = (self.folder / "memory.stat").read_text().splitlines()
        return sum(int(line.split()[1]) for line in stat if line.split()[0] in words)

    def highest(self) -> int:
        """Bytes of programs and files together at the highest, by the kernel's count."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        path = self.folder / name
        return int(path.read_text()) if path.exists() else 0

    def kills(self) -> int:
        """How often the kernel killed a process inside for its memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        lines = (self.folder / name).read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.split()[0] == "oom_kill")


@contextlib.contextmanager
def memory_box(limit: int):
    """Make a cgroup with a limit in bytes; skip the test where that is not possible."""
    made = _version_1(limit) or _version_2(limit)
    if made is None:
        pytest.skip("no cgroup can be made here: it takes root and a memory controller")
    try:
        yield made
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                made.folder.rmdir()
                break
            time.sleep(0.1)


def _version_1(limit: int) -> MemoryBox | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder = CGROUPS / "memory" / path.lstrip("/") / f"neurostorm-{os.getpid()}"
            try:
                folder.mkdir()
                (folder / "memory.limit_in_bytes").write_text(str(limit))
            except OSError:
                return None
            with contextlib.suppress(OSError):  # where swap is counted
                (folder / "memory.memsw.limit_in_bytes").write_text(str(limit))
            return MemoryBox(folder, 1)
    return None


def _version_2(limit: int) -> MemoryBox | None:
    line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
    # A cgroup with processes has no children with controllers, so it is made beside ours.
    folder = CGROUPS / line.split(":", 2)[2].lstrip("/")
    folder = folder.parent / f"neurostorm-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.max").write_text(str(limit))
    except OSError:
        return None
    with contextlib.suppress(OSError):
        (folder / "memory.swap.max").write_text("0")
    return MemoryBox(folder, 2)
