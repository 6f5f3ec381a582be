"""One interpolation from acquired voxels onto a grid.

Coordinates are composed first (grid, normalisation, coregistration, head motion, distortion),
then each volume is interpolated once. A voxel and more outside the acquired ones the world is
zero. Onto a model's grid: :mod:`neurostorm_app.pipelines.regrid`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import NDArray

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.sampler import Distortion, VolumeSampler
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from neurostorm_app.pipelines.kernels.taps import Method

    Motion = Sequence[NDArray[np.float64]] | NDArray[np.float64]
    Pairs = Iterator[tuple[NDArray[Any], NDArray[np.float64]]]

__all__ = ["Distortion", "PointMap", "VolumeSampler", "resample_series", "resample_volume"]

PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Points (..., 3) to points, RAS+ mm."""

REACH = 1.0
"""Voxels past the edge from where on a volume is zero; a spline would only ring there."""
SLAB = 2**19
"""Points whose places are looked up at a time."""
BATCH = 8
"""Volumes at a time on a GPU."""
METHODS: dict[int, Method] = {0: "nearest", 1: "linear", 3: "cubic"}
"""By the order of the spline."""


def resample_volume(
    volume: NDArray[Any],
    *,
    source: Grid,
    target: Grid,
    xfm: PointMap | None = None,
    order: int = 3,
) -> NDArray[np.float32]:
    """Interpolate one volume on another grid.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        On `source`.
    source, target : Grid
        Where voxels are and where they are wanted.
    xfm : callable, optional
        Target points to source points, RAS+ mm; by default both spaces are one.
    order : int
        0 for labels, 1 for probabilities, 3 for images.

    Returns
    -------
    ndarray, shape of `target`, float32
        Zero outside the source.

    Raises
    ------
    DataError
        If the volume has another shape than its grid, or holds NaN or infinity.
    """
    points = target.world() if xfm is None else xfm(target.world())
    sampler = VolumeSampler(points.reshape(-1, 3), source=source, method=METHODS[order])
    return sampler(volume, np.eye(4)).reshape(target.shape)


def resample_series(  # noqa: PLR0913
    volumes: Iterable[NDArray[Any]],
    *,
    source: Grid,
    target: Grid,
    to_bold: PointMap | None = None,
    motion: Motion,
    distortion: Distortion | None = None,
    mask: NDArray[np.bool_] | None = None,
    method: Method = "cubic",
    n_threads: int = 1,
    device: str = "cpu",
) -> Iterator[NDArray[np.float32]]:
    """Bring each volume of a series onto a grid by one interpolation.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z)
        The series as acquired, or with its slices aligned in time.
    source : Grid
        Their grid, and that of the BOLD reference.
    target : Grid
        Grid of the result.
    to_bold : callable, optional
        Target points to points of the undistorted BOLD reference, RAS+ mm; by default the same
        space. It is called with one slab of the target (n, Y, Z, 3) after the other.
    motion : sequence of ndarray, shape (4, 4)
        For each volume: points of the BOLD reference to points of that volume, RAS+ mm.
    distortion : Distortion, optional
        Looked up in the space of the BOLD reference, applied in that of each volume.
    mask : ndarray of bool, shape of `target`, optional
        Voxels that are wanted; the others stay zero and cost nothing.
    method : {'cubic', 'lanczos', 'linear', 'nearest'}
        See `VolumeSampler`.
    n_threads : int
        Volumes at a time on the CPU; it does not change the numbers.
    device : str
        As in `VolumeSampler`.

    Yields
    ------
    ndarray, shape of `target`, float32
        One volume after the other; memory holds about three per thread, or eight on a GPU.

    Raises
    ------
    DataError
        If a volume has another shape than its grid, or holds NaN or infinity.
    """
    margin = _margin(source, motion, distortion)
    points, near = _points_near(source, target, to_bold, margin=margin, mask=mask)
    sampler = VolumeSampler(
        points, source=source, distortion=distortion, places=near, method=method, device=device
    )
    del points, near
    pairs = zip(volumes, motion, strict=True)
    stream = _in_threads(sampler, pairs, n_threads) if device == "cpu" else _batched(sampler, pairs)
    for values in stream:
        yield values.reshape(target.shape)


def _in_threads(
    sampler: VolumeSampler, pairs: Pairs, n_threads: int
) -> Iterator[NDArray[np.float32]]:
    """Interpolate volumes in several threads, while the next ones are read."""
    waiting: deque[Future[NDArray[np.float32]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for volume, matrix in pairs:
            waiting.append(pool.submit(sampler, volume, matrix))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batched(sampler: VolumeSampler, pairs: Pairs) -> Iterator[NDArray[np.float32]]:
    while batch := list(islice(pairs, BATCH)):
        volumes, matrices = zip(*batch, strict=True)
        yield from sampler.batch(volumes, matrices)


def _margin(source: Grid, motion: Motion, distortion: Distortion | None) -> float:
    """Tell how many voxels past the edge a point may be and yet get into a volume's view."""
    ends = ((-REACH, n - 1 + REACH) for n in source.shape)
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    world = apply_affine(source.affine, corners)
    furthest = max(
        (np.linalg.norm(Affine(m).inverse()(world) - world, axis=1).max() for m in motion),
        default=0.0,
    )
    voxels_per_mm = np.linalg.norm(np.linalg.inv(source.affine[:3, :3]), 2)
    shift = 0.0 if distortion is None else np.abs(distortion.shift).max(initial=0.0)
    return REACH + float(furthest * voxels_per_mm) + float(shift)


def _points_near(
    source: Grid,
    target: Grid,
    to_bold: PointMap | None,
    *,
    margin: float,
    mask: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Map the voxels of the target slab by slab, and keep the points (n, 3) that matter."""
    X, Y, Z = target.shape
    near = np.ones(target.shape, dtype=np.bool_) if mask is None else mask.copy()
    to_voxels, size = np.linalg.inv(source.affine), np.asarray(source.shape)
    thickness, kept = max(1, SLAB // (Y * Z)), []
    for first in range(0, X, thickness):
        slab = near[first : first + thickness]
        begin = target.affine @ from_matvec(np.eye(3), [first, 0, 0])
        points = Grid((len(slab), Y, Z), begin).world()
        if to_bold is not None:
            points = to_bold(points)
        voxels = apply_affine(to_voxels, points)
        slab &= np.logical_and(voxels > -margin, voxels < size - 1 + margin).all(axis=-1)
        kept.append(points[slab].T)
    return np.concatenate(kept, axis=1).T, near.ravel()
