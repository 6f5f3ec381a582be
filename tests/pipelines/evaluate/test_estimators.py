"""Steps learn from the rows given and from no other; learners of classes; probabilities."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.feature_selection import f_classif, f_regression
from sklearn.linear_model import LogisticRegression

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.evaluate.calibrate import PRIOR_SD, decide, fit_calibration
from neurostorm_app.pipelines.evaluate.estimators import (
    Learner,
    NestedLearner,
    Standardise,
    View,
    apply_steps,
    fit_steps,
)
from neurostorm_app.pipelines.evaluate.logistic import Logistic
from neurostorm_app.pipelines.evaluate.ridge import Ridge
from neurostorm_app.pipelines.evaluate.selection import Select


def test_training_rows_are_standardised_and_others_by_the_same_numbers(make_people):
    people = make_people(30)
    train, test = np.arange(20), np.arange(20, 30)
    _, x_train, x_test = fit_steps(people, "demo", (Standardise(),), train=train, test=test)
    np.testing.assert_allclose(x_train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(x_train.std(axis=0), 1, atol=1e-12)
    raw = people.features["demo"].astype(np.float64)
    np.testing.assert_allclose(
        x_test, (raw[20:] - raw[:20].mean(axis=0)) / raw[:20].std(axis=0), atol=1e-12
    )
    assert x_train.dtype == x_test.dtype == np.float64


def test_a_constant_column_becomes_0_even_where_it_is_not_constant_elsewhere(make_people):
    people = make_people(30)
    x = people.features["demo"].copy()
    x[:20, 3] = 0.1  # its standard deviation is rounding errors, not 0
    people = replace(people, features={"demo": x})
    _, x_train, x_test = fit_steps(
        people, "demo", (Standardise(),), train=np.arange(20), test=np.arange(20, 30)
    )
    assert (x_train[:, 3] == 0).all()
    assert (x_test[:, 3] == 0).all()


def test_a_tiny_column_that_varies_is_kept(make_people):
    people = make_people(30)
    people = replace(people, features={"demo": people.features["demo"] * np.float32(1e-20)})
    rows = np.arange(30)
    _, x, _ = fit_steps(people, "demo", (Standardise(),), train=rows, test=rows[:0])
    np.testing.assert_allclose(x.std(axis=0), 1)


def test_the_columns_selected_are_those_of_the_f_test(make_people):
    rows = np.arange(40)
    for people, test in (
        (make_people(40, effect=1.0), f_regression),
        (make_people(40, effect=1.0, classes=("a", "b", "c")), f_classif),
    ):
        x = people.features["demo"].astype(np.float64)
        found = Select(n_best=5).fit(x, rows, people).columns
        best = np.sort(np.argsort(-test(x, people.target.values)[0])[:5])
        np.testing.assert_array_equal(found, best)


def test_a_constant_column_is_selected_last(make_people):
    people = make_people(40)
    x = people.features["demo"].astype(np.float64)
    x[:, 2] = 7
    assert 2 not in Select(n_best=11).fit(x, np.arange(40), people).columns
    assert Select(n_best=99).fit(x, np.arange(40), people).columns.size == 12


def test_steps_follow_one_another(make_people):
    people = make_people(30, effect=1.0)
    train, test = np.arange(20), np.arange(20, 30)
    steps = (Standardise(), Select(n_best=3))
    fitted, x_train, x_test = fit_steps(people, "demo", steps, train=train, test=test)
    assert x_train.shape == (20, 3)
    again = apply_steps(fitted, people.features["demo"][test], test, people)
    np.testing.assert_array_equal(again, x_test)


def test_a_view_refuses_a_group_on_both_sides(make_people):
    people = make_people(10, sessions=2)
    view = View(cohort=people, source="demo", steps=(), rows=np.arange(20))
    with pytest.raises(DataError, match="rows of 1 groups, 'sub-0002' among them, lie on both"):
        view.split(np.arange(5), np.arange(5, 9))


def test_an_unknown_source_is_named(make_people):
    people = make_people(10)
    with pytest.raises(UsageError, match="no features of 'brain'; it has") as found:
        fit_steps(people, "brain", (), train=np.arange(5), test=np.arange(5, 9))
    assert "demo" in str(found.value)


@pytest.mark.parametrize("learner", [Ridge(), Logistic()])
def test_our_learners_are_nested(learner):
    assert isinstance(learner, Learner)
    assert isinstance(learner, NestedLearner)


@pytest.mark.parametrize("dimension", [6, 90], ids=["few", "many"])
def test_logistic_is_scikit_learns_in_spite_of_the_rotation(rng, dimension):
    x = rng.standard_normal((50, dimension))
    classes = (x[:, 0] + rng.standard_normal(50) > 0.5).astype(int)
    found = Logistic().fit(x, classes[:, None].astype(float), np.arange(50), seed=0)
    theirs = LogisticRegression(
        C=1 / found.penalty, class_weight="balanced", tol=1e-9, max_iter=100_000
    ).fit(x, classes)
    x_new = rng.standard_normal((9, dimension))
    np.testing.assert_allclose(
        found.scores(x_new)[:, 0], theirs.decision_function(x_new), atol=2e-3
    )


def test_logistic_of_three_classes_has_a_score_for_each(rng):
    x = rng.standard_normal((150, 5))
    classes = np.digitize(x[:, 0] + 0.3 * rng.standard_normal(150), [-0.5, 0.5])
    found = Logistic().fit(x, np.eye(3)[classes], np.arange(150), seed=0)
    assert found.inner.shape == (150, 3)
    assert (found.inner.argmax(axis=1) == classes).mean() > 0.6


def test_logistic_goes_on_where_a_class_is_missing_from_an_inner_fold(rng):
    x = rng.standard_normal((12, 3))
    classes = np.array([0] * 5 + [1] * 6 + [2])
    found = Logistic().fit(x, np.eye(3)[classes], np.arange(12), seed=0)
    assert np.isfinite(found.inner).all()
    one = np.zeros((12, 1))
    one[3] = 1
    assert np.isfinite(Logistic().fit(x, one, np.arange(12), seed=0).inner).all()


def draw_scores(rng, n_classes, n=3000):
    classes = rng.choice(n_classes, n, p=np.linspace(1, 2, n_classes) / (1.5 * n_classes))
    return 0.8 * np.eye(n_classes)[classes] + rng.standard_normal((n, n_classes)), classes


def test_probabilities_of_two_classes_are_platts(rng):
    scores, classes = draw_scores(rng, 2)
    score = 7 * (scores[:, [1]] - scores[:, [0]])
    found = fit_calibration(score, classes, 2).probabilities(score)
    theirs = LogisticRegression(C=1e8, tol=1e-10).fit(score, classes).predict_proba(score)
    np.testing.assert_allclose(found, theirs, atol=1e-3)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_probabilities_are_calibrated_at_the_prevalence(rng, n_classes):
    scores, classes = draw_scores(rng, n_classes)
    column = scores if n_classes > 2 else scores[:, [1]]
    curve = fit_calibration(column, classes, n_classes)
    p = curve.probabilities(column)
    told = np.eye(n_classes)[classes]
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_allclose(p.mean(axis=0), told.mean(axis=0), atol=1e-5)
    new_scores, new = draw_scores(np.random.default_rng(5), n_classes)
    p = curve.probabilities(new_scores if n_classes > 2 else new_scores[:, [1]])
    for c in range(n_classes):
        for some in np.array_split(np.argsort(p[:, c]), 5):
            assert p[some, c].mean() == pytest.approx((new[some] == c).mean(), abs=0.06)


def test_scores_that_point_the_wrong_way_give_the_prevalences(rng):
    scores, classes = draw_scores(rng, 3)
    curve = fit_calibration(-scores, classes, 3)
    assert curve.slope == 0
    np.testing.assert_allclose(
        curve.probabilities(scores), np.tile(np.bincount(classes) / 3000, (3000, 1))
    )


@pytest.mark.parametrize("scores", [np.zeros((10, 1)), np.full((10, 1), 3.7)])
def test_scores_that_are_all_the_same_give_the_prevalences(scores):
    curve = fit_calibration(scores, np.array([0] * 7 + [1] * 3), 2)
    np.testing.assert_allclose(curve.probabilities(scores), np.tile([0.7, 0.3], (10, 1)))


def test_classes_told_apart_without_an_error_give_finite_probabilities():
    scores = np.r_[np.zeros(6), np.ones(6)][:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = fit_calibration(scores, np.repeat([0, 1], 6), 2).probabilities(scores)
    assert 0.5 < p[-1, 1] < 1
    standard = scores / scores.std()  # the prior is that of a penalty on the slope
    theirs = LogisticRegression(C=PRIOR_SD**2, tol=1e-10).fit(standard, np.repeat([0, 1], 6))
    np.testing.assert_allclose(p, theirs.predict_proba(standard), atol=1e-4)


def test_the_rare_class_is_chosen_where_it_is_above_its_prevalence():
    p = np.array([[0.85, 0.15], [0.95, 0.05], [0.9, 0.1]])
    assert decide(p, np.array([0.9, 0.1])).tolist() == [1, 0, 0]
