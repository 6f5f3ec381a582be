"""Bring one file here: aside first, whole or not at all, and never other bytes than announced.

A connection that is cut is taken up again where it broke, also by a later call. Only a file whose
size and hash are right gets its name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from neurostorm_app.errors import (
    AppError,
    CannotCreateError,
    TemporaryError,
    WrongWeightsError,
)
from neurostorm_app.models.checkpoint import POINTER
from neurostorm_app.models.lockfile import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    OpenAt = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
    Progress = Callable[[str, int, int], None]

__all__ = ["Remote", "download", "git_id", "part_of", "put_in_place", "verify"]

RETRIES = 5
"""Times a connection may break without having brought anything."""
PAUSE = 1.0
"""Seconds before it is taken up again; doubled each time nothing came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What the source says of a file.

    Parameters
    ----------
    url : str
        Where it is.
    size : int
        Bytes.
    sha256 : str or None
        Its hash, where the source tells it.
    git_id : str or None
        Its name as an object of git: the SHA-1 of its size and content.
    """

    url: str
    size: int
    sha256: str | None = None
    git_id: str | None = None


def part_of(target: Path, identity: str) -> Path:
    """Name the file that a download grows in, one for each content, and remove those of others.

    Parameters
    ----------
    target : Path
        The file to be.
    identity : str
        What tells this content from others, such as its hash.

    Returns
    -------
    Path
        Beside the target, hidden.
    """
    part = target.with_name(f".{target.name}.{hashlib.sha256(identity.encode()).hexdigest()[:12]}")
    part = part.with_suffix(part.suffix + ".part")
    for other in target.parent.glob(f".{target.name}.*.part"):
        if other != part:
            other.unlink(missing_ok=True)
    return part


def download(remote: Remote, part: Path, open_at: OpenAt, *, progress: Progress) -> None:
    """Receive what is missing of a file.

    Parameters
    ----------
    remote : Remote
        The file.
    part : Path
        Where it grows; what is there already is kept.
    open_at : callable
        From a first byte to a context with the byte it really begins with and the bytes in chunks;
        raises `TemporaryError` when the connection breaks.
    progress : callable
        Gets the address, the bytes that are here, and those there will be.

    Raises
    ------
    TemporaryError
        If the connection broke again and again without bringing anything. What came is kept.
    WrongWeightsError
        If more comes than was announced.
    CannotCreateError
        If there is no space, or writing fails.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as stream:
            if stream.seek(0, os.SEEK_END) > remote.size:
                _empty(stream)
            _check_space(part.parent, remote.size - stream.tell())
            _receive_all(remote, stream, open_at, progress)
            stream.flush()
            os.fsync(stream.fileno())
    except AppError:
        raise
    except OSError as why:
        raise CannotCreateError(
            f"{part.parent}: writing broke off after {part.stat().st_size} of {remote.size} bytes "
            f"({why.strerror or why})",
            fix="free space or check the disk, then call again: what came is kept",
        ) from why


def _check_space(folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < missing:
        raise CannotCreateError(
            f"{folder}: {free} bytes are free; {missing} are to come",
            fix="free space, or fetch into another folder with --weights-dir",
        )


def _receive_all(remote: Remote, stream: BinaryIO, open_at: OpenAt, progress: Progress) -> None:
    failures = 0
    while (had := stream.tell()) < remote.size:
        try:
            _receive(remote, stream, open_at, progress)
            why: TemporaryError | None = None
        except TemporaryError as error:
            why = error
        if stream.tell() >= remote.size:
            return
        failures = 0 if stream.tell() > had else failures + 1
        if failures > RETRIES:
            raise TemporaryError(
                f"{remote.url}: the connection broke off after {stream.tell()} of {remote.size} "
                f"bytes{f' ({why.what})' if why else ''}",
                fix="call again: what came is kept, and the rest is fetched",
            ) from why
        time.sleep(PAUSE * 2**failures)


def _receive(remote: Remote, stream: BinaryIO, open_at: OpenAt, progress: Progress) -> None:
    with open_at(stream.tell()) as (start, chunks):
        if start != stream.tell():  # the source begins anew
            _empty(stream)
        for chunk in chunks:
            if stream.tell() + len(chunk) > remote.size:
                raise WrongWeightsError(
                    f"{remote.url}: more bytes come than the {remote.size} that were announced",
                    fix="try again later; if it stays so, do not trust this source",
                )
            stream.write(chunk)
            progress(remote.url, stream.tell(), remote.size)


def _empty(stream: BinaryIO) -> None:
    stream.seek(0)
    stream.truncate()


def verify(part: Path, remote: Remote, *, known: tuple[str, str] | None) -> str:
    """Compare what came with all that is known of the file; what is wrong is removed.

    Parameters
    ----------
    part : Path
        What came.
    remote : Remote
        What the source says.
    known : tuple of str and str, or None
        The SHA-256 it must have, and who says so.

    Returns
    -------
    str
        Its SHA-256.

    Raises
    ------
    WrongWeightsError
        If it is another file than it should be.
    """
    actual = hash_file(part)
    expected = [known] if known else []
    if remote.sha256:
        expected.append((remote.sha256, "the source"))
    for sha256, who in expected:
        if actual != sha256:
            part.unlink()
            raise WrongWeightsError(
                f"{remote.url}: what came has the SHA-256 {actual}; {who} says {sha256}; it was "
                "removed",
                fix="call again; if it stays so, the file was changed at its source or on its way",
            )
    if remote.git_id and git_id(part) != remote.git_id:
        part.unlink()
        raise WrongWeightsError(
            f"{remote.url}: what came is not the object {remote.git_id} of its repository; it was "
            "removed",
            fix="call again; if it stays so, the file was changed at its source or on its way",
        )
    with part.open("rb") as stream:
        pointer = stream.read(len(POINTER)) == POINTER
    if pointer:
        part.unlink()
        raise WrongWeightsError(
            f"{remote.url}: the repository holds a Git LFS pointer there, not the file",
            fix="get the file with git lfs from its repository, and give it with --weights",
        )
    return actual


def git_id(path: Path) -> str:
    """Name a file as git does.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    str
        SHA-1 of its size and content, 40 hexadecimal digits.
    """
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def put_in_place(part: Path, target: Path) -> None:
    """Give a verified file its name, at once, so that it survives a loss of power."""
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
