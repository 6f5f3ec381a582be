"""An image whose signal lies where the field moved it, and the way back.

What belongs to x was acquired at x + d along the phase axis, d in voxels, and thinned where d
grows: the brightness is that at x + d times 1 + d'.

References
----------
Jezzard P., Balaban R. 1995, Magn. Reson. Med. 34:65. Chang H., Fitzpatrick J. 1992, IEEE Trans.
Med. Imaging 11:319 (brightness).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Volume = NDArray[np.float64]

__all__ = ["Distorted", "PhaseSampler", "unwarp", "unwarp_mask"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Distorted:
    """An image whose signal lies where the field moved it.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        Brightness, on a grid that all images of a problem share.
    axis : int
        Its phase axis.
    per_hz : float
        Shift of the signal along `axis` in voxels per hertz, with sign.
    """

    volume: NDArray[np.floating]
    axis: int
    per_hz: float


class PhaseSampler:
    """Reads an image along its phase axis by a cubic spline, with its derivative."""

    def __init__(self, image: Distorted) -> None:
        self.axis = image.axis
        self.per_hz = image.per_hz
        moved = np.moveaxis(np.asarray(image.volume, dtype=np.float64), image.axis, -1)
        self._n = moved.shape[-1]
        self._coefficients = ndimage.spline_filter1d(moved, order=3, axis=-1, mode="mirror")

    def __call__(self, shift: Volume) -> tuple[Volume, Volume, NDArray[np.bool_]]:
        """Read at each voxel plus its shift: value, derivative, and where that is inside."""
        last = self._n - 1
        where = np.moveaxis(shift, self.axis, -1) + np.arange(self._n)
        inside = (where >= 0) & (where <= last)
        where = np.clip(where, 0, last)
        low = np.minimum(where.astype(np.intp), last - 1)
        t = where - low
        u = 1.0 - t
        values = (u**3 / 6, 2 / 3 - t**2 + t**3 / 2, 2 / 3 - u**2 + u**3 / 2, t**3 / 6)
        slopes = (-(u**2) / 2, -2 * t + 1.5 * t**2, 2 * u - 1.5 * u**2, t**2 / 2)
        value, slope = np.zeros_like(where), np.zeros_like(where)
        for tap in range(4):
            index = np.abs(low + (tap - 1))
            index = last - np.abs(last - index)
            known = np.take_along_axis(self._coefficients, index, axis=-1)
            value += values[tap] * known
            slope += slopes[tap] * known
        back = [np.moveaxis(volume, -1, self.axis) for volume in (value, slope, inside)]
        return back[0], back[1], back[2]


def unwarp(image: Distorted, field: NDArray[np.floating], *, jacobian: bool = True) -> Volume:
    """Put the signal of an image back.

    Parameters
    ----------
    image : Distorted
        As acquired.
    field : ndarray, shape (X, Y, Z)
        Hz, at the voxels of the undistorted image.
    jacobian : bool
        Whether brightness that was squeezed is thinned again.

    Returns
    -------
    ndarray, shape (X, Y, Z)
        Zero where the signal left the field of view.
    """
    shift = image.per_hz * np.asarray(field, dtype=np.float64)
    value, _, inside = PhaseSampler(image)(shift)
    if jacobian:
        value = value * (1.0 + np.gradient(shift, axis=image.axis))
    return np.where(inside, value, 0.0)


def unwarp_mask(
    mask: NDArray[np.bool_], field: NDArray[np.floating], image: Distorted
) -> NDArray[np.bool_]:
    """Put a mask of a distorted image back."""
    moved = Distorted(volume=mask.astype(np.float32), axis=image.axis, per_hz=image.per_hz)
    return np.asarray(unwarp(moved, field, jacobian=False) > 0.5)
