"""One group call at a time in an output folder."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["alone"]

log = logging.getLogger(__name__)

PATIENCE: Final = 600.0
"""Seconds that a call waits for another one in the same output folder."""
PAUSE: Final = 0.2
"""Seconds between two looks."""


@contextlib.contextmanager
def alone(root: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Let one group call at a time write into an output folder.

    Each file is whole at any moment; a lock keeps those of one call together. It goes away with
    the process, however that ends.

    Parameters
    ----------
    root : Path
        The output folder.
    patience : float
        Seconds to wait for another call.

    Raises
    ------
    TemporaryError
        If the other call takes longer.
    """
    folder = root / "retrieval"
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + patience
        while not _is_locked(handle, folder):
            if time.monotonic() >= deadline:
                raise TemporaryError(
                    f"another group call is at work in {root}, for more than {patience:g} s",
                    fix="call again when it has ended",
                )
            time.sleep(PAUSE)
        yield
    finally:
        os.close(handle)


def _is_locked(handle: int, folder: Path) -> bool:
    """Take the lock; False if another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network disks know no locks; files are still renamed into place one by one.
        log.warning("%s cannot be locked: %s; call the group level once at a time", folder, error)
    return True
