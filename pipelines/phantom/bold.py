"""The BOLD scan: slices one after another, a moving head, an uneven field, noise, echoes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.pipelines.phantom.acquisition import to_scene
from neurostorm_app.pipelines.phantom.distortion import READOUT, before_distortion
from neurostorm_app.pipelines.phantom.scene import NOWHERE, Scene, corners
from neurostorm_app.pipelines.phantom.settings import ECHO_TIME, TR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.acquisition import Acquisition
    from neurostorm_app.pipelines.phantom.networks import Activity

__all__ = ["AMPLITUDE", "GREY", "Conditions", "draw_spikes", "render_sbref", "render_series"]

AMPLITUDE = 0.015
"""Standard deviation of the BOLD signal of grey matter, relative."""
GREY = 600.0
"""Signal of grey matter, a.u., at an echo time of 30 ms."""

_NOISE = 0.012  # thermal, of grey matter
_SLOW_SIZES = np.array([0.004, 0.008, 0.004, 0.006])  # relative, as in scene.SLOW
_SPIKE, _SPIKED = 0.4, 1 / 3  # change of signal (relative) and share of the slices in a spike
_CONTRAST, _GAIN = 1.6, 1.3  # single-band reference: exponent and factor of the signal


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Conditions:
    """What disturbs a series.

    Parameters
    ----------
    noise : float
        Factor of breath, heart, drift and thermal noise; 0 leaves the head and its networks.
    activation : float
        Factor of the signals of the networks.
    drift : float
        Factor of the two drifts, beside `noise`.
    spikes : ndarray, shape (T, Z), optional
        Factor of the signal of each slice.
    """

    noise: float = 1.0
    activation: float = 1.0
    drift: float = 1.0
    spikes: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Courses:
    """Signals of the regions (V, n), slow courses (4, n), at n times; slot of each slice (Z,)."""

    signals: NDArray[np.float32]
    slow: NDArray[np.float64]
    slot: NDArray[np.intp]


def render_series(  # noqa: PLR0913 - a head, a scan and a person, and what is drawn
    scene: Scene,
    acquisition: Acquisition,
    activity: Activity,
    *,
    rng: np.random.Generator,
    conditions: Conditions | None = None,
    echo_time: float | None = None,
    thermal: np.random.Generator | None = None,
) -> NDArray[np.int16]:
    """Render all volumes.

    Parameters
    ----------
    scene : Scene
        The head; with its relaxation rates for an echo time.
    acquisition : Acquisition
        The scan.
    activity : Activity
        Signals of the regions.
    rng : numpy.random.Generator
        Of breath, heart, drift and thermal noise.
    conditions : Conditions, optional
        What disturbs it.
    echo_time : float, optional
        One of several echoes, s: the signal decays with one rate in each voxel, which the
        networks change; all else is as in the other echoes if `rng` begins alike.
    thermal : numpy.random.Generator, optional
        Of thermal noise, in place of `rng`.

    Returns
    -------
    ndarray, shape (X, Y, Z, T), int16
        a.u.
    """
    how = conditions or Conditions()
    courses = _courses(acquisition, activity, how, rng)
    series = np.empty((*acquisition.grid.shape, len(acquisition.motion)), np.int16, order="F")
    thermal = thermal or rng
    for t, clean in enumerate(_volumes(scene, acquisition, courses, echo_time)):
        signal = clean if how.spikes is None else clean * how.spikes[t]
        noise = thermal.standard_normal((2, *clean.shape), dtype=np.float32)
        noise *= np.float32(how.noise * _NOISE)
        series[..., t] = np.round(GREY * np.hypot(signal + noise[0], noise[1]))
    return series


def render_sbref(
    scene: Scene,
    acquisition: Acquisition,
    *,
    rng: np.random.Generator,
    echo_time: float | None = None,
) -> NDArray[np.int16]:
    """Render a single-band reference (X, Y, Z), a.u.: more contrast, a third of the noise.

    The head lies as in the first pose of `acquisition`.
    """
    quiet = np.zeros((1, 1), dtype=np.float32)
    n_slices = acquisition.grid.shape[2]
    courses = _Courses(
        np.repeat(quiet, NOWHERE + 1, axis=0),
        np.zeros((_SLOW_SIZES.size, 1)),
        np.zeros(n_slices, dtype=np.intp),
    )
    clean = next(_volumes(scene, acquisition, courses, echo_time))
    noise = rng.standard_normal((2, *clean.shape), dtype=np.float32) * np.float32(_NOISE / 3)
    bright = _GAIN * clean**_CONTRAST
    signal = np.round(GREY * np.hypot(bright + noise[0], noise[1]))
    return np.asarray(signal, dtype=np.int16)


def draw_spikes(
    n_spikes: int, *, n_volumes: int, n_slices: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw factors of the slices (T, Z): a third of those of `n_spikes` volumes are off."""
    factors = np.ones((n_volumes, n_slices), dtype=np.float32)
    for t in rng.choice(n_volumes, size=n_spikes, replace=False):
        off = rng.random(n_slices) < _SPIKED
        factors[t, off] += rng.choice([-_SPIKE, _SPIKE], size=int(off.sum())).astype(np.float32)
    return factors


