"""Field maps, echoes, poses and spikes: the files show what the truth says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.bids_app import tools
from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.phantom import (
    PhantomTruthPaths,
    make_phantom,
    read_participant_truth,
    read_run_truth,
    score_field,
)
from neurostorm_app.pipelines.phantom.settings import Settings

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
RUN = "sub-01_task-rest_run-1"
OPTIONS = {
    "pepolar": {"spikes": 2, "sbref": True},
    "phasediff": {"motion": 3.0, "echoes": 2},
    "phases": {"t1w": 2, "activation": 0.0, "drift": 0.0},
    "direct": {"motion": 0.0},
}


@dataclass(frozen=True)
class Shown:
    """A dataset with a kind of field map, and its truth."""

    bids: Path
    truth: PhantomTruthPaths

    @property
    def fmap(self) -> Path:
        return self.bids / "sub-01" / "fmap"

    @property
    def func(self) -> Path:
        return self.bids / "sub-01" / "func"

    def true(self, name: str) -> Path:
        return self.truth.root / "sub-01" / f"{name}.nii.gz"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Make a dataset of each kind when it is first asked for."""
    made: dict[str, Shown] = {}

    def make(kind):
        if kind not in made:
            out = tmp_path_factory.mktemp("shown") / kind
            asked = {"participants": 1, "runs": 1, "n_volumes": 8, "seed": 6, "scale": "tiny"}
            truth = make_phantom(out, fieldmap=kind, **asked, **OPTIONS[kind])
            made[kind] = Shown(out, truth)
        return made[kind]

    return make


def sidecar(path):
    return json.loads(path.read_text())


def look_up(image, points):
    voxels = apply_affine(np.linalg.inv(image.affine), points).T
    return ndimage.map_coordinates(image.get_fdata(), voxels, order=1)


