"""What a call writes aside in the output folder, and how it goes away, whatever ends the call.

There is one folder of scratch a call, and a file for each result that is being written. Both are
held by a lock that the kernel drops when the process dies, however it dies; so a later call under
the same kernel can tell what was left behind from what is being used. Locks of other kernels may
not be seen here: what they left is judged by its age, and so is all of it on disks without locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["open_part", "open_scratch", "remove_abandoned"]

PREFIX: Final = ".work-"
PART: Final = ".part-"
LOCK: Final = "held"
OLD: Final = 7 * 24 * 3600.0
"""Seconds without a change after which scratch that no lock tells of is taken for abandoned."""
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
"""The same in all containers of a machine, and another one after each start of it."""


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
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_place()}-", dir=output_dir))
        try:
            lock = (folder / LOCK).open("wb")
        except FileNotFoundError:  # another call took the empty folder for abandoned
            continue
        if _hold(lock):
            break
        lock.close()
    try:
        with lock:
            try:
                yield folder
            finally:
                with contextlib.suppress(OSError):  # a later call removes what is left
                    _empty(folder)
    finally:  # after its lock is closed: network disks keep a file that is open, and the folder
        _unmake(folder)


@contextlib.contextmanager
def open_part(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a file that is going to be renamed to its place; it goes away if that fails.

    Parameters
    ----------
    folder : Path
        Where, on the disk of that place.

    Yields
    ------
    tuple of Path and BinaryIO
        Its name, and the file, open for writing and reading.
    """
    while True:
        prefix = f"{PART}{_place()}-"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=folder)
        file = os.fdopen(handle, "w+b")
        if _hold(file):
            break
        file.close()
    part = Path(name)
    try:
        with file:
            yield part, file
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _hold(file: BinaryIO) -> bool:
    """Lock a file of ours that is new; False if another call has just removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network disks have no locks: abandoned only when it is old
        return True
    return os.fstat(file.fileno()).st_nlink > 0


def remove_abandoned(folder: Path, *, of_anybody: bool = True) -> list[Path]:
    """Remove what calls that were killed wrote aside.

    Parameters
    ----------
    folder : Path
        Where they worked.
    of_anybody : bool
        Also what other users left. Where anybody may write, as in ``/tmp``, what is another user's
        may be a trap.

    Returns
    -------
    list of Path
        Folders and files that were removed.
    """
    found = [*folder.glob(f"{PREFIX}*"), *folder.glob(f"{PART}*.part")]
    return [p for p in sorted(found) if (of_anybody or _is_ours(p)) and _is_abandoned(p)]


def _is_ours(path: Path) -> bool:
    """Tell whether scratch was made by this user, and is no link to somewhere else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode)


def _is_abandoned(path: Path) -> bool:
    """Remove scratch that nobody holds; False if somebody may."""
    inside = path.name.startswith(PREFIX)
    try:
        if not _may_lock(path):
            return False
        with (path / LOCK if inside else path).open("r+b") as lock:
            if not _is_free(lock, path):
                return False
            if inside:
                _empty(path)
            else:
                path.unlink()
    except FileNotFoundError:  # just being made, or unmade
        return inside and _unmake(path)
    except OSError:  # of somebody else
        return False
    return _unmake(path) if inside else True


def _is_free(lock: BinaryIO, path: Path) -> bool:
    """Take the lock of scratch; where a disk has no locks its age decides."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return _is_old(path, OLD)
    return True


def _may_lock(path: Path) -> bool:
    """Tell whether a lock, if there is one, is seen here, or scratch is too old to be in use.

    Locks of the same kernel are seen. A machine of the same name under another kernel is this one
    before it was started again, or another one: what has changed since this start is of another.
    """
    host, boot = _place().split("-")
    theirs, _, rest = path.name.partition("-")[2].partition("-")
    if rest.partition("-")[0] == boot:
        return True
    return _is_old(path, time.clock_gettime(time.CLOCK_BOOTTIME) if theirs == host else OLD)


def _is_old(path: Path, seconds: float) -> bool:
    """Tell whether nothing in a folder or a file has changed for so long."""
    found = itertools.chain((path,), path.rglob("*"))
    return all(time.time() - one.lstat().st_mtime > seconds for one in found)


def _empty(folder: Path) -> None:
    """Remove what is in a scratch folder whose lock is ours.

    The lock goes last: while it is there it tells the next call that the rest is to go.
    """
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if [path.name for path in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()


def _unmake(folder: Path) -> bool:
    """Remove a scratch folder that is empty; False if it is not, as one that is just held."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        return True
    return False


def _place() -> str:
    """Name this machine, so that its name is not told, and its kernel."""
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]
    boot = BOOT.read_text(encoding="ascii")[:8] if BOOT.is_file() else host
    return f"{host}-{boot}"
