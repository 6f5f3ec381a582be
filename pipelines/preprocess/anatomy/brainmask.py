"""Where the brain is in the T1w image, by methods that do not share their mistakes.

The network of deepbet decides; a mask by brightness and shape checks at once, and stands in where
the network finds nothing; the template's mask, carried back after normalisation, checks again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.preprocess.anatomy.roughbrain import find_rough_brain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["compare_masks", "extract_brain", "read_mask"]

POSSIBLE_LITRES = (0.4, 3.0)
"""Outside of this nothing was found, or not only a brain: the work stops."""
USUAL_LITRES = (0.9, 2.2)
"""Intracranial volume of most people from school age on; outside of this the report says so."""
STRIPPED_BACKGROUND = 0.25
"""Share of zeros above which, with nothing but a brain's volume left, the skull is gone; a brain
fills half of the box about it."""
ZERO = 0.01
"""Of the bright end: what is darker, in an image without skull, is the rest of an interpolation."""
AGREEMENT = 0.90
"""Dice of the mask and the template's below which the report says that they disagree."""
ROUGH_AGREEMENT = 0.88
"""Dice with the mask by brightness and shape, below which the report says so: on phantoms it is
0.98, on real heads 0.95."""
EDGE_SHARE = 0.002
"""Of the mask's voxels, at a side of the field of view: more is a brain that was cut."""

DEEPBET = "deepbet"
ROUGH = "a mask by brightness and shape"

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
        ``method``, ``volume_litres``, ``second_method``, ``second_dice`` (None where it found
        nothing), ``verdict`` (``pass`` or ``look``) and ``reasons``, for the quality report.

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
    reasons: list[str] = []
    mask, method = _already_stripped(volume, grid), "skull-stripped input"
    second = None
    if mask is None:
        second = find_rough_brain(volume, grid)
        mask, method = _whole_head(volume, grid, second, reasons)
    litres = _litres(mask, grid)
    if not POSSIBLE_LITRES[0] <= litres <= POSSIBLE_LITRES[1]:
        raise DataError(
            f"{t1w}: brain extraction found {litres:.2f} litres; a head holds"
            f" {POSSIBLE_LITRES[0]} to {POSSIBLE_LITRES[1]}",
            fix="look at the image: is it a T1w image of a whole head, with the right voxel sizes?",
        )
    write_volume(out_mask, mask, grid=grid, dtype=np.uint8)
    if not USUAL_LITRES[0] <= litres <= USUAL_LITRES[1]:
        reasons.append(f"{litres:.2f} litres is unusual for an adult")
    if _share_at_edges(mask) > EDGE_SHARE:
        reasons.append("the brain mask reaches a side of the field of view")
    dice = None
    if method == DEEPBET and second is not None:
        dice = round(_dice(mask, second), 4)
        if dice < ROUGH_AGREEMENT:
            reasons.append(f"{ROUGH} agrees by a Dice of {dice:.2f} only")
    elif method == DEEPBET:
        reasons.append(f"{ROUGH} found no brain to compare with")
    report = {
        "method": method,
        "volume_litres": round(litres, 4),
        "second_method": None if method == "skull-stripped input" else ROUGH,
        "second_dice": dice,
        "verdict": "look" if reasons else "pass",
        "reasons": reasons,
    }
    logger.info("brain mask: %s", report)
    return report


def _whole_head(
    volume: NDArray[np.float32],
    grid: Grid,
    second: NDArray[np.bool_] | None,
    reasons: list[str],
) -> tuple[NDArray[np.bool_], str]:
    """Ask the network; where it fails the second mask stands in, which is said."""
    try:
        mask = _deepbet(volume, grid)
    except DataError as error:
        if second is None:
            raise
        reasons.append(f"{error.what}: {ROUGH} stands in")
        return second, ROUGH
    litres = _litres(mask, grid)
    if second is not None and not POSSIBLE_LITRES[0] <= litres <= POSSIBLE_LITRES[1]:
        reasons.append(f"deepbet found {litres:.2f} litres: {ROUGH} stands in")
        return second, ROUGH
    return np.asarray(ndimage.binary_fill_holes(mask), dtype=np.bool_), DEEPBET


def _share_at_edges(mask: NDArray[np.bool_]) -> float:
    """Tell which share of a mask lies at the front, back, sides or top of the field of view."""
    n_at_edges = sum(int(face.sum()) for face in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    return (n_at_edges + int(mask[:, :, -1].sum())) / max(int(mask.sum()), 1)


def compare_masks(mask: Path, second: Path) -> dict[str, Any]:
    """Compare the brain mask with that of another method, on one grid.

    Parameters
    ----------
    mask, second : Path
        Two masks on the same grid, such as deepbet's and the template's carried back.

    Returns
    -------
    dict
        ``dice``, ``volume_litres``, ``second_volume_litres``, ``verdict`` and ``reasons``.

    Raises
    ------
    CorruptImageError
        If a mask is empty, or the grids differ.
    """
    _, grid = read_volume(mask)
    ours, theirs = read_mask(mask, grid), read_mask(second, grid)
    dice = _dice(ours, theirs)
    reasons = [] if dice >= AGREEMENT else [f"two methods agree by a Dice of {dice:.2f} only"]
    return {
        "dice": round(dice, 4),
        "volume_litres": round(_litres(ours, grid), 4),
        "second_volume_litres": round(_litres(theirs, grid), 4),
        "second_method": "template mask carried back",
        "verdict": "look" if reasons else "pass",
        "reasons": reasons,
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

    Stripped images have zeros around one body of a brain's volume.
    """
    bright = volume > ZERO * np.percentile(volume, 99.5)
    if 1 - bright.mean() < STRIPPED_BACKGROUND:
        return None
    labels, n_bodies = ndimage.label(bright)
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


def _dice(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    return float(2 * np.sum(ours & theirs) / max(int(ours.sum()) + int(theirs.sum()), 1))


def _litres(mask: NDArray[np.bool_], grid: Grid) -> float:
    return float(mask.sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1e6)
