"""The verb explore: four questions to a BrainLM, on runs of a derivative, each answer labelled."""

from __future__ import annotations

import argparse
import csv
import json
import shutil

import numpy as np
import pytest

from neurostorm_app.bids_app.tools import build_parser
from neurostorm_app.bids_app.verbs.explore import add_explore, call_explore
from neurostorm_app.errors import (
    ContractError,
    DataError,
    NoInputError,
    SeriesTooShortError,
    UsageError,
)
from neurostorm_app.pipelines.explore import load_explorer
from neurostorm_app.pipelines.forecast_baselines import RidgeVar
from neurostorm_app.pipelines.forecast_study import cross_fit
from neurostorm_app.pipelines.parcellate import read_labels
from neurostorm_app.pipelines.templates import load_parcellation_path

N_PARCELS, N_VOLUMES, TR = 100, 130, 2.0
NETWORKS = ["a", "b", "c", "d", "e"]
OF = np.arange(N_PARCELS) % len(NETWORKS)


def oscillate(person: int) -> np.ndarray:
    """Networks that oscillate, each at its own rate: (T, V), with a mean and a little noise."""
    draws = np.random.default_rng(person)
    turns = np.arange(N_VOLUMES)[:, None] / np.linspace(9, 21, len(NETWORKS))
    waves = np.sin(2 * np.pi * (turns + draws.uniform(0, 1, len(NETWORKS))))
    return 1000 + 10 * waves[:, OF] + 3 * draws.standard_normal((N_VOLUMES, N_PARCELS))


@pytest.fixture(scope="module")
def labels():
    volume, _ = read_labels(load_parcellation_path("GreyParcels100"))
    return np.unique(volume[volume > 0])


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory, labels):
    root = tmp_path_factory.mktemp("out")
    for person in (1, 2, 3):
        folder = root / f"sub-0{person}" / "func"
        folder.mkdir(parents=True)
        stem = f"sub-0{person}_task-rest_space-MNI152NLin6Asym_atlas-GreyParcels100_stat-mean"
        rows = ["\t".join(map(str, labels))]
        rows += ["\t".join(f"{x:.5f}" for x in row) for row in oscillate(person)]
        (folder / f"{stem}_timeseries.tsv").write_text("\n".join(rows) + "\n")
        (folder / f"{stem}_timeseries.json").write_text(json.dumps({"RepetitionTime": TR}))
    return root


@pytest.fixture
def explore(derivatives, tmp_path):
    def call(kind, *words, root=derivatives, source="tables", model="brainlm-demo"):
        parser = argparse.ArgumentParser()
        add_explore(parser)
        out = tmp_path / "explored"
        fixed = [kind, str(root), "--out", str(out), "--model", model, "--from", source]
        call_explore(parser.parse_args([*fixed, *map(str, words)]))
        stem = f"desc-brainlmDemo_{kind}"
        about = json.loads((out / f"{stem}.json").read_text())
        tables = {}
        for path in sorted(out.glob(f"{stem}*.tsv")):
            with path.open() as file:
                tables[path.stem.removeprefix(stem)] = list(csv.DictReader(file, delimiter="\t"))
        return about, tables

    return call


