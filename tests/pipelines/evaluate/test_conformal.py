"""Intervals of a value cover what they promise, and are made of rows of other groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

from neurostorm_app.pipelines.evaluate.cohort import Design
from neurostorm_app.pipelines.evaluate.conformal import RowRegressor, conformal_bounds
from neurostorm_app.pipelines.evaluate.estimators import Standardise
from neurostorm_app.pipelines.evaluate.folds import outer_folds
from neurostorm_app.pipelines.evaluate.nested import Recipe
from neurostorm_app.pipelines.evaluate.ridge import Ridge

RECIPE = Recipe(source="demo", steps=(Standardise(),), learner=Ridge(n_folds=3))


def bounds_of(people, *, recipe=RECIPE, **design):
    design = Design(n_repeats=1, n_folds=3, **design)
    return conformal_bounds(people, recipe, design, outer_folds(people, design).numbers[0])


@pytest.mark.parametrize("confidence", [0.7, 0.9])
def test_intervals_cover_about_what_they_promise(make_people, confidence):
    found = [
        bounds_of(make_people(50, effect=1.0, seed=seed), confidence=confidence)
        for seed in range(12)
    ]
    coverage = np.mean([bounds.coverage for bounds in found])
    assert coverage >= 2 * confidence - 1  # the guarantee
    # In practice a little more than promised: residuals are of models with fewer rows.
    assert confidence - 0.04 <= coverage <= confidence + 0.12
    assert all((bounds.lower <= bounds.upper).all() for bounds in found)


def test_heavy_tails_are_covered_too(make_people):
    coverage = []
    for seed in range(10):
        people = make_people(50, seed=seed)
        tails = np.random.default_rng(seed).standard_t(1.5, 50)
        people = replace(people, target=replace(people.target, values=tails))
        coverage.append(bounds_of(people).coverage)
    assert 0.8 <= np.mean(coverage) <= 0.97


def test_sessions_of_a_participant_do_not_make_intervals_too_narrow(make_people):
    coverage = []
    for seed in range(8):  # people are told apart by 200 columns, so a torn group would be known
        people = make_people(40, 200, sessions=3, seed=seed)
        coverage.append(bounds_of(people).coverage)
    assert np.mean(coverage) >= 0.8


def test_what_is_told_well_has_narrow_intervals(make_people):
    well, badly = bounds_of(make_people(60, effect=8.0)), bounds_of(make_people(60, effect=0.0))
    spread = {effect: make_people(60, effect=effect).target.values.std() for effect in (8.0, 0.0)}
    assert well.width / spread[8.0] < 0.4 * badly.width / spread[0.0]


def test_coverage_and_width_are_those_of_the_bounds(make_people):
    people = make_people(40)
    found, values = bounds_of(people), people.target.values
    inside = (found.lower <= values) & (values <= found.upper)
    assert found.coverage == inside.mean()
    assert found.width == pytest.approx(np.mean(found.upper - found.lower))
    assert "at least 80% of new rows" in found.notes[0]


def test_too_few_rows_give_no_bounds_and_say_so(make_people):
    found = bounds_of(make_people(9))
    assert found.lower is None
    assert found.upper is None
    assert found.coverage is None
    assert found.notes == (
        "no intervals of the value: a confidence of 0.9 takes 10 training rows, and a fold has 6",
    )
    assert bounds_of(make_people(9), confidence=0.8).lower is not None


def test_every_model_of_an_interval_saw_other_groups_only(make_people):
    people, seen = make_people(30, sessions=2), []

    class Spy:
        name = "spy"

        def fit(self, x, rows, cohort):
            class Fitted:
                def apply(self, x, applied, cohort):
                    if not np.array_equal(applied, rows):
                        seen.append((rows, applied))
                    return x

            return Fitted()

    bounds_of(people, recipe=replace(RECIPE, steps=(Spy(),)))
    groups = np.asarray(people.groups)
    assert len(seen) > 3 * 3
    for rows, applied in seen:
        assert not set(groups[rows]) & set(groups[applied])


def test_a_row_regressor_can_be_copied(make_people):
    regressor = RowRegressor(cohort=make_people(20), recipe=RECIPE, seed=3)
    assert clone(regressor, safe=False) is not regressor
    assert clone(regressor, safe=False).get_params()["seed"] == 3
    assert clone(regressor, safe=False).cohort is regressor.cohort


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95])
def test_bounds_are_there_or_their_lack_is_told_however_many_rows_there_are(
    make_people, confidence
):
    for n in range(8, 32, 1 if confidence == 0.9 else 5):
        found = bounds_of(make_people(n), confidence=confidence)
        assert (found.lower is None) == found.notes[0].startswith("no intervals of the value")
        assert found.lower is None or np.isfinite(found.lower).all()
