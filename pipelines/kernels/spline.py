"""From voxels to what is interpolated: padded, and for splines filtered, in float32.

The coefficients c of a cubic spline through samples s solve (c[k-1] + 4 c[k] + c[k+1]) / 6 = s[k].
A causal and an anticausal recursion with the pole z = sqrt(3) - 2 solve that. Here samples go on
as zeros for ever: then the first recursion starts from nothing, and beyond both ends
coefficients fall by z a voxel, so the sums over them are known and no margin is needed.

References
----------
Unser, Aldroubi and Eden 1993, IEEE Trans. Signal Processing 41:834.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.models.kernels.elementary import jit_apart, kept_jit_apart

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["POLE", "pad_voxels", "spline_coefficients"]

POLE = math.sqrt(3.0) - 2.0

_POLE, _END = np.float32(POLE), np.float32(-POLE / (1.0 - POLE * POLE))
_GAIN = np.float32(216.0)  # 6 along each axis


def spline_coefficients(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Find the cubic spline through the voxels of a volume that is zero outside.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z), float32
        Any order in memory.

    Returns
    -------
    ndarray, shape (X + 4, Y + 4, Z + 4), float32
        Coefficients, two more at each end; NaN all over a line through a NaN.
    """
    padded = np.empty([n + 4 for n in volume.shape], dtype=np.float32)
    _filter_volume(volume, padded)
    return padded


def pad_voxels(volume: NDArray[np.float32], pad: int) -> NDArray[np.float32]:
    """Put zeros around a volume: `pad` at each end of each axis."""
    padded = np.zeros([n + 2 * pad for n in volume.shape], dtype=np.float32)
    padded[pad:-pad, pad:-pad, pad:-pad] = volume
    return padded


@kept_jit_apart
def _filter_volume(volume: Any, padded: Any) -> None:
    X, Y, Z = volume.shape
    for i in range(X):
        plane = padded[i + 2]
        for j in range(Y):
            for k in range(Z):
                plane[j + 2, k + 2] = _GAIN * volume[i, j, k]
            _filter_line(plane[j + 2], Z)
        _filter_rows(plane, Y)
    _filter_rows(padded.reshape(X + 4, (Y + 4) * (Z + 4)), X)


@jit_apart
def _filter_line(line: Any, n: int) -> None:
    """Filter n samples along a line; they begin at the third place."""
    value = line[2]
    for k in range(3, n + 2):
        value = line[k] + _POLE * value
        line[k] = value
    value *= _END
    line[n + 1] = value
    line[n + 2] = _POLE * value
    line[n + 3] = _POLE * line[n + 2]
    for k in range(n, 1, -1):
        value = _POLE * (value - line[k])
        line[k] = value
    line[1] = _POLE * value
    line[0] = _POLE * line[1]


@jit_apart
def _filter_rows(rows: Any, n: int) -> None:
    """Filter n samples across rows, all columns of them at once; they begin at the third row."""
    m = rows.shape[1]
    for i in range(3, n + 2):
        for k in range(m):
            rows[i, k] += _POLE * rows[i - 1, k]
    for k in range(m):
        rows[n + 1, k] *= _END
        rows[n + 2, k] = _POLE * rows[n + 1, k]
        rows[n + 3, k] = _POLE * rows[n + 2, k]
    for i in range(n, 1, -1):
        for k in range(m):
            rows[i, k] = _POLE * (rows[i + 1, k] - rows[i, k])
    for k in range(m):
        rows[1, k] = _POLE * rows[2, k]
        rows[0, k] = _POLE * rows[1, k]
