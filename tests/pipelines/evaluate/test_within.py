"""Sessions of one person are compared with each other, and with nobody else's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Confound, Design, Target
from neurostorm_app.pipelines.evaluate.compare import compare
from neurostorm_app.pipelines.evaluate.crossvalidate import evaluate
from neurostorm_app.pipelines.evaluate.deconfound import Deconfound
from neurostorm_app.pipelines.evaluate.estimators import Standardise
from neurostorm_app.pipelines.evaluate.rearrange import level_of
from neurostorm_app.pipelines.evaluate.within import WithinPeople

DESIGN = Design(n_repeats=2, n_permutations=99, n_bootstraps=200, seed=1)


def crossover(effect, *, seed=0, n=14):
    """People differ by 5; what a session gave differs by `effect` in one of 30 directions."""
    rng = np.random.default_rng(seed)
    drug = np.tile([0, 1], n)
    own = np.repeat(rng.normal(size=(n, 30)) * 5, 2, axis=0)
    x = own + rng.normal(size=(2 * n, 30)) * 0.5
    x[:, 4] += effect * drug
    people = tuple(f"sub-{i:02d}" for i in range(n) for _ in range(2))
    return Cohort(
        rows=tuple(f"{who}_ses-{s + 1}" for who, s in zip(people, drug, strict=True)),
        participants=people,
        groups=people,
        features={"model": x.astype(np.float32)},
        target=Target(name="given", kind="classes", values=drug, classes=("placebo", "drug")),
    )


def test_a_person_without_others_is_centred_on_its_own_mean():
    cohort = crossover(1.0)
    rows = np.array([3, 2, 9])
    x = cohort.features["model"][rows].astype(np.float64)
    out = WithinPeople().fit(x, rows, cohort).apply(x, rows, cohort)
    np.testing.assert_allclose(out[0], (x[0] - x[1]) / 2, atol=1e-9)
    np.testing.assert_allclose(out[2], 0, atol=1e-12)


def test_what_differs_within_people_is_found_only_where_people_are_taken_off():
    cohort, steps = crossover(2.0, n=24), (WithinPeople(), Standardise())
    raw = evaluate(cohort, "model", DESIGN, steps=(Standardise(),))
    centred = evaluate(cohort, "model", DESIGN, steps=steps)
    assert centred.metrics["auroc"].value > 0.9 > raw.metrics["auroc"].value + 0.1
    assert centred.p_value <= 0.05


def test_centring_makes_nothing_out_of_nothing():
    steps = (WithinPeople(), Standardise())
    p = [
        evaluate(crossover(0.0, seed=seed), "model", DESIGN, steps=steps).p_value
        for seed in range(12)
    ]
    assert np.mean(np.asarray(p) <= 0.1) < 0.4
    assert 0.2 < np.mean(p) < 0.8


def moved_by_drug(seed, *, sessions=2, n=20):
    """People move by 2, a drug adds 0.5, and all that embeddings know of the drug is motion."""
    rng = np.random.default_rng(seed)
    drug = np.tile(np.arange(sessions) % 2, n)
    motion = np.repeat(2 * rng.normal(size=n), sessions) + 0.5 * drug
    motion += 0.2 * rng.normal(size=drug.size)
    x = np.repeat(3 * rng.normal(size=(n, 20)), sessions, axis=0)
    x += 0.3 * rng.normal(size=x.shape)
    x[:, :4] += 1.5 * motion[:, None]
    people = tuple(f"sub-{i:02d}" for i in range(n) for _ in range(sessions))
    ages = np.repeat(rng.uniform(20, 80, n), sessions)
    return Cohort(
        rows=tuple(f"{who}_ses-{i % sessions}" for i, who in enumerate(people)),
        participants=people,
        groups=people,
        features={"model": x.astype(np.float32)},
        target=Target(name="given", kind="classes", values=drug, classes=("placebo", "drug")),
        confounds={
            "motion": Confound(name="motion", values=motion),
            "age": Confound(name="age", values=ages),
        },
    )


@pytest.mark.parametrize("seed", range(3))
def test_motion_from_session_to_session_is_taken_off_though_people_differ_more(seed):
    found = compare(moved_by_drug(seed), DESIGN)
    assert found.evaluations["model"].metrics["auroc"].value > 0.8
    assert found.evaluations["confounds-motion"].metrics["auroc"].value > 0.8
    assert found.adjusted["model"].p_value > 0.05
    assert found.verdicts["model"].effect == "confounded"


def test_what_does_not_change_within_people_is_no_column_of_rounding_errors():
    cohort, rows = moved_by_drug(0, sessions=3), np.arange(60)
    age = cohort.confounds["age"].values[:, None] / 7
    assert not WithinPeople().apply(age, rows, cohort).any()
    x = WithinPeople().apply(cohort.features["model"].astype(np.float64), rows, cohort)
    off = Deconfound(names=("age",), within=True).fit(x, rows, cohort)
    np.testing.assert_array_equal(off.apply(x, rows, cohort), x)


def test_as_many_covariates_as_sessions_leave_nothing():
    cohort, rows = moved_by_drug(0), np.arange(40)
    labels = tuple(f"day{(row // 2 + 1) * (row % 2)}" for row in rows)
    cohort = replace(cohort, confounds={"day": Confound(name="day", values=labels)})
    x = WithinPeople().apply(cohort.features["model"].astype(np.float64), rows, cohort)
    with pytest.raises(DataError, match="independent columns for 40 training rows; nothing"):
        Deconfound(names=("day",), within=True).fit(x, rows, cohort)


def runs_of_tasks(seed, n=16):
    """People did two tasks, each as often as chance had it, and no task tells anything."""
    rng = np.random.default_rng(seed)
    tasks = [[0, 1, *rng.integers(0, 2, rng.integers(0, 4))] for _ in range(n)]
    people = tuple(f"sub-{i:02d}" for i, done in enumerate(tasks) for _ in done)
    own = np.repeat(rng.normal(size=(n, 6)) * 5, list(map(len, tasks)), axis=0)
    return Cohort(
        rows=tuple(f"{who}_run-{i}" for i, who in enumerate(people)),
        participants=people,
        groups=people,
        features={"model": (own + rng.normal(size=own.shape)).astype(np.float32)},
        target=Target(
            name="task",
            kind="classes",
            values=np.concatenate(tasks),
            classes=("nback", "rest"),
            level="within",
        ),
    )


def null_p_values(n):
    design = Design(n_folds=3, n_repeats=1, n_permutations=99, n_bootstraps=100)
    steps = (WithinPeople(), Standardise())
    return np.array(
        [
            evaluate(runs_of_tasks(seed), "model", replace(design, seed=seed), steps=steps).p_value
            for seed in range(n)
        ]
    )


def test_a_target_that_says_so_is_compared_within_people():
    cohort = runs_of_tasks(0)
    between = replace(cohort.target, level="between")
    assert level_of(cohort) == "within"
    assert level_of(replace(cohort, target=between)) == "between"
    assert level_of(replace(cohort, target=replace(between, level=None))) == "within"


def test_tasks_that_tell_nothing_are_found_as_often_as_chance_has_it():
    assert (null_p_values(20) <= 0.05).sum() <= 4  # more in one of 390 such tests


@pytest.mark.slow
def test_p_values_of_tasks_that_tell_nothing_are_uniform():
    p = null_p_values(200)
    smooth = p - np.random.default_rng(0).uniform(0, 1 / 100, p.size)
    uniform, few = stats.kstest(smooth, "uniform").pvalue, int((p <= 0.05).sum())
    low, high = stats.binom.interval(0.99, 200, 0.05)
    print(f"\nKS p {uniform:.3f}; p <= 0.05 in {few} ({low:.0f} to {high:.0f} expected)")
    assert uniform > 0.01
    assert low <= few <= high
