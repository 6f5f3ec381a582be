"""How far a result is from the truth, in mm, degrees, Hz and voxels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.itk import read_itk_affines
from neurostorm_app.pipelines.phantom.distortion import READOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.truth import ParticipantTruth, RunTruth

__all__ = ["PointMap", "score_coregistration", "score_field", "score_motion", "score_normalization"]

PointMap: TypeAlias = "Callable[[NDArray[np.float64]], NDArray[np.float64]]"
"""A map of points (N, 3) to points (N, 3), mm RAS."""


def score_motion(truth: RunTruth, hmc: Path | NDArray[np.float64]) -> dict[str, float]:
    """Compare estimated head motion with the truth, whatever reference it was estimated to.

    With a reference in pose ``T_r`` a perfect estimate is ``H_t = T_t T_r^-1``. The pose of
    the reference is taken to be the best constant one.

    Parameters
    ----------
    truth : RunTruth
        Of the run.
    hmc : Path or ndarray, shape (T, 4, 4)
        ITK text, ``from-orig_to-boldref_mode-image``; or points of the reference to points of
        volume t, mm RAS.

    Returns
    -------
    dict
        ``p95_mm`` and ``max_mm`` of displacement over points of the brain and volumes;
        ``p95_deg`` and ``max_deg`` of rotation over volumes.

    Raises
    ------
    DataError
        If the number of volumes is another.
    """
    estimate = _read_motion(truth, hmc)
    reference = _reference_pose(truth, estimate)
    found = estimate @ reference
    points = _apply(truth.t1w_to_bold, truth.brain_t1w)
    away = np.linalg.norm(_apply(found, points) - _apply(truth.motion, points), axis=-1)
    error = found @ np.linalg.inv(truth.motion)
    turned = np.degrees(Rotation.from_matrix(error[:, :3, :3]).magnitude())
    return {
        "p95_mm": float(np.percentile(away, 95)),
        "max_mm": float(away.max()),
        "p95_deg": float(np.percentile(turned, 95)),
        "max_deg": float(turned.max()),
    }


def score_coregistration(
    truth: RunTruth, *, t1w_to_boldref: PointMap, hmc: Path | NDArray[np.float64]
) -> dict[str, float]:
    """Compare where points of the T1w are found in the BOLD reference with the truth.

    The reference has the pose that the estimated motion says, best over all volumes.

    Parameters
    ----------
    truth : RunTruth
        Of the run.
    t1w_to_boldref : callable
        Maps points of the T1w to points of the reference, mm
        (``from-boldref_to-T1w_mode-image``).
    hmc : Path or ndarray, shape (T, 4, 4)
        As in :func:`score_motion`.

    Returns
    -------
    dict
        ``median_mm`` and ``p95_mm`` of distance over points of the brain.

    Raises
    ------
    DataError
        If the number of volumes is another.
    """
    reference = _reference_pose(truth, _read_motion(truth, hmc))
    expected = _apply(reference @ truth.t1w_to_bold, truth.brain_t1w)
    return _distances(t1w_to_boldref(truth.brain_t1w), expected)


def score_normalization(
    truth: ParticipantTruth, *, t1w_to_std: PointMap, template_to_std: PointMap
) -> dict[str, float]:
    """Compare where grey matter of the T1w lands in a standard space with the truth.

    Parameters
    ----------
    truth : ParticipantTruth
        Of the participant.
    t1w_to_std : callable
        Maps points of the T1w to points of the standard space, mm
        (``from-<space>_to-T1w_mode-image``).
    template_to_std : callable
        Maps points of the phantom's template, MNI152NLin2009aSym, to the same place in the
        standard space, mm.

    Returns
    -------
    dict
        ``median_mm`` and ``p95_mm`` of distance over points of grey matter.
    """
    return _distances(t1w_to_std(truth.grey_t1w), template_to_std(truth.grey_template))


def score_field(
    truth: RunTruth,
    true: Path,
    found: Path,
    *,
    hmc: Path | NDArray[np.float64] | None = None,
    readout: float = READOUT,
) -> dict[str, float]:
    """Compare a field on the grid of a BOLD reference with the truth, at points of the brain.

    Parameters
    ----------
    truth : RunTruth
        Of the run.
    true, found : Path
        Images of the field, Hz, (X, Y, Z); each on a grid of its own. Points that lie outside
        the true one are not counted.
    hmc : Path or ndarray, shape (T, 4, 4), optional
        As in :func:`score_motion`: the reference of `found` has the pose that it says; by
        default the first one of the run.
    readout : float
        Total readout time of the series, s.

    Returns
    -------
    dict
        Of the absolute error: ``median_voxels``, ``p95_voxels`` of shift, ``median_hz``,
        ``p95_hz``. ``offset_hz`` and ``offset_voxels``: median of found minus true, signed.
        ``rest_p95_voxels``: 95th percentile once the offset, which registration undoes, is taken
        off. ``covered``: share of the points that `found` covers; others count as 0 Hz.

    Raises
    ------
    DataError
        If `hmc` has another number of volumes.
    """
    pose = np.eye(4) if hmc is None else _reference_pose(truth, _read_motion(truth, hmc))
    points = _apply(truth.t1w_to_bold, truth.brain_t1w)
    expected, within = _look_up(true, points)
    measured, covered = _look_up(found, _apply(pose, points))
    error = np.where(covered, measured, 0.0)[within] - expected[within]
    offset = float(np.median(error))
    away = np.abs(error)
    median, p95 = (float(np.percentile(away, q)) for q in (50, 95))
    return {
        "median_hz": median,
        "p95_hz": p95,
        "median_voxels": median * readout,
        "p95_voxels": p95 * readout,
        "offset_hz": offset,
        "offset_voxels": offset * readout,
        "rest_p95_voxels": float(np.percentile(np.abs(error - offset), 95)) * readout,
        "covered": float(covered[within].mean()),
    }


def _look_up(
    path: Path, points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Interpolate an image at points (N, 3), mm; tell which of them it covers."""
    image = nib.Nifti1Image.from_filename(path)
    voxels = _apply(np.linalg.inv(np.asarray(image.affine)), points).T
    last = np.asarray(image.shape[:3])[:, None] - 0.5
    inside = np.all((voxels > -0.5) & (voxels < last), axis=0)
    volume = np.asarray(image.dataobj, dtype=np.float64).reshape(image.shape[:3])
    return ndimage.map_coordinates(volume, voxels, order=1, mode="nearest"), inside


