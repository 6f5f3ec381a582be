"""Nuisance signals as fMRIPrep defines them: one function a definition, on arrays.

All of them look at the series on its native grid after head motion is taken off. Rows are
volumes; what needs a volume before it has no value in the first row (NaN here, n/a on disk).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.preprocess.motion import rms_displacement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = [
    "Components",
    "compcor",
    "cosine_basis",
    "dvars",
    "find_tcompcor_voxels",
    "framewise_displacement",
    "one_hot",
    "rms_motion",
]

HEAD_RADIUS = 50.0
"""Millimetres per radian in Power's framewise displacement."""


@dataclass(frozen=True, slots=True)
class Components:
    """Principal components of the noise in a mask.

    Parameters
    ----------
    series : ndarray, shape (T, K)
        The K retained components, of unit length, zero in the volumes that were left out.
    singular_values : ndarray, shape (K,)
        Of the retained components.
    variance, cumulative : ndarray, shape (K,)
        Share of the variance that each explains, and all up to it.
    """

    series: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    variance: NDArray[np.float64]
    cumulative: NDArray[np.float64]


def framewise_displacement(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum how far the head moved since the volume before, in mm.

    Parameters
    ----------
    parameters : ndarray, shape (T, 6)
        Three translations in mm and three rotations in radians.

    Returns
    -------
    ndarray, shape (T,)
        |dx| + |dy| + |dz| + 50 mm (|da| + |db| + |dc|); NaN in the first volume.

    References
    ----------
    Power J. et al. 2012, NeuroImage 59:2142, equation in "Framewise displacement".
    """
    step = np.abs(np.diff(parameters, axis=0)) * [1, 1, 1, *[HEAD_RADIUS] * 3]
    return np.concatenate([[np.nan], step.sum(axis=1)])


def rms_motion(matrices: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Average how far the points of a ball of 80 mm moved since the volume before, in mm.

    Parameters
    ----------
    matrices : ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    grid : Grid
        Of the series; the ball lies at its centre.

    Returns
    -------
    ndarray, shape (T,)
        NaN in the first volume.
    """
    centre = grid.affine @ [*(0.5 * (np.asarray(grid.shape) - 1)), 1.0]
    back = np.linalg.inv(matrices)
    steps = [rms_displacement(after, before, centre=centre[:3]) for before, after in pairwise(back)]
    return np.array([np.nan, *steps])


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
        AR(1) noise of the same variance would give, and as it is; NaN in the first volume.

    References
    ----------
    Nichols T. 2013, "Notes on creating a standardized version of DVARS"; nipype 1.11,
    ``compute_dvars(remove_zerovariance=True)``.
    """
    scaled = np.asarray(series, dtype=np.float64)
    scaled = scaled / np.median(scaled) * 1000.0
    low, high = np.percentile(scaled, [25, 75], axis=1, method="lower")
    spread = (high - low) / 1.349
    scaled, spread = scaled[spread > 0], spread[spread > 0]
    centred = scaled - scaled.mean(axis=1, keepdims=True)
    ar1 = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / (centred**2).sum(axis=1)
    expected = float(np.mean(np.sqrt(2.0 * (1.0 - ar1)) * spread))
    plain = np.sqrt(np.mean(np.diff(scaled, axis=1) ** 2, axis=0))
    plain = np.concatenate([[np.nan], plain])
    return plain / expected, plain


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
    order = max(int(np.floor(2.0 * n_volumes * tr / period)), 1)
    phase = np.pi / n_volumes * (np.arange(n_volumes) + 0.5)
    basis = np.sqrt(2.0 / n_volumes) * np.cos(np.outer(phase, np.arange(1, order)))
    return np.asarray(basis, dtype=np.float64)


def compcor(
    series: NDArray[np.floating],
    *,
    basis: NDArray[np.float64],
    n_skipped: int = 0,
    variance: float = 0.5,
) -> Components:
    """Decompose the series of noisy voxels.

    Slow cosines and the mean are taken off, each voxel is scaled to variance one, and the
    components that together explain `variance` are kept.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Voxels of a noise mask.
    basis : ndarray, shape (T - n_skipped, K)
        Slow cosines, see :func:`cosine_basis`.
    n_skipped : int
        Volumes at the start that are not steady; left out.
    variance : float
        Share of the variance to explain.

    Returns
    -------
    Components
        The sign of each is such that its largest entry is positive.

    References
    ----------
    Behzadi Y. et al. 2007, NeuroImage 37:90, "A component based noise correction method
    (CompCor)".
    """
    kept = np.asarray(series[:, n_skipped:], dtype=np.float64)
    scaled = _without_drift(kept, basis)
    spread = scaled.std(axis=1, keepdims=True)
    scaled = scaled / np.where(spread == 0, 1.0, spread)
    # The T x T covariance has the left singular vectors of the (T, V) matrix.
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    values, vectors = np.clip(values[::-1], 0.0, None), vectors[:, ::-1]
    total = values.sum()
    share = values / total if total > 0 else np.zeros_like(values)
    cumulative = np.cumsum(share)
    n_kept = min(int(np.searchsorted(cumulative, variance)) + 1, len(values)) if total > 0 else 0
    vectors = vectors[:, :n_kept]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    padded = np.zeros((series.shape[1], n_kept))
    padded[n_skipped:] = vectors * np.sign(largest)
    return Components(padded, np.sqrt(values[:n_kept]), share[:n_kept], cumulative[:n_kept])


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
    """
    kept = np.asarray(series[:, n_skipped:], dtype=np.float64)
    time = np.linspace(-1, 1, kept.shape[1])
    parabola, _ = np.linalg.qr(np.stack([time, time**2], axis=1) - [0.0, np.mean(time**2)])
    spread = _without_drift(kept, parabola).std(axis=1)
    threshold = np.percentile(spread, round(100.0 * (1.0 - share)))
    return np.asarray(spread >= threshold)


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
