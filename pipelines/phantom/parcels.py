"""A phantom's runs as mean series of parcels: thousands of them, quickly, to train on.

The mean of a parcel is linear in the signals of the regions, so that the head is averaged over
parcels once, and a run takes one product of matrices. What preprocessing leaves beside the
signals is as large as in phantoms that went through it: breath, heart and drift as they were, a
little of the motion, next to nothing of the thermal noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.phantom.bold import AMPLITUDE
from neurostorm_app.pipelines.phantom.head import build_head
from neurostorm_app.pipelines.phantom.networks import REGIONS, assign_regions, build_activity
from neurostorm_app.pipelines.phantom.people import build_participant
from neurostorm_app.pipelines.phantom.scene import SLOW, slow_maps
from neurostorm_app.pipelines.phantom.settings import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ParcelSignals"]

_HEADS = 24  # placements of the template that participants share
_STRETCH, _SHIFT = 0.012, 0.8  # what normalisation leaves: spread of the affine (no unit, mm)
_BLUR = 0.9  # voxels of the head: acquisition and interpolation
_EVERY = 5  # points that are used: a parcel has hundreds
_MOTIONS, _MOTION, _UNEVEN = 3, 0.0009, 0.6  # number, size (relative), spread over parcels (log)
_NOISE = 0.0006  # relative, thermal
_FAST, _DRIFT = (0.0028, 0.0056), 0.004  # breath and heart, aliased; drift and tilt


class ParcelSignals:
    """The mean series of parcels, of any participant and run.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        Voxels of all parcels, in the space of the phantom's template, mm RAS.
    rows : ndarray, shape (n,), int
        Parcel of each, from 0.
    seed : int
        The phantom's.
    """

    def __init__(self, points: NDArray[np.float64], rows: NDArray[np.intp], *, seed: int) -> None:
        self.seed, self.n_parcels = seed, int(rows.max()) + 1
        rng = generator(seed, "parcels")
        self._maps = [
            self._average(points[::_EVERY] @ _near_identity(rng).T + shift, rows[::_EVERY])
            for shift in rng.normal(0, _SHIFT, (_HEADS, 3))
        ]

    def series(
        self, participant: int, run: int, *, n_volumes: int, tr: float
    ) -> NDArray[np.float64]:
        """Render a run.

        Parameters
        ----------
        participant, run : int
            From 1 on; their signals are those of ``make_phantom(seed=...)``.
        n_volumes : int
            Length.
        tr : float
            Repetition time, s.

        Returns
        -------
        ndarray, shape (V, T)
            Relative to the mean of each parcel, which is 1.
        """
        regions, slow = self._maps[participant % _HEADS]
        person = build_participant(participant, seed=self.seed)
        activity = build_activity(person, run, seed=self.seed, duration=n_volumes * tr)
        times = tr * np.arange(n_volumes, dtype=np.float64)
        rng = generator(self.seed, "parcels", participant=participant, run=run)
        series = regions @ (AMPLITUDE * activity.at(times)) + slow @ _slow_courses(times, rng)
        series += self._motion(n_volumes, rng)
        series += rng.normal(0, _NOISE, series.shape)
        return np.asarray(1 + series, dtype=np.float64)

    def _average(
        self, points: NDArray[np.float64], rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Average the head over parcels: shares of regions (V, R), maps of what is slow (V, 4)."""
        head = build_head(2)
        epi = head.sample(ndimage.gaussian_filter(head.epi, _BLUR), points)
        grey = head.sample(ndimage.gaussian_filter(head.grey, _BLUR), points)
        regions = np.zeros((self.n_parcels, len(REGIONS)))
        np.add.at(regions, (rows, assign_regions(points)), epi * grey)
        slow = np.zeros((self.n_parcels, len(SLOW)))
        np.add.at(slow, rows, epi[:, None] * slow_maps(points))
        total = np.bincount(rows, weights=epi, minlength=self.n_parcels)[:, None]
        return regions / total, slow / total

    def _motion(self, n_volumes: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw what realignment leaves: courses with jerks, uneven over parcels, (V, T)."""
        walk = np.cumsum(rng.standard_normal((_MOTIONS, n_volumes)), axis=1)
        courses = ndimage.gaussian_filter1d(walk, 2, axis=1)
        courses += 0.5 * rng.standard_normal(courses.shape)
        courses -= courses.mean(axis=1, keepdims=True)
        courses /= courses.std(axis=1, keepdims=True)
        maps = rng.standard_normal((self.n_parcels, _MOTIONS))
        maps *= np.exp(rng.normal(0, _UNEVEN, (self.n_parcels, 1)))
        return np.asarray(_MOTION * maps @ courses)


def _near_identity(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(np.eye(3) + rng.normal(0, _STRETCH, (3, 3)))


def _slow_courses(times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw breath and heart (both aliased to noise), drift and tilt: (4, T)."""
    fast = rng.standard_normal((2, len(times))) * np.array(_FAST)[:, None]
    phase = rng.uniform(0, 2 * np.pi, 2)[:, None]
    slow = _DRIFT * np.sin(2 * np.pi * times / rng.uniform(150, 500, 2)[:, None] + phase)
    return np.asarray(np.concatenate([fast, slow]))
