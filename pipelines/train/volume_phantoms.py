"""Phantoms' volumes on the grid of a model, with what preprocessing leaves of differences.

Rendered straight there, in hundredths of a second: what people still differ by after a nonlinear
normalisation, and what two runs of one differ by. Sizes were set by comparing mean volumes with
those of phantoms that went through the whole preprocessing: how much people and runs differ, how
smooth the differences are, how many voxels a mask has.

The differences between people are small beside one that is nobody's: how far the mask reaches
out into the dark around the brain sets the spread by which a whole run is scaled, and the value
of the background. Two runs of one person differ by more than a tenth in that. A network that was
never shown it looks at little else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from neurostorm_app.errors import UsageError
from neurostorm_app.models.card import VolumeContract
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.normalize import normalize_volume
from neurostorm_app.pipelines.phantom import TEMPLATE_SPACE
from neurostorm_app.pipelines.phantom.bold import AMPLITUDE
from neurostorm_app.pipelines.phantom.head import CENTRE, build_head
from neurostorm_app.pipelines.phantom.networks import assign_regions, build_activity
from neurostorm_app.pipelines.phantom.people import build_participant
from neurostorm_app.pipelines.phantom.scene import SLOW, slow_maps
from neurostorm_app.pipelines.phantom.settings import generator
from neurostorm_app.pipelines.templates import between

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from neurostorm_app.models.card import Card

__all__ = ["FIRST", "NORMALISED", "PLACED", "Spread", "VolumePhantoms"]

FIRST = 10_001
"""Number of the first participant of training: no phantom that somebody makes has so many."""

_BLUR = 1.5  # mm, standard deviation: acquisition and interpolations
_WARP, _SHADING = (8.0, 14.0), 16.0  # mm, how smooth displacements and brightness are
_RUN_SHIFT, _RUN_SHADING = 0.06, 0.002  # mm, relative: between runs of one person
_EDGE, _EDGE_RUN = -4.2, 0.7  # mm of depth: where the mask ends, and how runs differ
_EDGE_PLACE, _EDGE_WIDTH = 0.4, 8.0  # mm: how uneven that is, and how smooth
_REACH = -8.0  # mm of depth: no mask goes further
_FAR = 40.0  # mm added to depths, since what lies outside the template's box is sampled as 0
_RADIUS = 60.0  # mm, of a head that turns
_NOISE, _SLOW_SIZES = 0.006, (0.002, 0.003, 0.002, 0.002)  # relative, after interpolation
_LONGEST = 1200.0  # s: runs are windows at any time of a session so long
_STEP = 2  # voxels of the grid, of the lattice that smooth maps are drawn on


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How much people differ on the standard grid.

    Parameters
    ----------
    linear : float
        Spread of the linear map to the template, no unit.
    shift : float
        Spread of its shift, mm.
    warp : tuple of float
        Least and greatest spread of smooth displacements, mm.
    shading : float
        Spread of smooth changes of brightness, relative.
    """

    linear: float = 0.0
    shift: float = 0.0
    warp: tuple[float, float]
    shading: float = 0.003


NORMALISED = Spread(warp=(0.15, 0.35))
"""What normalisation leaves; about 0.2 mm across the edges of tissue was measured."""
PLACED = Spread(linear=0.04, shift=4.0, warp=(0.15, 0.35))
"""As if nothing but a rough affine had been done."""


@dataclass(frozen=True, slots=True, eq=False)
class _Person:
    """Maps of one participant at the n voxels that a mask may reach."""

    near: NDArray[np.intp]  # (n,), flat voxels
    points: NDArray[np.float64]  # (n, 3), mm, template space
    bright: NDArray[np.float32]  # (n,), relative
    neural: NDArray[np.float32]  # (n,), grey matter times amplitude
    region: NDArray[np.int16]  # (n,)
    slow: NDArray[np.float32]  # (n, 4)


