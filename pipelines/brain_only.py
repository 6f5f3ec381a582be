"""An image without what lies outside of the brain: no face can be drawn from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.image import open_image, read_volume, write_volume

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_brain"]


def write_brain(source: Path, mask: Path, target: Path) -> None:
    """Copy a volume with zeros outside of a brain mask.

    Parameters
    ----------
    source : Path
        The volume.
    mask : Path
        Not zero in the brain, on the grid of `source`.
    target : Path
        ``.nii`` or ``.nii.gz``; its grid and code of the world are those of `source`.

    Raises
    ------
    DataError
        If the two are on different grids, or the mask is empty.
    """
    volume, grid = read_volume(source)
    brain, place = read_volume(mask)
    if place != grid or not brain.any():
        raise DataError(
            f"{source} cannot be masked by {mask}: shape {grid.shape}, the mask has {place.shape} "
            f"and {int(np.count_nonzero(brain))} voxels of brain; expected one grid",
            fix="look at the brain mask; an image with a face is not written",
        )
    code = int(open_image(source).header["sform_code"]) or 1
    write_volume(target, np.where(brain > 0, volume, 0), grid=grid, code=code)
