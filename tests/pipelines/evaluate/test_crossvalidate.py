"""Nothing of a held-out group reaches what predicts it, and naive ways would look far better."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Theirs
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurostorm_app.pipelines.evaluate.cohort import Design
from neurostorm_app.pipelines.evaluate.crossvalidate import evaluate, evaluate_baseline
from neurostorm_app.pipelines.evaluate.estimators import Standardise
from neurostorm_app.pipelines.evaluate.folds import derived_seed, inner_folds, outer_folds
from neurostorm_app.pipelines.evaluate.nested import Recipe, indicators, out_of_fold_scores
from neurostorm_app.pipelines.evaluate.ridge import FACTORS, Ridge
from neurostorm_app.pipelines.evaluate.selection import Select

QUICK = Design(n_repeats=1, n_permutations=0, n_bootstraps=100)


@dataclass
class Spy:
    """A step that changes nothing and remembers what it was fitted on and applied to."""

    name: str = "spy"
    fits: list[FittedSpy] = field(default_factory=list)

    def fit(self, x, rows, cohort):
        np.testing.assert_array_equal(x, cohort.features["demo"][rows])
        self.fits.append(FittedSpy(fitted=rows.copy()))
        return self.fits[-1]


@dataclass
class FittedSpy:
    fitted: np.ndarray
    applied: list[np.ndarray] = field(default_factory=list)

    def apply(self, x, rows, cohort):
        np.testing.assert_array_equal(x, cohort.features["demo"][rows])
        if not np.array_equal(rows, self.fitted):
            self.applied.append(rows.copy())
        return x


@dataclass
class SpyLearner:
    """A learner that reads row numbers off the features; not a nested one."""

    name: str = "spy"
    permutable: bool = True
    seen: list[tuple[set[int], set[int]]] = field(default_factory=list)

    def fit(self, x, y, groups, *, seed):
        assert len(x) == len(y) == len(groups)
        rows, seen = set(x[:, 0].astype(int)), self.seen

        class Fitted:
            inner = np.zeros_like(y)

            def scores(self, x):
                seen.append((rows, set(x[:, 0].astype(int))))
                return np.zeros((len(x), y.shape[1]))

        return Fitted()


def groups_of(people, rows) -> set[str]:
    return {people.groups[row] for row in rows}


@pytest.mark.parametrize("classes", [(), ("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("group", [None, lambda p: f"family-{p // 3}"], ids=["people", "families"])
def test_no_step_is_fitted_on_a_row_of_a_group_it_is_applied_to(make_people, classes, group):
    people = make_people(36, classes=classes, sessions=2, group=group)
    spy = Spy()
    evaluate(people, "demo", replace(QUICK, n_permutations=3, n_folds=3), steps=(spy,))
    (numbers,) = outer_folds(people, replace(QUICK, n_folds=3)).numbers
    outer = [frozenset(np.flatnonzero(numbers != fold)) for fold in range(3)]
    held_out = set()
    for fit in spy.fits:
        inside = groups_of(people, fit.fitted)
        for rows in fit.applied:
            assert not inside & groups_of(people, rows)
            if frozenset(fit.fitted) in outer:
                held_out |= set(rows)
    assert held_out == set(range(72))  # every row was predicted by the outer level
    sizes = {fit.fitted.size for fit in spy.fits}
    assert min(sizes) < min(map(len, outer))  # and steps were fitted anew at the inner level


def test_inner_fits_stay_within_the_training_rows_of_one_outer_fold(make_people):
    people, spy = make_people(40, sessions=2), Spy()
    recipe = Recipe(source="demo", steps=(spy,), learner=Ridge())
    (numbers,) = outer_folds(people, QUICK).numbers
    y = indicators(people.target)
    out_of_fold_scores(people, recipe, y, numbers=numbers, seed=0)
    outer = [set(np.flatnonzero(numbers != fold)) for fold in range(5)]
    inner = [fit for fit in spy.fits if set(fit.fitted) not in outer]
    assert len(inner) == 25
    for number, fit in enumerate(inner):
        train = outer[number // 5]
        (rows,) = fit.applied
        assert set(fit.fitted) | set(rows) == train
        assert not groups_of(people, fit.fitted) & groups_of(people, rows)


def test_no_learner_meets_a_row_of_a_group_it_predicts(make_people):
    people = make_people(40, sessions=2, group=lambda p: f"family-{p // 2}")
    x = np.random.default_rng(0).standard_normal((80, 5)).astype(np.float32)
    x[:, 0] = np.arange(80)
    people, spy = replace(people, features={"demo": x}), SpyLearner()
    found = evaluate(people, "demo", replace(QUICK, n_permutations=2), learner=spy)
    assert spy.seen
    for rows, predicted in spy.seen:
        assert not groups_of(people, rows) & groups_of(people, predicted)
    assert found.learner == "spy"


@pytest.mark.parametrize("classes", [(), ("a", "b")])
def test_held_out_values_do_not_move_their_own_scores(make_people, classes, rng):
    people = make_people(40, effect=1.0, classes=classes)
    (numbers,) = outer_folds(people, QUICK).numbers
    learner = Ridge(coding="fisher" if classes else "plain")
    recipe = Recipe(source="demo", steps=(Standardise(),), learner=learner)
    y, held = indicators(people.target), numbers == 2
    before, _ = out_of_fold_scores(people, recipe, y, numbers=numbers, seed=0)
    lies = y.copy()
    lies[held] = 1 - lies[held]
    after, _ = out_of_fold_scores(people, recipe, lies, numbers=numbers, seed=0)
    np.testing.assert_array_equal(after[held], before[held])
    assert not np.allclose(after[~held], before[~held])


def test_held_out_features_do_not_move_the_scores_of_others(make_people):
    people = make_people(40, effect=1.0)
    (numbers,) = outer_folds(people, QUICK).numbers
    recipe = Recipe(source="demo", steps=(Standardise(),), learner=Ridge())
    y, held = indicators(people.target), np.flatnonzero(numbers == 2)
    before, _ = out_of_fold_scores(people, recipe, y, numbers=numbers, seed=0)
    x = people.features["demo"].copy()
    x[held[0]] *= 50
    moved = replace(people, features={"demo": x})
    after, _ = out_of_fold_scores(moved, recipe, y, numbers=numbers, seed=0)
    np.testing.assert_array_equal(after[held[1:]], before[held[1:]])
    assert after[held[0]] != before[held[0]]


def test_two_rows_of_a_participant_with_the_same_features_are_no_help(make_people):
    naive, ours, n = [], [], 40
    twice = np.repeat(np.arange(n), 2)
    for seed in range(5):
        once = make_people(n, 200, seed=seed)  # pure noise
        people = replace(
            make_people(n, 200, sessions=2, seed=seed),
            features={"demo": once.features["demo"][twice]},
            target=replace(once.target, values=once.target.values[twice]),
        )
        x, y = people.features["demo"].astype(np.float64), people.target.values
        torn = cross_val_predict(Theirs(1e-3), x, y, cv=KFold(10, shuffle=True, random_state=0))
        naive.append(1 - ((y - torn) ** 2).sum() / ((y - y.mean()) ** 2).sum())
        found = evaluate(people, "demo", QUICK, learner=Ridge(factors=(1e-6, 1e-3)))
        ours.append(found.metrics["r2"].value)
    assert np.mean(naive) > 0.6  # it knew the people
    assert np.mean(ours) < 0.05


def test_selection_outside_the_folds_would_find_what_is_not_there(make_people):
    people = make_people(50, dimension=2000, classes=("a", "b"))  # pure noise
    x, y = people.features["demo"].astype(np.float64), people.target.values
    chosen = Select(n_best=10).fit(x, np.arange(50), people).columns  # saw every row
    naive = cross_val_predict(
        Theirs(1.0), x[:, chosen], y.astype(float), cv=KFold(5, shuffle=True, random_state=0)
    )
    assert roc_auc_score(y, naive) > 0.85
    steps = (Standardise(), Select(n_best=10))
    ours = [
        evaluate(people, "demo", replace(QUICK, seed=seed), steps=steps).metrics["auroc"].value
        for seed in range(5)
    ]
    assert 0.3 < np.mean(ours) < 0.65


def test_the_whole_equals_nested_scikit_learn(make_people):
    people = make_people(45, effect=1.5, sessions=2)
    design = replace(QUICK, n_repeats=2, n_folds=3, seed=7)
    found = evaluate(people, "demo", design, steps=(Standardise(),))
    x, y = people.features["demo"].astype(np.float64), people.target.values
    groups = np.repeat(np.arange(45), 2)
    told = np.zeros(90)
    for repeat, numbers in enumerate(outer_folds(people, design).numbers):
        for fold in range(3):
            train, test = np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)
            seed = derived_seed(derived_seed(7, repeat, 5), fold)
            inner = inner_folds(y[train, None], groups[train], 3, seed=seed)
            search = GridSearchCV(
                make_pipeline(StandardScaler(), Theirs()),
                {"ridge__alpha": [12 * factor for factor in FACTORS]},
                cv=PredefinedSplit(inner),
                scoring=lambda m, x, y: -float(((m.predict(x) - y) ** 2).sum()),
            ).fit(x[train], y[train])
            told[test] += search.predict(x[test]) / 2
    np.testing.assert_allclose(found.predicted, told, atol=1e-6)


@pytest.mark.parametrize("classifier", ["ridge", "logistic"])
def test_a_planted_difference_of_classes_is_found(make_people, classifier):
    people = make_people(80, effect=4.0, classes=("a", "b"))
    design = Design(n_repeats=2, n_permutations=99, n_bootstraps=300, classifier=classifier)
    found = evaluate(people, "demo", design, steps=(Standardise(),))
    assert list(found.metrics) == ["auroc", "balanced_accuracy", "brier"]
    assert found.metrics["auroc"].low > 0.8
    assert found.metrics["balanced_accuracy"].low > 0.7
    assert found.metrics["brier"].high < 0.25
    assert found.learner == classifier
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    if classifier == "ridge":
        assert found.p_value == pytest.approx(0.01)
        assert found.null.shape == (99,)
    else:
        assert found.p_value is None
        assert "no permutation test with logistic: it would take hours" in found.notes


def test_a_planted_trend_is_found(make_people):
    people = make_people(80, effect=2.0)
    found = evaluate(people, "demo", replace(QUICK, n_permutations=99), steps=(Standardise(),))
    assert found.metrics["r2"].low > 0.4
    assert found.metrics["r"].low > 0.6
    assert found.p_value == pytest.approx(0.01)
    assert (found.lower < found.upper).all()
    assert found.coverage > 0.8
    assert found.width == pytest.approx((found.upper - found.lower).mean())


def test_a_rare_class_is_not_given_up(make_people):
    people = make_people(100, effect=4.0, classes=("a", "b"))
    values = (np.argsort(np.argsort(people.features["demo"][:, 0])) >= 88).astype(np.int64)
    people = replace(people, target=replace(people.target, values=values))
    found = evaluate(people, "demo", QUICK, steps=(Standardise(),))
    assert found.metrics["balanced_accuracy"].value > 0.85
    assert found.probabilities[:, 1].mean() == pytest.approx(0.12, abs=0.04)


def test_the_same_seed_gives_the_same_numbers(make_people):
    people = make_people(30, effect=1.0)
    design = replace(QUICK, n_permutations=20)
    one, same = (evaluate(people, "demo", design) for _ in range(2))
    np.testing.assert_array_equal(one.predicted, same.predicted)
    np.testing.assert_array_equal(one.lower, same.lower)
    assert (one.metrics, one.p_value) == (same.metrics, same.p_value)
    other = evaluate(people, "demo", replace(design, seed=1))
    assert not np.array_equal(one.predicted, other.predicted)


def test_a_learner_that_does_not_fit_steps_in_its_folds_is_noted(make_people):
    found = evaluate(make_people(30), "demo", QUICK, steps=(Standardise(),), learner=SpyLearner())
    assert any("steps were fitted once on the training rows" in note for note in found.notes)


def test_the_baseline_is_the_training_mean(make_people):
    people = make_people(30)
    found = evaluate_baseline(people, QUICK)
    (numbers,) = outer_folds(people, QUICK).numbers
    values = people.target.values
    expected = [values[numbers != numbers[row]].mean() for row in range(30)]
    np.testing.assert_allclose(found.predicted, expected)
    assert found.metrics["r2"].value == found.metrics["r"].value == 0
    assert (found.source, found.learner, found.p_value) == ("baseline", "mean", None)


def test_the_baseline_of_classes_is_the_most_frequent_one(make_people):
    people = make_people(40, classes=("a", "b"))
    values = (np.arange(40) < 26).astype(np.int64)
    people = replace(people, target=replace(people.target, values=values))
    found = evaluate_baseline(people, QUICK)
    assert (found.predicted == 1).all()
    assert found.learner == "majority"
    assert found.metrics["auroc"].value == found.metrics["balanced_accuracy"].value == 0.5
    assert found.metrics["brier"].value == pytest.approx(0.65 * 0.35, abs=0.01)
