"""The border of white matter as a ruler: how well a pose lays it on the edges of a BOLD image.

Grey matter is brighter than white matter in BOLD images, and the step lies where the T1w image
has its own: the pose is taken at which the brightness rises most consistently across it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["Anatomy", "Boundary", "EdgeCost", "find_boundary", "pose", "refine", "search"]

DEPTH_MM = 2.0
"""How far from the boundary brightness is read, on both sides."""
N_POINTS = 12_000
N_COARSE = 1_000
"""Points of the search, which only has to come near."""
LEAST_SEEN = 0.05
"""Share of the points that the volume must show, or a pose has the worst cost."""
REACH = 4.0
"""The search tries poses that are off by this in mm and in degrees, and by none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What coregistration needs of the T1w image, all on one grid.

    Parameters
    ----------
    t1w, gm, wm : ndarray, shape (X, Y, Z), float32
        Bias-corrected image, and probabilities of grey and white matter.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    grid : Grid
        Of all of them.
    """

    t1w: NDArray[np.float32]
    gm: NDArray[np.float32]
    wm: NDArray[np.float32]
    mask: NDArray[np.bool_]
    grid: Grid


@dataclass(frozen=True, slots=True)
class Boundary:
    """Points of the grey-white boundary, mm RAS+, and the way out of the white matter.

    Parameters
    ----------
    points, normals : ndarray, shape (N, 3)
        Places and unit directions.
    """

    points: NDArray[np.float64]
    normals: NDArray[np.float64]

    def thin(self, n_points: int) -> Boundary:
        """Take about `n_points` of the points, evenly."""
        every = max(1, len(self.points) // n_points)
        return Boundary(self.points[::every], self.normals[::every])

    def mirror(self, x: float) -> Boundary:
        """Swap left and right about the plane at `x` mm."""
        flip = np.array([-1.0, 1.0, 1.0])
        return Boundary(self.points * flip + [2.0 * x, 0.0, 0.0], self.normals * flip)


def find_boundary(anatomy: Anatomy) -> Boundary:
    """Find points between white and grey matter, and the direction of the step.

    The points lie where the smoothed white matter probability crosses one half, by one
    Newton step along its gradient from the voxels next to it.

    Raises
    ------
    DataError
        If there are too few of them to hold a pose.
    """
    grid = anatomy.grid
    sigma = [0.8 / zoom for zoom in grid.zooms]
    white = ndimage.gaussian_filter(anatomy.wm.astype(np.float32), sigma)
    near = np.argwhere((np.abs(white - 0.5) < 0.2) & anatomy.mask)
    index = tuple(near.T)
    to_voxels = np.linalg.inv(grid.affine)[:3, :3]
    slope = np.stack([axis[index] for axis in np.gradient(white)], axis=-1) @ to_voxels
    steep = np.linalg.norm(slope, axis=1)
    safe = np.maximum(steep, 1e-6)[:, None]
    step = slope * ((0.5 - white[index])[:, None] / safe**2)
    points = apply_affine(grid.affine, near) + step
    normals = -slope / safe
    outside = apply_affine(np.linalg.inv(grid.affine), points + 1.5 * normals)
    grey = ndimage.map_coordinates(anatomy.gm, outside.T, order=1)
    good = (steep > 0.1) & (np.linalg.norm(step, axis=1) < 1.0) & (grey > 0.6)
    if np.count_nonzero(good) < 500:
        raise DataError(
            f"the grey-white boundary of the T1w image has {np.count_nonzero(good)} points; at"
            " least 500 are needed to place the BOLD reference",
            fix="look at the tissue segmentation: the T1w image has too little contrast",
        )
    return Boundary(points[good], normals[good]).thin(N_POINTS)


@dataclass(frozen=True, slots=True)
class EdgeCost:
    """Says how badly a pose lays the boundary on the edges of a BOLD reference.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        The BOLD reference, without its bias field.
    grid : Grid
        Its grid.
    boundary : Boundary
        In T1w space.
    usual : float
        Contrast in percent at which the cost is half-way to its best.
    depth : float
        How far from the boundary brightness is read, mm.

    References
    ----------
    Greve D., Fischl B. 2009, NeuroImage 48:63, equations 1 to 3, "Accurate and robust brain
    image alignment using boundary-based registration"; there the sigmoid has a fixed width.
    """

    volume: NDArray[np.float32]
    grid: Grid
    boundary: Boundary
    usual: float = 10.0
    depth: float = DEPTH_MM

    def contrast(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Read by how many percent grey is brighter than white; NaN outside the volume."""
        (grey, _), (white, _) = self._sides(matrix, slope=False)
        mean = (grey + white) / 2.0
        return np.where(mean > 0, 100.0 * (grey - white) / np.where(mean > 0, mean, 1.0), np.nan)

    def at(self, matrix: NDArray[np.float64]) -> float:
        """Say the cost of a pose: 0 is perfect, 1 is chance, 2 is white brighter than grey.

        Points outside the volume, or in its dark, do not count: if they counted as chance, a
        slab would be tilted until it shows more of the boundary.
        """
        contrast = self.contrast(matrix)
        seen = contrast[np.isfinite(contrast)]
        if len(seen) < LEAST_SEEN * len(contrast):
            return 2.0
        return float(1.0 - np.tanh(seen / self.usual).mean())

    def slope(self, matrix: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Give the cost and its derivative by the elements of the matrix (4, 4)."""
        sides = self._sides(matrix, slope=True)
        (grey, grey_slope), (white, white_slope) = sides
        mean = np.where(grey + white > 0, (grey + white) / 2.0, np.nan)
        seen = np.isfinite(mean)
        n_seen = np.count_nonzero(seen)
        if n_seen < LEAST_SEEN * len(mean):
            return 2.0, np.zeros((3, 4))
        height = np.where(seen, 100.0 * (grey - white) / mean, 0.0)
        bent = np.tanh(height / self.usual)
        steep = np.where(seen, -(1.0 - bent**2) / (self.usual * n_seen), 0.0)
        half = height / (2.0 * mean)
        by_grey = np.nan_to_num(steep * (100.0 / mean - half), nan=0.0)
        by_white = np.nan_to_num(steep * (-100.0 / mean - half), nan=0.0)
        inverse = np.linalg.inv(self.grid.affine)
        total = np.zeros((3, 4))
        for sign, by, slope in ((1.0, by_grey, grey_slope), (-1.0, by_white, white_slope)):
            points = self.boundary.points + sign * self.depth * self.boundary.normals
            total += (by[:, None] * slope).T @ np.c_[points, np.ones(len(points))]
        return float(1.0 - bent.sum() / n_seen), inverse[:3, :3].T @ total

    def _sides(
        self, matrix: NDArray[np.float64], *, slope: bool
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Read the volume on both sides of the boundary: values (N,) and slopes (N, 3)."""
        to_voxels = np.linalg.inv(self.grid.affine) @ matrix
        sides = []
        for sign in (1.0, -1.0):
            points = self.boundary.points + sign * self.depth * self.boundary.normals
            sides.append(_read(self.volume, apply_affine(to_voxels, points), slope=slope))
        fair = np.isfinite(sides[0][0]) & np.isfinite(sides[1][0])
        return [(np.where(fair, values, 0.0), slopes) for values, slopes in sides]


def _read(
    volume: NDArray[np.float32], where: NDArray[np.float64], *, slope: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolate linearly; NaN outside; the slopes are exact for the interpolated volume."""
    shape = np.asarray(volume.shape)
    fair = np.asarray(((where >= 0) & (where <= shape - 1)).all(axis=1))
    base = np.clip(np.floor(where).astype(np.intp), 0, shape - 2)
    part = where - base
    flat, steps = volume.ravel(), np.array([shape[1] * shape[2], shape[2], 1])
    corners = np.array(list(np.ndindex(2, 2, 2))) @ steps
    corner = flat[(base @ steps)[:, None] + corners].astype(np.float64).reshape(-1, 2, 2, 2)
    x, y, z = (np.stack([1.0 - share, share], axis=1) for share in part.T)
    line = np.einsum("nijk,nk->nij", corner, z)
    plane = np.einsum("nij,nj->ni", line, y)
    values = np.where(fair, (plane * x).sum(axis=1), np.nan)
    if not slope:
        return values, np.empty((0, 3))
    by_x = plane[:, 1] - plane[:, 0]
    by_y = ((line[:, :, 1] - line[:, :, 0]) * x).sum(axis=1)
    by_z = np.einsum("nij,nj,ni->n", corner[..., 1] - corner[..., 0], y, x)
    return values, np.stack([by_x, by_y, by_z], axis=1) * fair[:, None]


def pose(numbers: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make a matrix of numbers about a centre.

    Parameters
    ----------
    numbers : ndarray, shape (6,), (9,) or (12,)
        Three shifts in mm, three turns in degrees, three stretches and three shears in percent.
    centre : ndarray, shape (3,)
        The point that only the shifts move, mm.

    Returns
    -------
    ndarray, shape (4, 4)
        Points to points, mm.
    """
    full = np.zeros(12)
    full[: len(numbers)] = numbers
    sheared = np.eye(3)
    sheared[np.triu_indices(3, 1)] = full[9:] / 100.0
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", full[3:6], degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag(np.exp(full[6:9] / 100.0)) @ sheared
    matrix[:3, 3] = full[:3] + centre - matrix[:3, :3] @ centre
    return matrix


def search(cost: EdgeCost, start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Try poses around a start, and give the best (4, 4): what a refinement could not reach."""
    coarse = replace(cost, boundary=cost.boundary.thin(N_COARSE), depth=1.5 * cost.depth)
    centre = cost.boundary.points.mean(axis=0)
    tried = [
        start @ pose(REACH * (np.array(numbers, dtype=float) - 1.0), centre)
        for numbers in np.ndindex(*[3] * 6)
    ]
    return np.asarray(min(tried, key=coarse.at))


def refine(cost: EdgeCost, start: NDArray[np.float64], *, dof: int = 6) -> NDArray[np.float64]:
    """Move the pose downhill until brightness rises across the boundary.

    Parameters
    ----------
    cost : EdgeCost
        What to make small.
    start : ndarray, shape (4, 4)
        T1w points to points of the BOLD reference, RAS+ mm.
    dof : int
        6 for a rigid head, 9 with stretches, 12 with shears.

    Returns
    -------
    ndarray, shape (4, 4)
        Of the same kind as `start`.
    """
    centre = cost.boundary.points.mean(axis=0)

    def downhill(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Give the cost near the start, and its derivative by the numbers."""
        value, by_matrix = cost.slope(start @ pose(numbers, centre))
        by_pose = start[:3, :3].T @ by_matrix
        slopes = []
        for step in np.eye(len(numbers)) * 1e-4:
            change = pose(numbers + step, centre) - pose(numbers - step, centre)
            slopes.append(np.sum(by_pose * change[:3]) / 2e-4)
        return value, np.array(slopes)

    numbers = np.zeros(6)
    # Rigid first: stretches found from a wrong pose may never come back.
    for n_free in sorted({6, dof}):
        first = np.zeros(n_free)
        first[: len(numbers)] = numbers
        found = optimize.minimize(
            downhill, first, jac=True, method="BFGS", options={"gtol": 1e-4, "maxiter": 80}
        )
        numbers = found.x
    return start @ pose(numbers, centre)
