"""The lock file of a folder of weights: what each file was when it was first fetched.

A file whose SHA-256 no card knows is trusted the first time it comes from its source, and from
then on must stay what it was: for a second fetch, and whenever it is loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neurostorm_app.errors import TemporaryError, WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LOCK", "LockEntry", "alone", "hash_file", "read_lock", "recorded_hash", "write_lock"]

LOCK = "weights-lock.json"
"""Name of the lock file; it lies in the folder of weights."""
GUARD = ".weights-fetch"
"""Name of the empty file that is locked while a fetch writes into the folder."""


class LockEntry(BaseModel):
    """What one file was when it was first seen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Of the model or atlas."""
    host: str
    repository: str
    revision: str
    """Commit of the source, in full."""
    file: str
    """Path in the repository."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    licence: str
    """As it was shown when the file was fetched."""
    first_seen: str
    """Date and time, UTC, ISO 8601."""


class _Lock(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    files: dict[str, LockEntry] = {}


def hash_file(path: Path) -> str:
    """Hash a file.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_lock(folder: Path) -> dict[str, LockEntry]:
    """Read the lock file of a folder of weights.

    Parameters
    ----------
    folder : Path
        The folder of weights.

    Returns
    -------
    dict of str to LockEntry
        By path in the folder, such as ``brainlm/pytorch_model.bin``; empty without a lock file.

    Raises
    ------
    WrongWeightsError
        If the lock file is not one.
    """
    path = folder / LOCK
    if not path.is_file():
        return {}
    try:
        return _Lock.model_validate_json(path.read_bytes()).files
    except ValidationError as why:
        raise WrongWeightsError(
            f"{path}: is not a lock file of weights: {str(why).splitlines()[-2].strip()}",
            fix="restore it, or move it away with the files beside it and fetch them again",
        ) from why


def write_lock(folder: Path, files: dict[str, LockEntry]) -> None:
    """Replace the lock file of a folder at once; a cut leaves the old one.

    Parameters
    ----------
    folder : Path
        The folder of weights.
    files : dict of str to LockEntry
        By path in the folder.
    """
    lock = _Lock(files=dict(sorted(files.items())))
    aside = folder / f".{LOCK}.{os.getpid()}"
    with aside.open("w", encoding="utf-8") as stream:
        json.dump(lock.model_dump(mode="json"), stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(folder / LOCK)


def recorded_hash(path: Path) -> tuple[str, Path] | None:
    """Look up what a file must be, in the lock file of the folder it lies in.

    Parameters
    ----------
    path : Path
        A file of a folder of weights, in it or one folder further down.

    Returns
    -------
    tuple of str and Path, or None
        Its SHA-256 and the lock file that says so.

    Raises
    ------
    WrongWeightsError
        If there is a lock file and it is damaged.
    """
    path = path.absolute()
    for folder in (path.parent, path.parent.parent):
        entry = read_lock(folder).get(path.relative_to(folder).as_posix())
        if entry is not None:
            return entry.sha256, folder / LOCK
    return None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other fetches out of a folder of weights.

    Raises
    ------
    TemporaryError
        If another one is at work in it.
    """
    with (folder / GUARD).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            raise TemporaryError(
                f"{folder}: another fetch writes into this folder of weights",
                fix="wait until it has ended, then call again",
            ) from why
        yield
