"""What a report shows of a series, taken in one pass with bounded memory.

The series is read one volume after the other; kept are the sums that give the temporal
signal-to-noise ratio, the mean of each tissue in each volume, and the rows of the carpet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.figures.slices import Volume, onto, read_volume
from neurostorm_app.pipelines.image import iter_volumes
from neurostorm_app.pipelines.series import open_series

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.series import SeriesFile

__all__ = ["TISSUES", "SeriesSummary", "summarise_series"]

TISSUES: Mapping[str, int] = {"grey matter": 1, "white matter": 2, "CSF": 3}
"""fMRIPrep's labels of a discrete segmentation."""

_CLIP = 2.5


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SeriesSummary:
    """A series as a report shows it.

    Parameters
    ----------
    n_volumes : int
        Length of the series.
    mean, tsnr : Volume
        Mean over time, and mean over the standard deviation of what is left after removing a
        straight line; zero outside the brain.
    carpet : ndarray of float32, shape (R, T)
        Rows of single voxels, ordered by tissue, straight line removed, in standard
        deviations, cut at 2.5.
    bands : dict
        Tissue to its number of rows, in the order of the rows.
    tissue_means : dict
        Tissue, and ``brain``, to its mean in each volume, shape (T,), units of the series.
    median_tsnr : dict
        Tissue, and ``brain``, to the median of `tsnr`.
    """

    n_volumes: int
    mean: Volume
    tsnr: Volume
    carpet: NDArray[np.float32]
    bands: dict[str, int]
    tissue_means: dict[str, NDArray[np.float64]]
    median_tsnr: dict[str, float]


@dataclass(slots=True)
class _Sums:
    """Running sums over the voxels of the brain, each of shape (n_voxels,)."""

    shift: NDArray[np.float64]
    y: NDArray[np.float64]
    yy: NDArray[np.float64]
    ty: NDArray[np.float64]


def summarise_series(
    bold: Path, *, mask: Path | None = None, dseg: Path | None = None, rows: int = 600
) -> SeriesSummary:
    """Read a series once and keep what a report shows.

    Parameters
    ----------
    bold : Path
        The series (X, Y, Z, T).
    mask : Path or None
        Brain mask; None takes the voxels that are not constant zero in the first volume.
    dseg : Path or None
        Tissues by fMRIPrep's labels, any grid; None makes one band of the whole brain.
    rows : int
        Rows of the carpet at most.

    Raises
    ------
    CorruptImageError, DataError
        If the file is damaged or is no series.
    SeriesTooShortError
        If it has one volume.
    """
    series = open_series(bold, min_volumes=2)
    grid = series.grid
    brain = _brain(bold, mask, grid)
    labels = onto(read_volume(dseg), grid)[brain] if dseg else None
    regions = _regions(labels, int(brain.sum()))
    chosen = _choose(regions, rows)
    every = np.concatenate(list(chosen.values()))
    sums, lines, means = _stream(series, brain, every, regions)
    n = lines.shape[1]
    mean, tsnr = _signal_to_noise(sums, n)
    whole = {"brain": np.arange(mean.size), **regions}
    return SeriesSummary(
        n_volumes=n,
        mean=_fill(mean, brain, grid),
        tsnr=_fill(tsnr, brain, grid),
        carpet=_standardise(lines),
        bands={name: where.size for name, where in chosen.items()},
        tissue_means=means,
        median_tsnr={name: float(np.median(tsnr[where])) for name, where in whole.items()},
    )


def _brain(bold: Path, mask: Path | None, grid: Grid) -> NDArray[np.bool_]:
    """Find the voxels that are looked at; the whole grid if there would be none."""
    brain = read_volume(bold).data != 0 if mask is None else onto(read_volume(mask), grid) > 0.5
    return brain if brain.any() else np.ones(grid.shape, dtype=bool)


def _regions(labels: NDArray[np.float32] | None, n_voxels: int) -> dict[str, NDArray[np.int_]]:
    """List the voxels of each tissue, as positions among the voxels of the brain."""
    if labels is not None:
        found = {name: np.flatnonzero(labels == label) for name, label in TISSUES.items()}
        found = {name: where for name, where in found.items() if where.size}
        if found:
            return found
    return {"brain": np.arange(n_voxels)}


def _choose(regions: Mapping[str, NDArray[np.int_]], rows: int) -> dict[str, NDArray[np.int_]]:
    """Share the rows among tissues by their size; a small one still gets a twelfth."""
    total = sum(where.size for where in regions.values())
    return {
        name: _spread(where, max(rows // 12, round(rows * where.size / total)))
        for name, where in regions.items()
    }


def _spread(where: NDArray[np.int_], count: int) -> NDArray[np.int_]:
    """Take evenly spaced members of a list."""
    count = min(count, where.size)
    return np.asarray(where[np.linspace(0, where.size - 1, count).round().astype(int)])


def _stream(
    series: SeriesFile,
    brain: NDArray[np.bool_],
    chosen: NDArray[np.int_],
    regions: Mapping[str, NDArray[np.int_]],
) -> tuple[_Sums, NDArray[np.float32], dict[str, NDArray[np.float64]]]:
    """Go through the series, one volume after the other."""
    n = series.n_volumes
    zeros = np.zeros(int(brain.sum()))
    sums = _Sums(zeros, zeros.copy(), zeros.copy(), zeros.copy())
    lines = np.empty((chosen.size, n), dtype=np.float32)
    means = {name: np.empty(n) for name in ("brain", *regions)}
    for t, volume in enumerate(iter_volumes(series.path)):
        values = np.nan_to_num(volume[brain], posinf=0, neginf=0)
        if t == 0:
            sums.shift = values.astype(np.float64)
        centred = values - sums.shift
        sums.y += centred
        sums.yy += centred * centred
        sums.ty += centred * t
        lines[:, t] = values[chosen]
        means["brain"][t] = values.mean()
        for name, where in regions.items():
            means[name][t] = values[where].mean()
    return sums, lines, means


def _signal_to_noise(sums: _Sums, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide the mean by what varies around a straight line."""
    middle = (n - 1) / 2
    spread = n * (n * n - 1) / 12
    mean = sums.shift + sums.y / n
    slope = (sums.ty - middle * sums.y) / spread
    residual = sums.yy - sums.y**2 / n - slope**2 * spread
    deviation = np.sqrt(np.maximum(residual, 0) / max(n - 2, 1))
    steady = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-12)
    return mean, np.where(steady, mean / np.where(steady, deviation, 1), 0.0)


def _fill(values: NDArray[np.float64], brain: NDArray[np.bool_], grid: Grid) -> Volume:
    data = np.zeros(grid.shape, dtype=np.float32)
    data[brain] = values
    return Volume(data, grid)


def _standardise(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Remove each row's straight line and divide by its standard deviation."""
    n = lines.shape[1]
    t = np.arange(n) - (n - 1) / 2
    centred = lines - lines.mean(1, keepdims=True)
    centred -= np.outer(centred @ t / (t @ t), t)
    deviation = centred.std(1, keepdims=True)
    flat = deviation < 1e-6
    return np.clip(np.where(flat, 0, centred / np.where(flat, 1, deviation)), -_CLIP, _CLIP).astype(
        np.float32
    )
