"""Scratch in the output folder: one folder a call, removed at its end or by a later call.

The folder is held by a lock that the kernel drops when its process dies, however it dies; so a
later call on the same machine can tell what was left behind from what is being used.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["open_scratch", "remove_abandoned"]

PREFIX: Final = ".work-"
LOCK: Final = "held"


@contextlib.contextmanager
def open_scratch(output_dir: Path) -> Iterator[Path]:
    """Make a scratch folder that goes away by itself.

    Parameters
    ----------
    output_dir : Path
        Where: on the disk of the results, so that files can be moved to their places.

    Yields
    ------
    Path
        The folder.
    """
    prefix = _prefix()
    with (
        tempfile.TemporaryDirectory(
            prefix=prefix, dir=output_dir, ignore_cleanup_errors=True
        ) as made,
        (Path(made) / LOCK).open("wb") as lock,
    ):
        with contextlib.suppress(OSError):  # some network disks have no locks: never abandoned
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(made)


def remove_abandoned(output_dir: Path) -> list[Path]:
    """Remove scratch of calls on this machine that were killed.

    Parameters
    ----------
    output_dir : Path
        Where they worked.

    Returns
    -------
    list of Path
        Folders that were removed.
    """
    removed = []
    for folder in sorted(output_dir.glob(_prefix() + "*")):
        try:
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # used, just being made or unmade, or of somebody else
            continue
        removed.append(folder)
    return removed


def _prefix() -> str:
    """Begin the names of this machine: locks of others may not be seen here."""
    return f"{PREFIX}{re.sub('[^0-9A-Za-z]', '', socket.gethostname())[:32]}-"
