"""What the brain does: regions, networks, and a connectivity that belongs to a participant.

A region is what lies nearest to its seed. Its signal is a sum of factors: its network's, one it
shares with its twin in the other hemisphere, some that only this participant has, some of this
run, and one of its own. All have the same band-limited spectrum, so that the covariance of the
signals is that of the loadings, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from neurostorm_app.pipelines.phantom.settings import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.people import Participant

__all__ = [
    "AGE_SLOPE",
    "BAND",
    "GROUP_FACTOR",
    "NETWORKS",
    "REGIONS",
    "Activity",
    "Region",
    "assign_regions",
    "build_activity",
    "connectivity",
]

NETWORKS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "visual": ((10, -92, 2), (12, -72, 8), (30, -88, 8), (24, -72, -10)),
    "somatomotor": ((40, -24, 58), (8, -28, 64), (54, -8, 30)),
    "auditory": ((56, -18, 6), (42, -30, 16)),
    "default": ((6, -56, 28), (6, 52, 4), (8, 48, 38), (46, -66, 34), (60, -16, -20)),
    "frontoparietal": ((42, 38, 22), (44, -50, 46), (30, 16, 56)),
    "salience": ((38, 16, 0), (6, 16, 44), (60, -38, 28)),
    "attention": ((24, -60, 58), (26, -6, 56), (48, -62, -8)),
    "language": ((52, 26, 8), (60, -46, 8)),
    "limbic": ((34, 10, -36), (16, 32, -20)),
    "subcortical": ((12, -18, 8), (14, 12, 8), (26, 2, 0)),
    "temporal": ((26, -22, -16), (24, -4, -20)),
    "cerebellum": ((22, -58, -24), (30, -70, -50), (8, -66, -18), (38, -54, -40)),
}
"""Seeds of the right hemisphere, mm, template space; the left one mirrors them."""

BAND = (0.01, 0.1)
"""Frequencies of the regional signals, Hz."""
AGE_SLOPE = -0.006
"""Relative change of the coupling within default and frontoparietal network, a year from 50."""
GROUP_FACTOR = 0.65
"""Coupling within the default network of patients, relative to controls."""

_TOGETHER = (
    ("visual", "attention", 0.35),
    ("somatomotor", "auditory", 0.45),
    ("visual", "somatomotor", 0.3),
    ("default", "language", 0.3),
    ("default", "limbic", 0.35),
    ("default", "temporal", 0.3),
    ("limbic", "temporal", 0.4),
    ("frontoparietal", "attention", 0.3),
    ("frontoparietal", "salience", 0.25),
    ("default", "attention", -0.35),
    ("default", "salience", -0.25),
    ("subcortical", "cerebellum", 0.3),
)
_SHARES = {"network": 0.39, "twin": 0.12, "person": 0.33, "run": 0.03, "own": 0.13}
_N_PERSON, _N_RUN = 4, 5  # factors
_PERIOD = 1200.0  # s, after which the signals would repeat


@dataclass(frozen=True, slots=True)
class Region:
    """A region: its network, hemisphere ("L" or "R") and seed (mm, template space)."""

    network: str
    hemisphere: str
    seed: tuple[int, int, int]


REGIONS = tuple(
    Region(network, side, (sign * x, y, z))
    for side, sign in (("R", 1), ("L", -1))
    for network, seeds in NETWORKS.items()
    for x, y, z in seeds
)
"""All regions: the right ones, then their twins on the left in the same order."""


@dataclass(frozen=True, slots=True, eq=False)
class Activity:
    """The signals of all regions in one run, at any time.

    Parameters
    ----------
    frequencies : ndarray, shape (F,)
        Hz.
    cosines, sines : ndarray, shape (V, F)
        Coefficients; the signals have a variance of about 1.
    """

    frequencies: NDArray[np.float64]
    cosines: NDArray[np.float64]
    sines: NDArray[np.float64]

    def at(self, times: NDArray[np.float64]) -> NDArray[np.float32]:
        """Evaluate the signals (V, n) at times (n,), s."""
        phase = 2 * np.pi * np.outer(self.frequencies, times)
        signals = self.cosines @ np.cos(phase) + self.sines @ np.sin(phase)
        return np.asarray(signals, dtype=np.float32)


def assign_regions(points: NDArray[np.float64]) -> NDArray[np.int16]:
    """Find the region of points (..., 3) of template space, mm: an index of ``REGIONS``."""
    _, nearest = _tree().query(points)
    return np.asarray(nearest, dtype=np.int16)


def connectivity(participant: Participant, *, seed: int) -> NDArray[np.float64]:
    """Compute a participant's true correlation between regions: (V, V), runs left out."""
    loadings = _loadings(participant, seed=seed, run=0)
    covariance = loadings @ loadings.T
    scale = np.sqrt(np.diag(covariance))
    return np.asarray(covariance / np.outer(scale, scale))


