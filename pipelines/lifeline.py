"""Worker processes that do not outlive the call they work for."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from typing import Final

__all__ = ["die_with_parent"]

PR_SET_PDEATHSIG: Final = 1
"""From <linux/prctl.h>: the signal that the kernel sends when the parent ends."""


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # it ended before the kernel was asked
