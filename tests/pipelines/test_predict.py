"""Outputs of a head become probabilities or a value in a unit, and nothing is made up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from neurostorm_app.errors import ContractError, DataError
from neurostorm_app.models.card import Output
from neurostorm_app.pipelines.predict import interpret, sigmoid, softmax

SEX = Output(target="sex", kind="binary", classes=("F", "M"), origin="label map")
AGE = Output(target="age", kind="value", unit="years", mean=28.759259, sd=3.681461, origin="scaler")
TASK = Output(target="task", kind="classes", classes=("rest", "movie", "music"), origin="labels")


def test_logits_are_averaged_before_the_sigmoid():
    logits = np.array([[-1.0], [5.0], [0.5]], dtype=np.float32)
    found = interpret(logits, SEX)
    assert found["outputs"] == pytest.approx([1.5])
    assert found["probabilities"][1] == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert sum(found["probabilities"]) == pytest.approx(1)
    assert found["n_windows"] == 3
    averaged_after = np.mean(1 / (1 + np.exp(-logits)))
    assert abs(found["probabilities"][1] - averaged_after) > 0.01


@pytest.mark.parametrize(
    ("logit", "name"), [(-0.1, "F"), (0.0, "M"), (0.1, "M"), (-900.0, "F"), (900.0, "M")]
)
def test_one_logit_of_0_or_more_is_the_positive_class(logit, name):
    found = interpret(np.full((2, 1), logit), SEX)
    assert found["predicted"] == name
    assert found["probabilities"][1] == pytest.approx(sigmoid(logit))
    assert all(0 <= p <= 1 for p in found["probabilities"])


def test_one_logit_is_never_certain_of_itself():
    """A softmax over the single logit would call every brain the first class, with certainty."""
    found = [interpret(np.array([[v]]), SEX)["probabilities"][0] for v in (-1.0, 1.0)]
    assert found[0] == pytest.approx(1 - found[1])
    assert found[0] != found[1]


def test_several_logits_are_averaged_before_the_softmax():
    logits = np.array([[0.0, 2.0, 1.0], [2.0, 2.0, 0.0]])
    found = interpret(logits, TASK)
    weights = np.exp([1.0, 2.0, 0.5])
    assert found["probabilities"] == pytest.approx(list(weights / weights.sum()))
    assert found["predicted"] == "movie"
    assert found["classes"] == ["rest", "movie", "music"]


def test_a_value_is_in_its_unit():
    found = interpret(np.array([[1.0], [0.0]]), AGE)
    assert found["value"] == pytest.approx(0.5 * 3.681461 + 28.759259)
    assert found["unit"] == "years"
    assert found["scaler"] == {"mean": 28.759259, "sd": 3.681461}


def test_what_the_card_does_not_know_is_not_made_up():
    found = interpret(np.array([[1.0, -1.0]]), None)
    assert (found["target"], found["kind"], found["origin"]) == (None, "unknown", None)
    assert found["outputs"] == [1.0, -1.0]
    assert not {"predicted", "probabilities", "classes", "value", "unit"} & set(found)
    assert any("does not say what the outputs mean" in note for note in found["notes"])


def test_classes_without_names_are_numbered_and_that_is_said():
    found = interpret(np.array([[1.0, 3.0]]), TASK.model_copy(update={"classes": ()}))
    assert (found["classes"], found["predicted"]) == (["class0", "class1"], "class1")
    assert any("does not name the classes" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("output", "n"),
    [(SEX, 2), (AGE, 2), (TASK, 2), (SEX.model_copy(update={"classes": ("M",)}), 1)],
)
def test_a_card_of_another_head_is_refused(output, n):
    with pytest.raises(ContractError, match=rf"the head gives {n} outputs; the card says"):
        interpret(np.zeros((3, n)), output)


def test_an_output_that_is_no_number_is_refused():
    with pytest.raises(DataError, match="2 outputs of the head are not finite numbers"):
        interpret(np.array([[np.nan], [1.0], [np.inf]]), AGE)


@pytest.mark.parametrize(
    ("output", "n"), [(SEX, 1), (AGE, 1), (TASK, 3), (None, 4)], ids=["sex", "age", "task", "none"]
)
def test_a_prediction_is_of_jsons_types_and_without_an_interval(output, n, rng):
    found = interpret(rng.normal(size=(5, n)).astype(np.float32), output)
    assert json.loads(json.dumps(found)) == found
    assert found["interval"] is None
    assert found["pooling"].startswith("mean of the")


def test_large_logits_do_not_overflow():
    np.testing.assert_allclose(softmax(np.array([1e4, 0.0, -1e4])), [1, 0, 0])
    assert (sigmoid(1e5), sigmoid(-1e5)) == (1.0, 0.0)
