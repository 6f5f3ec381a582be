"""How much an approximate index finds: measured on rows of its own against the exact search.

The effort of a search (``nprobe``, ``efSearch``) is the smallest that finds enough. The rows that
are asked with took part in the training, so a new run may be found a little less well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from neurostorm_app.pipelines.retrieve_kinds import kind_of
from neurostorm_app.pipelines.retrieve_rows import draw, gather, iterate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.retrieve_rows import Blocks

__all__ = ["Recall", "tune"]

MOST_EFFORT: Final = 4096
"""Candidates kept while the graph is searched (efSearch), at most."""
NEAREST: Final = 10
N_QUERIES: Final = 1000
TIE: Final = 1e-6
"""Cosines closer than this are of equally near rows: float32 cannot tell them apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """How many of the nearest rows an approximate index finds.

    Parameters
    ----------
    value : float
        Share of the ``nearest`` rows of the exact search that were found, mean over queries.
    nearest : int
        Number of rows asked for, the query's own left out.
    n_queries : int
        Rows of the index that were asked with: drawn by the seed, or all.
    target : float
        What was aimed at.
    """

    value: float
    nearest: int
    n_queries: int
    target: float


def tune(handle: Any, rows: Blocks, *, target: float, seed: int) -> Recall:
    """Set the effort of a search to the smallest that finds enough, and say how much is found.

    Parameters
    ----------
    handle : object
        An approximate index that holds all rows; its effort is changed.
    rows : ndarray, shape (N, D), or iterable of ndarray, shape (n, D)
        The same rows.
    target : float
        Recall to reach, from 0 to 1. Where codes or the graph limit recall below it, less is
        reached, and said.
    seed : int
        Of the rows that are asked with.
    """
    nearest = min(NEAREST, handle.ntotal - 1)
    if nearest < 1:  # one row has no neighbour to miss
        return Recall(value=1.0, nearest=0, n_queries=0, target=target)
    asked = draw(handle.ntotal, N_QUERIES, seed=(seed, 1))
    queries = gather(rows, asked)
    truth = _nearest_exactly(handle, rows, queries, asked)
    if kind_of(handle) == "hnsw":
        value = _walk(handle, target, lambda: _share_found(handle, queries, asked, truth))
    else:
        _probe(handle, target, _lists_needed(handle, rows, queries, truth[:, :nearest]))
        value = _share_found(handle, queries, asked, truth)
    return Recall(value=value, nearest=nearest, n_queries=len(asked), target=target)


def _nearest_exactly(
    handle: Any, rows: Blocks, queries: NDArray[np.float32], asked: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find which rows may count as nearest, ties included; (Q, 4 * NEAREST), -1 where none.

    Row numbers of blocks are merged as they come, so that memory is that of one block.
    """
    import faiss

    wanted = 4 * NEAREST
    best = np.full((len(queries), wanted), -np.inf, np.float32)
    names = np.full((len(queries), wanted), -1, np.int64)
    queries = _transformed(handle, queries)
    start = 0
    for block in iterate(rows):
        vectors = _transformed(handle, block)
        cosine, row = faiss.knn(
            queries, vectors, min(wanted + 1, len(block)), metric=faiss.METRIC_INNER_PRODUCT
        )
        row += start
        cosine[row == asked[:, np.newaxis]] = -np.inf
        best, names = np.hstack([best, cosine]), np.hstack([names, row])
        order = np.argsort(-best, axis=1, kind="stable")[:, :wanted]
        best, names = np.take_along_axis(best, order, 1), np.take_along_axis(names, order, 1)
        start += len(block)
    nearest = min(NEAREST, start - 1)
    names[best < best[:, nearest - 1 : nearest] - TIE] = -1
    names[np.isinf(best)] = -1
    return names


def _transformed(handle: Any, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply what the index applies to a vector before it compares."""
    import faiss

    for i in range(handle.chain.size()):
        vectors = faiss.downcast_VectorTransform(handle.chain.at(i)).apply(vectors)
    return vectors


def _share_found(
    handle: Any,
    queries: NDArray[np.float32],
    asked: NDArray[np.int64],
    truth: NDArray[np.int64],
) -> float:
    nearest = min(NEAREST, handle.ntotal - 1)
    _, rows = handle.search(queries, nearest + 1)
    n_found = 0
    for own, found, true in zip(asked, rows, truth, strict=True):
        others = found[(found != own) & (found >= 0)][:nearest]
        n_found += np.isin(others, true).sum()
    return float(n_found / (len(asked) * nearest))


def _lists_needed(
    handle: Any, rows: Blocks, queries: NDArray[np.float32], truth: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count the lists that must be probed until each near row's own is among them, ascending.

    Whole vectors are found if and only if their list is probed, so the recall of every ``nprobe``
    is known without a search.
    """
    import faiss

    inner: Any = faiss.downcast_index(handle.index)
    wanted, where = np.unique(truth, return_inverse=True)
    own_list = inner.quantizer.search(_transformed(handle, gather(rows, wanted)), 1)[1][:, 0]
    probed = inner.quantizer.search(_transformed(handle, queries), inner.nlist)[1]
    rank = np.argsort(probed, axis=1)  # the inverse of a permutation
    needed = 1 + np.take_along_axis(rank, own_list[where.reshape(truth.shape)], 1)
    return np.sort(needed, axis=None)


def _probe(handle: Any, target: float, needed: NDArray[np.int64]) -> None:
    """Probe the fewest lists that hold enough; what codes then blur more lists would not mend."""
    import faiss

    inner: Any = faiss.downcast_index(handle.index)
    inner.nprobe = int(needed[max(0, int(np.ceil(target * needed.size)) - 1)])


def _walk(handle: Any, target: float, recall: Callable[[], float]) -> float:
    """Search the graph with the smallest effort that finds enough: double, then halve the gap."""
    import faiss

    graph = cast("Any", faiss.downcast_index(handle.index)).hnsw

    def at(effort: int) -> float:
        graph.efSearch = effort
        return recall()

    low, high = NEAREST, NEAREST + 1
    value = at(high)
    while value < target and high < MOST_EFFORT:
        low, high = high, min(2 * high, MOST_EFFORT)
        value = at(high)
    while value >= target and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle) >= target else (middle, high)
    return at(high)
