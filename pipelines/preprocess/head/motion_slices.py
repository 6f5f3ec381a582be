"""Slices brighter or darker than their neighbours, evened out before motion is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SliceGains"]

JUMP = 0.08
"""Relative difference from the neighbours from which on a slice is evened out."""
NEIGHBOURS = 9
"""Slices whose median a slice is compared with."""
LARGE = 0.2
"""Part of the largest slice of the mask from which on a slice has a brightness of its own."""


class SliceGains:
    """Compares slices of volumes with those of the reference.

    A spike or a lost excitation changes whole slices. Left as they are, smoothing would spread
    them over their neighbours, where robust weights no longer tell them apart.

    Parameters
    ----------
    reference : ndarray, shape (X, Y, Z)
        The BOLD reference; slices lie along the last axis.
    mask : ndarray of bool, shape (X, Y, Z)
        Where brightness is compared.
    """

    def __init__(self, reference: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        self._mask = mask.astype(np.float32)
        area = self._mask.sum(axis=(0, 1))
        expected = self._sums(reference)
        self._used = np.flatnonzero((area >= LARGE * area.max()) & (expected > 0))
        self._expected = expected[self._used]

    def even(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring slices that stand out to the brightness of their neighbours.

        Returns
        -------
        ndarray, shape (X, Y, Z), float32
            The volume itself if no slice stands out.
        """
        sums = self._sums(volume)[self._used]
        if len(sums) < NEIGHBOURS or not (sums > 0).all():
            return volume
        gain = np.log(sums / self._expected)
        off = gain - ndimage.median_filter(gain, NEIGHBOURS, mode="nearest")
        off[np.abs(off) < JUMP] = 0.0
        if not off.any():
            return volume
        factors = np.ones(volume.shape[2], dtype=np.float32)
        factors[self._used] = np.exp(-off)
        return np.asarray(volume * factors, dtype=np.float32)

    def _sums(self, volume: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(np.einsum("xyz,xyz->z", volume, self._mask), dtype=np.float64)
