"""Several images of one head become one: met in the middle, matched, weighed, outliers left out.

Every image is moved by a part of the way, so that none is sharper than another for having been
the first, and each is interpolated once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.anatomy.orientation import with_zooms
from neurostorm_app.pipelines.preprocess.anatomy.registration import register_rigidly
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Head = tuple[NDArray[np.float32], Grid]

__all__ = ["average_heads", "middle_poses", "weigh"]

COARSE_MM = 2.0
"""Voxel size at which heads are registered to each other and compared."""
UNLIKE = 0.05
"""A correlation so much below the best pair's is that of another head, or of a damaged image."""
ALIKE = 0.90
"""Two images of one head correlate by more; below, with two images only, one is left out."""
MOST_WEIGHT = 4.0
"""No image counts for more than so many times another."""


def average_heads(
    heads: Sequence[Head], *, work_dir: Path, seed: int = 42
) -> tuple[NDArray[np.float32], Grid, dict[str, Any]]:
    """Average images of one head without preferring one.

    Parameters
    ----------
    heads : sequence of tuple of ndarray (X, Y, Z) and Grid
        Bias-corrected, not negative, in any pose and on any grid; at least two.
    work_dir : Path
        Folder for scratch files, which are removed.
    seed : int
        Seed of the sampling.

    Returns
    -------
    average : ndarray, shape of `grid`, float32
        In the brightness of the images' median.
    grid : Grid
        That of the finest image, in the middle of all poses.
    about : dict
        ``weights``, ``likeness`` (to the most typical image), ``moved_mm`` (how far each was moved)
        and ``left_out`` (number of the image to reason).

    References
    ----------
    Reuter M., Fischl B. 2011, NeuroImage 57:19, "Avoiding asymmetry-induced bias in longitudinal
    image processing": the unbiased middle space.
    """
    finest = min(range(len(heads)), key=lambda n: (np.prod(heads[n][1].zooms), n))
    coarse = [_coarsen(head) for head in heads]
    target = coarse[0][1]
    centre = apply_affine(target.affine, (np.asarray(target.shape) - 1) / 2)
    others = [
        register_rigidly(coarse[0], head, work_dir=work_dir, seed=seed) for head in coarse[1:]
    ]
    poses = middle_poses([np.eye(4), *(other.matrix for other in others)], centre)
    # Once more, each to what all have in common: the first is no longer preferred.
    moved = _bring(coarse, poses, target, order=1)
    weights, _, _ = weigh(moved)
    typical = (_mean(moved, weights), target)
    poses = [
        register_rigidly(typical, head, work_dir=work_dir, seed=seed).matrix for head in coarse
    ]
    poses = middle_poses(poses, centre, weights)
    weights, likeness, left_out = weigh(_bring(coarse, poses, target, order=1))
    poses = middle_poses(poses, centre, weights)
    grid = _in_the_middle(heads[finest][1], poses[finest], centre)
    kept = [n for n, weight in enumerate(weights) if weight]
    fine = _bring([heads[n] for n in kept], [poses[n] for n in kept], grid, order=3)
    average = _mean(fine, [weights[n] for n in kept])
    away = [float(np.linalg.norm(apply_affine(pose, centre) - centre)) for pose in poses]
    about: dict[str, Any] = {
        "weights": [round(weight, 4) for weight in weights],
        "likeness": [round(value, 4) for value in likeness],
        "moved_mm": [round(mm, 3) for mm in away],
        "left_out": left_out,
    }
    return np.maximum(average, 0), grid, about


def middle_poses(
    poses: Sequence[NDArray[np.float64]],
    centre: NDArray[np.float64],
    weights: Sequence[float] | None = None,
) -> list[NDArray[np.float64]]:
    """Move the common space to the middle of rigid poses.

    Parameters
    ----------
    poses : sequence of ndarray, shape (4, 4)
        Points of a common space to points of each image, RAS+ mm.
    centre : ndarray, shape (3,)
        Point about which the head turns, mm, in the common space.
    weights : sequence of float, optional
        Those with a weight of zero do not count for where the middle is; the others count alike.

    Returns
    -------
    list of ndarray, shape (4, 4)
        From the new common space: turns and shifts of the poses that count are zero on average.
    """
    used = np.flatnonzero(np.ones(len(poses)) if weights is None else weights)
    moved = [np.asarray(pose, dtype=np.float64) for pose in poses]
    for _ in range(5):
        turns = Rotation.from_matrix(np.stack([moved[n][:3, :3] for n in used])).mean().as_matrix()
        ends = np.mean([apply_affine(moved[n], centre) for n in used], axis=0)
        mean = from_matvec(turns, ends - turns @ centre)
        moved = [pose @ np.linalg.inv(mean) for pose in moved]
    return moved


