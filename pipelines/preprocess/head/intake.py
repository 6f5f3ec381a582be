"""What a series holds that no scanner writes: voxels that are not numbers, and empty volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.image import iter_volumes, open_image
from neurostorm_app.pipelines.preprocess.head.roughhead import rough_head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Volume = NDArray[np.float32]

__all__ = ["Survey", "survey_series"]

LISTED = 5
"""Volumes that a message names."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Survey:
    """What one pass over a series found.

    Parameters
    ----------
    means : ndarray, shape (T,)
        Mean of each volume.
    empty : tuple of int
        Volumes in which all voxels are equal.
    not_finite : dict of int to int
        Volume to its number of voxels that are not finite; all of them are outside the head.
    head : ndarray of bool, shape (X, Y, Z), or None
        Where values must be finite, for ``iter_volumes(..., brain=head)``; None if all are.
    """

    means: NDArray[np.float64]
    empty: tuple[int, ...]
    not_finite: dict[int, int]
    head: NDArray[np.bool_] | None

    def qc(self) -> dict[str, Any]:
        """Tell it in JSON types."""
        return {
            "empty_volumes": list(self.empty),
            "n_voxels_not_finite": sum(self.not_finite.values()),
            "volumes_not_finite": sorted(self.not_finite),
        }


def survey_series(bold: Path) -> Survey:
    """Read a series once and look for what cannot be preprocessed.

    Values that are not finite are taken for 0 outside the head.

    Parameters
    ----------
    bold : Path
        The series as acquired.

    Returns
    -------
    Survey
        What was found.

    Raises
    ------
    CorruptImageError
        If voxels of the head are not finite numbers, or the file is damaged.
    DataError
        If all volumes are empty.
    """
    try:
        return _look(bold, iter_volumes(bold), {}, None)
    except CorruptImageError as error:
        if "not finite" not in error.what:
            raise
        counts, bad, mean = _count(bold)
        if bad.all():
            raise
        head = np.asarray(ndimage.binary_fill_holes(rough_head(mean)))
        n_inside = int((bad & head).sum())
        if n_inside:
            raise CorruptImageError(
                f"{bold}: {n_inside} voxels of the head are not finite numbers in at least one of"
                f" {len(counts)} volumes ({_list(counts)}); only outside the head they count as 0",
                fix=error.fix,
            ) from error
        return _look(bold, iter_volumes(bold, brain=head), counts, head)


def _look(
    bold: Path, volumes: Iterator[Volume], counts: dict[int, int], head: NDArray[np.bool_] | None
) -> Survey:
    means, empty = [], []
    for number, volume in enumerate(volumes):
        means.append(float(volume.mean(dtype=np.float64)))
        if volume.min() == volume.max():
            empty.append(number)
    if len(empty) == len(means):
        raise DataError(
            f"{bold}: all {len(means)} volumes are empty: each has one value in all voxels",
            fix="convert the run anew, or leave it out",
        )
    return Survey(means=np.asarray(means), empty=tuple(empty), not_finite=counts, head=head)


def _count(bold: Path) -> tuple[dict[int, int], NDArray[np.bool_], Volume]:
    """Count what is not finite, tell where that is, and average what is."""
    shape = open_image(bold).shape
    image: Any = open_image(bold, keep_open=True)
    counts: dict[int, int] = {}
    bad, total = np.zeros(shape[:3], dtype=np.bool_), np.zeros(shape[:3])
    n_volumes = shape[3] if len(shape) == 4 else 1
    for number in range(n_volumes):
        scaled = image.dataobj[..., number] if len(shape) == 4 else image.dataobj
        with np.errstate(over="ignore"):  # what no float32 holds is not finite to those who read
            volume = np.asarray(scaled, dtype=np.float32)
        finite = np.isfinite(volume)
        if not finite.all():
            counts[number] = int(np.count_nonzero(~finite))
        bad |= ~finite
        total += np.where(finite, volume, 0.0)
    return counts, bad, np.asarray(total / n_volumes, dtype=np.float32)


def _list(counts: dict[int, int]) -> str:
    named = [f"{n} in volume {volume}" for volume, n in sorted(counts.items())]
    more = [] if len(named) <= LISTED else [f"{len(named) - LISTED} more"]
    return ", ".join(named[:LISTED] + more)
