"""What each method of interpolation weighs: voxels around a point, by polynomials.

Along an axis a point lies a fraction f past voxel n. Every method weighs the same number of
voxels around it, each by a polynomial in t = f - 1/2; in space the weights are products. So one
loop serves all methods.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["METHODS", "Method", "Taps", "taps_of"]

Method = Literal["cubic", "lanczos", "linear", "nearest"]
METHODS: tuple[Method, ...] = ("cubic", "lanczos", "linear", "nearest")

LOBES = 3
"""The ``a`` of Lanczos: it weighs 2 a voxels along an axis, as ANTs does."""
DEGREE = 11
"""Of the polynomials for Lanczos; they are within 1e-7 of its weights."""


class Taps(NamedTuple):
    """The weights of a method along one axis.

    Parameters
    ----------
    polynomial : tuple of tuple of float32
        Row d holds, for each voxel from the lowest, what multiplies t to the power d.
    pad : int
        Voxels that are read beyond the edge, when points lie less than one voxel past it.
    lift : float
        What is added to a coordinate, so that its floor is the lowest voxel, in padded ones.
    """

    polynomial: tuple[tuple[np.float32, ...], ...]
    pad: int
    lift: float


@cache
def taps_of(method: Method) -> Taps:
    """Make the weights of a method.

    Parameters
    ----------
    method : {'cubic', 'lanczos', 'linear', 'nearest'}
        Cubic weighs coefficients of B-splines, the others weigh voxels.

    Returns
    -------
    Taps
        They sum to one at every point.

    References
    ----------
    Unser 1999, IEEE Signal Processing Magazine 16(6):22, equation 4 (B-splines). Duchon 1979,
    J. Appl. Meteorol. 18:1016 (Lanczos), here divided by the sum of the weights.

    Examples
    --------
    >>> [[float(weight) for weight in row] for row in taps_of("linear").polynomial]
    [[0.5, 0.5], [-1.0, 1.0]]
    """
    make = {"cubic": _cubic, "lanczos": _lanczos, "linear": _linear, "nearest": _nearest}
    table = make[method]()
    n = table.shape[1]
    pad = max(1, n // 2)
    before = -0.5 if n == 1 else (n - 1) // 2  # half a voxel down: the floor is the nearest one
    rows = tuple(tuple(np.float32(weight) for weight in row) for row in table)
    return Taps(rows, pad, float(pad - before))


def _nearest() -> NDArray[np.float64]:
    return np.array([[1.0]])


def _linear() -> NDArray[np.float64]:
    return np.array([[0.5, 0.5], [-1.0, 1.0]])


def _cubic() -> NDArray[np.float64]:
    rows = [[1, 23, 23, 1], [-6, -30, 30, 6], [12, -12, -12, 12], [-8, 24, -24, 8]]
    return np.array(rows) / 48


def _lanczos() -> NDArray[np.float64]:
    """Fit polynomials to normalised Lanczos weights; as all share their nodes they sum to one."""
    voxels = np.arange(2 * LOBES) - (LOBES - 1)

    def weights(t: NDArray[np.float64], voxel: int) -> NDArray[np.float64]:
        away = t[:, None] + 0.5 - voxels
        raw = np.sinc(away) * np.sinc(away / LOBES)
        return np.asarray(raw[:, voxel] / raw.sum(axis=1))

    columns = []
    for voxel in range(len(voxels)):
        fit = Chebyshev.interpolate(weights, DEGREE, (-0.5, 0.5), args=(voxel,))
        powers = fit.convert(kind=Polynomial, domain=(-1, 1)).coef
        columns.append(np.pad(powers, (0, DEGREE + 1 - len(powers))))
    return np.stack(columns, axis=1)
