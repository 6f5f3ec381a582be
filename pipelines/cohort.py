"""The spread of parcels over many runs, in memory that does not grow with their number.

Values are counted in bins, each two in a thousand wide, so every percentile is right to so much of
its size. Counts do not depend on the order of the runs. Each volume counts the same, so a longer
run counts more.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import AppError, DataError
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.parcel_series import open_run, read_parcels
from neurostorm_app.pipelines.scale_parcels import PERCENTILES, as_statistics, to_grand_mean

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.card import ParcelContract
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.scale_parcels import Statistics
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["Cohort", "Sketch", "measure_cohort"]

log = logging.getLogger(__name__)

SMALLEST, LARGEST, WIDTH = 1e-2, 1e5, 1.002
"""Smallest and largest size of a value that has a bin of its own, and the ratio of its edges.

The mean of a brain is 10000 and the standard deviation of a parcel between 10 and 1000.
"""
EDGES = SMALLEST * WIDTH ** np.arange(math.ceil(math.log(LARGEST / SMALLEST, WIDTH)) + 1)
BORDERS = np.concatenate([-EDGES[::-1], EDGES])
"""Bin k lies between borders k and k + 1; the middle one holds what is nearly 0."""
MIDDLE = len(EDGES) - 1


class Sketch:
    """Counts of the values of each parcel.

    Parameters
    ----------
    labels : ndarray, shape (V,), int
        Values of the label image.
    """

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels = labels
        self.n_runs = np.zeros(len(labels), dtype=np.int64)
        self._counts = np.zeros((len(labels), len(BORDERS) - 1), dtype=np.int64)
        self._zeros = np.zeros(len(labels), dtype=np.int64)
        self._squares = np.zeros(len(labels))

    @property
    def n_values(self) -> NDArray[np.int64]:
        """Values counted in each parcel, (V,)."""
        return np.asarray(self._counts.sum(axis=1), dtype=np.int64)

    @property
    def sd(self) -> NDArray[np.float64]:
        """Standard deviation of each parcel about the means of its runs, (V,); NaN without any."""
        n_values = np.where(self.n_values > 0, self.n_values, np.nan)
        return np.asarray(np.sqrt(self._squares / n_values), dtype=np.float64)

    def add(self, series: NDArray[np.float64]) -> None:
        """Count the values of one run, (V, T), without their means; rows of NaN do not count."""
        rows = np.flatnonzero(np.isfinite(series).all(axis=1))
        values, n_bins = series[rows], self._counts.shape[1]
        bins = np.clip(np.searchsorted(BORDERS, values, side="right") - 1, 0, n_bins - 1)
        places = (rows[:, np.newaxis] * n_bins + bins).ravel()
        self._counts += np.bincount(places, minlength=self._counts.size).reshape(-1, n_bins)
        self._zeros[rows] += (values == 0).sum(axis=1)
        self._squares[rows] += np.square(values).sum(axis=1)
        self.n_runs[rows] += 1

    def statistics(self) -> Statistics:
        """Give the statistics of what was counted so far."""
        points = np.full((len(self.labels), len(PERCENTILES)), np.nan)
        for row in np.flatnonzero(self.n_values):
            counts = self._counts[row]
            points[row] = [_percentile(counts, q) for q in PERCENTILES]
            without = counts.copy()
            without[MIDDLE] -= self._zeros[row]
            if without.any():
                points[row, [1, 3]] = [_percentile(without, q) for q in (25.0, 75.0)]
        total = math.sqrt(self._squares.sum() / max(int(self.n_values.sum()), 1))
        return as_statistics(points, self.labels, sd=total)


def _percentile(counts: NDArray[np.int64], q: float) -> float:
    """Find the value below which `q` per cent of the counts lie, as ``numpy.percentile`` does."""
    total = np.cumsum(counts)
    rank = q / 100 * (int(total[-1]) - 1)
    lower = _at(counts, total, math.floor(rank))
    return lower + (rank - math.floor(rank)) * (_at(counts, total, math.ceil(rank)) - lower)


def _at(counts: NDArray[np.int64], total: NDArray[np.int64], rank: int) -> float:
    """Find the value of a rank, from 0; those in one bin are taken to be evenly spread."""
    k = int(np.searchsorted(total, rank, side="right"))
    part = (rank - int(total[k] - counts[k]) + 0.5) / int(counts[k])
    return float(BORDERS[k] + part * (BORDERS[k + 1] - BORDERS[k]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """What the runs of a cohort have in common.

    Parameters
    ----------
    statistics : Statistics
        Of all runs that could be used, in the unit of a grand mean of 10000.
    n_runs, n_values : ndarray, shape (V,)
        Runs in which a parcel was there, and its values in them.
    sd : ndarray, shape (V,)
        Standard deviation of each parcel.
    left_out : dict
        Errors of the runs that could not be used, by their names.
    """

    statistics: Statistics
    n_runs: NDArray[np.int64]
    n_values: NDArray[np.int64]
    sd: NDArray[np.float64]
    left_out: dict[str, AppError]


def measure_cohort(
    runs: Iterable[tuple[str, StandardSeries]], contract: ParcelContract, atlas: Path
) -> Cohort:
    """Measure the spread of the parcels over the runs of a cohort.

    Parameters
    ----------
    runs : iterable of (str, StandardSeries)
        Of each run its participant, by any word that is theirs alone, and its files.
    contract : ParcelContract
        How the series are cleaned and resampled: as before embedding.
    atlas : Path
        Label image in the contract's space.

    Returns
    -------
    Cohort
        Memory holds the parcels of one run and the counts, 55 MB for 424 parcels.

    Raises
    ------
    DataError
        If no run can be used; the message is that of the first.
    """
    sketch: Sketch | None = None
    left_out: dict[str, AppError] = {}
    participants: list[str] = []
    for participant, run in runs:
        begin = time.monotonic()
        try:
            parcels, series = _read(run, contract, atlas)
        except AppError as error:
            log.warning("%s: left out: %s", run.name, error.what)
            left_out[run.name] = error
            continue
        sketch = sketch or Sketch(parcels.labels)
        sketch.add(series)
        participants.append(participant)
        seconds = time.monotonic() - begin
        log.info("%s: %d volumes in %.1f s", run.name, series.shape[1], seconds)
    if sketch is None:
        raise _nothing(left_out)
    statistics = replace(
        sketch.statistics(), n_runs=len(participants), n_participants=len(set(participants))
    )
    return Cohort(
        statistics=statistics,
        n_runs=sketch.n_runs,
        n_values=sketch.n_values,
        sd=sketch.sd,
        left_out=left_out,
    )


def _read(
    run: StandardSeries, contract: ParcelContract, atlas: Path
) -> tuple[Parcels, NDArray[np.float64]]:
    findings = Findings()
    file, _ = open_run(run, contract, findings)
    parcels = read_parcels(file, run, contract, atlas=atlas, findings=findings)
    return parcels, to_grand_mean(parcels, run.bold)


def _nothing(left_out: dict[str, AppError]) -> DataError:
    first = next((f"; the first: {error.what}" for error in left_out.values()), "")
    return DataError(
        f"none of {len(left_out)} runs can be used for statistics{first}",
        fix="give folders of preprocessed series in the model's space, as fMRIPrep makes them",
    )
