"""A series in a standard space, left on disk: its header, its volumes one by one, its brain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import DataError, SeriesTooShortError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import iter_volumes, open_image, read_volume
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SeriesFile", "find_brain", "open_series"]

N_LOOKED_AT = 30
"""Volumes averaged to find a brain where no mask was given: a minute of most acquisitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFile:
    """A series that stays on disk.

    Parameters
    ----------
    path : Path
        A NIfTI file, (X, Y, Z, T).
    grid : Grid
        Where its voxels are.
    n_volumes : int
        Its length.
    brain : ndarray, shape (X, Y, Z), bool, or None
        Where its values must be finite; None is everywhere.
    """

    path: Path
    grid: Grid
    n_volumes: int
    brain: NDArray[np.bool_] | None = None

    def within(self, brain: NDArray[np.bool_]) -> SeriesFile:
        """Read as 0 what is not finite outside of a brain, as derivatives of SPM mark it.

        Parameters
        ----------
        brain : ndarray, shape (X, Y, Z), bool
            On the grid of the series.

        Returns
        -------
        SeriesFile
            The same file.
        """
        return replace(self, brain=brain)

    def volumes(self) -> Iterator[NDArray[np.float32]]:
        """Read the series once, from its first volume to its last; yields volumes (X, Y, Z).

        Raises
        ------
        CorruptImageError
            If the file ends early, cannot be decompressed, or holds a value that is not finite
            where it must be.
        """
        return iter_volumes(self.path, brain=self.brain)


def open_series(path: Path, *, min_volumes: int = 1) -> SeriesFile:
    """Read the header of a series.

    Parameters
    ----------
    path : Path
        A NIfTI file with four axes.
    min_volumes : int
        Fewer volumes than this are an error.

    Returns
    -------
    SeriesFile
        The series; no voxel has been read yet.

    Raises
    ------
    NoInputError
        If there is no such file.
    CorruptImageError
        If the header cannot be read, or its affine cannot be inverted.
    DataError
        If the image has not four axes.
    SeriesTooShortError
        If it has fewer than `min_volumes`.
    """
    image = open_image(path)
    if image.ndim != 4:
        raise DataError(
            f"{path}: has shape {image.shape}; a series has four axes, X, Y, Z and time",
            fix="give the BOLD series itself, not a reference volume, a mask or a map",
        )
    n_volumes = int(image.shape[3])
    if n_volumes < min_volumes:
        raise SeriesTooShortError(
            f"{path}: the series has {n_volumes} volumes; at least {min_volumes} are needed",
            fix="leave the run out: a result from so few volumes would mean nothing",
        )
    return SeriesFile(path=path, grid=Grid.of(image, path), n_volumes=n_volumes)


def find_brain(series: SeriesFile, mask: Path | None) -> tuple[NDArray[np.bool_], str]:
    """Read the brain mask of a series, or make one from the series itself.

    Without a mask, a series that is exactly 0 in more than two fifths of the field of view has
    been masked already, and its brain is where it is not 0: the brain fills about a quarter of a
    standard grid, and no image that was not masked is 0 in so much of it. Otherwise the brain is
    what stands out from the background of the mean of the first volumes. What is not a finite
    number counts as 0 here.

    Parameters
    ----------
    series : SeriesFile
        The series.
    mask : Path or None
        Its brain mask; another grid is carried over by nearest neighbour.

    Returns
    -------
    brain : ndarray, shape (X, Y, Z), bool
        On the grid of the series.
    source : {'given', 'nonzero', 'computed'}
        Where it comes from.

    Raises
    ------
    DataError
        If the mask, or the part of it that lies on the series, is empty.

    References
    ----------
    ``nilearn.masking.compute_epi_mask``, the histogram method of Nichols.
    """
    if mask is None:
        brain, source = _brain_of(series)
    else:
        volume, grid = read_volume(mask)
        brain = resample_volume(volume, source=grid, target=series.grid, order=0) > 0.5
        source = "given"
    if not brain.any():
        raise DataError(
            f"{mask or series.path}: the brain mask is empty on the grid of the series",
            fix="check that mask and series lie in the same place of the same space",
        )
    return brain, source


def _brain_of(series: SeriesFile) -> tuple[NDArray[np.bool_], str]:
    total = np.zeros(series.grid.shape)
    used = np.zeros(series.grid.shape, dtype=bool)
    n_used = 0
    for volume in series.within(np.zeros(series.grid.shape, dtype=bool)).volumes():
        total += volume
        used |= volume != 0
        n_used += 1
        if n_used == N_LOOKED_AT:
            break
    if used.mean() < 0.6:
        return used, "nonzero"
    import nibabel as nib
    from nilearn.masking import compute_epi_mask

    mean = nib.Nifti1Image((total / n_used).astype(np.float32), series.grid.affine)
    return np.asarray(compute_epi_mask(mean).dataobj) > 0, "computed"
