"""Where a point goes: transforms map points, and nothing else.

World coordinates are millimetres, RAS+. A transform maps a point of the *reference* (output)
space to the same place in the *moving* (input) space, because resampling asks of each output
voxel where to look; ``from-T1w_to-MNI…_xfm.h5`` therefore maps template points to T1w points,
as in ITK. Files of transforms are read and written by :mod:`neurostorm_app.pipelines.itk`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["Affine", "Chain", "Field"]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """A linear map of points.

    Parameters
    ----------
    matrix : ndarray, shape (4, 4)
        Reference points to moving points, RAS+ mm on both sides.
    """

    matrix: NDArray[np.float64]

    @classmethod
    def identity(cls) -> Affine:
        """Leave points where they are."""
        return cls(np.eye(4))

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (..., 3), mm."""
        return np.asarray(apply_affine(self.matrix, points), dtype=np.float64)

    def inverse(self) -> Affine:
        """Map moving points to reference points."""
        return Affine(np.asarray(np.linalg.inv(self.matrix), dtype=np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A dense map of points: x to x + u(x).

    Parameters
    ----------
    grid : Grid
        Where the displacements are known.
    displacement : ndarray, shape (X, Y, Z, 3), float32
        u in mm along R, A and S; trilinear between voxels, zero outside the grid.
    """

    grid: Grid
    displacement: NDArray[np.float32]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (..., 3), mm."""
        return np.asarray(points, dtype=np.float64) + self.at(points)

    def at(self, points: NDArray[np.float64], *, extend: bool = False) -> NDArray[np.float64]:
        """Interpolate the displacement (..., 3) at points (..., 3), mm.

        From half a voxel past the edge it is zero, as in ITK, or the edge's when `extend`.
        """
        voxels = apply_affine(np.linalg.inv(self.grid.affine), points)
        size = np.asarray(self.grid.shape)
        inside = np.logical_and(voxels >= -0.5, voxels < size - 0.5).all(axis=-1)
        where = np.moveaxis(np.clip(voxels, 0, size - 1), -1, 0)
        moved = np.empty(voxels.shape)
        for axis in range(3):
            ndimage.map_coordinates(
                self.displacement[..., axis], where, output=moved[..., axis], order=1
            )
        if not extend:
            moved[~inside] = 0.0
        return moved

    def inverse(
        self, grid: Grid | None = None, *, tolerance: float = 0.01, n_iterations: int = 60
    ) -> Field:
        """Invert by fixed point: v(y) = -u(y + v(y)), with u going on past its edge.

        Parameters
        ----------
        grid : Grid, optional
            Grid of the result; by default the field's own.
        tolerance : float
            Stop when 99.9 % of the voxels move less than this in an iteration, mm.
        n_iterations : int
            Give up after so many.

        Raises
        ------
        DataError
            If the iteration does not settle, because the field folds.

        References
        ----------
        Chen M. et al. 2008, Med. Phys. 35:81, "A simple fixed-point approach to invert a
        deformation field".
        """
        grid = grid or self.grid
        points = grid.world()
        back = np.zeros_like(points)
        change = np.inf
        for _ in range(n_iterations):
            update = -self.at(points + back, extend=True)
            change = float(np.quantile(np.abs(update - back).max(axis=-1), 0.999))
            back = update
            if change < tolerance:
                return Field(grid, back.astype(np.float32))
        raise DataError(
            f"a displacement field does not invert: after {n_iterations} iterations points still"
            f" move {change:.2f} mm; less than {tolerance} mm was expected",
            fix="look at the registration that made it: a field that folds is not an anatomy",
        )


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Transforms one after another: points meet the first step first.

    Parameters
    ----------
    steps : sequence of Affine or Field
        From the reference space towards the moving space.
    """

    steps: tuple[Affine | Field, ...]

    @classmethod
    def of(cls, *parts: Affine | Field | Chain) -> Chain:
        """Join transforms and chains into one chain; the first part meets the points first."""
        steps: list[Affine | Field] = []
        for part in parts:
            steps.extend(part.steps if isinstance(part, Chain) else [part])
        return cls(tuple(steps))

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (..., 3), mm."""
        for step in self.steps:
            points = step(points)
        return np.asarray(points, dtype=np.float64)

    def inverse(self) -> Chain:
        """Map moving points to reference points."""
        return Chain(tuple(step.inverse() for step in reversed(self.steps)))
