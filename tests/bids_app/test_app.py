"""The story with stand-in engines: what is done, taken, and left to fail alone."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from neurostorm_app.bids_app import app
from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.derivatives import move_aside
from neurostorm_app.bids_app.engines import ModelFiles
from neurostorm_app.bids_app.participant import admission, keeping
from neurostorm_app.bids_app.participant.units import Call, Ready, embedding_unit
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.errors import (
    AppError,
    CorruptImageError,
    ExitCode,
    MissingWeightsError,
    NothingSelectedError,
    SeriesTooShortError,
    UsageError,
    WrongWeightsError,
)
from neurostorm_app.models import read_card
from neurostorm_app.models.card import Output
from neurostorm_app.pipelines.need import Need, Step
from neurostorm_app.pipelines.predict import interpret
from neurostorm_app.pipelines.resources import Plan
from neurostorm_app.pipelines.stage import StandardSeries

from .conftest import POISON, Fake, write_image

RUN = "sub-01_task-rest_run-1"
SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
STANDARD = f"{RUN}_space-MNI152NLin6Asym_res-2"


@pytest.fixture
def call(settings, fake):
    """Call the app and give back the result with the work that was really done."""

    def run(level="participant", **options):
        fake.calls.clear()
        result = run_app(settings(level, **options), engines=fake.engines())
        return result, {name for name in fake.calls if not name.startswith("load")}

    return run


def test_every_run_gets_its_results(call, tmp_path):
    result, done = call()
    assert result.exit_code == ExitCode.SUCCESS
    assert [run.status for run in result.runs] == ["done"] * 4
    # anatomies, templates, estimates, series, confounds, embeddings, pages
    assert len(done) == 2 + 4 + 4 + 8 + 4 + 4 + 2
    out = tmp_path / "out"
    for name in (
        "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "sub-01/anat/sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5",
        "sub-01/anat/sub-01_space-MNI152NLin6Asym_res-2_label-GM_probseg.json",
        f"sub-01/func/{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        f"sub-01/func/{RUN}_desc-confounds_timeseries.tsv",
        f"sub-01/func/{STANDARD}_desc-preproc_bold.nii.gz",
        f"sub-01/func/{STANDARD}_desc-connectomeWindows_embedding.tsv",
        f"sub-01/func/{STANDARD}_desc-connectome_embedding.json",
        f"logs/{RUN}_report.json",
        f"logs/{RUN}_qc.json",
        "logs/sub-01_qc.json",
        "logs/sub-01_methods.md",
        "sub-01.html",
    ):
        assert (out / name).is_file(), name
    assert not list(out.glob(".work-*"))


def test_a_rerun_does_nothing_and_says_so(call):
    call()
    result, done = call()
    assert done == set()
    assert result.summary().startswith("nothing to do: 4 runs have their results already\n")


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        (f"sub-01/func/{STANDARD}_desc-connectome_embedding.tsv", {f"embed connectome {RUN}"}),
        ("sub-01.html", set()),
        (f"sub-01/func/{RUN}_desc-confounds_timeseries.tsv", {f"confounds {RUN}"}),
        (
            f"sub-01/func/{STANDARD}_desc-preproc_bold.nii.gz",
            {f"series {RUN} MNI152NLin6Asym:res-2"},
        ),
        (f"sub-01/func/{RUN}_desc-hmc_boldref.nii.gz", {f"fit {RUN}"}),
        (
            "sub-01/anat/sub-01_dseg.nii.gz",
            {"anat 01", *(f"normalize 01 {space}" for space in SPACES)},
        ),
        ("sub-01/anat/sub-01_space-MNI152NLin6Asym_res-2_dseg.nii.gz", set()),
    ],
    ids=["embedding", "page", "confounds", "series", "estimates", "anatomy", "anatomy in space"],
)
def test_removing_one_output_redoes_only_what_is_needed(call, tmp_path, removed, expected):
    call()
    (tmp_path / "out" / removed).unlink()
    _, done = call()
    pages = {name for name in done if name.startswith("page")}
    assert done - pages == expected
    assert pages <= {"page 01"}
    _, done = call()
    assert done == set()


def test_a_damaged_output_is_made_again(call, tmp_path):
    call()
    path = tmp_path / "out" / "sub-01" / "func" / f"{STANDARD}_desc-connectome_embedding.tsv"
    path.write_text(path.read_text().replace("1", "2"))
    _, done = call()
    assert f"embed connectome {RUN}" in done


def work(done):
    """What was done without pages and embeddings."""
    return {name for name in done if not name.startswith(("page", "embed"))}


EACH = [f"sub-0{p}_task-rest_run-{r}" for p in (1, 2) for r in (1, 2)]


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ({"fd_spike_threshold": 0.3}, {"confounds"}),
        ({"return_all_components": True}, {"confounds"}),
        ({"slice_time_ref": 0.0}, {"series", "confounds"}),
        ({"ignore": ["slicetiming"]}, {"series", "confounds"}),
        ({"bold2anat_dof": 12}, {"fit", "series", "confounds"}),
        ({"dummy_scans": 1}, {"fit", "series", "confounds"}),
        ({"use_syn_sdc": True}, {"fit", "series", "confounds"}),
        ({"random_seed": 7}, {"anat", "normalize", "fit", "series", "confounds"}),
        ({"me_t2s_fit_method": "curvefit", "fallback_total_readout_time": 0.03}, set()),
    ],
    ids=lambda value: "+".join(sorted(value)),
)
def test_a_setting_brings_back_only_what_it_changes(call, options, again):
    call()
    _, done = call(**options)
    assert {name.split()[0] for name in work(done)} == again
    _, done = call(**options)
    assert done == set()


def test_one_more_space_repeats_no_estimation(call, fake):
    call(output_spaces=["MNI152NLin6Asym:res-2"])
    _, done = call(output_spaces=["MNI152NLin6Asym:res-2", "T1w", "native"])
    assert work(done) == {f"series {run} {label}" for run in EACH for label in ("T1w", "native")}
    wanted = fake.wanted[-1]
    assert [space.label for space in wanted.spaces] == ["T1w", "native"]
    assert {"t1w", "to:MNI152NLin6Asym", "qc"} <= wanted.anat.keys()
    assert {"hmc_xfm", "coreg_xfm", "confounds", "qc"} <= wanted.fits[EACH[-1]].keys()
    _, done = call(output_spaces=["MNI152NLin2009cAsym:res-2"])
    assert work(done) == {f"series {run} MNI152NLin2009cAsym:res-2" for run in EACH} | {
        f"normalize 0{p} MNI152NLin2009cAsym" for p in (1, 2)
    }


def test_a_level_is_completed_from_the_one_below(call, tmp_path, caplog):
    result, done = call(output_level="minimal")
    assert result.exit_code == ExitCode.SUCCESS
    assert {name.split()[0] for name in done} == {"anat", "normalize", "fit", "page"}
    assert caplog.text.count("models are not run: --level minimal makes no series") == 1
    func = tmp_path / "out" / "sub-01" / "func"
    assert not list(func.glob("*_space-*"))
    result, done = call(output_level="resampling")
    assert work(done) == set()
    assert len(list(func.glob(f"{RUN}_space-*_boldref.nii.gz"))) == 2
    assert not list(func.glob("*_desc-preproc_bold*"))
    result, done = call()
    assert {name.split()[0] for name in done} == {"series", "confounds", "embed", "page"}
    assert [run.status for run in result.runs] == ["done"] * 4


def test_nothing_is_done_again_at_a_level(call):
    call(output_level="minimal")
    result, done = call(output_level="minimal")
    assert done == set()
    assert [run.status for run in result.runs] == ["reused"] * 4


def test_a_model_takes_its_own_space_if_it_is_there(call, tmp_path):
    call(output_spaces=["MNI152NLin2009cAsym:res-2", "MNI152NLin6Asym:res-2"])
    func = tmp_path / "out" / "sub-01" / "func"
    assert (func / f"{STANDARD}_desc-connectome_embedding.tsv").is_file()
    call(output_spaces=["T1w", "MNI152NLin2009cAsym:res-2"])
    other = f"{RUN}_space-MNI152NLin2009cAsym_res-2_desc-connectome_embedding.tsv"
    assert (func / other).is_file()


def test_without_a_standard_space_no_model_is_run(call, caplog):
    result, done = call(output_spaces=["T1w"])
    assert result.exit_code == ExitCode.SUCCESS
    assert not [name for name in done if name.startswith("embed")]
    assert "models are not run: no standard space is among --output-spaces" in caplog.text


def test_a_run_without_t1w_goes_straight_to_the_template(call, dataset, tmp_path, caplog):
    dataset.participant("03", runs=("1",), t1w=False)
    name = "sub-03_task-rest_run-1"
    result, done = call(participant_label=["03"])
    assert result.exit_code == ExitCode.SUCCESS
    assert f"fit {name}" in done
    assert "NO T1w IMAGE" in caplog.text
    func = tmp_path / "out" / "sub-03" / "func"
    for space in SPACES:
        assert (func / f"{name}_from-boldref_to-{space}_mode-image_xfm.h5").is_file()
    assert not list(func.glob("*to-T1w*"))
    sidecar = f"{name}_space-MNI152NLin6Asym_res-2_desc-connectome_embedding.json"
    assert json.loads((func / sidecar).read_text())["Notes"][0].startswith("NO T1w IMAGE")
    _, done = call(participant_label=["03"])
    assert done == set()


def test_anatomy_alone_is_made_and_reported(call, tmp_path):
    result, done = call(anat_only=True)
    assert [(run.name, run.status) for run in result.runs] == [
        ("sub-01", "done"), ("sub-02", "done"),
    ]  # fmt: skip
    assert {name.split()[0] for name in done} == {"anat", "normalize", "page"}
    result, done = call(anat_only=True)
    assert done == set()
    result, _ = call(anat_only=True, dry_run=True)
    assert "sub-01: anatomy: nothing to do" in result.summary()
    _, done = call()
    assert not [name for name in done if name.startswith(("anat", "normalize"))]


def test_series_are_moved_and_scratch_holds_none(call, fake, tmp_path, monkeypatch):
    moved = []

    def move(source, path, *, root):
        moved.append(path.name)
        return move_aside(source, path, root=root)

    monkeypatch.setattr(keeping, "move_aside", move)
    call(work_dir=tmp_path / "work")
    assert len(moved) == 8
    assert all(name.endswith("_desc-preproc_bold.nii.gz") for name in moved)
    assert not list((tmp_path / "work").rglob("bold-*"))
    assert not list((tmp_path / "out").glob(".work*"))


def test_the_verdict_on_a_run_is_told_and_stops_nothing(call, fake, tmp_path):
    reason = {"what": "tSNR", "value": 3.0}
    fake.qc = {"quality": {"verdict": "fail", "reasons": [reason]}}
    result, _ = call()
    assert result.exit_code == ExitCode.SUCCESS
    assert "quality: 0 pass, 0 look, 4 fail" in result.summary()
    report = json.loads((tmp_path / "out" / "logs" / f"{RUN}_report.json").read_text())
    assert report["quality"] == {"verdict": "fail", "reasons": [reason]}
    result, _ = call()
    assert result.runs[0].quality["verdict"] == "fail"


def test_what_is_said_of_a_run_is_kept_when_a_space_is_added(call, fake, tmp_path):
    call(output_spaces=["MNI152NLin6Asym:res-2"])
    fake.qc = {"resampling": {"seconds": 1}, "reference": {"more": 2}}
    call()
    qc = json.loads((tmp_path / "out" / "logs" / f"{RUN}_qc.json").read_text())
    assert qc["reference"] == {
        "slice_timing": {"reference_s": 0.98}, "notes": [], "more": 2,
    }  # fmt: skip
    assert qc["quality"]["verdict"] == "pass"
    assert qc["resampling"] == {"seconds": 1}


def test_the_sidecar_of_a_series_tells_the_whole_way(call, tmp_path):
    call()
    path = tmp_path / "out" / "sub-01" / "func" / f"{STANDARD}_desc-preproc_bold.json"
    sidecar = json.loads(path.read_text())
    assert sidecar["SliceTimingCorrected"] is True
    assert sidecar["StartTime"] == 0.98
    assert sidecar["Sources"] == [
        f"bids:raw:sub-01/func/{RUN}_bold.nii.gz",
        f"bids::sub-01/func/{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        f"bids::sub-01/func/{RUN}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
        "bids::sub-01/anat/sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5",
    ]


def test_a_missing_file_of_the_preprocessing_is_an_error_of_its_run(call, fake, settings):
    engines = fake.engines()

    def forgetful(*args, **kwargs):
        done = engines.preprocess(*args, **kwargs)
        bold = {name: {**files} for name, files in done.bold.items()}
        for files in bold.values():
            files.pop("hmc_xfm")
        return replace(done, bold=bold)

    result = run_app(settings(), engines=replace(engines, preprocess=forgetful))
    assert "the preprocessing gave no hmc_xfm" in result.runs[0].errors[0].what


def test_changed_scans_are_worked_on_again(call, dataset):
    call()
    image = dataset.bold("01")
    image.write_bytes(dataset.bold("02").read_bytes())
    _, done = call()
    assert {name.split()[0] for name in done} == {"fit", "series", "confounds", "embed", "page"}
    assert all(RUN in name or name == "page 01" for name in done)


def test_a_second_model_takes_the_preprocessed_series(call):
    call()
    _, done = call(models=["connectome", "toy"])
    assert {name for name in done if not name.startswith("page")} == {
        f"embed toy sub-0{p}_task-rest_run-{r}" for p in (1, 2) for r in (1, 2)
    }


def test_one_failing_run_leaves_the_others_to_finish(call, fake, tmp_path):
    fake.broken[RUN] = CorruptImageError("the file ends early", fix="get it again")
    result, _ = call()
    status = {run.name: run.status for run in result.runs}
    assert status.pop(RUN) == "failed"
    assert set(status.values()) == {"done"}
    assert result.exit_code == ExitCode.DATA
    report = json.loads((tmp_path / "out" / "logs" / f"{RUN}_report.json").read_text())
    assert report["exit_code"] == 65
    assert report["error"]["what"] == "the file ends early"
    assert report["error"]["fix"] == "get it again"
    assert f"failed: {RUN}: the file ends early [exit code 65]" in result.summary()


def test_a_run_that_failed_is_tried_again_alone(call, fake):
    fake.broken[RUN] = CorruptImageError("the file ends early", fix="get it again")
    call()
    fake.broken.clear()
    result, done = call()
    assert {name.split()[0] for name in done} == {"fit", "series", "confounds", "embed", "page"}
    assert all(RUN in name or name == "page 01" for name in done)
    assert result.exit_code == ExitCode.SUCCESS


def test_the_report_of_a_run_forgets_a_failure_that_is_over(call, fake, tmp_path):
    fake.broken["find toy"] = MissingWeightsError("the weights of toy are not here", fix="give")
    call(models=["connectome", "toy"])
    path = tmp_path / "out" / "logs" / f"{RUN}_report.json"
    assert json.loads(path.read_text())["status"] == "failed"
    result, done = call()
    assert [run.status for run in result.runs] == ["reused"] * 4
    assert json.loads(path.read_text())["exit_code"] == 0
    assert all(name.startswith("page") for name in done)


def test_a_failing_anatomy_fails_the_runs_of_one_participant_only(call, fake):
    fake.broken["preprocess sub-01"] = AppError("no brain was found", fix="look at the T1w")
    result, _ = call()
    assert [run.status for run in result.runs] == ["failed", "failed", "done", "done"]


def test_an_unexpected_exception_in_one_run_stops_nobody(call, fake):
    fake.broken[f"embed {RUN}"] = ZeroDivisionError("division by zero")
    result, _ = call()
    assert [run.status for run in result.runs] == ["failed", "done", "done", "done"]
    assert result.exit_code == ExitCode.FAILURE
    assert result.runs[0].errors[0].what == "unexpected ZeroDivisionError: division by zero"


def test_a_preprocessing_that_loses_a_run_is_a_failure(settings, fake):
    engines = fake.engines()

    def forgetful(*args, **kwargs):
        done = engines.preprocess(*args, **kwargs)
        kept = {name: files for name, files in done.bold.items() if name != RUN}
        return replace(done, bold=kept)

    result = run_app(settings(), engines=replace(engines, preprocess=forgetful))
    assert result.exit_code == ExitCode.FAILURE
    assert "ended with neither files nor an error" in result.runs[0].errors[0].what


def test_a_run_too_short_for_a_window_fails_alone(call, fake):
    fake.broken[f"embed {RUN}"] = SeriesTooShortError("5 volumes; one window takes 20", fix="leave")
    result, _ = call()
    assert result.exit_code == ExitCode.DATA
    assert sum(run.status == "done" for run in result.runs) == 3


def test_the_first_failure_ends_the_call_when_asked(call, fake):
    fake.broken["preprocess sub-01"] = AppError("no brain was found", fix="look at the T1w")
    result, done = call(stop_on_first_crash=True)
    assert all(run.name.startswith("sub-01") for run in result.runs)
    assert not any("02" in name for name in done)


def test_the_first_run_that_fails_ends_the_preprocessing_of_its_participant(
    call, fake, tmp_path, caplog
):
    fake.broken[RUN] = CorruptImageError("no volumes", fix="convert it again")
    result, done = call(stop_on_first_crash=True)
    assert [(run.name, run.status) for run in result.runs] == [(RUN, "failed")]
    assert [[run.name for run in wanted.runs] for wanted in fake.wanted] == [[RUN]]
    assert not any("run-2" in name for name in done)
    assert "stopped at the first failure: sub-01_task-rest_run-2 not tried" in caplog.text
    assert not list((tmp_path / "out" / "logs").glob("*run-2_report.json"))
    fake.broken.clear()
    result, done = call(stop_on_first_crash=True)
    assert {run.status for run in result.runs} == {"done"}
    assert "anat 01" not in done, "it was kept"
    assert [len(wanted.runs) for wanted in fake.wanted[1:]] == [1, 1, 1, 1]
    assert {run.status for run in call(stop_on_first_crash=True)[0].runs} == {"reused"}


@pytest.mark.parametrize("where", ["engine", "disk"])
def test_an_exception_at_one_run_says_nothing_of_those_before_and_after_it(
    settings, fake, dataset, monkeypatch, caplog, where
):
    write_image(dataset.bold("01", run="3"), (7, 8, 9, 6))
    engines, full = fake.engines(), OSError(errno.ENOSPC, "No space left on device")

    def preprocess(wanted, **words):
        if where == "engine" and wanted.runs[0].name.endswith("run-2"):
            raise full
        return engines.preprocess(wanted, **words)

    def keep_methods(self, *args, **words):
        if where == "disk" and len(fake.wanted) == 2:
            raise full
        return real(self, *args, **words)

    real = keeping.Keeper.keep_methods
    monkeypatch.setattr(keeping.Keeper, "keep_methods", keep_methods)
    asked = settings(participant_label=["01"], stop_on_first_crash=True)
    result = run_app(asked, engines=replace(engines, preprocess=preprocess))
    one, two = result.runs
    assert (one.name, one.status) == (RUN, "done")
    assert one.outputs
    assert (two.name, two.status) == ("sub-01_task-rest_run-2", "failed")
    assert "No space left on device" in two.errors[0].what
    assert "stopped at the first failure: sub-01_task-rest_run-3 not tried" in caplog.text
    logs = asked.output_dir / "logs"
    assert json.loads((logs / f"{RUN}_report.json").read_text())["status"] == "done"
    assert not list(logs.glob("*run-3_report.json"))


@pytest.mark.parametrize("failing", [None, "sub-05_task-rest_run-2"])
def test_methods_of_runs_that_were_made_one_by_one_are_all_kept(
    settings, fake, dataset, tmp_path, failing
):
    dataset.participant("05", runs=("1", "2", "3"), t1w=False)
    engines = fake.engines()

    def preprocess(wanted, **words):
        done = engines.preprocess(wanted, **words)
        return replace(done, methods="; ".join(f"Made {run.name}." for run in wanted.runs))

    asked = settings(participant_label=["05"], stop_on_first_crash=True)
    if failing:
        fake.broken[failing] = CorruptImageError("no volumes", fix="convert it again")
        run_app(asked, engines=replace(engines, preprocess=preprocess))
        fake.broken.clear()
    result = run_app(asked, engines=replace(engines, preprocess=preprocess))
    assert result.exit_code == ExitCode.SUCCESS
    told = (tmp_path / "out" / "logs" / "sub-05_methods.md").read_text()
    assert told.split() == " ".join(f"Made sub-05_task-rest_run-{n}." for n in (1, 2, 3)).split()


def test_a_run_without_room_ends_the_work_on_its_participant_when_asked(call, fake, monkeypatch):
    real = admission.need_of_run

    def need_of(participant, pieces, call):
        need = real(participant, pieces, call)
        return need + Need(steps=(Step("huge", 2**50, 1),)) if pieces.run.name == RUN else need

    monkeypatch.setattr(admission, "need_of_run", need_of)
    result, _ = call(stop_on_first_crash=True)
    assert [(run.name, int(run.exit_code)) for run in result.runs] == [(RUN, 64)]
    assert not fake.wanted
    result, _ = call()
    assert sum(run.status == "done" for run in result.runs) == 3


def test_an_anatomy_alone_is_made_when_the_first_failure_would_end_the_work(call, fake):
    result, done = call(stop_on_first_crash=True, anat_only=True)
    assert {run.status for run in result.runs} == {"done"}
    assert {"anat 01", "anat 02"} <= set(done)


def test_missing_weights_of_one_model_leave_the_other_to_finish(call, fake):
    fake.broken["find toy"] = MissingWeightsError(
        "the weights of toy are not here", fix="give them"
    )
    result, done = call(models=["connectome", "toy"])
    assert result.exit_code == ExitCode.NO_INPUT
    assert f"embed connectome {RUN}" in done


def test_missing_weights_of_the_only_model_end_the_call_before_any_work(call, fake):
    fake.broken["find toy"] = MissingWeightsError(
        "the weights of toy are not here", fix="give them"
    )
    with pytest.raises(MissingWeightsError, match="are not here"):
        call(models=["toy"])
    assert not fake.calls


def test_weights_of_another_model_are_tried_once_and_fail_each_run(call, fake):
    fake.broken["load toy"] = WrongWeightsError("the weights hold code", fix="get the right ones")
    result, _ = call(models=["toy", "connectome"])
    assert fake.calls["load toy"] == 1
    assert result.exit_code == ExitCode.DATA
    assert all(run.models == ("connectome",) for run in result.runs)


def test_weights_for_a_model_that_is_not_asked_are_refused(call, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not among --models") as caught:
        call(weights={"connectom": tmp_path / "file"})
    assert "connectome" in caught.value.fix


def test_an_unknown_model_is_refused(call):
    with pytest.raises(UsageError, match="there is no model 'conectome'"):
        call(models=["conectome"])


def test_an_unknown_participant_fails_alone_beside_known_ones(call):
    result, _ = call(participant_label=["01", "99"])
    assert result.exit_code == ExitCode.NOTHING_SELECTED
    assert [run.status for run in result.runs] == ["done", "done", "failed"]
    assert "participant '99' is not in" in result.summary()


def test_only_unknown_participants_end_the_call(call):
    with pytest.raises(NothingSelectedError, match="participant '1' is not in"):
        call(participant_label=["1"])


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(call, tmp_path):
    result, done = call(dry_run=True)
    assert f"{RUN}: preprocess (anatomy from 1 T1w); embed with connectome" in result.summary()
    assert not done
    assert not (tmp_path / "out").exists()


def test_a_dry_run_after_the_work_finds_nothing_to_do(call):
    call()
    result, _ = call(dry_run=True)
    assert f"{RUN}: preprocessed; embedded: nothing to do" in result.summary()


def test_pages_can_be_written_again_alone(call):
    call()
    result, done = call(reports_only=True, participant_label=["02"])
    assert done == {"page 02"}
    assert [path.name for path in result.paths] == ["sub-02.html"]


def test_pages_of_nobody_are_refused(call):
    with pytest.raises(NothingSelectedError, match="holds no results of the participants"):
        call(reports_only=True)


def test_a_page_that_fails_keeps_the_results(call, fake):
    fake.broken["page 01"] = ValueError("no figure")
    result, _ = call()
    assert result.exit_code == ExitCode.FAILURE
    assert [run.name for run in result.runs if run.errors] == ["sub-01"]


def test_a_work_folder_that_was_given_stays_unless_cleaned(call, tmp_path):
    call(work_dir=tmp_path / "work")
    assert list((tmp_path / "work").iterdir())
    call(work_dir=tmp_path / "clean", clean_workdir=True, random_seed=3)
    assert not list((tmp_path / "clean").iterdir())


def test_nothing_private_reaches_an_output(call, tmp_path):
    call()
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix in {".json", ".tsv", ".md", ".html", ".log", ".txt"}:
            text = path.read_text()
            assert not [word for word in POISON.values() if word in text], path


def test_demo_weights_say_so_in_every_sidecar(call, tmp_path):
    call(models=["toy"])
    for desc in ("toy", "toyWindows"):
        path = tmp_path / "out" / "sub-01" / "func" / f"{STANDARD}_desc-{desc}_embedding.json"
        sidecar = json.loads(path.read_text())
        assert sidecar["Demo"] is True
        assert sidecar["Description"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE")
        assert sidecar["Sources"][0] == f"bids::sub-01/func/{STANDARD}_desc-preproc_bold.nii.gz"


def test_a_record_says_what_was_made_from_what(call, tmp_path):
    call()
    name = f"{STANDARD}_bold.json"
    record = json.loads((tmp_path / "out" / "prov" / name).read_text())
    assert re.fullmatch(r"[0-9a-f]{64}", record["key"])
    assert f"bids:raw:sub-01/func/{RUN}_bold.nii.gz" in record["inputs"]
    assert f"sub-01/func/{STANDARD}_desc-preproc_bold.nii.gz" in record["outputs"]
    assert record["versions"]["neurostorm-app"]
    assert record["stages"] == {"n4": 1.0}
    assert record["peak_memory"] > 0


def test_two_calls_write_the_same_bytes(call, tmp_path):
    call()
    out = tmp_path / "out"
    first = {p: p.read_bytes() for p in out.glob("sub-*/*/*embedding*")}
    for path in first:
        path.unlink()
    call()
    assert {p: p.read_bytes() for p in out.glob("sub-*/*/*embedding*")} == first


def test_results_may_go_below_the_derivatives_of_the_dataset(settings, fake, dataset):
    from neurostorm_app.bids_app.settings import build_settings

    out = dataset.root / "derivatives" / "neurostorm-app"
    options = {"skip_bids_validation": True, "nprocs": 1}
    asked = build_settings(dataset.root, out, "participant", options)
    assert run_app(asked, engines=fake.engines()).exit_code == ExitCode.SUCCESS
    assert run_app(asked, engines=fake.engines()).summary().startswith("nothing to do")


@pytest.fixture
def derivatives(dataset, tmp_path):
    """Make preprocessed series of three participants with two runs each, and of one with one."""
    dataset.participant("03")
    dataset.participant("04", runs=("1",))
    root = tmp_path / "prep"
    for path in sorted(dataset.root.rglob("*_bold.nii.gz")):
        name = path.name.removesuffix("_bold.nii.gz")
        stem = f"{name}_space-MNI152NLin6Asym_res-2_desc"
        func = root / path.parent.relative_to(dataset.root)
        seed = sum(map(ord, name))
        write_image(func / f"{stem}-preproc_bold.nii.gz", (5, 6, 7, 4), seed=seed)
        write_image(func / f"{stem}-brain_mask.nii.gz", (5, 6, 7))
        (func / f"{stem}-preproc_bold.json").write_text('{"RepetitionTime": 2.0}')
        (func / f"{name}_desc-confounds_timeseries.tsv").write_text("trans_x\n" + "0\n" * 4)
    return {"prep": root}


def test_preprocessed_participants_go_through_a_model_as_one_stream(call, fake, derivatives):
    result, _ = call(derivatives=derivatives, models=["connectome", "toy"])
    assert [run.status for run in result.runs] == ["done"] * 7
    assert [len(stream) for stream in fake.streams] == [7, 7]
    assert [path.name for path in result.paths] == [f"sub-0{i}.html" for i in (1, 2, 3, 4)]


def test_a_stream_has_so_many_runs_and_no_more(call, fake, derivatives, monkeypatch):
    monkeypatch.setattr(app, "GROUP", 4)
    call(derivatives=derivatives)
    assert [len(stream) for stream in fake.streams] == [4, 3]


def test_runs_that_are_preprocessed_here_wait_for_nobody(call, fake):
    call()
    assert [len(stream) for stream in fake.streams] == [2, 2]


def test_a_failing_run_of_a_stream_leaves_the_others(call, fake, derivatives):
    name = "sub-02_task-rest_run-1"
    fake.broken[f"embed {name}"] = SeriesTooShortError("5 volumes; one window takes 20", fix="")
    result, _ = call(derivatives=derivatives)
    assert [run.name for run in result.runs if run.errors] == [name]
    fake.broken.clear()
    result, done = call(derivatives=derivatives)
    assert f"embed connectome {name}" in done
    assert fake.streams[-1] == [name]


def test_the_first_failure_of_a_stream_ends_the_call_when_asked(call, fake, derivatives):
    fake.broken[f"embed {RUN}"] = SeriesTooShortError("5 volumes; one window takes 20", fix="")
    result, done = call(derivatives=derivatives, stop_on_first_crash=True)
    assert fake.streams == [[RUN]]
    assert all(run.name.startswith("sub-01") for run in result.runs)
    assert not [name for name in done if "02" in name]


def test_a_result_is_written_before_the_next_run_is_done(call, fake, derivatives, tmp_path):
    seen = []
    found = fake._embed

    def embed(name, series, device):
        seen.append(len(list((tmp_path / "out").rglob("*connectome_embedding.tsv"))))
        return found(name, series, device)

    fake._embed = embed
    call(derivatives=derivatives)
    assert seen == list(range(7))


def test_a_prediction_has_a_table_and_a_sidecar(call, fake, tmp_path):
    sex = Output(target="sex", kind="binary", classes=("F", "M"), origin="a test")
    fake.prediction = interpret(np.array([[1.0], [3.0]]), sex)
    call()
    folder = tmp_path / "out" / "sub-01" / "func"
    table = folder / f"{STANDARD}_desc-connectome_prediction.tsv"
    assert "M" in table.read_text()
    assert json.loads(table.with_suffix(".json").read_text())["NotForDiagnosis"] is True
    table.unlink()
    _, done = call()
    assert f"embed connectome {RUN}" in done


@pytest.fixture
def key(settings, fake, tmp_path):
    """Work out the key of an embedding for a card, files and settings."""
    files = {"weights": None, "config": None, "atlas": None, "coordinates": None}
    series = StandardSeries(
        name=RUN, bold=tmp_path / "bold.nii.gz", mask=None, confounds=None, tr=2.0,
        space="MNI152NLin6Asym", res="2",
    )  # fmt: skip
    ready = Ready(participant="01", series=series, hashes={"series": "abc"})

    def work_out(name, given=(), **options):
        asked = settings(models=[name], **options)
        found = ModelFiles(card=read_card(name), **{**files, **dict(given)})
        engines = fake.engines()
        call = Call(
            settings=asked, engines=engines, ledger=Ledger(tmp_path), plan=Plan(1, 1, 2**32),
            models=(found,), missing={}, scratch=tmp_path, series_dir=tmp_path,
        )  # fmt: skip
        return embedding_unit(ready, found, call).key

    return work_out


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ({"precision": "bf16"}, {"neurostorm", "brainlm", "connectome"}),
        ({"clip_policy": "upstream-eval"}, {"neurostorm"}),
        ({"parity": "upstream"}, {"neurostorm"}),
        ({"input_gain": 2.0}, {"brainlm"}),
        ({"max_windows": 2}, {"neurostorm", "brainlm"}),
        ({"batch_size": 3, "device": "cpu", "omp_nthreads": 2}, set()),
    ],
)
def test_a_setting_is_part_of_the_key_where_it_changes_numbers(key, option, changes):
    models = ("neurostorm", "brainlm", "connectome")
    assert {name for name in models if key(name) != key(name, **option)} == changes


@pytest.mark.parametrize("role", ["weights", "config", "atlas", "coordinates", "statistics"])
def test_a_file_of_a_model_is_part_of_the_key_by_its_content(key, tmp_path, role):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    for path, content in ((one, "a"), (two, "a"), (other, "b")):
        path.write_text(content)
    keys = [key("brainlm", {role: path}) for path in (one, two, other)]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] != key("brainlm")


def test_what_another_call_said_of_a_participant_meanwhile_is_not_lost(settings, fake):
    class Slower(Fake):
        """Engines during whose work another call does one of the runs."""

        def preprocess(self, wanted, **others):
            if not self.wanted:
                run_app(
                    settings(participant_label=("01",), run_label=("1",)), engines=fake.engines()
                )
            done = super().preprocess(wanted, **others)
            return replace(done, methods="What was done of both runs.")

    run_app(settings(participant_label=("01",)), engines=Slower().engines())
    logs = settings().output_dir / "logs"
    text = (logs / "sub-01_methods.md").read_text()
    assert text == "What was done.\n\nWhat was done of both runs."
