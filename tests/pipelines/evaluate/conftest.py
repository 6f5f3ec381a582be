"""Cohorts with and without an effect, for the tests of nested cross-validation."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.pipelines.evaluate.cohort import Cohort, Target


@pytest.fixture
def make_people():
    """Give a function that draws a cohort; ``effect`` 0 plants nothing."""

    def make(n=60, dimension=12, *, classes=(), effect=0.0, seed=0, sessions=1, group=None):
        """Draw n participants with sessions each; the target belongs to the participant."""
        rng = np.random.default_rng(seed)
        trait = rng.standard_normal((n, dimension))
        score = effect * trait[:, 0] + rng.standard_normal(n)
        x = np.repeat(trait, sessions, axis=0)
        if sessions > 1:
            x = x + 0.3 * rng.standard_normal(x.shape)
        person = np.repeat(np.arange(n), sessions)
        names = tuple(f"sub-{p:04d}" for p in person)
        rows = tuple(f"{name}_ses-{i % sessions}" for i, name in enumerate(names))
        values = score[person]
        target = Target(name="age", kind="value", values=values, unit="years")
        if classes:
            ranks = np.argsort(np.argsort(score)) * len(classes) // n
            target = Target(
                name="dx", kind="classes", values=ranks[person].astype(np.int64), classes=classes
            )
        return Cohort(
            rows=rows,
            participants=names,
            groups=names if group is None else tuple(group(p) for p in person),
            features={"demo": x.astype(np.float32)},
            target=target,
        )

    return make
