r"""Smooth fields as cubic B-splines: knots on a grid, and a coefficient in hertz at each.

With :math:`\beta` the cubic B-spline, whose support is four knots wide, and :math:`k(x)` the
coordinates of a point in the grid of knots, the field is

.. math:: f(x) = \sum_k c_k \, \beta(k_1(x) - k_1) \, \beta(k_2(x) - k_2) \, \beta(k_3(x) - k_3).

A file of coefficients is a NIfTI image whose voxels are the knots; its affine says where they
are. fMRIPrep's ``desc-coeff_fieldmap`` is this too, and where it has several (``desc-coeff0``,
``desc-coeff1``), their fields add up.

References
----------
Unser M. 1999, IEEE Signal Process. Mag. 16:22, "Splines: a perfect fit for signal and image
processing". Esteban O. et al., documentation of SDCFlows, ``sdcflows.interfaces.bspline``
(knots, their affine, and which tensor product a file means).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage, sparse

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.preprocess.field.solving import bending, conjugate_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = [
    "Basis",
    "field_at",
    "fit_field",
    "knots_of",
    "read_field",
]


def knots_of(grid: Grid, spacing: Sequence[float]) -> Grid:
    """Place knots along the axes of a grid, centred on it and one spacing past its edges.

    Parameters
    ----------
    grid : Grid
        Of the image.
    spacing : sequence of float, length 3
        Between knots, in voxels of `grid`.

    Returns
    -------
    Grid
        Of the knots. All splines that reach into the image are there, so that they add up to
        one everywhere in it.
    """
    step = np.asarray(spacing, dtype=np.float64)
    last = np.asarray(grid.shape) - 1.0
    count = np.ceil(last / step - 1e-9).astype(int) + 3
    first = (last - step * (count - 1)) / 2.0
    affine = grid.affine.copy()
    affine[:3, :3] *= step
    affine[:3, 3] = apply_affine(grid.affine, first)
    i, j, k = (int(n) for n in count)
    return Grid((i, j, k), affine)


class Basis:
    """All splines of a grid of knots at all voxels of an image along the same axes.

    Parameters
    ----------
    grid : Grid
        Of the image.
    knots : Grid
        Of the coefficients, from :func:`knots_of` for this grid or for a finer one.
    """

    def __init__(self, grid: Grid, knots: Grid) -> None:
        self.shape = grid.shape
        self.n_knots = knots.shape
        to_knots = np.linalg.inv(knots.affine) @ grid.affine
        first, step = to_knots[:3, 3], np.diag(to_knots)[:3]
        self._values, self._slopes = [], []
        self._transposed: dict[int | None, list[sparse.csr_matrix]] = {}
        for axis in range(3):
            at = first[axis] + step[axis] * np.arange(grid.shape[axis])
            values, slopes = _axis_matrices(at, knots.shape[axis])
            self._values.append(values)
            self._slopes.append(slopes * step[axis])

    def field(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate at all voxels: (knots) to (X, Y, Z)."""
        return _product(self._values, coefficients)

    def slope(self, coefficients: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """Evaluate the derivative along an axis, per voxel: (knots) to (X, Y, Z)."""
        return _product(self._sloped(axis), coefficients)

    def gather(self, volume: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
        """Apply the transpose of `field`, or of `slope` along `axis`: (X, Y, Z) to (knots)."""
        if axis not in self._transposed:
            self._transposed[axis] = [matrix.T.tocsr() for matrix in self._sloped(axis)]
        return _product(self._transposed[axis], volume)

    def diagonal(self, weight: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
        """Give the diagonal of gather(weight * field), or of the slopes' along `axis`: (knots)."""
        squares = [matrix.multiply(matrix).T.tocsr() for matrix in self._sloped(axis)]
        return _product(squares, weight)

    def _sloped(self, axis: int | None) -> list[sparse.csr_matrix]:
        return [self._slopes[a] if a == axis else self._values[a] for a in range(3)]


def _axis_matrices(
    at: NDArray[np.float64], n_knots: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Make the matrices (n, n_knots) of splines and of their derivatives per knot."""
    low = np.floor(at).astype(int) - 1
    columns = low[:, None] + np.arange(4)
    distance = at[:, None] - columns
    near = np.abs(distance)
    inner = near < 1.0
    values = np.where(inner, 2 / 3 - near**2 + near**3 / 2, np.clip(2 - near, 0, None) ** 3 / 6)
    slopes = np.sign(distance) * np.where(
        inner, -2 * near + 1.5 * near**2, -(np.clip(2 - near, 0, None) ** 2) / 2
    )
    there = ((columns >= 0) & (columns < n_knots)).ravel()
    rows = np.repeat(np.arange(len(at)), 4)[there]
    shape = (len(at), n_knots)
    made = [
        sparse.csr_matrix((numbers.ravel()[there], (rows, columns.ravel()[there])), shape=shape)
        for numbers in (values, slopes)
    ]
    return made[0], made[1]


def _product(
    matrices: Sequence[sparse.csr_matrix], volume: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Apply one matrix along each axis; sparse products add in one order on any machine."""
    for matrix in matrices:
        rest = volume.shape[1:]
        flat = matrix @ np.ascontiguousarray(volume).reshape(volume.shape[0], -1)
        volume = np.moveaxis(flat.reshape(matrix.shape[0], *rest), 0, -1)
    return np.asarray(volume, dtype=np.float64)


def fit_field(
    values: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    grid: Grid,
    knots: Grid,
    roughness: float,
) -> NDArray[np.float64]:
    """Fit coefficients to a field that is known in some voxels.

    Parameters
    ----------
    values : ndarray, shape (X, Y, Z)
        The field, Hz.
    weights : ndarray, shape (X, Y, Z)
        How much each voxel is to be believed; 0 where nothing is known.
    grid : Grid
        Of the voxels.
    knots : Grid
        From :func:`knots_of`.
    roughness : float
        Weight of the coefficients' curvature beside a voxel of weight one.

    Returns
    -------
    ndarray, shape of `knots`
        Hz; where no voxel is near, the field goes on as straight as it can.
    """
    basis = Basis(grid, knots)
    weight = np.asarray(weights, dtype=np.float64)
    stiff = roughness * bending(knots.shape)
    diagonal = basis.diagonal(weight) + stiff.diagonal().reshape(knots.shape)

    def apply(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply the normal matrix."""
        seen = basis.gather(weight * basis.field(coefficients))
        rough = np.asarray(stiff @ coefficients.ravel(), dtype=np.float64)
        return np.asarray(seen + rough.reshape(knots.shape), dtype=np.float64)

    right = basis.gather(weight * values)
    return conjugate_gradients(apply, right, diagonal=diagonal, tolerance=1e-5, n_steps=500)


def field_at(
    coefficients: NDArray[np.floating], knots: Grid, points: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Evaluate a field at points.

    Parameters
    ----------
    coefficients : ndarray, shape of `knots`
        Hz.
    knots : Grid
        Where they are.
    points : ndarray, shape (..., 3)
        Space of the knots, RAS+ mm; past the outermost splines the field takes their last value.

    Returns
    -------
    ndarray, shape (...), float32
        Hz.
    """
    where = apply_affine(np.linalg.inv(knots.affine), points)
    # Ours end one knot past the image, fMRIPrep's half a knot and more.
    inside = np.clip(where, 0.5, np.asarray(knots.shape) - 1.5)
    found = ndimage.map_coordinates(
        np.asarray(coefficients, dtype=np.float64),
        np.moveaxis(inside, -1, 0),
        order=3,
        prefilter=False,
        mode="grid-constant",
    )
    return np.asarray(found, dtype=np.float32)


def read_field(
    files: Sequence[Path], target: Grid, xfm: PointMap | None = None
) -> NDArray[np.float32]:
    """Evaluate files of coefficients, ours or fMRIPrep's, on a grid.

    Parameters
    ----------
    files : sequence of Path
        NIfTI of coefficients, Hz; their fields add up.
    target : Grid
        Where the field is wanted.
    xfm : callable, optional
        Points of `target` to points of the knots, RAS+ mm; by default the same space.

    Returns
    -------
    ndarray, shape of `target`, float32
        Hz.

    Raises
    ------
    DataError
        If a file has too few knots for a cubic spline, or none is given.
    """
    if not files:
        raise DataError(
            "no file of field coefficients was given; one or more are needed",
            fix="give the files desc-coeff_fieldmap, or let the field be estimated anew",
        )
    points = target.world() if xfm is None else xfm(target.world())
    total = np.zeros(target.shape, dtype=np.float32)
    for path in files:
        coefficients, knots = read_volume(path)
        if min(knots.shape) < 4:
            raise DataError(
                f"{path}: coefficients on {knots.shape} knots; a cubic spline has four along"
                " each axis",
                fix="give a file desc-coeff_fieldmap, or let the field be estimated anew",
            )
        total += field_at(coefficients, knots, points)
    return total
