"""Which windows of a run tell most of the others: our own selector, without any training.

SLIM-Brain ranks windows by a network that was released nowhere, neither its code nor its weights.
This is not that network, and agrees with it in nothing but its purpose. A window is salient if
what is learnt from it alone holds in the others: either how each region follows from all other
regions (``ridge``), or which regions go together (``connectivity``). Encoding the best k windows
instead of all saves the rest of the encoder's work.

The last window of a run shares volumes with the one before it wherever the run is no whole number
of windows. Others are those that share no volume with a window: on its own volumes, anything it
learnt from noise would hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from neurostorm_app.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Method = Literal["ridge", "connectivity"]

__all__ = ["BlockMeans", "Salience", "rank_windows"]

RIDGE: Final = 0.3
"""Added to the diagonal of a window's covariance, in mean variances of its regions. A window of 40
volumes and 100 regions has no inverse without it."""
BLOCK: Final = 8
"""Voxels along a side of a block whose mean stands for a region where no atlas is at hand: 16 mm
of the 2 mm grid."""
FEWEST: Final = 3
"""Regions, and volumes of a window, below which nothing can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Salience:
    """How much windows tell of the others, and which were chosen.

    Parameters
    ----------
    scores : ndarray, shape (N,), float64
        ``ridge``: share of the others' variance that is reconstructed, at most 1 and below 0
        where it is worse than the mean. ``connectivity``: correlation with the others' mean matrix.
        NaN where every other window shares volumes with it: there is nothing to judge it by.
    starts : tuple of int
        First volume of each window.
    chosen : tuple of int
        Numbers of the windows that were chosen, in temporal order.
    method : {'ridge', 'connectivity'}
        How it was measured.
    """

    scores: NDArray[np.float64]
    starts: tuple[int, ...]
    chosen: tuple[int, ...]
    method: Method

    @property
    def saved(self) -> float:
        """Share of the encoder's work that is saved; windows cost the same."""
        return 1 - len(self.chosen) / len(self.starts)

    @property
    def ranking(self) -> tuple[int, ...]:
        """Numbers of all windows, best first; the earlier of two that are equal, NaN last."""
        return tuple(int(i) for i in np.argsort(-self.scores, kind="stable"))

    def as_facts(self) -> dict[str, Any]:
        """Bring it to what a sidecar can hold."""
        return {
            "selector": "ours, no training; not the extractor of SLIM-Brain",
            "method": self.method,
            "scores": [None if np.isnan(s) else round(float(s), 6) for s in self.scores],
            "starts_of_all": list(self.starts),
            "chosen": list(self.chosen),
            "saved": round(self.saved, 4),
        }


def rank_windows(
    series: NDArray[np.floating],
    starts: Sequence[int],
    *,
    window: int,
    most: int,
    method: Method = "ridge",
) -> Salience:
    """Rank the windows of a run, and choose the best that share no volumes.

    The best is chosen first, then the best of those that share no volume with what was chosen.
    Where none of these is left and more are wanted, those that do are chosen, best first.

    Parameters
    ----------
    series : ndarray, shape (V, T)
        Means of regions, in any unit; each is standardised over the whole run.
    starts : sequence of int
        First volume of each window, ascending.
    window : int
        Volumes in a window.
    most : int
        How many are chosen; all, if there are no more.
    method : {'ridge', 'connectivity'}
        See the module.

    Returns
    -------
    Salience
        With one score a window.

    Raises
    ------
    UsageError
        If no window would be chosen.
    DataError
        If regions or volumes are too few, or a value is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> common = rng.normal(size=(2, 90))
    >>> series = np.repeat(common, 5, axis=0) + 0.3 * rng.normal(size=(10, 90))
    >>> series[:, 30:60] = rng.normal(size=(10, 30))  # the second window is noise
    >>> rank_windows(series, [0, 30, 60], window=30, most=2).chosen
    (0, 2)
    """
    if most < 1:
        raise UsageError(
            f"{most} windows of a run cannot be embedded", fix="choose 1 window or more"
        )
    covariances = _covariances(series, starts, window)
    score = _score_ridge if method == "ridge" else _score_connectivity
    scores = score(covariances, _find_overlaps(starts, window))
    return Salience(
        scores=scores,
        starts=tuple(int(start) for start in starts),
        chosen=_choose(scores, starts, window=window, most=most),
        method=method,
    )


