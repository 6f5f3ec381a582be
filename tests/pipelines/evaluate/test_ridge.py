"""The ridge of many targets is scikit-learn's ridge of each, penalty and all."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Theirs
from sklearn.model_selection import GridSearchCV, GroupKFold, PredefinedSplit, cross_val_predict

from neurostorm_app.pipelines.evaluate.folds import inner_folds
from neurostorm_app.pipelines.evaluate.ridge import Ridge


def squares(estimator, x, y):
    """Score by the summed squared error, so that folds of any size add up."""
    return -float(((estimator.predict(x) - y) ** 2).sum())


def draw(rng, n, dimension, n_targets):
    x = rng.standard_normal((n, dimension)) * rng.uniform(0.1, 3, dimension) + 5
    effects = np.linspace(0, 3, n_targets)
    y = effects * x[:, :1] + 3 * rng.standard_normal((n, n_targets)) + 100
    return x, y, np.repeat(np.arange(n // 2), 2)


@pytest.mark.parametrize("dimension", [7, 150], ids=["primal", "dual"])
def test_it_equals_grid_search_over_grouped_folds(rng, dimension):
    x, y, groups = draw(rng, 60, dimension, 5)
    x_new = rng.standard_normal((11, dimension)) + 5
    ridge = Ridge(n_folds=4)
    found = ridge.fit(x, y, groups, seed=3)
    numbers = inner_folds(y, groups, 4, seed=3)
    unit = ((x - x.mean(axis=0)) ** 2).sum() / len(x)
    search = GridSearchCV(
        Theirs(),
        {"alpha": [unit * factor for factor in ridge.factors]},
        cv=PredefinedSplit(numbers),
        scoring=squares,
    )
    for k in range(y.shape[1]):
        search.fit(x, y[:, k])
        best = search.best_estimator_
        assert found.penalties[k] == pytest.approx(best.alpha, rel=1e-9)
        np.testing.assert_allclose(found.scores(x_new)[:, k], best.predict(x_new), atol=1e-6)
        np.testing.assert_allclose(found.weights[:, k], best.coef_, atol=1e-6)
        out_of_fold = cross_val_predict(Theirs(best.alpha), x, y[:, k], cv=PredefinedSplit(numbers))
        np.testing.assert_allclose(found.inner[:, k], out_of_fold, atol=1e-6)
    assert np.unique(found.penalties).size > 1  # each target has its own


@pytest.mark.parametrize("dimension", [9, 130], ids=["primal", "dual"])
def test_nested_it_equals_nested_scikit_learn(rng, dimension, monkeypatch):
    x, y, groups = draw(rng, 60, dimension, 2)

    def as_theirs(y, groups, n_folds, *, seed):
        numbers = np.empty(len(y), dtype=np.int64)
        for fold, (_, held) in enumerate(GroupKFold(n_folds).split(y, groups=groups)):
            numbers[held] = fold
        return numbers

    monkeypatch.setattr("neurostorm_app.pipelines.evaluate.ridge.inner_folds", as_theirs)
    for train, test in GroupKFold(3).split(x, groups=groups):
        ours = Ridge().fit(x[train], y[train], groups[train], seed=0).scores(x[test])
        unit = ((x[train] - x[train].mean(axis=0)) ** 2).sum() / len(train)
        search = GridSearchCV(
            Theirs(),
            {"alpha": [unit * factor for factor in Ridge().factors]},
            cv=GroupKFold(5),
            scoring=squares,
        )
        for k in range(2):
            search.fit(x[train], y[train, k], groups=groups[train])
            np.testing.assert_allclose(ours[:, k], search.predict(x[test]), atol=1e-6)


def test_many_targets_are_each_fitted_as_if_alone(rng):
    x, y, groups = draw(rng, 40, 60, 150)  # more targets than a block
    together = Ridge().fit(x, y, groups, seed=1)
    for k in (0, 63, 64, 149):
        alone = Ridge().fit(x, y[:, [k]], groups, seed=1)
        np.testing.assert_allclose(together.scores(x)[:, k], alone.scores(x)[:, 0], atol=1e-9)
        assert together.penalties[k] == pytest.approx(alone.penalties[0])


@pytest.mark.parametrize("coding", ["plain", "fisher"])
def test_the_intercept_bears_no_penalty(rng, coding):
    x, y, groups = draw(rng, 40, 10, 3)
    if coding == "fisher":
        y = (y > np.median(y, axis=0)).astype(float)
    one = Ridge(coding=coding).fit(x, y, groups, seed=0)
    far = Ridge(coding=coding).fit(x + 1000, y, groups, seed=0)
    np.testing.assert_allclose(one.scores(x), far.scores(x + 1000), atol=1e-6)


def test_a_huge_penalty_leaves_the_training_mean(rng):
    x, y, groups = draw(rng, 40, 10, 3)
    found = Ridge(factors=(1e12,)).fit(x, y, groups, seed=0)
    np.testing.assert_allclose(found.scores(x), np.tile(y.mean(axis=0), (40, 1)), atol=1e-6)


def test_fisher_coding_is_the_plain_ridge_of_indicators_scaled(rng):
    x, y, groups = draw(rng, 50, 8, 1)
    y = (y > np.quantile(y, 0.8)).astype(float)
    plain, fisher = (Ridge(coding=c).fit(x, y, groups, seed=2) for c in ("plain", "fisher"))
    p = y.mean()
    assert fisher.penalties == pytest.approx(plain.penalties)
    np.testing.assert_allclose(fisher.scores(x), (plain.scores(x) - p) / (p * (1 - p)), atol=1e-9)


def test_more_of_one_class_does_not_turn_the_direction(rng):
    one = rng.standard_normal((400, 3)) + np.array([1, 0, 0])
    other = rng.standard_normal((400, 3))
    few = slice(None, 60)

    def direction(positive, negative):
        x = np.vstack([positive, negative])
        y = np.r_[np.ones(len(positive)), np.zeros(len(negative))][:, None]
        ridge = Ridge(coding="fisher", factors=(1e-6,))
        weights = ridge.fit(x, y, np.arange(len(x)), seed=0).weights[:, 0]
        return weights / np.linalg.norm(weights)

    assert direction(one, other) @ direction(one[few], other) > 0.97
    x = np.vstack([one[few], other])
    y = np.r_[np.ones(60), np.zeros(400)][:, None]
    scores = Ridge(coding="fisher").fit(x, y, np.arange(460), seed=0).scores(x)
    assert scores.mean() == pytest.approx(0, abs=1e-9)


def test_a_column_without_both_classes_scores_0(rng):
    x = rng.standard_normal((20, 4))
    y = np.zeros((20, 2))
    y[:10, 0] = 1
    found = Ridge(coding="fisher").fit(x, y, np.arange(20), seed=0)
    assert (found.scores(x)[:, 1] == 0).all()
    assert np.isfinite(found.scores(x)).all()
    assert np.ptp(found.scores(x)[:, 0]) > 0


@pytest.mark.parametrize("dimension", [3, 40])
def test_features_that_are_all_the_same_tell_the_mean(dimension):
    y = np.arange(20.0)[:, None]
    found = Ridge().fit(np.ones((20, dimension)), y, np.arange(20), seed=0)
    np.testing.assert_allclose(found.scores(np.ones((2, dimension))), 9.5)


def test_columns_that_depend_on_each_other_do_no_harm(rng):
    x, y, groups = draw(rng, 40, 5, 2)
    doubled = Ridge().fit(np.hstack([x, x]), y, groups, seed=0)
    np.testing.assert_allclose(
        doubled.scores(np.hstack([x, x])), Ridge().fit(x, y, groups, seed=0).scores(x), atol=1e-6
    )
