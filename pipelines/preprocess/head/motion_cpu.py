"""How the motion estimator looks at one volume with compiled loops, in the caller's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.pipelines.kernels import alignment, sampling
from neurostorm_app.pipelines.kernels.taps import taps_of
from neurostorm_app.pipelines.preprocess.head.motion_levels import CUT, FLOOR, N_MOTION, SCALE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.preprocess.head.motion_levels import Template

__all__ = ["LoopSight"]

NOTHING = 1e-6
"""Entries of a filter below this part of the largest one are left out."""


class LoopSight:
    """Looks at a batch of one volume after the other.

    Parameters
    ----------
    templates : sequence of Template
        The levels.
    """

    def __init__(self, templates: Sequence[Template]) -> None:
        self._plans = [_Plan(template) for template in templates]

    def open(self, volumes: Sequence[NDArray[np.float32]], level: int) -> Any:
        """Filter volumes for a level."""
        return [self._plans[level].coefficients(volume) for volume in volumes]

    def normal(
        self,
        opened: Any,
        level: int,
        which: NDArray[np.intp],
        matrices: NDArray[np.float64],
        nuisance: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Sum the weighted normal equations of some volumes of a batch.

        Parameters
        ----------
        opened : list of ndarray
            What `open` gave.
        level : int
            Index of the level.
        which : ndarray of int, shape (B,)
            Volumes of the batch that are looked at.
        matrices : ndarray, shape (B, 4, 4)
            Points of the reference to points of the volume, RAS+ mm.
        nuisance : ndarray, shape (B, K - 6), or None
            Gains and offset from which residuals are taken; None weighs all points alike.

        Returns
        -------
        normal : ndarray, shape (B, K, K)
            Products of columns.
        seen : ndarray, shape (B, K)
            Products of columns and volume.
        scale : ndarray, shape (B,)
            Robust standard deviation of the residuals; infinite without `nuisance`.
        """
        plan = self._plans[level]
        rows = [
            plan.normal(opened[b], matrix, None if nuisance is None else nuisance[n])
            for n, (b, matrix) in enumerate(zip(which, matrices, strict=True))
        ]
        normal, seen, scale = zip(*rows, strict=True)
        return np.stack(normal), np.stack(seen), np.asarray(scale)


class _Plan:
    """The arrays of one level, laid out for the loops."""

    def __init__(self, template: Template) -> None:
        self._template, self._taps = template, taps_of("cubic")
        x, y, z = template.filters
        self._along = (x, y, np.ascontiguousarray(z.T))
        self._bands = tuple(_bands(matrix) for matrix in self._along)
        self._shape = tuple(len(matrix) for matrix in template.filters)
        self._columns = np.ascontiguousarray(template.columns.T)
        n_columns, n = self._columns.shape
        self._size = -(-(n_columns + 1) // alignment.TILE) * alignment.TILE
        self._into = np.arange(n, dtype=np.int32)

    def coefficients(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter a volume."""
        (a, b, c), (x, y, _) = self._shape, volume.shape
        out = np.empty((a, b, c), dtype=np.float32)
        once, twice = np.empty((y, c), dtype=np.float32), np.empty((x, b, c), dtype=np.float32)
        straight = np.ascontiguousarray(volume, dtype=np.float32)
        alignment.filter_axes(straight, self._along, self._bands, once, twice, out)
        return out

    def normal(
        self,
        coefficients: NDArray[np.float32],
        matrix: NDArray[np.float64],
        nuisance: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Sum the weighted normal equations of one volume."""
        template, n = self._template, len(self._into)
        rows = np.ascontiguousarray((template.to_places @ matrix)[:3])
        seen, inside = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.bool_)
        a, b, c = (length - 2 * self._taps.pad for length in self._shape)
        sampling.sample(
            coefficients.ravel(), (a, b, c), self._taps, rows, template.points, np.zeros(3),
            None, None, self._into, seen, 0, n,
        )  # fmt: skip
        count = alignment.find_inside(rows, template.points, template.low, template.high, inside)
        weights, scale = inside.astype(np.float32), np.inf
        if nuisance is not None and count:
            scale = self._weigh(seen, inside, count, nuisance, weights)
        sums = np.empty((self._size, self._size))
        alignment.add_normal(self._columns, seen, weights, sums)
        used = len(self._columns)
        lower = np.tril(sums[:used, :used])
        return lower + np.tril(lower, -1).T, sums[used, :used], scale

    def _weigh(
        self,
        seen: NDArray[np.float32],
        inside: NDArray[np.bool_],
        count: int,
        nuisance: NDArray[np.float64],
        weights: NDArray[np.float32],
    ) -> float:
        """Weigh points by their residuals; give the scale of these."""
        residuals = np.empty_like(seen)
        given = nuisance.astype(np.float32)
        alignment.find_residuals(seen, self._columns[N_MOTION:], given, residuals)
        far = np.abs(residuals[inside])
        middle = (count - 1) // 2
        typical = float(np.partition(far, middle)[middle])
        scale = max(SCALE * typical, FLOOR * float(np.abs(seen).max()))
        alignment.weigh(residuals, inside, np.float32(CUT * scale), weights)
        return scale


def _bands(matrix: NDArray[np.float32]) -> NDArray[np.intp]:
    """Find from where to where each row is not zero: (n, 2)."""
    large = np.abs(matrix) > NOTHING * np.abs(matrix).max()
    first = large.argmax(axis=1)
    return np.stack([first, matrix.shape[1] - large[:, ::-1].argmax(axis=1)], axis=1)
