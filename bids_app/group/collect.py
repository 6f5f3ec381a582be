"""Collect the embeddings of a model: what earlier calls have is taken, and only the rest is read.

A row of a table holds as long as size and time of the run's files, or else their content, are what
they were. Runs that were not made alike are never put into one table.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.bids_app.describe import bids_uri
from neurostorm_app.bids_app.group.fingerprint import (
    AGAIN,
    TOLD,
    describe_differences,
    differences,
    identity,
    read_fingerprint,
    shown,
)
from neurostorm_app.bids_app.group.rows import read_run
from neurostorm_app.bids_app.group.store import Collected, Row, Stored, read_table
from neurostorm_app.bids_app.provenance import sha256_of
from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.progress import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.bids_app.group.rows import Entry

__all__ = ["collect", "describe_differences", "in_part"]

log = logging.getLogger(__name__)


def in_part(participant: str, part: tuple[int, int] | None) -> bool:
    """Tell whether a participant belongs to a part, whoever else there is.

    Parameters
    ----------
    participant : str
        Without ``sub-``.
    part : tuple of int or None
        Which part, from 1 on, of how many; None for all.

    Examples
    --------
    >>> [sum(in_part("01", (i, 4)) for i in (1, 2, 3, 4)), in_part("01", None)]
    [1, True]
    """
    if part is None:
        return True
    digest = hashlib.sha256(participant.encode()).digest()
    return int.from_bytes(digest[:8], "big") % part[1] == part[0] - 1


@dataclass(slots=True)
class _Gathering:
    """Rows so far, and where the vector of each is to be found."""

    root: Path
    rows: list[Row] = field(default_factory=list)
    made_by: list[str] = field(default_factory=list)
    fingerprints: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    fresh: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    stored: dict[Path, list[tuple[int, int]]] = field(default_factory=dict)

    def take(
        self,
        row: Row,
        fingerprint: Mapping[str, Any],
        key: str,
        vector: NDArray[np.float32] | tuple[Path, int],
    ) -> None:
        """Note a row, what made it, and its vector or the row of a table that holds it."""
        if isinstance(vector, tuple):
            table, place = vector
            self.stored.setdefault(table, []).append((len(self.rows), place))
        else:
            self.fresh[len(self.rows)] = vector
        self.fingerprints.setdefault(key, fingerprint)
        self.rows.append(row)
        self.made_by.append(key)


def collect(
    label: str, entries: Iterable[Entry], tables: Iterable[Path], *, root: Path
) -> Collected:
    """Collect the embeddings of one model; only those that no table holds are read.

    Parameters
    ----------
    label : str
        BIDS label of the model.
    entries : iterable of Entry
        At least one run, in the order of the rows.
    tables : iterable of Path
        Tables of earlier calls and of array jobs.
    root : Path
        The output folder.

    Returns
    -------
    Collected
        With the runs that cannot be used named in it.

    Raises
    ------
    DataError
        If the runs were not made alike, or none of them can be used.
    """
    stored = [table for path in tables if (table := read_table(path)) is not None]
    runs = list(entries)
    while isinstance(collected := _collect_with(stored, label, runs, root), Stored):
        stored.remove(collected)
    return collected


def _collect_with(
    stored: Sequence[Stored], label: str, entries: Sequence[Entry], root: Path
) -> Collected | Stored:
    """Collect with the help of some tables, or give back the one that turned out damaged."""
    keys = {table.path: identity(table.fingerprint) for table in stored}
    gathering = _Gathering(root)
    left_out: dict[Entry, DataError] = {}
    for entry in counted(entries, len(entries), "runs"):
        try:
            _gather(entry, stored, keys, gathering)
        except DataError as error:
            left_out[entry] = error
            log.warning("%s is left out of %s: %s", entry.run, label, error.what)
    if not gathering.rows:
        first = next(iter(left_out.values()))
        raise DataError(
            f"none of the {len(left_out)} runs of {label} can be used; {first.what}", fix=first.fix
        )
    _check_alike(label, gathering)
    (fingerprint,) = gathering.fingerprints.values()
    vectors = _join(gathering, stored, fingerprint["EmbeddingDimension"])
    if isinstance(vectors, Stored):
        return vectors
    return Collected(
        label=label,
        rows=tuple(gathering.rows),
        vectors=vectors,
        fingerprint=fingerprint,
        demo=fingerprint["Demo"],
        left_out=left_out,
        n_read=len(gathering.fresh),
    )


def _gather(
    entry: Entry, stored: Sequence[Stored], keys: Mapping[Path, str], gathering: _Gathering
) -> None:
    """Take one run from a table, or read it.

    Stamps are taken first: a file that is replaced meanwhile is read again by the next call.
    """
    source, stamps = bids_uri(entry.path, {"": gathering.root}), _stamp(entry)
    held = [(table, table.places[source]) for table in stored if source in table.places]
    for table, place in held:
        if table.stamps(place) == stamps:
            row = _row(entry, source, table.columns["sha256"][place], stamps)
            gathering.take(row, table.fingerprint, keys[table.path], (table.path, place))
            return
    sha256 = sha256_of(entry.path) if held else ""
    for table, place in held:
        if table.columns["sha256"][place] == sha256:
            made_by = read_fingerprint(entry)
            if made_by["EmbeddingDimension"] == table.fingerprint["EmbeddingDimension"]:
                row = _row(entry, source, sha256, stamps)
                gathering.take(row, made_by, identity(made_by), (table.path, place))
                return
    reading = read_run(entry)
    row = _row(entry, source, reading.sha256, stamps)
    gathering.take(row, reading.fingerprint, identity(reading.fingerprint), reading.vector)


def _stamp(entry: Entry) -> tuple[int, ...]:
    """Tell size and time of a run's files."""
    try:
        table = entry.path.stat()
    except OSError as error:
        raise DataError(
            f"{entry.path} cannot be read: {error.strerror}",
            fix="get the content of the file, or embed the run again",
        ) from error
    try:
        sidecar = entry.sidecar.stat()
    except OSError as error:
        raise DataError(
            f"{entry.sidecar} is not there: nothing says what made {entry.path.name}", fix=AGAIN
        ) from error
    return table.st_size, table.st_mtime_ns, sidecar.st_size, sidecar.st_mtime_ns


