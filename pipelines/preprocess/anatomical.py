"""The T1w image, made ready: checked, in RAS order, freed of its bias field, averaged.

Work is done at 1 mm at the finest. The chain serves functional images of 2 mm and more, where
finer anatomy costs time and memory and changes nothing.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from neurostorm_app.errors import CorruptImageError, NoInputError
from neurostorm_app.pipelines.grid import Grid, vox2vox
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.preprocess.registration import register_rigidly
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "block_mean",
    "check_head",
    "conform",
    "correct_bias",
    "prepare_t1w",
    "upsample",
    "with_zooms",
]

FINEST_MM = 0.9
"""Images with a voxel edge below this are brought to `WORKING_MM`."""
WORKING_MM = 1.0
BLOCK_MM = 5.0
"""Voxel size at which the bias field is estimated: it is smoother than that by far."""
VOXEL_MM = (0.2, 5.0)
"""Voxel edges of a head image; anything else is a header in other units."""
EXTENT_MM = (80.0, 600.0)
"""Field of view of a head image."""

logger = logging.getLogger(__name__)


def prepare_t1w(paths: Sequence[Path], out: Path, *, work_dir: Path) -> dict[str, Any]:
    """Conform, correct and average the T1w images of a participant.

    Parameters
    ----------
    paths : sequence of Path
        T1w images, any orientation. Those after the first are moved rigidly onto it.
    out : Path
        The image to write: RAS+, float32, arbitrary units, background at zero.
    work_dir : Path
        Folder for scratch files.

    Returns
    -------
    dict
        What was found and done, for the quality report (JSON types).

    Raises
    ------
    NoInputError
        If `paths` is empty, or a file is not there.
    CorruptImageError
        If an image cannot be read, is constant, or its voxel sizes are not those of a head.
    """
    if not paths:
        raise NoInputError(
            "no T1w image was found", fix="give a dataset with a T1w image, or its derivatives"
        )
    volumes: list[NDArray[np.float32]] = []
    report: dict[str, Any] = {"n_images": len(paths), "sources": [path.name for path in paths]}
    first: Grid | None = None
    for path in paths:
        raw, source = read_volume(path)
        check_head(raw, source, path)
        volume, grid = conform(raw, source)
        if first is None:
            first = grid
            report["acquired_zooms_mm"] = [round(zoom, 4) for zoom in source.zooms]
            report["acquired_shape"] = list(source.shape)
        volume, field = correct_bias(volume, grid)
        report.setdefault("bias_field_spread", []).append(round(float(field), 3))
        if volumes:
            volume = _onto_first(volume, grid, volumes[0], first, work_dir=work_dir)
        volumes.append(volume)
    average = np.asarray(np.mean(volumes, axis=0, dtype=np.float32))
    assert first is not None  # noqa: S101  # `paths` is not empty
    write_volume(out, average, grid=first)
    return report | {"shape": list(first.shape), "zooms_mm": [round(z, 4) for z in first.zooms]}


def check_head(volume: NDArray[np.float32], grid: Grid, path: Path) -> None:
    """Refuse an image that cannot be a head.

    Raises
    ------
    CorruptImageError
        If voxels are not finite or all alike, or voxel sizes or field of view are out of bounds.
    """
    bad = int(np.count_nonzero(~np.isfinite(volume)))
    if bad:
        raise CorruptImageError(
            f"{path}: {bad} of {volume.size} voxels are not finite numbers",
            fix="repair the image: set such voxels to zero if they are background",
        )
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        raise CorruptImageError(
            f"{path}: all voxels are {low:g}", fix="fetch or convert the image again"
        )
    extent = [n * zoom for n, zoom in zip(grid.shape, grid.zooms, strict=True)]
    zooms_fit = all(VOXEL_MM[0] <= zoom <= VOXEL_MM[1] for zoom in grid.zooms)
    extent_fits = all(EXTENT_MM[0] <= mm <= EXTENT_MM[1] for mm in extent)
    if not (zooms_fit and extent_fits):
        found = " x ".join(f"{zoom:.3g}" for zoom in grid.zooms)
        field = " x ".join(f"{mm:.0f}" for mm in extent)
        raise CorruptImageError(
            f"{path}: voxels of {found} mm and a field of view of {field} mm; a head needs voxels"
            f" of {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm, and a field of view of {EXTENT_MM[0]:g} to"
            f" {EXTENT_MM[1]:g} mm",
            fix="repair the voxel sizes in the header (NIfTI counts in millimetres)",
        )


def conform(volume: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.float32], Grid]:
    """Bring a volume to RAS+ order, without interpolation unless it is finer than needed.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        Any orientation.
    grid : Grid
        Its grid.

    Returns
    -------
    volume : ndarray, shape (X', Y', Z'), float32
        Axes run along R, A and S as nearly as the acquisition allows; oblique stays oblique.
    grid : Grid
        Voxels as acquired, or of 1 mm when an edge was below 0.9 mm.
    """
    canonical = nib.as_closest_canonical(nib.Nifti1Image(volume, grid.affine))
    volume = np.ascontiguousarray(canonical.dataobj, dtype=np.float32)
    grid = Grid.of(canonical)
    if min(grid.zooms) >= FINEST_MM:
        return volume, grid
    target = with_zooms(grid, WORKING_MM)
    sigma = [0.42 * np.sqrt(max(WORKING_MM**2 - zoom**2, 0.0)) / zoom for zoom in grid.zooms]
    smooth = ndimage.gaussian_filter(volume, sigma, truncate=3)
    matrix = vox2vox(grid.affine, target.affine)
    coarse = ndimage.affine_transform(
        smooth, matrix[:3, :3], matrix[:3, 3], output_shape=target.shape, order=1
    )
    return np.asarray(coarse, dtype=np.float32), target


def correct_bias(
    volume: NDArray[np.float32], grid: Grid, *, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], float]:
    """Divide by a smooth field so that one tissue has one brightness (N4).

    The field is estimated on voxels of about 5 mm and evaluated there: it is smoother than that
    by far (knots 200 mm apart), so linear interpolation between them is exact enough.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        Brightness, arbitrary units, not negative.
    grid : Grid
        Its grid.
    mask : ndarray of bool, shape (X, Y, Z), optional
        Where to estimate; by default the foreground by Otsu's threshold.

    Returns
    -------
    volume : ndarray, shape (X, Y, Z), float32
        Corrected brightness.
    spread : float
        95th over 5th percentile of the field in the foreground: 1 means no bias.

    References
    ----------
    Tustison N. et al. 2010, IEEE Trans. Med. Imaging 29:1310, "N4ITK".
    """
    import SimpleITK

    sitk: Any = SimpleITK
    steps = [math.ceil(BLOCK_MM / zoom) for zoom in grid.zooms]
    coarse = block_mean(np.maximum(volume, 0), steps)
    image = sitk.GetImageFromArray(coarse.T)
    image.SetSpacing([step * zoom for step, zoom in zip(steps, grid.zooms, strict=True)])
    if mask is None:
        inside = sitk.OtsuThreshold(image, 0, 1, 200)
    else:
        inside = sitk.GetImageFromArray((block_mean(mask.astype(np.float32), steps) > 0.5).T * 1)
        inside.CopyInformation(image)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([20] * 4)
    n4.SetConvergenceThreshold(1e-3)
    n4.SetNumberOfThreads(1)
    n4.Execute(image, sitk.Cast(inside, sitk.sitkUInt8))
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
    foreground = log_field[sitk.GetArrayFromImage(inside).T > 0]
    low, high = np.percentile(foreground, [5, 95])
    centre = float(np.median(foreground))
    field = upsample(log_field.astype(np.float32) - centre, steps, volume.shape)
    corrected = np.asarray(np.maximum(volume, 0) / np.exp(field), dtype=np.float32)
    return corrected, float(np.exp(high - low))


def with_zooms(grid: Grid, zoom: float) -> Grid:
    """Cover the same field of view, along the same axes, with cubic voxels.

    Parameters
    ----------
    grid : Grid
        Any orientation.
    zoom : float
        Edge of the new voxels, mm.

    Returns
    -------
    Grid
        With the same centre.
    """
    zooms = np.asarray(grid.zooms)
    shape = np.maximum(1, np.floor(zooms * grid.shape / zoom + 0.5)).astype(int)
    affine = grid.affine.copy()
    affine[:3, :3] *= zoom / zooms
    centre = grid.affine @ [*((np.asarray(grid.shape) - 1) / 2), 1.0]
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((shape - 1) / 2)
    x, y, z = (int(n) for n in shape)
    return Grid((x, y, z), affine)


def block_mean(volume: NDArray[np.float32], steps: Sequence[int]) -> NDArray[np.float32]:
    """Average blocks of voxels; those at the far edges are filled up with the edge's value."""
    pad = [(0, -n % step) for n, step in zip(volume.shape, steps, strict=True)]
    full = np.pad(volume, pad, mode="edge")
    a, b, c = (n // step for n, step in zip(full.shape, steps, strict=True))
    blocks = full.reshape(a, steps[0], b, steps[1], c, steps[2])
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)


def upsample(
    coarse: NDArray[np.float32], steps: Sequence[int], shape: Sequence[int]
) -> NDArray[np.float32]:
    """Undo `block_mean` for a smooth array, by linear interpolation between block centres."""
    steps_ = np.asarray(steps, dtype=np.float64)
    return np.asarray(
        ndimage.affine_transform(
            coarse,
            np.diag(1 / steps_),
            (1 - steps_) / (2 * steps_),
            output_shape=tuple(shape),
            order=1,
            mode="nearest",
        ),
        dtype=np.float32,
    )


def _onto_first(
    volume: NDArray[np.float32],
    grid: Grid,
    first: NDArray[np.float32],
    target: Grid,
    *,
    work_dir: Path,
) -> NDArray[np.float32]:
    """Move a later T1w image rigidly onto the first, and give it the same brightness."""
    xfm = register_rigidly((first, target), (volume, grid), work_dir=work_dir)
    moved = resample_volume(volume, source=grid, target=target, xfm=xfm, order=3)
    head = np.logical_and(first > first.mean(), moved > 0)
    return np.maximum(moved, 0) * np.float32(np.median(first[head]) / np.median(moved[head]))
