"""Slices of volumes, cut along the axes of the world.

A slice is asked for in millimetres and read through the affine, so that the same place is
shown at the same pixel whatever the grid, the orientation or the obliqueness of the file.
Left is on the left (neurological convention): x grows to the right of axial and coronal
slices, y to the right of sagittal ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid, vox2vox
from neurostorm_app.pipelines.image import iter_volumes, open_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Box = NDArray[np.float64]

__all__ = ["Plane", "Volume", "brain_box", "cut", "mask_overlap", "near", "onto", "read_volume"]

Plane = Literal["axial", "coronal", "sagittal"]

_AXES: dict[Plane, tuple[int, int, int]] = {
    "axial": (2, 0, 1),
    "coronal": (1, 0, 2),
    "sagittal": (0, 1, 2),
}
"""World axis across the slice, to the right of it and up."""


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One volume in memory.

    Parameters
    ----------
    data : ndarray of float32, shape (X, Y, Z)
        Values.
    grid : Grid
        Where its voxels are, RAS+ mm.
    """

    data: NDArray[np.float32]
    grid: Grid


def read_volume(path: Path) -> Volume:
    """Read a volume; of a series, its first one.

    Raises
    ------
    NoInputError
        If there is no such file.
    CorruptImageError
        If it is damaged or is no image.
    """
    grid = Grid.of(open_image(path), path)
    data = next(iter(iter_volumes(path)))
    return Volume(np.nan_to_num(data, posinf=0, neginf=0), grid)


def onto(volume: Volume, grid: Grid) -> NDArray[np.float32]:
    """Carry labels or a mask to another grid by the nearest voxel.

    Returns
    -------
    ndarray of float32, shape ``grid.shape``
        Zero outside the volume.
    """
    if volume.grid == grid:
        return volume.data
    carried = ndimage.affine_transform(
        volume.data, vox2vox(volume.grid.affine, grid.affine), output_shape=grid.shape, order=0
    )
    return np.asarray(carried, dtype=np.float32)


def near(volume: Volume, mask: Volume, margin: float) -> Volume:
    """Take away what is farther from a mask than a margin.

    Parameters
    ----------
    volume : Volume
        What is kept in part.
    mask : Volume
        1 inside, 0 outside, on any grid.
    margin : float
        Millimetres.

    Returns
    -------
    Volume
        On the grid of `volume`, zero where nothing is kept; nothing is near an empty mask.
    """
    inside = onto(mask, volume.grid) > 0.5
    if not inside.any():  # distances to nothing are no distances
        return Volume(np.zeros_like(volume.data), volume.grid)
    kept = np.zeros_like(volume.data)
    reach = [math.ceil(margin / zoom) for zoom in volume.grid.zooms]
    (mask_box,) = ndimage.find_objects(inside.astype(np.uint8))
    box = tuple(
        slice(max(0, edge.start - n), edge.stop + n)
        for edge, n in zip(mask_box, reach, strict=True)
    )
    away = ndimage.distance_transform_edt(~inside[box], sampling=volume.grid.zooms)
    kept[box] = np.where(away <= margin, volume.data[box], 0)
    return Volume(kept, volume.grid)


def mask_overlap(mask: Volume, reference: Volume) -> tuple[float, float]:
    """Compare two brain masks on the grid of the first.

    Returns
    -------
    dice : float
        Twice the common volume over the sum of volumes.
    coverage : float
        Share of the reference that the mask covers.
    """
    ours = mask.data > 0.5
    theirs = onto(reference, mask.grid) > 0.5
    common = float((ours & theirs).sum())
    return 2 * common / max(ours.sum() + theirs.sum(), 1), common / max(theirs.sum(), 1)


def brain_box(mask: Volume, margin: float = 4.0) -> Box:
    """Find the corners of the brain in the world.

    Parameters
    ----------
    mask : Volume
        The brain is above zero.
    margin : float
        Air around it, mm.

    Returns
    -------
    ndarray, shape (2, 3)
        Least and greatest x, y and z in whole millimetres; of the whole grid if the mask is
        empty.
    """
    inside = np.argwhere(mask.data > 0)
    if not len(inside):
        inside = np.argwhere(np.ones_like(mask.data, dtype=bool))
    world = apply_affine(mask.grid.affine, inside)
    return np.stack([np.floor(world.min(0) - margin), np.ceil(world.max(0) + margin)])


def cut(
    volume: Volume,
    plane: Plane,
    position: float,
    *,
    box: Box,
    pitch: float = 1.0,
    nearest: bool = False,
) -> NDArray[np.float32]:
    """Cut one slice.

    Parameters
    ----------
    volume : Volume
        What is cut.
    plane : {"axial", "coronal", "sagittal"}
        Which way.
    position : float
        Where on the axis across the slice, mm.
    box : ndarray, shape (2, 3)
        Least and greatest world coordinates that are shown, mm.
    pitch : float
        Millimetres from pixel to pixel.
    nearest : bool
        Take the nearest voxel, as for maps of noise; otherwise interpolate linearly.

    Returns
    -------
    ndarray of float32, shape (H, W)
        The first row is the top of the picture; zero outside the volume.
    """
    across, right, up = _AXES[plane]
    columns = np.arange(box[0, right], box[1, right] + pitch / 2, pitch)
    rows = np.arange(box[1, up], box[0, up] - pitch / 2, -pitch)
    points = np.empty((rows.size, columns.size, 3))
    points[..., across] = position
    points[..., right] = columns[None, :]
    points[..., up] = rows[:, None]
    voxels = apply_affine(np.linalg.inv(volume.grid.affine), points)
    sampled = ndimage.map_coordinates(
        volume.data, np.moveaxis(voxels, -1, 0), order=0 if nearest else 1
    )
    return np.asarray(sampled, dtype=np.float32)
