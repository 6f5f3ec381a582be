"""The field from EPIs of one head whose phase was encoded in different directions.

Each series is averaged over its volumes after their motion was taken off. All averages are
brought to the grid of the first scan; the field that makes them alike is found coarse to fine,
and between the levels the motion of the head from scan to scan. A shift along the phase axis
that two scans do not share cannot be told from a constant field: it is left to the field.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine
from scipy import linalg

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid, vox2vox
from neurostorm_app.pipelines.preprocess.field.fieldfit import LEVELS, Problem, fit_level
from neurostorm_app.pipelines.preprocess.field.fieldjudge import (
    folded_share,
    pair_correlation,
    ruled,
    seen_share,
)
from neurostorm_app.pipelines.preprocess.field.splinefield import Basis
from neurostorm_app.pipelines.preprocess.field.unwarp import Distorted, unwarp
from neurostorm_app.pipelines.preprocess.head.motion import (
    MotionEstimator,
    estimate_motion,
    rms_displacement,
)
from neurostorm_app.pipelines.preprocess.head.reference import find_brain, rough_head
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.preprocess.field.epi import Epi


__all__ = ["PepolarField", "estimate_pepolar"]

MOTION_AFTER = (1, 2)
"""Levels of the pyramid after which the motion between scans is measured."""
MOST_TURNED = 10.0
"""Degrees by which the slices of two scans may be tilted against each other."""
SEEN = 0.85
"""Size of the head in a scan beside that in another below which a part of it is missing."""
MOST_MOVED = 3.0
"""Millimetres of motion between two scans from which on a look is asked for."""
ALIKE = 0.9
"""Correlation of corrected scans in the brain below which a look is asked for."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PepolarField:
    """A field, and what the scans look like without it.

    Parameters
    ----------
    coefficients : ndarray, shape of `knots`
        Hz.
    knots : Grid
        Where they are.
    reference : ndarray, shape (X, Y, Z), float32
        Average of the corrected scans, on the grid of the first one.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain in it.
    qc : dict
        How alike the scans were before and after, motion, range, and a verdict (JSON types).
    """

    coefficients: NDArray[np.float64]
    knots: Grid
    reference: NDArray[np.float32]
    mask: NDArray[np.bool_]
    qc: dict[str, Any]


def estimate_pepolar(scans: Sequence[Epi]) -> PepolarField:
    """Find the field that makes scans of different encodings alike.

    Parameters
    ----------
    scans : sequence of Epi
        Two or more of one head.

    Returns
    -------
    PepolarField
        On the grid of the first scan, head as it lay there.

    Raises
    ------
    DataError
        If all scans are encoded alike, or their axes do not go together.
    """
    _check_encodings(scans)
    first = scans[0]
    axes = [_on_grid_of(scan, first) for scan in scans]
    level_of = [float(np.mean(np.abs(scan.volume))) or 1.0 for scan in scans]
    motion = [np.eye(4) for _ in scans]
    head = rough_head(first.volume)
    contrasts = linalg.helmert(len(scans))

    def images() -> list[Distorted]:
        """Bring the scans to one grid and brightness, in the pose of the first."""
        return [
            Distorted(volume=_placed(scan, first, matrix) / level, axis=axis, per_hz=per_hz)
            for scan, matrix, level, (axis, per_hz) in zip(
                scans, motion, level_of, axes, strict=True
            )
        ]

    now = images()
    start = None
    for number, level in enumerate(LEVELS):
        coefficients, knots, _ = fit_level(
            Problem(images=now, contrasts=contrasts), first.grid, level, start
        )
        start = coefficients, knots
        if number in MOTION_AFTER:
            field = Basis(first.grid, knots).field(coefficients)
            flat = [unwarp(image, field).astype(np.float32) for image in now]
            estimator = MotionEstimator(flat[0], first.grid, head)
            for n, found in enumerate(estimate_motion(flat[1:], estimator), start=1):
                motion[n] = motion[n] @ _without_slide(found, first.grid, axes[n][0])
            now = images()
    return _finish(scans, now, start, motion)