def test_forecasts_of_oscillations_beat_persistence(explore):
    about, tables = explore("forecast", "--seen", 60, "--horizon", 20)
    scores = {row["method"]: row for row in tables[""]}
    assert set(scores) == {"brainlm", "persistence", "mean", "ar", "var"}
    for name in ("ar", "var"):
        assert float(scores[name]["R2"]) > float(scores["persistence"]["R2"]) + 0.5
    assert float(scores["ar"]["R2"]) > 0.3
    assert len(tables["_steps"]) == 20
    assert about["Windows"] == 3
    assert about["Demo"]
    assert about["Description"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE.")
    assert about["Model"]["weights_sha256"]
    assert "not to forecast" in about["Limits"]


def test_whole_runs_are_guessed_parcel_by_parcel(explore, labels):
    about, tables = explore("reconstruct")
    rows = tables[""]
    assert [int(row["index"]) for row in rows if row["run"] == "sub-02_task-rest"] == list(labels)
    found = np.array([float(row["R2"]) for row in rows])
    said = [run["R2MedianOfParcels"] for run in about["Runs"].values()]
    per_run = np.median(found.reshape(3, N_PARCELS), axis=1)
    assert said == pytest.approx(per_run.tolist(), abs=1e-4)


def test_some_participants_alone_are_explored(explore):
    about, _ = explore("reconstruct", "--participant-label", "02", "sub-03")
    assert sorted(about["Runs"]) == ["sub-02_task-rest", "sub-03_task-rest"]
    with pytest.raises(NoInputError, match="there are no tables to explore by brainlm-demo"):
        explore("reconstruct", "--participant-label", "09")


def test_networks_are_told_from_series_and_both_are_written(explore, labels, tmp_path):
    table = tmp_path / "networks.tsv"
    rows = [f"{label}\t{NETWORKS[n]}" for label, n in zip(labels, OF, strict=True)]
    rows[7] = f"{labels[7]}\tn/a"
    table.write_text("\n".join(["index\tnetwork", *rows]) + "\n")
    _, tables = explore("networks", "--networks", table)
    assert len(tables[""]) == 6
    for row in tables[""]:
        assert float(row["chance"]) == pytest.approx(20 / 99, abs=1e-4)
        if row["features"] == "series":
            assert float(row["accuracy"]) > 0.9
            assert float(row["p"]) == pytest.approx(0.005)
    parcels = tables["_parcels"]
    assert parcels[7]["network"] == parcels[7]["attention"] == "n/a"
    assert 0 < sum(float(row["class_attention"]) for row in parcels[:N_PARCELS]) < 1


@pytest.mark.parametrize("column", ["network_label", "name"])
def test_networks_are_read_as_descriptions_read_them(explore, labels, tmp_path, column):
    """A row may end early, and XCP-D's and TemplateFlow's tables are taken as they are."""
    table = tmp_path / "networks.tsv"
    named = {"network_label": "Net {}", "name": "7Networks_LH_{}_1"}[column]
    rows = [f"{label}\t{named.format('XYZUV'[n])}" for label, n in zip(labels, OF, strict=True)]
    rows[7] = f"{labels[7]}"
    table.write_text("\n".join([f"index\t{column}", *rows]) + "\n")
    _, tables = explore("networks", "--networks", table, "--participant-label", "01")
    parcels = tables["_parcels"]
    assert parcels[7]["network"] == "n/a"
    assert {row["network"] for row in parcels} - {"n/a"} == {
        {"network_label": f"Net{x}", "name": x}[column] for x in "XYZUV"
    }


@pytest.mark.slow
def test_a_trained_network_tells_networks_of_phantoms_far_above_chance_and_its_control():
    from neurostorm_app.models import read_card
    from neurostorm_app.pipelines.explore import ReadyRun, score_run_networks
    from neurostorm_app.pipelines.phantom.cohort_series import grey_parcels
    from neurostorm_app.pipelines.train.parcel_phantoms import ParcelPhantoms

    _, codes, counts = np.unique(grey_parcels()[0], return_inverse=True, return_counts=True)
    codes = np.where(counts[codes] >= 5, codes, -1)
    phantoms = ParcelPhantoms(read_card("brainlm-demo"), seed=77)
    run = ReadyRun(
        name="sub-01_task-rest",
        series=phantoms.run(1, 1, n_volumes=240).numpy(),
        labels=phantoms.labels,
        xyz=phantoms.places.numpy().astype(np.float32),
        window=60,
    )
    told = {
        name: score_run_networks(load_explorer(name), run, codes, layer=1)[0]["attention"]
        for name in ("brainlm-demo", "brainlm-demo-untrained")
    }
    ours, control = told.values()
    assert ours.accuracy > ours.chance + 0.3
    assert ours.accuracy > control.accuracy + 0.2
    assert ours.p == 1 / 200


def test_a_window_is_perturbed_towards_another_run(explore, capsys):
    about, tables = explore("perturb", "--towards", "sub-03_task-rest")
    assert {row["run"] for row in tables[""]} == {"sub-01_task-rest", "sub-02_task-rest"}
    for run in about["Runs"].values():
        assert run["ShareReached"] > 0.3
        assert run["ShareReachedByNoiseOfSameSize"] < run["ShareReached"]
    assert "not of a brain" in about["Limits"]
    assert "perturb of 3 runs by brainlm-demo" in capsys.readouterr().out


def test_images_of_a_derivative_are_made_ready_as_for_embedding(tmp_path, labels, explore):
    import nibabel as nib

    image = nib.load(load_parcellation_path("GreyParcels100"))
    small = np.asarray(image.dataobj)[::2, ::2, ::2].astype(np.int64)
    affine = image.affine @ np.diag([2, 2, 2, 1])
    series = oscillate(1)
    lookup = np.full(small.max() + 1, -1)
    lookup[labels] = np.arange(len(labels))
    values = np.zeros((*small.shape, 70), dtype=np.int16)
    inside = small > 0
    values[inside] = series[:70, lookup[small[inside]]].T
    folder = tmp_path / "derivative" / "sub-01" / "func"
    folder.mkdir(parents=True)
    stem = folder / "sub-01_task-rest_space-MNI152NLin6Asym_res-2"
    made = nib.Nifti1Image(values, affine)
    made.header.set_xyzt_units("mm", "sec")
    made.header.set_zooms((*made.header.get_zooms()[:3], TR))
    nib.save(made, f"{stem}_desc-preproc_bold.nii.gz")
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), affine), f"{stem}_desc-brain_mask.nii.gz")
    about, tables = explore("reconstruct", root=tmp_path / "derivative", source="bold")
    assert about["RunNames"] == ["sub-01_task-rest"]
    assert len(tables[""]) == N_PARCELS


