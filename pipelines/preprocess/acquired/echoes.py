"""Several echoes of one excitation: how fast the signal decays, and the best sum of them.

At echo time TE the signal is ``S0 exp(-TE / T2*)``. T2* and S0 come from means over volumes,
which are added up as volumes come, so that no series is held; echoes in which a voxel has no
signal are left out; echoes are then summed with weights ``TE exp(-TE / T2*)``. The rules are
those of tedana, so that the numbers are tedana's.

References
----------
Posse S. et al. 1999, Magn. Reson. Med. 42:87, the weights. DuPre E. et al. 2021, J. Open Source
Softw. 6:3669, tedana; its documentation, "Adaptive mask generation" (method ``dropout``) and
"Monoexponential decay model fit", tells the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.preprocess.acquired.t2star import (
    T2Star,
    check_echo_times,
    fit_t2star,
    group_by_echoes,
    limit_t2star,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "EchoMeans",
    "T2Star",
    "average_echoes",
    "combination_weights",
    "combine",
    "count_good_echoes",
    "fit_t2star",
    "limit_t2star",
]

_PERCENTILE, _SHARE = 33, 3  # the voxel that others are compared with, and what part of it is good


@dataclass(frozen=True, slots=True, eq=False)
class EchoMeans:
    """What is kept of the echoes of a run.

    Parameters
    ----------
    mean : ndarray, shape (V, E)
        Mean over volumes, a.u.
    log_mean : ndarray, shape (V, E)
        Mean over volumes of ``log(|signal| + 1)``.
    least : ndarray, shape (V, E)
        Least over volumes; NaN if any was.
    """

    mean: NDArray[np.float64]
    log_mean: NDArray[np.float64]
    least: NDArray[np.float64]


def average_echoes(volumes: Iterable[NDArray[Any]]) -> EchoMeans:
    """Add up the volumes of a run.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (E, V)
        The voxels of a mask in all echoes, one time point after another, aligned.

    Raises
    ------
    DataError
        If there is no volume.
    """
    total = total_log = least = np.zeros((0, 0))
    n_volumes = 0
    for n_volumes, echoes in enumerate(volumes, start=1):
        now = np.asarray(echoes, dtype=np.float64)
        logs = np.log(np.abs(now) + 1)
        if n_volumes == 1:
            total, total_log, least = now.copy(), logs, now.copy()
            continue
        total += now
        total_log += logs
        np.minimum(least, now, out=least)
    if n_volumes == 0:
        raise DataError(
            "the echoes have no volumes; T2* needs at least one of each",
            fix="check the length of the series",
        )
    return EchoMeans(total.T / n_volumes, total_log.T / n_volumes, least.T)


def count_good_echoes(means: EchoMeans) -> NDArray[np.intp]:
    """Count the first echoes of each voxel that have signal: (V,), 0 to E.

    An echo is good if it or a later one has more than a third of the mean of an ordinary dim
    voxel, the one at the 33rd percentile of the first echo; and if no value of it or of an
    earlier echo is zero, negative or NaN.
    """
    positive = np.cumprod(means.least > 0, axis=1).sum(axis=1)
    first = means.mean[:, 0]
    shown = means.mean[np.isfinite(means.mean).all(axis=1) & (first != 0)]
    if shown.size == 0:
        return np.zeros(len(first), dtype=np.intp)
    level = np.percentile(shown[:, 0], _PERCENTILE, method="higher")
    ordinary = shown[shown[:, 0] == level]
    least = ordinary[ordinary.sum(axis=1).argmax()] / _SHARE
    bright = np.abs(means.mean) > least
    n_echoes = means.mean.shape[1]
    last = np.where(bright.any(axis=1), n_echoes - np.argmax(bright[:, ::-1], axis=1), 0)
    return np.asarray(np.minimum(positive, last), dtype=np.intp)


def combination_weights(
    t2star: NDArray[np.float64], echo_times: Sequence[float], n_good: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Compute the weights of the echoes: ``TE exp(-TE / T2*)``, of good ones, adding up to 1.

    Parameters
    ----------
    t2star : ndarray, shape (V,)
        s.
    echo_times : sequence of float
        s, rising.
    n_good : ndarray, shape (V,)
        A voxel of one good echo takes the first two; one of none has no weights.

    Returns
    -------
    ndarray, shape (V, E)
        Rows add up to 1, or are 0 without a good echo.

    Raises
    ------
    DataError
        If there are fewer than two echoes, or their times are not positive and rising.
    """
    times = check_echo_times(echo_times, len(echo_times))
    weights = np.zeros((len(t2star), len(times)))
    for n, rows in group_by_echoes(n_good, len(times)):
        raw = times[:n] * np.exp(-times[:n] / t2star[rows, None])
        weights[rows, :n] = raw / raw.sum(axis=1, keepdims=True)
    return weights


def combine(echoes: NDArray[Any], weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """Sum the echoes of one time point.

    Parameters
    ----------
    echoes : ndarray, shape (E, V)
        The voxels, a.u.
    weights : ndarray, shape (V, E)
        Of :func:`combination_weights`. An echo without weight may hold anything, NaN too.

    Returns
    -------
    ndarray, shape (V,), float32
        a.u.
    """
    total = np.zeros(len(weights))
    for echo, weight in zip(echoes, weights.T, strict=True):
        total += np.where(weight > 0, echo, 0) * weight
    return total.astype(np.float32)
