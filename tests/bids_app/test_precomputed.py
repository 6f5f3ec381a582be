"""Runs whose series lies in a derivative: which one is taken, and what is noted."""

from __future__ import annotations

import json

import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.bids_app.inputs.misnamed import MISNAMED
from neurostorm_app.errors import CorruptImageError, DataError, ExitCode, NoInputError

from .conftest import write_image

RUN = "sub-01_task-rest_run-1"


class Tree:
    """An fMRIPrep-like folder."""

    def __init__(self, root):
        self.root = root
        self.func = root / "sub-01" / "func"
        self.func.mkdir(parents=True)

    def series(self, space="MNI152NLin6Asym_res-2", run=RUN, tr=2.0, **sidecar):
        stem = f"{run}_space-{space}"
        write_image(self.func / f"{stem}_desc-brain_mask.nii.gz", (5, 6, 7))
        if sidecar is not None:
            path = self.func / f"{stem}_desc-preproc_bold.json"
            path.write_text(json.dumps({"RepetitionTime": tr, **sidecar}))
        return write_image(self.func / f"{stem}_desc-preproc_bold.nii.gz", (5, 6, 7, 4), tr=tr)

    def confounds(self, run=RUN, name="timeseries"):
        path = self.func / f"{run}_desc-confounds_{name}.tsv"
        path.write_text("trans_x\n" + "0\n" * 4)
        return path


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "fmriprep")


@pytest.fixture
def found(settings, tree):
    """What was found for one run."""

    def find(run=RUN, **options):
        everything = find_runs(settings(derivatives={"prep": tree.root}, **options))
        items = {i.name: i for p in everything.participants for i in p.precomputed}
        return items.get(run) or everything.failed[run]

    return find


def test_a_complete_run_is_taken_as_it_is(found, tree):
    bold, confounds = tree.series(), tree.confounds()
    item = found()
    assert item.series.bold == bold
    assert item.series.confounds == confounds
    assert (
        item.series.mask == tree.func / f"{RUN}_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz"
    )
    assert (item.series.space, item.series.res, item.series.tr) == ("MNI152NLin6Asym", "2", 2.0)
    assert item.notes == ()


def test_a_run_that_is_given_is_not_preprocessed_and_the_others_are(settings, tree):
    tree.series()
    found = find_runs(settings(derivatives={"prep": tree.root}))
    raw = [run.name for p in found.participants for run in p.raw]
    assert RUN not in raw
    assert len(raw) == 3


@pytest.mark.parametrize(
    ("spaces", "options", "space", "res"),
    [
        (["MNI152NLin6Asym", "MNI152NLin6Asym_res-02"], {}, "MNI152NLin6Asym", "2"),
        (["MNI152NLin6Asym", "MNI152NLin2009cAsym_res-2"], {}, "MNI152NLin6Asym", "native"),
        (["MNI152NLin2009cAsym_res-2", "T1w"], {}, "MNI152NLin2009cAsym", "2"),
        (
            ["MNI152NLin6Asym_res-2", "MNI152NLin2009cAsym_res-2"],
            {"output_spaces": "MNI152NLin2009cAsym:res-2"},
            "MNI152NLin2009cAsym",
            "2",
        ),
    ],
    ids=["finer label", "space first", "other space", "the space asked for"],
)
def test_the_best_series_is_chosen(found, tree, spaces, options, space, res):
    for name in spaces:
        tree.series(space=name)
    item = found(**options)
    assert (item.series.space, item.series.res) == (space, res)


def test_what_is_missing_is_noted_and_not_made_up(found, tree):
    tree.series()
    for path in tree.func.glob("*mask.nii.gz"):
        path.unlink()
    for path in tree.func.glob("*bold.json"):
        path.unlink()
    item = found()
    assert item.series.mask is None
    assert item.series.confounds is None
    assert item.series.tr == 2.0
    assert item.notes == (
        "no brain mask",
        "no confounds",
        "repetition time taken from the header of the series",
    )


def test_the_old_name_of_confounds_is_known(found, tree):
    tree.series()
    assert found().series.confounds is None
    old = tree.confounds(name="regressors")
    assert found().series.confounds == old


def test_runs_without_raw_scans_are_taken_too(found, tree):
    tree.series(run="sub-01_task-movie")
    assert found("sub-01_task-movie").series.name == "sub-01_task-movie"


