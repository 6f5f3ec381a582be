"""The verb predict: a head of one folder, applied to new people of this and of another."""

from __future__ import annotations

import argparse
import csv
import json

import numpy as np
import pytest

from neurostorm_app.bids_app.derivatives import derivative_path, embedding_table
from neurostorm_app.bids_app.describe import describe_output
from neurostorm_app.bids_app.verbs.predict import add_predict, call_predict, predict_new
from neurostorm_app.errors import (
    ContractError,
    DataError,
    NoInputError,
    NothingSelectedError,
    UsageError,
)
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design, Target
from neurostorm_app.pipelines.evaluate.head_files import write_head
from neurostorm_app.pipelines.evaluate.head_fit import fit_head

MADE = {
    "WeightsSHA256": "ab" * 32,
    "Contract": {"space": "MNI152NLin6Asym"},
    "Atlas": None,
    "Space": "MNI152NLin6Asym",
    "Resolution": "2",
    "Precision": "fp32",
    "EmbeddingDimension": 5,
    "Options": {},
    "Demo": True,
}
NEW = ("101", "102")


def embed(root, name, vector, **said):
    entities = {"space": "MNI152NLin6Asym", "res": "2", "desc": "toy"}
    path = derivative_path(
        root, name, "func", suffix="embedding", extension=".tsv", entities=entities
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(embedding_table(np.asarray(vector, np.float32)[np.newaxis]))
    sidecar = {
        "Demo": True,
        "Model": {"WeightsSHA256": "ab" * 32},
        "Contract": {"space": "MNI152NLin6Asym"},
        "Precision": "fp32",
        "EmbeddingDimension": 5,
        "Computation": {},
    }
    path.with_suffix(".json").write_text(json.dumps({**sidecar, **said}))
    return path


@pytest.fixture
def heads(tmp_path, rng):
    """Write a head of a kind that was fitted on 60 people."""

    def make(kind="value", *, per_session=False):
        x = rng.normal(size=(60, 5)).astype(np.float32)
        told = 40 + 10 * x[:, 0]
        classes = ("control", "patient") if kind == "classes" else ()
        people = [f"sub-{i // (1 + per_session):03d}" for i in range(60)]
        target = Target(
            name="age_years",
            kind=kind,
            values=(told > 40).astype(np.int64) if classes else told,
            classes=classes,
            unit=None if classes else "years",
        )
        rows = [f"{p}_ses-{i % 2}" if per_session else p for i, p in enumerate(people)]
        cohort = Cohort(
            rows=tuple(rows),
            participants=tuple(people),
            groups=tuple(people),
            features={"toy": x},
            target=target,
        )
        head = fit_head(cohort, "toy", Design(), fingerprint=MADE, demo=True, performance={})
        path = tmp_path / f"{kind}_head.safetensors"
        write_head(head, path, version="0.4")
        return path

    return make


@pytest.fixture
def out(tmp_path):
    """An output folder with two new people, one of them with two runs, and their phenotype."""
    root = tmp_path / "out"
    root.mkdir()
    describe_output(root, {})
    embed(root, "sub-101_task-rest_run-1", [2, 0, 0, 0, 0])
    embed(root, "sub-101_task-rest_run-2", [0, 0, 0, 0, 0.01])
    embed(root, "sub-102_task-rest", [-1, 0, 0, 0, 0])
    return root


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_new_people_get_values_with_intervals(heads, out):
    path, rows, about = predict_new(out, heads(), [], include_training=False)
    assert path == out / "prediction" / "target-ageYears_desc-toyNew_prediction.tsv"
    assert read(path) == rows
    assert [row["participant_id"] for row in rows] == ["sub-101", "sub-102"]
    assert float(rows[0]["predicted"]) == pytest.approx(50, abs=0.5)  # the mean of two runs is 1
    assert float(rows[1]["predicted"]) == pytest.approx(30, abs=0.5)
    assert float(rows[0]["lower"]) < 50 < float(rows[0]["upper"])
    assert json.loads(path.with_suffix(".json").read_text()) == about
    assert about["Description"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE. age_years (years)")
    assert about["NotForDiagnosis"] is True
    assert any("the prediction is too good" in note for note in about["Notes"])


def test_new_people_get_classes_with_probabilities(heads, out):
    _, rows, _ = predict_new(out, heads("classes"), ["102"], include_training=False)
    [row] = rows
    assert row["predicted"] == "control"
    assert float(row["probability_control"]) > 0.5
    assert "lower" not in row


def test_a_head_of_sessions_predicts_sessions(heads, out):
    embed(out, "sub-103_ses-b_task-rest", [1, 0, 0, 0, 0])
    _, rows, _ = predict_new(out, heads(per_session=True), ["103"], include_training=False)
    assert [(row["participant_id"], row["session_id"]) for row in rows] == [("sub-103", "ses-b")]


@pytest.mark.parametrize("column", ["predicted", "predicted_ses-1"])
def test_who_has_an_out_of_fold_prediction_is_left_out(heads, out, column):
    phenotype = out / "phenotype" / "toy_ageYears.tsv"
    phenotype.parent.mkdir()
    phenotype.write_text(f"participant_id\t{column}\nsub-101\t40\nsub-001\t30\n")
    _, rows, about = predict_new(out, heads(), [], include_training=False)
    assert [row["participant_id"] for row in rows] == ["sub-102"]
    assert about["LeftOut"] == {"out-of-fold prediction in phenotype/": 1}
    with pytest.raises(NothingSelectedError, match="all 1 rows have an out-of-fold prediction"):
        predict_new(out, heads(), ["101"], include_training=False)
    _, rows, about = predict_new(out, heads(), [], include_training=True)
    assert len(rows) == 2
    assert any("may be among the rows" in note for note in about["Notes"])
    phenotype.write_text(f"participant_id\t{column}\nsub-101\n")
    with pytest.raises(DataError, match="whom the head was fitted on cannot be told"):
        predict_new(out, heads(), [], include_training=False)


def test_embeddings_of_other_weights_are_refused(heads, out):
    for path in out.rglob("*_embedding.json"):
        said = json.loads(path.read_text())
        path.write_text(json.dumps({**said, "Model": {"WeightsSHA256": "ef" * 32}}))
    with pytest.raises(
        ContractError,
        match=r"made otherwise than those the head was fitted on: WeightsSHA256 ab.* ef",
    ) as caught:
        predict_new(out, heads(), [], include_training=False)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("side", ["embeddings", "head"])
def test_what_newer_sidecars_say_beside_does_not_matter(heads, out, side):
    head = heads()
    said = {"Centre": True, "Control": False, "TunedTo": "age_years"}
    if side == "head":
        card = json.loads(head.with_suffix(".json").read_text())
        card["Fingerprint"] |= said
        head.with_suffix(".json").write_text(json.dumps(card))
    for path in out.rglob("*_embedding.json"):
        more = said if side == "embeddings" else {}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    _, rows, _ = predict_new(out, head, [], include_training=False)
    assert len(rows) == 2
    for path in out.rglob("*_embedding.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"Precision": "bf16"}))
    with pytest.raises(ContractError, match="otherwise than those the head was fitted") as caught:
        predict_new(out, head, [], include_training=False)
    assert caught.value.what.endswith(": Precision fp32, the other Precision bf16")


def test_what_is_not_there_is_no_input(heads, out, tmp_path):
    with pytest.raises(NoInputError, match="gone is not a folder of results"):
        predict_new(tmp_path / "gone", heads(), [], include_training=False)
    with pytest.raises(NoInputError, match="a head is a"):
        predict_new(out, tmp_path / "none.safetensors", [], include_training=False)
    with pytest.raises(NoInputError, match="holds no embedding of toy that the head could"):
        predict_new(out, heads(), ["999"], include_training=False)


def test_a_hostile_label_is_refused(heads, out):
    with pytest.raises(UsageError, match="is not a BIDS label"):
        predict_new(out, heads(), ["../../etc"], include_training=False)


def test_the_verb_prints_a_table_or_json(heads, out, capsys):
    parser = argparse.ArgumentParser()
    add_predict(parser)
    words = [str(out), "--head", str(heads())]
    call_predict(parser.parse_args([*words, "--participant-label", "sub-101"]))
    shown = capsys.readouterr().out
    assert "DEMO WEIGHTS" in shown
    assert "1 rows; left out: nobody" in shown
    call_predict(parser.parse_args([*words, "--json"]))
    found = json.loads(capsys.readouterr().out)
    assert [row["participant_id"] for row in found["rows"]] == ["sub-101", "sub-102"]
