"""An index of embeddings: which runs are most alike.

Similarity is the cosine: the inner product of vectors of length one. For a model whose vectors
share a large common part (its card says so) the mean over runs is taken off first. Both steps
are part of the file, so that whoever opens it with faiss may ask with vectors as they stand in
the embedding tables.

A search is exact up to a size at which that is quick; a larger index is approximate and says how
many of the nearest rows it finds. The same rows make the same file, in whatever blocks they come
and however many threads there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.retrieve_index import (
    Index,
    describe_index,
    described,
    load_index,
    save_index,
)
from neurostorm_app.pipelines.retrieve_kinds import Asked, choose_kind, new_handle, train
from neurostorm_app.pipelines.retrieve_recall import Recall, tune
from neurostorm_app.pipelines.retrieve_rows import block_rows, check_vectors, iterate, survey

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.retrieve_rows import Blocks

__all__ = [
    "Index",
    "Recall",
    "build_index",
    "choose_kind",
    "describe_index",
    "load_index",
    "merge_indices",
    "save_index",
    "search",
    "search_many",
]

SHARED_OUT: Final = 20
"""Queries from which faiss multiplies matrices."""


def build_index(
    embeddings: Blocks,
    *,
    centre: bool = False,
    kind: Asked = "auto",
    target: float = 0.95,
    memory: int | None = None,
    seed: int = 0,
) -> Index:
    """Build an index.

    Parameters
    ----------
    embeddings : ndarray, shape (N, D), or iterable of ndarray, shape (n, D)
        One row a run: all, or blocks of them, as of shards. What gives its blocks only once (an
        iterator) is held in memory; a list of memory-mapped arrays is not.
    centre : bool
        Take the mean over rows off before lengths are made one; it is stored in the index. With
        fewer than three rows there is no mean worth taking off, and none is.
    kind : {'auto', 'exact', 'ivf', 'hnsw', 'pq'}
        How rows are found; ``auto`` is :func:`choose_kind`.
    target : float
        Recall among the ten nearest that an approximate index aims at.
    memory : int, optional
        Bytes that ``auto`` may take; by default what this job may use.
    seed : int
        Of the rows an approximate index is trained on and asked with.

    Returns
    -------
    Index
        With N rows.

    Raises
    ------
    DataError
        If there is no row, lengths differ, a value is not finite, a vector has no length, or
        there are too few rows to learn codes from.
    """
    rows = list(embeddings) if isinstance(embeddings, Iterator) else embeddings
    with _one_thread():
        found = survey(rows)
        if kind == "auto":
            kind = choose_kind(found.n_rows, found.dimension, memory=memory)
        mean = found.mean if centre and found.n_rows >= 3 else None
        handle = new_handle(kind, found, mean=mean)
        train(handle, rows, found, seed=seed)
        for block in iterate(rows):
            handle.add(block)
        recall = None if kind == "exact" else tune(handle, rows, target=target, seed=seed)
    return replace(described(handle, kind), recall=recall)


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
        How many rows are wanted; fewer come back if the index has fewer, or if an approximate
        one finds fewer.
    exclude : collection of int
        Rows that are not wanted, such as the query's own.

    Returns
    -------
    rows : ndarray, shape (K,), int
        Row numbers, most similar first.
    similarity : ndarray, shape (K,), float32
        Cosine (of centred vectors, if the index centres), from -1 to 1; estimated from codes by
        an index of kind ``pq``.

    Raises
    ------
    DataError
        If the query has another length than the rows, is not finite or has no length.
    """
    vector = _checked_query(index, np.asarray(query)[np.newaxis], "the query")
    rows, similarity = _search(index, vector, k, [exclude])
    found = rows[0] >= 0
    return rows[0][found], similarity[0][found]


