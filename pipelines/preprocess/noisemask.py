"""Where a BOLD voxel is pure cerebrospinal fluid or pure white matter: the masks of aCompCor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["find_noise_voxels"]

GREY = 0.05
"""Probability from which on a voxel of the T1w image may be cortex."""
RIM_MM = 3.0
"""How far from cortex white matter must be."""
PURITY = (0.99, 0.95, 0.9, 0.8, 0.7)
"""Mean probability that a BOLD voxel must have; the first that leaves enough voxels is taken."""
ENOUGH = 20
"""Voxels below which a decomposition means nothing."""


def find_noise_voxels(
    tissues: dict[str, NDArray[np.float32]],
    *,
    source: Grid,
    target: Grid,
    mask: NDArray[np.bool_],
    xfm: PointMap,
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, float]]:
    """Find voxels whose signal is noise by anatomy.

    Cortex and its rim are taken out of the white matter, and out of the sum of both tissues;
    a voxel counts if its mean over 27 points inside it is pure.

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
    fMRIPrep 25.2, ``init_bold_confs_wf``, "acompcor masks"; there with a Gaussian kernel.
    """
    cortex = _dilate(tissues["gm"] > GREY, source)
    white = np.where(cortex, 0.0, tissues["wm"])
    maps = {
        "c": tissues["csf"],
        "w": white,
        "a": np.where(cortex, 0.0, tissues["wm"] + tissues["csf"]),
    }
    inside = np.argwhere(mask)
    voxels: dict[str, NDArray[np.bool_]] = {}
    purity: dict[str, float] = {}
    means = {letter: np.zeros(len(inside)) for letter in maps}
    offsets = np.stack(np.meshgrid(*[(-1 / 3, 0, 1 / 3)] * 3), axis=-1).reshape(-1, 3)
    for offset in offsets:
        world = (inside + offset) @ target.affine[:3, :3].T + target.affine[:3, 3]
        where = (np.linalg.inv(source.affine) @ np.c_[xfm(world), np.ones(len(inside))].T)[:3]
        for letter, map_ in maps.items():
            means[letter] += ndimage.map_coordinates(map_, where, order=1) / len(offsets)
    for letter, mean in means.items():
        enough = [level for level in PURITY if np.count_nonzero(mean > level) >= ENOUGH]
        purity[letter] = enough[0] if enough else 0.0
        voxels[letter] = mean > enough[0] if enough else np.zeros(len(inside), dtype=bool)
    return voxels, purity


def _dilate(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """Grow a mask by a ball of `RIM_MM`, whatever the voxels."""
    away = ndimage.distance_transform_edt(~mask, sampling=grid.zooms)
    return np.asarray(away <= RIM_MM)
