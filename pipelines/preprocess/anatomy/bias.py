"""The bias field: what coils and wavelength do to brightness, estimated and divided out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["block_mean", "correct_bias", "upsample"]

BLOCK_MM = 5.0
"""Voxel size at which the bias field is estimated: it is smoother than that by far."""


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