def build_activity(participant: Participant, run: int, *, seed: int, duration: float) -> Activity:
    """Draw the regional signals of a run.

    Parameters
    ----------
    participant : Participant
        Whose connectivity it is.
    run : int
        From 1 on.
    seed : int
        The phantom's.
    duration : float
        Length of the run in s: up to 20 minutes a longer run begins as a shorter one does.
    """
    period = _PERIOD * max(1, int(np.ceil(duration / _PERIOD)))
    low, high = (round(edge * period) for edge in BAND)
    frequencies = np.arange(low, high + 1) / period
    power = 1 / frequencies**0.25
    loadings = _loadings(participant, seed=seed, run=run)
    rng = generator(seed, "activity", participant=participant.number, run=run)
    drawn = rng.standard_normal((2, loadings.shape[1], len(frequencies)))
    cosines, sines = loadings @ (drawn * np.sqrt(power / power.sum()))
    return Activity(frequencies, cosines, sines)


@lru_cache(maxsize=1)
def _tree() -> cKDTree:
    return cKDTree([region.seed for region in REGIONS])


def _loadings(participant: Participant, *, seed: int, run: int) -> NDArray[np.float64]:
    """Build the loadings of the regions on all factors, without the run's for run 0."""
    names = list(NETWORKS)
    of_region = np.array([names.index(region.network) for region in REGIONS])
    strength = np.sqrt(_SHARES["network"]) * _coupling(participant)[of_region]
    network = strength[:, None] * _between_networks()[of_region]
    twin = np.sqrt(_SHARES["twin"]) * np.tile(np.eye(len(REGIONS) // 2), (2, 1))
    person = _random_loadings("connectivity", _N_PERSON, seed, participant.number, 0)
    own = np.sqrt(_SHARES["own"]) * np.eye(len(REGIONS))
    parts = [network, twin, np.sqrt(_SHARES["person"]) * person, own]
    if run:
        state = _random_loadings("state", _N_RUN, seed, participant.number, run)
        parts.append(np.sqrt(_SHARES["run"]) * state)
    return np.concatenate(parts, axis=1)


def _random_loadings(
    stream: str, n_factors: int, seed: int, participant: int, run: int
) -> NDArray[np.float64]:
    rng = generator(seed, stream, participant=participant, run=run)
    drawn = rng.standard_normal((len(REGIONS), n_factors))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def _coupling(participant: Participant) -> NDArray[np.float64]:
    """How strongly the regions of each network follow it, relative to a control of 50 years."""
    coupling = dict.fromkeys(NETWORKS, 1.0)
    for name in ("default", "frontoparietal"):
        coupling[name] *= 1 + AGE_SLOPE * (participant.age - 50)
    if participant.group == "patient":
        coupling["default"] *= GROUP_FACTOR
    return np.sqrt(list(coupling.values()))


def _between_networks() -> NDArray[np.float64]:
    """Root of the correlation between networks: (networks, factors)."""
    names = list(NETWORKS)
    matrix = np.full((len(names), len(names)), 0.08)
    for one, other, value in _TOGETHER:
        i, j = names.index(one), names.index(other)
        matrix[i, j] = matrix[j, i] = value
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(np.linalg.cholesky(matrix))
