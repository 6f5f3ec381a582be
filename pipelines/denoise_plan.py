"""What is done to a series to take noise off it: one matrix, made by nilearn, and what it costs.

Filling censored volumes, detrending, filtering and regression are all linear in the series of a
voxel, and the same for each voxel. So nilearn cleans the unit impulses once, and what it gives is
the matrix by which every voxel is cleaned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.clean import MIN_FREEDOM, PADDED, degrees_of_freedom
from neurostorm_app.pipelines.denoise_nuisance import read_nuisance
from neurostorm_app.pipelines.header import check_tr
from neurostorm_app.pipelines.series import find_brain, open_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.denoise_nuisance import Nuisance
    from neurostorm_app.pipelines.denoise_strategies import Band, Strategy
    from neurostorm_app.pipelines.series import SeriesFile
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = [
    "Denoising",
    "Freedom",
    "build_operator",
    "count_freedom",
    "open_brain",
    "plan_denoising",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Freedom:
    """How many independent values a denoised series has, and what took the others.

    Parameters
    ----------
    volumes, censored, confounds : int
        Volumes of the series, those left out, and columns regressed out.
    filtered : float
        Lost outside of the band.
    left : float
        What is left.
    """

    volumes: int
    censored: int
    confounds: int
    filtered: float
    left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoising:
    """All that is needed to denoise a series.

    Parameters
    ----------
    strategy : Strategy
        What was asked for.
    nuisance : Nuisance
        What the table of confounds gave.
    operator : ndarray, shape (K, T), float64
        Cleans the series of any voxel; K of T volumes are kept.
    freedom : Freedom
        What is left.
    """

    strategy: Strategy
    nuisance: Nuisance
    operator: NDArray[np.float64]
    freedom: Freedom


def open_brain(run: StandardSeries) -> tuple[SeriesFile, str]:
    """Open a series within its brain mask.

    Returns
    -------
    series : SeriesFile
        On disk; its ``brain`` is the mask.
    source : {'given', 'nonzero', 'computed'}
        Where the mask comes from.
    """
    series = open_series(run.bold)
    brain, source = find_brain(series, run.mask)
    return series.within(brain), source


def plan_denoising(run: StandardSeries, series: SeriesFile, strategy: Strategy) -> Denoising:
    """Work out what is done to a series; refuse it if too little would be left.

    Parameters
    ----------
    run : StandardSeries
        Its confounds and repetition time.
    series : SeriesFile
        Of `open_brain`.
    strategy : Strategy
        What is to be taken off.

    Returns
    -------
    Denoising
        Nothing has been denoised yet.

    Raises
    ------
    NoInputError
        If the strategy needs a table of confounds and there is none.
    DataError
        If the table does not fit, the repetition time cannot hold the band, or fewer than
        ``clean.MIN_FREEDOM`` degrees of freedom would be left.
    """
    tr = check_tr(run.tr, run.bold)
    band = strategy.band
    if band.low_pass is not None and band.low_pass >= 0.5 / tr:
        raise DataError(
            f"{run.bold}: a repetition time of {tr:g} s ends at {0.5 / tr:g} Hz, below the "
            f"low-pass at {band.low_pass:g} Hz of the strategy {strategy.name}",
            fix="give a lower low-pass, or 0 for none",
        )
    nuisance = read_nuisance(
        run.confounds,
        strategy,
        n_volumes=series.n_volumes,
        mean_signal=lambda: _mean_signal(series),
    )
    freedom = count_freedom(nuisance, tr=tr, band=band)
    if freedom.left < MIN_FREEDOM:
        raise DataError(
            f"{run.bold}: {strategy.name} would leave about {max(freedom.left, 0):.0f} degrees of "
            f"freedom of {freedom.volumes} volumes: {freedom.censored} are censored, "
            f"{freedom.confounds} go to confounds and {freedom.filtered:.0f} to the filter; at "
            f"least {MIN_FREEDOM} are needed",
            fix="choose a strategy with fewer columns, a wider band or a higher threshold; or "
            "leave the run out",
        )
    operator = build_operator(nuisance, tr=tr, band=band)
    return Denoising(strategy=strategy, nuisance=nuisance, operator=operator, freedom=freedom)


def _mean_signal(series: SeriesFile) -> NDArray[np.float64]:
    means = (volume[series.brain].mean(dtype=np.float64) for volume in series.volumes())
    return np.fromiter(means, dtype=np.float64, count=series.n_volumes)


def count_freedom(nuisance: Nuisance, *, tr: float, band: Band) -> Freedom:
    """Count what is left of a series, and what took the rest.

    Parameters
    ----------
    nuisance : Nuisance
        Volumes left out, and columns regressed out.
    tr : float
        Repetition time in seconds.
    band : Band
        What passes.
    """
    n_kept, columns = int(nuisance.kept.sum()), nuisance.columns
    passing = (band.high_pass, band.low_pass)
    whole = degrees_of_freedom(n_kept, tr, band=(None, None), confounds=columns)
    left = degrees_of_freedom(n_kept, tr, band=passing, confounds=columns)
    return Freedom(
        volumes=len(nuisance.kept),
        censored=len(nuisance.kept) - n_kept,
        confounds=len(nuisance.names),
        filtered=round(whole - left, 3),
        left=round(left, 3),
    )


def build_operator(nuisance: Nuisance, *, tr: float, band: Band) -> NDArray[np.float64]:
    """Let nilearn clean unit impulses: its answers are the columns of the matrix that cleans.

    Volumes that are left out are filled by a cubic spline for the filter, and dropped before the
    regression and from the result, as XCP-D and nilearn do; those before the first and after the
    last kept one are not filled, but left out of the filter, as in nilearn. They are filled here
    and not by ``nilearn.signal.clean``, which (0.14.1) leaves a volume unfilled if the one in its
    mirror place, counted from the other end, is left out too.

    Parameters
    ----------
    nuisance : Nuisance
        Volumes and columns.
    tr : float
        Repetition time in seconds.
    band : Band
        What passes.

    Returns
    -------
    ndarray, shape (K, T), float64
        Takes a series of T volumes to the K that are kept; a constant becomes 0.

    References
    ----------
    Lindquist et al. (2019), Hum Brain Mapp 40:2358; ``nilearn.signal.clean``; Power et al. (2014),
    NeuroImage 84:320, on censoring and filters.
    """
    from nilearn.signal import clean

    filling, inside = _filling(nuisance.kept)
    table = nuisance.columns
    filtering = band.high_pass is not None or band.low_pass is not None
    options: dict[str, Any] = {"butterworth__order": band.order}
    if filtering and len(filling) <= PADDED:  # scipy has less to mirror at the ends
        options["butterworth__padlen"] = len(filling) - 1
    with threadpool_limits(1):  # more threads would change the last bits
        cleaned = clean(
            filling,
            confounds=None if table is None else filling @ table.to_numpy(dtype=np.float64),
            sample_mask=None if nuisance.kept.all() else inside,
            detrend=True,
            standardize=None,
            filter="butterworth" if filtering else False,
            t_r=tr,
            low_pass=band.low_pass,
            high_pass=band.high_pass,
            **options,
        )
    return np.asarray(cleaned, dtype=np.float64)


def _filling(kept: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Make the matrix (S, T) that fills gaps between the first and the last kept volume.

    The second array says which of its S rows are kept volumes.
    """
    from scipy.interpolate import CubicSpline

    rows = np.flatnonzero(kept)
    times = np.arange(rows[0], rows[-1] + 1)
    impulses = np.eye(len(kept))
    if len(rows) == len(times):
        return impulses[times], rows - rows[0]
    filling = np.asarray(CubicSpline(rows, impulses[rows])(times))
    filling[rows - rows[0]] = impulses[rows]
    return filling, rows - rows[0]
