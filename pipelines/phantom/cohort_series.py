"""How the series of a phantom cohort come about: correlated networks, scanners, motion, people.

A series is a sum of slow courses, whose loadings are those of networks, of a person, a family and
a scanner, of what motion adds and of white noise. So its true correlations are known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.parcel_places import find_centroids
from neurostorm_app.pipelines.parcellate import read_labels
from neurostorm_app.pipelines.phantom.head import TEMPLATE_SPACE
from neurostorm_app.pipelines.phantom.networks import BAND, NETWORKS, REGIONS, assign_regions
from neurostorm_app.pipelines.phantom.settings import TR, generator
from neurostorm_app.pipelines.templates import between, load_parcellation_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "AGE_PAIR",
    "GROUP_PAIR",
    "MIDDLE_AGE",
    "USUAL_MOTION",
    "Planted",
    "Scene",
    "Who",
    "few_parcels",
    "grey_parcels",
    "network_correlations",
]

AGE_PAIR = ("default", "frontoparietal")
"""Networks whose correlation follows age."""
GROUP_PAIR = ("visual", "somatomotor")
"""Networks whose correlation differs between patients and controls."""
MIDDLE_AGE = 50.0
"""Years at which age changes nothing."""
USUAL_MOTION = 0.2
"""Mean framewise displacement, mm, to which the size of motion refers."""

_BETWEEN, _PAIRS = 0.08, {AGE_PAIR: 0.1, GROUP_PAIR: 0.3}  # correlations of networks
_NETWORK, _RUN, _OWN, _SITE = 0.4, 0.04, 0.12, 0.1  # shares of variance
_N_PERSON, _N_RUN = 4, 3  # factors
_NOISE, _NOISIER, _GAIN = 0.5, 0.5, 0.2  # white, relative to signals; more of it by scanner; gain
_MOTION_ALL, _MOTION_NEAR, _NEAR = 0.25, 0.15, 25.0  # variances at the usual motion; mm
_BURSTS, _LOUD, _QUIET = 0.1, 3.0, 1 / 3  # share of volumes, sizes: the variance is 1
_AMPLITUDE = 0.01  # of the signals, relative to the mean of a parcel
_FEW = ("default", "frontoparietal", "visual", "somatomotor")  # networks of the small layout
_FEW_EACH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """How large each effect is; 0 turns it off.

    Parameters
    ----------
    age : float
        Change of the correlation between the networks of ``AGE_PAIR``, a year.
    group : float
        Patients' correlation between the networks of ``GROUP_PAIR`` less that of controls.
    site : float
        Size of what scanners do, relative to a pattern that is a tenth of the variance, noise
        that differs by a half and gain that differs by a fifth from one scanner to the next.
    person : float
        Share of the variance that follows everybody's own pattern.
    motion : float
        Size of what motion adds to the series, relative to four tenths of the variance.
    n_sites : int
        Scanners; four participants after each other went to the same one.
    motion_age : float
        Correlation of motion with age, between -1 and 1.
    restlessness : float
        Correlation of the trait with motion, between -1 and 1.
    """

    age: float = 0.008
    group: float = -0.45
    site: float = 1.0
    person: float = 0.2
    motion: float = 1.0
    n_sites: int = 2
    motion_age: float = 0.4
    restlessness: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """What the series of a participant depend on.

    Parameters
    ----------
    number : int
        From 1 on.
    age : float
        Years.
    group, family : str
        ``control`` or ``patient``; a name that siblings share.
    site : int
        Number of the scanner, from 0.
    """

    number: int
    age: float
    group: str
    family: str
    site: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What all runs share.

    Parameters
    ----------
    planted : Planted
        The effects.
    networks : tuple of str
        Network of each parcel.
    places : ndarray, shape (V, 3)
        Their centres, mm.
    seed : int
        The cohort's.
    """

    planted: Planted
    networks: tuple[str, ...]
    places: NDArray[np.float64]
    seed: int

    def render(self, who: Who, run: int, *, motion: float, n_volumes: int) -> NDArray[np.float64]:
        """Render a run, from 0 on, in which somebody moves by `motion` mm: (V, T), no unit."""
        rng = generator(self.seed, "cohort run", participant=who.number, run=run + 1)
        state = np.sqrt(_RUN) * _unit(rng, len(self.networks), _N_RUN)
        loadings = np.concatenate([self._loadings(who), state], axis=1)
        signals = loadings @ _slow(rng, loadings.shape[1], n_volumes)
        loud = np.where(rng.random(n_volumes) < _BURSTS, _LOUD, _QUIET)
        shaking = np.linalg.cholesky(self._shaking(motion))
        signals += shaking @ (loud * rng.standard_normal((len(shaking), n_volumes)))
        signals += self._noise(who) * rng.standard_normal(signals.shape)
        gain = 1 + _GAIN * self.planted.site * who.site
        return np.asarray(gain * (1 + _AMPLITUDE * signals))

    def truth(self, who: Who, *, motion: float) -> NDArray[np.float64]:
        """Compute somebody's true correlations at a motion in mm: (V, V)."""
        loadings = self._loadings(who)
        covariance = loadings @ loadings.T + self._shaking(motion)
        covariance += self._noise(who) ** 2 * np.eye(len(covariance))
        scale = np.sqrt(np.diag(covariance))
        return np.asarray(covariance / np.outer(scale, scale))

    def _noise(self, who: Who) -> float:
        return _NOISE * (1 + _NOISIER * self.planted.site * who.site)

    def _shaking(self, motion: float) -> NDArray[np.float64]:
        """Compute the covariance that motion adds, (V, V); the diagonal keeps it definite."""
        between = np.linalg.norm(self.places[:, None] - self.places, axis=2)
        near = _MOTION_NEAR * np.exp(-((between / _NEAR) ** 2) / 2)
        size = self.planted.motion * motion / USUAL_MOTION
        return np.asarray(size * (_MOTION_ALL + near) + 1e-9 * np.eye(len(near)))

    def _loadings(self, who: Who) -> NDArray[np.float64]:
        """Build the loadings of parcels on what is slow, runs' states left out: (V, K)."""
        n, planted = len(self.networks), self.planted
        names = sorted(set(self.networks))
        root = np.linalg.cholesky(network_correlations(names, who.age, who.group, planted))
        own = _unit(generator(self.seed, "cohort person", participant=who.number), n, _N_PERSON)
        shared = _unit(generator(self.seed, f"cohort {who.family}"), n, _N_PERSON)
        scanner = generator(self.seed, f"cohort scanner {who.site}")
        parts = [
            np.sqrt(_NETWORK) * root[[names.index(name) for name in self.networks]],
            np.sqrt(planted.person / 2) * np.concatenate([own, shared], axis=1),
            np.sqrt(_SITE * planted.site) * scanner.standard_normal((n, 1)),
            np.sqrt(_OWN) * np.eye(n),
        ]
        return np.concatenate(parts, axis=1)


