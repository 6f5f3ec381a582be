"""Upstream's own arithmetic on volumes, to compare our numbers with theirs.

What differs from ours: voxels are taken in the order in which they are stored and no affine is
looked at; voxel sizes and the repetition time are those of the header; a series of other voxels
is stretched to 2 mm without regard to where its origin lies; axes above 96 voxels are cropped in
the middle and shorter ones padded; negative values become 0, however many there are; and values
pass through 8 bits. Background is what lies outside of a mask, or every voxel of every volume
that is exactly 0.

References
----------
CUHK-AIM-Group/NeuroSTORM at a8dc38f, ``datasets/preprocessing_volume.py`` and the dataset that
reads its files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.normalize import Moments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "EDGE",
    "TR",
    "ZOOM",
    "UpstreamScale",
    "crop_middle",
    "fit_window",
    "interpolate",
    "measure_upstream",
    "new_shape",
    "pad_window",
    "resample_as_upstream",
]

EDGE = 96
"""Voxels along each axis of what upstream stores."""
ZOOM, TR = 2.0, 0.8
"""Millimetres and seconds that upstream resamples to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamScale:
    """What is known of the foreground of a whole run.

    Parameters
    ----------
    mean, sd : float
        After negative values became 0, in the unit of the series.
    lowest, highest : float
        Its range after scaling; the lowest value is that of the background.
    negatives : float
        Share of the foreground that was below 0.
    """

    mean: float
    sd: float
    lowest: float
    highest: float
    negatives: float

    @property
    def step(self) -> float:
        """Standard deviations from one of the 8-bit levels to the next."""
        return max(abs(self.lowest), abs(self.highest)) / 127

    def apply(
        self, volume: NDArray[np.float32], mask: NDArray[np.bool_] | None
    ) -> NDArray[np.float32]:
        """Scale a volume (X, Y, Z): what upstream stored in 2025, as float16."""
        foreground = volume != 0 if mask is None else mask
        clamped = np.maximum(volume, np.float32(0))
        scaled = (clamped - np.float32(self.mean)) / np.float32(self.sd)
        return np.where(foreground, scaled, np.float32(self.lowest))

    def to_levels(self, scaled: NDArray[np.float32]) -> NDArray[np.int8]:
        """Round scaled values to 8 bits: what upstream has stored since 2026."""
        return np.round(scaled / np.float32(self.step)).clip(-127, 127).astype(np.int8)

    def of_levels(self, levels: NDArray[np.int8]) -> NDArray[np.float32]:
        """Give scaled values back from 8 bits."""
        return levels.astype(np.float32) * np.float32(self.step)


def new_shape(shape: Sequence[int], zooms: Sequence[float]) -> tuple[tuple[int, int, int], int]:
    """Count voxels and volumes after upstream's resampling.

    Parameters
    ----------
    shape : sequence of int, length 4
        Of the series.
    zooms : sequence of float, length 4
        Millimetres along X, Y and Z, and seconds, as the header has them.

    Returns
    -------
    tuple of int, length 3
        Voxels along X, Y and Z, before cropping.
    int
        Volumes, at least one.

    Examples
    --------
    >>> new_shape((14, 17, 13, 12), (3, 3, 4, 2.0))
    ((21, 26, 26), 30)
    """
    i, j, k = (round(n * zoom / ZOOM) for n, zoom in zip(shape[:3], zooms[:3], strict=True))
    return (i, j, k), max(round(shape[3] * zooms[3] / TR), 1)


def interpolate(volume: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Stretch a volume (X, Y, Z) to another shape, trilinearly, corners on corners."""
    if tuple(shape) == volume.shape:
        return volume
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    stretched = torch.nn.functional.interpolate(
        tensor, size=tuple(shape), mode="trilinear", align_corners=False
    )
    return np.asarray(stretched[0, 0].numpy(), dtype=np.float32)


def crop_middle(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the middle 96 voxels along each longer axis; shorter axes stay."""
    starts = [max(0, n - EDGE) // 2 for n in volume.shape]
    return volume[tuple(slice(start, start + EDGE) for start in starts)]


def resample_as_upstream(
    volumes: Iterable[NDArray[np.float32]], shape: Sequence[int], zooms: Sequence[float]
) -> Iterator[NDArray[np.float32]]:
    """Resample a stream of volumes to 2 mm and 0.8 s, and crop it.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z)
        All volumes in their order; consumed once.
    shape, zooms : sequence, length 4
        As for `new_shape`.

    Yields
    ------
    ndarray, shape (X', Y', Z'), float32
        No longer than 96 voxels along any axis.
    """
    space, n_new = new_shape(shape, zooms)
    # Single precision throughout, as torch weighs: a double would round otherwise.
    scale, half = np.float32(shape[3] / n_new), np.float32(0.5)
    where = np.maximum(scale * (np.arange(n_new, dtype=np.float32) + half) - half, 0)
    lower = where.astype(int)
    upper, part = np.minimum(lower + 1, shape[3] - 1), where - lower
    ready, before = 0, np.zeros((), dtype=np.float32)
    for t, volume in enumerate(volumes):
        here = crop_middle(interpolate(volume, space))
        while ready < n_new and upper[ready] == t:
            p = part[ready]
            first = here if lower[ready] == t else before
            yield first * (np.float32(1) - p) + here * p
            ready += 1
        before = here


def measure_upstream(
    volumes: Iterable[NDArray[np.float32]], mask: NDArray[np.bool_] | None
) -> UpstreamScale:
    """Gather what the z-score and the 8 bits need, in one pass.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z)
        From `resample_as_upstream`; consumed once.
    mask : ndarray, shape (X, Y, Z), bool, or None
        Foreground; None takes what is not exactly 0, volume by volume.

    Raises
    ------
    DataError
        If the foreground is empty, or the same value everywhere.
    """
    moments = Moments()
    for volume in volumes:
        moments.add(volume[volume != 0 if mask is None else mask])
    mean, sd = moments.mean, moments.sd
    return UpstreamScale(
        mean=mean,
        sd=sd,
        lowest=(moments.lowest - mean) / sd,
        highest=(moments.highest - mean) / sd,
        negatives=moments.n_negative / moments.n,
    )


def pad_window(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pad X, Y and Z of a window (X, Y, Z, L) to 96 with the value of its first corner."""
    spare = [EDGE - n for n in window.shape[:3]]
    sides = [(n - n // 2, n // 2) for n in spare]
    return np.pad(window, [*sides, (0, 0)], constant_values=window[0, 0, 0, 0])


def fit_window(window: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Pad a window (X, Y, Z, L) to 96, and stretch its volumes where a network takes others."""
    padded = pad_window(window)
    if tuple(shape) == padded.shape[:3]:
        return padded
    volumes = [interpolate(volume, shape) for volume in np.moveaxis(padded, -1, 0)]
    return np.moveaxis(np.stack(volumes), 0, -1)
