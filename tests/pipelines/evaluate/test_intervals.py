"""Metrics under many weightings, and how far they move with other people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.evaluate.cohort import Design, Evaluation
from neurostorm_app.pipelines.evaluate.intervals import (
    difference_interval,
    iter_draws,
    metric_intervals,
)
from neurostorm_app.pipelines.evaluate.metrics import auroc, measure, primary_metric


def told(people, rng, *, noise=1.0, source="demo") -> Evaluation:
    """Make predictions of a cohort that are off by some noise."""
    values, n = people.target.values, people.n_rows
    common = {"source": source, "learner": "ridge", "n_rows": n, "n_participants": n, "n_groups": n}
    if people.target.kind == "value":
        predicted = values + noise * rng.standard_normal(n)
        return Evaluation(**common, predicted=predicted, reference=np.full(n, values.mean()))
    n_classes = len(people.target.classes)
    logits = np.eye(n_classes)[values] + noise * rng.standard_normal((n, n_classes))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Evaluation(
        **common,
        predicted=p.argmax(axis=1).astype(np.float64),
        probabilities=p,
        reference=np.tile(np.bincount(values) / n, (n, 1)),
    )


def test_metrics_of_a_value_are_scikit_learns(make_people, rng):
    people = make_people(50)
    values, found = people.target.values, told(people, rng)
    metrics = {name: float(v[0]) for name, v in measure(people.target, found).items()}
    assert list(metrics) == ["r2", "r", "mae"]
    assert metrics["r2"] == pytest.approx(r2_score(values, found.predicted))
    assert metrics["r"] == pytest.approx(np.corrcoef(values, found.predicted)[0, 1])
    assert metrics["mae"] == pytest.approx(mean_absolute_error(values, found.predicted))


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c")])
def test_metrics_of_classes_are_scikit_learns(make_people, rng, classes):
    people = make_people(60, classes=classes)
    values, found = people.target.values, told(people, rng)
    metrics = {name: float(v[0]) for name, v in measure(people.target, found).items()}
    p = found.probabilities
    two = len(classes) == 2
    theirs = roc_auc_score(values, p[:, 1] if two else p, multi_class="ovr")
    assert metrics["auroc"] == pytest.approx(theirs)
    assert metrics["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(values, found.predicted)
    )
    assert metrics["brier"] == pytest.approx(brier_score_loss(values, p[:, 1] if two else p))


@pytest.mark.parametrize("classes", [(), ("a", "b"), ("a", "b", "c")])
def test_a_row_that_counts_twice_is_a_row_that_occurs_twice(make_people, rng, classes):
    people = make_people(40, classes=classes)
    found = told(people, rng)
    counts = rng.integers(0, 4, (3, 40)).astype(float)
    weighted = measure(people.target, found, counts)
    for b in range(3):
        rows = np.repeat(np.arange(40), counts[b].astype(int))
        drawn = replace(
            found,
            predicted=found.predicted[rows],
            reference=found.reference[rows],
            probabilities=None if not classes else found.probabilities[rows],
        )
        target = replace(people.target, values=people.target.values[rows])
        for name, value in measure(target, drawn).items():
            assert weighted[name][b] == pytest.approx(value[0]), name


def test_ties_count_half(rng):
    scores, positive = rng.integers(0, 4, 80).astype(float), rng.random(80) < 0.4
    found = auroc(scores, positive, np.ones((1, 80)))[0]
    assert found == pytest.approx(roc_auc_score(positive, scores))


def test_predictions_that_say_nothing_are_worth_nothing(make_people, rng):
    people = make_people(40)
    reference = rng.standard_normal(40)  # differs between folds, against the values held out
    found = replace(told(people, rng), predicted=reference, reference=reference)
    metrics = measure(people.target, found)
    assert metrics["r2"][0] == metrics["r"][0] == 0
    people = make_people(40, classes=("a", "b"))
    p = np.where(people.target.values == 1, 0.45, 0.55)
    reference = np.column_stack([1 - p, p])
    found = replace(told(people, rng), probabilities=reference, reference=reference)
    assert measure(people.target, found)["auroc"][0] == 0.5


def test_classes_without_probabilities_are_refused(make_people, rng):
    people = make_people(40, classes=("a", "b"))
    with pytest.raises(UsageError, match="has no probabilities of dx"):
        measure(people.target, replace(told(people, rng), probabilities=None))


def test_an_interval_is_that_of_people_drawn_one_by_one(make_people, rng):
    people = make_people(60)
    found = told(people, rng)
    intervals, _ = metric_intervals(people, found, Design(n_bootstraps=4000))
    drawn = []
    for _ in range(4000):
        rows = rng.integers(0, 60, 60)
        drawn.append(np.abs(people.target.values - found.predicted)[rows].mean())
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert intervals["mae"].low == pytest.approx(low, abs=0.02)
    assert intervals["mae"].high == pytest.approx(high, abs=0.02)
    assert intervals["mae"].low < intervals["mae"].value < intervals["mae"].high


def test_intervals_hold_what_they_promise_of_other_people(make_people):
    inside = 0
    for seed in range(150):
        people, rng = make_people(80, seed=seed), np.random.default_rng(1000 + seed)
        found = told(people, rng, noise=0.5)
        truth = 0.5 * np.sqrt(2 / np.pi)  # the mean of |N(0, 0.5)|
        mae = metric_intervals(people, found, Design(n_bootstraps=200))[0]["mae"]
        inside += mae.low <= truth <= mae.high
    assert 0.82 <= inside / 150 <= 0.96


def test_rows_of_a_group_are_drawn_together(make_people):
    people = make_people(40, sessions=3, group=lambda p: f"family-{p // 2}")
    weights = np.vstack([w for w, _ in iter_draws(people, Design(n_bootstraps=100))])
    assert weights.shape == (100, 120)
    assert (weights.reshape(100, 20, 6) == weights.reshape(100, 20, 6)[:, :, :1]).all()
    assert (weights.sum(axis=1) == 120).all()
    assert not (weights == 1).all()


def test_few_groups_are_not_drawn_but_people_are_and_this_is_noted(make_people, rng):
    people = make_people(40, group=lambda p: f"site-{p % 4}")
    found = told(people, rng)
    _, notes = metric_intervals(people, found, Design(n_bootstraps=100))
    assert any("there are only 4 groups" in note for note in notes)
    weights = next(iter_draws(people, Design(n_bootstraps=100)))[0]
    assert np.unique(weights[0].reshape(10, 4), axis=0).shape[0] > 1


def test_draws_without_a_class_are_drawn_again_and_counted(make_people, rng):
    people = make_people(40, classes=("a", "b"))
    values = np.zeros(40, dtype=np.int64)
    values[:5] = 1
    people = replace(people, target=replace(people.target, values=values))
    design = Design(n_bootstraps=2000)
    drawn = list(iter_draws(people, design))
    weights = np.vstack([w for w, _ in drawn])
    assert len(weights) == 2000
    assert (weights[:, :5].sum(axis=1) > 0).all()
    again = sum(n for _, n in drawn)
    assert 2 <= again <= 30  # (35/40)^40 of 2000 are 10
    intervals, notes = metric_intervals(people, told(people, rng), design)
    assert any(f"{again} bootstrap draws lacked a class" in note for note in notes)
    assert all(np.isfinite([i.value, i.low, i.high]).all() for i in intervals.values())


def test_large_cohorts_are_drawn_in_blocks(make_people, rng, monkeypatch):
    people = make_people(40)
    whole, _ = metric_intervals(people, told(people, rng), Design(n_bootstraps=300))
    monkeypatch.setattr("neurostorm_app.pipelines.evaluate.intervals.BLOCK", 40 * 32)
    drawn = list(iter_draws(people, Design(n_bootstraps=300)))
    assert max(len(w) for w, _ in drawn) == 32
    assert sum(len(w) for w, _ in drawn) == 300
    assert whole["r2"].low < whole["r2"].high


def test_a_source_does_not_differ_from_itself(make_people, rng):
    people = make_people(40, classes=("a", "b"))
    found = told(people, rng)
    difference = difference_interval(people, found, found, Design(n_bootstraps=100))
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_a_better_source_is_better_by_the_difference_of_the_metrics(make_people, rng):
    people = make_people(80)
    good, bad = told(people, rng, noise=0.3), told(people, rng, noise=1.0)
    design = Design(n_bootstraps=500)
    found = difference_interval(people, good, bad, design)
    assert primary_metric(people.target) == "r2"
    one, other = (metric_intervals(people, e, design)[0]["r2"] for e in (good, bad))
    assert found.value == pytest.approx(one.value - other.value)
    assert found.low > 0
    turned = difference_interval(people, bad, good, design)
    assert turned.low == pytest.approx(-found.high)


def test_pairing_makes_the_interval_of_like_sources_narrow(make_people, rng):
    people = make_people(80)
    one = told(people, rng)
    other = replace(one, predicted=one.predicted + 0.05 * rng.standard_normal(80))
    design = Design(n_bootstraps=500)
    alone = metric_intervals(people, one, design)[0]["r2"]
    found = difference_interval(people, one, other, design)
    assert found.high - found.low < 0.3 * (alone.high - alone.low)
