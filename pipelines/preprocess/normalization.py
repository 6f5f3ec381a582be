"""From one participant's brain to the standard one: a smooth invertible map, and its use."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid, standard_grid
from neurostorm_app.pipelines.image import MNI, read_volume, write_volume
from neurostorm_app.pipelines.itk import read_itk_composite, write_itk_composite
from neurostorm_app.pipelines.preprocess.anatomical import with_zooms
from neurostorm_app.pipelines.preprocess.brainmask import compare_masks, read_mask
from neurostorm_app.pipelines.preprocess.registration import Registered, register_syn
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.templates import Template, load_template

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Normalized", "normalize", "to_standard"]

TISSUES = ("GM", "WM", "CSF")
LABELS = {"GM": 1, "WM": 2, "CSF": 3}
BLUR_MM = 0.8
"""Standard deviation of the blur before a 1 mm image meets a 2 mm grid."""
MARGIN_MM = 12.0
"""Around the participant's brain, where the template is carried back."""
TEMPLATE_MARGIN_MM = 10.0
"""Around the template's brain, where the map is computed; it fades to the affine there."""
SYN: dict[str, Any] = {"syn_metric": "CC", "syn_sampling": 2, "reg_iterations": (40, 20, 2)}
"""Cross-correlation in blocks of 5 voxels, at 8, 4 and 2 mm. On phantoms of known truth the median
error over grey matter is 0.9 mm, where mutual information (ANTsPy's own choice) leaves 1.5 mm."""
MOVING_MM = 1.5
"""Voxel size of the participant's brain in the registration."""
LIKENESS = 0.75
"""Correlation with the template inside its mask, below which the report says look."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalized:
    """What normalisation leaves on disk.

    Parameters
    ----------
    to_std_xfm : Path
        ``from-T1w_to-<space>``: template points to T1w points; ITK composite.
    from_std_xfm : Path
        ``from-<space>_to-T1w``: T1w points to template points; ITK composite.
    template_mask : Path
        The template's brain mask carried back to the grid of the T1w image.
    priors : mapping of str to Path
        The template's ``GM``, ``WM`` and ``CSF`` maps carried back.
    qc : mapping
        Likeness, strain and the comparison of brain masks (JSON types).
    """

    to_std_xfm: Path
    from_std_xfm: Path
    template_mask: Path
    priors: Mapping[str, Path]
    qc: Mapping[str, Any]


def normalize(
    t1w: Path, mask: Path, *, space: str, res: str, out_dir: Path, seed: int = 42
) -> Normalized:
    """Find the map between a participant's brain and a standard one.

    Affine, then SyN, on the template's grid of 2 mm, the same numbers every time.

    Parameters
    ----------
    t1w : Path
        T1w image, bias-corrected.
    mask : Path
        Brain mask on its grid.
    space, res : str
        TemplateFlow name and resolution index of the template.
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
        If a file or the template is not there.
    CorruptImageError
        If an image cannot be read, or the grids differ.
    DataError
        If the registration fails.
    """
    template = load_template(space, res)
    volume, grid = read_volume(t1w)
    brain = read_mask(mask, grid)
    inside = read_mask(template.mask, template.grid)
    fixed = np.where(inside, read_volume(template.t1w)[0], 0)
    box, near = _around(inside, template.grid, TEMPLATE_MARGIN_MM)
    moving = _brain_for_registration(volume, brain, grid)
    found = register_syn((fixed[box], near), moving, work_dir=out_dir, seed=seed, **SYN)
    to_std = out_dir / f"from-T1w_to-{space}_mode-image_xfm.h5"
    from_std = out_dir / f"from-{space}_to-T1w_mode-image_xfm.h5"
    write_itk_composite(to_std, found.forward)
    write_itk_composite(from_std, found.backward)
    carried = _carry_back(template, found, brain, grid, out_dir=out_dir)
    warped = resample_volume(moving[0], source=moving[1], target=near, xfm=found.forward, order=1)
    qc = _judge(warped[inside[box]], fixed[inside], found)
    qc |= {"template": f"{space} res {res}", "template_source": template.source}
    qc["brain_masks"] = compare_masks(mask, carried["mask"])
    logger.info("normalisation: %s", qc)
    return Normalized(
        to_std_xfm=to_std,
        from_std_xfm=from_std,
        template_mask=carried["mask"],
        priors={name: carried[name] for name in TISSUES},
        qc=qc,
    )


def to_standard(  # noqa: PLR0913
    t1w: Path,
    mask: Path,
    probsegs: Mapping[str, Path],
    to_std_xfm: Path,
    *,
    space: str,
    res: str,
    out_dir: Path,
) -> dict[str, Path]:
    """Bring the anatomy of a participant onto a standard grid, by one interpolation each.

    Parameters
    ----------
    t1w, mask : Path
        T1w image (cubic interpolation) and brain mask (linear, cut at one half).
    probsegs : mapping of str to Path
        ``GM``, ``WM`` and ``CSF`` (linear); the labels are the most likely tissue after it.
    to_std_xfm : Path
        Template points to T1w points; ITK composite.
    space, res : str
        TemplateFlow name and resolution index of the grid.
    out_dir : Path
        Folder for the results.

    Returns
    -------
    dict
        Paths by ``t1w``, ``mask``, ``dseg``, ``GM``, ``WM`` and ``CSF``.
    """
    target = standard_grid(space, res)
    points = read_itk_composite(to_std_xfm)(target.world())

    def bring(path: Path, *, order: int) -> NDArray[np.float32]:
        """Interpolate an image of the T1w's space on the standard grid."""
        volume, source = read_volume(path)
        return resample_volume(
            volume, source=source, target=target, xfm=lambda _: points, order=order
        )

    inside = bring(mask, order=1) > 0.5
    maps = {name: np.clip(bring(probsegs[name], order=1), 0, 1) * inside for name in TISSUES}
    stack = np.stack([maps[name] for name in TISSUES])
    labels = np.array([LABELS[name] for name in TISSUES])[stack.argmax(axis=0)]
    images: dict[str, tuple[NDArray[Any], Any]] = {
        "t1w": (np.maximum(bring(t1w, order=3), 0), np.float32),
        "mask": (inside, np.uint8),
        "dseg": (np.where(stack.max(axis=0) > 0, labels, 0), np.int16),
    }
    images |= {name: (maps[name], np.float32) for name in TISSUES}
    suffixes = {"t1w": "desc-preproc_T1w", "mask": "desc-brain_mask", "dseg": "dseg"}
    suffixes |= {name: f"label-{name}_probseg" for name in TISSUES}
    written: dict[str, Path] = {}
    for role, (volume, dtype) in images.items():
        written[role] = out_dir / f"space-{space}_res-{res}_{suffixes[role]}.nii.gz"
        write_volume(written[role], volume, grid=target, dtype=dtype, code=MNI)
    return written


