"""Sessions of one person are compared with each other, and with nobody else's."""

from __future__ import annotations

import numpy as np

from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design, Target
from neurostorm_app.pipelines.evaluate.crossvalidate import evaluate
from neurostorm_app.pipelines.evaluate.estimators import Standardise
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
    cohort, steps = crossover(2.0), (WithinPeople(), Standardise())
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
