"""The mean series of the parcels of a label image.

Label images are brought to the series by nearest neighbour, through world coordinates: grids and
orientations may differ. The series itself is not interpolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from neurostorm_app.errors import ContractError, DataError
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.series import open_series

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.series import SeriesFile

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["MIN_COVERAGE", "Parcels", "parcellate", "read_labels"]

MIN_COVERAGE = 0.5
"""A parcel that is covered less is missing: the default of XCP-D's ``--min-coverage``."""
FLAT = 1e-7
"""A parcel whose standard deviation is a smaller share of its mean does not vary: rounding does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcels:
    """The mean series of the parcels of one run.

    Parameters
    ----------
    series : ndarray, shape (V, T), float64
        Rows of missing parcels are NaN.
    labels : ndarray, shape (V,), int
        Values of the label image, ascending.
    coverage : ndarray, shape (V,)
        Share of a parcel's voxels in the label image that lie in the field of view and the mask.
    grand_mean : float
        Mean over the mask and all volumes, before anything was taken off; NaN if not measured.
    """

    series: NDArray[np.float64]
    labels: NDArray[np.int64]
    coverage: NDArray[np.float64]
    grand_mean: float = math.nan

    @property
    def missing(self) -> list[int]:
        """Labels of the parcels without a series."""
        return [int(label) for label in self.labels[np.isnan(self.series).any(axis=1)]]


def parcellate(
    series: SeriesFile | Path,
    atlas: Path,
    *,
    mask: NDArray[np.bool_] | None = None,
    to_atlas: PointMap | None = None,
    from_atlas: PointMap | None = None,
) -> Parcels:
    """Average a series over the parcels of a label image, in one pass over the file.

    Parameters
    ----------
    series : SeriesFile or Path
        The series, (X, Y, Z, T).
    atlas : Path
        Label image; 0 is no parcel. Its grid may differ from that of the series.
    mask : ndarray, shape (X, Y, Z), bool, optional
        On the grid of the series; True is brain. By default the whole field of view counts.
    to_atlas, from_atlas : callable, optional
        Maps of points (..., 3), mm, from the space of the series to that of the atlas and back;
        by default the two spaces are one.

    Returns
    -------
    Parcels
        A parcel that is covered by less than ``MIN_COVERAGE``, in which no voxel lies, or that
        does not vary, is missing: its row is NaN.

    Raises
    ------
    CorruptImageError
        If a file is damaged, or a voxel of the mask holds a value that is not finite.
    DataError
        If no parcel varies.
    ContractError
        If the atlas is not a label image, or no parcel meets the brain.
    """
    if isinstance(series, Path):
        series = open_series(series)
    volume, atlas_grid = read_labels(atlas)
    labels = np.unique(volume[volume > 0])
    brain = np.ones(series.grid.shape, dtype=bool) if mask is None else mask
    series = series.within(brain)
    under = np.where(brain, _carry(volume, atlas_grid, series.grid, to_atlas), 0)
    seen = _carry(brain, series.grid, atlas_grid, from_atlas)
    coverage = _coverage(volume, labels, seen > 0)
    present = np.isin(labels, under) & (coverage >= MIN_COVERAGE)
    if not present.any():
        raise ContractError(
            f"{series.path}: no parcel of {atlas} is covered by its brain mask",
            fix="check that both are in the same standard space and that the affines are right",
        )
    means, grand_mean = _mean_rows(series, under, labels, brain=brain)
    flat = means.std(axis=1) <= FLAT * np.abs(means.mean(axis=1))
    means[~present | flat] = np.nan
    if np.isnan(means).all():
        raise DataError(
            f"{series.path}: no parcel varies over its {series.n_volumes} volumes",
            fix="check that this is a series, and not one volume repeated",
        )
    return Parcels(series=means, labels=labels, coverage=coverage, grand_mean=grand_mean)


def read_labels(path: Path) -> tuple[NDArray[np.int64], Grid]:
    """Read a label image.

    Returns
    -------
    labels : ndarray, shape (X, Y, Z), int
        0 is no parcel.
    grid : Grid
        Where its voxels are.

    Raises
    ------
    ContractError
        If a value is not a whole number from 0, or all are 0.
    """
    volume, grid = read_volume(path)
    labels = np.rint(volume).astype(np.int64)
    if np.abs(volume - labels).max() > 1e-3 or labels.min() < 0 or labels.max() == 0:
        raise ContractError(
            f"{path}: is not a label image: values from {volume.min():g} to {volume.max():g}",
            fix="give a discrete parcellation: whole numbers, 0 where there is no parcel",
        )
    return labels, grid


def _carry(
    labels: NDArray[np.int64] | NDArray[np.bool_], source: Grid, target: Grid, xfm: PointMap | None
) -> NDArray[np.int64]:
    """Bring labels to another grid by nearest neighbour; `xfm` maps target to source points."""
    if xfm is None and source == target:
        return labels.astype(np.int64)
    values = labels.astype(np.float32)
    carried = resample_volume(values, source=source, target=target, xfm=xfm, order=0)
    return np.rint(carried).astype(np.int64)


def _coverage(
    volume: NDArray[np.int64], labels: NDArray[np.int64], covered: NDArray[np.bool_]
) -> NDArray[np.float64]:
    counts = np.bincount(volume.ravel(), minlength=int(labels[-1]) + 1)[labels]
    seen = np.bincount(volume[covered], minlength=int(labels[-1]) + 1)[labels]
    return np.asarray(seen / counts, dtype=np.float64)


def _mean_rows(
    series: SeriesFile,
    under: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    brain: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], float]:
    """Average the voxels under each label, volume by volume, and those of the brain over all."""
    # Volumes come in the order of the file, first axis fastest: to ravel them so copies nothing.
    voxels = np.flatnonzero(brain.ravel(order="F"))
    values = under.ravel(order="F")[voxels]
    columns = np.flatnonzero(values)
    rows = np.searchsorted(labels, values[columns])
    weights = 1.0 / np.bincount(rows, minlength=labels.size)[rows]
    average = sparse.csr_matrix((weights, (rows, columns)), shape=(labels.size, voxels.size))
    means, total = np.empty((labels.size, series.n_volumes)), 0.0
    for t, volume in enumerate(series.volumes()):
        seen = volume.ravel(order="F")[voxels].astype(np.float64)
        means[:, t] = np.asarray(average @ seen)
        total += float(seen.mean())
    return means, total / series.n_volumes