def network_correlations(
    names: list[str], age: float, group: str, planted: Planted
) -> NDArray[np.float64]:
    """Build the correlations of somebody's networks: (networks, networks)."""
    matrix = np.full((len(names), len(names)), _BETWEEN)
    np.fill_diagonal(matrix, 1.0)
    change = {
        AGE_PAIR: planted.age * (age - MIDDLE_AGE),
        GROUP_PAIR: planted.group * (group == "patient"),
    }
    for pair, usual in _PAIRS.items():
        i, j = (names.index(name) for name in pair)
        matrix[i, j] = matrix[j, i] = usual + change[pair]
    return matrix


def _unit(rng: np.random.Generator, n: int, n_factors: int) -> NDArray[np.float64]:
    """Draw loadings of unit length: (n, factors)."""
    drawn = rng.standard_normal((n, n_factors))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def _slow(rng: np.random.Generator, n: int, n_volumes: int) -> NDArray[np.float64]:
    """Draw courses within the band of regional signals, with a variance of 1: (n, T)."""
    frequencies = np.fft.rfftfreq(n_volumes, TR)
    inside = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
    real, imaginary = rng.standard_normal((2, n, len(frequencies))) * inside
    courses = np.fft.irfft(real + 1j * imaginary, n_volumes, axis=1)
    return np.asarray(courses * n_volumes / np.sqrt(4 * inside.sum()))


@lru_cache(maxsize=1)
def grey_parcels() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Find the networks and centres of the app's grey parcels."""
    volume, grid = read_labels(load_parcellation_path("GreyParcels100"))
    labels = np.unique(volume[volume > 0])
    centres = np.asarray(find_centroids(volume, grid, labels), dtype=np.float64)
    regions = assign_regions(between("MNI152NLin6Asym", TEMPLATE_SPACE)(centres))
    return tuple(REGIONS[region].network for region in regions), centres


def few_parcels() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Lay parcels of four networks on a ring, 20 mm from one to the next."""
    networks = tuple(name for name in NETWORKS if name in _FEW for _ in range(_FEW_EACH))
    turn = 2 * np.pi * np.arange(len(networks)) / len(networks)
    radius = 20 / (2 * np.sin(np.pi / len(networks)))
    return networks, radius * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
