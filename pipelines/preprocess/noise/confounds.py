"""Nuisance signals as fMRIPrep defines them: one function a definition, on arrays.

All of them look at the series on its native grid after slice timing, head motion and distortion
are taken off. Rows are volumes; what needs a volume before it has no value in the first row (NaN
here, n/a on disk). Voxels are worked through in blocks, so that a long run needs little memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Components", "compcor", "cosine_basis", "dvars", "find_tcompcor_voxels", "one_hot"]

BLOCK = 8192
"""Voxels that are turned into float64 at a time."""


@dataclass(frozen=True, slots=True)
class Components:
    """Principal components of the noise in a mask.

    Parameters
    ----------
    series : ndarray, shape (T, K)
        The K retained components, of unit length, zero in the volumes that were left out; NaN
        where there was nothing to decompose.
    singular_values : ndarray, shape (S,)
        Of all S components, the retained ones first.
    variance, cumulative : ndarray, shape (S,)
        Share of the variance that each explains, and all up to it.
    """

    series: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    variance: NDArray[np.float64]
    cumulative: NDArray[np.float64]


def dvars(series: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure how much the whole brain changes from volume to volume.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Voxels of the brain, arbitrary units; scaled here to a median of 1000.

    Returns
    -------
    std_dvars, dvars : ndarray, shape (T,)
        Root mean square over voxels of the backward difference, divided by what white and
        AR(1) noise of the same variance would give, and as it is; NaN in the first volume, and
        everywhere if no voxel varies.

    References
    ----------
    Nichols T. 2013, "Notes on creating a standardized version of DVARS"; nipype 1.11,
    ``compute_dvars(remove_zerovariance=True)``.
    """
    n_volumes = series.shape[1]
    median = float(np.median(series)) if series.size else 0.0
    squares, expected, n_voxels = np.zeros(n_volumes - 1), 0.0, 0
    for block in _blocks(series) if median else ():
        scaled = block / median * 1000.0
        low, high = np.percentile(scaled, [25, 75], axis=1, method="lower")
        spread = (high - low) / 1.349
        scaled, spread = scaled[spread > 0], spread[spread > 0]
        centred = scaled - scaled.mean(axis=1, keepdims=True)
        ar1 = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / (centred**2).sum(axis=1)
        expected += float(np.sum(np.sqrt(2.0 * (1.0 - ar1)) * spread))
        squares += (np.diff(scaled, axis=1) ** 2).sum(axis=0)
        n_voxels += len(scaled)
    if not n_voxels:
        return np.full(n_volumes, np.nan), np.full(n_volumes, np.nan)
    plain = np.concatenate([[np.nan], np.sqrt(squares / n_voxels)])
    return plain / (expected / n_voxels), plain


def cosine_basis(n_volumes: int, tr: float, *, period: float = 128.0) -> NDArray[np.float64]:
    """Build the slow cosines that a high-pass filter takes out.

    Parameters
    ----------
    n_volumes : int
        T.
    tr : float
        Repetition time in seconds.
    period : float
        The shortest period that still is drift, in seconds.

    Returns
    -------
    ndarray, shape (T, K)
        Cosines of unit length without the constant; K = floor(2 T tr / period) - 1, at least 0.

    References
    ----------
    SPM's discrete cosine set; nipype 1.11, ``_cosine_drift``.
    """
    # In this order of operations, or 128 s of a period fall to the other side of a whole number.
    order = max(int(np.floor(2 * n_volumes * (1.0 / period) * tr)), 1)
    phase = np.pi / n_volumes * (np.arange(n_volumes) + 0.5)
    basis = np.sqrt(2.0 / n_volumes) * np.cos(np.outer(phase, np.arange(1, order)))
    return np.asarray(basis, dtype=np.float64)


