"""From parcel series in the unit of a scanner to the unit that a network was trained on.

Three ways, on series whose mean over the run is 0. ``median``: minus the parcel's median, over its
interquartile range. ``robust``: clipped to its 1st and 99th percentile as well. ``sd``: over one
standard deviation of all parcels together. The statistics are those of a cohort or of the run. A
parcel that is missing, or whose statistics say nothing, becomes 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import ContractError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.card import ParcelContract
    from neurostorm_app.pipelines.conformance import Findings
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.stage import InputOptions

__all__ = [
    "GRAND_MEAN",
    "Statistics",
    "measure_statistics",
    "scale_parcels",
    "scale_series",
    "to_grand_mean",
]

GRAND_MEAN = 10_000.0
"""Mean of the brain of a run before it is compared with other runs, as in FSL FEAT."""
MEAN_OVER_SD = 10.0
"""A mean of the brain below so many standard deviations of a parcel was taken off before.

In fMRI that still has its mean the ratio is between 50 and 500.
"""
FLAT = 1e-6
"""An interquartile range that is a smaller share of the median one is no range: rounding is."""
FEW_RUNS = 10
"""Fewer runs do not tell the spread of a cohort from that of one person."""
FAR_SCALE = 2.0
"""A run whose spread is so many times that of its cohort is in another unit, or moved a lot."""
PERCENTILES = (1.0, 25.0, 50.0, 75.0, 99.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """How the values of parcels are spread.

    Parameters
    ----------
    labels : ndarray, shape (V,), int
        Values of the label image, ascending.
    median, iqr : ndarray, shape (V,)
        Of series without their mean, in the unit of the signal; NaN where a parcel is missing.
    low, high : ndarray, shape (V,)
        1st and 99th percentile of (value - median) / iqr.
    sd : float
        One standard deviation of all parcels together, in the unit of the signal.
    n_runs, n_participants : int
        Of the cohort; 0 where the statistics are those of one run.
    sha256 : str or None
        Of the file that the statistics were read from.
    """

    labels: NDArray[np.int64]
    median: NDArray[np.float64]
    iqr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    sd: float
    n_runs: int = 0
    n_participants: int = 0
    sha256: str | None = None

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Parcels, (V,), that can be scaled: their range is known and is not 0."""
        known = np.isfinite(self.median) & np.isfinite(self.iqr) & (self.iqr > 0)
        if not known.any():
            return np.asarray(known, dtype=np.bool_)
        enough = np.where(known, self.iqr, 0.0) > FLAT * np.median(self.iqr[known])
        return np.asarray(known & enough, dtype=np.bool_)


def measure_statistics(series: NDArray[np.float64], labels: NDArray[np.int64]) -> Statistics:
    """Measure how the values of parcels are spread, exactly.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Without their means; rows of missing parcels are NaN.
    labels : ndarray, shape (V,), int
        Values of the label image.

    Returns
    -------
    Statistics
        Values that are exactly 0 are left out of the quartiles, and only there: in the training
        of BrainLM they stood for what was missing.
    """
    points = np.full((len(labels), len(PERCENTILES)), np.nan)
    present = np.flatnonzero(np.isfinite(series).all(axis=1))
    for row in present:
        values = series[row]
        points[row] = np.percentile(values, PERCENTILES)
        if (values == 0).any() and (values != 0).any():
            points[row, [1, 3]] = np.percentile(values[values != 0], [25, 75])
    squares = np.square(series[present])
    return as_statistics(points, labels, sd=math.sqrt(float(squares.mean())) if len(present) else 0)


def as_statistics(
    points: NDArray[np.float64], labels: NDArray[np.int64], *, sd: float
) -> Statistics:
    """Turn percentiles in the unit of the signal, (V, 5), into statistics."""
    first, lower, median, upper, last = points.T
    iqr = upper - lower
    unit = np.where(iqr > 0, iqr, np.nan)
    return Statistics(
        labels=labels,
        median=median,
        iqr=iqr,
        low=(first - median) / unit,
        high=(last - median) / unit,
        sd=sd,
    )


def scale_series(
    series: NDArray[np.float64], statistics: Statistics, *, scaling: str
) -> tuple[NDArray[np.float64], float]:
    """Scale series of parcels.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Without their means, in the unit of the statistics; rows of missing parcels are NaN.
    statistics : Statistics
        Of the same parcels.
    scaling : {'robust', 'median', 'sd'}
        ``(x - median) / iqr``, for ``robust`` clipped to ``low`` and ``high``; or ``x / sd``.

    Returns
    -------
    scaled : ndarray, shape (V, T)
        Without a unit; 0 in parcels that are missing or whose range is 0 or not known.
    clipped : float
        Share of the values of the other parcels that were clipped.
    """
    scaled = np.zeros_like(series)
    rows = np.isfinite(series).all(axis=1)
    if scaling == "sd":
        if statistics.sd > 0:
            scaled[rows] = series[rows] / statistics.sd
        return scaled, 0.0
    rows &= statistics.usable
    median, iqr, low, high = (
        values[rows, np.newaxis]
        for values in (statistics.median, statistics.iqr, statistics.low, statistics.high)
    )
    free = (series[rows] - median) / iqr
    scaled[rows] = np.clip(free, low, high) if scaling == "robust" else free
    return scaled, float(np.mean(scaled[rows] != free)) if rows.any() else 0.0


