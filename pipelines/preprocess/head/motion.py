r"""Head motion: for each volume the rigid map from the reference to where the head was.

With :math:`R` the reference, :math:`V` a volume and :math:`T` the rigid map of points,
:math:`V(T(x)) \approx g(x) R(x) + o` for all points x of the brain; the gain g is a polynomial in
space, so that an uneven brightness that drifts is not taken for motion. One Gauss-Newton step
asks by which small rigid map :math:`W_\delta` the *reference* would have to move, and takes it
off: :math:`T \leftarrow T W_\delta^{-1}`. As the slopes belong to the reference they are made
once, and a step costs one interpolation of V at the points; those that come near the edge of the
acquired voxels are left out. Points whose residuals stand out weigh less or nothing (Tukey), so
that slices without signal, spikes and active regions do not pull.

A coarse level catches large motion, finer ones measure it. Each volume starts at rest, so that
the result depends neither on the volumes before nor on the number of threads.

References
----------
Baker S., Matthews I. 2004, Int. J. Comput. Vis. 56:221, "Lucas-Kanade 20 years on", section 3.2
(inverse compositional). Friston K. et al. 1995, Hum. Brain Mapp. 3:165 (realignment of smoothed
volumes). Holland P., Welsch R. 1977, Commun. Stat. A6:813 (iterated weights).
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.preprocess.head.motion_levels import LEVELS, build_template
from neurostorm_app.pipelines.preprocess.head.motion_maps import bridge, rms_displacement
from neurostorm_app.pipelines.preprocess.head.motion_slices import SliceGains
from neurostorm_app.pipelines.preprocess.head.motion_steps import Pose, descend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.preprocess.head.motion_steps import Sight

    Volume = NDArray[np.float32]

__all__ = [
    "HeadTrack",
    "MotionEstimator",
    "estimate_motion",
    "rms_displacement",
    "track_head",
]

BATCH = 16
"""Volumes that torch measures at a time; the loops take one per thread."""
FEWEST_SLICES = 4
"""Slices without which turns out of their plane are not measured to 0.2 mm."""
FEWEST_POINTS = 200
"""Points without which six numbers are not measured."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeadTrack:
    """Where the head was in each volume.

    Parameters
    ----------
    matrices : ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    unseen : tuple of int
        Volumes in which no head was found, such as empty ones; their matrices lie between those
        of their neighbours.
    residuals : ndarray, shape (T,)
        Robust standard deviation of what neither motion nor gain explains, relative to the
        contrast of the head; not a number where nothing was found.
    """

    matrices: NDArray[np.float64]
    unseen: tuple[int, ...]
    residuals: NDArray[np.float64]


class MotionEstimator:
    """Measures volumes against one reference.

    Parameters
    ----------
    reference : ndarray, shape (X, Y, Z)
        The BOLD reference. Where it has another contrast than the volumes, they are measured
        two or three times less exactly; ``sbref.find_pose`` matches contrasts.
    grid : Grid
        Of the reference and of all volumes.
    mask : ndarray of bool, shape (X, Y, Z)
        Where the head is rigid: the brain and its rim.
    device : str
        ``cpu`` for compiled loops; ``cuda``, ``cuda:1``... by torch in batches, as ``torch:cpu``
        is on the CPU.

    Raises
    ------
    DataError
        If there are fewer than four slices, or the mask holds too little that is not at the edge
        of the field of view.
    """

    def __init__(
        self,
        reference: Volume,
        grid: Grid,
        mask: NDArray[np.bool_],
        *,
        device: str = "cpu",
    ) -> None:
        if min(grid.shape) < FEWEST_SLICES:
            raise DataError(
                f"head motion was to be measured on a grid of {grid.shape}; at least"
                f" {FEWEST_SLICES} slices are needed to see the head turn out of them",
                fix="leave the run out: a slab of so few slices cannot be corrected for motion",
            )
        self._templates = [build_template(reference, grid, mask, level) for level in LEVELS]
        n_points = min(template.points.shape[1] for template in self._templates)
        if n_points < FEWEST_POINTS:
            raise DataError(
                f"head motion was to be measured on {n_points} voxels: {int(mask.sum())} of the"
                f" mask on a grid of {grid.shape}, without its edges; {FEWEST_POINTS} are needed",
                fix="leave the run out, or look whether its field of view holds the head",
            )
        self._slices = SliceGains(reference, mask)
        self._sight: Sight
        if device == "cpu":
            from neurostorm_app.pipelines.preprocess.head.motion_cpu import LoopSight

            self.batch, self._sight = 1, LoopSight(self._templates)
        else:
            from neurostorm_app.pipelines.preprocess.head.motion_torch import TorchSight

            self.batch = BATCH
            self._sight = TorchSight(self._templates, device.removeprefix("torch:"))

    def __call__(self, volume: Volume) -> NDArray[np.float64]:
        """Measure one volume.

        Returns
        -------
        ndarray, shape (4, 4)
            Points of the reference to points of the volume, RAS+ mm.
        """
        return np.asarray(self.measure([volume]).matrices[0])

    def measure(self, volumes: Sequence[Volume]) -> Pose:
        """Measure a batch of volumes.

        Parameters
        ----------
        volumes : sequence of ndarray, shape (X, Y, Z)
            As acquired; all finite.

        Returns
        -------
        Pose
            Matrices, and how well they explain the volumes.
        """
        even = [self._slices.even(volume) for volume in volumes]
        return descend(self._sight, self._templates, even)


def track_head(
    volumes: Iterable[Volume], estimator: MotionEstimator, *, n_threads: int = 1
) -> HeadTrack:
    """Measure all volumes of a series; memory holds a few of them.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z)
        As acquired.
    estimator : MotionEstimator
        Made for the reference.
    n_threads : int
        Batches at a time; it does not change the numbers.

    Returns
    -------
    HeadTrack
        Matrices, and volumes without a head.

    Raises
    ------
    DataError
        If no volume shows a head.
    """
    poses: list[Pose] = []
    waiting: deque[Future[Pose]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for batch in _batches(volumes, estimator.batch):
            waiting.append(pool.submit(estimator.measure, batch))
            if len(waiting) > n_threads:
                poses.append(waiting.popleft().result())
        poses += [future.result() for future in waiting]
    matrices = np.concatenate([pose.matrices for pose in poses])
    found = np.concatenate([pose.found for pose in poses])
    if not found.any():
        raise DataError(
            f"in none of {len(found)} volumes is there anything like the BOLD reference",
            fix="look at the series: its volumes are empty, or the reference is of somebody else",
        )
    return HeadTrack(
        matrices=bridge(matrices, found),
        unseen=tuple(int(t) for t in np.flatnonzero(~found)),
        residuals=np.concatenate([pose.residuals for pose in poses]),
    )


def estimate_motion(
    volumes: Iterable[Volume], estimator: MotionEstimator, *, n_threads: int = 1
) -> NDArray[np.float64]:
    """Measure all volumes of a series, as `track_head` does.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z)
        As acquired.
    estimator : MotionEstimator
        Made for the reference.
    n_threads : int
        Batches at a time; it does not change the numbers.

    Returns
    -------
    ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    """
    return track_head(volumes, estimator, n_threads=n_threads).matrices


def _batches(volumes: Iterable[Volume], size: int) -> Iterator[list[Volume]]:
    rest = iter(volumes)
    while batch := list(islice(rest, size)):
        yield batch
