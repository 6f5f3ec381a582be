"""From a standard grid and repetition time to those that a model eats.

Where the lattices coincide voxels are only cropped, flipped and padded; otherwise there is one
linear interpolation, or the mean over the part of space that a larger voxel covers.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage, sparse

from neurostorm_app.pipelines.grid import vox2vox

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.models.card import TimePositions
    from neurostorm_app.pipelines.grid import Grid

__all__ = [
    "find_method",
    "onto_grid",
    "resample_time",
    "sampling_matrix",
    "time_positions",
    "time_step",
]


def find_method(source: Grid, target: Grid) -> Literal["exact", "linear", "block-mean"]:
    """Say how :func:`onto_grid` goes from one grid to the other.

    Returns
    -------
    str
        ``exact``: the lattices coincide, voxels are only cropped, flipped and padded.
        ``block-mean``: the target's voxels are larger; each is the mean of linear samples, one
        for each source voxel it covers. ``linear``: one trilinear interpolation.
    """
    matrix = vox2vox(source.affine, target.affine)
    lattice = np.allclose(matrix, np.round(matrix), atol=1e-4)
    if lattice and _is_axis_aligned(matrix) and np.allclose(np.abs(matrix[:3, :3]).sum(0), 1):
        return "exact"
    return "block-mean" if max(_n_samples(source, target)) > 1 else "linear"


def onto_grid(series: NDArray[np.floating], source: Grid, target: Grid) -> NDArray[np.float32]:
    """Bring volumes of the same space onto the grid that a model eats.

    Parameters
    ----------
    series : ndarray, shape (X, Y, Z) or (X, Y, Z, T)
        On `source`.
    source, target : Grid
        Of the same standard space. :func:`find_method` says what is done.

    Returns
    -------
    ndarray, shape of `target` (and T), float32
        Zero outside the source.
    """
    data = np.asarray(series, dtype=np.float32)
    matrix = vox2vox(source.affine, target.affine)
    samples = _n_samples(source, target)
    if _is_axis_aligned(matrix):
        return _along_axes(data, matrix, target.shape, samples)
    if data.ndim == 3:
        return _oblique(data, matrix, target.shape, samples)
    volumes = [_oblique(data[..., t], matrix, target.shape, samples) for t in range(data.shape[3])]
    return np.stack(volumes, axis=-1)


def _is_axis_aligned(matrix: NDArray[np.float64]) -> bool:
    linear = np.abs(matrix[:3, :3])
    large = linear > 1e-4 * linear.max()
    return bool((large.sum(axis=0) == 1).all() and (large.sum(axis=1) == 1).all())


def _n_samples(source: Grid, target: Grid) -> tuple[int, int, int]:
    """Count samples along each axis of a target voxel: how many source voxels it covers."""
    linear = vox2vox(source.affine, target.affine)[:3, :3]
    i, j, k = (max(1, round(float(np.linalg.norm(linear[:, axis])))) for axis in range(3))
    return i, j, k


def _offsets(n: int) -> NDArray[np.float64]:
    """Centres of n equal parts of a voxel, in voxels from its centre."""
    return (np.arange(n) + 0.5) / n - 0.5


def _along_axes(
    data: NDArray[np.float32],
    matrix: NDArray[np.float64],
    shape: tuple[int, int, int],
    samples: tuple[int, int, int],
) -> NDArray[np.float32]:
    """Interpolate axis by axis: with aligned grids the trilinear weights are products."""
    sources = np.abs(matrix[:3, :3]).argmax(axis=0)
    data = np.moveaxis(data, sources, (0, 1, 2))
    for axis, source_axis in enumerate(sources):
        weights = _weights(
            data.shape[axis],
            shape[axis],
            scale=matrix[source_axis, axis],
            start=matrix[source_axis, 3],
            n_samples=samples[axis],
        )
        data = np.moveaxis(np.tensordot(weights, data, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(data)


def _weights(
    n_source: int, n_target: int, *, scale: float, start: float, n_samples: int
) -> NDArray[np.float32]:
    """Weigh source voxels (columns) for each target voxel (row) of one axis."""
    weights = np.zeros((n_target, n_source))
    rows = np.arange(n_target)
    for offset in _offsets(n_samples):
        where = scale * (rows + offset) + start
        where = np.where(np.abs(where - np.round(where)) < 1e-4, np.round(where), where)
        lower = np.floor(where).astype(int)
        for voxel, weight in ((lower, 1.0 - (where - lower)), (lower + 1, where - lower)):
            inside = (voxel >= 0) & (voxel < n_source)
            np.add.at(weights, (rows[inside], voxel[inside]), weight[inside] / n_samples)
    return weights.astype(np.float32)


def _oblique(
    volume: NDArray[np.float32],
    matrix: NDArray[np.float64],
    shape: tuple[int, int, int],
    samples: tuple[int, int, int],
) -> NDArray[np.float32]:
    total = np.zeros(shape, dtype=np.float64)
    for di in _offsets(samples[0]):
        for dj in _offsets(samples[1]):
            for dk in _offsets(samples[2]):
                total += ndimage.affine_transform(
                    volume,
                    matrix[:3, :3],
                    offset=matrix[:3, :3] @ [di, dj, dk] + matrix[:3, 3],
                    output_shape=shape,
                    order=1,
                    mode="grid-constant",
                )
    return np.asarray(total / math.prod(samples), dtype=np.float32)


def sampling_matrix(voxels: NDArray[np.float64], shape: tuple[int, int, int]) -> sparse.csr_array:
    """Weigh the voxels around points, once for all volumes of a series.

    Multiplying by it takes a tenth of the time of ``scipy.ndimage.map_coordinates``.

    Parameters
    ----------
    voxels : ndarray, shape (n, 3)
        Points, in voxels of a grid.
    shape : tuple of int, length 3
        Of that grid.

    Returns
    -------
    csr_array, shape (n, X Y Z), float32
        Trilinear weights, eight or fewer a row; times a volume that is flattened with its first
        axis fastest, it gives the values at the points, 0 beyond the outermost voxel centres.

    Examples
    --------
    >>> volume = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    >>> sampling_matrix(np.array([[0.5, 1, 2]]), (2, 3, 4)) @ volume.ravel(order="F")
    array([12.], dtype=float32)
    """
    voxels = np.where(np.abs(voxels - np.rint(voxels)) < 1e-4, np.rint(voxels), voxels)
    lower = np.floor(voxels).astype(np.int64)
    upper_share = voxels - lower
    rows, columns, weights = [], [], []
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.where(corner, upper_share, 1.0 - upper_share).prod(axis=1)
        index = lower + corner
        used = ((index >= 0) & (index < shape)).all(axis=1) & (weight > 0)
        rows.append(np.flatnonzero(used).astype(np.int32))
        column = np.ravel_multi_index(tuple(index[used].T), shape, order="F")
        columns.append(column.astype(np.int32))
        weights.append(weight[used].astype(np.float32))
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array(entries, shape=(len(voxels), math.prod(shape)))


def time_positions(
    n_volumes: int, tr_in: float, tr_out: float, *, how: TimePositions = "centres"
) -> NDArray[np.float64]:
    """Find where on the old time axis the new volumes lie.

    By ``centres`` the new series has round(T tr_in / tr_out) volumes, at least one, spread over
    the same duration; volumes are intervals of time, so new volume i lies at
    (i + 1/2) T / T' - 1/2. By ``ends`` it has round((T - 1) tr_in / tr_out) + 1 volumes, from the
    first to the last at even distances: volumes are points in time.

    Parameters
    ----------
    n_volumes : int
        Volumes of the old series.
    tr_in, tr_out : float
        Repetition times in seconds.
    how : {'centres', 'ends'}
        What the network was trained on.

    Returns
    -------
    ndarray, shape (T',)
        In old volumes, between 0 and T - 1.

    References
    ----------
    ``torch.nn.functional.interpolate(mode="linear", align_corners=False)``; for ``ends``,
    yuxiangwei0808/fMRI-LM at 037dcf9.
    """
    if how == "ends":
        return np.linspace(0.0, n_volumes - 1.0, round((n_volumes - 1) * tr_in / tr_out) + 1)
    n_new = max(round(n_volumes * tr_in / tr_out), 1)
    where = (np.arange(n_new) + 0.5) * (n_volumes / n_new) - 0.5
    return np.asarray(np.clip(where, 0.0, n_volumes - 1.0), dtype=np.float64)


def time_step(n_volumes: int, n_new: int, tr_in: float, *, how: TimePositions = "centres") -> float:
    """Say how far apart the new volumes lie, which is not the repetition time to the last digit.

    Parameters
    ----------
    n_volumes, n_new : int
        Volumes of the old series, and of the new one.
    tr_in : float
        Repetition time of the old one in seconds.
    how : {'centres', 'ends'}
        Of :func:`time_positions`.

    Returns
    -------
    float
        Seconds.

    Examples
    --------
    >>> time_step(50, 20, 0.8), round(time_step(50, 21, 0.8, how="ends"), 6)
    (2.0, 1.96)
    """
    if how == "ends" and n_new > 1:
        return (n_volumes - 1) * tr_in / (n_new - 1)
    return n_volumes * tr_in / n_new


def resample_time(
    series: NDArray[np.floating], tr_in: float, tr_out: float, *, how: TimePositions = "centres"
) -> NDArray[np.float32]:
    """Interpolate a series linearly at another repetition time.

    Parameters
    ----------
    series : ndarray, shape (..., T)
        Volumes or parcels.
    tr_in, tr_out : float
        Repetition times in seconds.
    how : {'centres', 'ends'}
        Of :func:`time_positions`.

    Returns
    -------
    ndarray, shape (..., T'), float32
        See :func:`time_positions`.
    """
    data = np.asarray(series, dtype=np.float32)
    where = time_positions(data.shape[-1], tr_in, tr_out, how=how)
    lower = np.floor(where).astype(int)
    upper = np.minimum(lower + 1, data.shape[-1] - 1)
    part = (where - lower).astype(np.float32)
    mixed = data[..., lower] * (1 - part) + data[..., upper] * part
    return np.asarray(mixed, dtype=np.float32)
