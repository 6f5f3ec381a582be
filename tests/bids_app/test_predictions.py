"""What is written of a prediction says what it means and how far to trust it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neurostorm_app.bids_app.participant.predictions import prediction_sidecar, prediction_table
from neurostorm_app.models import read_card
from neurostorm_app.models.card import Output
from neurostorm_app.pipelines.embed import RunEmbedding
from neurostorm_app.pipelines.predict import interpret

OUTPUTS = {
    "binary": Output(target="sex", kind="binary", classes=("F", "M"), origin="labels"),
    "classes": Output(target="task", kind="classes", classes=("a", "b", "c"), origin="labels"),
    "value": Output(target="age", kind="value", unit="years", mean=30, sd=4, origin="scaler"),
    "unknown": None,
}
COLUMNS = ["target", "value", "unit", "class", "probability", "lower", "upper"]


@pytest.fixture
def predicted(rng):
    """A function: what a head of a kind says of a run of four windows."""

    def make(kind):
        n = {"classes": 3, "unknown": 2}.get(kind, 1)
        vectors = rng.normal(size=(4, 6)).astype(np.float32)
        return RunEmbedding(
            windows=vectors,
            onsets=np.arange(4.0),
            durations=np.ones(4),
            pooled=vectors.mean(axis=0),
            conformance={"met": True},
            record={"weights_sha256": "0" * 64, "seconds": 1.5, "batch": 2, "precision": "fp32"},
            prediction=interpret(rng.normal(size=(4, n)), OUTPUTS[kind]),
        )

    return make


def rows(text):
    header, *lines = text.splitlines()
    assert text.endswith("\n")
    assert header.split("\t") == COLUMNS
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines]


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_there_is_a_row_for_each_class_and_probabilities_add_up(predicted, kind):
    found = rows(prediction_table(predicted(kind).prediction))
    assert [row["class"] for row in found] == list(OUTPUTS[kind].classes)
    assert sum(float(row["probability"]) for row in found) == pytest.approx(1)
    assert {row["target"] for row in found} == {OUTPUTS[kind].target}
    assert {row[name] for row in found for name in ("value", "unit", "lower", "upper")} == {"n/a"}


def test_a_value_has_its_unit_and_no_interval(predicted):
    prediction = predicted("value").prediction
    [row] = rows(prediction_table(prediction))
    assert (row["target"], row["unit"]) == ("age", "years")
    assert float(row["value"]) == pytest.approx(prediction["value"], rel=1e-9)
    assert {row[name] for name in ("class", "probability", "lower", "upper")} == {"n/a"}


def test_a_unit_nobody_knows_is_not_made_up(predicted):
    [row] = rows(prediction_table(predicted("value").prediction | {"unit": None}))
    assert row["unit"] == "n/a"


def test_outputs_without_a_meaning_are_numbered(predicted):
    prediction = predicted("unknown").prediction
    found = rows(prediction_table(prediction))
    assert [row["target"] for row in found] == ["output0", "output1"]
    assert [float(row["value"]) for row in found] == pytest.approx(prediction["outputs"])
    assert {row[name] for row in found for name in ("unit", "class", "probability")} == {"n/a"}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_sidecar_says_what_was_done_and_what_it_is_not_for(predicted, kind):
    card = read_card("neurostorm")
    embedding = predicted(kind)
    sidecar = prediction_sidecar(card, embedding, sources=["bids::bold"], notes=["a note"])
    assert json.loads(json.dumps(sidecar)) == sidecar
    assert "Not for diagnosis" in sidecar["Description"]
    assert sidecar["NotForDiagnosis"] is True
    assert set(COLUMNS) <= set(sidecar)
    assert sidecar["Pooling"].startswith("mean of the")
    assert sidecar["Model"]["WeightsSHA256"] == "0" * 64
    assert sidecar["Notes"][0] == "a note"
    assert any("how far a prediction may be off is not known" in note for note in sidecar["Notes"])
    assert sidecar["Prediction"]["target"] == (OUTPUTS[kind].target if OUTPUTS[kind] else None)
    assert sidecar["Sources"] == ["bids::bold"]
    assert "seconds" not in sidecar["Computation"]
    assert embedding.prediction["notes"]  # still there


def test_a_prediction_of_demo_weights_says_so_first(predicted):
    card = read_card("neurostorm").model_copy(update={"demo": True})
    sidecar = prediction_sidecar(card, predicted("value"), sources=[], notes=[])
    assert sidecar["Description"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE. Prediction of age")
    assert sidecar["Demo"] is True
