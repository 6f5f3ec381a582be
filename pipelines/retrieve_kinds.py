"""Kinds of index: which one fits, and how faiss makes it.

An exact index compares with every row. The approximate ones trade some of the nearest rows for
time (``ivf``: lists about centres; ``hnsw``: a graph) or for memory (``pq``: lists of codes).

References
----------
.. [1] Douze et al., "The Faiss library", 2024, arXiv:2401.08281.
.. [2] Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", IEEE TPAMI
   33:117, 2011.
.. [3] Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
   hierarchical navigable small world graphs", IEEE TPAMI 42:824, 2020.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.resources import detect
from neurostorm_app.pipelines.retrieve_rows import draw, gather

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.retrieve_rows import Blocks, Survey

__all__ = ["Asked", "Kind", "choose_kind", "kind_of", "new_handle", "parameters_of", "train"]

Kind: TypeAlias = Literal["exact", "ivf", "hnsw", "pq"]
Asked: TypeAlias = Literal["auto", "exact", "ivf", "hnsw", "pq"]
"""What may be asked for: a kind, or the one that fits."""

MOST_EXACT: Final = 200_000
"""Rows up to which every row is compared. One query of 288 numbers then takes less than 0.1 s of
a core, which nobody waits for; of a million it took 0.07 to 0.13 s, and many queries add up."""
OVERHEAD: Final = 1.6
"""Memory of building an index of whole vectors, over the vectors' own: lists that grow."""
POINTS: Final = 39
"""Fewest training rows of one centre of k-means (faiss warns below)."""
MOST_POINTS: Final = 128
"""Most training rows of one centre; more cost time and change little."""
TRAINING_BYTES: Final = 256 * 2**20
CODES: Final = 256
"""Values of one byte of a code: as many centres are learnt of each part of a vector."""
FEWEST_FOR_CODES: Final = 4 * CODES
MOST_PARTS: Final = 144
"""Bytes of a code at most; a part of a vector has at least two numbers."""
NEIGHBOURS: Final = 32
"""Links of a row in the graph (M)."""
BUILD_EFFORT: Final = 80
"""Candidates kept while a row is linked (efConstruction)."""


def choose_kind(n_rows: int, dimension: int, *, memory: int | None = None) -> Kind:
    """Choose a kind of index by size and memory.

    Parameters
    ----------
    n_rows, dimension : int
        Number and length of the vectors.
    memory : int, optional
        Bytes the index may take; by default what this job may use.

    Returns
    -------
    {'exact', 'ivf', 'pq'}
        ``pq`` only where whole vectors do not fit in memory; ``hnsw`` never, as it takes longest
        to build: it must be asked for (``--index-kind``).

    Examples
    --------
    >>> [choose_kind(n, 288, memory=4 * 2**30) for n in (1_000, 1_000_000, 10_000_000)]
    ['exact', 'ivf', 'pq']
    """
    room = detect().memory if memory is None else memory
    if OVERHEAD * 4 * n_rows * dimension > room and n_rows >= FEWEST_FOR_CODES:
        return "pq"
    return "exact" if n_rows <= MOST_EXACT else "ivf"


def new_handle(kind: Kind, found: Survey, *, mean: NDArray[np.float64] | None) -> Any:
    """Make faiss's index of a kind, empty and untrained, that takes vectors as they stand.

    Raises
    ------
    DataError
        If there are too few rows to learn codes from.
    """
    import faiss

    if kind == "pq" and found.n_rows < FEWEST_FOR_CODES:
        raise DataError(
            f"{found.n_rows} rows are too few to learn codes from; at least {FEWEST_FOR_CODES} "
            "are needed for an index of kind 'pq'",
            fix="ask for an exact index: so few rows are searched in no time",
        )
    dimension = found.dimension
    width, n_parts = _code(dimension) if kind == "pq" else (dimension, 0)
    handle = faiss.IndexPreTransform(_inner(kind, width, _n_lists(found), n_parts))
    if width != dimension:
        padded = np.where(np.arange(width) < dimension, np.arange(width), -1).astype(np.int32)
        handle.prepend_transform(
            faiss.RemapDimensionsTransform(dimension, width, faiss.swig_ptr(padded))
        )
    handle.prepend_transform(faiss.NormalizationTransform(dimension, 2.0))
    if mean is not None:
        centring = faiss.CenteringTransform(dimension)
        faiss.copy_array_to_vector(mean.astype(np.float32), centring.mean)
        centring.is_trained = True
        handle.prepend_transform(centring)
    handle.is_trained = kind in ("exact", "hnsw")
    return handle


