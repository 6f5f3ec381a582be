"""Where a BOLD voxel is noise: pure fluid and white matter (aCompCor), and the brain's crown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.special import erf

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["find_crown", "find_noise_voxels", "sample_gaussian"]

GREY = 0.05
"""Probability above which a voxel of the T1w image may be cortex."""
RIM = 3
"""Voxels of the T1w image that white matter must be away from cortex."""
FARTHEST_RIM_MM = 4.0
"""The rim in millimetres is never wider than this: three voxels of 1 mm are meant."""
PURE = 0.99
"""Probability that a voxel must exceed."""
LESS_PURE = (0.95, 0.9, 0.8, 0.7)
"""Taken in turn where nothing is that pure: the first that leaves enough voxels."""
ENOUGH = 20
"""Voxels below which a less pure mask means nothing."""
SMOOTH = 4.0
"""Voxels of the T1w image after which a Gaussian of one voxel has ended."""
CROWN = 2
"""Radius in BOLD voxels of the ball that grows the brain to its crown."""


def find_noise_voxels(
    tissues: dict[str, NDArray[np.float32]],
    *,
    source: Grid,
    target: Grid,
    mask: NDArray[np.bool_],
    xfm: PointMap,
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, float]]:
    """Find voxels whose signal is noise by anatomy.

    Cortex and its rim are taken out of the white matter, and out of the sum of both tissues.
    A voxel counts if its probability, read with a Gaussian kernel, is above 0.99. Where no
    voxel is (thick slices, small ventricles), a lower probability is asked for and told.

    Parameters
    ----------
    tissues : dict
        ``gm``, ``wm`` and ``csf``: probabilities on `source`.
    source, target : Grid
        Of the T1w image and of the BOLD reference.
    mask : ndarray of bool, shape of `target`
        The brain in the BOLD reference.
    xfm : callable
        BOLD reference points to T1w points, RAS+ mm.

    Returns
    -------
    voxels : dict of ndarray of bool, shape (V,)
        ``c`` (CSF), ``w`` (white matter) and ``a`` (both) among the voxels of `mask`.
    purity : dict of float
        The probability that was asked for in each; 0 where even the lowest left nothing.

    References
    ----------
    fMRIPrep 25.2, ``init_bold_confs_wf``, "aCompCor", and ``acompcor_masks``, where a mask
    without voxels stays empty.
    """
    cortex = _dilate(tissues["gm"] > GREY, source)
    white = np.where(cortex, 0.0, tissues["wm"])
    both = np.where(cortex, 0.0, tissues["wm"] + tissues["csf"])
    maps = {"c": tissues["csf"], "w": white, "a": both}
    where = _places(mask, source=source, target=target, xfm=xfm)
    found = sample_gaussian(np.stack(list(maps.values())), where)
    voxels: dict[str, NDArray[np.bool_]] = {}
    purity: dict[str, float] = {}
    for letter, pure in zip(maps, found, strict=True):
        levels = [PURE] if np.any(pure > PURE) else []
        levels += [level for level in LESS_PURE if np.count_nonzero(pure > level) >= ENOUGH]
        purity[letter] = levels[0] if levels else 0.0
        voxels[letter] = pure > levels[0] if levels else np.zeros(len(pure), dtype=bool)
    return voxels, purity


def find_crown(
    mask: NDArray[np.bool_],
    *,
    anat_mask: NDArray[np.bool_],
    source: Grid,
    target: Grid,
    xfm: PointMap,
) -> NDArray[np.bool_]:
    """Find the crown: the voxels just outside the brain.

    Parameters
    ----------
    mask : ndarray of bool, shape of `target`
        The brain in the BOLD reference.
    anat_mask : ndarray of bool, shape of `source`
        The brain in the T1w image.
    source, target : Grid
        Of the T1w image and of the BOLD reference.
    xfm : callable
        BOLD reference points to T1w points, RAS+ mm.

    Returns
    -------
    ndarray of bool, shape of `target`
        Within a ball of two voxels of either brain, and in neither.

    References
    ----------
    Patriat R. et al. 2017, NeuroImage 144:74, "An improved model of motion-related signal
    changes in fMRI"; fMRIPrep 25.2, ``init_bold_confs_wf``, "Create the crown mask".
    """
    where = _places(np.ones(target.shape, dtype=bool), source=source, target=target, xfm=xfm)
    depth = ndimage.distance_transform_edt(anat_mask) - ndimage.distance_transform_edt(~anat_mask)
    rough = ndimage.map_coordinates(depth, where.T, order=0, cval=-np.inf)
    inside = rough > 0
    edge = np.abs(rough) <= SMOOTH
    near = sample_gaussian(anat_mask[None].astype(np.float32), where[edge], alpha=SMOOTH)
    inside[edge] = near[0] > 0.5
    brain = mask | inside.reshape(target.shape)
    grown = ndimage.distance_transform_edt(~brain) <= CROWN
    return np.asarray(grown & ~brain)


def sample_gaussian(
    maps: NDArray[np.floating], where: NDArray[np.float64], *, alpha: float = 1.0
) -> NDArray[np.float64]:
    """Read maps between their voxels with a Gaussian kernel of one voxel.

    Parameters
    ----------
    maps : ndarray, shape (K, X, Y, Z)
        K maps on one grid.
    where : ndarray, shape (N, 3)
        Voxel coordinates.
    alpha : float
        Where the kernel is cut, in voxels.

    Returns
    -------
    ndarray, shape (K, N)
        Zero outside the grid.

    References
    ----------
    ITK, ``GaussianInterpolateImageFunction``, which ``antsApplyTransforms`` uses with sigma of
    one voxel and alpha 1 for ``Gaussian``, and in effect with alpha 4 for ``MultiLabel``.
    """
    shape = np.asarray(maps.shape[1:])
    found = np.zeros((len(maps), len(where)))
    inside = np.flatnonzero(((where >= -0.5) & (where <= shape - 0.5)).all(axis=1))
    at = where[inside, :, None]  # (M, 3, 1)
    voxel = np.floor(at + 0.5 - alpha) + np.arange(int(np.ceil(2 * alpha)) + 1)
    last = np.minimum(np.ceil(at + 0.5 + alpha), shape[:, None])
    weight = erf((voxel + 0.5 - at) / np.sqrt(2.0)) - erf((voxel - 0.5 - at) / np.sqrt(2.0))
    weight = np.where((voxel >= 0) & (voxel < last), weight, 0.0)
    weight /= weight.sum(axis=2, keepdims=True)
    steps = np.asarray([shape[1] * shape[2], shape[2], 1])[:, None]
    index = np.clip(voxel, 0, shape[:, None] - 1).astype(np.intp) * steps
    flat = maps.reshape(len(maps), -1)
    for i, j, k in np.ndindex(*[voxel.shape[2]] * 3):
        here = index[:, 0, i] + index[:, 1, j] + index[:, 2, k]
        found[:, inside] += weight[:, 0, i] * weight[:, 1, j] * weight[:, 2, k] * flat[:, here]
    return found


def _places(
    mask: NDArray[np.bool_], *, source: Grid, target: Grid, xfm: PointMap
) -> NDArray[np.float64]:
    """Find where the voxels of a mask on `target` are in voxels of `source` (N, 3)."""
    world = np.argwhere(mask) @ target.affine[:3, :3].T + target.affine[:3, 3]
    back = np.linalg.inv(source.affine)
    return np.asarray(xfm(world) @ back[:3, :3].T + back[:3, 3])


def _dilate(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """Grow a mask by a ball of `RIM` voxels, and by no more than `FARTHEST_RIM_MM`."""
    away = ndimage.distance_transform_edt(~mask)
    if max(grid.zooms) * RIM <= FARTHEST_RIM_MM:
        return np.asarray(away <= RIM)
    away_mm = ndimage.distance_transform_edt(~mask, sampling=grid.zooms)
    return np.asarray((away <= RIM) & (away_mm <= FARTHEST_RIM_MM))
