"""An exact index of embeddings: which runs are most alike.

Similarity is the cosine: the inner product of vectors of length one. For a model whose vectors
share a large common part (its card says so) the mean over runs is taken off first. Both steps
are part of the file, so that whoever opens it with faiss may ask with vectors as they stand in
the embedding tables.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import CannotCreateError, DataError, NoInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Index", "build_index", "load_index", "merge_indices", "save_index", "search"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Embeddings that can be searched; row numbers are those of the array it was built from.

    Parameters
    ----------
    handle : object
        faiss's own index: centring (if any), normalisation, exact inner product.
    dimension : int
        Length of a vector, D.
    n_rows : int
        Number of vectors, N.
    mean : ndarray, shape (D,), float32, or None
        What is taken off each vector; None if nothing is.
    """

    handle: Any
    dimension: int
    n_rows: int
    mean: NDArray[np.float32] | None


def build_index(embeddings: NDArray[np.floating], *, centre: bool = False) -> Index:
    """Build an exact index.

    Parameters
    ----------
    embeddings : ndarray, shape (N, D)
        One row a run.
    centre : bool
        Take the mean over rows off before lengths are made one; it is stored in the index. With
        fewer than three rows there is no mean worth taking off, and none is.

    Returns
    -------
    Index
        With N rows.

    Raises
    ------
    DataError
        If there is no row, a value is not finite, or a vector has no length.
    """
    import faiss

    vectors = _checked(embeddings, "the embeddings")
    mean = vectors.mean(axis=0, dtype=np.float64) if centre and len(vectors) >= 3 else None
    dimension = vectors.shape[1]
    handle = faiss.IndexPreTransform(faiss.IndexFlatIP(dimension))
    handle.prepend_transform(faiss.NormalizationTransform(dimension, 2.0))
    if mean is not None:
        centring = faiss.CenteringTransform(dimension)
        faiss.copy_array_to_vector(mean.astype(np.float32), centring.mean)
        centring.is_trained = True
        handle.prepend_transform(centring)
    handle.is_trained = True
    handle.add(vectors)
    return _described(handle)


def search(
    index: Index, query: NDArray[np.floating], k: int, *, exclude: Collection[int] = ()
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the rows most similar to a vector.

    Parameters
    ----------
    index : Index
        Where to look.
    query : ndarray, shape (D,)
        An embedding, as it stands in the table.
    k : int
        How many rows are wanted; fewer come back if the index has fewer.
    exclude : collection of int
        Rows that are not wanted, such as the query's own.

    Returns
    -------
    rows : ndarray, shape (K,), int
        Row numbers, most similar first.
    similarity : ndarray, shape (K,), float32
        Cosine (of centred vectors, if the index centres), from -1 to 1.

    Raises
    ------
    DataError
        If the query has another length than the rows, is not finite or has no length.
    """
    vector = _checked(np.asarray(query)[np.newaxis], "the query")
    if vector.shape[1] != index.dimension:
        raise DataError(
            f"the query has {vector.shape[1]} numbers; the index holds vectors of "
            f"{index.dimension}",
            fix="ask with an embedding of the same model and parcellation as the index",
        )
    n_wanted = min(k + len(exclude), index.n_rows)
    similarity, rows = index.handle.search(vector, n_wanted)
    kept = ~np.isin(rows[0], list(exclude))
    return rows[0][kept][:k], similarity[0][kept][:k]


def save_index(index: Index, path: Path) -> None:
    """Write an index aside, then give it its name: a reader never sees half of it.

    Raises
    ------
    CannotCreateError
        If the folder is not there or cannot be written.
    """
    import faiss

    content = faiss.serialize_index(index.handle).tobytes()
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
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
    import faiss

    if not path.is_file():
        raise NoInputError(
            f"{path}: there is no index", fix="run the group level first: it builds the index"
        )
    try:
        handle = faiss.deserialize_index(np.frombuffer(path.read_bytes(), dtype=np.uint8))
    except RuntimeError as error:
        raise _not_ours(path) from error
    if not isinstance(handle, faiss.IndexPreTransform):
        raise _not_ours(path)
    return _described(handle)


def merge_indices(indices: Sequence[Index]) -> Index:
    """Join indices of one model, as of several sites; rows follow each other in their order.

    Raises
    ------
    DataError
        If lengths differ, or the indices centre: their means differ, and the lengths of the
        vectors are gone.
    """
    import faiss

    dimensions = sorted({index.dimension for index in indices})
    if len(dimensions) != 1:
        raise DataError(
            f"the indices hold vectors of different lengths: {dimensions}",
            fix="merge indices of the same model and parcellation",
        )
    if any(index.mean is not None for index in indices):
        raise DataError(
            "indices that take off a mean cannot be merged: each has its own",
            fix="join the embedding tables and build one index from them",
        )
    rows = [
        faiss.downcast_index(index.handle.index).reconstruct_n(0, index.n_rows) for index in indices
    ]
    return build_index(np.concatenate(rows))


def _described(handle: Any) -> Index:
    """Read from faiss's index what it does to a vector."""
    import faiss

    first = faiss.downcast_VectorTransform(handle.chain.at(0))
    mean = (
        faiss.vector_to_array(first.mean) if isinstance(first, faiss.CenteringTransform) else None
    )
    return Index(handle=handle, dimension=int(handle.d), n_rows=int(handle.ntotal), mean=mean)


def _checked(vectors: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    found = np.ascontiguousarray(vectors, dtype=np.float32)
    if found.ndim != 2 or not found.size:
        raise DataError(
            f"{name} have shape {found.shape}; one row of numbers for each run was expected",
            fix="embed at least one run before an index is built or asked",
        )
    lengths = np.linalg.norm(found, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise DataError(
            f"{name}: row {bad[0]} is not finite or has no length, as have {bad.size} in all",
            fix="embed these runs again, or leave them out",
        )
    return found


def _not_ours(path: Path) -> DataError:
    return DataError(
        f"{path}: is damaged, or is not an index of this app",
        fix="delete it and run the group level again",
    )
