"""A folder of weights: the files of cards in it, each locked by the hash it had at first sight.

Files of a card lie in a folder of its name. A file that is here and right is not fetched again;
one that is here and wrong is never replaced, but told of.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import UsageError, WrongWeightsError
from neurostorm_app.models.card import AtlasCard
from neurostorm_app.models.lockfile import LOCK, LockEntry, alone, hash_file, read_lock, write_lock
from neurostorm_app.models.transfer import download, git_id, part_of, put_in_place, verify

if TYPE_CHECKING:
    from neurostorm_app.models.card import Card, Source
    from neurostorm_app.models.transfer import Progress, Remote

__all__ = ["PERMISSIVE", "Fetched", "fetch_files"]

PERMISSIVE: Final = {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0"}
"""Licences that ask for no more than a mention; all others have to be accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that is now on this machine.

    Parameters
    ----------
    path : Path
        The file.
    sha256 : str
        Its hash.
    size : int
        Bytes.
    was_there : bool
        It was here before, and is what it should be.
    """

    path: Path
    sha256: str
    size: int
    was_there: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A file of a card: its path in the repository and what the card knows of it."""

    file: str
    sha256: str | None = None


def fetch_files(card: Card | AtlasCard, weights_dir: Path, *, progress: Progress) -> list[Fetched]:
    """Bring the files of a card into a folder of weights, under its name.

    Parameters
    ----------
    card : Card or AtlasCard
        Of a model with weights, or of an atlas.
    weights_dir : Path
        The folder of weights; it is made. The files come into a folder of the card's name.
    progress : callable
        Gets the address, the bytes that are here, and those there will be.

    Returns
    -------
    list of Fetched
        All files of the card.

    Raises
    ------
    UsageError
        If the card has no source, or no revision of it is known.
    MissingWeightsError
        If the source has no such revision or file, or wants a login.
    WrongWeightsError
        If a file is not what the card, the lock file or the source say it is.
    TemporaryError
        If the source cannot be reached, the connection breaks again and again, or another fetch
        writes into the folder. What came is kept for the next call.
    CannotCreateError
        If there is no space, or writing fails.
    """
    source = card.source
    if source is None or source.revision is None:
        known = "it comes with the package, has no weights, or they are released nowhere"
        if source is not None:
            known = f"no revision of {source.repository} is known that has {source.file}"
        raise UsageError(
            f"{card.name} cannot be fetched: {known}",
            fix="see neurostorm-tools weights list; a file of yours is given with --weights",
        )
    (weights_dir / card.name).mkdir(parents=True, exist_ok=True)
    with alone(weights_dir):
        # What belongs to the weights comes first: where they are, all of it is.
        return [_bring(card, source, w, weights_dir, progress) for w in reversed(_wanted(card))]


def _wanted(card: Card | AtlasCard) -> list[_Wanted]:
    source = card.source
    if source is None:
        return []
    if isinstance(card, AtlasCard):
        known = {k.file: k.sha256 for k in (card.labels, card.coordinates) if k}
    else:
        known = {str(card.file): card.sha256} if card.sha256 else {}
    files = (source.file, *source.also)
    return [_Wanted(file=f, sha256=known.get(PurePosixPath(f).name)) for f in files]


def _bring(
    card: Card | AtlasCard, source: Source, wanted: _Wanted, folder: Path, progress: Progress
) -> Fetched:
    """Bring one file, or see that it is here."""
    from neurostorm_app.models.fetch import look_up, open_at, resolve

    lock = read_lock(folder)
    key = f"{card.name}/{PurePosixPath(wanted.file).name}"
    target, entry = folder / key, lock.get(key)
    if entry is not None:
        _check_entry(entry, source, wanted, folder / LOCK)
    known = (wanted.sha256, "the card") if wanted.sha256 else None
    if known is None and entry is not None:
        known = (entry.sha256, str(folder / LOCK))
    if target.is_file() and entry is not None and known is not None:
        return _see(target, known)
    revision = entry.revision if entry is not None else resolve(source)
    remote = look_up(source, revision, wanted.file)
    _agree(remote, known)
    part = None
    if target.is_file():
        found = _see(target, known or _source_says(remote, target))
    else:
        part = part_of(target, known[0] if known else remote.sha256 or remote.git_id or remote.url)
        _copy_twin(lock, (source.repository, revision, wanted.file), folder, part)
        download(remote, part, lambda start: open_at(remote.url, start), progress=progress)
        sha256 = verify(part, remote, known=known)
        found = Fetched(path=target, sha256=sha256, size=remote.size, was_there=False)
    lock[key] = LockEntry(
        name=card.name,
        host=source.host,
        repository=source.repository,
        revision=revision,
        file=wanted.file,
        size=found.size,
        sha256=found.sha256,
        licence=card.licence,
        first_seen=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_lock(folder, lock)
    if part is not None:
        put_in_place(part, target)
    return found


def _agree(remote: Remote, known: tuple[str, str] | None) -> None:
    """Refuse a file by what its source says of it, before it is fetched."""
    if known is not None and remote.sha256 is not None and known[0] != remote.sha256:
        raise WrongWeightsError(
            f"{remote.url}: the source offers a file with the SHA-256 {remote.sha256}; {known[1]} "
            f"says {known[0]}",
            fix="the file was changed at its source, or the mirror is of something else",
        )


def _source_says(remote: Remote, target: Path) -> tuple[str, str] | None:
    if remote.sha256 is not None:
        return remote.sha256, "the source"
    if remote.git_id is not None and git_id(target) == remote.git_id:
        return hash_file(target), "the source"
    return None


def _check_entry(entry: LockEntry, source: Source, wanted: _Wanted, lock: Path) -> None:
    ours = (source.repository, str(source.revision), wanted.file)
    same = (entry.repository, entry.revision[: len(ours[1])], entry.file) == ours
    if not same or (wanted.sha256 and wanted.sha256 != entry.sha256):
        raise WrongWeightsError(
            f"{lock}: holds {entry.file} of {entry.repository}, revision {entry.revision}, SHA-256 "
            f"{entry.sha256}; the card is of {' '.join(ours)} {wanted.sha256 or ''}".rstrip(),
            fix="fetch into another folder, or move the old file and the lock file away",
        )


def _see(target: Path, known: tuple[str, str] | None) -> Fetched:
    """See that a file that is here is the right one."""
    actual = hash_file(target)
    if known is None or known[0] != actual:
        says = f"{known[1]} says {known[0]}" if known else "nothing is known to compare it with"
        raise WrongWeightsError(
            f"{target}: is there already, with the SHA-256 {actual}; {says}",
            fix="move this file away and fetch again",
        )
    return Fetched(path=target, sha256=actual, size=target.stat().st_size, was_there=True)


def _copy_twin(
    lock: dict[str, LockEntry], remote_file: tuple[str, str, str], folder: Path, part: Path
) -> None:
    """Take the file from another model of this folder that has the same; it is verified later."""
    for key, entry in lock.items():
        same = (entry.repository, entry.revision, entry.file) == remote_file
        if same and (folder / key).is_file() and not part.exists():
            shutil.copyfile(folder / key, part)
