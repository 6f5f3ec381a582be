"""The BOLD scan: slices one after another, a moving head, an uneven field, noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import from_matvec
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom.motion import draw_pose
from neurostorm_app.pipelines.phantom.people import rigid
from neurostorm_app.pipelines.phantom.scene import NOWHERE, Scene, corners
from neurostorm_app.pipelines.phantom.settings import TR, Scale, generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.networks import Activity

__all__ = [
    "AMPLITUDE",
    "READOUT",
    "Acquisition",
    "field_map",
    "place_grid",
    "render_series",
    "slice_times",
]

READOUT = 0.030
"""Total readout time, s: a field of 1 Hz moves the signal by 0.03 voxels."""
AMPLITUDE = 0.015
"""Standard deviation of the BOLD signal of grey matter, relative."""

_GREY = 600.0  # signal of grey matter, a.u.
_NOISE = 0.012  # thermal, of grey matter
_SLOW_SIZES = np.array([0.004, 0.008, 0.004, 0.006])  # relative, as in scene.SLOW


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Acquisition:
    """How a series is taken.

    Parameters
    ----------
    grid : Grid
        Voxels of the scanner, mm RAS; slices along k.
    times : ndarray, shape (Z,)
        When each slice is taken after the start of a volume, s.
    motion : ndarray, shape (T, 4, 4)
        Points of the head in the reference pose to the scanner at volume t, mm.
    t1w_to_bold : ndarray, shape (4, 4)
        Points of the T1w to the scanner, reference pose, mm.
    phase_sign : {-1, 0, 1}
        Phase encoding along j (1) or against it (-1); 0 without distortion.
    """

    grid: Grid
    times: NDArray[np.float64]
    motion: NDArray[np.float64]
    t1w_to_bold: NDArray[np.float64]
    phase_sign: int


def slice_times(scale: Scale) -> NDArray[np.float64]:
    """Time of each slice, s: interleaved, odd ones last, `multiband` slices at a time."""
    n_shots = scale.bold_shape[2] // scale.multiband
    order = np.concatenate([np.arange(0, n_shots, 2), np.arange(1, n_shots, 2)])
    times = np.empty(n_shots)
    times[order] = np.arange(n_shots) * TR / n_shots
    return np.asarray(np.tile(times, scale.multiband).round(4), dtype=np.float64)


def place_grid(centre: NDArray[np.float64], *, number: int, seed: int, scale: Scale) -> Grid:
    """Tilt a field of view (i to L, j to A, k to S) about a point of the T1w (mm).

    The slices are prescribed once, on the head as it lies in the first run.
    """
    pose = draw_pose(seed=seed, participant=number, run=1)
    rng = generator(seed, "bold-grid", participant=number)
    turns = np.array([-12.0, 0.0, 0.0]) + rng.uniform(-3, 3, 3)
    turned = rigid(turns, np.zeros(3), centre=np.zeros(3))[:3, :3]
    axes = turned @ np.diag([-scale.bold_zoom, scale.bold_zoom, scale.bold_zoom])
    middle = (np.asarray(scale.bold_shape) - 1) / 2
    there = pose[:3, :3] @ centre + pose[:3, 3]
    return Grid(scale.bold_shape, from_matvec(axes, there - axes @ middle))


def field_map(scene: Scene, acquisition: Acquisition) -> NDArray[np.float32]:
    """Sample the field at the voxels of the scanner, head in reference pose: (X, Y, Z), Hz."""
    return _field(scene, acquisition, np.eye(4))


def render_series(
    scene: Scene,
    acquisition: Acquisition,
    activity: Activity,
    *,
    rng: np.random.Generator,
    noise: float = 1.0,
) -> NDArray[np.int16]:
    """Render all volumes.

    Parameters
    ----------
    scene : Scene
        The head.
    acquisition : Acquisition
        The scan.
    activity : Activity
        Signals of the regions.
    rng : numpy.random.Generator
        Of breath, heart, drift and thermal noise.
    noise : float
        Factor of all of these; 0 leaves the head and its networks.

    Returns
    -------
    ndarray, shape (X, Y, Z, T), int16
        a.u.
    """
    n_volumes = len(acquisition.motion)
    when, slot = np.unique(acquisition.times, return_inverse=True)
    times = (TR * np.arange(n_volumes)[:, None] + when).ravel()
    signals = np.zeros((NOWHERE + 1, len(times)), dtype=np.float32)
    signals[:NOWHERE] = AMPLITUDE * activity.at(times)
    slow = noise * _slow_courses(times, rng)
    series = np.empty((*acquisition.grid.shape, n_volumes), dtype=np.int16, order="F")
    seen = _voxels_of_interest(scene, acquisition)
    for t, clean in enumerate(_volumes(scene, acquisition, seen, (signals, slow, slot))):
        thermal = rng.standard_normal((2, *clean.shape), dtype=np.float32)
        thermal *= np.float32(noise * _NOISE)
        series[..., t] = np.round(_GREY * np.hypot(clean + thermal[0], thermal[1]))
    return series


def _volumes(
    scene: Scene,
    acquisition: Acquisition,
    seen: NDArray[np.intp],
    courses: tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.intp]],
) -> Iterator[NDArray[np.float32]]:
    """Render volumes (X, Y, Z) without thermal noise; grey matter is about 1."""
    signals, slow, slot = courses
    shape = acquisition.grid.shape
    n_slots = int(slot.max()) + 1
    at_voxel = slot[seen[2]]
    maps = _slow_maps(scene, acquisition, seen)
    for t, pose in enumerate(acquisition.motion):
        where, squeezed = _before_distortion(scene, acquisition, pose, seen)
        to_scene = _to_scene(scene, acquisition, pose)
        voxels = to_scene[:3, :3] @ where + to_scene[:3, 3:]
        still = ndimage.map_coordinates(scene.spline, voxels, order=3, prefilter=False)
        now = t * n_slots + at_voxel
        neural = np.zeros(len(now), dtype=np.float32)
        for flat, share in corners(voxels, scene.grid.shape):
            neural += share * scene.grey[flat] * signals[scene.region[flat], now]
        other = np.einsum("vm,mv->v", maps, slow[:, now])
        volume = np.zeros(shape, dtype=np.float32)
        volume[tuple(seen)] = np.maximum(still, 0) * squeezed * (1 + neural + other)
        yield volume


def _to_scene(
    scene: Scene, acquisition: Acquisition, pose: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Map voxels of the scanner to voxels of the scene, head in `pose`."""
    to_world = pose @ acquisition.t1w_to_bold @ scene.grid.affine
    return np.asarray(np.linalg.solve(to_world, acquisition.grid.affine), dtype=np.float64)


