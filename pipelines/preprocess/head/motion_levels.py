r"""What is known of the reference before the first volume comes: points, columns and filters.

At each point x of the reference R the volume V is expected to show

.. math:: V(T(x)) = R(x) \sum_k g_k p_k(x) + o + \nabla R(x) \cdot \delta(x),

with a gain that is a polynomial in space (coils and their drifts), an offset, and the small rigid
displacement that is still missing. All of these are columns of one linear model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = [
    "CUT", "FLOOR", "LEVELS", "N_MOTION", "PAD", "RADIUS", "SCALE", "Level", "Template",
    "build_template",
]  # fmt: skip

RADIUS = 50.0
"""Millimetres: a rotation is as large as the path it makes on a sphere of this radius."""
N_MOTION = 6
"""The first columns: three translations in mm, then three rotations as such paths."""
SCALE = 1.4826
"""Standard deviations of a normal variable per median absolute deviation."""
CUT = 3.0
"""Standard deviations beyond which a residual has no weight (Tukey); at 4.685 spikes pull more."""
FLOOR = 1e-6
"""Part of the brightest value below which a residual is rounding."""
PAD = 2
"""Coefficients beyond each edge, which a cubic spline weighs near it."""
EDGE = 1.0
"""Voxels at an edge between which a spline depends on what was not acquired."""
THIN = 1 / 6
"""Part of a field of view over which is smoothed at most: a few slices would become one."""
NARROW = 0.15
"""Part of a field of view that may be left out at each edge for being near it."""


@dataclass(frozen=True, slots=True)
class Level:
    """How one level of the pyramid looks at images.

    Parameters
    ----------
    fwhm : float
        Smoothing of reference and volumes, mm; along each axis at least a voxel
        and at most a part of the field of view.
    n_points : int
        Points of the reference that are compared, drawn among those of the mask.
    degree : {1, 2}
        Of the polynomial that the gain is in space.
    tolerance : float
        Stop when a step is not longer than this, mm.
    n_steps : int
        Stop after so many steps.
    """

    fwhm: float
    n_points: int
    degree: int
    tolerance: float
    n_steps: int


LEVELS = (
    Level(fwhm=16.0, n_points=6_000, degree=1, tolerance=0.1, n_steps=15),
    Level(fwhm=3.0, n_points=12_000, degree=2, tolerance=0.03, n_steps=12),
    Level(fwhm=3.0, n_points=50_000, degree=2, tolerance=0.005, n_steps=12),
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Template:
    """The reference at one level.

    Parameters
    ----------
    level : Level
        Which one.
    filters : tuple of ndarray, shapes (A + 4, X), (B + 4, Y), (C + 4, Z), float32
        What smooths a volume along its axes, thins it out and finds the coefficients of its
        cubic spline, two of them beyond each edge.
    to_places : ndarray, shape (4, 4)
        World, RAS+ mm, to indices of the coefficients between the edges.
    low, high : ndarray, shape (3,)
        Between these indices smoothing did not meet an edge.
    points : ndarray, shape (3, N)
        World, RAS+ mm.
    columns : ndarray, shape (N, K), float32
        Motion, value times polynomials, one.
    centre : ndarray, shape (3,)
        Point that rotations are about, mm.
    spread : float
        Standard deviation of the values: the contrast of the head.
    """

    level: Level
    filters: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    to_places: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    points: NDArray[np.float64]
    columns: NDArray[np.float32]
    centre: NDArray[np.float64]
    spread: float


def build_template(
    reference: NDArray[np.float32], grid: Grid, mask: NDArray[np.bool_], level: Level
) -> Template:
    """Prepare the reference for one level.

    Parameters
    ----------
    reference : ndarray, shape (X, Y, Z)
        The BOLD reference.
    grid : Grid
        Of the reference and of all volumes.
    mask : ndarray of bool, shape (X, Y, Z)
        Where the head is rigid.
    level : Level
        Which one.

    Returns
    -------
    Template
        Its centre depends on the mask alone, so that gains of one level mean the same at another.
    """
    zooms, last = np.asarray(grid.zooms), np.asarray(grid.shape) - 1.0
    width = np.minimum(np.maximum(level.fwhm / zooms, 1.0), THIN * (last + 1.0))
    sigma = width / 2.3548
    stride = np.maximum((width / 2.0).astype(int), 1)
    stride = np.where(last / stride >= 8, stride, 1)
    margin = np.minimum(np.maximum(width / 2.0, EDGE), NARROW * last)
    voxels = np.argwhere(mask)
    centre = apply_affine(grid.affine, voxels.mean(axis=0))
    usable = voxels[((voxels > margin) & (voxels < last - margin)).all(axis=1)]
    if len(usable) > level.n_points:
        drawn = np.random.default_rng(0).choice(len(usable), level.n_points, replace=False)
        usable = usable[np.sort(drawn)]
    smooth, slope = _look(reference, grid, sigma)
    chosen = tuple(usable.T)
    points = apply_affine(grid.affine, usable)
    columns = _columns(smooth[chosen], slope[chosen], (points - centre) / RADIUS, level.degree)
    thin = np.diag([*(1.0 / stride), 1.0])
    x, y, z = (
        _filter(n, blur, step) for n, blur, step in zip(grid.shape, sigma, stride, strict=True)
    )
    return Template(
        level=level,
        filters=(x, y, z),
        to_places=np.asarray(thin @ np.linalg.inv(grid.affine), dtype=np.float64),
        low=margin / stride,
        high=np.minimum((last - margin) / stride, last // stride),
        points=np.ascontiguousarray(points.T),
        columns=columns,
        centre=centre,
        spread=float(smooth[chosen].std()),
    )


def _look(
    reference: NDArray[np.float32], grid: Grid, sigma: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smooth the reference, and find the slope of its cubic spline: (X, Y, Z, 3), per mm."""
    smooth = ndimage.gaussian_filter(reference.astype(np.float64), sigma, mode="nearest")
    spline = ndimage.spline_filter(smooth, order=3, mode="mirror", output=np.float64)
    slopes = []
    for axis in range(3):
        along = spline
        for other in range(3):
            taps = [-0.5, 0.0, 0.5] if other == axis else [1 / 6, 4 / 6, 1 / 6]
            along = ndimage.correlate1d(along, taps, axis=other, mode="mirror")
        slopes.append(along)
    slope = np.stack(slopes, axis=-1) @ np.linalg.inv(grid.affine)[:3, :3]
    return smooth, np.asarray(slope, dtype=np.float64)


def _columns(
    values: NDArray[np.float64], slope: NDArray[np.float64], far: NDArray[np.float64], degree: int
) -> NDArray[np.float32]:
    """Write the model at points: (N, 6 + polynomials + 1)."""
    terms = [np.ones(len(far))]
    for order in range(1, degree + 1):
        terms += [
            np.asarray(far[:, list(axes)].prod(axis=1))
            for axes in combinations_with_replacement(range(3), order)
        ]
    gains = np.stack(terms, axis=1) * values[:, None]
    columns: Any = [slope, np.cross(far, slope), gains, np.ones((len(far), 1))]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _filter(n: int, sigma: float, stride: int) -> NDArray[np.float32]:
    """Write smoothing, thinning out and the spline's prefilter along an axis as one matrix."""
    smooth = ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0, mode="nearest")[::stride]
    spline = ndimage.spline_filter1d(smooth, order=3, axis=0, mode="mirror", output=np.float64)
    return np.pad(spline, ((PAD, PAD), (0, 0)), mode="reflect").astype(np.float32)
