"""One interpolation from acquired voxels onto a grid.

Coordinates are composed first (grid, normalisation, coregistration, head motion), then each
volume is interpolated once by cubic B-splines with prefilter. A voxel and more outside the
acquired ones the world is zero. Onto a model's grid: :mod:`neurostorm_app.pipelines.regrid`.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.pipelines.image import iter_volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

    Motion = Sequence[NDArray[np.float64]] | NDArray[np.float64]
    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["VolumeSampler", "resample_series", "resample_volume"]

PAD = 12
"""Voxels of zeros around a volume before the spline prefilter, as in scipy's ``grid-constant``."""
REACH = 1.0
"""Voxels past the edge from where on a series is zero; a spline would only ring there."""


def resample_volume(
    volume: NDArray[Any],
    *,
    source: Grid,
    target: Grid,
    xfm: PointMap | None = None,
    order: int = 3,
) -> NDArray[np.float32]:
    """Interpolate one volume on another grid.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        On `source`.
    source, target : Grid
        Where voxels are and where they are wanted.
    xfm : callable, optional
        Target points to source points, RAS+ mm; by default both spaces are one.
    order : int
        0 for labels, 1 for probabilities, 3 for images.

    Returns
    -------
    ndarray, shape of `target`, float32
        Zero outside the source.
    """
    points = target.world() if xfm is None else xfm(target.world())
    where = apply_affine(np.linalg.inv(source.affine), points)
    out = ndimage.map_coordinates(
        np.asarray(volume, dtype=np.float32),
        np.moveaxis(where, -1, 0),
        order=cast("Literal[0, 1, 3]", order),
        mode="grid-constant",
    )
    return np.asarray(out, dtype=np.float32)


def resample_series(  # noqa: PLR0913
    bold: Path,
    *,
    source: Grid,
    target: Grid,
    to_bold: PointMap | None = None,
    motion: Motion,
    mask: NDArray[np.bool_] | None = None,
    n_threads: int = 1,
) -> Iterator[NDArray[np.float32]]:
    """Bring each volume of a series onto a grid by one cubic interpolation.

    Parameters
    ----------
    bold : Path
        The series as acquired, (X, Y, Z, T).
    source : Grid
        Its grid.
    target : Grid
        Grid of the result.
    to_bold : callable, optional
        Target points to points of the BOLD reference, RAS+ mm; by default the same space.
    motion : sequence of ndarray, shape (4, 4)
        For each volume: points of the BOLD reference to points of that volume, RAS+ mm.
    mask : ndarray of bool, shape of `target`, optional
        Voxels that are wanted; the others stay zero and cost nothing.
    n_threads : int
        Volumes at a time; it does not change the numbers.

    Yields
    ------
    ndarray, shape of `target`, float32
        One volume after the other; memory holds about three per thread.
    """
    points = target.world().reshape(-1, 3)
    if to_bold is not None:
        points = to_bold(points)
    near = _near(points, source, motion)
    if mask is not None:
        near &= mask.ravel()
    sampler = VolumeSampler(points[near], source=source)

    def place(volume: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """Interpolate a volume at the points, zero elsewhere."""
        whole = np.zeros(near.shape, dtype=np.float32)
        whole[near] = sampler(volume, matrix)
        return whole.reshape(target.shape)

    waiting: deque[Future[NDArray[np.float32]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for volume, matrix in zip(iter_volumes(bold), motion, strict=True):
            waiting.append(pool.submit(place, volume, matrix))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _near(points: NDArray[np.float64], source: Grid, motion: Motion) -> NDArray[np.bool_]:
    """Find the points that some volume may reach, given how far the head moves."""
    size = np.asarray(source.shape)
    corners = np.stack(np.meshgrid(*((0, n - 1) for n in size), indexing="ij"), -1).reshape(-1, 3)
    world = apply_affine(source.affine, corners)
    furthest = max(
        float(np.linalg.norm(apply_affine(np.asarray(matrix), world) - world, axis=1).max())
        for matrix in motion
    )
    margin = REACH + furthest / min(source.zooms)
    voxels = apply_affine(np.linalg.inv(source.affine), points)
    inside = np.logical_and(voxels > -margin, voxels < size - 1 + margin).all(axis=1)
    return np.asarray(inside, dtype=np.bool_)


class VolumeSampler:
    """Interpolates volumes of one grid at points that move with the head.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        In the space of the BOLD reference, RAS+ mm.
    source : Grid
        Grid of the volumes.
    """

    def __init__(self, points: NDArray[np.float64], *, source: Grid) -> None:
        self._points = np.ascontiguousarray(points.T)
        self._size = np.asarray(source.shape)[:, None]
        self._to_voxels = np.linalg.inv(source.affine)

    def __call__(
        self, volume: NDArray[np.float32], matrix: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Interpolate a volume.

        Parameters
        ----------
        volume : ndarray, shape (X, Y, Z)
            As acquired.
        matrix : ndarray, shape (4, 4)
            Points of the reference to points of the volume, RAS+ mm.

        Returns
        -------
        ndarray, shape (N,), float32
            Zero a voxel and more outside.
        """
        coefficients = ndimage.spline_filter(
            np.pad(volume, PAD), order=3, output=np.float32, mode="grid-constant"
        )
        whole = self._to_voxels @ matrix
        where = whole[:3, :3] @ self._points + whole[:3, 3:]
        inside = ((where > -REACH) & (where < self._size - 1 + REACH)).all(axis=0)
        values = np.zeros(inside.shape, dtype=np.float32)
        values[inside] = ndimage.map_coordinates(
            coefficients, where[:, inside] + PAD, order=3, mode="constant", prefilter=False
        )
        return values
