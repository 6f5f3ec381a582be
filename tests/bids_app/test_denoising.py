"""Denoised runs in the output folder: names, tables, sidecars, records."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neurostorm_app.bids_app.describe import describe_output
from neurostorm_app.bids_app.engines import ModelFiles
from neurostorm_app.bids_app.inputs.precomputed import Precomputed, find_precomputed
from neurostorm_app.bids_app.inputs.validation import validate
from neurostorm_app.bids_app.participant import denoising
from neurostorm_app.bids_app.participant.denoising import denoise_runs, find_atlases
from neurostorm_app.bids_app.participant.units import Call, ready_from_precomputed
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.results import Progress
from neurostorm_app.errors import ContractError, DataError, ExitCode
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.denoise_strategies import choose_strategies
from neurostorm_app.pipelines.resources import Plan

from .conftest import AFFINE

SHAPE, N, TR = (7, 8, 9), 200, 2.0
NAME = "sub-01_task-rest"
SPACE = "space-MNI152NLin6Asym"
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
PATTERNS = "*_outliers.*\n*_stat-*\n"


def save(path, data, tr=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_sform(AFFINE, code=4)
    image.header.set_qform(AFFINE, code=4)
    if tr:
        image.header.set_zooms((3, 3, 4, tr))
    nib.save(image, path)
    return path


@pytest.fixture
def tree(tmp_path, rng):
    """Make a derivative of one run as fMRIPrep leaves it."""
    func = tmp_path / "prep" / "sub-01" / "func"
    stem = func / f"{NAME}_{SPACE}_res-2"
    brain = np.zeros(SHAPE, dtype=np.uint8)
    brain[1:6, 1:7, 2:8] = 1
    data = rng.normal(0, 10, (*SHAPE, N)).cumsum(axis=3) + 1000
    data *= brain[..., np.newaxis]
    save(stem.with_name(f"{stem.name}_desc-preproc_bold.nii.gz"), data.astype(np.float32), TR)
    save(stem.with_name(f"{stem.name}_desc-brain_mask.nii.gz"), brain)
    about = {"RepetitionTime": TR, "TaskName": "rest", "PatientName": "Jane^Doe"}
    stem.with_name(f"{stem.name}_desc-preproc_bold.json").write_text(json.dumps(about))
    table = {}
    for name in (*MOTION, "csf", "white_matter", "global_signal"):
        base = rng.normal(size=N)
        step = np.r_[np.nan, np.diff(base)]
        table |= {name: base, f"{name}_derivative1": step}
        table |= {f"{name}_power2": base**2, f"{name}_derivative1_power2": step**2}
    table["cosine00"] = np.cos(np.pi / N * (np.arange(N) + 0.5))
    table["framewise_displacement"] = np.r_[np.nan, np.full(N - 1, 0.1)]
    table["std_dvars"] = np.r_[np.nan, np.full(N - 1, 1.0)]
    frame = pd.DataFrame(table)
    frame.loc[60, "framewise_displacement"] = 0.8
    path = func / f"{NAME}_desc-confounds_timeseries.tsv"
    frame.to_csv(path, sep="\t", index=False, na_rep="n/a")
    path.with_suffix(".json").write_text("{}")
    return tmp_path / "prep"


@pytest.fixture
def atlas(tmp_path):
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[1:3, 1:7, 2:8], labels[3:6, 1:7, 2:8], labels[0], labels[6] = 2, 5, 8, 9
    return save(tmp_path / "tpl-x_atlas-Tiny_dseg.nii.gz", labels)


@pytest.fixture
def call(settings, fake, tmp_path, tree, atlas):
    asked = settings(derivatives={"prep": tree}, atlas={"connectome": atlas})
    (tmp_path / "out").mkdir()
    return Call(
        settings=asked,
        engines=fake.engines(),
        ledger=Ledger(tmp_path / "out"),
        plan=Plan(n_procs=1, n_threads=1, memory=2**30),
        models=(ModelFiles(card=read_card("connectome"), atlas=atlas),),
        missing={},
        scratch=tmp_path / "scratch",
        series_dir=tmp_path / "out" / ".series",
    )


def run(call, tree, *names, smoothing=0.0, change=None):
    """Denoise the run as the app would, by a ledger that has to look again."""
    call = replace(call, ledger=Ledger(call.root))
    item = find_precomputed({"prep": tree}, "01", call.settings.science.spaces, {})[NAME]
    assert isinstance(item, Precomputed)
    if change:
        item = replace(item, series=replace(item.series, **change))
    progress = {NAME: Progress(NAME)}
    makers = {NAME: lambda space: ready_from_precomputed(item, call)}
    denoise_runs(makers, progress, call, choose_strategies(names), smoothing=smoothing)
    return progress[NAME]


def read_table(path):
    return pd.read_csv(path, sep="\t", na_values=["n/a"])


def test_the_first_strategy_has_the_names_of_xcpd(call, tree):
    progress = run(call, tree, "simple")
    assert not progress.errors
    stems = [
        f"{NAME}_{SPACE}_res-2_desc-denoised_bold.nii.gz",
        f"{NAME}_{SPACE}_atlas-Tiny_stat-mean_timeseries.tsv",
        f"{NAME}_{SPACE}_atlas-Tiny_stat-pearsoncorrelation_relmat.tsv",
        f"{NAME}_{SPACE}_atlas-Tiny_stat-coverage_bold.tsv",
        f"{NAME}_outliers.tsv",
    ]
    expected = {f"sub-01/func/{name}" for name in stems}
    expected |= {name.partition(".")[0] + ".json" for name in expected}
    assert set(progress.outputs) == expected
    assert {str(p.relative_to(call.root)) for p in call.root.rglob("sub-01/*/*")} == expected
    assert not (call.root / ".series" / f"denoise-{NAME}").exists()


def test_tables_hold_parcels_by_their_labels_and_na_where_they_are_not_covered(call, tree):
    run(call, tree, "simple")
    func = call.root / "sub-01" / "func"
    series = read_table(func / f"{NAME}_{SPACE}_atlas-Tiny_stat-mean_timeseries.tsv")
    assert list(series) == ["2", "5", "8", "9"]
    assert len(series) == N
    assert series[["8", "9"]].isna().all(axis=None)
    image = nib.load(func / f"{NAME}_{SPACE}_res-2_desc-denoised_bold.nii.gz")
    inside = np.asarray(image.dataobj)[1:3, 1:7, 2:8].reshape(-1, N)
    np.testing.assert_allclose(series["2"], inside.mean(axis=0), atol=1e-3)
    matrix = read_table(func / f"{NAME}_{SPACE}_atlas-Tiny_stat-pearsoncorrelation_relmat.tsv")
    assert list(matrix) == ["Node", "2", "5", "8", "9"]
    assert matrix["Node"].tolist() == [2, 5, 8, 9]
    assert matrix["5"][0] == pytest.approx(series[["2", "5"]].corr().to_numpy()[0, 1], abs=1e-6)
    assert matrix["8"].isna().all()
    covered = read_table(func / f"{NAME}_{SPACE}_atlas-Tiny_stat-coverage_bold.tsv")
    assert covered["coverage"].tolist() == [1, 1, 0, 0]


def test_censored_volumes_are_dropped_and_listed(call, tree):
    run(call, tree, "scrubbing")
    func = call.root / "sub-01" / "func"
    outliers = read_table(func / f"{NAME}_outliers.tsv")
    assert len(outliers) == N
    assert np.flatnonzero(outliers["framewise_displacement"]).tolist() == [60]
    assert np.flatnonzero(outliers["censored"]).tolist() == [60]
    image = nib.load(func / f"{NAME}_{SPACE}_res-2_desc-denoised_bold.nii.gz")
    assert image.shape == (*SHAPE, N - 1)
    assert image.header.get_zooms()[3] == TR
    assert int(image.header["sform_code"]) == 4
    about = json.loads((func / f"{NAME}_outliers.json").read_text())
    assert about["framewise_displacement"]["Description"].endswith("above 0.5 mm")
    assert "SamplingFrequency" not in json.loads(
        (func / f"{NAME}_{SPACE}_atlas-Tiny_stat-mean_timeseries.json").read_text()
    )


def test_the_table_of_outliers_has_xcpds_column_whatever_the_strategy(call, tree):
    run(call, tree, "24P")
    path = call.root / "sub-01" / "func" / f"{NAME}_outliers.tsv"
    outliers = read_table(path)
    assert list(outliers) == ["framewise_displacement", "non_steady_state", "censored"]
    assert not outliers.to_numpy().any()
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["framewise_displacement"]["Description"].endswith("above inf mm")


def test_sidecars_say_what_was_done(call, tree):
    run(call, tree, "24P")
    path = call.root / "sub-01/func" / f"{NAME}_{SPACE}_res-2_desc-denoised_bold.json"
    about = json.loads(path.read_text())
    assert about["NuisanceParameters"] == "24P"
    assert len(about["Confounds"]) == 24
    assert about["DegreesOfFreedom"]["left"] == pytest.approx(N * 0.28 - 25)
    assert about["SoftwareFilters"]["Butterworth filter"]["Low-pass cutoff (Hz)"] == 0.08
    assert about["RepetitionTime"] == TR
    assert about["TaskName"] == "rest"
    assert "PatientName" not in about
    assert {uri.split("/")[0] for uri in about["Sources"]} == {"bids:prep:sub-01"}
    assert len(about["Sources"]) == 4
    assert set(about["Software"]) == {"nilearn", "neurostorm-app"}


def test_a_further_strategy_and_a_smoothed_series_have_names_of_their_own(call, tree):
    progress = run(call, tree, "simple", "scrubbing", smoothing=6.0)
    func = call.root / "sub-01" / "func"
    for desc in ("denoised", "denoisedSmoothed", "denoisedscrubbing", "denoisedSmoothedscrubbing"):
        assert (func / f"{NAME}_{SPACE}_res-2_desc-{desc}_bold.nii.gz").is_file()
    assert (func / f"{NAME}_desc-scrubbing_outliers.tsv").is_file()
    name = f"{NAME}_{SPACE}_atlas-Tiny_stat-mean_desc-scrubbing_timeseries.tsv"
    assert len(read_table(func / name)) == N - 1
    about = json.loads((func / f"{NAME}_{SPACE}_res-2_desc-denoisedSmoothed_bold.json").read_text())
    assert about["Smoothing"]["FWHM"] == 6
    assert [stage.name for stage in progress.stages] == ["denoise simple", "denoise scrubbing"]


def test_what_is_there_is_not_made_again_unless_something_changed(call, tree):
    first = run(call, tree, "simple")
    again = run(call, tree, "simple")
    assert first.stages
    assert not again.stages
    assert again.outputs == first.outputs
    assert run(call, tree, "24P").stages
    assert run(call, tree, "24P", smoothing=4.0).stages
    table = tree / "sub-01/func" / f"{NAME}_desc-confounds_timeseries.tsv"
    table.write_text(table.read_text().replace("0.8", "0.9"))
    assert run(call, tree, "24P", smoothing=4.0).stages
    (call.root / "sub-01/func" / f"{NAME}_outliers.tsv").unlink()
    assert run(call, tree, "24P", smoothing=4.0).stages


def test_a_smoothed_series_that_is_no_longer_asked_for_does_not_stay(call, tree):
    run(call, tree, "none", smoothing=4.0)
    (smoothed,) = call.root.rglob("*_desc-denoisedSmoothed_bold.nii.gz")
    run(call, tree, "simple")
    assert not smoothed.exists()
    assert not smoothed.with_name(smoothed.name.replace(".nii.gz", ".json")).exists()


def test_a_strategy_that_fails_leaves_the_others(call, tree):
    progress = run(call, tree, "acompcor", "none")
    assert [error.exit_code for error in progress.errors] == [ExitCode.DATA]
    assert isinstance(progress.errors[0], DataError)
    assert [stage.name for stage in progress.stages] == ["denoise none"]


def test_no_strategy_no_work(call, tree):
    progress = run(call, tree)
    assert (progress.outputs, progress.stages, progress.errors) == ([], [], [])


def test_a_run_without_a_mask_says_where_its_brain_comes_from(call, tree):
    run(call, tree, "none", change={"mask": None})
    path = call.root / "sub-01/func" / f"{NAME}_{SPACE}_res-2_desc-denoised_bold.json"
    assert any("no brain mask was given" in note for note in json.loads(path.read_text())["Notes"])


def test_an_atlas_of_an_unknown_space_is_refused(call, tree):
    progress = run(call, tree, "none", change={"space": "MNIPediatricAsym"})
    assert isinstance(progress.errors[0], ContractError)
    assert "no map from the one to the other is known" in progress.errors[0].what


def test_an_atlas_is_carried_to_another_standard_space(call, tree):
    progress = run(call, tree, "none", change={"space": "MNI152NLin2009cAsym"})
    assert not progress.errors
    func = call.root / "sub-01" / "func"
    name = f"{NAME}_space-MNI152NLin2009cAsym_atlas-Tiny_stat-coverage_bold.tsv"
    assert read_table(func / name)["coverage"][1] > 0.5


def test_without_a_model_that_takes_parcels_the_parcellation_of_the_package_is_taken(call):
    (atlas,) = find_atlases(replace(call, models=()))
    assert (atlas.label, atlas.space) == ("GreyParcels100", "MNI152NLin6Asym")
    assert atlas.path.is_file()
    (atlas,) = find_atlases(call)
    assert atlas.label == "Tiny"


def test_two_atlases_of_one_label_are_refused(call, atlas, tmp_path):
    other = tmp_path / "other" / atlas.name
    card = read_card("connectome")
    models = (*call.models, ModelFiles(card=card, atlas=other))
    with pytest.raises(ContractError, match="two label images would both be atlas-Tiny"):
        find_atlases(replace(call, models=models))


def test_the_output_is_valid(call, tree):
    describe_output(call.root, {"prep": tree})
    # A band-pass of 36P leaves a run of this length too little.
    assert not run(call, tree, "simple", "scrubbing+gsr", "none", smoothing=5.0).errors
    ignored = call.root / ".bidsignore"
    if PATTERNS not in ignored.read_text():
        ignored.write_text(ignored.read_text() + PATTERNS)
    validate(call.root, ["01"], everyone=True)


def test_a_series_is_written_with_the_threads_of_all_processes(call, tree, monkeypatch):
    seen = []
    real = denoising.write_series

    def write(*given, **options):
        seen.append(options["n_threads"])
        return real(*given, **options)

    monkeypatch.setattr(denoising, "write_series", write)
    run(replace(call, plan=Plan(n_procs=3, n_threads=2, memory=2**30)), tree, "simple")
    assert seen == [6]
