r"""Head motion: for each volume the rigid map from the reference to where the head was.

With :math:`R` the reference, :math:`V` a volume and :math:`T` the rigid map of points,
:math:`V(T(x)) \approx g R(x) + o` for all points x of the brain. One Gauss-Newton step asks by
which small rigid map :math:`W_\delta` the *reference* would have to move,
:math:`V(T(x)) \approx g R(x) + g J(x) \delta + o`, and takes it off:
:math:`T \leftarrow T W_\delta^{-1}`. As J belongs to the reference it is made once, and a step
costs one interpolation of V at the points; those that come near the edge of the acquired voxels
are left out. A coarse level catches large motion, a fine one measures it. Each volume starts at
rest, so that the result does not depend on the number of threads.

References
----------
Baker S., Matthews I. 2004, Int. J. Comput. Vis. 56:221, "Lucas-Kanade 20 years on", section 3.2
(inverse compositional). Friston K. et al. 1995, Hum. Brain Mapp. 3:165 (realignment of
smoothed volumes).
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["MotionEstimator", "estimate_motion", "motion_parameters", "rms_displacement"]

RADIUS = 50.0
"""Millimetres: a rotation is as large as the path it makes on a sphere of this radius."""


@dataclass(frozen=True, slots=True)
class Level:
    """How one level of the pyramid looks at images.

    Parameters
    ----------
    fwhm : float
        Smoothing of reference and volumes, mm.
    n_points : int
        Points of the reference that are compared: those with the largest gradients.
    order : int
        Of the interpolating spline.
    tolerance : float
        Stop when a step moves no point of the head more than this, mm.
    n_steps : int
        Stop after so many steps.
    """

    fwhm: float
    n_points: int
    order: Literal[1, 3]
    tolerance: float
    n_steps: int


LEVELS = (
    Level(fwhm=16.0, n_points=6_000, order=1, tolerance=0.1, n_steps=12),
    Level(fwhm=6.0, n_points=20_000, order=3, tolerance=0.003, n_steps=15),
)


class _Template:
    """The reference at one level: points, and what their values say about a small rigid map."""

    def __init__(
        self, reference: NDArray[np.float32], grid: Grid, mask: NDArray[np.bool_], level: Level
    ) -> None:
        self.level = level
        self.sigma = level.fwhm / 2.3548 / np.asarray(grid.zooms)
        self.to_voxels = np.linalg.inv(grid.affine)
        self._last = np.asarray(grid.shape)[:, None] - 1.0
        self._margin = level.fwhm / 2.0 / np.asarray(grid.zooms)[:, None]
        smooth = ndimage.gaussian_filter(reference, self.sigma, mode="nearest")
        slope = np.stack(np.gradient(smooth.astype(np.float64)), axis=-1) @ self.to_voxels[:3, :3]
        usable = self.is_inside(np.indices(grid.shape).reshape(3, -1)) & mask.ravel()
        strength = np.where(usable, (slope**2).sum(axis=-1).ravel(), -1.0)
        n_points = min(level.n_points, int(usable.sum()))
        chosen = np.sort(np.argpartition(-strength, n_points - 1)[:n_points])
        self.points = grid.world().reshape(-1, 3)[chosen]
        self.centre = self.points.mean(axis=0)
        gradient = slope.reshape(-1, 3)[chosen]
        values = smooth.reshape(-1)[chosen].astype(np.float64)
        turning = np.cross(self.points - self.centre, gradient) / RADIUS
        self._columns = np.column_stack([gradient, turning, values, np.ones(n_points)])

    def is_inside(self, voxels: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which voxel coordinates (3, N) are so far from the edge that smoothing is fair."""
        fair = (voxels > self._margin) & (voxels < self._last - self._margin)
        return np.asarray(fair.all(axis=0))

    def step(self, seen: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Find the rigid map (4, 4) by which the reference would have to move."""
        columns = self._columns * inside[:, None]
        solution = np.linalg.solve(columns.T @ self._columns, columns.T @ seen)
        delta = solution[:6] / solution[6]
        return _rigid(delta[:3], delta[3:] / RADIUS, self.centre)


class MotionEstimator:
    """Measures volumes against one reference.

    Parameters
    ----------
    reference : ndarray, shape (X, Y, Z)
        The BOLD reference.
    grid : Grid
        Of the reference and of all volumes.
    mask : ndarray of bool, shape (X, Y, Z)
        Where the head is rigid: the brain and its rim.
    """

    def __init__(self, reference: NDArray[np.float32], grid: Grid, mask: NDArray[np.bool_]) -> None:
        self._templates = [_Template(reference, grid, mask, level) for level in LEVELS]

    def __call__(self, volume: NDArray[np.float32]) -> NDArray[np.float64]:
        """Measure one volume.

        Returns
        -------
        ndarray, shape (4, 4)
            Points of the reference to points of the volume, RAS+ mm.
        """
        matrix = np.eye(4)
        for template in self._templates:
            matrix = _descend(template, volume, matrix)
        return matrix


def _descend(
    template: _Template, volume: NDArray[np.float32], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take Gauss-Newton steps until they are small."""
    level = template.level
    smooth = ndimage.gaussian_filter(volume, template.sigma, mode="nearest")
    if level.order > 1:
        smooth = ndimage.spline_filter(smooth, order=level.order, output=np.float32)
    for _ in range(level.n_steps):
        where = apply_affine(template.to_voxels @ matrix, template.points).T
        seen = ndimage.map_coordinates(
            smooth, where, order=level.order, mode="nearest", prefilter=False, output=np.float64
        )
        step = template.step(seen, template.is_inside(where))
        matrix = matrix @ np.linalg.inv(step)
        if rms_displacement(step, np.eye(4), centre=template.centre) < level.tolerance:
            break
    return matrix


def _rigid(
    shift: NDArray[np.float64], angles: NDArray[np.float64], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Turn about the centre by a rotation vector (radians), then shift (mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(angles).as_matrix()
    matrix[:3, 3] = shift + centre - matrix[:3, :3] @ centre
    return matrix


def estimate_motion(
    volumes: Iterable[NDArray[np.float32]], estimator: MotionEstimator, *, n_threads: int = 1
) -> NDArray[np.float64]:
    """Measure all volumes of a series.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z)
        As acquired.
    estimator : MotionEstimator
        Made for the reference.
    n_threads : int
        Volumes at a time; it does not change the numbers.

    Returns
    -------
    ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    """
    found: list[NDArray[np.float64]] = []
    waiting: deque[Future[NDArray[np.float64]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for volume in volumes:
            waiting.append(pool.submit(estimator, volume))
            if len(waiting) > n_threads:
                found.append(waiting.popleft().result())
        found += [future.result() for future in waiting]
    return np.stack(found)


def motion_parameters(
    matrices: NDArray[np.float64], grid: Grid, centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Write rigid maps as three translations and three angles, in FSL's coordinates.

    FSL counts millimetres from the corner of the first voxel, with x running to the left, and
    its matrices send points of a volume to the reference; so does this.

    Parameters
    ----------
    matrices : ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    grid : Grid
        Of the reference.
    centre : ndarray, shape (3,)
        Centre of rotation in voxels: the centre of mass of the reference.

    Returns
    -------
    ndarray, shape (T, 6)
        Translations along x, y and z in mm, and rotations about them in radians.

    References
    ----------
    FSL ``avscale`` and MCFLIRT's ``.par`` files; fMRIPrep 25.2, ``FSLMotionParams``.
    """
    to_fsl = np.diag([*grid.zooms, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        mirror[0, 3] = grid.shape[0] - 1.0
        to_fsl = to_fsl @ mirror
    frame = to_fsl @ np.linalg.inv(grid.affine)
    fsl = frame @ np.linalg.inv(matrices) @ np.linalg.inv(frame)
    about = np.asarray(grid.zooms) * centre
    shift = fsl[:, :3, 3] + fsl[:, :3, :3] @ about - about
    # FSL turns the left-handed way, which is the transpose.
    angles = Rotation.from_matrix(fsl[:, :3, :3].transpose(0, 2, 1)).as_euler("XYZ")
    return np.concatenate([shift, angles], axis=1)


def rms_displacement(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    centre: NDArray[np.float64],
    radius: float = 80.0,
) -> float:
    """Average how far two rigid maps part the points of a ball, in mm.

    References
    ----------
    Jenkinson M. 1999, FMRIB report TR99MJ1, "Measuring transformation error by RMS deviation".
    """
    difference = one @ np.linalg.inv(other) - np.eye(4)
    linear, shift = difference[:3, :3], difference[:3, :3] @ centre + difference[:3, 3]
    return float(np.sqrt(shift @ shift + np.trace(linear.T @ linear) * radius**2 / 5.0))