def weigh(moved: Sequence[NDArray[np.float32]]) -> tuple[list[float], list[float], dict[int, str]]:
    """Weigh images of one head on one grid by how noisy they are, and leave out what is unlike.

    Parameters
    ----------
    moved : sequence of ndarray, shape (X, Y, Z)
        The images; zero where they were not acquired.

    Returns
    -------
    weights : list of float
        They sum to 1; 0 is left out.
    likeness : list of float
        Correlation with the most typical image (its own: with the next best), in the head.
    left_out : dict of int to str
        Number of the image to the reason.
    """
    head = _head_of(moved)
    table = np.corrcoef([volume[head] for volume in moved])
    np.fill_diagonal(table, 0)
    typical = int(table.sum(axis=0).argmax())
    likeness = [float(row[typical]) for row in table]
    likeness[typical] = float(table[typical].max())
    left_out: dict[int, str] = {}
    if len(moved) == 2 and likeness[0] < ALIKE:
        worse = int(np.argmax([_unrest(volume, head) for volume in moved]))
        left_out[worse] = (
            f"left out of the average: two images correlate by {likeness[0]:.2f} only, and this one"
            " has more signal in the air"
        )
    elif len(moved) > 2:
        best = max(likeness)
        left_out = {
            n: f"left out of the average: it correlates by {value:.2f} with the most typical image,"
            f" where another does by {best:.2f}"
            for n, value in enumerate(likeness)
            if value < best - UNLIKE
        }
    kept = [n for n in range(len(moved)) if n not in left_out]
    share = np.ones(len(kept))
    if len(kept) > 2:
        scaled = _match([moved[n] for n in kept])
        middle = np.median([volume[head] for volume in scaled], axis=0)
        noise = np.array([np.median(np.abs(volume[head] - middle)) for volume in scaled])
        share = np.clip(1 / np.maximum(noise, 1e-6) ** 2, None, MOST_WEIGHT / noise.max() ** 2)
    weights = np.zeros(len(moved))
    weights[kept] = share / share.sum()
    return weights.tolist(), likeness, left_out


def _coarsen(head: Head) -> Head:
    """Sample a head every 2 mm, blurred against aliasing."""
    volume, grid = head
    if min(grid.zooms) >= COARSE_MM:
        return head
    target = with_zooms(grid, COARSE_MM)
    sigma = [0.42 * np.sqrt(max(COARSE_MM**2 - zoom**2, 0.0)) / zoom for zoom in grid.zooms]
    blurred = ndimage.gaussian_filter(volume, sigma, truncate=3)
    return resample_volume(blurred, source=grid, target=target, order=1), target


def _bring(
    heads: Sequence[Head], poses: Sequence[NDArray[np.float64]], target: Grid, *, order: int
) -> list[NDArray[np.float32]]:
    """Interpolate each head on the common grid; zero outside its field of view."""
    return [
        np.maximum(
            resample_volume(volume, source=grid, target=target, xfm=Affine(pose), order=order), 0
        )
        for (volume, grid), pose in zip(heads, poses, strict=True)
    ]


def _head_of(volumes: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Find where all images have signal of a head."""
    inside = np.ones(volumes[0].shape, dtype=np.bool_)
    for volume in volumes:
        inside &= volume > 0.25 * volume[volume > volume.mean()].mean()
    return inside if np.count_nonzero(inside) > 1000 else np.ones_like(inside)


def _match(volumes: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Give all images the brightness of the middle one."""
    head = _head_of(volumes)
    levels = np.array([np.median(volume[head]) for volume in volumes])
    return [
        volume * np.float32(np.median(levels) / level)
        for volume, level in zip(volumes, levels, strict=True)
    ]


def _mean(volumes: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32]:
    """Average by weight, brightness matched; where an image was not acquired it does not count."""
    used = [(volume, weight) for volume, weight in zip(volumes, weights, strict=True) if weight]
    total = np.zeros(volumes[0].shape, dtype=np.float32)
    share = np.zeros_like(total)
    for volume, (_, weight) in zip(_match([volume for volume, _ in used]), used, strict=True):
        total += np.float32(weight) * volume
        share += np.float32(weight) * (volume > 0)
    return np.asarray(total / np.where(share > 0, share, 1), dtype=np.float32)


def _unrest(volume: NDArray[np.float32], head: NDArray[np.bool_]) -> float:
    """Measure the signal in the air over that of the head: noise, and ghosts of motion."""
    air = ~ndimage.binary_dilation(volume > 0.25 * np.median(volume[head]), iterations=3)
    return float(volume[air].mean() / np.median(volume[head])) if air.any() else 0.0


def _in_the_middle(grid: Grid, pose: NDArray[np.float64], centre: NDArray[np.float64]) -> Grid:
    """Lay the grid of an image, with its voxels and axes, into the common space.

    The axes stay as acquired, so that nothing is turned further than half of the way, and the
    field of view follows the head.
    """
    shift = centre - apply_affine(pose, centre)
    affine = grid.affine.copy()
    affine[:3, 3] += shift
    return Grid(grid.shape, affine)
