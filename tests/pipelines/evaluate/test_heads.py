"""Heads are fitted on a cohort, kept as plain arrays, and refuse what they were not made for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from neurostorm_app.errors import (
    ContractError,
    DataError,
    NoInputError,
    UsageError,
    WrongWeightsError,
)
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design, Target
from neurostorm_app.pipelines.evaluate.crossvalidate import evaluate
from neurostorm_app.pipelines.evaluate.estimators import Standardise
from neurostorm_app.pipelines.evaluate.head_files import pack_head, read_head, write_head
from neurostorm_app.pipelines.evaluate.head_fit import fit_head, performance_of
from neurostorm_app.pipelines.evaluate.heads import apply_head, check_fingerprint

MADE = {"WeightsSHA256": "ab" * 32, "Space": "MNI", "EmbeddingDimension": 7}
DIRECTION = np.array([1.0, -1, 0, 0, 2, 0, 0])


def draw(rng, n, kind):
    """Draw people whose features tell a value or two or three classes."""
    x = (rng.normal(size=(n, 7)) * 3 + 5).astype(np.float32)
    told = (x - 5) @ DIRECTION
    if kind == "value":
        return x, 40 + told + rng.normal(0, 1, n), ()
    edges = [0] if kind == "two" else [-4, 4]
    classes = ("a", "b") if kind == "two" else ("a", "b", "c")
    return x, np.digitize(told + rng.normal(0, 1, n), edges).astype(np.int64), classes


def cohort_of(x, values, classes):
    people = tuple(f"sub-{i:03d}" for i in range(len(x)))
    kind = "classes" if classes else "value"
    unit = None if classes else "years"
    target = Target(name="age", kind=kind, values=values, classes=classes, unit=unit)
    return Cohort(
        rows=people, participants=people, groups=people, features={"toy": x}, target=target
    )


@pytest.fixture
def fit(rng):
    """Fit a head of a kind on 120 people."""

    def make(kind, design=None, *, n=120):
        cohort = cohort_of(*draw(rng, n, kind))
        told = {"r2": {"Value": 0.9, "Low": 0.8, "High": None}}
        return fit_head(
            cohort,
            "toy",
            design or Design(),
            fingerprint=MADE,
            demo=False,
            performance=told,
        )

    return make


def test_a_value_is_told_and_its_interval_holds(fit, rng):
    head = fit("value")
    x, values, _ = draw(rng, 2000, "value")
    applied = apply_head(head, x)
    assert np.corrcoef(applied.predicted, values)[0, 1] > 0.98
    inside = (applied.lower <= values) & (values <= applied.upper)
    assert inside.mean() == pytest.approx(0.9, abs=0.06)
    assert applied.probabilities is None


@pytest.mark.parametrize(("kind", "n_classes", "least"), [("two", 2, 0.92), ("three", 3, 0.8)])
def test_classes_are_told_with_probabilities(fit, rng, kind, n_classes, least):
    applied = apply_head(fit(kind), (made := draw(rng, 1000, kind))[0])
    assert applied.probabilities.shape == (1000, n_classes)
    np.testing.assert_allclose(applied.probabilities.sum(axis=1), 1)
    assert (applied.predicted == made[1]).mean() > least
    sure = applied.probabilities[np.arange(1000), made[1]].mean()
    assert sure > 0.7
    assert applied.lower is None


def test_the_scale_of_features_does_not_matter(fit, rng):
    x, values, _ = draw(rng, 60, "value")
    common = {"fingerprint": MADE, "demo": False, "performance": {}}
    scaled = (x * np.array([1, 10, 100, 1, 0.1, 5, 1])).astype(np.float32)
    one = fit_head(cohort_of(x, values, ()), "toy", Design(), **common)
    other = fit_head(cohort_of(scaled, values, ()), "toy", Design(), **common)
    np.testing.assert_allclose(
        apply_head(one, x).predicted, apply_head(other, scaled).predicted, rtol=1e-4
    )


def test_too_few_rows_for_the_confidence_give_no_interval(fit, rng):
    head = fit("value", Design(confidence=0.95), n=12)
    assert head.half_width is None
    assert apply_head(head, draw(rng, 3, "value")[0]).lower is None


@pytest.mark.parametrize("kind", ["value", "two", "three"])
def test_a_head_survives_its_files(fit, rng, tmp_path, kind):
    head, path = fit(kind), tmp_path / "head.safetensors"
    write_head(head, path, version="0.4")
    back = read_head(path)
    x = draw(rng, 9, kind)[0]
    before, after = apply_head(head, x), apply_head(back, x)
    np.testing.assert_array_equal(before.predicted, after.predicted)
    for name in ("lower", "upper", "probabilities"):
        one, other = getattr(before, name), getattr(after, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
    assert (back.target.name, back.target.unit) == ("age", head.target.unit)
    assert back.target.classes == head.target.classes
    assert (back.n_participants, back.fingerprint) == (120, MADE)


def test_a_card_says_what_it_is_and_names_nobody(fit):
    content, card = pack_head(fit("two"), version="0.4")
    text = json.dumps(card)
    assert "sub-" not in text
    assert card["NotForDiagnosis"] is True
    assert "Not for diagnosis" in card["Description"]
    assert card["OutOfFoldPerformance"]["r2"] == {"Value": 0.9, "Low": 0.8, "High": None}
    assert set(load(content)) == {"weights", "intercept", "slope", "biases", "prevalences"}
    assert pack_head(fit("two"), version="0.4")[1].keys() == card.keys()


def test_a_card_holds_what_ridge_is_worth_whatever_learned_in_the_evaluation(rng):
    cohort = cohort_of(*draw(rng, 40, "two"))
    design = Design(n_folds=3, n_repeats=1, n_permutations=0, n_bootstraps=100)
    other = Design(
        n_folds=3, n_repeats=1, n_permutations=0, n_bootstraps=100, classifier="logistic"
    )
    ridge, logistic = (evaluate(cohort, "toy", d, steps=(Standardise(),)) for d in (design, other))
    told = performance_of(cohort, "toy", design, ridge)
    assert told == performance_of(cohort, "toy", other, logistic)
    for name, interval in ridge.metrics.items():
        assert told[name]["Value"] == pytest.approx(interval.value, rel=1e-3)
        assert told[name]["Value"] == float(f"{interval.value:.4g}")


def test_a_head_of_demo_weights_says_so_first(rng):
    cohort = cohort_of(*draw(rng, 30, "two"))
    head = fit_head(cohort, "toy", Design(), fingerprint=MADE, demo=True, performance={})
    assert pack_head(head, version="1")[1]["Description"].startswith("DEMO WEIGHTS")


def test_a_head_that_would_need_the_site_of_new_people_is_refused(fit):
    with pytest.raises(UsageError, match="a head cannot be kept with harmonise combat"):
        fit("value", Design(harmonise="combat"))


def test_embeddings_made_otherwise_are_refused(fit):
    head = fit("value")
    check_fingerprint(head, "toy", dict(MADE))
    with pytest.raises(ContractError, match="the head takes embeddings of toy, and these are of x"):
        check_fingerprint(head, "x", MADE)
    with pytest.raises(ContractError, match="different are Space, WeightsSHA256"):
        check_fingerprint(head, "toy", {**MADE, "Space": "T1w", "WeightsSHA256": "cd"})
    with pytest.raises(ContractError, match=r"different are Centre$"):
        check_fingerprint(head, "toy", {**MADE, "Centre": True})
    check_fingerprint(head, "toy", {**MADE, "Centre": True}, beside=("Centre", "Control"))


def test_a_head_of_an_earlier_version_lacks_what_contracts_had_no_word_for(fit):
    early = {"kind": "parcels", "space": "MNI", "atlas": "a", "tr": 2.0}
    late = {**early, "time_positions": "centres"}
    head = replace(fit("value"), fingerprint={**MADE, "Contract": early})
    check_fingerprint(head, "toy", {**MADE, "Contract": late})
    with pytest.raises(ContractError, match=r"different are Contract$"):
        check_fingerprint(head, "toy", {**MADE, "Contract": {**late, "time_positions": "ends"}})


def test_vectors_that_do_not_fit_are_refused(fit):
    head = fit("value")
    with pytest.raises(DataError, match="for a head of 7 dimensions"):
        apply_head(head, np.ones((2, 6)))
    with pytest.raises(DataError, match="a head is applied to holds numbers that are not finite"):
        apply_head(head, np.full((2, 7), np.nan))


def spoil(path, *, card=None, arrays=None):
    """Write other arrays or other words, and make the digest fit."""
    about = json.loads(path.with_suffix(".json").read_text())
    if arrays is not None:
        path.write_bytes(save({**load(path.read_bytes()), **arrays}))
    about |= card or {}
    about["SHA256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("card", "arrays", "message"),
    [
        (None, {"weights": np.ones((6, 1))}, "its card asks for"),
        (None, {"extra": np.ones(1)}, "its card asks for"),
        (None, {"weights": np.full((7, 1), np.inf)}, "weights that are not finite"),
        (None, {"weights": np.ones((7, 1), np.float32)}, "or not float64"),
        (None, {"prevalences": np.array([0.5, -0.5])}, "prevalences that cannot be"),
        (None, {"slope": np.array([-1.0])}, "half-width, a slope or prevalences that cannot be"),
        ({"Classes": ["a"]}, None, "lacks, or holds nonsense in, Kind"),
        ({"Classes": []}, None, "lacks, or holds nonsense in, Kind, Classes"),
        ({"Kind": "magic"}, None, "lacks, or holds nonsense in, Kind"),
        ({"Demo": "no"}, None, "lacks, or holds nonsense in, Demo"),
        ({"Format": "other 7"}, None, "is no card of a head"),
    ],
)
def test_a_spoilt_head_is_refused(fit, tmp_path, card, arrays, message):
    path = tmp_path / "head.safetensors"
    write_head(fit("two"), path, version="0.4")
    spoil(path, card=card, arrays=arrays)
    with pytest.raises(WrongWeightsError, match=message):
        read_head(path)


def test_files_that_do_not_belong_together_are_refused(fit, tmp_path):
    path = tmp_path / "head.safetensors"
    write_head(fit("two"), path, version="0.4")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WrongWeightsError, match="is not the file that its card describes"):
        read_head(path)
    spoil(path)
    with pytest.raises(WrongWeightsError, match="is no safetensors file"):
        read_head(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(WrongWeightsError, match=r"head\.json is not JSON"):
        read_head(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(NoInputError, match=r"a head is a .safetensors file with a .json"):
        read_head(path)


def test_a_file_of_gigabytes_is_not_read(fit, tmp_path):
    path = tmp_path / "head.safetensors"
    write_head(fit("two"), path, version="0.4")
    with path.open("ab") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(WrongWeightsError, match="is larger than any head"):
        read_head(path)
