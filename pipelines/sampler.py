"""Values of volumes at points that move with the head, on the CPU or by torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.kernels.taps import Method

__all__ = ["Distortion", "VolumeSampler"]

PART = 2**15
"""Points that one thread takes at a time."""
MARGIN = 16
"""Voxels by which a shift goes on past its edge: further away a spline does not see the end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distortion:
    """Where voxels went along the phase axis, and whether they shrank there.

    Parameters
    ----------
    shift : ndarray, shape (X, Y, Z), float32
        On the grid of the undistorted BOLD reference: what is added to the voxel coordinate
        along `axis`, in voxels. A cubic spline between voxels, the edge's value outside.
    axis : int
        The phase axis of the volumes: 0, 1 or 2.
    jacobian : bool
        Whether values are multiplied by the width, along the axis, of the part of the volume
        that belongs to one undistorted voxel: 1 + s(x + 1/2) - s(x - 1/2), the derivative of
        where voxels went. What was squeezed together is as bright as before then.
    """

    shift: NDArray[np.float32]
    axis: int
    jacobian: bool = True


class VolumeSampler:
    """Interpolates volumes of one grid at points that move with the head.

    Coordinates are composed for each point and volume: matrix, voxels, shift. A voxel and more
    outside the outermost voxel centres values are zero; in between, voxels outside count as
    zeros, as in scipy's ``grid-constant``.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        In the space of the undistorted BOLD reference, RAS+ mm.
    source : Grid
        Grid of the volumes and of the BOLD reference.
    distortion : Distortion, optional
        Looked up at the points, applied in the voxels of each volume.
    places : ndarray of bool, shape (M,), optional
        True at N of M places: where among M values those of the points are put, between zeros.
    method : {'cubic', 'lanczos', 'linear', 'nearest'}
        Cubic B-splines through the voxels, windowed sinc of 3 lobes with weights that sum to
        one, trilinear, or the nearest voxel (for labels).
    n_threads : int
        Parts of the points at a time on the CPU; it does not change the numbers.
    device : str
        ``cpu``, or ``cuda``, ``cuda:1``…: by torch, as ``torch:cpu`` is on the CPU.

    Raises
    ------
    DataError
        If the shift is on another grid.
    """

    def __init__(  # noqa: PLR0913
        self,
        points: NDArray[np.float64],
        *,
        source: Grid,
        distortion: Distortion | None = None,
        places: NDArray[np.bool_] | None = None,
        method: Method = "cubic",
        n_threads: int = 1,
        device: str = "cpu",
    ) -> None:
        self._source, self._threads = source, n_threads
        self._n = len(points) if places is None else len(places)
        used = np.arange(self._n) if places is None else np.flatnonzero(places)
        self._into = used.astype(np.int32)
        moving = np.ascontiguousarray(points.T, dtype=np.float64)
        shift, scale = None, None
        if distortion is not None:
            _check_shift(distortion, source)
            shift, scale = _look_up(distortion, source, moving)
        axis = 0 if distortion is None else distortion.axis
        self._torch = None
        if device == "cpu":
            self._loops = _Loops(moving, method=method, axis=axis, shift=shift, scale=scale)
        else:
            from neurostorm_app.pipelines.resample_torch import TorchSampler

            self._torch = TorchSampler(
                moving, method=method, axis=axis, shift=shift, scale=scale,
                device=device.removeprefix("torch:"),
            )  # fmt: skip

    def __call__(self, volume: NDArray[Any], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """Interpolate a volume.

        Parameters
        ----------
        volume : ndarray, shape (X, Y, Z)
            As acquired; every voxel finite.
        matrix : ndarray, shape (4, 4)
            Points of the reference to points of the volume, RAS+ mm.

        Returns
        -------
        ndarray, shape (N,) or (M,), float32
            Zero a voxel and more outside.

        Raises
        ------
        DataError
            If the volume has another shape than the grid, or holds NaN or infinity, which a
            spline would spread over the whole volume.
        """
        if self._torch is not None:
            return np.asarray(self.batch([volume], [matrix])[0])
        values = np.zeros(self._n, dtype=np.float32)
        padded = self._loops.pad(self._checked(volume))
        self._loops(padded, self._to_voxels(matrix), self._into, values, self._threads)
        return values

    def batch(
        self, volumes: Sequence[NDArray[Any]], matrices: Sequence[NDArray[np.float64]]
    ) -> NDArray[np.float32]:
        """Interpolate several volumes: at once by torch, else one after the other.

        Returns
        -------
        ndarray, shape (B, N) or (B, M), float32
            As of single calls.
        """
        if self._torch is None:
            return np.stack([self(v, m) for v, m in zip(volumes, matrices, strict=True)])
        values = np.zeros((len(volumes), self._n), dtype=np.float32)
        values[:, self._into] = self._torch(
            np.stack([self._checked(volume) for volume in volumes]),
            np.stack([self._to_voxels(matrix) for matrix in matrices]),
        )
        return values

    def _to_voxels(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.linalg.solve(self._source.affine, matrix)
        return np.ascontiguousarray(whole[:3], dtype=np.float64)

    def _checked(self, volume: NDArray[Any]) -> NDArray[np.float32]:
        if volume.shape != self._source.shape:
            raise DataError(
                f"a volume has {volume.shape} voxels; its grid has {self._source.shape}",
                fix="give the grid of the series itself",
            )
        voxels = np.asarray(volume, dtype=np.float32)
        n_bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
        if n_bad:
            raise DataError(
                f"{n_bad} of {voxels.size} voxels of a volume that is to be interpolated are NaN "
                "or infinite; a spline would spread them over the whole volume",
                fix="find out where they came from, and write numbers in their place",
            )
        return voxels


class _Loops:
    """The compiled loops, and what they need of the points (3, N)."""

    def __init__(
        self,
        points: NDArray[np.float64],
        *,
        method: Method,
        axis: int = 0,
        shift: NDArray[np.float32] | None = None,
        scale: NDArray[np.float32] | None = None,
    ) -> None:
        from neurostorm_app.pipelines.kernels.taps import taps_of

        self._points, self._method, self._taps = points, method, taps_of(method)
        self._moves = np.eye(3)[axis], shift, scale

    def pad(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Make what is weighed: voxels or coefficients, with their margin."""
        from neurostorm_app.pipelines.kernels import spline

        if self._method == "cubic":
            return spline.spline_coefficients(volume)
        return spline.pad_voxels(volume, self._taps.pad)

    def __call__(
        self,
        padded: NDArray[np.float32],
        matrix: NDArray[np.float64],
        into: NDArray[np.int32],
        out: NDArray[np.float32],
        n_threads: int = 1,
    ) -> None:
        """Put the values at the points into their places of `out`."""
        from neurostorm_app.pipelines.kernels import sampling

        n, flat = self._points.shape[1], padded.ravel()
        shape = tuple(size - 2 * self._taps.pad for size in padded.shape)

        def work(first: int) -> None:
            """Do one part of the points; a part begins at the same one for every number."""
            sampling.sample(
                flat, shape, self._taps, matrix, self._points, *self._moves, into, out,
                first, min(first + PART, n),
            )  # fmt: skip

        parts = range(0, n, PART)
        if n_threads == 1:
            for first in parts:
                work(first)
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(work, parts))


def _check_shift(distortion: Distortion, source: Grid) -> None:
    if distortion.shift.shape != source.shape:
        raise DataError(
            f"the shift of voxels has {distortion.shift.shape} voxels; the BOLD reference has "
            f"{source.shape}",
            fix="bring the field onto the grid of the BOLD reference first",
        )


def _look_up(
    distortion: Distortion, source: Grid, points: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Find shift and width at points (3, N), which stay the same for all volumes."""
    to_voxels = np.linalg.inv(source.affine)
    highest = np.reshape(source.shape, (3, 1)) - 1.0
    shift = np.pad(np.asarray(distortion.shift, dtype=np.float32), MARGIN, mode="edge")
    padded = _Loops(points, method="cubic").pad(shift)
    middle, before, after = (np.empty(points.shape[1], dtype=np.float32) for _ in range(3))
    into = np.arange(PART, dtype=np.int32)
    for first in range(0, points.shape[1], PART):
        part = slice(first, first + PART)
        where = to_voxels[:3, :3] @ points[:, part] + to_voxels[:3, 3:]
        loops = _Loops(np.clip(where, 0.0, highest) + MARGIN, method="cubic")
        for offset, found in ((0.0, middle), (-0.5, before), (0.5, after)):
            matrix = np.eye(4)[:3]
            matrix[distortion.axis, 3] = offset
            loops(padded, matrix, into, found[part])
    return middle, 1 + after - before if distortion.jacobian else None
