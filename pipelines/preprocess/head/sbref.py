"""A single-band reference: brought to the grid of its series, and compared with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import chebyshev

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import iter_volumes, open_image
from neurostorm_app.pipelines.preprocess.head.motion import MotionEstimator, rms_displacement
from neurostorm_app.pipelines.preprocess.head.motion_levels import FLOOR, SCALE
from neurostorm_app.pipelines.preprocess.head.roughhead import rough_head
from neurostorm_app.pipelines.resample import VolumeSampler, resample_volume

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.preprocess.head.motion_steps import Pose

    Volume = NDArray[np.float32]

__all__ = ["check_sbref", "find_pose", "match_contrast", "read_sbref"]

COVERED = 0.9
"""Part of the head in the series that a single-band reference must show."""
SAME = 1e-3
"""Millimetres by which affines of one grid may differ in the headers."""
N_MATCHED = 2
"""Times that contrast is matched and the pose measured again; more change it by 0.001 mm."""
DEGREE = 5
"""Of the polynomial from one contrast to another."""
ENDS = (0.005, 0.995)
"""Quantiles beyond which brightness counts as theirs: a polynomial runs away there."""
TUKEY, N_WEIGHED = 4.685, 5
"""Standard deviations beyond which a voxel has no weight, and times that weights are made."""


def read_sbref(path: Path, grid: Grid, head: NDArray[np.bool_]) -> Volume:
    """Read a single-band reference, on the grid of its series.

    Parameters
    ----------
    path : Path
        One volume, or a few that are averaged.
    grid : Grid
        Of the series.
    head : ndarray of bool, shape (X, Y, Z)
        The head in the series.

    Returns
    -------
    ndarray, shape (X, Y, Z), float32
        On `grid`; interpolated by a cubic spline if its own grid is another one.

    Raises
    ------
    DataError
        If it does not cover the head of the series.
    """
    own = Grid.of(open_image(path), path)
    volumes = list(iter_volumes(path))
    volume = np.asarray(np.mean(volumes, axis=0), dtype=np.float32)
    if own.shape == grid.shape and np.allclose(own.affine, grid.affine, atol=SAME):
        return volume
    covered = resample_volume(np.ones(own.shape), source=own, target=grid, order=0)
    part = float((covered[head] > 0).mean())
    if part < COVERED:
        raise DataError(
            f"{path}: the single-band reference covers {part:.0%} of the head in the series, at"
            f" least {COVERED:.0%} are needed",
            fix="run with --ignore sbref, or repair the headers of the two images",
        )
    return resample_volume(volume, source=own, target=grid)


def check_sbref(path: Path, reference: Volume, volume: Volume, grid: Grid) -> float:
    """Check that a volume of the series is found in its single-band reference.

    Returns
    -------
    float
        How far the head moved in between: the mean over a ball of 80 mm about the centre of the
        field of view, mm.

    Raises
    ------
    DataError
        If it is not found.
    """
    pose = find_pose(reference, volume, grid, rough_head(reference))
    if not pose.found[0]:
        raise DataError(
            f"{path}: the series is not found in its single-band reference",
            fix="run with --ignore sbref, or look whether both show the same head",
        )
    centre = grid.world().reshape(-1, 3).mean(axis=0)
    return rms_displacement(pose.matrices[0], np.eye(4), centre=centre)


def find_pose(
    reference: Volume, volume: Volume, grid: Grid, mask: NDArray[np.bool_], *, device: str = "cpu"
) -> Pose:
    """Measure where the head is in a volume of another contrast.

    By turns the pose is measured, and the brightness of the reference written as what the volume
    shows there.

    Parameters
    ----------
    reference : ndarray, shape (X, Y, Z)
        Of any contrast that is a function of the brightness of the volume.
    volume : ndarray, shape (X, Y, Z)
        One volume, or the median of many.
    grid : Grid
        Of both.
    mask : ndarray of bool, shape (X, Y, Z)
        Where the head is rigid in the reference.
    device : str
        As of ``MotionEstimator``.

    Returns
    -------
    Pose
        Of one volume: points of the reference to points of the volume, RAS+ mm.

    References
    ----------
    Roche A. et al. 1998, MICCAI, LNCS 1496:1115: of two images of one head, one is a function of
    the other's brightness (correlation ratio).
    """
    sampler = VolumeSampler(grid.world().reshape(-1, 3), source=grid)
    shown = reference
    for _ in range(N_MATCHED):
        pose = MotionEstimator(shown, grid, mask, device=device).measure([volume])
        if not pose.found[0]:
            return pose
        there = sampler(volume, pose.matrices[0]).reshape(grid.shape)
        shown = match_contrast(reference, there, mask)
    return MotionEstimator(shown, grid, mask, device=device).measure([volume])


def match_contrast(one: Volume, other: Volume, mask: NDArray[np.bool_]) -> Volume:
    """Write the brightness of one image as a polynomial of it that is nearest to another image.

    Parameters
    ----------
    one, other : ndarray, shape (X, Y, Z)
        In one pose.
    mask : ndarray of bool, shape (X, Y, Z)
        Where they are compared; voxels that stand out do not count (Tukey).

    Returns
    -------
    ndarray, shape (X, Y, Z), float32
        The first image in the contrast of the other.
    """
    low, high = np.quantile(one[mask], ENDS)
    scaled = 2.0 * np.clip((one - low) / (high - low), 0.0, 1.0) - 1.0
    values, wanted = scaled[mask].astype(np.float64), other[mask].astype(np.float64)
    shares = chebyshev.chebfit(values, wanted, DEGREE)
    for _ in range(N_WEIGHED):
        away = np.abs(wanted - chebyshev.chebval(values, shares))
        cut = max(TUKEY * SCALE * float(np.median(away)), FLOOR * float(np.abs(wanted).max()))
        weights = np.clip(1.0 - (away / cut) ** 2, 0.0, None)
        shares = chebyshev.chebfit(values, wanted, DEGREE, w=weights)
    return np.asarray(chebyshev.chebval(scaled, shares), dtype=np.float32)
