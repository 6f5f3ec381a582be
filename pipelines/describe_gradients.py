"""Gradients of connectivity: axes along which parcels with alike correlations lie together.

References
----------
Coifman and Lafon (2006), Appl. Comput. Harmon. Anal. 21:5 (diffusion maps); Margulies et al.
(2016), PNAS 113:12574 (gradients); Vos de Wael et al. (2020), Commun. Biol. 3:103 (settings).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["find_gradients"]

KEPT = 0.1
"""Of a parcel's correlations, the share that its profile is made of: the strongest."""
ALPHA = 0.5
"""How far the density of parcels is taken out."""


def find_gradients(fc: NDArray[np.float64], n: int = 3) -> NDArray[np.float64]:
    """Embed parcels by diffusion over the cosines of their strongest correlations.

    Parameters
    ----------
    fc : ndarray, shape (V, V)
        Correlations, symmetric.
    n : int
        Gradients.

    Returns
    -------
    ndarray, shape (V, n)
        The one that explains most first. Their sign says nothing; the parcel that lies furthest
        out is positive.

    Raises
    ------
    DataError
        If there are too few parcels, or they fall into parts without anything in common.
    """
    if len(fc) <= n + 1:
        raise DataError(
            f"there are {len(fc)} parcels; {n} gradients take {n + 2} or more",
            fix="give series of more parcels",
        )
    moves = _density_free(_affinity(fc))
    degree = moves.sum(axis=1)
    scale = 1 / np.sqrt(degree)
    values, vectors = eigh(
        moves * np.outer(scale, scale), subset_by_index=[len(fc) - n - 1, len(fc) - 1]
    )
    if values[-2] > 1 - 1e-9:
        raise DataError(
            "the parcels fall into parts that have no correlations in common: there is no "
            "gradient over all of them",
            fix="give a longer run, or leave out parcels without signal",
        )
    places = vectors * scale[:, None]
    places = places[:, :-1] / places[:, -1:]  # the last is the same everywhere
    found = (places * (values[:-1] / (1 - values[:-1])))[:, ::-1]
    furthest = np.abs(found).argmax(axis=0)
    return np.asarray(found * np.sign(found[furthest, np.arange(n)]))


def _affinity(fc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compare the profiles of parcels by their cosine; what points away counts as nothing."""
    limit = np.quantile(fc, 1 - KEPT, axis=1, keepdims=True)
    profiles = np.where(fc >= limit, fc, 0.0)
    length = np.linalg.norm(profiles, axis=1, keepdims=True)
    profiles = profiles / np.where(length > 0, length, 1.0)
    return np.asarray(np.maximum(profiles @ profiles.T, 0.0))


def _density_free(affinity: NDArray[np.float64]) -> NDArray[np.float64]:
    weight = affinity.sum(axis=1) ** -ALPHA
    return np.asarray(affinity * np.outer(weight, weight))