def to_grand_mean(parcels: Parcels, path: Path) -> NDArray[np.float64]:
    """Multiply a run's series so that the mean of its brain was ``GRAND_MEAN``.

    Scanners and reconstructions have units of their own; runs are compared in this one.

    Parameters
    ----------
    parcels : Parcels
        Cleaned; `grand_mean` is that of before.
    path : Path
        The run's file, for messages.

    Returns
    -------
    ndarray, shape (V, T)
        The series in the unit of cohorts.

    Raises
    ------
    ContractError
        If the brain's mean was taken off before.
    """
    spread = float(np.nanmedian(np.std(parcels.series, axis=1)))
    if not parcels.grand_mean > MEAN_OVER_SD * spread:
        raise ContractError(
            f"{path}: the mean of the brain is {parcels.grand_mean:g} and a parcel's standard "
            f"deviation {spread:g}: the mean was taken off before, and with it the unit in which "
            "runs of a cohort are compared",
            fix="give the series before denoising (fMRIPrep's desc-preproc_bold), or leave the "
            "cohort's statistics out: those of the run are then used",
        )
    return parcels.series * (GRAND_MEAN / parcels.grand_mean)


def scale_parcels(
    parcels: Parcels,
    contract: ParcelContract,
    options: InputOptions,
    *,
    cohort: Statistics | None,
    path: Path,
    findings: Findings,
) -> NDArray[np.float64]:
    """Scale the parcels of a run as a contract says, and tell how.

    Parameters
    ----------
    parcels : Parcels
        Cleaned, at the contract's repetition time.
    contract : ParcelContract
        What the model eats.
    options : InputOptions
        The gain.
    cohort : Statistics or None
        None takes those of the run.
    path : Path
        The run's file, for messages.
    findings : Findings
        Is told.

    Returns
    -------
    ndarray, shape (V, T)
        Missing parcels are 0.

    Raises
    ------
    ContractError
        If the series has no mean to bring it to the unit of the cohort.
    """
    if contract.scaling == "none":
        return np.nan_to_num(parcels.series)
    series = parcels.series if cohort is None else to_grand_mean(parcels, path)
    own = measure_statistics(series, parcels.labels)
    statistics = cohort or own
    scaled, clipped = scale_series(series, statistics, scaling=contract.scaling)
    findings.facts["scaling"] = {
        "method": contract.scaling,
        "statistics": "run" if cohort is None else "cohort",
        "gain": options.gain,
        "clipped_share": round(clipped, 6),
    }
    if contract.scaling != "sd":
        _tell_unscaled(parcels, statistics, findings)
    if cohort is not None:
        _tell_cohort(cohort, own, parcels.grand_mean, findings)
    if options.gain != 1:
        findings.deviations["gain"] = abs(math.log2(options.gain))
        findings.reasons.append(f"the scaled series was multiplied by {options.gain:g}")
    return scaled * options.gain


def _tell_unscaled(parcels: Parcels, statistics: Statistics, findings: Findings) -> None:
    present = np.isfinite(parcels.series).all(axis=1)
    labels = [int(label) for label in parcels.labels[present & ~statistics.usable]]
    findings.facts["scaling"]["unscaled_parcels"] = labels
    if labels:
        findings.deviations["parcels"] += len(labels) / len(parcels.labels)
        findings.reasons.append(
            f"the interquartile range of {len(labels)} parcels is 0 or not known; they count as 0"
        )


def _tell_cohort(
    cohort: Statistics, own: Statistics, grand_mean: float, findings: Findings
) -> None:
    """Tell where the statistics come from, and how the run's own spread compares with them."""
    both = cohort.usable & own.usable
    ratio = float(np.median(own.iqr[both] / cohort.iqr[both])) if both.any() else 1.0
    findings.facts["scaling"] |= {
        "statistics_sha256": cohort.sha256,
        "n_runs": cohort.n_runs,
        "n_participants": cohort.n_participants,
        "grand_mean_in": round(grand_mean, 6),
        "spread_over_cohort": round(ratio, 4),
    }
    findings.deviations["spread"] = abs(math.log2(ratio))
    if cohort.n_runs < FEW_RUNS:
        findings.reasons.append(
            f"the cohort's statistics are of {cohort.n_runs} runs; at least {FEW_RUNS} were "
            "expected"
        )
    if max(ratio, 1 / ratio) > FAR_SCALE:
        findings.reasons.append(
            f"the signal of the run varies {ratio:.2g} times as much as that of the cohort"
        )
