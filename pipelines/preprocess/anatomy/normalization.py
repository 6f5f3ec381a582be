"""From one participant's brain to the standard ones: smooth invertible maps, and their use.

The brain is registered once, to the template that all maps between standard spaces meet in
(MNI152NLin2009cAsym); the other spaces come by composition. A space without such a map is
registered on its own, to TemplateFlow's images.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.itk import write_itk_composite
from neurostorm_app.pipelines.preprocess.anatomy.anatomical import with_zooms
from neurostorm_app.pipelines.preprocess.anatomy.boldnormalization import normalize_boldref
from neurostorm_app.pipelines.preprocess.anatomy.brainmask import compare_masks, read_mask
from neurostorm_app.pipelines.preprocess.anatomy.likeness import (
    RANGES,
    correlate,
    judge,
    measure_map,
)
from neurostorm_app.pipelines.preprocess.anatomy.registration import Registered, register_syn
from neurostorm_app.pipelines.preprocess.anatomy.spacechains import around, place_in_space
from neurostorm_app.pipelines.preprocess.anatomy.standardanatomy import to_standard
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.templates import HUB, SPACES, Template, load_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

    Placed = tuple[NDArray[np.float32], Grid]

__all__ = ["Normalized", "normalize", "normalize_boldref", "to_standard"]

TISSUES = ("GM", "WM", "CSF")
RES = "2"
"""Resolution index of the templates that are registered to."""
TEMPLATE_MM = 2.0
"""A template that TemplateFlow has on finer voxels only is sampled so."""
BLUR_MM = 0.8
"""Standard deviation of the blur before a 1 mm image meets a 2 mm grid."""
MARGIN_MM = 12.0
"""Around the participant's brain, where the template is carried back."""
TEMPLATE_MARGIN_MM = 10.0
"""Around the template's brain, where the map is computed; it fades to the affine there."""
SYN: dict[str, Any] = {
    "syn_metric": "CC",
    "syn_sampling": 2,
    "reg_iterations": (40, 20, 4),
    "grad_step": 0.4,
    "flow_sigma": 4,
}
"""Cross-correlation in blocks of 5 voxels, at 8, 4 and 2 mm; ``tests/test_accuracy_anatomy.py``
measures it. On phantoms of known truth the median error over grey matter was 0.67 to 0.72 mm (two
of five people, among them the worst); steps of 0.2 and a flow of 3, with two iterations at 2 mm,
left 0.81 to 0.88 mm."""
MOVING_MM = 1.5
"""Voxel size of the participant's brain in the registration."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalized:
    """What normalisation leaves on disk.

    Parameters
    ----------
    to_std : mapping of str to Path
        By space: ``from-T1w_to-<space>``, template points to T1w points; ITK composite.
    from_std : mapping of str to Path
        By space: ``from-<space>_to-T1w``, T1w points to template points; ITK composite.
    template_mask : Path
        The template's brain mask carried back to the grid of the T1w image.
    priors : mapping of str to Path
        The template's ``GM``, ``WM`` and ``CSF`` maps carried back.
    qc : mapping
        Likeness, strain, the comparison of brain masks, ``verdict`` and ``reasons`` (JSON types).
    """

    to_std: Mapping[str, Path]
    from_std: Mapping[str, Path]
    template_mask: Path
    priors: Mapping[str, Path]
    qc: Mapping[str, Any]


def normalize(
    t1w: Path, mask: Path, *, spaces: Sequence[str], out_dir: Path, seed: int = 42
) -> Normalized:
    """Find the maps between a participant's brain and standard ones.

    Affine, then SyN, on the template's grid of 2 mm, the same numbers every time.

    Parameters
    ----------
    t1w : Path
        T1w image, bias-corrected.
    mask : Path
        Brain mask on its grid.
    spaces : sequence of str
        TemplateFlow names of the spaces that are wanted.
    out_dir : Path
        Folder for the results; scratch files in it are removed.
    seed : int
        Seed of the sampling.

    Returns
    -------
    Normalized
        Transforms in both directions, the template carried back, and how well it went.

    Raises
    ------
    NoInputError
        If a file or a template is not there.
    CorruptImageError
        If an image cannot be read, or the grids differ.
    DataError
        If the registration fails.
    """
    others = {space: load_template(space, RES) for space in spaces if space not in SPACES}
    hub = load_template(HUB, RES)
    volume, grid = read_volume(t1w)
    brain = read_mask(mask, grid)
    moving = _brain_for_registration(volume, brain, grid)
    out_dir.mkdir(parents=True, exist_ok=True)
    found, numbers = _register(hub, moving, out_dir=out_dir, seed=seed)
    carried = _carry_back(hub, found, brain, grid, out_dir=out_dir)
    masks = compare_masks(mask, carried["mask"])
    numbers |= {"mask_dice": masks["dice"]}
    qc: dict[str, Any] = {"template": HUB, "template_source": hub.source, **numbers}
    qc |= judge(numbers, RANGES) | {"brain_masks": masks, "spaces": {}}
    to_std, from_std = {}, {}
    for space in dict.fromkeys(spaces):
        if space in others:
            own, about = _register(others[space], moving, out_dir=out_dir, seed=seed)
            about |= {"template_source": others[space].source} | judge(about, RANGES)
            qc["spaces"][space] = {"how": "registered on its own", **about}
        else:
            own = found if space == HUB else place_in_space(found, space)
            qc["spaces"][space] = {"how": "registered" if own is found else f"through {HUB}"}
        to_std[space] = out_dir / f"from-T1w_to-{space}_mode-image_xfm.h5"
        from_std[space] = out_dir / f"from-{space}_to-T1w_mode-image_xfm.h5"
        write_itk_composite(to_std[space], own.forward)
        write_itk_composite(from_std[space], own.backward)
    logger.info("normalisation: %s", qc)
    return Normalized(
        to_std=to_std,
        from_std=from_std,
        template_mask=carried["mask"],
        priors={name: carried[name] for name in TISSUES},
        qc=qc,
    )


def _brain_for_registration(
    volume: NDArray[np.float32], brain: NDArray[np.bool_], grid: Grid
) -> Placed:
    """Cut the brain out and sample it every 1.5 mm, blurred: finer costs time, and no more."""
    box, near = around(brain, grid, TEMPLATE_MARGIN_MM)
    sigma = [BLUR_MM / zoom for zoom in grid.zooms]
    blurred = ndimage.gaussian_filter(np.where(brain, volume, 0)[box], sigma)
    if min(grid.zooms) >= MOVING_MM:
        return blurred, near
    target = with_zooms(near, MOVING_MM)
    return resample_volume(blurred, source=near, target=target, order=1), target


def _register(
    template: Template, moving: Placed, *, out_dir: Path, seed: int
) -> tuple[Registered, dict[str, Any]]:
    """Register a brain to a template, and measure how well it went."""
    (fixed, near), inside = _fixed_brain(template)
    found = register_syn((fixed, near), moving, work_dir=out_dir, seed=seed, **SYN)
    warped = resample_volume(moving[0], source=moving[1], target=near, xfm=found.forward, order=1)
    numbers = {"correlation_with_template": correlate(warped[inside], fixed[inside])}
    return found, numbers | measure_map(found.forward, found.backward, inside)


def _fixed_brain(template: Template) -> tuple[Placed, NDArray[np.bool_]]:
    """Cut the template's brain out, on voxels of 2 mm: its volume, its grid, its mask."""
    inside = read_mask(template.mask, template.grid)
    volume = np.where(inside, read_volume(template.t1w)[0], 0)
    if not volume.std() > 0:
        raise DataError(
            f"{template.t1w}: the template is empty inside its mask",
            fix="fetch the template anew",
        )
    box, near = around(inside, template.grid, TEMPLATE_MARGIN_MM)
    if min(near.zooms) > 0.75 * TEMPLATE_MM:
        return (volume[box], near), inside[box]
    sigma = [BLUR_MM / zoom for zoom in near.zooms]
    blurred, target = ndimage.gaussian_filter(volume[box], sigma), with_zooms(near, TEMPLATE_MM)
    coarse = resample_volume(blurred, source=near, target=target, order=1)
    within = resample_volume(inside[box], source=near, target=target, order=1) > 0.5
    return (coarse, target), within


def _carry_back(
    template: Template, found: Registered, brain: NDArray[np.bool_], grid: Grid, *, out_dir: Path
) -> dict[str, Path]:
    """Bring the template's mask and tissue maps to the T1w grid, around the brain only."""
    box, small = around(brain, grid, MARGIN_MM)
    points = found.backward(small.world())
    written: dict[str, Path] = {}
    roles = {"mask": template.mask, "GM": template.gm, "WM": template.wm, "CSF": template.csf}
    for role, path in roles.items():
        if path is None:
            raise DataError(
                f"the template {template.space} has no map of {role}",
                fix="complete its folder in TemplateFlow's home, or unset TEMPLATEFLOW_HOME",
            )
        volume, source = read_volume(path)
        whole = np.zeros(grid.shape, dtype=np.float32)
        whole[box] = resample_volume(
            volume, source=source, target=small, xfm=lambda _: points, order=1
        )
        if role == "mask":
            written[role] = out_dir / "desc-template_mask.nii.gz"
            write_volume(written[role], whole > 0.5, grid=grid, dtype=np.uint8)
        else:
            written[role] = out_dir / f"label-{role}_desc-prior_probseg.nii.gz"
            write_volume(written[role], whole, grid=grid)
    return written
