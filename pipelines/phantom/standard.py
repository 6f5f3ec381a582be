"""A phantom's runs straight on a standard grid: many of them, quickly, to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom.bold import AMPLITUDE
from neurostorm_app.pipelines.phantom.head import build_head
from neurostorm_app.pipelines.phantom.networks import assign_regions, build_activity
from neurostorm_app.pipelines.phantom.people import build_participant
from neurostorm_app.pipelines.phantom.scene import slow_maps
from neurostorm_app.pipelines.phantom.settings import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["standard_series"]

_GREY = 600.0  # signal of grey matter, a.u., as in a scan
_NOISE = 0.008  # of grey matter, what interpolation leaves of it


def standard_series(
    participant: int,
    run: int,
    *,
    seed: int,
    grid: Grid | NDArray[np.float64],
    n_volumes: int,
    tr: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Render a run of a phantom's participant as if it were preprocessed without error.

    The signals are those of the same participant and run of ``make_phantom(seed=...)``, at the
    start of each volume; anatomy is the template's.

    Parameters
    ----------
    participant, run : int
        From 1 on.
    seed : int
        The phantom's.
    grid : Grid or ndarray, shape (X, Y, Z, 3)
        A grid in the space of the phantom's template, MNI152NLin2009aSym; or, for a grid of
        another space, the points of template space at its voxels, mm RAS.
    n_volumes : int
        Length of the series.
    tr : float
        Repetition time, s.

    Returns
    -------
    series : ndarray, shape (X, Y, Z, T), float32
        a.u.; about 600 in grey matter.
    mask : ndarray, shape (X, Y, Z), bool
        The brain.
    """
    points = grid.world() if isinstance(grid, Grid) else grid
    head = build_head(2)
    epi, grey = head.sample(head.epi, points), head.sample(head.grey, points)
    mask = head.sample((head.tissue > 0).astype(np.float32), points) > 0.5
    person = build_participant(participant, seed=seed)
    activity = build_activity(person, run, seed=seed, duration=n_volumes * tr)
    times = tr * np.arange(n_volumes, dtype=np.float64)
    rng = generator(seed, "standard", participant=participant, run=run)
    relative = np.ones((int(mask.sum()), n_volumes), dtype=np.float32)
    signals = np.float32(AMPLITUDE) * activity.at(times)
    relative += grey[mask][:, None] * signals[assign_regions(points[mask])]
    relative += np.dot(slow_maps(points[mask]), _slow_courses(times, rng))
    series = rng.standard_normal((*mask.shape, n_volumes), dtype=np.float32)
    series *= np.float32(_NOISE)
    series += epi[..., None]
    series[mask] += epi[mask][:, None] * (relative - 1)
    return np.abs(series) * np.float32(_GREY), mask


def _slow_courses(times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw breath, heart (both aliased to noise by slow sampling), drift and tilt: (4, T)."""
    fast = rng.standard_normal((2, len(times))) * [[0.002], [0.003]]
    phase = rng.uniform(0, 2 * np.pi, 2)[:, None]
    slow = 0.003 * np.sin(2 * np.pi * times / rng.uniform(150, 500, 2)[:, None] + phase)
    return np.concatenate([fast, slow]).astype(np.float32)
