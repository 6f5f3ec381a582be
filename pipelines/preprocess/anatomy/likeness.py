"""How well a brain met the template: numbers, the range each usually lies in, a verdict.

The verdict is ``pass``, or ``look`` or ``fail`` with every reason. Beside each range stands on how
many heads it was measured, or that it is a guess; five heads do not make a norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.xfm import Affine, Chain, Field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["RANGES", "Usual", "correlate", "judge", "local_volume", "measure_map"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """Where a number usually lies.

    Parameters
    ----------
    words : str
        What the number is.
    look : tuple of float
        Least and greatest value that need no look.
    fail : tuple of float, optional
        Least and greatest value that a brain on its template can have; None if a number alone
        says nothing so hard.
    source : str
        Where the two come from; "guess" if they come from nowhere.
    """

    words: str
    look: tuple[float, float]
    fail: tuple[float, float] | None = None
    source: str

    def verdict(self, value: float) -> str:
        """Judge a number: ``pass``, ``look`` or ``fail``."""
        for name, bounds in (("fail", self.fail), ("look", self.look)):
            if bounds is not None and not bounds[0] <= value <= bounds[1]:
                return name
        return "pass"


RANGES: dict[str, Usual] = {
    "correlation_with_template": Usual(
        words="correlation with the template's brain",
        look=(0.75, 1.0),
        fail=(0.6, 1.0),
        source="measured: 0.85 to 0.96 on 5 heads; 0.57 a ball, 0.58 a head with its nose up",
    ),
    "mask_dice": Usual(
        words="Dice overlap with the template's brain mask",
        look=(0.90, 1.0),
        fail=(0.75, 1.0),
        source="look: measured, 0.95 to 0.98 on 5 heads, but as much on a ball; fail: guess",
    ),
    "affine_volume_ratio": Usual(
        words="volume of the participant's brain, of the template's, by the affine part",
        look=(0.6, 1.6),
        fail=(0.3, 3.0),
        source="guess: brains of 0.9 to 2.2 litres; 0.79 to 1.04 on 5 heads, 0.62 on a ball",
    ),
    "affine_stretch_min": Usual(
        words="least stretch of the affine part along an axis",
        look=(0.8, 1.3),
        source="measured: 0.88 to 0.99 on 5 heads; 0.75 on a ball and with the nose up",
    ),
    "affine_stretch_max": Usual(
        words="greatest stretch of the affine part along an axis",
        look=(0.8, 1.3),
        source="guess; 0.96 to 1.04 on 5 heads, 1.27 with the nose up",
    ),
    "affine_stretch_ratio": Usual(
        words="greatest over least stretch of the affine part",
        look=(1.0, 1.35),
        fail=(1.0, 1.6),
        source="measured: 1.04 to 1.13 on 5 heads; 1.21 on a ball, 1.69 with the nose up",
    ),
    "jacobian_p1": Usual(
        words="1st percentile of the local change of volume",
        look=(0.3, 1.0),
        source="measured: 0.41 to 0.69 on 5 heads; 0.33 on a ball, 0.21 with the nose up",
    ),
    "jacobian_p99": Usual(
        words="99th percentile of the local change of volume",
        look=(1.0, 2.7),
        source="measured: 1.5 to 2.4 on 5 heads; 3.1 with the nose up, 3.5 on a ball",
    ),
    "folded_voxels": Usual(
        words="voxels where the map folds", look=(0, 0), source="an invertible map has none"
    ),
    "inverse_error_mm_p95": Usual(
        words="95th percentile of the error of there and back, mm",
        look=(0.0, 0.5),
        source="measured: 0.05 to 0.13 on 5 heads; it warns of a broken map, not of a wrong one",
    ),
}
"""Of the registration of a T1w image. Measured on three phantoms, a defaced head and a brain
without skull; and on what must not pass: a ball of noise, and that head with its nose up."""


def measure_map(forward: Chain, backward: Chain, inside: NDArray[np.bool_]) -> dict[str, Any]:
    """Measure how far a map strains space and how well it inverts.

    Parameters
    ----------
    forward : Chain
        Template points to the participant's points: a field, then an affine.
    backward : Chain
        The way back.
    inside : ndarray of bool, shape of the field's grid
        The template's brain.

    Returns
    -------
    dict
        Volume ratio and stretch of the affine (participant over template), percentiles of the
        field's Jacobian determinant in the brain, folded voxels, error of there and back (mm).
    """
    field, affine = forward.steps
    if not (isinstance(field, Field) and isinstance(affine, Affine)):
        raise TypeError("a field, then an affine, were expected")
    stretch = np.linalg.svd(affine.matrix[:3, :3], compute_uv=False)
    volume = local_volume(field.displacement, field.grid)[inside]
    low, high = np.percentile(volume, [1, 99])
    points = field.grid.world()[inside][::37]
    astray = np.linalg.norm(backward(forward(points)) - points, axis=1)
    return {
        "affine_volume_ratio": round(float(np.prod(stretch)), 3),
        "affine_stretch_min": round(float(stretch.min()), 3),
        "affine_stretch_max": round(float(stretch.max()), 3),
        "affine_stretch_ratio": round(float(stretch.max() / stretch.min()), 3),
        "jacobian_p1": round(float(low), 3),
        "jacobian_p99": round(float(high), 3),
        "folded_voxels": int(np.count_nonzero(volume <= 0)),
        "inverse_error_mm_p95": round(float(np.percentile(astray, 95)), 4),
    }


def correlate(warped: NDArray[np.float32], fixed: NDArray[np.float32]) -> float:
    """Correlate two brains, voxel by voxel (N,).

    Raises
    ------
    DataError
        If nothing of the brain is left.
    """
    if not warped.std() > 0:
        raise DataError(
            "the normalised brain is empty: the registration lost it",
            fix="look at the image and its brain mask: orientation and field of view",
        )
    return round(float(np.corrcoef(warped, fixed)[0, 1]), 4)


def judge(numbers: Mapping[str, Any], ranges: Mapping[str, Usual]) -> dict[str, Any]:
    """Compare numbers with their usual ranges.

    Parameters
    ----------
    numbers : mapping of str to float
        What was measured; names without a range are left alone.
    ranges : mapping of str to Usual
        Where each of them usually lies.

    Returns
    -------
    dict
        ``verdict`` (``pass``, ``look`` or ``fail``), ``reasons`` (one sentence each, those to fail
        first) and ``usual`` (least and greatest usual value of the numbers that were given).

    Examples
    --------
    >>> ranges = {"dice": Usual(words="overlap", look=(0.9, 1), fail=(0.5, 1), source="guess")}
    >>> judge({"dice": 0.8}, ranges)["reasons"]
    ['overlap is 0.8; 0.9 to 1 is usual']
    >>> judge({"dice": 0.4}, ranges)["verdict"]
    'fail'
    """
    found: dict[str, list[str]] = {"fail": [], "look": []}
    known = {name: usual for name, usual in ranges.items() if name in numbers}
    for name, usual in known.items():
        verdict = usual.verdict(numbers[name])
        if verdict != "pass":
            low, high = usual.look
            found[verdict].append(
                f"{usual.words} is {numbers[name]:g}; {low:g} to {high:g} is usual"
            )
    return {
        "verdict": next((verdict for verdict, reasons in found.items() if reasons), "pass"),
        "reasons": found["fail"] + found["look"],
        "usual": {name: list(usual.look) for name, usual in known.items()},
    }


def local_volume(displacement: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Find the local change of volume of x + u(x).

    Parameters
    ----------
    displacement : ndarray, shape (X, Y, Z, 3)
        u, mm, RAS.
    grid : Grid
        Any orientation.

    Returns
    -------
    ndarray, shape (X, Y, Z), float32
        Determinant of the Jacobian matrix; 1 is no change, 0 and below is a fold.
    """
    slopes = np.stack(
        [np.stack(np.gradient(displacement[..., axis]), axis=-1) for axis in range(3)], axis=-2
    )
    per_mm = slopes @ np.linalg.inv(grid.affine[:3, :3])
    return np.asarray(np.linalg.det(np.eye(3) + per_mm), dtype=np.float32)