def search_many(
    index: Index,
    queries: NDArray[np.floating],
    k: int,
    *,
    exclude: Sequence[Collection[int]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the rows most similar to each of many vectors at once, which is much quicker.

    Parameters
    ----------
    index : Index
        Where to look.
    queries : ndarray, shape (Q, D)
        Embeddings, as they stand in the table.
    k : int
        How many rows are wanted for each.
    exclude : sequence of Q collections of int, optional
        Rows that are not wanted, for each query.

    Returns
    -------
    rows : ndarray, shape (Q, min(k, N)), int
        Row numbers, most similar first; -1 where there is none.
    similarity : ndarray, shape (Q, min(k, N)), float32
        Cosine, as of :func:`search`; NaN where there is none.

    Raises
    ------
    DataError
        If the queries have another length than the rows, one is not finite or has no length, or
        rows are excluded for another number of queries.
    """
    vectors = _checked_query(index, queries, "the queries")
    if exclude is not None and len(exclude) != len(vectors):
        raise DataError(
            f"rows are excluded for {len(exclude)} queries; there are {len(vectors)}",
            fix="give one collection of rows for each query; an empty one excludes none",
        )
    return _search(index, vectors, k, [()] * len(vectors) if exclude is None else exclude)


def merge_indices(indices: Sequence[Index], *, kind: Asked = "auto") -> Index:
    """Join indices of one model, as of several sites; rows follow each other in their order.

    Parameters
    ----------
    indices : sequence of Index
        Not empty.
    kind : {'auto', 'exact', 'ivf', 'hnsw', 'pq'}
        Of the result, as in :func:`build_index`.

    Raises
    ------
    DataError
        If lengths differ, vectors are kept as codes only, or the indices centre: their means
        differ, and the lengths of the vectors are gone.
    """
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
    if any(index.kind == "pq" for index in indices):
        raise DataError(
            "an index of kind 'pq' keeps codes, not the vectors: it cannot be merged",
            fix="join the embedding tables and build one index from them",
        )
    return build_index(_Stored(indices), kind=kind)


class _Stored:
    """The vectors that indices hold, by the block; may be read again and again."""

    def __init__(self, indices: Sequence[Index]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        import faiss

        for index in self._indices:
            inner = faiss.downcast_index(index.handle.index)
            size = block_rows(index.dimension)
            for start in range(0, index.n_rows, size):
                yield inner.reconstruct_n(start, min(size, index.n_rows - start))


def _search(
    index: Index,
    queries: NDArray[np.float32],
    k: int,
    exclude: Sequence[Collection[int]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ask for as many more rows as are excluded, and move what is wanted to the front."""
    most = max(map(len, exclude))
    with _threads_for(len(queries)):
        similarity, rows = index.handle.search(queries, min(k + most, index.n_rows))
    unwanted = rows < 0
    if most:
        for i, numbers in enumerate(exclude):
            unwanted[i] |= np.isin(rows[i], list(numbers))
    order = np.argsort(unwanted, axis=1, kind="stable")[:, :k]
    gone = np.take_along_axis(unwanted, order, 1)
    rows = np.where(gone, -1, np.take_along_axis(rows, order, 1))
    nothing = np.float32(np.nan)
    return rows, np.where(gone, nothing, np.take_along_axis(similarity, order, 1))


def _checked_query(index: Index, queries: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    vectors = check_vectors(queries, name)
    if vectors.shape[1] != index.dimension:
        raise DataError(
            f"the query has {vectors.shape[1]} numbers; the index holds vectors of "
            f"{index.dimension}",
            fix="ask with an embedding of the same model and parcellation as the index",
        )
    return vectors


@contextmanager
def _one_thread() -> Iterator[None]:
    """Build on one thread: more would change last bits, and the links of a graph."""
    import faiss  # noqa: F401 - its libraries are limited only once they are there

    with threadpool_limits(1):
        yield


@contextmanager
def _threads_for(n_queries: int) -> Iterator[None]:
    """Search for a few on one thread: faiss shares out queries, not rows, and waiting costs."""
    import faiss

    before = faiss.omp_get_max_threads()
    if n_queries < SHARED_OUT:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
