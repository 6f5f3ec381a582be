"""Measures of the graph of the strongest correlations of a run, the same numbers at each call.

References
----------
Latora and Marchiori (2001), Phys. Rev. Lett. 87:198701 (efficiency); Onnela et al. (2005), Phys.
Rev. E 71:065103 (weighted clustering); Blondel et al. (2008), J. Stat. Mech. P10008 (communities).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import shortest_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["clustering", "keep_strongest", "measure_efficiency", "modularity"]

SHARE = 0.1
"""Of all pairs of parcels, the strongest correlations that make the graph."""


def keep_strongest(fc: NDArray[np.float64], *, share: float = SHARE) -> NDArray[np.float64]:
    """Keep the strongest correlations, whatever their sign.

    Parameters
    ----------
    fc : ndarray, shape (V, V)
        Correlations, symmetric.
    share : float
        Of all pairs; the number of pairs that stay is rounded down.

    Returns
    -------
    ndarray, shape (V, V)
        Absolute values; 0 on the diagonal and for all others.
    """
    rows, columns = np.triu_indices(len(fc), 1)
    strength = np.abs(fc[rows, columns])
    kept = np.argsort(-strength, kind="stable")[: int(share * len(strength))]
    weights = np.zeros_like(fc)
    weights[rows[kept], columns[kept]] = strength[kept]
    return weights + weights.T


def measure_efficiency(weights: NDArray[np.float64]) -> float:
    """Measure the global efficiency: mean of 1 / steps between parcels, 0 where there is no way.

    Parameters
    ----------
    weights : ndarray, shape (V, V)
        Of `keep_strongest`; only whether two parcels are joined counts.
    """
    n = len(weights)
    if n < 2:
        return 0.0
    steps = shortest_path(weights > 0, unweighted=True, directed=False)
    pairs = steps[np.triu_indices(n, 1)]
    return float((1 / pairs).mean())


def clustering(weights: NDArray[np.float64]) -> float:
    """Measure the mean weighted clustering: geometric means of triangles, over the largest weight.

    Parameters
    ----------
    weights : ndarray, shape (V, V)
        Of `keep_strongest`.
    """
    if not weights.any():
        return 0.0
    root = np.cbrt(weights / weights.max())
    degree = (weights > 0).sum(axis=1)
    triangles = np.einsum("ij,jk,ki->i", root, root, root, optimize=True)
    return float(np.where(degree > 1, triangles / np.maximum(degree * (degree - 1), 1), 0).mean())


def modularity(weights: NDArray[np.float64]) -> float:
    """Measure how well the graph falls into communities, found by Louvain's method.

    Parameters
    ----------
    weights : ndarray, shape (V, V)
        Of `keep_strongest`.

    Returns
    -------
    float
        Newman's Q at resolution 1. Parcels are visited in their order, never at random.
    """
    total = weights.sum()
    if total == 0:
        return 0.0
    graph = weights
    while True:
        member = _move(graph)
        n = int(member.max()) + 1
        if n == len(graph):
            return float(np.trace(graph) / total - ((graph.sum(axis=1) / total) ** 2).sum())
        to = np.eye(n)[member]
        graph = to.T @ graph @ to


def _move(graph: NDArray[np.float64]) -> NDArray[np.int64]:
    """Put each node into the community that it fits best, until none wants to move."""
    n, total, strength = len(graph), graph.sum(), graph.sum(axis=1)
    member, held = np.arange(n), strength.copy()
    moved = True
    while moved:
        moved = False
        for node in range(n):
            own = member[node]
            held[own] -= strength[node]
            joined = np.bincount(member, weights=graph[node], minlength=n)
            joined[own] -= graph[node, node]
            gain = joined - strength[node] * held / total
            best = int(gain.argmax())
            if gain[best] <= gain[own] + 1e-12 * total:  # rounding is no reason to move
                best = int(own)
            held[best] += strength[node]
            moved = moved or best != own
            member[node] = best
    _, numbers = np.unique(member, return_inverse=True)
    return np.asarray(numbers, dtype=np.int64)
