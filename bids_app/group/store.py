"""The embeddings of a model as one Parquet table: how it is written, and read again.

The same format serves the table of all runs and those that array jobs write of a part.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.bids_app.derivatives import move_aside
from neurostorm_app.bids_app.participant.outputs import PRIVACY
from neurostorm_app.bids_app.provenance import key_of
from neurostorm_app.bids_app.scratch import open_scratch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from neurostorm_app.bids_app.group.rows import Entry
    from neurostorm_app.errors import DataError

__all__ = [
    "Collected",
    "Row",
    "Stored",
    "count_rows",
    "read_rows",
    "read_table",
    "write_table",
]

log = logging.getLogger(__name__)

FORMAT: Final = 1
ABOUT: Final = b"neurostorm_app"
TEXTS: Final = ("participant_id", "session", "run", "source", "sha256")
STAMPS: Final = ("size", "mtime_ns", "sidecar_size", "sidecar_mtime_ns")
ROW_GROUP: Final = 16_384
"""Rows that are compressed together: one run is read without the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of a table.

    Parameters
    ----------
    participant, session : str
        Without ``sub-`` and ``ses-``; None if there is no session.
    run : str
        Its name.
    path : Path
        Its embedding.
    source : str
        The same as BIDS URI.
    sha256 : str
        Of the embedding.
    stamps : tuple of int
        Size in bytes and time of change in nanoseconds, of the embedding and of its sidecar.
    """

    participant: str
    session: str | None
    run: str
    path: Path
    source: str
    sha256: str
    stamps: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collected:
    """All runs of one model, made alike.

    Parameters
    ----------
    label : str
        BIDS label of the model.
    rows : tuple of Row
        In the order of participants and runs.
    vectors : ndarray, shape (N, D), float32
        Their embeddings, all finite.
    fingerprint : mapping
        What made them: weights, contract, atlas, space, precision, dimension.
    demo : bool
        Whether the weights are not for science.
    left_out : mapping of Entry to DataError
        Runs that could not be taken, and why.
    n_read : int
        Runs whose table was opened; all others are of earlier calls.
    """

    label: str
    rows: tuple[Row, ...]
    vectors: NDArray[np.float32]
    fingerprint: Mapping[str, Any]
    demo: bool
    left_out: Mapping[Entry, DataError]
    n_read: int

    def only(self, runs: Collection[str]) -> Collected:
        """Take the rows of some runs."""
        places = [i for i, row in enumerate(self.rows) if row.run in runs]
        if len(places) == len(self.rows):
            return self
        rows = tuple(self.rows[i] for i in places)
        return replace(self, rows=rows, vectors=self.vectors[places])

    @property
    def key(self) -> str:
        """Hash of what was collected, whenever it was written."""
        return key_of([[row.source, row.sha256] for row in self.rows])

    @property
    def stamped_key(self) -> str:
        """Hash that also changes when a file was written again."""
        return key_of([self.key, [row.stamps for row in self.rows]])


@dataclass(frozen=True, slots=True)
class Stored:
    """A table of an earlier call, without its vectors.

    Parameters
    ----------
    path : Path
        The Parquet file.
    fingerprint : mapping
        What made its embeddings.
    columns : mapping
        All columns but the vectors.
    places : mapping
        Row numbers by BIDS URI.
    """

    path: Path
    fingerprint: Mapping[str, Any]
    columns: Mapping[str, list[Any]]
    places: Mapping[str, int]

    def stamps(self, place: int) -> tuple[int, ...]:
        """Take the stamps of a row."""
        return tuple(self.columns[name][place] for name in STAMPS)

    def vectors(self, places: Sequence[int]) -> NDArray[np.float32] | None:
        """Read the vectors of some rows.

        Returns
        -------
        ndarray, shape (K, D), float32, or None
            In the order asked for. None if the file is damaged; the log says so.
        """
        found = read_rows(self.path, places)
        return None if found is None else found[1]


def read_rows(path: Path, places: Sequence[int]) -> tuple[list[str], NDArray[np.float32]] | None:
    """Read some rows of a table, and of the file no more than the parts they stand in.

    Parameters
    ----------
    path : Path
        The Parquet file.
    places : sequence of int
        Row numbers.

    Returns
    -------
    sources : list of str
        BIDS URIs, in the order asked for.
    vectors : ndarray, shape (K, D), float32
        Their embeddings. Instead of both None, if the file is damaged; the log says so.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    asked: dict[int, list[int]] = {}
    for number, place in enumerate(places):
        asked.setdefault(place // ROW_GROUP, []).append(number)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            vectors = np.empty((len(places), _check_columns(file.schema_arrow)), np.float32)
            sources = np.empty(len(places), object)
            for group, numbers in asked.items():  # one at a time: all would take twice the room
                found = file.read_row_group(group, columns=["source", "vector"], use_threads=False)
                where = [places[number] % ROW_GROUP for number in numbers]
                flat = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                vectors[numbers] = flat.reshape(found.num_rows, -1)[where]
                sources[numbers] = found["source"].take(where).to_pylist()
    except (pa.ArrowException, OSError, ValueError, IndexError, KeyError) as error:
        _tell_damage(path, error)
        return None
    return sources.tolist(), vectors


def count_rows(path: Path) -> int | None:
    """Count the rows of a table; None if the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        _tell_damage(path, error)
        return None


def read_table(path: Path) -> Stored | None:
    """Read a table without its vectors; None if it is not there, or cannot be used.

    One that cannot be used is named in the log: what stood in it is collected anew.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            about = json.loads((file.schema_arrow.metadata or {})[ABOUT])
            dimension = _check_columns(file.schema_arrow)
            names = [name for name in file.schema_arrow.names if name != "vector"]
            columns = file.read(columns=names, use_threads=False).to_pydict()
        fingerprint, places = about["fingerprint"], enumerate(columns["source"])
        said = fingerprint["EmbeddingDimension"]
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        _tell_damage(path, error)
        return None
    if about.get("format") != FORMAT:
        _tell_damage(path, f"it is of format {about.get('format')}; expected {FORMAT}")
        return None
    if said != dimension:
        _tell_damage(path, f"its vectors have {dimension} numbers; it says {said}")
        return None
    return Stored(path, fingerprint, columns, {source: i for i, source in places})


def _check_columns(schema: pa.Schema) -> int:
    """Tell the length of a vector, D; ValueError for other columns than `write_table` writes."""
    import pyarrow as pa

    expected = dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(STAMPS, pa.int64())
    found = {field.name: field.type for field in schema}
    vector = found.pop("vector", pa.null())
    size = getattr(vector, "list_size", -1)  # -1 stands for any length
    if found != expected or size < 1 or vector != pa.list_(pa.float32(), size):
        raise ValueError(f"its columns are {', '.join(schema.names)}, or of other types than ours")
    return int(size)


def _tell_damage(path: Path, why: object) -> None:
    log.warning("%s cannot be used, the group level collects its runs anew: %s", path, why)


def write_table(path: Path, collected: Collected, root: Path) -> str:
    """Write a table at once and return its SHA-256; the same runs give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {
        "format": FORMAT,
        "label": collected.label,
        "fingerprint": collected.fingerprint,
        "privacy": PRIVACY,
    }
    rows, dimension = collected.rows, collected.vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(collected.vectors).reshape(-1))
    columns = {
        "participant_id": pa.array([f"sub-{row.participant}" for row in rows], pa.string()),
        "session": pa.array([row.session for row in rows], pa.string()),
        "run": pa.array([row.run for row in rows], pa.string()),
        "source": pa.array([row.source for row in rows], pa.string()),
        "sha256": pa.array([row.sha256 for row in rows], pa.string()),
        **{n: pa.array([row.stamps[i] for row in rows], pa.int64()) for i, n in enumerate(STAMPS)},
        "vector": pa.FixedSizeListArray.from_arrays(flat, dimension),
    }
    table = pa.table(columns).replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True)})
    with open_scratch(root) as folder:
        aside = folder / path.name
        pq.write_table(
            table,
            aside,
            compression="zstd",
            row_group_size=ROW_GROUP,
            use_dictionary=False,
            write_page_checksum=True,
        )
        return move_aside(aside, path, root=root)
