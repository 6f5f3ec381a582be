"""A table of statistics is used only for what it was made for."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neurostorm_app.errors import ContractError, DataError, NoInputError
from neurostorm_app.models.card import Cleaning, ParcelContract
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.pipelines.cohort import Cohort, Sketch
from neurostorm_app.pipelines.scale_parcels import Statistics
from neurostorm_app.pipelines.statistics_file import (
    describe_cohort,
    format_cohort,
    read_statistics,
)

CONTRACT = ParcelContract(
    space="MNI152NLin6Asym", atlas="toy", scaling="robust", tr=0.735, cleaning=Cleaning()
)
DIGITS = 1e-6  # relative: the table has seven digits


@pytest.fixture
def atlas(tmp_path):
    labels = np.zeros((4, 5, 6), dtype=np.int16)
    labels[0, :3, 0] = [1, 2, 5]
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "toy.nii.gz")
    return tmp_path / "toy.nii.gz"


@pytest.fixture
def cohort(rng):
    """Two runs of three parcels; one parcel is missing in both."""
    sketch = Sketch(np.array([1, 2, 5]))
    for _ in range(2):
        sketch.add(rng.normal(0, 50, (3, 90)) * [[1], [2], [np.nan]])
    found = sketch.statistics()
    kept = {name: getattr(found, name) for name in ("labels", "median", "iqr", "low", "high")}
    return Cohort(
        statistics=Statistics(**kept, sd=found.sd, n_runs=2, n_participants=2),
        n_runs=sketch.n_runs,
        n_values=sketch.n_values,
        sd=sketch.sd,
        left_out={"sub-03_task-rest": DataError("damaged", fix="none")},
    )


@pytest.fixture
def table(tmp_path, cohort, atlas):
    path = tmp_path / "cohort.tsv"
    path.write_text(format_cohort(cohort))
    about = describe_cohort(cohort, CONTRACT, atlas_sha256=hash_file(atlas), version="1")
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


def change(table, **facts):
    sidecar = table.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | facts))


def test_what_is_written_is_read_again(table, cohort, atlas):
    found, wanted = read_statistics(table, CONTRACT, atlas=atlas), cohort.statistics
    for name in ("labels", "median", "iqr", "low", "high", "sd"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=DIGITS)
    assert (found.n_runs, found.n_participants) == (2, 2)
    assert found.sha256 == hash_file(table)
    assert found.usable.tolist() == [True, True, False]


def test_the_sidecar_explains_every_column_and_names_nobody(table):
    about = json.loads(table.with_suffix(".json").read_text())
    header = table.read_text().splitlines()[0].split("\t")
    assert all(about[name]["Description"] for name in header)
    assert "10000" in about["iqr"]["Units"]
    assert (about["NumberOfRuns"], about["NumberOfRunsLeftOut"]) == (2, 1)
    assert "sub-" not in json.dumps(about)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"AtlasSHA256": "0" * 64}, "the SHA-256 of the label image is 0000"),
        ({"RepetitionTime": 0.72}, "the repetition time is 0.72 there and 0.735 here"),
        ({"TimePositions": "ends"}, "where volumes of it lie is ends there and centres here"),
        ({"Cleaning": {"high_pass": 0.01}}, "the cleaning is .*high_pass=0.01"),
        ({"GrandMean": 100.0}, "the grand mean is 100"),
    ],
    ids=["atlas", "time", "places", "cleaning", "unit"],
)
def test_statistics_of_another_input_are_refused(table, atlas, facts, words):
    change(table, **facts)
    with pytest.raises(ContractError, match=f"were made for another input: {words}"):
        read_statistics(table, CONTRACT, atlas=atlas)


def test_a_sidecar_that_says_nothing_of_places_in_time_means_centres(table, atlas):
    sidecar = table.with_suffix(".json")
    about = json.loads(sidecar.read_text())
    assert about.pop("TimePositions") == "centres"
    sidecar.write_text(json.dumps(about))
    assert read_statistics(table, CONTRACT, atlas=atlas).n_runs == 2


@pytest.mark.parametrize("gone", [".tsv", ".json"])
def test_both_files_must_be_there(table, atlas, gone):
    table.with_suffix(gone).unlink()
    with pytest.raises(NoInputError, match="the statistics are a table and its sidecar"):
        read_statistics(table, CONTRACT, atlas=atlas)


@pytest.mark.parametrize("text", ["{}", "[", '{"AtlasSHA256": 1}'])
def test_a_sidecar_of_something_else_is_refused(table, atlas, text):
    table.with_suffix(".json").write_text(text)
    with pytest.raises(DataError, match="is not the sidecar of a table of statistics"):
        read_statistics(table, CONTRACT, atlas=atlas)


@pytest.mark.parametrize("spoil", ["drop", "words"])
def test_a_table_with_other_columns_is_refused(table, atlas, spoil):
    frame = pd.read_csv(table, sep="\t").astype({"p01": object})
    frame.loc[0, "p01"] = "low"
    frame = frame.drop(columns="iqr") if spoil == "drop" else frame
    frame.to_csv(table, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(DataError, match="cannot be read as a table of statistics with columns"):
        read_statistics(table, CONTRACT, atlas=atlas)


@pytest.mark.parametrize(("column", "value"), [("iqr", -1), ("p01", 9), ("n_values", np.nan)])
def test_numbers_that_cannot_be_are_refused(table, atlas, column, value):
    frame = pd.read_csv(table, sep="\t").astype({column: float})
    frame.loc[0, column] = value
    frame.to_csv(table, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(DataError, match="holds ranges below 0 or rows without counts"):
        read_statistics(table, CONTRACT, atlas=atlas)


def test_a_table_of_other_labels_is_refused(table, atlas):
    table.write_text(table.read_text().replace("\n5\t", "\n6\t"))
    with pytest.raises(ContractError, match="its 3 labels are not those of"):
        read_statistics(table, CONTRACT, atlas=atlas)


def test_a_table_without_any_range_is_refused(table, atlas):
    frame = pd.read_csv(table, sep="\t").assign(iqr=0.0)
    frame.to_csv(table, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(DataError, match="no parcel has an interquartile range above 0"):
        read_statistics(table, CONTRACT, atlas=atlas)
