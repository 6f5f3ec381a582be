"""What can be wrong with a run, each as a number: noise, outliers, spikes, ghosts, lost brain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, special

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "SliceMeans",
    "coverage",
    "find_spikes",
    "ghost_ratio",
    "outlier_shares",
    "signal_to_noise",
]

BLOCK = 8192
"""Voxels that are turned into float64 at a time."""
SPIKE_SCORE = 8.0
SPIKE_PERCENT = 1.0
"""A spike is this many robust deviations, and this much of the slice's mean, off its neighbours
in time; chosen so that 2,000 runs of noise have none (see the test)."""
EVERY_OTHER = 2
"""From a slice to the next that is acquired about the same time, interleaved or not: what both
do is the head's doing."""
FULL = 0.1
"""A slice is judged if it has this share of the brain of the fullest: in less than that, a nod of
the head changes the mean as much as a spike."""
SCALP_MM = 15.0
"""Nearer to the brain than this are scalp and skull, whose light is no ghost."""
FEWEST = 100
"""Voxels below which ghost or background cannot be told."""


class SliceMeans:
    """Gather the mean of each slice in one pass over the raw volumes.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    axis : int
        Along which slices lie.
    """

    def __init__(self, mask: NDArray[np.bool_], *, axis: int = 2) -> None:
        self._mask = np.moveaxis(mask, axis, -1)
        self._axis = axis
        self._n_voxels = np.maximum(self._mask.sum(axis=(0, 1)), 1)
        self._means: list[NDArray[np.float64]] = []

    def add(self, volume: NDArray[np.floating]) -> None:
        """Add the next volume (X, Y, Z)."""
        turned = np.moveaxis(volume, self._axis, -1)
        total = np.einsum("xyz,xyz->z", turned, self._mask, dtype=np.float64)
        self._means.append(total / self._n_voxels)

    @property
    def means(self) -> NDArray[np.float64]:
        """Means of the slices (T, Z); zero where a slice has too little brain to be judged."""
        n_voxels = self._mask.sum(axis=(0, 1))
        judged = n_voxels >= FULL * n_voxels.max()
        return np.where(judged, np.array(self._means), 0.0)


def signal_to_noise(series: NDArray[np.floating], *, n_skipped: int = 0) -> float | None:
    """Give the median over voxels of mean over standard deviation in time.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Still voxels of the brain; a line is taken off each.
    n_skipped : int
        Volumes at the start that are left out.

    Returns
    -------
    float or None
        None if no voxel varies.
    """
    ratios = []
    time = np.linspace(-1.0, 1.0, series.shape[1] - n_skipped)
    line = time / np.linalg.norm(time)
    for start in range(0, len(series), BLOCK):
        block = series[start : start + BLOCK, n_skipped:].astype(np.float64)
        mean = block.mean(axis=1, keepdims=True)
        rest = block - mean
        rest -= (rest @ line)[:, None] * line
        spread = rest.std(axis=1)
        ratios.append(mean[spread > 0, 0] / spread[spread > 0])
    found = np.concatenate(ratios) if ratios else np.empty(0)
    return float(np.median(found)) if found.size else None


def outlier_shares(series: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give the share of voxels in each volume that are far from their own median.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Voxels of the brain.

    Returns
    -------
    ndarray, shape (T,)
        A voxel counts if it is further from its median than sqrt(pi / 2) times the median
        absolute deviation times the normal deviate of 0.001 / T.

    References
    ----------
    AFNI, ``3dToutcount``, default of ``-qthr``.
    """
    n_volumes = series.shape[1]
    limit = math.sqrt(math.pi / 2.0) * float(special.ndtri(1.0 - 0.001 / n_volumes))
    count = np.zeros(n_volumes)
    for start in range(0, len(series), BLOCK):
        block = series[start : start + BLOCK].astype(np.float64)
        away = np.abs(block - np.median(block, axis=1, keepdims=True))
        usual = np.median(away, axis=1, keepdims=True)
        count += ((away > limit * usual) & (usual > 0)).sum(axis=0)
    return count / max(len(series), 1)


def find_spikes(slice_means: NDArray[np.float64], *, n_skipped: int = 0) -> NDArray[np.bool_]:
    """Find slices that jump for one volume, while the slices about them do not.

    Parameters
    ----------
    slice_means : ndarray, shape (T, Z)
        See :class:`SliceMeans`.
    n_skipped : int
        Volumes at the start that have no spikes.

    Returns
    -------
    ndarray of bool, shape (T, Z)
        True at a spike.
    """
    steady = slice_means[n_skipped:]
    level = np.median(steady, axis=0)
    lit = level > 0
    percent = 100.0 * (steady[:, lit] / level[lit] - 1.0)
    jump = percent - _beside(percent)
    jump = jump - _beside(jump.T, step=EVERY_OTHER).T
    usual = 1.4826 * np.median(np.abs(jump), axis=0) + 1e-9
    # Over a fifth of the volumes the median itself is moved, and the deviation with it.
    spread = np.clip(usual, np.median(usual), 3.0 * np.median(usual))
    found = np.zeros(slice_means.shape, dtype=bool)
    high = (np.abs(jump) > SPIKE_SCORE * spread) & (np.abs(jump) > SPIKE_PERCENT)
    found[n_skipped:, lit] = high
    return found


def _beside(values: NDArray[np.float64], *, step: int = 1) -> NDArray[np.float64]:
    """Give the median of the four rows beside each, `step` and twice as far (N, K).

    The row itself is left out: a smooth course would be its own median and have no noise.
    """
    padded = np.pad(values, ((2 * step, 2 * step), (0, 0)), mode="reflect")
    rows = [padded[k * step : k * step + len(values)] for k in (0, 1, 3, 4)]
    return np.asarray(np.median(rows, axis=0))


def ghost_ratio(
    reference: NDArray[np.floating],
    mask: NDArray[np.bool_],
    *,
    axis: int,
    zooms: tuple[float, float, float],
) -> float | None:
    """Compare the brightness of the ghost with that of the brain.

    The ghost is the brain moved by half the field of view; brightness of the rest of the
    background is taken off it. Medians are compared, away from the brain: scalp and neck lie
    in the ghost's place too, and are not of it.

    Parameters
    ----------
    reference : ndarray, shape (X, Y, Z)
        Mean of the raw volumes.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    axis : int
        Of phase encoding.
    zooms : tuple of float
        Voxel sizes in mm.

    Returns
    -------
    float or None
        None if there is no brain, or ghost or background have fewer than 100 voxels of their
        own, as in a tight field of view.

    References
    ----------
    Giannelli M. et al. 2010, J Appl Clin Med Phys 11:3237, "Characterization of Nyquist ghost
    in EPI-fMRI acquisition sequences", where means are compared.
    """
    if not mask.any():
        return None
    near = ndimage.distance_transform_edt(~mask, sampling=zooms) <= SCALP_MM
    half = mask.shape[axis] // 2
    ghost = np.roll(mask, half, axis=axis) & ~near
    background = ~near & ~np.roll(near, half, axis=axis)
    bright = float(np.median(reference[mask]))
    if min(np.count_nonzero(ghost), np.count_nonzero(background)) < FEWEST or bright <= 0:
        return None
    return float((np.median(reference[ghost]) - np.median(reference[background])) / bright)


def coverage(covered: NDArray[np.bool_], brain: NDArray[np.bool_]) -> float | None:
    """Give the share of the template's brain that is covered, both on one grid."""
    total = int(np.count_nonzero(brain))
    return int(np.count_nonzero(covered & brain)) / total if total else None