def test_what_cannot_be_read_is_named_and_the_others_go_on(derivatives, tmp_path, explore):
    root = shutil.copytree(derivatives, tmp_path / "copy")
    (broken,) = (root / "sub-02").rglob("*.tsv")
    broken.write_text("\n".join(broken.read_text().splitlines()[:20]) + "\n")
    about, _ = explore("reconstruct", root=root)
    assert about["RunNames"] == ["sub-01_task-rest", "sub-03_task-rest"]
    assert "19 volumes" in about["RunsLeftOut"]["sub-02_task-rest"]
    for person in (1, 3):
        shutil.rmtree(root / f"sub-0{person}")
    with pytest.raises(DataError, match="19 volumes"):
        explore("reconstruct", root=root)


def cut(derivatives, root, person, n_volumes):
    """Copy a derivative; one of its runs is shorter."""
    shutil.copytree(derivatives, root)
    (table,) = (root / f"sub-0{person}").rglob("*.tsv")
    table.write_text("\n".join(table.read_text().splitlines()[: 1 + n_volumes]) + "\n")
    return root


def test_a_run_too_short_to_be_forecast_is_left_out_and_named(derivatives, tmp_path, explore):
    root = cut(derivatives, tmp_path / "short", 1, 70)
    about, _ = explore("forecast", "--seen", 60, "--horizon", 20, root=root)
    assert about["RunNames"] == ["sub-02_task-rest", "sub-03_task-rest"]
    assert about["Windows"] == 2
    assert "70 volumes; a window that is seen" in about["RunsLeftOut"]["sub-01_task-rest"]
    with pytest.raises(SeriesTooShortError, match="130 volumes; a window that is seen"):
        explore("forecast", "--seen", 180, "--horizon", 20, root=derivatives)