def _brain_for_registration(
    volume: NDArray[np.float32], brain: NDArray[np.bool_], grid: Grid
) -> tuple[NDArray[np.float32], Grid]:
    """Cut the brain out and sample it every 1.5 mm, blurred: finer costs time, and no more."""
    box, near = _around(brain, grid, TEMPLATE_MARGIN_MM)
    sigma = [BLUR_MM / zoom for zoom in grid.zooms]
    blurred = ndimage.gaussian_filter(np.where(brain, volume, 0)[box], sigma)
    if min(grid.zooms) >= MOVING_MM:
        return blurred, near
    target = with_zooms(near, MOVING_MM)
    return resample_volume(blurred, source=near, target=target, order=1), target


def _carry_back(
    template: Template, found: Registered, brain: NDArray[np.bool_], grid: Grid, *, out_dir: Path
) -> dict[str, Path]:
    """Bring the template's mask and tissue maps to the T1w grid, around the brain only."""
    box, small = _around(brain, grid, MARGIN_MM)
    points = found.backward(small.world())
    written: dict[str, Path] = {}
    roles = {"mask": template.mask, "GM": template.gm, "WM": template.wm, "CSF": template.csf}
    for role, path in roles.items():
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


def _around(
    mask: NDArray[np.bool_], grid: Grid, margin: float
) -> tuple[tuple[slice, slice, slice], Grid]:
    """Bound a mask with a margin in mm: the part of the arrays, and its grid."""
    (bounds,) = ndimage.find_objects(mask.astype(np.uint8))
    starts, stops = [], []
    for part, n, zoom in zip(bounds, grid.shape, grid.zooms, strict=True):
        more = int(np.ceil(margin / zoom))
        starts.append(max(0, part.start - more))
        stops.append(min(n, part.stop + more))
    i, j, k = (slice(*ends) for ends in zip(starts, stops, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, starts)
    x, y, z = (stop - start for start, stop in zip(starts, stops, strict=True))
    return (i, j, k), Grid((x, y, z), affine)


def _judge(
    warped: NDArray[np.float32], fixed: NDArray[np.float32], found: Registered
) -> dict[str, Any]:
    """Say how alike the brains are, how far the map strains space, and how well it inverts."""
    if not warped.std() > 0:
        raise DataError(
            "the normalised brain is empty: the registration lost it",
            fix="look at the T1w image and its brain mask: orientation and field of view",
        )
    likeness = float(np.corrcoef(warped, fixed)[0, 1])
    field = found.forward.steps[0]
    points = field.grid.world()[::4, ::4, ::4].reshape(-1, 3)  # type: ignore[union-attr]
    there = found.forward(points)
    astray = np.linalg.norm(found.backward(there) - points, axis=1)
    volume = _jacobian(field.displacement, field.grid)  # type: ignore[union-attr]
    return {
        "correlation_with_template": round(likeness, 4),
        "jacobian_percentiles_1_99": [round(float(v), 3) for v in np.percentile(volume, [1, 99])],
        "folded_voxels": int(np.count_nonzero(volume <= 0)),
        "inverse_error_mm_p95": round(float(np.percentile(astray, 95)), 4),
        "verdict": "ok" if likeness >= LIKENESS else f"look: correlation of {likeness:.2f} only",
    }


def _jacobian(displacement: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Local change of volume of x + u(x) on an axis-aligned grid; 1 is none."""
    gradients = np.stack(
        [np.stack(np.gradient(displacement[..., axis], *grid.zooms), axis=-1) for axis in range(3)],
        axis=-2,
    )
    return np.asarray(np.linalg.det(np.eye(3) + gradients), dtype=np.float32)
