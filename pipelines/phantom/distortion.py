"""What an uneven field does to an EPI: where it is, and from where signal comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.phantom.acquisition import to_scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.acquisition import Acquisition
    from neurostorm_app.pipelines.phantom.scene import Scene

__all__ = ["READOUT", "before_distortion", "field_map"]

READOUT = 0.030
"""Total readout time, s: a field of 1 Hz moves the signal by 0.03 voxels."""


def field_map(scene: Scene, acquisition: Acquisition) -> NDArray[np.float32]:
    """Sample the field at the voxels of the scanner, head in reference pose: (X, Y, Z), Hz."""
    return _field(scene, acquisition, np.eye(4))


def before_distortion(
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
        """Interpolate a volume (X, Y, Z) along its columns, at the lines j of each voxel."""
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


def _field(
    scene: Scene, acquisition: Acquisition, pose: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sample the field of a head in `pose` at the voxels of the scanner: (X, Y, Z), Hz."""
    there = to_scene(scene, acquisition, pose)
    sampled = ndimage.affine_transform(
        scene.field, there, output_shape=acquisition.grid.shape, order=1, mode="nearest"
    )
    return np.asarray(sampled, dtype=np.float32)
