"""How a head is scanned: the field of view, when each slice is taken, where the head lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import from_matvec

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom.motion import draw_pose
from neurostorm_app.pipelines.phantom.people import rigid
from neurostorm_app.pipelines.phantom.settings import ECHO_TIME, TR, Scale, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.scene import Scene

__all__ = ["Acquisition", "echo_times", "place_grid", "slice_times", "to_scene"]

_FIRST_ECHO, _ECHO_STEP = 0.012, 0.016  # s


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

    def posed(self, motion: NDArray[np.float64]) -> Acquisition:
        """Take another series of the head in other poses (T, 4, 4)."""
        return replace(self, motion=motion)


def echo_times(n_echoes: int) -> tuple[float, ...]:
    """List the echo times of a series, s.

    Examples
    --------
    >>> echo_times(1), echo_times(3)
    ((0.03,), (0.012, 0.028, 0.044))
    """
    if n_echoes == 1:
        return (ECHO_TIME,)
    return tuple(round(_FIRST_ECHO + _ECHO_STEP * n, 4) for n in range(n_echoes))


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


def to_scene(
    scene: Scene, acquisition: Acquisition, pose: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Map voxels of the scanner to voxels of the scene, head in `pose`."""
    to_world = pose @ acquisition.t1w_to_bold @ scene.grid.affine
    return np.asarray(np.linalg.solve(to_world, acquisition.grid.affine), dtype=np.float64)
