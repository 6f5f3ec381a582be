"""Regions, networks and time."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom import (
    read_participant_truth,
    read_run_truth,
    standard_series,
)
from neurostorm_app.pipelines.phantom.acquisition import Acquisition, place_grid, slice_times
from neurostorm_app.pipelines.phantom.bold import AMPLITUDE, Conditions, render_series
from neurostorm_app.pipelines.phantom.head import CENTRE, build_head
from neurostorm_app.pipelines.phantom.networks import (
    BAND,
    NETWORKS,
    REGIONS,
    Activity,
    assign_regions,
    build_activity,
    connectivity,
)
from neurostorm_app.pipelines.phantom.people import build_anatomy, build_participant
from neurostorm_app.pipelines.phantom.scene import build_scene
from neurostorm_app.pipelines.phantom.settings import SCALES, TR

EDGES = np.triu_indices(len(REGIONS), 1)
DEMO = Grid.from_rows((48, 47, 46), [[-4, 0, 0, 95], [0, 4, 0, -113], [0, 0, 4, -77]])


def of_network(name):
    return np.array([region.network == name for region in REGIONS])


def test_two_runs_of_one_person_are_more_alike_than_two_people():
    people = [build_participant(n, seed=1) for n in range(1, 11)]
    times = TR * np.arange(60)
    matrices = np.array(
        [
            np.corrcoef(build_activity(p, run, seed=1, duration=120).at(times))[EDGES]
            for run in (1, 2)
            for p in people
        ]
    )
    alike = np.corrcoef(matrices - matrices.mean(axis=0))[:10, 10:]
    assert (alike.argmax(axis=1) == np.arange(10)).mean() >= 0.9
    true = np.corrcoef([connectivity(p, seed=1)[EDGES] for p in people])
    assert 0.2 < true[np.triu_indices(10, 1)].mean() < 0.8  # a common part, and an own one


def test_two_people_have_neither_heads_nor_thoughts_in_common():
    one, other = (build_participant(n, seed=1) for n in (1, 2))
    times = TR * np.arange(300)
    signals = [build_activity(p, 1, seed=1, duration=600).at(times) for p in (one, other)]
    together = [np.corrcoef(a, b)[0, 1] for a, b in zip(*signals, strict=True)]
    assert abs(np.mean(together)) < 0.15
    scale = SCALES["tiny"]
    heads = [build_anatomy(n, seed=1, head=build_head(2), scale=scale) for n in (1, 2)]
    affine, field = ([head.t1w_to_template.steps[k] for head in heads] for k in (0, 1))
    assert np.abs(affine[0].matrix - affine[1].matrix).max() > 0.5  # mm
    assert np.abs(field[0].displacement - field[1].displacement).max() > 2  # mm


def test_long_runs_come_to_the_true_connectivity():
    person = build_participant(3, seed=1)
    activity = build_activity(person, 1, seed=1, duration=36000)
    signals = activity.at(np.arange(0, 36000, 4.0))
    found, true = np.corrcoef(signals)[EDGES], connectivity(person, seed=1)[EDGES]
    assert np.corrcoef(found, true)[0, 1] > 0.9
    np.testing.assert_allclose(signals.std(axis=1), 1, atol=0.15)


def test_signals_stay_within_their_band_and_do_not_depend_on_the_length():
    person = build_participant(1, seed=1)
    short, long = (build_activity(person, 1, seed=1, duration=d) for d in (100.0, 1100.0))
    times = np.arange(0, 100, 0.7)
    np.testing.assert_array_equal(short.at(times), long.at(times))
    assert BAND[0] <= short.frequencies.min() < short.frequencies.max() <= BAND[1]


def test_age_and_group_change_the_planted_edges():
    person = replace(build_participant(1, seed=1), age=50, group="control")
    inside = np.ix_(of_network("default"), of_network("default"))
    elsewhere = np.ix_(of_network("visual"), of_network("visual"))

    def coupling(block, **change):
        return connectivity(replace(person, **change), seed=1)[block].mean()

    assert coupling(inside, age=80) < coupling(inside, age=50) < coupling(inside, age=20)
    assert coupling(inside, group="patient") < coupling(inside)
    assert coupling(elsewhere, age=80) == pytest.approx(coupling(elsewhere, age=20))


def test_there_are_ten_to_fourteen_networks_and_every_seed_is_in_its_region():
    assert 10 <= len(NETWORKS) <= 14
    seeds = np.array([region.seed for region in REGIONS], dtype=float)
    np.testing.assert_array_equal(assign_regions(seeds), np.arange(len(REGIONS)))
    head = build_head(2)
    grey = head.grid.world()[head.grey > 0.5]
    counts = np.bincount(assign_regions(grey), minlength=len(REGIONS))
    assert counts.min() * 8 > 1000  # mm3


def test_every_slice_is_taken_at_its_own_time():
    scale = SCALES["tiny"]
    anatomy = build_anatomy(1, seed=2, head=build_head(2), scale=scale)
    scene = build_scene(build_head(2), anatomy, scale=scale)
    times = slice_times(scale)
    n_volumes, hertz = 40, 0.05
    acquisition = Acquisition(
        grid=place_grid(anatomy.template_to_t1w(CENTRE[None])[0], number=1, seed=2, scale=scale),
        times=times,
        motion=np.tile(np.eye(4), (n_volumes, 1, 1)),
        t1w_to_bold=np.eye(4),
        phase_sign=0,
    )
    ones = np.ones((len(REGIONS), 1))
    wave = Activity(np.array([hertz]), ones, 0 * ones)
    quiet = np.random.default_rng(0)
    series = render_series(
        scene, acquisition, wave, rng=quiet, conditions=Conditions(noise=0)
    ).astype(float)
    courses = series.sum(axis=(0, 1))
    phase = np.exp(-2j * np.pi * hertz * TR * np.arange(n_volumes))
    found = np.angle(courses @ phase) / (2 * np.pi * hertz)
    bright = courses.mean(axis=1) > courses.mean() / 3
    assert bright.sum() > 12
    np.testing.assert_allclose(found[bright], times[bright], atol=0.1)  # s
    assert np.ptp(times) > 1.5  # s
    assert len(np.unique(times)) == len(times) // scale.multiband


def test_the_scan_carries_the_true_signals(made):
    name = "sub-01_task-rest_run-1"
    truth = read_participant_truth(made.truth.participants["01"])
    run = read_run_truth(made.truth.runs[name])
    image = nib.load(made.bids / "sub-01" / "func" / f"{name}_bold.nii.gz")
    series = image.get_fdata()
    world = Grid.of(image).world()
    points = truth.t1w_to_template(apply_affine(np.linalg.inv(run.t1w_to_bold), world))
    head = build_head(2)
    grey = head.sample(head.grey, points) > 0.4
    region = assign_regions(points[grey])
    signals = series[grey]
    signals = signals / signals.mean(axis=1, keepdims=True) - 1
    signals -= signals.mean(axis=0)
    common = run.signals - run.signals.mean(axis=0)
    matches = [
        np.corrcoef(signals[region == v].mean(axis=0), common[v])[0, 1]
        for v in range(len(REGIONS))
        if (region == v).sum() >= 15
    ]
    assert len(matches) > 20
    assert np.median(matches) > 0.5


def test_the_temporal_signal_to_noise_is_that_of_a_scanner(made):
    path = made.bids / "sub-01" / "func" / "sub-01_task-rest_run-1_bold.nii.gz"
    series = nib.load(path).get_fdata()
    mean = series.mean(axis=-1)
    ratio = (mean / (series.std(axis=-1) + 1e-6))[mean > 400]
    assert 40 < np.median(ratio) < 90


def test_a_standard_series_is_the_same_run_on_a_standard_grid():
    series, mask = standard_series(2, 1, seed=1, grid=DEMO, n_volumes=25, tr=2.0)
    assert series.shape == (48, 47, 46, 25)
    assert series.dtype == np.float32
    assert mask.shape == series.shape[:3]
    assert 1.6e6 < mask.sum() * 64 < 2.1e6  # mm3
    assert series[mask].mean() > 5 * series[~mask].mean()
    person = build_participant(2, seed=1)
    true = build_activity(person, 1, seed=1, duration=50).at(2.0 * np.arange(25))
    voxels = mask & (build_head(2).sample(build_head(2).grey, DEMO.world()) > 0.7)
    region = assign_regions(DEMO.world()[voxels])
    found = np.array([series[voxels][region == v].mean(axis=0) for v in range(len(REGIONS))])
    found = found / found.mean(axis=1, keepdims=True) - 1
    matches = [np.corrcoef(found[v], true[v])[0, 1] for v in range(len(REGIONS))]
    assert np.median(matches) > 0.8
    assert 0.5 * AMPLITUDE < found.std() < 1.5 * AMPLITUDE


def test_a_standard_series_is_drawn_from_its_seed_and_takes_points_for_a_grid():
    asked = {"seed": 4, "n_volumes": 6, "tr": 1.5}
    one, mask = standard_series(1, 2, grid=DEMO, **asked)
    again, _ = standard_series(1, 2, grid=DEMO.world(), **asked)
    other, _ = standard_series(1, 1, grid=DEMO, **asked)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[mask], other[mask])
