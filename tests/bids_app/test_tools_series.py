"""Parcel series that somebody has extracted become embeddings like those of our own."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from neurostorm_app.bids_app.derivatives import read_embedding
from neurostorm_app.bids_app.participant.series_tables import open_table
from neurostorm_app.bids_app.verbs.series import add_series, call_series
from neurostorm_app.errors import (
    CannotCreateError,
    ContractError,
    DataError,
    NoInputError,
    SeriesTooShortError,
    UsageError,
)
from neurostorm_app.models import create_model, read_card
from neurostorm_app.pipelines.clean import clean_parcels
from neurostorm_app.pipelines.embed_series import load_series_embedder
from neurostorm_app.pipelines.series_table import read_series
from neurostorm_app.pipelines.stage import StandardSeries

TR, N_VOLUMES, N_PARCELS = 2.0, 80, 7
STEM = "sub-01_task-rest_run-1_space-MNI152NLin2009cAsym_atlas-Tian_stat-mean_timeseries"
NAME = "sub-01_task-rest_run-1_space-MNI152NLin2009cAsym_desc-connectome_embedding"


@pytest.fixture
def xcpd(tmp_path):
    """An XCP-D-like folder."""
    root = tmp_path / "xcp_d"
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "XCP-D"}')
    return root


@pytest.fixture
def write(xcpd, rng):
    def one(stem=STEM, *, values=None, missing=(), tr=TR, names=None):
        """Write a table as XCP-D does; `values` are (T, V)."""
        if values is None:
            values = rng.normal(0, 1, (N_VOLUMES, N_PARCELS)).cumsum(axis=0)
        names = names or [f"LH_{i}" for i in range(values.shape[1])]
        folder = xcpd / stem.split("_")[0] / "func"
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            "\t".join("n/a" if j in missing else repr(float(x)) for j, x in enumerate(row))
            for row in values
        ]
        path = folder / f"{stem}.tsv"
        path.write_text("\n".join(["\t".join(names), *rows]) + "\n")
        if tr is not None:
            path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": tr}))
        return path

    return one


@pytest.fixture
def embed(tmp_path):
    def call(*words):
        parser = argparse.ArgumentParser()
        add_series(parser)
        out = tmp_path / "out"
        words = [*map(str, words), "--out", str(out), "--device", "cpu"]
        call_series(parser.parse_args(words))
        return out

    return call


def vector(out, name=NAME):
    (path,) = out.rglob(f"{name}.tsv")
    return read_embedding(path)[0]


def test_a_table_gets_an_embedding_under_our_names(write, embed, capsys):
    path = write()
    out = embed(path)
    assert "1 runs of 1 participants embedded by connectome" in capsys.readouterr().out
    assert vector(out).shape == (N_PARCELS * (N_PARCELS - 1) // 2,)
    said = json.loads((out / "sub-01" / "func" / f"{NAME}.json").read_text())
    assert said["Sources"] == [f"bids:xcpd:sub-01/func/{STEM}.tsv"]
    assert said["InputConformance"]["atlas_in"] == "Tian"
    assert said["InputConformance"]["tr_in"] == TR
    assert said["Computation"]["atlas"] == "Tian"  # that of the card has no part in it
    assert said["Computation"]["atlas_sha256"] is None
    links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    assert links == {"xcpd": "../xcp_d"}


def test_the_connectome_is_that_of_the_cleaned_series(write, embed):
    path = write()
    out = embed(path)
    parcels, _ = read_series(path)
    cleaned, _ = clean_parcels(
        parcels, None, tr=TR, cleaning=read_card("connectome").contract.cleaning
    )
    rows, columns = np.triu_indices(N_PARCELS, k=1)
    expected = np.arctanh(np.corrcoef(cleaned.series)[rows, columns])
    assert np.abs(vector(out) - expected).max() < 1e-5


def test_a_parcel_without_coverage_correlates_0_with_all_others(write, embed):
    out = embed(write(missing={2}))
    rows, columns = np.triu_indices(N_PARCELS, k=1)
    with_it = (rows == 2) | (columns == 2)
    assert (vector(out)[with_it] == 0).all()
    assert (vector(out)[~with_it] != 0).all()
    said = json.loads((out / "sub-01/func" / f"{NAME}.json").read_text())["InputConformance"]
    assert said["missing_parcels"] == [3]
    assert "1 of 7 parcels are missing and count as 0" in said["reasons"][0]


def test_arrays_are_taken_as_volumes_by_parcels(write, embed, xcpd, tmp_path):
    values = np.random.default_rng(1).normal(size=(N_VOLUMES, N_PARCELS)).cumsum(axis=0)
    expected = vector(embed(write(values=values)))
    for i, save in enumerate((np.save, lambda p, a: np.savez_compressed(p, anything=a))):
        folder = tmp_path / f"arrays{i}"
        folder.mkdir()
        stem = f"sub-0{i + 2}_task-rest_atlas-Tian_timeseries"
        save(folder / f"{stem}.{('npy', 'npz')[i]}", values)
        (path,) = folder.iterdir()
        out = embed(path, "--tr", TR)
        name = f"sub-0{i + 2}_task-rest_space-unknown_desc-connectome_embedding"
        assert np.array_equal(vector(out, name), expected)


def test_a_second_call_does_nothing_and_a_changed_table_is_embedded_again(write, embed):
    path = write()
    out = embed(path)
    table = next(out.rglob(f"{NAME}.tsv"))
    first = table.stat().st_mtime_ns, table.read_bytes()
    embed(path)
    assert (table.stat().st_mtime_ns, table.read_bytes()) == first
    embed(write())  # other numbers
    assert table.read_bytes() != first[1]


def test_a_network_takes_the_parcels_of_its_contract_alone(write, embed, rng):
    values = rng.normal(0, 5, (70, 100)).cumsum(axis=0)
    names = [str(i) for i in range(1, 101)]
    stem = "sub-01_task-rest_space-MNI152NLin6Asym_atlas-GreyParcels100_stat-mean_timeseries"
    path = write(stem, values=values, names=names)
    out = embed(path, "--models", "connectome", "brainlm-demo", "brainlm-demo-untrained")
    found = [
        vector(out, f"sub-01_task-rest_space-MNI152NLin6Asym_desc-{label}_embedding")
        for label in ("brainlmDemo", "brainlmDemoUntrained")
    ]
    assert found[0].shape == found[1].shape == (96,)
    assert np.abs(found[0] - found[1]).max() > 0.01
    # Columns are named by labels: their order does not matter.
    order = rng.permutation(100)
    stem = stem.replace("sub-01", "sub-02")
    other = write(stem, values=values[:, order], names=[names[i] for i in order])
    embed(other, "--models", "brainlm-demo")
    again = vector(out, "sub-02_task-rest_space-MNI152NLin6Asym_desc-brainlmDemo_embedding")
    assert np.abs(again - found[0]).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem": STEM.replace("Tian", "GreyParcels100")}, "there are 7 columns; the model takes"),
        ({}, "the parcels are of Tian; the model takes those of GreyParcels100"),
    ],
)
def test_other_parcels_than_the_contracts_are_refused(write, embed, change, message):
    with pytest.raises(DataError, match="1 of 1 tables were not embedded") as caught:
        embed(write(**change), "--models", "brainlm-demo")
    assert message in caught.value.what


def test_names_that_are_no_labels_of_the_image_are_refused(write, embed, rng):
    stem = STEM.replace("Tian", "GreyParcels100")
    path = write(stem, values=rng.normal(size=(70, 100)), names=[str(i) for i in range(2, 102)])
    with pytest.raises(DataError, match="the columns are not named by the 100 labels of tpl"):
        embed(path, "--models", "brainlm-demo")


def test_one_bad_table_leaves_the_others(write, embed, tmp_path):
    values = np.random.default_rng(3).normal(size=(N_VOLUMES, N_PARCELS))
    values[5, 4] = np.nan
    bad = write(STEM.replace("sub-01", "sub-02"), values=values)
    short = write(STEM.replace("sub-01", "sub-03"), values=values[:19, :3])
    with pytest.raises(DataError, match="2 of 3 tables were not embedded") as caught:
        embed(write(), bad, short)
    assert "1 parcels lack a value in some volumes only, the first is 'LH_4', in 1 of 80" in (
        caught.value.what
    )
    assert vector(tmp_path / "out").shape == (21,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\ta\n1\t2\n", "the column 'a' stands in it twice"),
        ("a\tb\n1\t2\t\n2\t3\t\n3\t5\t\n", "more cells than its header, which has 2"),
        ("a\tb\n0\t1\t2\n1\t2\t3\n2\t3\t5\n", "more cells than its header, which has 2"),
        ("\ta\tb\n0\t1\t2\n1\t2\t3\n2\t3\t5\n", "column 1 has no name, as row numbers"),
        ("0.5\t-1.2e-3\n1\t2\n2\t3\n3\t5\n", "its first row holds numbers, such as '0.5'"),
        ("a\tb\n1\tx\n2\t3\n3\t4\n", "cannot be read as the series of parcels"),
        ("a\tb\n1\tinf\n2\t3\n3\t4\n", "1 values are infinite"),
        ("a\tb\n1\t2\n2\t3\n", r"its numbers have the shape \(2, 2\)"),
        ("a\tb\n1\t2\n1\t2\n1\t2\n", "none of its 2 parcels varies over its 3 volumes"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "sub-01_atlas-A_timeseries.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_series(path)


def test_an_array_that_is_none_is_refused(tmp_path):
    path = tmp_path / "sub-01_atlas-A_timeseries.npz"
    np.savez(path, a=np.zeros((5, 3)), b=np.zeros((5, 3)))
    with pytest.raises(DataError, match="it holds 2 arrays of"):
        read_series(path)
    np.savez(path, a=np.zeros((5, 3), dtype=int))
    with pytest.raises(DataError, match="its values are int64, not floating-point numbers"):
        read_series(path)
    np.savez(path, a=np.array([{"code": 1}], dtype=object))  # a pickle is never opened
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        read_series(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be read as the series of parcels"):
        read_series(path)


@pytest.mark.parametrize(
    "stem",
    [
        "sub-01_task-rest_desc-confounds_timeseries",
        "task-rest_sub-01_atlas-A_timeseries",
        "sub-01_task-rest_atlas-A_stat-coverage_bold",
    ],
)
def test_other_tables_are_refused_by_their_names(write, stem):
    with pytest.raises(DataError, match="its name is not that of parcel series"):
        open_table(write(stem), atlas="A")


def test_a_name_that_is_not_bids_never_reaches_an_output(write, embed, tmp_path):
    path = write().rename(tmp_path / "sub-..%2f..%2fetc_atlas-A_timeseries.tsv")
    with pytest.raises(DataError, match="is not a BIDS name"):
        embed(path, "--tr", TR)


def test_atlas_and_repetition_time_are_said_once(write, embed):
    path = write("sub-01_task-rest_timeseries", tr=None)
    with pytest.raises(UsageError, match="its name says no atlas; --atlas-name says none"):
        embed(path, "--tr", 2)
    with pytest.raises(UsageError, match="its name says the atlas Tian; --atlas-name says AAL"):
        embed(write(), "--atlas-name", "AAL")
    with pytest.raises(UsageError, match="no sidecar says its RepetitionTime"):
        embed(path, "--atlas-name", "AAL")
    with pytest.raises(UsageError, match="says a repetition time of 2 s; --tr says 3 s"):
        embed(write(), "--tr", 3)


def test_the_repetition_time_may_be_a_frequency_and_may_stand_higher_up(write, xcpd):
    path = write(tr=None)
    (xcpd / "task-rest_timeseries.json").write_text('{"SamplingFrequency": 0.4}')
    assert open_table(path).tr == pytest.approx(2.5)  # seconds


def test_two_tables_of_one_run_are_refused(write, embed):
    with pytest.raises(UsageError, match="are both series of sub-01_task-rest_run-1"):
        embed(write(), write(STEM.replace("Tian", "AAL")))


def test_models_of_volumes_and_unknown_ones_are_refused(write, embed):
    with pytest.raises(UsageError, match="neurostorm-demo takes volumes; it cannot embed series"):
        embed(write(), "--models", "neurostorm-demo")
    with pytest.raises(ContractError, match="takes volumes; series of parcels have no meaning"):
        load_series_embedder(read_card("neurostorm-demo"))
    with pytest.raises(UsageError, match="there is no model"):
        embed(write(), "--models", "conectome")
    with pytest.raises(NoInputError, match="there is no such table"):
        embed("/nowhere/sub-01_atlas-A_timeseries.tsv")


def test_an_embedding_of_other_files_is_not_replaced(write, embed, tmp_path):
    out = embed(write())
    before = next(out.rglob(f"{NAME}.tsv")).read_bytes()
    with pytest.raises(DataError, match="is of other files") as caught:
        embed(write(STEM.replace("Tian", "AAL")))
    assert "choose another output folder" in caught.value.fix
    assert next(out.rglob(f"{NAME}.tsv")).read_bytes() == before


def test_results_never_go_into_the_dataset(write, tmp_path):
    parser = argparse.ArgumentParser()
    add_series(parser)
    path = write()
    with pytest.raises(CannotCreateError, match="is inside the input"):
        call_series(parser.parse_args([str(path), "--out", str(path.parent / "out")]))


def test_only_tables_go_through_such_an_embedder(tmp_path):
    run = StandardSeries(
        name="sub-01",
        bold=tmp_path / "bold.nii.gz",
        mask=None,
        confounds=None,
        tr=TR,
        space="MNI152NLin6Asym",
        res="2",
    )
    with pytest.raises(ContractError, match="is not a table of parcels, which alone"):
        load_series_embedder(read_card("connectome")).embed(run)


def test_a_short_series_is_refused_with_its_length(write):
    table = open_table(write(values=np.random.default_rng(0).normal(size=(19, 4))))
    with pytest.raises(SeriesTooShortError, match="the series has 19 volumes; the model takes 20"):
        load_series_embedder(read_card("connectome")).embed(table)


def test_a_connectome_has_no_weights_to_be_random():
    assert not list(create_model("connectome").parameters())
