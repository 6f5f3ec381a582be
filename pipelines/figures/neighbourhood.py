"""A map in which neighbours stay neighbours: UMAP of similarities."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FEWEST", "N_NEIGHBOURS", "neighbourhood"]

FEWEST: Final = 15
"""Runs, below which a map of neighbours shows the draw of its first places and nothing else."""
N_NEIGHBOURS: Final = 15
"""UMAP's own default; fewer than the runs."""
SEED: Final = 42


def neighbourhood(similarity: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Lay out runs so that those alike lie together.

    Distances between groups, and the density within them, have no meaning in such a map.

    Parameters
    ----------
    similarity : ndarray, shape (N, N), float64
        Cosines of all pairs of runs.

    Returns
    -------
    ndarray, shape (N, 2), float64, or None
        The same at each call; None where there are fewer than `FEWEST` runs.

    References
    ----------
    McInnes, Healy and Melville, UMAP: Uniform manifold approximation and projection for
    dimension reduction, arXiv:1802.03426.
    """
    n = len(similarity)
    if n < FEWEST:
        return None
    distance = np.clip(1 - similarity, 0, None)
    np.fill_diagonal(distance, 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tensorflow not installed")
        # New runs are never added to a map.
        warnings.filterwarnings("ignore", message="using precomputed metric")
        from umap import UMAP

        layout = UMAP(
            n_neighbors=min(N_NEIGHBOURS, n - 1),
            metric="precomputed",
            random_state=SEED,
            n_jobs=1,
        )
        found: NDArray[np.float64] = np.asarray(layout.fit_transform(distance), dtype=np.float64)
    return found
