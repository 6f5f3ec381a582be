"""The head in a BOLD volume, told from air by brightness alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["rough_head"]


def rough_head(volume: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell the head from air by Otsu's threshold of the smoothed volume, with a rim.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        True in the head and one or two voxels around it.

    Raises
    ------
    DataError
        If the volume has no contrast.
    """
    smooth = ndimage.gaussian_filter(volume, 1.0)
    low, high = float(smooth.min()), float(np.quantile(smooth, 0.98))
    if not high > low:
        raise DataError(
            f"the BOLD volumes have no contrast: all voxels are {low:g}",
            fix="look at the images: they hold no head",
        )
    head = smooth > _otsu(np.clip(smooth, low, high))
    return np.asarray(ndimage.binary_dilation(head, iterations=2))


def _otsu(values: NDArray[np.float32], n_bins: int = 256) -> float:
    """Split brightness in two classes that differ most (Otsu 1979, IEEE SMC 9:62)."""
    counts, edges = np.histogram(values, n_bins)
    centres = (edges[:-1] + edges[1:]) / 2.0
    below = np.cumsum(counts)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_below = np.cumsum(counts * centres) / below
        mean_above = (np.sum(counts * centres) - np.cumsum(counts * centres)) / above
    between = np.nan_to_num(below * above * (mean_below - mean_above) ** 2.0)
    return float(centres[int(np.argmax(between))])
