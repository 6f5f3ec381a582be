"""Head motion as columns: six parameters in FSL's coordinates, and two lengths of each step."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.pipelines.preprocess.head.motion import rms_displacement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["framewise_displacement", "movement_parameters", "rms_motion"]

HEAD_RADIUS = 50.0
"""Millimetres per radian in Power's framewise displacement."""


def movement_parameters(
    matrices: NDArray[np.float64], grid: Grid, reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Write rigid maps as three translations and three angles, in FSL's coordinates.

    FSL counts millimetres from the corner of the first voxel, with x running to the left, and
    its matrices send points of a volume to the reference. It turns about the centre of mass of
    the reference, whose darkest voxel weighs nothing.

    Parameters
    ----------
    matrices : ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    grid : Grid
        Of the reference.
    reference : ndarray, shape (X, Y, Z)
        Its brightness.

    Returns
    -------
    ndarray, shape (T, 6)
        Translations along x, y and z in mm, and rotations about them in radians.

    References
    ----------
    FSL, MCFLIRT's ``.par`` files and ``volume::cog``; fMRIPrep 25.2.7, ``FSLMotionParams``,
    which mended the order of the angles.
    """
    frame = _fsl_frame(grid)
    fsl = frame @ np.linalg.inv(matrices) @ np.linalg.inv(frame)
    weight = np.asarray(reference, dtype=np.float64)
    weight = weight - weight.min()
    if not weight.any():
        weight = np.ones_like(weight)
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        weight = weight[::-1]
    centre = np.asarray(grid.zooms) * ndimage.center_of_mass(weight)
    shift = fsl[:, :3, 3] + fsl[:, :3, :3] @ centre - centre
    # FSL composes Rx(-a) Ry(-b) Rz(-c).
    angles = -Rotation.from_matrix(fsl[:, :3, :3]).as_euler("XYZ")
    return np.concatenate([shift, angles], axis=1)


def _fsl_frame(grid: Grid) -> NDArray[np.float64]:
    """Map points, RAS+ mm, to FSL's millimetres (4, 4)."""
    to_fsl = np.diag([*grid.zooms, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        mirror[0, 3] = grid.shape[0] - 1.0
        to_fsl = to_fsl @ mirror
    return np.asarray(to_fsl @ np.linalg.inv(grid.affine), dtype=np.float64)


def framewise_displacement(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum how far the head moved since the volume before, in mm.

    Parameters
    ----------
    parameters : ndarray, shape (T, 6)
        Three translations in mm and three rotations in radians.

    Returns
    -------
    ndarray, shape (T,)
        |dx| + |dy| + |dz| + 50 mm (|da| + |db| + |dc|); NaN in the first volume.

    References
    ----------
    Power J. et al. 2012, NeuroImage 59:2142, equation in "Framewise displacement".
    """
    step = np.abs(np.diff(parameters, axis=0)) * [1, 1, 1, *[HEAD_RADIUS] * 3]
    return np.concatenate([[np.nan], step.sum(axis=1)])


def rms_motion(matrices: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Average how far the points of a ball of 80 mm moved since the volume before, in mm.

    Parameters
    ----------
    matrices : ndarray, shape (T, 4, 4)
        Points of the reference to points of each volume, RAS+ mm.
    grid : Grid
        Of the series; the ball lies at its centre.

    Returns
    -------
    ndarray, shape (T,)
        NaN in the first volume.

    References
    ----------
    Jenkinson M. 1999, FMRIB report TR99MJ1, "Measuring transformation error by RMS deviation".
    """
    centre = grid.affine @ [*(0.5 * (np.asarray(grid.shape) - 1)), 1.0]
    back = np.linalg.inv(matrices)
    steps = [rms_displacement(after, before, centre=centre[:3]) for before, after in pairwise(back)]
    return np.array([np.nan, *steps])
