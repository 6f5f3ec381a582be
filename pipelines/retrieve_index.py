"""An index and its file: faiss's own, with all that is done to a vector before it is compared."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import CannotCreateError, DataError, NoInputError
from neurostorm_app.pipelines.retrieve_kinds import Kind, kind_of, parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.retrieve_recall import Recall

__all__ = ["Index", "describe_index", "described", "load_index", "save_index"]

LEAST_ROOM: Final = 2**30
"""Bytes that faiss may always ask for while it reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Embeddings that can be searched; row numbers are those of the rows it was built from.

    Parameters
    ----------
    handle : object
        faiss's own index: centring (if any), normalisation, inner product.
    dimension : int
        Length of a vector, D.
    n_rows : int
        Number of vectors, N.
    mean : ndarray, shape (D,), float32, or None
        What is taken off each vector; None if nothing is.
    kind : {'exact', 'ivf', 'hnsw', 'pq'}
        How rows are found.
    parameters : mapping of str to int
        Of an approximate kind, under faiss's names: ``nlist``, ``nprobe``, ``code_size``, ``M``,
        ``efConstruction``, ``efSearch``.
    recall : Recall or None
        What an approximate index finds, measured when it was built; None for an exact one, and
        for one read from a file, as faiss's file has no place for it.
    """

    handle: Any
    dimension: int
    n_rows: int
    mean: NDArray[np.float32] | None
    kind: Kind = "exact"
    parameters: Mapping[str, int] = field(default_factory=dict)
    recall: Recall | None = None


def describe_index(index: Index) -> dict[str, Any]:
    """Say for a sidecar how an index finds its rows; ``Recall`` is null where none was measured."""
    recall = index.recall
    return {
        "Kind": index.kind,
        "Parameters": dict(index.parameters),
        "Recall": recall
        and {
            "Value": round(recall.value, 4),
            "Nearest": recall.nearest,
            "Queries": recall.n_queries,
            "Target": recall.target,
        },
    }


def save_index(index: Index, path: Path) -> None:
    """Write an index aside, then give it its name: a reader never sees half of it.

    Raises
    ------
    CannotCreateError
        If the folder is not there or cannot be written.
    """
    faiss = _faiss()
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            faiss.write_index(index.handle, faiss.PyCallbackIOWriter(file.write))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise CannotCreateError(
            f"{path}: the index cannot be written: {error.strerror}",
            fix="check that the folder exists, that it can be written, and that there is space",
        ) from error


def load_index(path: Path) -> Index:
    """Read an index.

    Raises
    ------
    NoInputError
        If there is no such file.
    DataError
        If it is not an index of ours, or damaged.
    """
    faiss = _faiss()
    if not path.is_file():
        raise NoInputError(
            f"{path}: there is no index", fix="run the group level first: it builds the index"
        )
    try:
        with path.open("rb") as file, _bounded(path):
            handle = faiss.read_index(faiss.PyCallbackIOReader(file.read))
    except RuntimeError as error:
        raise _not_ours(path) from error
    kind = kind_of(handle) if isinstance(handle, faiss.IndexPreTransform) else None
    if kind is None or not _is_whole(handle):
        raise _not_ours(path)
    return described(handle, kind)


def _is_whole(handle: Any) -> bool:
    """Tell whether an index compares cosines, of as many rows as it says."""
    import faiss

    steps = [faiss.downcast_VectorTransform(handle.chain.at(i)) for i in range(handle.chain.size())]
    ours = (faiss.CenteringTransform, faiss.NormalizationTransform, faiss.RemapDimensionsTransform)
    return (
        any(isinstance(step, faiss.NormalizationTransform) for step in steps)
        and all(isinstance(step, ours) for step in steps)
        and handle.index.metric_type == faiss.METRIC_INNER_PRODUCT
        and handle.ntotal == handle.index.ntotal > 0
    )


def described(handle: Any, kind: Kind) -> Index:
    """Read from faiss's index what it does to a vector."""
    import faiss

    first: Any = faiss.downcast_VectorTransform(handle.chain.at(0))
    centring = isinstance(first, faiss.CenteringTransform)
    return Index(
        handle=handle,
        dimension=int(handle.d),
        n_rows=int(handle.ntotal),
        mean=faiss.vector_to_array(first.mean) if centring else None,
        kind=kind,
        parameters=parameters_of(handle),
    )


def _faiss() -> Any:
    """Import faiss, whose own types leave out the readers and writers that call back."""
    import faiss

    return faiss


@contextmanager
def _bounded(path: Path) -> Iterator[None]:
    """Let no damaged number make faiss ask for much more memory than the file could fill.

    faiss takes each transform of a vector for a matrix, (D, D), whether or not it is one, and
    counts tables it would make for other distances of codes.
    """
    import faiss

    with path.open("rb") as file:
        (dimension,) = struct.unpack("<i", file.read(8)[4:].ljust(4, b"\0"))
    size = path.stat().st_size
    matrix = 4 * dimension**2 if 0 < 4 * dimension <= size else 0
    before = (
        faiss.get_deserialization_vector_byte_limit(),
        faiss.get_deserialization_loop_limit(),
    )
    faiss.set_deserialization_vector_byte_limit(max(size, matrix + 1, LEAST_ROOM))
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])


def _not_ours(path: Path) -> DataError:
    return DataError(
        f"{path}: is damaged, or is not an index of this app",
        fix="delete it and run the group level again",
    )
