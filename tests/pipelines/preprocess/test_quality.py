"""Quality: each number against a made-up fault, and verdicts with reasons."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from neurostorm_app.pipelines.preprocess.noise.faults import (
    SliceMeans,
    coverage,
    find_spikes,
    ghost_ratio,
    outlier_shares,
    signal_to_noise,
)
from neurostorm_app.pipelines.preprocess.noise.quality import LIMITS, judge_run, measure_run

SHAPE, T = (20, 24, 11), 120
GOOD = {
    "fd_mean": 0.1,
    "fd_max": 0.4,
    "fd_share": 0.0,
    "std_dvars_mean": 1.1,
    "std_dvars_share": 0.0,
    "tsnr": 60.0,
    "brain_coverage": 0.98,
    "fov_coverage": 1.0,
    "ghost_ratio": 0.02,
    "outlier_share": 0.01,
    "spike_share": 0.0,
    "n_nonsteady": 2.0,
    "drift_percent": 0.5,
}


@pytest.fixture
def brain():
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    away = (places - (np.array(SHAPE) - 1) / 2) / (np.array(SHAPE) * [0.4, 0.2, 0.5])
    return (away**2).sum(axis=-1) < 1


def test_signal_to_noise_is_mean_over_deviation_whatever_the_drift(rng):
    noise = rng.normal(0, 10, (3000, 300)) + np.linspace(0, 40, 300)
    assert signal_to_noise(500 + noise) == pytest.approx(52, rel=0.01)


def test_unsteady_volumes_are_left_out_of_the_noise(rng):
    series = 500 + rng.normal(0, 10, (500, 100))
    series[:, :3] += 400
    assert signal_to_noise(series, n_skipped=3) == pytest.approx(50, rel=0.03)
    assert signal_to_noise(series) < 15


def test_a_series_that_does_not_vary_has_no_ratio():
    assert signal_to_noise(np.ones((5, 20))) is None


def test_outliers_are_rare_in_noise_and_many_in_a_bad_volume(rng):
    series = rng.normal(100, 3, (4000, 80))
    series[:1000, 33] += 60
    shares = outlier_shares(series)
    assert shares[33] == pytest.approx(0.25, abs=0.01)
    assert np.delete(shares, 33).max() < 0.005


def test_slice_means_are_gathered_along_any_axis(brain, rng):
    for axis in range(3):
        sums, expected = SliceMeans(brain, axis=axis), []
        for _ in range(3):
            volume = rng.normal(100, 5, SHAPE).astype(np.float32)
            sums.add(volume)
            turned, mask = np.moveaxis(volume, axis, -1), np.moveaxis(brain, axis, -1)
            counts = mask.sum(axis=(0, 1))
            full = counts.max()
            expected.append(
                [turned[..., z][mask[..., z]].mean() if n >= 0.1 * full else 0 for z, n in
                 enumerate(counts)]
            )  # fmt: skip
        np.testing.assert_allclose(sums.means, expected, rtol=1e-5)


def test_a_spike_in_one_slice_is_found_and_a_nod_of_the_head_is_not(rng):
    means = 500 + rng.normal(0, 0.5, (T, 30)) + 3 * np.sin(np.arange(T) / 9)[:, None]
    means[70:] += 40
    means[44, 7] += 15
    means[0, 3] += 100  # not steady
    means[:, 29] = 0  # no brain
    found = find_spikes(means, n_skipped=1)
    assert np.argwhere(found).tolist() == [[44, 7]]


def test_slices_with_little_brain_are_not_judged(rng):
    mask = np.zeros((20, 20, 3), bool)
    mask[:, :, 0], mask[:2, :2, 1], mask[:4, :10, 2] = True, True, True
    sums = SliceMeans(mask)
    sums.add(np.full(mask.shape, 7.0))
    np.testing.assert_array_equal(sums.means, [[7, 0, 7]])


def test_a_smooth_course_has_no_spikes(rng):
    """The head nods as a whole, and every second slice is a second late."""
    time = np.arange(40)[:, None] + 0.5 * (np.arange(30) % 2)
    nod = np.exp(-(((time - 3) / 1.2) ** 2)) + 0.02 * time
    means = 500 * (1 + 0.015 * nod * np.linspace(-1, 1, 30)) + rng.normal(0, 0.3, (40, 30))
    assert not find_spikes(means).any()
    means[25, 11] *= 0.93
    assert np.argwhere(find_spikes(means)).tolist() == [[25, 11]]


def test_noise_has_no_spikes(rng):
    means = 500 + rng.normal(0, 5.0, (2000 * 60, 20))
    assert not find_spikes(means).any()


def test_a_ghost_is_measured_along_its_axis(brain, rng):
    volume = brain * 600.0 + np.roll(brain, 12, axis=1) * 60 + rng.normal(20, 2, SHAPE)
    zooms = (8.0, 8.0, 8.0)  # mm
    assert ghost_ratio(volume, brain, axis=1, zooms=zooms) == pytest.approx(60 / 620, rel=0.1)
    assert abs(ghost_ratio(brain * 600.0 + 20, brain, axis=1, zooms=zooms)) < 1e-6


def test_scalp_and_neck_in_the_place_of_the_ghost_are_no_ghost(brain, rng):
    zooms = (4.0, 4.0, 4.0)  # mm
    volume = brain * 600.0 + rng.normal(20, 2, SHAPE)
    scalp = ndimage.binary_dilation(brain, iterations=3) & ~brain
    volume[scalp] += 200
    volume[:, :3, :4] += 300
    assert abs(ghost_ratio(volume, brain, axis=1, zooms=zooms)) < 0.01


def test_a_brain_that_fills_the_image_hides_its_ghost(brain):
    assert ghost_ratio(np.ones(SHAPE), np.ones(SHAPE, bool), axis=1, zooms=(3.0, 3.0, 3.0)) is None
    assert ghost_ratio(np.zeros(SHAPE), brain, axis=1, zooms=(8.0, 8.0, 8.0)) is None
    assert ghost_ratio(brain * 600.0, brain, axis=1, zooms=(1.0, 1.0, 1.0)) is None  # too near


def test_coverage_is_a_share_of_the_brain(brain):
    half = brain.copy()
    half[:10] = False
    assert coverage(half, brain) == pytest.approx(0.5)
    assert coverage(brain, np.zeros(SHAPE, bool)) is None


def test_a_run_is_measured(brain, rng):
    series = (500 + rng.normal(0, 10, (int(brain.sum()), T))).astype(np.float32)
    table = pd.DataFrame(
        {
            "framewise_displacement": [np.nan, 0.7, *[0.1] * (T - 2)],
            "std_dvars": [np.nan, *[1.0] * (T - 1)],
            "global_signal": np.linspace(1000, 1030, T),
        }
    )
    means = 500 + rng.normal(0, 0.5, (T, SHAPE[2]))
    found = measure_run(
        table,
        series=series,
        reference=brain * 600.0,
        mask=brain,
        zooms=(8.0, 8.0, 8.0),
        n_skipped=2,
        slice_means=means,
        phase_axis=1,
        brain_coverage=0.97,
    )
    assert set(found) == set(LIMITS)
    assert found["fd_max"] == 0.7
    assert found["fd_share"] == pytest.approx(1 / (T - 1), rel=1e-3)
    assert found["drift_percent"] == pytest.approx(3, rel=0.05)
    assert found["spike_share"] == 0
    assert found["fov_coverage"] is None
    assert judge_run(found)["verdict"] == "pass"


def test_a_good_run_passes_and_everything_is_json():
    found = judge_run(GOOD, steps={"coregistration": {"verdict": "pass", "reasons": []}})
    assert found["verdict"] == "pass"
    assert found["reasons"] == []
    assert found["measures"]["tsnr"]["look"] == 25
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("name", LIMITS)
def test_each_number_can_be_doubted(name):
    limit = LIMITS[name]
    sign = -1 if limit.low else 1
    for verdict in ("look", "fail"):
        bound = getattr(limit, verdict)
        if bound is None:
            continue
        found = judge_run(GOOD | {name: bound * (1 + 0.01 * sign)})
        assert found["verdict"] == found["measures"][name]["verdict"] == verdict
        assert limit.words in found["reasons"][0]


def test_what_is_not_known_says_nothing():
    found = judge_run(GOOD | {"tsnr": None})
    assert found["verdict"] == "pass"
    assert found["measures"]["tsnr"]["verdict"] is None


def test_a_step_that_failed_comes_first():
    steps = {"coregistration": {"verdict": "fail", "reasons": ["the T1w image of another head?"]}}
    found = judge_run(GOOD | {"fd_mean": 0.3}, steps=steps)
    assert found["verdict"] == "fail"
    assert found["reasons"] == [
        "coregistration: the T1w image of another head?",
        "mean framewise displacement: 0.3 mm, above 0.25 mm",
    ]