def _voxels_of_interest(scene: Scene, acquisition: Acquisition) -> NDArray[np.intp]:
    """Find the voxels that a head in any pose may touch: (3, n)."""
    voxels = np.indices(acquisition.grid.shape).reshape(3, -1)
    to_scene = _to_scene(scene, acquisition, np.eye(4))
    where = to_scene[:3, :3] @ voxels + to_scene[:3, 3:]
    bright = ndimage.map_coordinates(scene.spline, where, order=1, prefilter=False) > 0.02
    zoom = acquisition.grid.zooms[0]
    reach = 10 + 0.03 * 100 * zoom * abs(acquisition.phase_sign)  # mm
    mask = bright.reshape(acquisition.grid.shape)
    near = ndimage.distance_transform_edt(~mask, sampling=acquisition.grid.zooms) < reach
    return np.stack(np.nonzero(near))


def _field(
    scene: Scene, acquisition: Acquisition, pose: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sample the field of a head in `pose` at the voxels of the scanner: (X, Y, Z), Hz."""
    to_scene = _to_scene(scene, acquisition, pose)
    sampled = ndimage.affine_transform(
        scene.field, to_scene, output_shape=acquisition.grid.shape, order=1, mode="nearest"
    )
    return np.asarray(sampled, dtype=np.float32)


def _slow_maps(
    scene: Scene, acquisition: Acquisition, seen: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Sample the smooth maps of what is not neural, head in reference pose: (n, 4)."""
    to_scene = _to_scene(scene, acquisition, np.eye(4))
    maps = np.zeros((seen.shape[1], scene.slow.shape[1]), dtype=np.float32)
    for flat, share in corners(to_scene[:3, :3] @ seen + to_scene[:3, 3:], scene.grid.shape):
        maps += share[:, None] * scene.slow[flat]
    return maps


def _before_distortion(
    scene: Scene,
    acquisition: Acquisition,
    pose: NDArray[np.float64],
    seen: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float32] | float]:
    """Find where the signal of each voxel comes from, and how much it is squeezed.

    A field f (Hz) moves signal from voxel j to voxel j + s f(j) R, with the readout time R and
    the sign s of the phase encoding. The inverse is found by fixed point.

    References
    ----------
    Jezzard P. and Balaban R. S. 1995, Magn. Reson. Med. 34:65.
    """
    where = seen.astype(np.float64)
    if not acquisition.phase_sign:
        return where, 1.0
    shift = acquisition.phase_sign * READOUT * _field(scene, acquisition, pose)
    slope = np.gradient(shift, axis=1)
    i, _, k = seen
    last = acquisition.grid.shape[1] - 1

    def along(volume: NDArray[np.floating], j: NDArray[np.float64]) -> NDArray[np.floating]:
        inside = np.clip(j, 0, last - 1e-3)
        low = inside.astype(np.intp)
        above = (inside - low).astype(np.float32)
        return np.asarray(volume[i, low, k] * (1 - above) + volume[i, low + 1, k] * above)

    source = where[1].copy()
    for _ in range(8):
        source = seen[1] - along(shift, source)
    where[1] = source
    squeezed = np.clip(1 / (1 + along(slope, source)), 0, 5)
    return where, np.asarray(squeezed, dtype=np.float32)


def _slow_courses(times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the courses of ``scene.SLOW`` at the times of the slices: (4, n), relative."""
    breath = 0.3 + 0.02 * np.sin(2 * np.pi * times / rng.uniform(40, 80))
    heart = 1.1 + 0.05 * np.sin(2 * np.pi * times / rng.uniform(20, 50))
    start = rng.uniform(0, 2 * np.pi, 4)
    order = np.argsort(times)
    step = np.diff(times[order], prepend=0.0)
    turns = np.empty((2, len(times)))
    turns[:, order] = np.cumsum([breath[order] * step, heart[order] * step], axis=1)
    trend = np.linspace(-1, 1, len(times)) * rng.choice([-1, 1]) + 0.5 * np.cos(
        2 * np.pi * times / rng.uniform(250, 500) + start[2]
    )
    tilt = np.cos(2 * np.pi * times / rng.uniform(150, 400) + start[3])
    fast = np.sin(2 * np.pi * turns + start[:2, None])
    return np.asarray(_SLOW_SIZES[:, None] * np.stack([*fast, trend, tilt]))
