"""The BOLD reference onto the T1w image: headers or mutual information start, the boundary ends.

A pose is judged by what a wrong one cannot have: brightness rises across the white matter's
border, more than across the border of the same head with left and right swapped, and another
start ends in the same place.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.anatomy.registration import register_rigidly
from neurostorm_app.pipelines.preprocess.head.motion import rms_displacement
from neurostorm_app.pipelines.preprocess.placing.boundary import (
    Anatomy,
    EdgeCost,
    find_boundary,
    pose,
    refine,
    search,
)
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Init = Literal["auto", "t1w", "header"]

__all__ = ["Anatomy", "coregister", "judge_coregistration"]

DOFS = (6, 9, 12)
INITS = ("auto", "t1w", "header")
FARTHEST_MM = 15.0
"""A refinement that moves the head more than this from its start (fMRIPrep's limit) is believed
only if it is clear."""
AGREE_MM = 0.5
"""Two starts that end nearer than this ended at one place."""
CLEAR = 0.1
"""By how much a cost must be better than that of the mirrored head to be that of this head.
Measured: 0.29 and 0.43 for the right head, -0.30 and -0.42 for a swapped one, at most 0.03
either way for unlike heads."""
CHANCE = 0.7
"""A cost above this may be chance: unlike heads had 0.74 to 0.96, right ones 0.21 and 0.46."""
OVERLAP = 0.8
N_CHECKED = 4_000
"""Points with which the checks are made."""
NUDGE = np.array([2.0, -2.0, 2.0, 1.5, -1.5, 1.5])
"""Where the second start is: mm and degrees."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a start led."""

    name: str
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    mirror_cost: float
    apart: float
    cost: EdgeCost

    @property
    def gain(self) -> float:
        """By how much this head fits better than the mirrored one."""
        return self.mirror_cost - self.cost.at(self.end)


def coregister(  # noqa: PLR0913
    boldref: NDArray[np.float32],
    grid: Grid,
    *,
    bold_mask: NDArray[np.bool_],
    anatomy: Anatomy,
    work_dir: Path,
    dof: int = 6,
    init: Init = "auto",
    seed: int = 42,
) -> tuple[Affine, dict[str, Any]]:
    """Find where the T1w image's points are in the BOLD reference.

    Parameters
    ----------
    boldref : ndarray, shape (X, Y, Z)
        BOLD reference, undistorted, without its bias field.
    grid : Grid
        Its grid.
    bold_mask : ndarray of bool, shape (X, Y, Z)
        The brain in it.
    anatomy : Anatomy
        The T1w image and its tissues.
    work_dir : Path
        Folder for scratch files.
    dof : int
        6 for a rigid head, 9 with three stretches, 12 with three shears.
    init : str
        Where to start: ``header`` trusts the affines of both images, ``t1w`` registers the
        images by mutual information, ``auto`` tries the headers and, unless that is clearly
        right, mutual information too, and takes the better by cost.
    seed : int
        Seed of the sampling.

    Returns
    -------
    xfm : Affine
        T1w points to points of the BOLD reference, RAS+ mm.
    qc : dict
        How it went: the numbers, ``verdict`` (``pass``, ``look`` or ``fail``) and ``reasons``
        (JSON types).

    Raises
    ------
    UsageError
        If `dof` or `init` is none of those above.
    """
    if dof not in DOFS:
        raise UsageError(
            f"{dof} degrees of freedom for BOLD to T1w; 6, 9 and 12 are known",
            fix="leave --bold2anat-dof at 6, a rigid head",
        )
    if init not in INITS:
        raise UsageError(
            f"the start of BOLD to T1w is {init!r}; auto, t1w and header are known",
            fix="leave --bold2anat-init at auto",
        )
    cost = EdgeCost(boldref, grid, find_boundary(anatomy))
    found = []
    if init != "t1w":
        found.append(_follow("header", np.eye(4), cost, anatomy))
    if init == "t1w" or (init == "auto" and not _is_clear(found[0])):
        brain = np.where(bold_mask, boldref, 0).astype(np.float32)
        start = register_rigidly(
            _coarse_brain(anatomy), (brain, grid), work_dir=work_dir, seed=seed
        )
        found.append(_follow("t1w", start.matrix, cost, anatomy))
    best = min(found, key=lambda each: found[-1].cost.at(each.end))
    xfm, qc = _measure(best, dof)
    qc["mask_overlap"] = round(_overlap(bold_mask, grid, anatomy, xfm), 4)
    qc |= judge_coregistration(qc)
    logger.info("coregistration: %s", qc)
    return xfm, qc


def _follow(name: str, start: NDArray[np.float64], cost: EdgeCost, anatomy: Anatomy) -> _Found:
    """Go from a start to where the boundary fits, and see how the mirrored head would."""
    near = search(cost, start)
    # A sigmoid that most points do not saturate: else the cost is flat about its minimum.
    usual = float(np.nanmedian(np.abs(cost.contrast(near)))) or 1.0
    cost = replace(cost, usual=usual if np.isfinite(usual) else 1.0)
    end = refine(cost, near)
    across = anatomy.grid.world()[anatomy.mask][:, 0]
    middle = float(np.percentile(across, [1, 99]).mean())
    mirrored = replace(cost, boundary=cost.boundary.thin(N_CHECKED).mirror(middle))
    mirror_cost = mirrored.at(refine(mirrored, search(mirrored, end)))
    return _Found(name, start, end, mirror_cost, _second_start(cost, end, 6), cost)


def _is_clear(found: _Found) -> bool:
    """Tell whether a start led to a place that needs no second one."""
    return found.gain > CLEAR and found.apart <= AGREE_MM


def _second_start(cost: EdgeCost, end: NDArray[np.float64], dof: int) -> float:
    """Refine from elsewhere; give by how many mm the two ends are apart."""
    checked = replace(cost, boundary=cost.boundary.thin(N_CHECKED))
    centre = cost.boundary.points.mean(axis=0)
    one = refine(checked, end, dof=dof)
    other = refine(checked, end @ pose(NUDGE, centre), dof=dof)
    return rms_displacement(other, one, centre=Affine(one)(centre))


def _measure(found: _Found, dof: int) -> tuple[Affine, dict[str, Any]]:
    """Give the pose that is believed, and its numbers."""
    cost = found.cost
    centre = cost.boundary.points.mean(axis=0)
    end = refine(cost, found.end, dof=dof) if dof > 6 else found.end
    apart = _second_start(cost, end, dof) if dof > 6 else found.apart
    moved = rms_displacement(end, found.start, centre=Affine(found.start)(centre))
    believed = cost.at(end) <= cost.at(found.start) and (moved <= FARTHEST_MM or found.gain > CLEAR)
    matrix = end if believed else found.start
    contrast = cost.contrast(matrix)
    inside = np.isfinite(contrast)
    rising = float(np.mean(contrast[inside] > 0)) if inside.any() else 0.0
    return Affine(matrix), {
        "method": "boundary" if believed else "start",
        "start": found.name,
        "dof": dof if believed else 6,
        "cost_start": round(cost.at(found.start), 4),
        "cost": round(cost.at(matrix), 4),
        "cost_mirrored": round(found.mirror_cost, 4),
        "rising_share": round(rising, 4),
        "seen_share": round(float(inside.mean()), 4),
        "refinement_mm": round(moved, 3),
        "second_start_mm": round(apart, 3),
    }


def judge_coregistration(qc: dict[str, Any]) -> dict[str, Any]:
    """Say whether the numbers of a coregistration can be trusted.

    Parameters
    ----------
    qc : dict
        What :func:`coregister` measured.

    Returns
    -------
    dict
        ``verdict``: ``pass``, ``look`` or ``fail``; ``reasons``: words, empty for a pass.
    """
    gain = qc["cost_mirrored"] - qc["cost"]
    fails, looks = [], []
    if gain < -CLEAR and qc["cost_mirrored"] < CHANCE:
        fails.append(
            f"the mirrored head fits better (cost {qc['cost_mirrored']} against {qc['cost']}):"
            " left and right are swapped in the header of one image"
        )
    elif gain < CLEAR and qc["cost"] > CHANCE:
        fails.append(
            f"the border of the white matter is not in the BOLD image (cost {qc['cost']}, with"
            f" left and right swapped {qc['cost_mirrored']}): the T1w image of another head?"
        )
    elif gain < CLEAR:
        looks.append(
            f"the mirrored head fits nearly as well (cost {qc['cost_mirrored']} against"
            f" {qc['cost']})"
        )
    if qc["method"] != "boundary":
        looks.append(f"the boundary lay {qc['refinement_mm']} mm off and was not believed")
    if qc["second_start_mm"] > AGREE_MM:
        looks.append(f"a second start ended {qc['second_start_mm']} mm away")
    if qc["mask_overlap"] < OVERLAP:
        looks.append(f"the two brain masks overlap by {qc['mask_overlap']} only")
    if qc["seen_share"] < 0.5:
        looks.append(f"the BOLD image shows {qc['seen_share']} of the boundary only")
    verdict = "fail" if fails else "look" if looks else "pass"
    return {"verdict": verdict, "reasons": fails + looks}


def _coarse_brain(anatomy: Anatomy, zoom: float = 2.0) -> tuple[NDArray[np.float32], Grid]:
    """Bring the brain of the T1w image to 2 mm: mutual information needs no more."""
    affine = anatomy.grid.affine.copy()
    steps = np.maximum(zoom / np.asarray(anatomy.grid.zooms), 1.0)
    affine[:3, :3] *= steps
    shape = [int(np.ceil(n / step)) for n, step in zip(anatomy.grid.shape, steps, strict=True)]
    target = Grid((shape[0], shape[1], shape[2]), affine)
    brain = ndimage.gaussian_filter(np.where(anatomy.mask, anatomy.t1w, 0), steps / 2.3548)
    return resample_volume(brain, source=anatomy.grid, target=target, order=1), target


def _overlap(bold_mask: NDArray[np.bool_], grid: Grid, anatomy: Anatomy, xfm: Affine) -> float:
    """Dice overlap of the two brain masks on the BOLD grid, inside its field of view."""
    carried = resample_volume(
        anatomy.mask, source=anatomy.grid, target=grid, xfm=xfm.inverse(), order=1
    )
    other = carried > 0.5
    total = int(np.count_nonzero(other) + np.count_nonzero(bold_mask))
    return 2.0 * int(np.count_nonzero(other & bold_mask)) / total if total else 0.0
