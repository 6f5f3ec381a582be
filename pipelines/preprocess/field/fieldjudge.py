"""How good a field is: numbers before and after, coverage, and a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.preprocess.head.reference import rough_head
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.preprocess.field.unwarp import Distorted
    from neurostorm_app.pipelines.xfm import Affine

__all__ = [
    "alikeness",
    "coverage",
    "folded_share",
    "judged",
    "pair_correlation",
    "ruled",
    "seen_share",
    "shift_range",
]

COVERED = 0.95
"""Share of the brain inside the field map below which a look is asked for."""
FOLDED = 0.05
"""Share of its width to which a voxel was squeezed when it counts as folded on its neighbour."""
RIM = 2
"""Voxels around the brain of a field map in which the field is known too."""


def alikeness(
    one: NDArray[np.floating], other: NDArray[np.floating], where: NDArray[np.bool_]
) -> float:
    """Measure how much one image tells of another: normalised mutual information, 1 to 2.

    References
    ----------
    Studholme C. et al. 1999, Pattern Recognit. 32:71.
    """
    ranks = []
    for volume in (one, other):
        values = volume[where]
        low, high = np.percentile(values, [1, 99])
        ranks.append(np.clip((values - low) / max(float(high - low), 1e-9), 0, 1 - 1e-9) * 32)
    joint = np.histogram2d(ranks[0], ranks[1], bins=32, range=((0, 32), (0, 32)))[0]
    joint /= max(joint.sum(), 1.0)

    def entropy(shares: NDArray[np.float64]) -> float:
        """Give the entropy of shares that add up to one, nats."""
        some = shares[shares > 0]
        return float(-(some * np.log(some)).sum())

    whole = entropy(joint)
    return (entropy(joint.sum(axis=0)) + entropy(joint.sum(axis=1))) / whole if whole else 1.0


def shift_range(shift: NDArray[np.floating], mask: NDArray[np.bool_], axis: int) -> dict[str, Any]:
    """Describe the shifts (voxels) in the brain."""
    inside = shift[mask] if mask.any() else shift.ravel()
    p2, median, p98 = (round(float(q), 3) for q in np.percentile(inside, [2, 50, 98]))
    folded = 1 + np.gradient(shift, axis=axis) < FOLDED
    return {
        "shift_voxels": {
            "p2": p2,
            "median": median,
            "p98": p98,
            "largest": round(float(np.abs(inside).max()), 3),
        },
        "folded_share": _share(folded, mask),
    }


def judged(qc: Mapping[str, Any]) -> dict[str, Any]:
    """Add what is to be thought of a field on the grid of a BOLD reference; see `ruled`."""
    covered, before, after = qc.get("covered_share", 1.0), qc["alike_before"], qc["alike_after"]
    look = ""
    if covered < COVERED:
        look = f"the field map shows {covered} of the brain; elsewhere the field is a guess"
    elif after < before - 0.002:
        look = (
            f"the BOLD reference is less like the field map's after correction ({after}) than"
            f" before ({before})"
        )
    elif qc["folded_share"] > 0.01:
        look = f"{qc['folded_share']} of the brain lies on top of other parts of it"
    return ruled(qc, look=look)


def ruled(qc: Mapping[str, Any], *, fail: str = "", look: str = "") -> dict[str, Any]:
    """Add ``verdict`` (``pass``, ``look`` or ``fail``) and ``reasons`` to what was measured.

    Parameters
    ----------
    qc : mapping
        What was measured.
    fail, look : str
        Why the field cannot be used, or is to be looked at; empty if there is no reason.
    """
    verdict = "fail" if fail else "look" if look else "pass"
    return {**qc, "verdict": verdict, "reasons": [reason for reason in (fail, look) if reason]}


def pair_correlation(
    volumes: Sequence[NDArray[np.floating]],
    images: Sequence[Distorted],
    mask: NDArray[np.bool_],
) -> float:
    """Correlate, in the brain, the two scans that the field moves apart the most."""
    shifts = [image.per_hz * (1 + image.axis) for image in images]
    one, two = volumes[int(np.argmin(shifts))], volumes[int(np.argmax(shifts))]
    if not (mask.any() and np.ptp(one[mask]) > 0 and np.ptp(two[mask]) > 0):
        return 0.0
    return round(float(np.corrcoef(one[mask], two[mask])[0, 1]), 4)


def seen_share(images: Sequence[Distorted]) -> float:
    """Compare the heads in scans of one head: the smallest beside the largest."""
    sizes = [np.count_nonzero(rough_head(image.volume.astype(np.float32))) for image in images]
    return round(float(min(sizes)) / float(max(sizes)), 4)


def folded_share(
    images: Sequence[Distorted], field: NDArray[np.float64], mask: NDArray[np.bool_]
) -> float:
    """Share of the brain where two places fell on one voxel of some scan."""
    folded = np.zeros(mask.shape, dtype=np.bool_)
    for image in images:
        folded |= 1.0 + image.per_hz * np.gradient(field, axis=image.axis) < FOLDED
    return _share(folded, mask)


def coverage(
    brain: NDArray[np.bool_],
    grid: Grid,
    xfm: Affine,
    ref_mask: NDArray[np.bool_],
    ref_grid: Grid,
) -> dict[str, Any]:
    """Tell which share of the brain is inside the field map, and inside the brain there."""
    everywhere = np.ones(ref_grid.shape, dtype=np.float32)
    inside = resample_volume(everywhere, source=ref_grid, target=grid, xfm=xfm, order=0)
    around = ndimage.binary_dilation(ref_mask, iterations=RIM)
    known = resample_volume(around, source=ref_grid, target=grid, xfm=xfm, order=0)
    centre = grid.world()[brain].mean(axis=0) if brain.any() else np.zeros(3)
    return {
        "covered_share": _share(inside > 0, brain),
        "measured_share": _share(known > 0, brain),
        "moved_mm": round(float(np.linalg.norm(xfm(centre) - centre)), 3),
    }


def _share(some: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """Tell which share of a mask some voxels are."""
    return round(float(np.count_nonzero(some & mask)) / max(int(np.count_nonzero(mask)), 1), 4)
