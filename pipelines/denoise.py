"""Noise off a whole series, in volumes as they are read, and off the mean series of its parcels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.series import SeriesFile

    Volume = NDArray[np.float32]

__all__ = ["correlate", "denoise_parcels", "denoise_volumes", "smooth"]

MEMORY = 2**29
"""Bytes of denoised volumes that are worked on at a time; a longer series is read several times."""
TAKEN = 64
"""Volumes that are read before they are multiplied."""
VOXELS = 8192
"""Voxels that are multiplied at a time: what of them is summed up stays in the cache."""
SAME = 1e-6
"""A parcel whose series is a smaller share of the largest one holds nothing but rounding."""


def denoise_volumes(
    series: SeriesFile, operator: NDArray[np.float64], *, memory: int = MEMORY
) -> Iterator[Volume]:
    """Denoise a series as it is read; memory holds some volumes of the brain.

    As many denoised volumes as `memory` holds are summed up in one pass over the file.

    Parameters
    ----------
    series : SeriesFile
        With its brain.
    operator : ndarray, shape (K, T)
        Of `build_operator`.
    memory : int
        Bytes of the denoised volumes of one pass.

    Yields
    ------
    ndarray, shape (X, Y, Z), float32
        The K kept volumes; 0 outside of the brain, and 0 on average within it.
    """
    brain = np.ones(series.grid.shape, dtype=bool) if series.brain is None else series.brain
    n_voxels = int(brain.sum())
    n_rows = max(1, memory // (4 * n_voxels))
    weights = operator.astype(np.float32)
    for start in range(0, len(weights), n_rows):
        rows = _sum_up(series, brain, weights[start : start + n_rows])
        for number in range(len(rows)):
            volume = np.zeros(series.grid.shape, dtype=np.float32)
            volume[brain] = rows[number]
            yield volume
        del rows  # the next ones need its room


def _sum_up(series: SeriesFile, brain: NDArray[np.bool_], weights: Volume) -> Volume:
    """Multiply weights (k, T) by the voxels of the brain (T, n), some volumes at a time."""
    n_voxels = int(brain.sum())
    total = np.zeros((len(weights), n_voxels), dtype=np.float32)
    taken = np.empty((TAKEN, n_voxels), dtype=np.float32)
    first: NDArray[np.float32] | None = None
    n_taken = 0
    for t, volume in enumerate(series.volumes()):
        row = volume[brain]
        # A constant becomes 0: what is left without it has few digits before the point.
        first = row if first is None else first
        taken[n_taken] = row - first
        n_taken += 1
        if n_taken == TAKEN or t == series.n_volumes - 1:
            here = weights[:, t + 1 - n_taken : t + 1]
            for voxel in range(0, n_voxels, VOXELS):
                part = slice(voxel, voxel + VOXELS)
                total[:, part] += here @ taken[:n_taken, part]
            n_taken = 0
    return total


def denoise_parcels(parcels: Parcels, operator: NDArray[np.float64]) -> Parcels:
    """Denoise mean series: the same numbers as means of the denoised series.

    Parameters
    ----------
    parcels : Parcels
        Of the series as it was; missing ones stay missing.
    operator : ndarray, shape (K, T)
        Of `build_operator`.
    """
    centred = parcels.series - parcels.series.mean(axis=1, keepdims=True)
    with threadpool_limits(1):  # more threads would change the last bits
        return replace(parcels, series=centred @ operator.T)


def correlate(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute Pearson's correlation of every pair of parcels.

    Parameters
    ----------
    series : ndarray, shape (V, K)
        Rows of missing parcels are NaN.

    Returns
    -------
    ndarray, shape (V, V)
        NaN where a parcel is missing, or holds nothing but rounding.
    """
    matrix = np.full((len(series), len(series)), np.nan)
    spread = series.std(axis=1)
    present = np.flatnonzero(np.isfinite(spread))
    if present.size:
        present = present[spread[present] > SAME * spread[present].max()]
    if present.size:
        with threadpool_limits(1):
            matrix[np.ix_(present, present)] = np.atleast_2d(np.corrcoef(series[present]))
    return matrix


def smooth(volume: Volume, grid: Grid, *, fwhm: float) -> Volume:
    """Smooth a volume by a Gaussian.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        On `grid`.
    grid : Grid
        Where its voxels are.
    fwhm : float
        Width at half of the maximum, mm.
    """
    import nibabel as nib
    from nilearn.image import smooth_img

    image = nib.Nifti1Image(volume, grid.affine)
    return np.asarray(smooth_img(image, fwhm).dataobj, dtype=np.float32)