def _row(entry: Entry, source: str, sha256: str, stamps: tuple[int, ...]) -> Row:
    return Row(
        participant=entry.participant,
        session=entry.session,
        run=entry.run,
        path=entry.path,
        source=source,
        sha256=sha256,
        stamps=stamps,
    )


def _join(
    gathering: _Gathering, stored: Sequence[Stored], dimension: int
) -> NDArray[np.float32] | Stored:
    """Bring the vectors to the order of the rows, (N, D), or give back a damaged table."""
    vectors = np.empty((len(gathering.rows), dimension), np.float32)
    for table in stored:
        if pairs := gathering.stored.get(table.path):
            found = table.vectors([place for _, place in pairs])
            if found is None:
                return table
            vectors[[number for number, _ in pairs]] = found
    for number, vector in gathering.fresh.items():
        vectors[number] = vector
    return vectors


def _check_alike(label: str, gathering: _Gathering) -> None:
    """Refuse runs of different weights, contracts, parcellations, spaces or lengths."""
    if len(gathering.fingerprints) == 1:
        return
    counts = Counter(gathering.made_by).most_common()
    differing = differences(list(gathering.fingerprints.values()))
    groups = []
    for key, n in counts:
        example = gathering.rows[gathering.made_by.index(key)]
        values = shown(gathering.fingerprints[key], differing[:TOLD])
        groups.append(f"{n} such as {example.path} ({', '.join(values)})")
    more = len(differing) - TOLD
    raise DataError(
        f"the runs of {label} were not made alike, and are not put into one table: "
        f"{'; '.join(groups)}" + (f"; {more} more differences" if more > 0 else ""),
        fix="embed all runs of the model with the same weights, atlas, space and options, and "
        "remove the embeddings that are not wanted or move them to an OUTPUT_DIR of their own; "
        "then call the group level again",
    )
