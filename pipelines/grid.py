"""Where voxels are: a grid is a shape and an affine, and nothing else.

An affine maps voxel indices to world coordinates in millimetres, RAS+. Standard grids are
written here once; every resampling takes two grids, never a shape or a voxel size alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes

from neurostorm_app.errors import CorruptImageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nibabel.spatialimages import SpatialImage
    from numpy.typing import NDArray

__all__ = ["STANDARD_GRIDS", "Grid", "standard_grid", "vox2vox"]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Voxel centres in the world.

    Parameters
    ----------
    shape : tuple of int, length 3
        Number of voxels along i, j and k.
    affine : ndarray, shape (4, 4)
        Voxel indices to world coordinates, RAS+, millimetres.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, image: SpatialImage, path: Path | None = None) -> Grid:
        """Take the grid of an image; a fourth axis is left out.

        Raises
        ------
        CorruptImageError
            If the affine is singular or holds a value that is not finite.
        """
        affine = np.asarray(image.affine, dtype=np.float64)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise CorruptImageError(
                f"{path or 'the image'}: its affine cannot be inverted: {affine.tolist()}",
                fix="repair the header (sform, qform or voxel sizes): it says where the voxels are",
            )
        i, j, k = (int(n) for n in image.shape[:3])
        return cls((i, j, k), affine)

    @classmethod
    def from_rows(cls, shape: Sequence[int], rows: Sequence[Sequence[float]]) -> Grid:
        """Build a grid from a shape and the first three rows of its affine (mm, RAS+)."""
        i, j, k = shape
        matrix = np.asarray(rows, dtype=np.float64)
        return cls((i, j, k), from_matvec(matrix[:, :3], matrix[:, 3]))

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Voxel sizes along i, j and k in millimetres."""
        i, j, k = voxel_sizes(self.affine)
        return float(i), float(j), float(k)

    def __eq__(self, other: object) -> bool:
        """Two grids are one if no voxel centre differs by more than a micrometre."""
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and np.allclose(self.affine, other.affine, atol=1e-3)

    __hash__ = None  # type: ignore[assignment]

    def world(self) -> NDArray[np.float64]:
        """World coordinates of all voxel centres.

        Returns
        -------
        ndarray, shape (X, Y, Z, 3)
            Millimetres, RAS+.
        """
        ijk = np.stack(np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij"), axis=-1)
        return np.asarray(apply_affine(self.affine, ijk), dtype=np.float64)


def vox2vox(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Map voxel indices of the target grid to voxel indices of the source.

    A voxel :math:`i_t` of the target and the source voxel :math:`i_s` under it are the same
    point of the world, so :math:`A_s i_s = A_t i_t` and :math:`M = A_s^{-1} A_t`.

    Parameters
    ----------
    source, target : ndarray, shape (4, 4)
        Voxel-to-world affines: RAS+, millimetres.

    Returns
    -------
    ndarray, shape (4, 4)
        Voxels to voxels, no unit; what ``scipy.ndimage.affine_transform`` takes.

    Raises
    ------
    numpy.linalg.LinAlgError
        If ``source`` is singular, as in a header with a zero voxel size.

    Examples
    --------
    >>> vox2vox(np.diag([2.0, 2, 2, 1]), np.diag([3.0, 3, 3, 1])).diagonal()
    array([1.5, 1.5, 1.5, 1. ])
    """
    return np.asarray(np.linalg.solve(source, target), dtype=np.float64)


STANDARD_GRIDS: dict[tuple[str, str], Grid] = {
    ("MNI152NLin6Asym", "2"): Grid.from_rows(
        (91, 109, 91), [[2, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72]]
    ),
    ("MNI152NLin2009cAsym", "2"): Grid.from_rows(
        (97, 115, 97), [[2, 0, 0, -96], [0, 2, 0, -132], [0, 0, 2, -78]]
    ),
}
"""Grids by TemplateFlow name and resolution index, as TemplateFlow stores them (RAS+)."""


def standard_grid(space: str, res: str) -> Grid:
    """Find a standard grid by its TemplateFlow name.

    Raises
    ------
    KeyError
        If the pair is not one of ``STANDARD_GRIDS``.
    """
    return STANDARD_GRIDS[space, res]
