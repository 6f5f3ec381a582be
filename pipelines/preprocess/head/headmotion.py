"""Head motion of a series as acquired, relative to its reference whatever that is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.image import iter_volumes, open_image
from neurostorm_app.pipelines.preprocess.head.motion import (
    MotionEstimator,
    rms_displacement,
    track_head,
)
from neurostorm_app.pipelines.preprocess.head.reference import average_head
from neurostorm_app.pipelines.preprocess.head.sbref import find_pose
from neurostorm_app.pipelines.progress import counted
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.preprocess.head.motion import HeadTrack

__all__ = ["measure_head"]


def measure_head(  # noqa: PLR0913 - the series, its reference, and how to look at both
    bold: Path,
    grid: Grid,
    reference: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    n_skipped: int,
    sbref_given: bool,
    head: NDArray[np.bool_] | None = None,
    n_threads: int = 1,
    device: str = "cpu",
) -> tuple[HeadTrack, dict[str, Any]]:
    """Measure all volumes of a series, relative to its reference.

    A single-band reference has another contrast than the volumes; measured to it, they would be
    two to three times less exact. So they are measured to their own median, and one more pose,
    the same for all of them, leads from the single-band reference to this median.

    Parameters
    ----------
    bold : Path
        The series as acquired.
    grid : Grid
        Its grid.
    reference : ndarray, shape (X, Y, Z)
        The BOLD reference.
    mask : ndarray of bool, shape (X, Y, Z)
        Where the head is rigid in the reference: the brain and its rim.
    n_skipped : int
        Volumes at the start that are not steady.
    sbref_given : bool
        Whether the reference is the single-band one.
    head : ndarray of bool, shape (X, Y, Z), optional
        Where values must be finite; everywhere by default.
    n_threads : int
        Volumes at a time; it does not change the numbers.
    device : str
        As of ``MotionEstimator``.

    Returns
    -------
    track : HeadTrack
        Points of the reference to points of each volume, and volumes without a head.
    qc : dict
        ``motion_template`` in words, ``unseen_volumes``, ``motion_residual`` (median over
        volumes; relative to the contrast of the head), and for a single-band reference
        ``median_moved_mm``: how far from there the head lay in the median.

    Raises
    ------
    DataError
        If the reference is not found in the series, or no volume shows a head.
    """
    template, pose, told = reference, np.eye(4), {"motion_template": "the BOLD reference"}
    if sbref_given:
        template, _ = average_head(bold, grid, n_skipped=n_skipped, head=head)
        pose = _place(bold, reference, template, grid, mask, device)
        back = Affine(pose).inverse()
        shown = mask.astype(np.float32)
        mask = resample_volume(shown, source=grid, target=grid, xfm=back, order=0) > 0
        told = {"motion_template": "median of steady volumes, placed on the reference"}
    estimator = MotionEstimator(template, grid, mask, device=device)
    volumes = counted(iter_volumes(bold, brain=head), open_image(bold).shape[3], "volumes")
    track = track_head(volumes, estimator, n_threads=n_threads)
    qc: dict[str, Any] = {
        **told,
        "unseen_volumes": list(track.unseen),
        "motion_residual": round(float(np.nanmedian(track.residuals)), 4),
    }
    if sbref_given:
        centre = grid.world()[mask].mean(axis=0)
        qc["median_moved_mm"] = round(rms_displacement(pose, np.eye(4), centre=centre), 3)
    return replace(track, matrices=track.matrices @ pose), qc


def _place(
    bold: Path,
    reference: NDArray[np.float32],
    median: NDArray[np.float32],
    grid: Grid,
    mask: NDArray[np.bool_],
    device: str,
) -> NDArray[np.float64]:
    """Find where points of the reference are in the median: (4, 4)."""
    pose = find_pose(reference, median, grid, mask, device=device)
    if not pose.found[0]:
        raise DataError(
            f"{bold}: the median of its volumes is not found in its single-band reference",
            fix="run with --ignore sbref, or look whether both show the same head",
        )
    return np.asarray(pose.matrices[0])