@pytest.mark.skipif(not VALIDATOR.exists(), reason="bids-validator-deno is not installed")
@pytest.mark.parametrize("kind", OPTIONS)
def test_the_official_validator_finds_no_error_whatever_is_asked(shown, kind):
    call = [VALIDATOR, shown(kind).bids, "--format", "json"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert {issue["code"] for issue in issues} <= {
        "JSON_KEY_RECOMMENDED",
        "SIDECAR_KEY_RECOMMENDED",
    }


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_scan_of_the_field_names_the_series_it_is_for(shown, kind):
    made = shown(kind)
    series = sorted(made.func.glob("*_bold.json"))
    assert {sidecar(path)["B0FieldSource"] for path in series} == {kind}
    described = sorted(made.fmap.glob("*.json"))
    assert len(described) == len(list(made.fmap.glob("*.nii.gz"))) >= 2
    for path in described:
        assert sidecar(path)["B0FieldIdentifier"] == kind
        meant = [made.bids / uri.removeprefix("bids::") for uri in sidecar(path)["IntendedFor"]]
        assert meant == [path.with_suffix(".nii.gz") for path in series]
        assert all(path.exists() for path in meant)


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_field_of_its_scans_is_that_of_the_series_in_another_pose(shown, kind):
    made = shown(kind)
    person = read_participant_truth(made.truth.participants["01"])
    run = read_run_truth(made.truth.runs[RUN])
    places = run.t1w_to_bold, person.t1w_to_fmap
    names = f"{RUN}_fieldmap", "sub-01_fmap_fieldmap"
    one, other = (
        look_up(nib.load(made.true(name)), apply_affine(place, run.brain_t1w))
        for name, place in zip(names, places, strict=True)
    )
    inside = (one != 0) & (other != 0)
    assert inside.mean() > 0.9
    assert np.percentile(np.abs(one - other)[inside], 95) < 1.5  # Hz
    moved = apply_affine(places[1], run.brain_t1w) - apply_affine(places[0], run.brain_t1w)
    assert 1 < np.linalg.norm(moved, axis=1).max() < 15  # mm


def measured_hz(made, kind):
    """Read the field as a scanner's files tell it, Hz; wraps are undone by the truth."""
    if kind == "direct":
        assert sidecar(made.fmap / "sub-01_fieldmap.json")["Units"] == "Hz"
        return nib.load(made.fmap / "sub-01_fieldmap.nii.gz").get_fdata()
    if kind == "phasediff":
        words = sidecar(made.fmap / "sub-01_phasediff.json")
        step = words["EchoTime2"] - words["EchoTime1"]
        stored = nib.load(made.fmap / "sub-01_phasediff.nii.gz").get_fdata()
    else:
        paths = [made.fmap / f"sub-01_phase{n}" for n in (1, 2)]
        times = [sidecar(path.with_suffix(".json"))["EchoTime"] for path in paths]
        step = times[1] - times[0]
        first, second = (nib.load(path.with_suffix(".nii.gz")).get_fdata() for path in paths)
        stored = second - first
        assert 0 <= first.min() < 100
        assert 4000 < first.max() <= 4095
    true = nib.load(made.true("sub-01_fmap_fieldmap")).get_fdata()
    hertz = stored / 4096 / step - (0.5 / step if kind == "phasediff" else 0)
    turns = np.round((hertz - true) * step)
    assert np.abs(turns[true > 60]).max() >= 1  # air wraps the phase
    return hertz - turns / step


@pytest.mark.parametrize("kind", ["phasediff", "phases", "direct"])
def test_the_phase_of_gradient_echoes_is_that_of_the_field(shown, kind):
    made = shown(kind)
    true = nib.load(made.true("sub-01_fmap_fieldmap"))
    name = "magnitude" if kind == "direct" else "magnitude1"
    bright = nib.load(made.fmap / f"sub-01_{name}.nii.gz").get_fdata() > 500
    assert bright.sum() * 0.216 > 1000  # ml
    error = (measured_hz(made, kind) - true.get_fdata())[bright]
    assert np.percentile(np.abs(error), 95) < 1  # Hz
    assert abs(np.mean(error)) < 0.1  # Hz
    series = nib.load(min(made.func.glob("*_bold.nii.gz")))
    assert not np.allclose(series.affine, true.affine)  # a field of view of its own


def test_undoing_the_true_field_makes_the_pair_alike(shown):
    made = shown("pepolar")
    hertz = nib.load(made.true("sub-01_fmap_fieldmap")).get_fdata()
    voxels = np.indices(hertz.shape).astype(float)
    bent, straight = [], []
    for label, sign in (("AP", -1), ("PA", 1)):
        volume = nib.load(made.fmap / f"sub-01_dir-{label}_epi.nii.gz").get_fdata().mean(axis=-1)
        shift = sign * sidecar(made.fmap / f"sub-01_dir-{label}_epi.json")["TotalReadoutTime"]
        shift = shift * hertz
        where = voxels + np.stack([0 * shift, shift, 0 * shift])
        found = ndimage.map_coordinates(volume, where, order=3)
        bent.append(volume)
        straight.append(found * (1 + np.gradient(shift, axis=1)))
    shifted = (np.abs(hertz) > 12) & (straight[0] > 150)
    before, after = (
        np.sqrt(np.mean((one - other)[shifted] ** 2)) for one, other in (bent, straight)
    )
    assert after < before / 3


def test_the_command_takes_every_option(tmp_path):
    words = (
        "--participants 1 --runs 1 --volumes 4 --seed 2 --scale tiny --fieldmap direct --field 2"
    )
    words += " --echoes 2 --motion 0.5 --t1w 2 --sbref --activation 2 --drift 0 --spikes 1"
    build = tools.build_parser().parse_args(["phantom", str(tmp_path / "out"), *words.split()])
    build.call(build)
    told = sidecar(tmp_path / "out-truth" / "phantom.json")["Settings"]
    assert told == {
        "participants": 1,
        "runs": 1,
        "seed": 2,
        "n_volumes": 4,
        "scale": "tiny",
        "distortion": True,
        "fieldmap": "direct",
        "field": 2.0,
        "echoes": 2,
        "motion": 0.5,
        "t1w": 2,
        "sbref": True,
        "activation": 2.0,
        "drift": 0.0,
        "spikes": 1,
    }
    assert len(list((tmp_path / "out").rglob("*_sbref.nii.gz"))) == 2
    hertz = nib.load(tmp_path / "out-truth" / "sub-01" / f"{RUN}_fieldmap.nii.gz").get_fdata()
    assert 100 < hertz.max() < 200  # twice the usual


def test_echoes_decay_with_the_true_rate(tmp_path):
    asked = {"participants": 1, "runs": 1, "n_volumes": 12, "seed": 6, "scale": "tiny"}
    truth = make_phantom(tmp_path / "out", echoes=4, motion=0.0, **asked)
    paths = sorted((tmp_path / "out" / "sub-01" / "func").glob("*_echo-*_bold.nii.gz"))
    times = [sidecar(Path(str(p).replace(".nii.gz", ".json")))["EchoTime"] for p in paths]
    assert times == [0.012, 0.028, 0.044, 0.06]
    series = np.stack([nib.load(path).get_fdata() for path in paths])
    means = series.mean(axis=-1)
    bright = means[-1] > 150
    slope = np.polyfit(times, np.log(means[:, bright]), 1)[0]
    true = nib.load(truth.root / "sub-01" / f"{RUN}_T2starmap.nii.gz").get_fdata()[bright]
    assert 0.03 < np.median(true) < 0.07  # s
    np.testing.assert_allclose(-1 / slope, true, rtol=0.05)
    # the networks change the rate: their part of the signal grows with the echo time
    relative = series[:, bright] / means[:, bright][..., None] - 1
    run = read_run_truth(truth.runs[RUN])
    common = (run.signals - run.signals.mean(axis=1, keepdims=True)).mean(axis=0)
    seen = (relative.mean(axis=1) * common).sum(axis=-1)
    assert seen[3] > 2.5 * seen[0]


@pytest.mark.parametrize(("kind", "largest"), [("phasediff", 3.0), ("direct", 0.0)])
def test_motion_is_as_large_as_it_is_asked_to_be(shown, kind, largest):
    run = read_run_truth(shown(kind).truth.runs[RUN])
    points = apply_affine(run.t1w_to_bold, run.brain_t1w)
    moved = [np.linalg.norm(apply_affine(pose, points) - points, axis=1) for pose in run.motion]
    assert np.max(moved) == pytest.approx(largest, abs=0.01)  # mm


def test_the_second_t1w_shows_the_first_where_the_pose_says(shown):
    made = shown("phases")
    one, other = (
        nib.load(made.bids / "sub-01" / "anat" / f"sub-01_run-{n}_T1w.nii.gz") for n in (1, 2)
    )
    poses = read_participant_truth(made.truth.participants["01"]).t1w_poses
    points = read_run_truth(made.truth.runs[RUN]).brain_t1w
    np.testing.assert_array_equal(poses[0], np.eye(4))
    here = look_up(one, points)
    right, wrong = (
        np.corrcoef(here, look_up(other, place))[0, 1]
        for place in (apply_affine(poses[1], points), points)
    )
    assert right > 0.85
    assert right > wrong + 0.1


def test_a_single_band_reference_has_more_contrast_and_a_pose_of_its_own(shown):
    made = shown("pepolar")
    volume = nib.load(made.func / f"{RUN}_sbref.nii.gz").get_fdata()
    series = np.median(nib.load(made.func / f"{RUN}_bold.nii.gz").get_fdata(), axis=-1)
    assert volume.shape == series.shape
    bright = series > 300
    spread = [v[bright].std() / v[bright].mean() for v in (volume, series)]
    assert spread[0] > 1.2 * spread[1]
    assert np.corrcoef(volume[bright], series[bright])[0, 1] > 0.7
    words = sidecar(made.func / f"{RUN}_sbref.json")
    assert "SliceTiming" not in words
    assert words["PhaseEncodingDirection"] == "j-"
    pose = read_run_truth(made.truth.runs[RUN]).sbref
    assert 0.05 < np.abs(pose - np.eye(4)).max() < 3  # mm


def test_spikes_are_where_the_truth_says(shown):
    made = shown("pepolar")
    factors = read_run_truth(made.truth.runs[RUN]).spikes
    assert ((factors != 1).any(axis=1)).sum() == 2
    series = nib.load(made.func / f"{RUN}_bold.nii.gz").get_fdata()
    slices = series.mean(axis=(0, 1)).T  # (T, Z)
    change = slices / np.median(slices, axis=0)
    full = np.median(slices, axis=0) > 100
    np.testing.assert_allclose(change[:, full], factors[:, full], atol=0.1)


def test_usual_settings_are_not_told_twice():
    told = Settings(scale="tiny").told()
    assert told == {
        "participants": 4,
        "runs": 2,
        "seed": 1,
        "n_volumes": 24,
        "scale": "tiny",
        "distortion": False,
    }
    more = Settings(fieldmap="direct", echoes=3).told()
    assert (more["fieldmap"], more["echoes"], more["distortion"]) == ("direct", 3, True)


def test_a_field_is_scored_in_hertz_and_voxels(shown, tmp_path):
    made = shown("phasediff")
    run, true = read_run_truth(made.truth.runs[RUN]), made.true(f"{RUN}_fieldmap")
    exact = score_field(run, true, true)
    assert exact["p95_hz"] == 0
    assert exact["covered"] == 1
    image = nib.load(true)
    path = tmp_path / "off.nii.gz"
    nib.Nifti1Image(image.get_fdata() + 4.0, image.affine).to_filename(path)
    off = score_field(run, true, path)
    assert off["median_hz"] == pytest.approx(4.0, abs=1e-5)
    assert off["median_voxels"] == pytest.approx(0.12, abs=1e-6)
    assert off["offset_voxels"] == pytest.approx(0.12, abs=1e-6)
    assert off["rest_p95_voxels"] < 1e-6


def test_a_field_is_scored_in_the_pose_of_its_reference_and_where_it_covers(shown, tmp_path):
    made = shown("phasediff")
    run, true = read_run_truth(made.truth.runs[RUN]), made.true(f"{RUN}_fieldmap")
    image = nib.load(true)
    moved = run.motion[5]
    path = tmp_path / "moved.nii.gz"
    nib.Nifti1Image(image.get_fdata(), moved @ image.affine).to_filename(path)
    estimate = run.motion @ np.linalg.inv(moved)  # motion to a reference in pose 5
    assert score_field(run, true, path, hmc=estimate)["p95_hz"] < 0.05
    assert score_field(run, true, path)["p95_hz"] > 0.2
    nib.Nifti1Image(image.get_fdata()[:16], image.affine).to_filename(path)
    half = score_field(run, true, path)
    assert 0.2 < half["covered"] < 0.8


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """Make three people: one cannot lie still, one has a wrong header."""
    out = tmp_path_factory.mktemp("failures") / "bids"
    asked = {"participants": 3, "runs": 1, "n_volumes": 8, "seed": 6, "scale": "tiny"}
    truth = make_phantom(out, motion=0.5, restless=(2,), turned=(3,), **asked)
    return Shown(out, truth)


def test_who_cannot_lie_still_moves_far_and_the_others_do_not(failures):
    largest = []
    for person in ("01", "02", "03"):
        run = read_run_truth(failures.truth.runs[RUN.replace("01", person, 1)])
        points = apply_affine(run.t1w_to_bold, run.brain_t1w)
        moved = [apply_affine(pose, points) - points for pose in run.motion]
        largest.append(np.linalg.norm(moved, axis=-1).max())
    assert largest == pytest.approx([0.5, 14.0, 0.5], abs=0.02)  # mm


def test_a_turned_header_says_that_the_nose_points_up(failures):
    for person, to_front in (("01", [0, 1, 0]), ("03", [0, 0, 1])):
        image = nib.load(failures.bids / f"sub-{person}" / "anat" / f"sub-{person}_T1w.nii.gz")
        axis = image.affine[:3, 1] / np.linalg.norm(image.affine[:3, 1])
        assert axis @ to_front > 0.99
        np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-3)
        middle = apply_affine(image.affine, (np.array(image.shape) - 1) / 2)
        assert np.linalg.norm(middle) < 40  # mm: it turned where it lay
    truth = read_participant_truth(failures.truth.participants["03"])
    assert truth.t1w_to_template(np.zeros((1, 3))) == pytest.approx(np.zeros((1, 3)), abs=30)


def test_the_truth_names_who_was_made_to_fail(failures):
    told = sidecar(failures.truth.root / "phantom.json")["Settings"]
    assert (told["restless"], told["turned"]) == ([2], [3])


@pytest.mark.parametrize("name", ["restless", "turned"])
def test_nobody_else_can_be_made_to_fail(name):
    with pytest.raises(UsageError, match=f"{name} names participant 5 of a phantom of 4") as caught:
        Settings(**{name: (1, 5)})
    assert "from 1 to 4" in caught.value.fix


def test_the_command_takes_lists_of_people(tmp_path):
    words = "--participants 2 --runs 1 --volumes 4 --scale tiny --restless 1 2 --turned 2"
    build = tools.build_parser().parse_args(["phantom", str(tmp_path / "out"), *words.split()])
    build.call(build)
    told = sidecar(tmp_path / "out-truth" / "phantom.json")["Settings"]
    assert (told["restless"], told["turned"]) == ([1, 2], [2])
