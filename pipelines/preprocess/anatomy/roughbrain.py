"""A brain mask without a network: bright tissue that hangs together once thin bridges are cut.

White and grey matter are brighter than the bone around them. Eroded until scalp, eyes and neck
come off, the largest piece near the middle is the brain; grown back within what is bright, its
furrows closed, it is a mask. It shares no mistake with a network that was trained on images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.preprocess.anatomy.orientation import with_zooms
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["find_rough_brain"]

WORK_MM = 2.0
ERODE_MM = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
"""Erosions that are tried, from mild to strong, until what grows back is no larger than a brain."""
LITRES = (0.5, 2.3)
"""Volume of a brain with its fluid."""
N_BINS = 256
CLOSE_MM = 8.0
"""Furrows are closed so far."""


def find_rough_brain(volume: NDArray[np.float32], grid: Grid) -> NDArray[np.bool_] | None:
    """Find the brain of a head by brightness and shape.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        T1w image, bias-corrected, not negative.
    grid : Grid
        Its grid.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z), or None
        True in the brain; None if nothing of a brain's size comes loose.
    """
    target = with_zooms(grid, WORK_MM)
    sigma = [0.42 * np.sqrt(max(WORK_MM**2 - zoom**2, 0.0)) / zoom for zoom in grid.zooms]
    smooth = ndimage.gaussian_filter(volume, sigma, truncate=3)
    coarse = resample_volume(smooth, source=grid, target=target, order=1)
    bright = _bright(coarse)
    depth = np.asarray(ndimage.distance_transform_edt(bright, sampling=WORK_MM))
    for erosion in ERODE_MM:
        core = _largest(depth > erosion)
        if core is None:
            return None
        far = ndimage.distance_transform_edt(~core, sampling=WORK_MM)
        mask = _close(bright & (far <= erosion + 1.0))
        if LITRES[0] <= mask.sum() * WORK_MM**3 / 1e6 <= LITRES[1]:
            share = resample_volume(mask.astype(np.float32), source=target, target=grid, order=1)
            return np.asarray(share > 0.5, dtype=np.bool_)
    return None


def _bright(coarse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find what is as bright as grey and white matter, by the tissue in the middle of the head."""
    head = coarse > _levels(coarse, 1)[0]
    values = coarse[head]
    low = _levels(np.minimum(coarse, np.percentile(values, 99)), 2)[0]
    middle = float(np.median(values))
    return np.asarray((coarse > max(low, 0.45 * middle)) & (coarse < 2 * middle), dtype=np.bool_)


def _levels(volume: NDArray[np.float32], n_levels: int) -> tuple[float, ...]:
    """Find one or two thresholds that part the voxels into the most unlike classes.

    References
    ----------
    Otsu N. 1979, IEEE Trans. Syst. Man Cybern. 9:62, "A threshold selection method from gray-level
    histograms", section IV for several thresholds.
    """
    counts, edges = np.histogram(volume, N_BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    share = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    moment = np.concatenate([[0.0], np.cumsum(counts * middles)]) / counts.sum()
    # Between-class variance of the voxels in bins i to j - 1, up to what all splits share.
    part = share[None] - share[:, None]
    weighed = np.where(part > 0, (moment[None] - moment[:, None]) ** 2 / np.maximum(part, 1e-12), 0)
    if n_levels == 1:
        return (float(edges[int(np.argmax(weighed[0] + weighed[:, -1]))]),)
    total = weighed[0][:, None] + weighed + weighed[:, -1][None]
    total[np.tril_indices(N_BINS + 1)] = -np.inf
    first, second = np.unravel_index(int(np.argmax(total)), total.shape)
    return float(edges[first]), float(edges[second])


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    labels, n_bodies = ndimage.label(mask)
    if not n_bodies:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax(), dtype=np.bool_)


def _close(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close furrows and fill holes."""
    pad = int(np.ceil(CLOSE_MM / WORK_MM)) + 1
    wide = np.pad(mask, pad)
    grown = ndimage.distance_transform_edt(~wide, sampling=WORK_MM) <= CLOSE_MM
    closed = ndimage.distance_transform_edt(grown, sampling=WORK_MM) > CLOSE_MM
    filled = ndimage.binary_fill_holes(closed | wide)
    inner = tuple(slice(pad, -pad) for _ in range(3))
    return np.asarray(filled[inner], dtype=np.bool_)
