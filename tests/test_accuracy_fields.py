"""Each kind of field map, and several echoes, against the truth of a phantom (slow)."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.itk import read_itk_affines
from neurostorm_app.pipelines.phantom import (
    make_phantom,
    read_run_truth,
    score_coregistration,
    score_field,
    score_motion,
)
from neurostorm_app.pipelines.preprocess.workflow import Options, preprocess_participant
from neurostorm_app.pipelines.stage import OutputSpace
from neurostorm_app.pipelines.xfm import Affine

pytestmark = pytest.mark.slow
KINDS = ("pepolar", "phasediff", "phases", "direct")
SEED = 21
NATIVE = (OutputSpace(name="native"),)


def find(folder):
    """Find participant and run of a phantom as the app does."""
    settings = build_settings(folder, folder.with_name("out"), "participant", {})
    (participant,) = find_runs(settings).participants
    return participant, participant.raw[0]


@pytest.fixture(scope="module")
def anat(tmp_path_factory):
    """Anatomy of the person; it is the same in all these phantoms."""
    folder = tmp_path_factory.mktemp("anat")
    make_phantom(folder / "bids", participants=1, runs=1, seed=SEED, n_volumes=8)
    participant, _ = find(folder / "bids")
    options = Options(spaces=NATIVE, level="minimal")
    done = preprocess_participant(
        participant.t1w, [], work_dir=folder / "work", options=options, n_procs=1
    )
    assert done.anat is not None
    return done.anat


def preprocess(folder, anat, *, level="full", **phantom):
    """Make a phantom and preprocess its run on the anatomy that is there."""
    truth = make_phantom(folder / "bids", participants=1, runs=1, seed=SEED, **phantom)
    participant, run = find(folder / "bids")
    done = preprocess_participant(
        participant.t1w,
        [run],
        work_dir=folder / "work",
        options=Options(spaces=NATIVE, level=level),
        n_procs=1,
        anat=anat,
    )
    assert not done.failed, done.failed
    (path,) = truth.runs.values()
    return run, done.bold[run.name], path


@pytest.mark.parametrize("kind", KINDS)
def test_a_siemens_like_field_map_of_each_kind_corrects_the_distortion(kind, anat, tmp_path):
    run, files, path = preprocess(
        tmp_path, anat, level="minimal", fieldmap=kind, field=2.0, n_volumes=30, motion=2.0
    )
    truth, hmc = read_run_truth(path), files["hmc_xfm"]
    true = path.with_name(f"{run.name}_fieldmap.nii.gz")
    score = score_field(truth, true, files["field"], hmc=hmc)
    zero = tmp_path / "zero.nii.gz"
    image = nib.load(files["field"])
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine), zero)
    before = score_field(truth, true, zero, hmc=hmc)
    coreg = Affine(read_itk_affines(files["coreg_xfm"])[0])
    place = score_coregistration(truth, t1w_to_boldref=coreg, hmc=hmc)
    moved = score_motion(truth, hmc)
    print(
        f"\n{kind}: shift error p95 {score['p95_voxels']:.3f} voxels"
        f" (uncorrected {before['p95_voxels']:.3f}),"
        f" coregistration {place['median_mm']:.2f} mm, motion p95 {moved['p95_mm']:.3f} mm",
        end="",
    )
    assert before["p95_voxels"] > 0.8
    assert score["p95_voxels"] < 0.3
    assert place["median_mm"] < 0.5
    assert moved["p95_mm"] < 0.05
    assert moved["p95_deg"] < 0.05
    assert json.loads(files["qc"].read_text())["distortion"]["verdict"] == "pass"


def test_several_echoes_give_the_true_t2star(anat, tmp_path):
    run, files, path = preprocess(tmp_path, anat, echoes=3, n_volumes=12, motion=0.3)
    found, _ = read_volume(files["t2star"])
    true, _ = read_volume(path.with_name(f"{run.name}_T2starmap.nii.gz"))
    inside = (read_volume(files["mask"])[0] > 0) & (true > 0.02) & (true < 0.1)
    off = np.abs(found[inside] - true[inside]) / true[inside]
    print(f"\nT2*: median error {np.median(off):.1%}, {inside.sum()} voxels", end="")
    assert np.median(off) < 0.1
    combined = nib.load(files["bold:native"]).get_fdata(dtype=np.float32)
    assert combined.shape[3] == 12
    one = nib.load(run.echoes[1].path).get_fdata(dtype=np.float32)

    def steadiness(series):
        values = series[inside]
        return np.median(values.mean(axis=1) / values.std(axis=1))

    print(f", tSNR {steadiness(combined):.0f} against {steadiness(one):.0f} of the second echo")
    assert steadiness(combined) > steadiness(one)