class BlockMeans:
    """Means over blocks of a grid, gathered while a series passes by.

    Parameters
    ----------
    mask : ndarray, shape (X, Y, Z), bool
        The brain.
    side : int
        Voxels along a side of a block.
    """

    def __init__(self, mask: NDArray[np.bool_], *, side: int = BLOCK) -> None:
        grid = tuple(-(-n // side) for n in mask.shape)
        self._numbers = np.ravel_multi_index(tuple(np.argwhere(mask).T // side), grid)
        sizes = np.bincount(self._numbers, minlength=int(np.prod(grid)))
        full = sizes * 4 >= side**3  # the edge of the brain is noise
        self._kept = np.flatnonzero(full if np.count_nonzero(full) >= FEWEST else sizes > 0)
        self._sizes = sizes
        self._columns: list[NDArray[np.float64]] = []

    def watch(self, volumes: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Give volumes (n,), the voxels of the mask in C order, on, and note their means."""
        for values in volumes:
            sums = np.bincount(self._numbers, weights=values, minlength=len(self._sizes))
            self._columns.append((sums / np.maximum(self._sizes, 1))[self._kept])
            yield values

    def series(self) -> NDArray[np.float64]:
        """Give the means of what has passed: (V, T), in the unit of the volumes."""
        return np.stack(self._columns, axis=1)


def _covariances(
    series: NDArray[np.floating], starts: Sequence[int], window: int
) -> NDArray[np.float64]:
    """Standardise regions over the run; give the covariance of each window, (N, V, V)."""
    if series.shape[0] < FEWEST or window < FEWEST or not starts:
        raise DataError(
            f"{len(starts)} windows of {window} volumes of {series.shape[0]} regions; at least 1, "
            f"{FEWEST} and {FEWEST} are needed to tell which windows are salient",
            fix="embed all windows of this run",
        )
    values = np.asarray(series, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(
            "a region's series holds NaN or infinity, so windows cannot be ranked",
            fix="repair the series, or embed all windows",
        )
    spread = values.std(axis=1, keepdims=True)
    moving = spread[:, 0] > 1e-9 * max(float(np.abs(values).max()), 1e-300)
    if np.count_nonzero(moving) < FEWEST:
        raise DataError(
            f"{np.count_nonzero(moving)} regions change over time; {FEWEST} or more are needed to "
            "tell which windows are salient",
            fix="look whether the series holds any signal",
        )
    values = (values[moving] - values[moving].mean(axis=1, keepdims=True)) / spread[moving]
    parts = np.stack([values[:, start : start + window] for start in starts])
    parts -= parts.mean(axis=2, keepdims=True)
    return np.asarray(parts @ parts.transpose(0, 2, 1) / window)


def _find_overlaps(starts: Sequence[int], window: int) -> list[slice]:
    """Find the windows that share volumes with each, itself among them: neighbours in time."""
    first = np.asarray(starts)
    lows = np.searchsorted(first, first - window, side="right")
    highs = np.searchsorted(first, first + window, side="left")
    return [slice(int(low), int(high)) for low, high in zip(lows, highs, strict=True)]


def _choose(
    scores: NDArray[np.float64], starts: Sequence[int], *, window: int, most: int
) -> tuple[int, ...]:
    """Choose the best windows, and such as share volumes only where no others are left."""
    ranking = [int(i) for i in np.argsort(-scores, kind="stable")]
    apart: list[int] = []
    for i in ranking:
        if all(abs(starts[i] - starts[j]) >= window for j in apart):
            apart.append(i)
    rest = [i for i in ranking if i not in apart]
    return tuple(sorted([*apart, *rest][:most]))


def _score_ridge(
    covariances: NDArray[np.float64], overlaps: Sequence[slice]
) -> NDArray[np.float64]:
    """Learn each region from all others in a window; measure it in the other windows.

    With the inverse P of a window's covariance, what region i lacks when it is told from all
    others is P x / P[i, i]: one inverse a window, and no loop over regions.
    """
    total, n = covariances.sum(axis=0), len(covariances)
    scores = np.full(n, np.nan)
    for number, (covariance, near) in enumerate(zip(covariances, overlaps, strict=True)):
        if near.stop - near.start == n:
            continue
        ridge = RIDGE * max(float(np.diag(covariance).mean()), 1e-12)
        inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
        lacking = inverse / np.diag(inverse)[:, None]
        others = total - covariances[near].sum(axis=0)
        error = np.einsum("ij,jk,ik->", lacking, others, lacking, optimize=True)
        scores[number] = 1 - error / max(float(np.trace(others)), 1e-12)
    return scores


def _score_connectivity(
    covariances: NDArray[np.float64], overlaps: Sequence[slice]
) -> NDArray[np.float64]:
    """Correlate a window's correlation matrix with the mean of the others'."""
    spread = np.sqrt(np.maximum(np.einsum("nii->ni", covariances), 1e-12))
    matrices = covariances / (spread[:, :, None] * spread[:, None, :])
    rows, columns = np.triu_indices(matrices.shape[1], k=1)
    edges = matrices[:, rows, columns]
    total, n = edges.sum(axis=0), len(edges)
    scores = np.full(n, np.nan)
    for number, (row, near) in enumerate(zip(edges, overlaps, strict=True)):
        if near.stop - near.start < n:
            scores[number] = _correlate(row, total - edges[near].sum(axis=0))
    return scores


def _correlate(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(float(np.sqrt((a @ a) * (b @ b))), 1e-12))
