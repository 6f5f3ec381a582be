"""Signals: a call that is told to end does so cleanly, within ten seconds, with exit code 75.

`Listening` turns a signal into `Stopped`, raised in the main thread, so that every ``with`` removes
what it made. `run_apart` does the work in a process of its own beside a small one that only waits:
that one ends the work if it does not end by itself, as while a library computes for minutes and
lets no Python run, and it says what happened when the kernel killed the work for its memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from neurostorm_app.bids_app.deaths import tell_death
from neurostorm_app.bids_app.scratch import remove_abandoned
from neurostorm_app.errors import TemporaryError
from neurostorm_app.pipelines.cgroups import read_memory_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Listening", "Stopped", "run_apart"]

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE: Final = 7
"""Seconds after which work that was told to end is killed."""
AGAIN: Final = 0.05
"""Seconds after which work that swallowed `Stopped` is told again; nipype swallows all it can."""
DYING: Final = 1.0
"""Seconds to wait for killed processes; one that waits for a disk may take longer."""
TWICE: Final = 1.0
"""Seconds within which a second Ctrl-C is the first one, which a launcher has passed on too."""
DIE_WITH_PARENT: Final = 1
"""``PR_SET_PDEATHSIG`` of prctl(2)."""
TRACKER: Final = b"resource_tracker"
"""Ends by itself after the last process that it serves, and removes the semaphores they left."""


class Stopped(BaseException):
    """The call was told to end.

    Parameters
    ----------
    signum : int
        By which signal.
    kept : str
        What is finished and what was under way, once somebody knows it.
    """

    def __init__(self, signum: int, kept: str = "") -> None:
        super().__init__(signum)
        self.signum = signum
        self.kept = kept

    def told(self) -> TemporaryError:
        """Say it to the user."""
        return TemporaryError(
            f"stopped by {signal.Signals(self.signum).name}; finished results are kept, what was"
            " not finished is removed" + (f" ({self.kept})" if self.kept else ""),
            fix="call again in the same way: it goes on where this call stopped",
        )


class Listening:
    """Where signals end the work instead of the process, in the main thread.

    Child processes are killed first: they write to scratch alone, and would hold up the clean-up.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._before: dict[int, Any] = {}
        self._over = False

    def __enter__(self) -> Self:
        """Listen; elsewhere than in the main thread Python cannot."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._stop)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the signals as they were; raise what somebody swallowed, or what came just now."""
        self._over = True
        if self._signum is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self._signum is not None and (kind is None or not issubclass(kind, Stopped)):
            raise Stopped(self._signum)

    def _stop(self, signum: int, _: object) -> None:
        """End the work, unless it is at its end, or being cleaned up already."""
        if self._over:
            self._signum = self._signum or signum
            return
        if self._signum is None:
            self._signum = signum
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._stop)
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        if _unwinding():
            return
        _kill(lambda: _descendants(os.getpid()))
        raise Stopped(self._signum)


def _unwinding() -> bool:
    """Tell whether `Stopped` is on its way up, through somebody's clean-up."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, Stopped):
            return True
        error = error.__context__
    return False


def run_apart(work: Callable[[], int], *, output_dir: Path) -> int:
    """Do the work in a process of its own, and wait for it.

    Parameters
    ----------
    work : callable
        Gives the exit code. Called where nothing has started threads yet.
    output_dir : Path
        From which scratch is removed if the work could not do it.

    Returns
    -------
    int
        In both processes; both go on from here to their end.

    Raises
    ------
    AppError
        If the work was killed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    sys.stdout.flush()
    sys.stderr.flush()
    groups = read_memory_groups()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        os.setpgid(0, 0)  # Ctrl-C reaches the waiting process, which passes it on once
        _die_with(parent)
        with Listening():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return work()
    with contextlib.suppress(OSError):  # whichever of the two is first
        os.setpgid(pid, pid)
    child = _Child(pid)
    code = _wait(child)
    if code >= 0:
        return code
    child.kill()
    remove_abandoned(output_dir)
    raise Stopped(child.asked).told() if child.asked is not None else tell_death(-code, groups)


@dataclass(slots=True)
class _Child:
    """The process that works.

    Parameters
    ----------
    pid : int
        Of it, and of its process group.
    asked : int or None
        The signal that it was told to end by.
    since : float
        When, by the monotonic clock.
    over : bool
        Whether it has ended, and its number may be that of another process.
    """

    pid: int
    asked: int | None = None
    since: float = 0.0
    over: bool = False

    def forward(self, signum: int, _: object) -> None:
        """Pass a signal on; after a while, or a later Ctrl-C, there is no choice left."""
        if signum == signal.SIGINT and self.asked is not None:
            if time.monotonic() - self.since > TWICE:
                self.kill()
            return
        if self.asked is None:
            self.asked, self.since = signum, time.monotonic()
            signal.alarm(GRACE)
        self._send(os.kill, signum)

    def pause(self, *_: object) -> None:
        """Stop it and this process, as Ctrl-Z asks, until the shell lets both go on."""
        self._send(os.killpg, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(os.killpg, signal.SIGCONT)

    def kill(self, *_: object) -> None:
        """Kill it and all it started."""
        _kill(lambda: _members(self.pid))

    def _send(self, how: Callable[[int, int], None], signum: int) -> None:
        """Send a signal to it, or its group, unless it has just ended by itself."""
        if not self.over:
            with contextlib.suppress(ProcessLookupError):
                how(self.pid, signum)


def _wait(child: _Child) -> int:
    """Wait for the process that works; give its exit code, or minus the signal that ended it."""
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, child.forward)
    signal.signal(signal.SIGALRM, child.kill)
    signal.signal(signal.SIGTSTP, child.pause)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _, status = os.waitpid(child.pid, 0)
    child.over = True
    signal.alarm(0)
    return os.waitstatus_to_exitcode(status)


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the waiting one dies."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _kill(living: Callable[[], list[int]]) -> None:
    """Kill processes, and those they start meanwhile, and wait until they are gone."""
    until = time.monotonic() + DYING
    while (pids := living()) and time.monotonic() < until:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def _members(group: int) -> list[int]:
    """List the living processes of a process group."""
    return [pid for pid, _, theirs in _processes() if theirs == group and not _tracks(pid)]


def _descendants(root: int) -> list[int]:
    """List the living processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for pid, parent, _ in _processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    todo = [root]
    while todo:
        new = children.get(todo.pop(), [])
        found += new
        todo += new
    return [pid for pid in found if not _tracks(pid)]


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield pid, parent and group of each process that lives; none where there is no ``/proc``."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        state, parent, group = text.rpartition(")")[2].split()[:3]
        if state not in "ZX":
            yield int(folder.name), int(parent), int(group)


def _tracks(pid: int) -> bool:
    try:
        return TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
