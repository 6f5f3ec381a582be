"""What a BOLD scan looks at: the maps of one participant's head, in the world of the T1w.

They are laid out once on a grid a little finer than the BOLD voxels; every volume then looks
up where its voxels are, through one affine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import from_matvec
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom.head import CENTRE, Head, field_hz
from neurostorm_app.pipelines.phantom.networks import REGIONS, assign_regions
from neurostorm_app.pipelines.phantom.relaxation import relaxation_rates
from neurostorm_app.pipelines.phantom.settings import ECHO_TIME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.people import Anatomy
    from neurostorm_app.pipelines.phantom.settings import Scale

__all__ = ["NOWHERE", "SLOW", "Scene", "build_scene", "corners", "slow_maps"]

NOWHERE = len(REGIONS)
"""Region of what has no signal."""
SLOW = ("respiration", "heart", "drift", "tilt")
"""The maps of what is not neural."""

_BOX = (172.0, 212.0, 196.0)  # mm, what of the head an EPI shows
_MIDDLE = (0.0, -1.0, -4.0)  # mm from the centre of the brain


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The maps of a head.

    Parameters
    ----------
    grid : Grid
        World of the T1w, mm RAS.
    spline : ndarray, shape (X, Y, Z), float32
        Coefficients of a cubic spline of the T2*-weighted signal; grey matter is about 1.
    grey : ndarray, shape (X * Y * Z,), float32
        Share of grey matter.
    slow : ndarray, shape (X * Y * Z, 4), float32
        The maps of ``SLOW``.
    field : ndarray, shape (X, Y, Z), float32
        Hz.
    region : ndarray, shape (X * Y * Z,), int16
        Index of ``REGIONS``, or ``NOWHERE``.
    rates : ndarray, shape (X, Y, Z), float32, optional
        Rate of decay of the signal, R2*, 1/s.
    """

    grid: Grid
    spline: NDArray[np.float32]
    grey: NDArray[np.float32]
    slow: NDArray[np.float32]
    field: NDArray[np.float32]
    region: NDArray[np.int16]
    rates: NDArray[np.float32] | None = None

    def rate(self, voxels: NDArray[np.float64]) -> NDArray[np.float32]:
        """Look up R2* at voxel coordinates (3, ...) of the grid, 1/s."""
        rates = np.asarray(self.rates, dtype=np.float32)
        return np.asarray(ndimage.map_coordinates(rates, voxels, order=1, mode="nearest"))

    def decay(self, voxels: NDArray[np.float64], echo_time: float) -> NDArray[np.float32]:
        """Tell how much signal there is at an echo time (s), relative to that at 30 ms."""
        return np.asarray(np.exp((ECHO_TIME - echo_time) * self.rate(voxels)), dtype=np.float32)


def build_scene(head: Head, anatomy: Anatomy, *, scale: Scale, decaying: bool = False) -> Scene:
    """Lay out the maps of a participant's head; `decaying` adds the rates of decay."""
    step = scale.bold_zoom * 2 / 3
    middle = anatomy.template_to_t1w((CENTRE + _MIDDLE)[None])[0]
    i, j, k = (int(np.ceil(side / step)) for side in _BOX)
    first = middle - step * (np.array([i, j, k]) - 1) / 2
    grid = Grid((i, j, k), from_matvec(np.diag([step] * 3), first))
    points = anatomy.t1w_to_template(grid.world())
    blur = scale.bold_zoom / 2.355 / head.grid.zooms[0]  # half of the signal in one voxel
    epi = head.sample(ndimage.gaussian_filter(head.epi, blur), points)
    grey = head.sample(ndimage.gaussian_filter(head.grey, blur), points)
    region = np.full(grid.shape, NOWHERE, dtype=np.int16)
    neural = grey > 0.01
    region[neural] = assign_regions(points[neural])
    spline = np.asarray(ndimage.spline_filter(epi, order=3, output=np.float32))
    slow = slow_maps(points).reshape(-1, len(SLOW))
    rates = None
    if decaying:
        rates = head.sample(ndimage.gaussian_filter(relaxation_rates(head), blur), points)
    return Scene(grid, spline, grey.ravel(), slow, field_hz(points), region.ravel(), rates)


def slow_maps(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Where breath, heart and drift show, at points (..., 3) of template space: (..., 4).

    Breath moves the field, most so far from the chest's axis; the heart shows near the middle
    and the base of the brain; drifts are a constant and a slope.
    """
    far = (points - CENTRE) / [70.0, 90.0, 70.0]
    edge = (far**2).sum(axis=-1)
    base = np.exp(-(((points - [0.0, -25.0, -20.0]) / [16.0, 24.0, 20.0]) ** 2).sum(axis=-1) / 2)
    parts = [0.4 + 0.6 * edge, 0.15 + base, np.ones_like(edge), far[..., 1]]
    return np.stack(parts, axis=-1).astype(np.float32)


def corners(
    voxels: NDArray[np.float64], shape: tuple[int, int, int]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """List the eight voxels around each point, as flat indices, and their trilinear shares.

    Parameters
    ----------
    voxels : ndarray, shape (3, n)
        Voxel coordinates; what is outside takes the nearest edge.
    shape : tuple of int, length 3
        Of the volume.

    Yields
    ------
    flat : ndarray, shape (n,)
        Index in the flattened volume.
    share : ndarray, shape (n,), float32
        Eight of them add up to 1.
    """
    most = np.asarray(shape)[:, None] - 1
    inside = np.clip(voxels, 0, most - 1e-3)
    low = inside.astype(np.intp)
    above = (inside - low).astype(np.float32)
    shares = np.stack([1 - above, above])
    strides = (shape[1] * shape[2], shape[2], 1)
    start = low[0] * strides[0] + low[1] * strides[1] + low[2]
    for a in (0, 1):
        for b in (0, 1):
            plane = shares[a, 0] * shares[b, 1]
            for c in (0, 1):
                yield start + (a * strides[0] + b * strides[1] + c), plane * shares[c, 2]