def _distances(found: NDArray[np.float64], expected: NDArray[np.float64]) -> dict[str, float]:
    away = np.linalg.norm(found - expected, axis=-1)
    return {"median_mm": float(np.median(away)), "p95_mm": float(np.percentile(away, 95))}


def _read_motion(truth: RunTruth, hmc: Path | NDArray[np.float64]) -> NDArray[np.float64]:
    estimate = np.asarray(read_itk_affines(hmc) if isinstance(hmc, Path) else hmc)
    if estimate.shape != truth.motion.shape:
        raise DataError(
            f"the estimated motion has shape {estimate.shape}; the run's true motion has"
            f" {truth.motion.shape}, one affine a volume",
            fix="give the transforms of this run",
        )
    return estimate


def _reference_pose(truth: RunTruth, estimate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the pose of the reference: the median of ``H_t^-1 T_t`` about the brain's centre."""
    centre = _apply(truth.t1w_to_bold, truth.brain_t1w).mean(axis=0)
    poses = np.linalg.inv(estimate) @ truth.motion
    first = Rotation.from_matrix(poses[0, :3, :3])
    turns = (first.inv() * Rotation.from_matrix(poses[:, :3, :3])).as_rotvec()
    reference = np.eye(4)
    reference[:3, :3] = (first * Rotation.from_rotvec(np.median(turns, axis=0))).as_matrix()
    there = np.median(_apply(poses, centre[None])[:, 0], axis=0)
    reference[:3, 3] = there - reference[:3, :3] @ centre
    return reference


def _apply(matrices: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map points (N, 3) by affines (..., 4, 4): (..., N, 3)."""
    moved = points @ np.swapaxes(matrices[..., :3, :3], -1, -2)
    return np.asarray(moved + matrices[..., None, :3, 3])
