"""The story with stand-in engines: what is done, taken, and left to fail alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from neurostorm_app.bids_app import app
from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.engines import ModelFiles
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.units import Call, Ready, embedding_unit
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
from neurostorm_app.pipelines.predict import interpret
from neurostorm_app.pipelines.resources import Plan
from neurostorm_app.pipelines.stage import StandardSeries

from .conftest import POISON, write_image

RUN = "sub-01_task-rest_run-1"
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
    assert len(done) == 2 + 4 + 4 + 2  # anatomies, runs, embeddings, pages
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
        (f"sub-01/func/{RUN}_desc-confounds_timeseries.tsv", {f"bold {RUN}"}),
        (f"sub-01/func/{STANDARD}_desc-preproc_bold.nii.gz", {f"bold {RUN}"}),
        ("sub-01/anat/sub-01_dseg.nii.gz", {"anat 01"}),
    ],
    ids=["embedding", "page", "confounds", "series", "anatomy"],
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


def test_another_setting_is_never_answered_with_old_results(call):
    call()
    _, done = call(fd_spike_threshold=0.3)
    assert {name for name in done if name.startswith(("anat", "bold"))} == {
        f"bold sub-0{p}_task-rest_run-{r}" for p in (1, 2) for r in (1, 2)
    }
    _, done = call(random_seed=7, fd_spike_threshold=0.3)
    assert {"anat 01", "anat 02"} <= done


def test_changed_scans_are_worked_on_again(call, dataset):
    call()
    image = dataset.bold("01")
    image.write_bytes(dataset.bold("02").read_bytes())
    _, done = call()
    assert done == {f"bold {RUN}", f"embed connectome {RUN}", "page 01"}


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
    assert done == {f"bold {RUN}", f"embed connectome {RUN}", "page 01"}
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
            models=(found,), missing={}, scratch=tmp_path,
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
