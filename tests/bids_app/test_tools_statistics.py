"""From folders of derivatives to the statistics of their people, without a name."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neurostorm_app.bids_app import tools
from neurostorm_app.errors import NoInputError, UsageError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.prepare_parcels import prepare_parcels
from neurostorm_app.pipelines.stage import InputOptions, StandardSeries

GRID = Grid.from_rows((30, 36, 30), [[6, 0, 0, -84], [0, 6, 0, -120], [0, 0, 6, -66]])
N_VOLUMES, TR = 60, 2.0
SPACE = "space-MNI152NLin6Asym_res-2"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """As many parcels as A424 has, of eight voxels each."""
    i, j, k = np.indices(GRID.shape)
    blocks = (i - 8) // 2 + 8 * ((j - 8) // 2) + 80 * ((k - 8) // 2)
    inside = (i >= 8) & (i < 24) & (j >= 8) & (j < 28) & (k >= 8) & (blocks < 424)
    path = tmp_path_factory.mktemp("atlas") / "blocks.nii.gz"
    labels = np.where(inside, blocks + 1, 0).astype(np.int16)
    nib.save(nib.Nifti1Image(labels, GRID.affine), path)
    return path


@pytest.fixture
def make_run(rng, atlas):
    labels = np.asarray(nib.load(atlas).dataobj)

    def make(root, participant, task="rest", spread=9.0):
        folder = root / f"sub-{participant}" / "func"
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"sub-{participant}_task-{task}_{SPACE}"
        signal = rng.normal(0, spread, (425, N_VOLUMES))
        bold = nib.Nifti1Image((900 + signal[labels]).astype(np.float32), GRID.affine)
        bold.header.set_xyzt_units("mm", "sec")
        bold.header.set_zooms((6, 6, 6, TR))
        nib.save(bold, f"{stem}_desc-preproc_bold.nii.gz")
        mask = nib.Nifti1Image(np.ones(GRID.shape, np.uint8), GRID.affine)
        nib.save(mask, f"{stem}_desc-brain_mask.nii.gz")
        return stem

    return make


@pytest.fixture
def measure(tmp_path, atlas):
    def call(*words):
        out = tmp_path / "cohort.tsv"
        code = tools.main(
            ["statistics", str(out), *map(str, words), "--model", "brainlm", "--atlas", str(atlas)]
        )
        assert code == 0
        return out, json.loads(out.with_suffix(".json").read_text())

    return call


def test_all_people_of_all_folders_are_in_it_and_nobody_is_named(
    make_run, measure, tmp_path, capsys
):
    one, two = tmp_path / "kyoto", tmp_path / "lyon"
    for root, label, task in ((one, "ann", "rest"), (one, "ann", "nback"), (two, "ann", "rest")):
        make_run(root, label, task)
    out, about = measure(one, two)
    assert (about["NumberOfRuns"], about["NumberOfParticipants"]) == (3, 2)
    assert "424 parcels in 3 runs of 2 participants; 0 runs left out" in capsys.readouterr().out
    table = pd.read_csv(out, sep="\t")
    assert table["label"].tolist() == list(range(1, 425))
    assert (table["n_runs"] == 3).all()
    assert 60 < table["sd"].mean() < 110  # 9 of 900, of 10000, less by interpolation
    written = out.read_text() + out.with_suffix(".json").read_text()
    assert not [word for word in ("ann", "kyoto", "lyon", "nback") if word in written]


def test_only_what_is_asked_for_is_measured(make_run, measure, tmp_path):
    root = tmp_path / "prep"
    for label, task in (("01", "rest"), ("01", "nback"), ("02", "rest"), ("03", "rest")):
        make_run(root, label, task)
    words = ("--task-label", "rest", "--participant-label", "01", "--participant-label", "02")
    _, about = measure(root, *words)
    assert (about["NumberOfRuns"], about["NumberOfParticipants"]) == (2, 2)


def test_a_damaged_run_is_left_out_and_counted(make_run, measure, tmp_path, capsys):
    root = tmp_path / "prep"
    make_run(root, "01")
    whole = make_run(root, "02").parent / f"sub-02_task-rest_{SPACE}_desc-preproc_bold.nii.gz"
    whole.write_bytes(whole.read_bytes()[:4000])
    (make_run(root, "03").parent / f"sub-03_task-rest_{SPACE}_desc-preproc_bold.json").write_text(
        '{"RepetitionTime": -1}'
    )
    _, about = measure(root)
    assert (about["NumberOfRuns"], about["NumberOfRunsLeftOut"]) == (1, 2)
    shown = capsys.readouterr().err
    assert "sub-02_task-rest: left out" in shown
    assert "sub-03_task-rest: left out" in shown


def test_a_run_is_scaled_by_what_was_written(make_run, measure, tmp_path, atlas):
    stem = make_run(tmp_path / "prep", "01")
    out, _ = measure(tmp_path / "prep")
    run = StandardSeries(
        name="sub-01_task-rest",
        bold=stem.with_name(f"{stem.name}_desc-preproc_bold.nii.gz"),
        mask=stem.with_name(f"{stem.name}_desc-brain_mask.nii.gz"),
        confounds=None,
        tr=TR,
        space="MNI152NLin6Asym",
        res="2",
    )
    contract = read_card("brainlm").contract.model_copy(update={"coordinates": False})
    prepared = prepare_parcels(run, contract, atlas, InputOptions(statistics=out))
    told = prepared.findings.as_dict()
    assert told["scaling"]["statistics"] == "cohort"
    assert told["scaling"]["spread_over_cohort"] == pytest.approx(1, abs=0.02)
    assert any("statistics are of 1 runs" in reason for reason in told["reasons"])
    assert prepared.starts == [0, 3]  # 120 s at 0.735 s are 163 volumes
    assert [window.shape for window in prepared.windows] == [(424, 160)] * 2


@pytest.mark.parametrize(
    ("out", "model", "words"),
    [
        ("cohort.json", "brainlm", "the statistics are a table"),
        ("cohort.tsv", "connectome", "connectome does not scale parcels; it has no use for"),
        ("cohort.tsv", "neurostorm", "neurostorm does not scale parcels; it has no use for"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, out, model, words):
    asked = ["statistics", str(tmp_path / out), str(tmp_path), "--model", model]
    with pytest.raises(UsageError, match=words):
        tools.main_inner(asked)


def test_a_folder_without_a_series_is_no_input(tmp_path, atlas):
    words = ["--model", "brainlm", "--atlas", str(atlas)]
    asked = ["statistics", str(tmp_path / "cohort.tsv")]
    with pytest.raises(NoInputError, match="no preprocessed series was found that can be used"):
        tools.main_inner([*asked, str(tmp_path), *words])
    with pytest.raises(NoInputError, match="gone is not a folder of derivatives"):
        tools.main_inner([*asked, str(tmp_path / "gone"), *words])
