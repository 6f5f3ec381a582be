"""Scores: nothing for the truth, the right number for a known error."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.itk import write_itk_affines
from neurostorm_app.pipelines.phantom import (
    read_participant_truth,
    read_run_truth,
    score_coregistration,
    score_motion,
    score_normalization,
)
from neurostorm_app.pipelines.phantom.people import rigid


@pytest.fixture
def run(made):
    return read_run_truth(made.truth.runs["sub-01_task-rest_run-1"])


def elsewhere(run):
    """Make a reference in a pose of its own."""
    shift, turns = np.array([0.7, -1.1, 0.4]), np.array([1.0, -0.6, 0.8])
    centre = apply_affine(run.t1w_to_bold, run.brain_t1w).mean(axis=0)
    return rigid(turns, shift, centre=centre), centre


def test_the_truth_has_no_error_whatever_the_reference(run):
    reference, _ = elsewhere(run)
    for pose in (np.eye(4), run.motion[5], reference):
        score = score_motion(run, run.motion @ np.linalg.inv(pose))
        assert score["max_mm"] < 1e-4  # mm
        assert score["max_deg"] < 1e-4  # degrees


def test_motion_is_read_from_itk_text(run, tmp_path):
    path = tmp_path / "hmc_xfm.txt"
    write_itk_affines(path, run.motion @ np.linalg.inv(run.motion[3]))
    assert score_motion(run, path)["p95_mm"] < 1e-3  # mm


def test_a_shift_of_some_volumes_is_found_in_mm(run):
    wrong = run.motion.copy()
    wrong[::4, 0, 3] += 0.5
    score = score_motion(run, wrong)
    assert score["p95_mm"] == pytest.approx(0.5, abs=0.02)
    assert score["p95_deg"] < 1e-4


def test_a_turn_of_some_volumes_is_found_in_degrees(run):
    reference, centre = elsewhere(run)
    turn = rigid(np.array([0.0, 0.3, 0.0]), np.zeros(3), centre=centre)
    wrong = run.motion @ np.linalg.inv(reference)
    wrong[::3] = turn @ wrong[::3]
    score = score_motion(run, wrong)
    assert score["p95_deg"] == pytest.approx(0.3, abs=0.01)
    assert 0.2 < score["p95_mm"] < 0.6  # 0.3 degrees, 40 to 100 mm from the axis


def test_the_inverse_motion_is_wrong(run):
    assert score_motion(run, np.linalg.inv(run.motion))["p95_mm"] > 0.5


def test_motion_of_another_run_is_refused(run):
    with pytest.raises(DataError, match="the run's true motion has"):
        score_motion(run, run.motion[1:])


def test_coregistration_is_scored_to_the_pose_of_the_reference(run):
    reference, _ = elsewhere(run)
    hmc = run.motion @ np.linalg.inv(reference)
    true = reference @ run.t1w_to_bold

    def found(points):
        return apply_affine(true, points)

    assert score_coregistration(run, t1w_to_boldref=found, hmc=hmc)["p95_mm"] < 1e-4
    off = score_coregistration(
        run, t1w_to_boldref=lambda p: found(p) + np.array([0, 1.5, 2.0]), hmc=hmc
    )
    assert off["median_mm"] == pytest.approx(2.5, abs=1e-3)


def test_normalization_is_scored_in_the_standard_space(made):
    truth = read_participant_truth(made.truth.participants["02"])

    def to_std(points):
        return np.asarray(points) * 1.1 + [1.0, 2.0, 3.0]

    right = score_normalization(
        truth,
        t1w_to_std=lambda p: to_std(truth.t1w_to_template(p)),
        template_to_std=to_std,
    )
    assert right["p95_mm"] < 0.1
    wrong = score_normalization(
        truth,
        t1w_to_std=lambda p: to_std(truth.t1w_to_template(p)) + np.array([0, 2.0, 0]),
        template_to_std=to_std,
    )
    assert wrong["median_mm"] == pytest.approx(2.0, abs=0.1)
