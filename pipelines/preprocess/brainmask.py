"""Where the brain is in the T1w image, by two methods that do not share their mistakes.

The network of deepbet decides; the template's mask, carried back after normalisation, checks.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.image import read_volume, write_volume

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["compare_masks", "extract_brain", "read_mask"]

POSSIBLE_LITRES = (0.4, 3.0)
"""Outside of this nothing was found, or not only a brain: the work stops."""
USUAL_LITRES = (0.9, 2.2)
"""Intracranial volume of most people from school age on; outside of this the report says so."""
STRIPPED_BACKGROUND = 0.5
"""Share of exact zeros above which, with nothing but a brain's volume left, the skull is gone."""
AGREEMENT = 0.90
"""Dice of the two masks below which the report says that they disagree."""

logger = logging.getLogger(__name__)


def extract_brain(t1w: Path, out_mask: Path) -> dict[str, Any]:
    """Find the brain with deepbet, or take what is left when the skull is already gone.

    Nothing is written but `out_mask`, and nothing is fetched: the network's weights are in
    deepbet's package.

    Parameters
    ----------
    t1w : Path
        T1w image, any orientation, arbitrary units.
    out_mask : Path
        The mask to write: uint8, grid of `t1w`.

    Returns
    -------
    dict
        ``method``, ``volume_litres``, ``verdict`` (``ok`` or the reason for a look), for the
        quality report.

    Raises
    ------
    CorruptImageError
        If the image cannot be read.
    DataError
        If what was found cannot be a brain by its volume.

    References
    ----------
    Fisch L. et al. 2024, Comput. Biol. Med. 179:108845, "deepbet: fast brain extraction of
    T1-weighted MRI using convolutional neural networks".
    """
    volume, grid = read_volume(t1w)
    left = _already_stripped(volume, grid)
    mask = _deepbet(volume, grid) if left is None else left
    litres = _litres(mask, grid)
    if not POSSIBLE_LITRES[0] <= litres <= POSSIBLE_LITRES[1]:
        raise DataError(
            f"{t1w}: brain extraction found {litres:.2f} litres; a head holds"
            f" {POSSIBLE_LITRES[0]} to {POSSIBLE_LITRES[1]}",
            fix="look at the image: is it a T1w image of a whole head, with the right voxel sizes?",
        )
    write_volume(out_mask, mask, grid=grid, dtype=np.uint8)
    usual = USUAL_LITRES[0] <= litres <= USUAL_LITRES[1]
    verdict = "ok" if usual else f"look: {litres:.2f} litres is unusual for an adult"
    logger.info("brain mask: %.2f litres (%s)", litres, verdict)
    return {
        "method": "deepbet" if left is None else "skull-stripped input",
        "volume_litres": round(litres, 4),
        "verdict": verdict,
    }


def compare_masks(mask: Path, second: Path) -> dict[str, Any]:
    """Compare the brain mask with that of another method, on one grid.

    Parameters
    ----------
    mask, second : Path
        Two masks on the same grid, such as deepbet's and the template's carried back.

    Returns
    -------
    dict
        ``dice``, ``volume_litres``, ``second_volume_litres``, ``verdict``.

    Raises
    ------
    CorruptImageError
        If a mask is empty, or the grids differ.
    """
    _, grid = read_volume(mask)
    ours, theirs = read_mask(mask, grid), read_mask(second, grid)
    dice = float(2 * np.sum(ours & theirs) / (ours.sum() + theirs.sum()))
    agree = dice >= AGREEMENT
    return {
        "dice": round(dice, 4),
        "volume_litres": round(_litres(ours, grid), 4),
        "second_volume_litres": round(_litres(theirs, grid), 4),
        "second_method": "template mask carried back",
        "verdict": "ok" if agree else f"look: two methods agree by a Dice of {dice:.2f} only",
    }


def read_mask(path: Path, grid: Grid) -> NDArray[np.bool_]:
    """Read a mask that lies on a known grid.

    Returns
    -------
    ndarray, shape (X, Y, Z), bool
        True where the stored value is above one half.

    Raises
    ------
    CorruptImageError
        If the grids differ, or the mask is empty.
    """
    values, own = read_volume(path)
    if own != grid:
        raise CorruptImageError(
            f"{path}: the mask's grid of {own.shape} voxels is not that of its image,"
            f" {grid.shape} voxels, or their affines differ",
            fix="give a mask made on the grid of the image",
        )
    mask = values > 0.5
    if not mask.any():
        raise CorruptImageError(f"{path}: the mask is empty", fix="give the mask of a brain")
    return mask


def _already_stripped(volume: NDArray[np.float32], grid: Grid) -> NDArray[np.bool_] | None:
    """Give the mask of an image without skull, or nothing if there is more than a brain.

    Stripped images have exact zeros around one body of a brain's volume.
    """
    if np.mean(volume <= 0) < STRIPPED_BACKGROUND:
        return None
    labels, n_bodies = ndimage.label(volume > 0)
    if not n_bodies:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == sizes.argmax()
    one_body = sizes.max() > 0.98 * sizes.sum()
    filled = np.asarray(ndimage.binary_fill_holes(body), dtype=np.bool_)
    brain_like = POSSIBLE_LITRES[0] <= _litres(filled, grid) <= USUAL_LITRES[1]
    return filled if one_body and brain_like else None


def _deepbet(volume: NDArray[np.float32], grid: Grid) -> NDArray[np.bool_]:
    """Run the network on the CPU; its own messages about an empty image become ours."""
    from deepbet import BrainExtraction

    try:
        _, mask, _ = BrainExtraction(no_gpu=True).run(nib.Nifti1Image(volume, grid.affine))
    except (AssertionError, ValueError) as error:
        raise DataError(
            f"brain extraction found no brain ({error})",
            fix="look at the image: is it a T1w image of a whole head?",
        ) from error
    return np.asarray(mask.dataobj) > 0


def _litres(mask: NDArray[np.bool_], grid: Grid) -> float:
    return float(mask.sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1e6)