def _finish(
    scans: Sequence[Epi],
    images: Sequence[Distorted],
    fitted: Any,
    motion: Sequence[NDArray[np.float64]],
) -> PepolarField:
    """Unwarp the scans, find the brain, and judge."""
    coefficients, knots = fitted
    grid = scans[0].grid
    field = Basis(grid, knots).field(coefficients)
    flat = [unwarp(image, field) for image in images]
    scale = float(np.mean(np.abs(scans[0].volume))) or 1.0
    reference = np.asarray(scale * np.mean(flat, axis=0), dtype=np.float32)
    mask = find_brain(np.maximum(reference, 0), grid)
    qc = {
        "kind": "pepolar",
        "scans": [scan.name for scan in scans],
        "phase_encoding": ["ijk"[s.phase[0]] + "-" * (s.phase[1] < 0) for s in scans],
        "readout_s": [round(scan.readout, 6) for scan in scans],
        "readout_source": [scan.source for scan in scans],
        "same_grid": all(scan.grid == grid for scan in scans),
        "motion_mm": [round(_moved(matrix, grid), 3) for matrix in motion],
        "alike_before": pair_correlation([image.volume for image in images], images, mask),
        "alike_after": pair_correlation(flat, images, mask),
        "seen_share": seen_share(images),
        "folded_share": folded_share(images, field, mask),
    }
    qc = _judge(qc)
    logger.info("field from EPIs of opposite phase: %s", qc)
    return PepolarField(
        coefficients=coefficients, knots=knots, reference=reference, mask=mask, qc=qc
    )


def _check_encodings(scans: Sequence[Epi]) -> None:
    """Refuse scans in which the same field makes the same shift."""
    if len(scans) < 2:
        raise DataError(
            f"{', '.join(s.name for s in scans) or 'nothing'}: the field is told from two EPIs of"
            " different phase encodings; there are fewer",
            fix="add the EPI of the opposite direction, or another kind of field map",
        )
    shifts = [_on_grid_of(scan, scans[0]) for scan in scans]
    apart = max(abs(a[1] - b[1]) if a[0] == b[0] else np.inf for a in shifts for b in shifts)
    if apart < 0.5 * max(abs(shift) for _, shift in shifts):
        told = {
            f"{s.name}: {'ijk'[s.phase[0]]}{'-' * (s.phase[1] < 0)}, {s.readout:g} s" for s in scans
        }
        raise DataError(
            f"the EPIs of a field map are encoded alike ({'; '.join(sorted(told))}): each is"
            " distorted as the others are, which says nothing about the field",
            fix="look whether PhaseEncodingDirection of one is wrong, or add its opposite",
        )


def _on_grid_of(scan: Epi, first: Epi) -> tuple[int, float]:
    """Find the phase axis and the shift per hertz of a scan on the grid of another."""
    axis, sign = scan.phase
    along = vox2vox(first.grid.affine, scan.grid.affine)[:3, axis]
    steps = along * np.asarray(first.grid.zooms)
    main = int(np.argmax(np.abs(steps)))
    tilt = np.degrees(np.arccos(min(abs(steps[main]) / float(np.linalg.norm(steps)), 1.0)))
    if tilt > MOST_TURNED:
        raise DataError(
            f"{scan.name}: its phase axis is tilted by {tilt:.0f} degrees against the axes of"
            f" {first.name}; at most {MOST_TURNED:g} were expected of one field map",
            fix="take EPIs with the same orientation of slices",
        )
    return main, float(sign * scan.readout * along[main])


def _placed(scan: Epi, first: Epi, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Sample a scan on the grid of the first one, in the first one's pose."""
    if scan.grid == first.grid and np.array_equal(matrix, np.eye(4)):
        return scan.volume
    return resample_volume(scan.volume, source=scan.grid, target=first.grid, xfm=Affine(matrix))


def _without_slide(matrix: NDArray[np.float64], grid: Grid, axis: int) -> NDArray[np.float64]:
    """Take the shift of the grid's centre along a voxel axis out of a rigid map."""
    centre = apply_affine(grid.affine, (np.asarray(grid.shape) - 1) / 2.0)
    along = grid.affine[:3, axis] / grid.zooms[axis]
    slide = np.eye(4)
    slide[:3, 3] = -along * float(along @ (apply_affine(matrix, centre) - centre))
    return np.asarray(slide @ matrix, dtype=np.float64)


def _moved(matrix: NDArray[np.float64], grid: Grid) -> float:
    centre = apply_affine(grid.affine, (np.asarray(grid.shape) - 1) / 2.0)
    return rms_displacement(matrix, np.eye(4), centre=centre)


def _judge(qc: dict[str, Any]) -> dict[str, Any]:
    fail = look = ""
    if qc["alike_after"] < qc["alike_before"] - 0.005:
        fail = (
            f"the scans are less alike after correction ({qc['alike_after']}) than before"
            f" ({qc['alike_before']})"
        )
    elif qc["seen_share"] < SEEN:
        look = f"the head in one scan is {qc['seen_share']} as large as in another"
    elif qc["alike_after"] < ALIKE:
        look = f"after correction the scans correlate by {qc['alike_after']} only"
    elif max(qc["motion_mm"]) > MOST_MOVED:
        look = f"the head moved by {max(qc['motion_mm'])} mm between the scans"
    return ruled(qc, fail=fail, look=look)
