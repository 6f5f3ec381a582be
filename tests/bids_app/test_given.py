"""Entering again: what a derivative has estimated is taken, and what it lacks is named."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.errors import ExitCode

from .conftest import write_image

RUN = "sub-01_task-rest_run-1"
LABELS = ("MNI152NLin6Asym:res-2", "MNI152NLin2009cAsym:res-2")


@pytest.fixture
def minimal(settings, fake, dataset, tmp_path):
    """Make our own minimal output, with a field map for one run, in a folder elsewhere."""
    for label, axis in (("AP", "j-"), ("PA", "j")):
        stem = f"sub-01/fmap/sub-01_dir-{label}_epi"
        write_image(dataset.root / f"{stem}.nii.gz", (7, 8, 9))
        about = {"PhaseEncodingDirection": axis, "IntendedFor": f"func/{RUN}_bold.nii.gz"}
        dataset.json(f"{stem}.json", about)
    out = tmp_path / "minimal"
    options = {
        "skip_bids_validation": True, "nprocs": 1, "output_level": "minimal",
        "participant_label": ["01"],
    }  # fmt: skip
    run_app(build_settings(dataset.root, out, "participant", options), engines=fake.engines())
    fake.calls.clear()
    fake.wanted.clear()
    return out


@pytest.fixture
def enter(settings, fake):
    """Call the app with a derivative, and give back result and what was really done."""

    def call(tree, **options):
        fake.calls.clear()
        given = {"derivatives": {"prep": tree}, "participant_label": ["01"]}
        result = run_app(settings(**given, **options), engines=fake.engines())
        return result, {n.split()[0] for n in fake.calls if not n.startswith(("page", "load"))}

    return call


def test_our_own_minimal_output_is_completed(minimal, enter, fake, tmp_path):
    result, done = enter(minimal)
    assert result.exit_code == ExitCode.SUCCESS
    assert done == {"series", "confounds", "embed"}
    wanted = fake.wanted[-1]
    fit = wanted.fits[RUN]
    assert {"hmc_xfm", "coreg_xfm", "fmap_xfm", "field", "fieldmap", "qc"} <= fit.keys()
    assert fit["fmap_coefficients"].name == "sub-01_fmapid-auto00000_desc-coeff_fieldmap.nii.gz"
    assert {"t1w", "to:MNI152NLin6Asym", f"t1w:{LABELS[0]}"} <= wanted.anat.keys()
    func = tmp_path / "out" / "sub-01" / "func"
    stem = f"{RUN}_space-MNI152NLin6Asym_res-2_desc-preproc_bold"
    sources = json.loads((func / f"{stem}.json").read_text())["Sources"]
    hmc = f"{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    assert f"bids:prep:sub-01/func/{hmc}" in sources
    assert not (func / hmc).exists()
    _, done = enter(minimal)
    assert done == set()


def test_a_changed_estimate_is_followed(minimal, enter):
    enter(minimal)
    hmc = f"{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    (minimal / "sub-01" / "func" / hmc).write_text("other")
    _, done = enter(minimal)
    assert {"series", "confounds"} <= done


def rename(tree, run=RUN):
    """Turn our output into what a fork of fMRIPrep with fewer files writes."""
    func = tree / "sub-01" / "func"
    old = func / f"{run}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt"
    old.rename(func / f"{run}_from-boldref_to-T1w_mode-image_xfm.txt")
    for path in tree.rglob("*fmapid*boldref_fieldmap*"):
        path.unlink()
    shutil.rmtree(tree / "logs")


def test_deepprep_keeps_its_participants_in_a_folder(minimal, enter, fake, tmp_path):
    rename(minimal)
    tree = tmp_path / "deepprep"
    tree.mkdir()
    minimal.rename(tree / "BOLD")
    result, done = enter(tree)
    assert result.exit_code == ExitCode.SUCCESS
    assert "fit" in done or done == {"series", "confounds", "embed"}
    fit = fake.wanted[-1].fits[RUN]
    assert "field" not in fit
    assert {"fmap_xfm", "fieldmap"} <= fit.keys()


def test_a_template_that_was_not_there_is_added(minimal, enter, fake):
    for path in (minimal / "sub-01" / "anat").glob("*MNI152NLin2009cAsym*"):
        path.unlink()
    _, done = enter(minimal)
    assert done == {"normalize", "series", "confounds", "embed"}
    assert "to:MNI152NLin2009cAsym" not in fake.wanted[-1].anat


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("func/{run}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt", "desc-hmc_xfm.txt is"),
        ("func/{run}_desc-brain_mask.nii.gz", "desc-brain_mask.nii.gz is missing"),
        ("func/{run}_from-boldref_to-T1w_*xfm.txt", "desc-coreg_xfm.txt is missing"),
        ("anat/*_dseg.nii.gz", "leads to a T1w image, and .*sub-01_dseg.nii.gz is missing"),
        ("*/*_fieldmap.nii.gz", "fmapid-auto00000_desc-preproc_fieldmap.nii.gz is missing"),
    ],
)
def test_what_is_missing_is_named_and_the_run_estimated_anew(
    minimal, enter, fake, caplog, pattern, message
):
    for path in (minimal / "sub-01").glob(pattern.format(run=RUN)):
        path.unlink()
    result, done = enter(minimal)
    assert result.exit_code == ExitCode.SUCCESS
    assert "fit" in done
    assert RUN not in fake.wanted[-1].fits
    (run,) = [run for run in fake.wanted[-1].runs if run.name == RUN]
    notes = " ".join(run.notes)
    assert "what the derivative prep estimated of the run is not used" in notes
    assert re.search(message, notes)
    assert re.search(message, caplog.text)


def send_away(tree, pattern):
    """Leave of some files what a clone has whose content was not fetched."""
    paths = sorted(tree.glob(pattern))
    assert paths
    for path in paths:
        path.unlink()
        path.symlink_to("../../.git/annex/objects/x")
    return paths


@pytest.mark.parametrize(
    "pattern",
    [
        "sub-01/func/{run}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        "sub-01/func/{run}_from-boldref_to-T1w_*xfm.txt",
        "sub-01/func/{run}_from-boldref_to-auto00000_*xfm.txt",
        "sub-01/fmap/*_desc-preproc_fieldmap.nii.gz",
        "sub-01/fmap/*_desc-coeff_fieldmap.nii.gz",
        "logs/{run}_qc.json",
    ],
)
def test_an_annexed_estimate_that_is_not_here_is_named_and_not_made_again(minimal, enter, pattern):
    (away,) = send_away(minimal, pattern.format(run=RUN))
    result, done = enter(minimal)
    (failed,) = [run for run in result.runs if run.errors]
    assert failed.name == RUN
    assert failed.exit_code == ExitCode.NO_INPUT
    (error,) = failed.errors
    assert f"{away.name} is a link to content that is not on this machine" in error.what
    assert f"datalad get {away}" in error.fix
    assert not any("fit" in name for name in done)


@pytest.mark.parametrize(
    "pattern",
    [
        "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "sub-01/anat/sub-01_dseg.nii.gz",
        "sub-01/anat/*_to-MNI152NLin6Asym_*.h5",
        "sub-01/anat/*_space-MNI152NLin2009cAsym_*_T1w.nii.gz",
        "logs/sub-01_qc.json",
    ],
)
def test_an_annexed_anatomy_that_is_not_here_is_named_and_not_made_again(minimal, enter, pattern):
    (away,) = send_away(minimal, pattern)
    result, done = enter(minimal)
    assert done == set()
    assert {int(run.exit_code) for run in result.runs} == {66}
    assert len(result.runs) == 2
    for run in result.runs:
        assert f"{away.name} is a link to content that is not on" in run.errors[0].what


def test_runs_that_are_preprocessed_need_no_annexed_anatomy(settings, fake, tmp_path):
    run_app(settings(participant_label=["01"]), engines=fake.engines())
    tree = tmp_path / "prep"
    (tmp_path / "out").rename(tree)
    send_away(tree, "sub-01/anat/*_T1w.nii.gz")
    asked = settings(derivatives={"prep": tree}, participant_label=["01"])
    result = run_app(asked, engines=fake.engines())
    assert {run.status for run in result.runs} == {"done"}


@pytest.fixture
def without_t1w(dataset, fake, tmp_path):
    """Make minimal output of a run without a T1w image."""
    dataset.participant("03", runs=("1",), t1w=False)
    out = tmp_path / "minimal"
    options = {
        "skip_bids_validation": True, "nprocs": 1, "output_level": "minimal",
        "participant_label": ["03"],
    }  # fmt: skip
    run_app(build_settings(dataset.root, out, "participant", options), engines=fake.engines())
    return out


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (None, ""),
        ("_from-boldref_to-MNI152NLin2009cAsym_mode-image_xfm.h5", "or its inverse is missing"),
        ("_label-WM_probseg.nii.gz", "_label-WM_probseg.nii.gz is missing"),
    ],
)
def test_a_run_without_t1w_is_entered_again(settings, without_t1w, fake, removed, message):
    name = "sub-03_task-rest_run-1"
    if removed:
        (without_t1w / "sub-03" / "func" / f"{name}{removed}").unlink()
    fake.calls.clear()
    asked = settings(derivatives={"prep": without_t1w}, participant_label=["03"])
    result = run_app(asked, engines=fake.engines())
    assert result.exit_code == ExitCode.SUCCESS
    assert (f"fit {name}" in fake.calls) == (removed is not None)
    (run,) = fake.wanted[-1].runs
    assert message in " ".join(run.notes)
    if removed is None:
        assert {"to:MNI152NLin6Asym", "gm"} <= fake.wanted[-1].fits[name].keys()


def test_a_derivative_without_estimates_changes_nothing(settings, tmp_path):
    (tmp_path / "prep" / "sub-01").mkdir(parents=True)
    found = find_runs(settings(derivatives={"prep": tmp_path / "prep"}))
    assert found.participants[0].anat is None
    assert found.participants[0].fits == {}
    assert found.participants[0].raw[0].notes == ()
