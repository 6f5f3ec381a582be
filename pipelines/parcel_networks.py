"""Which functional network a parcel belongs to, told from what a model attends to, or from series.

Of one recording, most parcels are labelled and the others are told by their nearest neighbours
among those. The same folds serve all kinds of features, so that attention and raw series are
compared parcel by parcel. A parcel's network is known from other people's data; what is asked is
only whether features of this recording carry it. Neighbouring parcels are alike in any smooth
data, so an accuracy above chance is no proof that a model has learnt anything: raw series, and the
control with random weights, must be shown beside it.

References
----------
Ortega Caro et al., bioRxiv 2023.09.12.557460: seven networks, 80 % of the parcels labelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["NetworkScore", "predict_networks", "score_networks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkScore:
    """How well networks are told from one kind of features.

    Parameters
    ----------
    accuracy : float
        Share of parcels that are told right, each once, when its fold was left out.
    balanced : float
        Mean over networks of the share of their parcels.
    chance : float
        Share of the largest network: what always naming it would give.
    p : float
        One-sided, of networks that are shuffled among the parcels: (1 + shuffles that do as well)
        / (1 + shuffles). Shuffling breaks the smoothness of networks in space too, so it tests
        against no relation at all.
    predicted : ndarray, shape (V,)
        Network of each parcel as it was told.
    """

    accuracy: float
    balanced: float
    chance: float
    p: float
    predicted: NDArray[np.int64]

    def as_dict(self) -> dict[str, Any]:
        """Say the numbers for a JSON file."""
        names = ("Accuracy", "BalancedAccuracy", "Chance", "p")
        values = (self.accuracy, self.balanced, self.chance, self.p)
        return {name: round(value, 6) for name, value in zip(names, values, strict=True)}


def predict_networks(
    features: NDArray[np.floating[Any]],
    networks: NDArray[np.int64],
    *,
    folds: NDArray[np.int64],
    k: int = 5,
) -> NDArray[np.int64]:
    """Tell each parcel's network by the majority of its nearest neighbours in the other folds.

    Parameters
    ----------
    features : ndarray, shape (V, F)
        Of the parcels; they are compared by Pearson's correlation.
    networks : ndarray, shape (V,), int
        Labels.
    folds : ndarray, shape (V,), int
        Parcels of one fold are told from those of the others.
    k : int
        Neighbours; of networks with equal votes the one whose votes are nearest wins.

    Returns
    -------
    ndarray, shape (V,), int
        Of each parcel, told without its own label.

    Raises
    ------
    DataError
        If there is not a row for each parcel, or values are not finite.
    """
    likeness = _correlate(features, len(networks))
    return _vote(likeness, networks, folds, k)


def score_networks(
    kinds: Mapping[str, NDArray[np.floating[Any]]],
    networks: NDArray[np.int64],
    *,
    n_folds: int = 5,
    k: int = 5,
    n_shuffles: int = 199,
    seed: int = 0,
) -> dict[str, NetworkScore]:
    """Cross-validate over parcels, with the same folds for all kinds of features.

    Parameters
    ----------
    kinds : mapping of str to ndarray, shape (V, F)
        Such as rows of attention, and series. F may differ.
    networks : ndarray, shape (V,), int
        Labels; those below 0 are of no network and take no part.
    n_folds : int
        Folds, with each network spread evenly over them; of five, 80 % are labelled.
    k : int
        Neighbours.
    n_shuffles : int
        For the p values.
    seed : int
        Of folds and shuffles.

    Returns
    -------
    dict of str to NetworkScore
        By kind. `predicted` is -1 for parcels that took no part.

    Raises
    ------
    DataError
        If there are fewer than two networks, or one has fewer parcels than there are folds.
    """
    part = networks >= 0
    names, counts = np.unique(networks[part], return_counts=True)
    if len(names) < 2 or counts.min() < n_folds:
        raise DataError(
            f"there are {len(names)} networks, the smallest of {min(counts, default=0)} parcels; "
            f"expected two at least, each with {n_folds} parcels or more",
            fix="leave out small networks by a label below 0, or make fewer folds",
        )
    draws = np.random.default_rng(seed)
    labels = networks[part]
    folds = _spread(labels, n_folds, draws)
    shuffles = [draws.permutation(len(labels)) for _ in range(n_shuffles)]
    scores = {}
    for kind, features in kinds.items():
        likeness = _correlate(features, len(networks))[np.ix_(part, part)]
        told = _vote(likeness, labels, folds, k)
        accuracy = float((told == labels).mean())
        as_well = sum(
            float((_vote(likeness, labels[s], folds[s], k) == labels[s]).mean()) >= accuracy
            for s in shuffles
        )
        predicted = np.full(len(networks), -1, dtype=np.int64)
        predicted[part] = told
        scores[kind] = NetworkScore(
            accuracy=accuracy,
            balanced=float(np.mean([(told[labels == n] == n).mean() for n in names])),
            chance=float(counts.max() / counts.sum()),
            p=(1 + as_well) / (1 + n_shuffles),
            predicted=predicted,
        )
    return scores


def _spread(
    labels: NDArray[np.int64], n_folds: int, draws: np.random.Generator
) -> NDArray[np.int64]:
    """Give each parcel a fold, so that each network is in all of them."""
    folds = np.empty(len(labels), dtype=np.int64)
    for name in np.unique(labels):
        members = draws.permutation(np.flatnonzero(labels == name))
        folds[members] = (np.arange(len(members)) + draws.integers(n_folds)) % n_folds
    return folds


def _correlate(features: NDArray[np.floating[Any]], n_parcels: int) -> NDArray[np.float64]:
    """Correlate rows; one that does not vary is like no other."""
    if features.ndim != 2 or len(features) != n_parcels or not np.isfinite(features).all():
        raise DataError(
            f"the features have the shape {features.shape}, or are not all finite; expected one "
            f"row of numbers for each of {n_parcels} parcels",
            fix="give features and networks of the same parcels, in the same order",
        )
    rows = features - features.mean(axis=1, keepdims=True, dtype=np.float64)
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)
    return np.asarray(rows @ rows.T, dtype=np.float64)


def _vote(
    likeness: NDArray[np.float64], labels: NDArray[np.int64], folds: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    allowed = np.where(folds[:, None] != folds[None], likeness, -np.inf)
    nearest = np.argsort(-allowed, axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(allowed, nearest, axis=1)
    names = np.unique(labels)
    weights = np.where(np.isfinite(near), 1 + 1e-6 * near, 0)  # likeness decides equal votes only
    votes = [(weights * (labels[nearest] == name)).sum(axis=1) for name in names]
    return np.asarray(names[np.argmax(votes, axis=0)], dtype=np.int64)
