"""How the head moves during a run.

``T_t`` maps a point of the head in its reference pose to where it is in the scanner at volume
t (mm RAS, scanner world). The reference pose is that of the first volume, so ``T_0`` is the
identity. The map from a reference volume r to volume t that a motion correction looks for is
``T_t T_r^-1``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.phantom.people import rigid
from neurostorm_app.pipelines.phantom.settings import TR, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MOST", "draw_motion", "draw_pose"]

MOST = 1.5
"""Greatest translation (mm) and rotation (degrees) along or about an axis."""

_SLOWNESS = 14.0  # s, width of the smoothing of the slow part
_SIZES = np.array([0.8, 0.4, 0.4, 0.3, 0.4, 0.8])  # turns (degrees), then shifts (mm): slow part
_JERKS = np.array([0.6, 0.3, 0.3, 0.3, 0.3, 0.6])


def draw_motion(  # noqa: PLR0913 - whose run it is, and how much
    n_volumes: int,
    *,
    seed: int,
    participant: int,
    run: int,
    centre: NDArray[np.float64],
    points: NDArray[np.float64] | None = None,
    largest: float | None = None,
) -> NDArray[np.float64]:
    """Draw slow drifts and a few quick jerks, nods above all.

    Parameters
    ----------
    n_volumes : int
        Volumes of the run.
    seed, participant, run : int
        Which run of which phantom.
    centre : ndarray, shape (3,)
        Point of the scanner about which the head turns, mm RAS.
    points : ndarray, shape (N, 3), optional
        Points of the head in the scanner, mm RAS; needed for `largest`.
    largest : float, optional
        The largest displacement of any of them from the reference pose, mm; by default what is
        drawn, within ``MOST``.

    Returns
    -------
    ndarray, shape (T, 4, 4)
        ``T_t``; see the module.
    """
    rng = generator(seed, "motion", participant=participant, run=run)
    walk = np.cumsum(rng.standard_normal((n_volumes, 6)), axis=0)
    slow = ndimage.gaussian_filter1d(walk, _SLOWNESS / TR / 2, axis=0)
    slow -= slow[0]
    slow *= _SIZES * rng.uniform(0.6, 1, 6) / np.maximum(np.abs(slow).max(axis=0), 1e-9)
    for _ in range(max(1, n_volumes // 25)):
        start = int(rng.integers(2, n_volumes))
        jerk = rng.uniform(-1, 1, 6) * _JERKS
        slow[start : start + int(rng.integers(1, 3))] += jerk
        slow[start:] += 0.2 * jerk
    bounded = np.clip(slow, -MOST, MOST)
    if points is not None and largest is not None:
        for _ in range(4):  # displacement is all but linear in six small numbers
            moved = rigid(bounded[:, :3], bounded[:, 3:], centre=centre)[:, None]
            there = (moved[..., :3, :3] @ points[None, :, :, None])[..., 0] + moved[..., :3, 3]
            away = np.linalg.norm(there - points, axis=-1).max()
            bounded *= largest / max(float(away), 1e-9)
    return rigid(bounded[:, :3], bounded[:, 3:], centre=centre)


def draw_pose(*, seed: int, participant: int, run: int) -> NDArray[np.float64]:
    """Draw how the head lay in the BOLD runs: points of the T1w to the scanner, (4, 4), mm RAS.

    Participants move between scans by millimetres, between runs a little.
    """
    rng = generator(seed, "pose", participant=participant)
    pose = rigid(rng.uniform(-3, 3, 3), rng.uniform(-4, 4, 3), centre=np.zeros(3))
    rng = generator(seed, "pose", participant=participant, run=run)
    again = rigid(rng.uniform(-0.7, 0.7, 3), rng.uniform(-1, 1, 3), centre=np.zeros(3))
    return again @ pose
