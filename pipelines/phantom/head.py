"""A head in template space: the MNI brain of nilearn, and a head around it.

The brain is the T1 template with its grey and white matter maps, space MNI152NLin2009aSym
(symmetric). Around it come a layer of fluid, bone with marrow, muscle, fat and skin, so that
programs that look for a brain in a head find one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CENTRE", "TEMPLATE_SPACE", "Head", "build_head", "field_hz", "signal_left"]

TEMPLATE_SPACE = "MNI152NLin2009aSym"
CENTRE = np.array([0.0, -17.0, 5.0])
"""About the middle of the brain in template space, mm RAS."""

_BELOW = 32  # mm of neck added under the template, which ends at z = -72 mm
_CORD = (0.0, -44.0, 9.0)  # x, y and radius of what goes on below, mm
_SKULL = (2.5, 8.0)  # mm outside the brain's hull
_OUTSIDE = 13.5  # thickness of everything around the hull, mm

# x, y, z and width (mm), loss of signal (1), field (Hz): air in the sinuses and the ears.
_AIR = (
    (0.0, 42.0, -24.0, 15.0, 0.55, 75.0),
    (48.0, -14.0, -36.0, 13.0, 0.45, -55.0),
    (-48.0, -14.0, -36.0, 13.0, 0.45, -55.0),
)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A head in template space.

    Parameters
    ----------
    grid : Grid
        Template space, mm RAS; along the axes.
    t1w : ndarray, shape (X, Y, Z), float32
        T1-weighted signal; white matter is about 1.
    epi : ndarray, shape (X, Y, Z), float32
        T2*-weighted signal, fat suppressed; grey matter is about 1.
    grey : ndarray, shape (X, Y, Z), float32
        Share of grey matter.
    tissue : ndarray, shape (X, Y, Z), uint8
        0 not brain, 1 grey matter, 2 white matter, 3 fluid.
    """

    grid: Grid
    t1w: NDArray[np.float32]
    epi: NDArray[np.float32]
    grey: NDArray[np.float32]
    tissue: NDArray[np.uint8]

    def sample(
        self,
        volume: NDArray[np.float32] | NDArray[np.uint8],
        points: NDArray[np.float64],
        *,
        order: Literal[0, 1, 3] = 1,
    ) -> NDArray[np.float32]:
        """Interpolate one of the volumes at points (..., 3) of template space, mm; 0 outside."""
        scale = np.diag(self.grid.affine)[:3]
        voxels = np.moveaxis((points - self.grid.affine[:3, 3]) / scale, -1, 0)
        found = ndimage.map_coordinates(volume, voxels, order=order, output=np.float32)
        return np.asarray(found, dtype=np.float32)

    def points(
        self, mask: NDArray[np.bool_], n: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw n voxel centres of a mask: (n, 3), mm, template space."""
        chosen = rng.choice(np.flatnonzero(mask), size=n, replace=False)
        voxels = np.stack(np.unravel_index(chosen, self.grid.shape), axis=-1)
        return voxels * np.diag(self.grid.affine)[:3] + self.grid.affine[:3, 3]


@lru_cache(maxsize=2)
def build_head(step: int) -> Head:
    """Build the head with voxels of `step` mm (1 or an even number)."""
    t1, grey, white, grid = _read_template(step)
    brain = t1 > 0.2
    world = [axis.astype(np.float32) for axis in np.ogrid[tuple(slice(n) for n in grid.shape)]]
    x, y, z = (a * step + grid.affine[i, 3] for i, a in enumerate(world))
    cord = ((x - _CORD[0]) ** 2 + (y - _CORD[1]) ** 2 < _CORD[2] ** 2) & (z < -70)
    far = _distance(brain | cord, step)
    face = (x / 66) ** 2 + ((y - 22) / 66) ** 2 + ((z + 62) / 62) ** 2 < 1
    neck = (x / 58) ** 2 + ((y + 38) / 62) ** 2 + 0 * z < 1
    inside = (far < _OUTSIDE) | face | (neck & (z < -45))
    depth = np.asarray(ndimage.distance_transform_edt(inside, sampling=step), dtype=np.float32)
    t1w, epi = _around(far, depth)
    eyes = (np.abs(x) - 32) ** 2 + (y - 60) ** 2 + (z + 38) ** 2
    t1w[(eyes < 12**2) & (far > _SKULL[1])] = 0.25
    t1w[cord & ~brain] = 0.75
    fluid = np.clip(1 - grey - white, 0, 1)
    share = np.clip(t1 / 0.3, 0, 1) * ndimage.gaussian_filter(brain.astype(np.float32), 0.6)
    t1w += share * (_contrast(t1) - t1w)
    epi += share * (grey + 0.82 * white + 1.35 * fluid - epi)
    tissue = np.where(brain, 1 + np.argmax(np.stack([grey, white, fluid]), axis=0), 0)
    return Head(grid, t1w, epi * signal_left(grid), grey * brain, tissue.astype(np.uint8))


def field_hz(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Field of the air in the head at points (..., 3) of template space, Hz."""
    field = np.zeros(points.shape[:-1])
    for *centre, width, _, hertz in _AIR:
        square = ((points - np.asarray(centre)) ** 2).sum(axis=-1)
        field += hertz * np.exp(-square / (2 * width**2))
    return np.asarray(field + 0.12 * (points[..., 1] - CENTRE[1]), dtype=np.float32)


def signal_left(grid: Grid) -> NDArray[np.float32]:
    """Share of the EPI signal that is left near air."""
    left = np.ones(grid.shape, dtype=np.float32)
    axes = [grid.affine[a, a] * np.arange(n) + grid.affine[a, 3] for a, n in enumerate(grid.shape)]
    for *centre, width, loss, _ in _AIR:
        i, j, k = (
            np.exp(-((a - c) ** 2) / (2 * width**2)) for a, c in zip(axes, centre, strict=True)
        )
        left -= (loss * i[:, None, None] * j[:, None] * k).astype(np.float32)
    return np.clip(left, 0.05, 1)


def _read_template(
    step: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], Grid]:
    """Read T1, grey and white matter, padded below, as means of blocks of `step` voxels."""
    from nilearn import datasets

    loaders = (
        datasets.load_mni152_template,
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
    )
    volumes, affine = [], np.eye(4)
    for load in loaders:
        image = load(resolution=1)
        affine = np.array(image.affine, dtype=np.float64)
        volume = np.pad(np.asarray(image.dataobj, dtype=np.float32), ((0, 0), (0, 0), (_BELOW, 0)))
        i, j, k = (n // step for n in volume.shape)
        blocks = volume[: i * step, : j * step, : k * step].reshape(i, step, j, step, k, step)
        volumes.append(blocks.mean(axis=(1, 3, 5)) if step > 1 else volume)
    affine[2, 3] -= _BELOW
    affine[:3, 3] += (step - 1) / 2
    affine[:3, :3] *= step
    i, j, k = volumes[0].shape
    return volumes[0], volumes[1], volumes[2], Grid((i, j, k), affine)


def _distance(brain: NDArray[np.bool_], step: int) -> NDArray[np.float32]:
    """Distance from the brain's hull, without its furrows: mm, positive outside."""
    coarse = brain[::2, ::2, ::2] if step == 1 else brain
    size = 2.0 if step == 1 else float(step)
    reach = 10.0
    grown = ndimage.distance_transform_edt(~coarse, sampling=size) > reach
    hull = ndimage.distance_transform_edt(~grown, sampling=size) > reach
    hull |= coarse
    outside = ndimage.distance_transform_edt(~hull, sampling=size)
    far = ndimage.gaussian_filter(np.asarray(outside, dtype=np.float32), 2.0 / size)
    if step > 1:
        return np.asarray(far)
    voxels = [np.arange(n, dtype=np.float64) / 2 for n in brain.shape]
    for axis, where in enumerate(voxels):
        far = _stretch(far, where, axis)
    return np.asarray(far)


def _stretch(
    volume: NDArray[np.float32], where: NDArray[np.float64], axis: int
) -> NDArray[np.float32]:
    """Interpolate linearly along one axis."""
    low = np.minimum(where.astype(int), volume.shape[axis] - 1)
    high = np.minimum(low + 1, volume.shape[axis] - 1)
    share = (where - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    stretched = np.take(volume, low, axis) * (1 - share) + np.take(volume, high, axis) * share
    return np.asarray(stretched, dtype=np.float32)


def _around(
    far: NDArray[np.float32], depth: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give T1w and EPI signal to what is around the brain, by distance from it and from the air."""
    marrow = np.exp(-(((far - np.mean(_SKULL)) / 1.0) ** 2))
    t1w = np.where(far < _SKULL[0], 0.2, np.where(far < _SKULL[1], 0.05 + 0.4 * marrow, 0.45))
    epi = np.where(far < _SKULL[0], 1.2, np.where(far < _SKULL[1], 0.04, 0.3))
    fat = (far >= _SKULL[1]) & (depth > 1.5) & (depth < 5.5)
    t1w[fat], epi[fat] = 0.95, 0.2
    t1w[depth == 0], epi[depth == 0] = 0.0, 0.0
    soft = [ndimage.gaussian_filter(v.astype(np.float32), 0.6) for v in (t1w, epi)]
    return np.asarray(soft[0], dtype=np.float32), np.asarray(soft[1], dtype=np.float32)


def _contrast(t1: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the template, an average of many people, the contrast of one MPRAGE."""
    curve = np.interp(t1, [0.0, 0.26, 0.69, 0.87, 1.0], [0.1, 0.22, 0.66, 1.0, 1.06])
    return np.asarray(curve, dtype=np.float32)
