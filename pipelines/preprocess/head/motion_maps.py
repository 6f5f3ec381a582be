"""Rigid maps: how far apart they are, and what lies between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bridge", "rms_displacement"]


def rms_displacement(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    centre: NDArray[np.float64],
    radius: float = 80.0,
) -> float:
    """Average how far two rigid maps part the points of a ball, in mm.

    References
    ----------
    Jenkinson M. 1999, FMRIB report TR99MJ1, "Measuring transformation error by RMS deviation".
    """
    difference = one @ np.linalg.inv(other) - np.eye(4)
    linear, shift = difference[:3, :3], difference[:3, :3] @ centre + difference[:3, 3]
    return float(np.sqrt(shift @ shift + np.trace(linear.T @ linear) * radius**2 / 5.0))


def bridge(matrices: NDArray[np.float64], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Replace maps that were not found by what lies between those before and after.

    Parameters
    ----------
    matrices : ndarray, shape (T, 4, 4)
        Rigid, RAS+ mm.
    found : ndarray of bool, shape (T,)
        Which ones hold; at least one. At the ends the nearest one is repeated.

    Returns
    -------
    ndarray, shape (T, 4, 4)
        Rotations turn evenly about a fixed axis between neighbours, shifts move evenly.
    """
    if found.all():
        return matrices
    known = np.flatnonzero(found)
    out = np.tile(np.eye(4), (len(matrices), 1, 1))
    when = np.clip(np.arange(len(matrices)), known[0], known[-1])
    for axis in range(3):
        out[:, axis, 3] = np.interp(when, known, matrices[known, axis, 3])
    turns = Rotation.from_matrix(matrices[known, :3, :3])
    if len(known) == 1:
        out[:, :3, :3] = turns.as_matrix()[0]
    else:
        out[:, :3, :3] = Slerp(known, turns)(when).as_matrix()
    out[found] = matrices[found]
    return out