def _courses(
    acquisition: Acquisition, activity: Activity, how: Conditions, rng: np.random.Generator
) -> _Courses:
    n_volumes = len(acquisition.motion)
    when, slot = np.unique(acquisition.times, return_inverse=True)
    times = (TR * np.arange(n_volumes)[:, None] + when).ravel()
    signals = np.zeros((NOWHERE + 1, len(times)), dtype=np.float32)
    signals[:NOWHERE] = AMPLITUDE * how.activation * activity.at(times)
    slow = how.noise * _slow_courses(times, rng)
    slow[2:] *= how.drift
    return _Courses(signals, slow, slot)


def _volumes(
    scene: Scene, acquisition: Acquisition, courses: _Courses, echo_time: float | None
) -> Iterator[NDArray[np.float32]]:
    """Render volumes (X, Y, Z) without thermal noise; grey matter is about 1."""
    seen = _voxels_of_interest(scene, acquisition)
    n_slots = int(courses.slot.max()) + 1
    at_voxel = courses.slot[seen[2]]
    maps = _slow_maps(scene, acquisition, seen)
    for t, pose in enumerate(acquisition.motion):
        where, squeezed = before_distortion(scene, acquisition, pose, seen)
        there = to_scene(scene, acquisition, pose)
        voxels = there[:3, :3] @ where + there[:3, 3:]
        still = ndimage.map_coordinates(scene.spline, voxels, order=3, prefilter=False)
        now = t * n_slots + at_voxel
        neural = np.zeros(len(now), dtype=np.float32)
        for flat, share in corners(voxels, scene.grid.shape):
            neural += share * scene.grey[flat] * courses.signals[scene.region[flat], now]
        other = np.einsum("vm,mv->v", maps, courses.slow[:, now])
        volume = np.zeros(acquisition.grid.shape, dtype=np.float32)
        if echo_time is None:
            signal = np.maximum(still, 0) * squeezed * (1 + neural + other)
        else:
            left = scene.decay(voxels, echo_time) * np.exp(echo_time / ECHO_TIME * neural)
            signal = np.maximum(still, 0) * squeezed * left * (1 + other)
        volume[tuple(seen)] = signal
        yield volume


def _voxels_of_interest(scene: Scene, acquisition: Acquisition) -> NDArray[np.intp]:
    """Find the voxels that a head in any pose may touch: (3, n)."""
    voxels = np.indices(acquisition.grid.shape).reshape(3, -1)
    there = to_scene(scene, acquisition, np.eye(4))
    where = there[:3, :3] @ voxels + there[:3, 3:]
    bright = ndimage.map_coordinates(scene.spline, where, order=1, prefilter=False) > 0.02
    zoom = acquisition.grid.zooms[0]
    shift = READOUT * max(100.0, float(np.abs(scene.field).max())) * zoom  # mm
    reach = _reach(acquisition) + shift * abs(acquisition.phase_sign)
    mask = bright.reshape(acquisition.grid.shape)
    near = ndimage.distance_transform_edt(~mask, sampling=acquisition.grid.zooms) < reach
    return np.stack(np.nonzero(near))


def _reach(acquisition: Acquisition) -> float:
    """How far a voxel of the head may move, mm: 10 for the usual motion."""
    ends = apply_affine(acquisition.grid.affine, [[0, 0, 0], np.array(acquisition.grid.shape) - 1])
    moved = [np.linalg.norm(apply_affine(pose, ends) - ends) for pose in acquisition.motion]
    return max(10.0, float(max(moved)))


def _slow_maps(
    scene: Scene, acquisition: Acquisition, seen: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Sample the smooth maps of what is not neural, head in reference pose: (n, 4)."""
    there = to_scene(scene, acquisition, np.eye(4))
    maps = np.zeros((seen.shape[1], scene.slow.shape[1]), dtype=np.float32)
    for flat, share in corners(there[:3, :3] @ seen + there[:3, 3:], scene.grid.shape):
        maps += share[:, None] * scene.slow[flat]
    return maps


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