def compcor(
    series: NDArray[np.floating],
    *,
    basis: NDArray[np.float64],
    n_skipped: int = 0,
    keep: float = 0.5,
) -> Components:
    """Decompose the series of noisy voxels.

    Slow cosines and the mean are taken off, each voxel is scaled to variance one, and the
    components with the largest singular values are kept. A voxel with a value that is not a
    number counts as silent.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Voxels of a noise mask.
    basis : ndarray, shape (T - n_skipped, K)
        Slow cosines, see :func:`cosine_basis`.
    n_skipped : int
        Volumes at the start that are not steady; left out.
    keep : float
        Below 1 the share of the variance that the retained components explain together; from 1
        on their number; infinite for all of them.

    Returns
    -------
    Components
        The sign of each is such that its largest entry is positive. A mask without voxels has
        no components; if no voxel varies, those that were asked for (one, if a share was) are
        NaN.

    References
    ----------
    Behzadi Y. et al. 2007, NeuroImage 37:90, "A component based noise correction method
    (CompCor)"; nipype 1.11, ``CompCor(failure_mode="NaN")``.
    """
    n_volumes = series.shape[1] - n_skipped
    n_all = min(n_volumes, len(series))
    # The T x T covariance has the left singular vectors of the (T, V) matrix.
    covariance = np.zeros((n_volumes, n_volumes))
    for block in _blocks(series[:, n_skipped:]):
        block[~np.isfinite(block).all(axis=1)] = 0.0
        still = _without_drift(block, basis)
        spread, size = still.std(axis=1, keepdims=True), np.abs(block).max(axis=1, keepdims=True)
        # What is left of a constant is rounding, which must not be blown up to variance one.
        still = still / np.where(spread <= 1e-9 * size, np.inf, spread)
        covariance += still.T @ still
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.clip(values[::-1][:n_all], 0.0, None), vectors[:, ::-1]
    if n_all and not values.any():
        n_kept = 1 if keep < 1 else int(min(keep, n_all))
        nothing = np.full(n_all, np.nan)
        return Components(np.full((series.shape[1], n_kept), np.nan), nothing, nothing, nothing)
    share = values / values.sum() if n_all else values
    cumulative = np.cumsum(share)
    wanted = np.searchsorted(cumulative, keep) + 1 if keep < 1 else min(keep, n_all)
    n_kept = min(int(wanted), n_all)
    vectors = vectors[:, :n_kept]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    padded = np.zeros((series.shape[1], n_kept))
    padded[n_skipped:] = vectors * np.sign(largest)
    return Components(padded, np.sqrt(values), share, cumulative)


def find_tcompcor_voxels(
    series: NDArray[np.floating], *, n_skipped: int = 0, share: float = 0.02
) -> NDArray[np.bool_]:
    """Find the voxels that vary most after a slow parabola is taken off.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Voxels of the brain.
    n_skipped : int
        Volumes at the start that are not steady; left out.
    share : float
        Part of the voxels to take.

    Returns
    -------
    ndarray of bool, shape (V,)
        True where the temporal standard deviation is in the top `share`.

    References
    ----------
    Behzadi Y. et al. 2007, NeuroImage 37:90, "Determination of noise ROI"; nipype 1.11,
    ``TCompCor``.
    """
    time = np.linspace(-1, 1, series.shape[1] - n_skipped)
    parabola, _ = np.linalg.qr(np.stack([time, time**2], axis=1) - [0.0, np.mean(time**2)])
    blocks = _blocks(series[:, n_skipped:])
    spread = np.concatenate([_without_drift(block, parabola).std(axis=1) for block in blocks])
    spread = np.where(np.isfinite(spread), spread, 0.0)
    threshold = np.percentile(spread, round(100.0 * (1.0 - share)))
    return np.asarray(spread >= threshold)


def _blocks(series: NDArray[np.floating]) -> Iterator[NDArray[np.float64]]:
    """Go through the rows of a series, a float64 copy of some at a time."""
    for number in range(math.ceil(len(series) / BLOCK)):
        yield series[number * BLOCK : (number + 1) * BLOCK].astype(np.float64)


def _without_drift(series: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the mean and an orthonormal, mean-free basis off each row."""
    centred = series - series.mean(axis=1, keepdims=True)
    return np.asarray(centred - (centred @ basis) @ basis.T)


def one_hot(volumes: NDArray[np.intp] | list[int], n_volumes: int) -> NDArray[np.float64]:
    """Mark volumes: one column each, one at its row and zero elsewhere.

    Returns
    -------
    ndarray, shape (T, K)
        One column for each of `volumes`.
    """
    return np.eye(n_volumes)[:, np.asarray(volumes, dtype=int)]