class VolumePhantoms:
    """Runs of phantoms as a model of volumes takes them.

    Parameters
    ----------
    card : Card
        Of a model that takes volumes.
    seed : int
        The phantoms' own.
    spread : Spread
        How much people differ.
    """

    def __init__(self, card: Card, seed: int, *, spread: Spread = NORMALISED) -> None:
        contract = card.contract
        if not isinstance(contract, VolumeContract):
            raise UsageError(
                f"{card.name} takes no volumes, so phantoms cannot train it",
                fix="train neurostorm-demo",
            )
        self.contract, self.seed, self.spread = contract, seed, spread
        self._head = build_head(2)
        self._epi, self._grey, self._depth, self._region = _blurred_head()
        world = Grid.from_rows(contract.grid.shape, contract.grid.affine).world()
        self._points = between(contract.space, TEMPLATE_SPACE)(world.reshape(-1, 3))
        shape = contract.grid.shape
        self._lattice = np.indices(shape, dtype=np.float32).reshape(3, -1) / _STEP
        self._person = lru_cache(maxsize=1)(self._build_person)  # runs follow one another

    def windows(self, participant: int, run: int, *, n: int) -> Tensor:
        """Render n windows of a run, one after the other: (n, 1, X, Y, Z, L), no unit."""
        volumes = self.volumes(participant, run, n=n * self.contract.window)
        return torch.stack(volumes.chunk(n, dim=-1))

    def volumes(self, participant: int, run: int, *, n: int, every: int = 1) -> Tensor:
        """Render a run, scaled by the function that embedding uses.

        Parameters
        ----------
        participant, run : int
            From 1 on; their signals are those of ``make_phantom(seed=...)``.
        n : int
            Volumes.
        every : int
            Repetition times from one volume to the next: more of a run in fewer volumes.

        Returns
        -------
        Tensor, shape (1, X, Y, Z, n)
            No unit.
        """
        person = self._person(participant)
        rng = generator(self.seed, "volumes", participant=participant, run=run)
        start = rng.uniform(0, _LONGEST / 2)
        times = self.contract.tr * every * np.arange(n, dtype=np.float64) + start
        still, depth = self._scan(person, rng)
        inside = depth > rng.normal(_EDGE, _EDGE_RUN)
        who = build_participant(participant, seed=self.seed)
        activity = build_activity(who, run, seed=self.seed, duration=_LONGEST)
        relative = 1 + np.multiply(person.neural[:, None], activity.at(times)[person.region])
        slow = rng.standard_normal((len(SLOW), n)) * np.array(_SLOW_SIZES)[:, None]
        relative += person.slow @ slow.astype(np.float32)
        noise = np.float32(_NOISE) * rng.standard_normal(relative.shape, dtype=np.float32)
        return self._paint(np.abs(still[:, None] * relative + noise), person.near, inside)

    def _scan(
        self, person: _Person, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lay a participant's head nearly as in other runs: signal (n,) and depth (n,), mm."""
        turned = (person.points - CENTRE) @ rng.normal(0, _RUN_SHIFT / _RADIUS, (3, 3))
        points = person.points + turned + rng.normal(0, _RUN_SHIFT, 3)
        shading = np.exp(_RUN_SHADING * self._smooth(_SHADING, rng, person.near))
        still = self._head.sample(self._epi, points) * person.bright * shading
        uneven = _EDGE_PLACE * self._smooth(_EDGE_WIDTH, rng, person.near)
        depth = self._head.sample(self._depth, points) - _FAR + uneven
        return np.asarray(still, dtype=np.float32), np.asarray(depth, dtype=np.float32)

    def _paint(
        self, values: NDArray[np.float32], near: NDArray[np.intp], inside: NDArray[np.bool_]
    ) -> Tensor:
        shape = self.contract.grid.shape
        series = np.zeros((len(self._points), values.shape[1]), dtype=np.float32)
        series[near] = values
        mask = np.zeros(len(self._points), dtype=bool)
        mask[near] = inside
        mask_volume, volumes = mask.reshape(shape), series.reshape(*shape, -1)
        scaled, _ = normalize_volume(volumes, mask_volume, self.contract)
        return torch.from_numpy(scaled)[None]

    def _build_person(self, participant: int) -> _Person:
        rng = generator(self.seed, "volumes-anatomy", participant=participant)
        linear = np.eye(3) + rng.normal(0, self.spread.linear, (3, 3))
        size, width = rng.uniform(*self.spread.warp), rng.uniform(*_WARP)
        warp = np.stack([self._smooth(width, rng, None) for _ in range(3)], axis=-1)
        moved = (self._points - CENTRE) @ linear.T + CENTRE + rng.normal(0, self.spread.shift, 3)
        points = moved + size * warp
        near = np.flatnonzero(self._head.sample(self._depth, points) > _FAR + _REACH)
        shading = self._smooth(_SHADING, rng, near)
        points = points[near]
        return _Person(
            near=near,
            points=points,
            bright=np.exp(self.spread.shading * shading).astype(np.float32),
            neural=np.float32(AMPLITUDE) * self._head.sample(self._grey, points),
            region=self._head.sample(self._region, points, order=0).astype(np.int16),
            slow=slow_maps(points),
        )

    def _smooth(
        self, width: float, rng: np.random.Generator, near: NDArray[np.intp] | None
    ) -> NDArray[np.float32]:
        """Draw a smooth map, mean about 0 and deviation 1, at flat voxels or all of them: (n,)."""
        lattice = rng.standard_normal([-(-n // _STEP) for n in self.contract.grid.shape])
        step = abs(self.contract.grid.affine[0][0]) * _STEP
        drawn = ndimage.gaussian_filter(lattice, width / step, mode="wrap")
        where = self._lattice if near is None else self._lattice[:, near]
        found = ndimage.map_coordinates(drawn / drawn.std(), where, order=1, mode="nearest")
        return np.asarray(found, dtype=np.float32)


@lru_cache(maxsize=1)
def _blurred_head() -> tuple[
    NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]
]:
    """Blur the head: signal, grey matter, depth in the brain (mm, plus `_FAR`), regions."""
    head = build_head(2)
    size = head.grid.zooms[0]
    epi, grey = (ndimage.gaussian_filter(v, _BLUR / size) for v in (head.epi, head.grey))
    brain = head.tissue > 0
    inner, outer = (ndimage.distance_transform_edt(part) for part in (brain, ~brain))
    depth = np.maximum(size * (inner - outer) + _FAR, 0).astype(np.float32)
    depth = ndimage.gaussian_filter(depth, 0.5)
    region = np.zeros(head.grid.shape, dtype=np.uint8)
    neural = grey > 0.001
    region[neural] = assign_regions(head.grid.world()[neural])
    return epi, grey, depth, region