def train(handle: Any, rows: Blocks, found: Survey, *, seed: int) -> None:
    """Learn the centres of lists and codes from rows drawn by the seed; nothing if there are none.

    Parameters
    ----------
    handle : object
        Of :func:`new_handle`; changed in place.
    rows : ndarray, shape (N, D), or iterable of ndarray, shape (n, D)
        What will be added.
    found : Survey
        Of the same rows.
    seed : int
        Of the draw; k-means has one of its own, which is fixed.
    """
    if handle.is_trained:
        return
    most = max(MOST_POINTS * _n_lists(found), MOST_POINTS * CODES)
    drawn = draw(found.n_rows, min(most, _most_training(found)), seed=(seed, 0))
    handle.train(gather(rows, drawn))


def kind_of(handle: Any) -> Kind | None:
    """Tell the kind of an index by what faiss read; None if it is none of ours."""
    import faiss

    kinds: tuple[tuple[type, Kind], ...] = (
        (faiss.IndexFlat, "exact"),
        (faiss.IndexIVFFlat, "ivf"),
        (faiss.IndexIVFPQ, "pq"),
        (faiss.IndexHNSWFlat, "hnsw"),
    )
    inner = faiss.downcast_index(handle.index)
    return next((kind for type_, kind in kinds if isinstance(inner, type_)), None)


def parameters_of(handle: Any) -> dict[str, int]:
    """Read what an index was built with and is searched with, under faiss's own names."""
    import faiss

    inner: Any = faiss.downcast_index(handle.index)
    kind = kind_of(handle)
    if kind in ("ivf", "pq"):
        lists = {"nlist": int(inner.nlist), "nprobe": int(inner.nprobe)}
        return lists if kind == "ivf" else {**lists, "code_size": int(inner.pq.code_size)}
    if kind == "hnsw":
        graph = inner.hnsw
        return {
            "M": int(graph.nb_neighbors(1)),
            "efConstruction": int(graph.efConstruction),
            "efSearch": int(graph.efSearch),
        }
    return {}


def _inner(kind: Kind, width: int, n_lists: int, n_parts: int) -> Any:
    import faiss

    cosine = faiss.METRIC_INNER_PRODUCT  # of vectors of length one
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(width, NEIGHBOURS, cosine)
        graph.hnsw.efConstruction = BUILD_EFFORT
        return graph
    exact = faiss.IndexFlatIP(width)
    if kind == "exact":
        return exact
    if kind == "ivf":
        return faiss.IndexIVFFlat(exact, width, n_lists, cosine)
    index = faiss.IndexIVFPQ(exact, width, n_lists, n_parts, 8, cosine)
    index.pq.cp.niter = 10  # more rounds of k-means cost time and change little
    index.pq.cp.min_points_per_centroid = 1  # of long vectors few fit: recall says what comes of it
    return index


def _code(dimension: int) -> tuple[int, int]:
    """Cut a vector into parts: its length, padded by zeros, and the number of parts."""
    length = max(2, math.ceil(dimension / MOST_PARTS))
    n_parts = math.ceil(dimension / length)
    return n_parts * length, n_parts


def _n_lists(found: Survey) -> int:
    """Take about the square root of the rows: as many lists as rows in a list."""
    about = int(2 ** round(math.log2(math.sqrt(found.n_rows))))
    most = min(found.n_rows, _most_training(found)) // POINTS
    return max(1, min(about, most))


def _most_training(found: Survey) -> int:
    return max(FEWEST_FOR_CODES, TRAINING_BYTES // (4 * found.dimension))