def test_selection_holds_for_derivatives(settings, tree):
    tree.series(run="sub-01_task-movie")
    found = find_runs(settings(derivatives={"prep": tree.root}, task_label=["rest"]))
    assert not [item for p in found.participants for item in p.precomputed]


def test_a_label_that_no_run_of_a_derivative_has_is_told_with_the_nearest(settings, tree, caplog):
    tree.series(run="sub-01_task-movie")
    find_runs(settings(derivatives={"prep": tree.root}, task_label=["movie", "movei", "x"]))
    assert "no run is selected by --task-label movei: did you mean movie?" in caplog.text
    assert "no run is selected by --task-label x: there are movie, rest" in caplog.text


def test_a_series_that_cannot_be_read_fails_its_run(found, tree):
    tree.series().write_bytes(b"no image")
    assert isinstance(found(), CorruptImageError)


def test_a_mask_that_is_not_here_is_not_taken_for_none(found, tree):
    bold = tree.series()
    mask = bold.with_name(bold.name.replace("preproc_bold", "brain_mask"))
    mask.unlink(missing_ok=True)
    mask.symlink_to("../.git/annex/x")
    error = found()
    assert isinstance(error, NoInputError)
    assert f"datalad get {mask}" in error.fix
    mask.unlink()
    mask.mkdir()
    assert "is no ordinary file; expected one" in found().what


def test_a_name_that_is_none_fails_alone(settings, tree):
    good = tree.series()
    bad = good.with_name(good.name.replace("task-", "task-a b"))
    bad.write_bytes(good.read_bytes())
    found = find_runs(settings(derivatives={"prep": tree.root}))
    ((name, error),) = found.failed.items()
    assert MISNAMED.fullmatch(name)[1] == "01"
    assert "is not a BIDS name" in error.what
    assert [item.series.bold for p in found.participants for item in p.precomputed] == [good]


def test_a_name_of_another_session_does_not_speak_for_the_run_of_that_session(settings, dataset):
    dataset.participant("05", session="b", runs=("1",))
    wrong = dataset.root.parent / "prep/sub-05/ses-a/func"
    space = "space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    write_image(wrong / f"sub-05_ses-b_task-rest_run-1_{space}", (5, 6, 7, 4))
    found = find_runs(settings(derivatives={"prep": wrong.parents[2]}, participant_label=["05"]))
    assert [run.name for run in found.participants[0].raw] == ["sub-05_ses-b_task-rest_run-1"]
    ((name, error),) = found.failed.items()
    assert name.startswith("sub-05_ses-a_file-")
    assert "expected one label in both" in error.what


def test_a_sidecar_that_is_not_json_fails_its_run(found, tree):
    bold = tree.series()
    bold.with_name(bold.name.replace(".nii.gz", ".json")).write_text("{")
    error = found()
    assert isinstance(error, DataError)
    assert "is not JSON" in error.what


def test_a_repetition_time_in_milliseconds_is_refused(found, tree):
    bold = tree.series()
    bold.with_name(bold.name.replace(".nii.gz", ".json")).write_text('{"RepetitionTime": 2000}')
    assert "RepetitionTime is 2000; expected seconds" in found().what


def test_no_preprocessing_is_done_for_given_runs(settings, fake, tree, tmp_path):
    tree.series()
    tree.confounds()
    options = {"derivatives": {"prep": tree.root}, "participant_label": ["01"], "run_label": ["1"]}
    result = run_app(settings(**options), engines=fake.engines())
    assert result.exit_code == ExitCode.SUCCESS
    assert set(fake.calls) == {"load connectome", f"embed connectome {RUN}", "page 01"}
    stem = f"{RUN}_space-MNI152NLin6Asym_res-2_desc-connectome_embedding.json"
    sidecar = json.loads((tmp_path / "out" / "sub-01" / "func" / stem).read_text())
    assert sidecar["Sources"][0].startswith("bids:prep:sub-01/func/")
    again = run_app(settings(**options), engines=fake.engines())
    assert again.summary().startswith("nothing to do: 1 run has its results already")


def test_a_changed_derivative_is_embedded_again(settings, fake, tree):
    bold = tree.series()
    options = {"derivatives": {"prep": tree.root}, "participant_label": ["01"], "run_label": ["1"]}
    run_app(settings(**options), engines=fake.engines())
    write_image(bold, (5, 6, 7, 4), seed=9)
    run_app(settings(**options), engines=fake.engines())
    assert fake.calls[f"embed connectome {RUN}"] == 2