def test_a_run_whose_network_lost_its_parcels_is_left_out_and_named(
    derivatives, labels, tmp_path, explore
):
    root = shutil.copytree(derivatives, tmp_path / "lost")
    (path,) = (root / "sub-02").rglob("*.tsv")
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    lost = np.flatnonzero(OF == 2)[4:]
    for row in rows[1:]:
        for column in lost:
            row[column] = "n/a"
    path.write_text("\n".join(map("\t".join, rows)) + "\n")
    table = tmp_path / "networks.tsv"
    of = [f"{label}\t{NETWORKS[n]}" for label, n in zip(labels, OF, strict=True)]
    table.write_text("\n".join(["index\tnetwork", *of]) + "\n")
    about, tables = explore("networks", "--networks", table, root=root)
    assert about["RunNames"] == ["sub-01_task-rest", "sub-03_task-rest"]
    assert "the smallest of 4 parcels" in about["RunsLeftOut"]["sub-02_task-rest"]
    assert {row["run"] for row in tables[""]} == set(about["RunNames"])


def test_one_participant_cannot_be_compared_with_others(derivatives, tmp_path, explore):
    shutil.copytree(derivatives / "sub-01", tmp_path / "one" / "sub-01")
    with pytest.raises(DataError, match="must be fitted to others than it is measured on"):
        explore("forecast", "--seen", 60, "--horizon", 20, root=tmp_path / "one")


def test_no_method_is_fitted_to_the_people_it_forecasts():
    windows = np.random.default_rng(0).standard_normal((6, 2, 30))
    given = []

    def fit(some):
        given.append(some)
        return RidgeVar.fit(some)

    forecast = cross_fit(fit, windows, ["a", "a", "b", "b", "c", "c"], seen=20)
    for own, others in zip(([0, 1], [2, 3], [4, 5]), given, strict=True):
        assert np.array_equal(others, np.delete(windows, own, axis=0))
    assert forecast(windows[..., :20], 10).shape == (6, 2, 10)
    with pytest.raises(DataError, match="cross-fitted was given other windows"):
        forecast(windows[::-1, :, :20], 10)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("perturb", "--towards", "sub-09"), UsageError, "one of them is the target"),
        (("networks", "--networks", "nowhere.tsv"), NoInputError, "no such table of parcels"),
        (("networks", "--networks", __file__), DataError, "expected index and one of network"),
        (("forecast", "--seen", 0), UsageError, "--seen 0: volumes are counted from 1"),
        (("forecast", "--horizon", -3), UsageError, "--horizon -3: volumes are counted from 1"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(explore, words, error, message):
    with pytest.raises(error, match=message):
        explore(*words)


def test_folders_without_runs_and_other_models_are_refused(explore, tmp_path, derivatives):
    with pytest.raises(NoInputError, match="is not a folder with runs to explore"):
        explore("reconstruct", root=tmp_path / "nowhere")
    with pytest.raises(NoInputError, match="there are no bold to explore by brainlm-demo"):
        explore("reconstruct", source="bold")
    with pytest.raises(ContractError, match="is not a network of BrainLM that is told where"):
        load_explorer("connectome")
    second = tmp_path / "two" / "sub-01" / "func"
    second.mkdir(parents=True)
    (first,) = (derivatives / "sub-01").rglob("*.tsv")
    for name in (first.name, first.name.replace("_atlas", "_desc-b_atlas")):
        (second / name).write_text(first.read_text())
    with pytest.raises(UsageError, match="has a second table of GreyParcels100"):
        explore("reconstruct", "--tr", TR, root=tmp_path / "two")


def test_the_verb_is_among_the_tools():
    words = ["explore", "forecast", "derivatives", "--out", "here", "--lstm"]
    asked = build_parser().parse_args(words)
    assert (asked.call, asked.kind, asked.lstm) == (call_explore, "forecast", True)
