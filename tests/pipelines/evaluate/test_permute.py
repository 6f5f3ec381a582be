"""P-values are uniform where nothing was planted, and rearrangements keep what must stay."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy.stats import kstest

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Confound, Design, Target
from neurostorm_app.pipelines.evaluate.estimators import Standardise
from neurostorm_app.pipelines.evaluate.folds import blind_folds, outer_folds
from neurostorm_app.pipelines.evaluate.nested import Recipe
from neurostorm_app.pipelines.evaluate.permute import _statistics, permutation_test
from neurostorm_app.pipelines.evaluate.rearrange import (
    choose_strata,
    draw_rearrangements,
    level_of,
)
from neurostorm_app.pipelines.evaluate.ridge import Ridge
from neurostorm_app.pipelines.evaluate.selection import Select

VALUE = Recipe(source="demo", steps=(Standardise(),), learner=Ridge(n_folds=3))
CLASSES = replace(VALUE, learner=Ridge(coding="fisher", n_folds=3))
DESIGN = Design(n_folds=3, n_repeats=1, n_permutations=99)


def uneven(make_people, sizes, **options) -> Cohort:
    """Make a cohort whose participants have these numbers of rows."""
    people = make_people(len(sizes), sessions=max(sizes), **options)
    kept = [row for row in range(people.n_rows) if row % max(sizes) < sizes[row // max(sizes)]]
    return Cohort(
        rows=tuple(people.rows[row] for row in kept),
        participants=tuple(people.participants[row] for row in kept),
        groups=tuple(people.groups[row] for row in kept),
        features={"demo": people.features["demo"][kept]},
        target=replace(people.target, values=people.target.values[kept]),
    )


def crossover(make_people, n=9, *, effect=0.0, seed=0) -> Cohort:
    """Make a cohort in which everyone has a session with placebo and one with the drug."""
    people = make_people(n, 8, sessions=2, seed=seed)
    rng = np.random.default_rng(seed)
    drug = np.concatenate([rng.permutation(2) for _ in range(n)]).astype(np.int64)
    x = people.features["demo"] * 4  # people differ far more than drugs
    x[:, 0] += effect * drug
    target = Target(name="drug", kind="classes", values=drug, classes=("placebo", "drug"))
    return replace(people, features={"demo": x}, target=target)


def test_people_exchange_targets_with_people_of_as_many_rows(make_people):
    sizes = [1, 2, 3, 1, 2, 3, 1, 1, 2, 2]
    people = uneven(make_people, sizes)
    moved, level = draw_rearrangements(people, 50, seed=1)
    assert level == "between"
    names = np.asarray(people.participants)
    for one in moved:
        assert sorted(one) == list(range(people.n_rows))
        for name in np.unique(names):
            taken = one[names == name]
            assert np.unique(names[taken]).size == 1
            assert (np.diff(taken) == 1).all()  # sessions keep their order
            assert (names == names[taken[0]]).sum() == taken.size
    assert len(np.unique(moved, axis=0)) > 45


def test_rearrangements_are_all_as_likely(make_people):
    moved, _ = draw_rearrangements(make_people(8), 8000, seed=0)
    for row in range(8):
        np.testing.assert_allclose(np.bincount(moved[:, row]) / 8000, 1 / 8, atol=0.02)


def test_within_strata_nothing_leaves_its_stratum(make_people):
    people = make_people(30, sessions=2)
    site = tuple("abc"[row // 2 % 3] for row in range(60))
    people = replace(people, confounds={"site": Confound(name="site", values=site)})
    found = permutation_test(people, VALUE, replace(DESIGN, n_permutations=5, strata="site"))
    assert found.notes[0].endswith("rearranged between participants, within each site")
    moved, _ = draw_rearrangements(people, 30, seed=0, strata="site")
    assert (np.asarray(site)[moved] == np.asarray(site)).all()
    assert not (moved == np.arange(60)).all()


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, "site"),
        ({"values": tuple("ab" * 9 + "cc")}, None),  # two participants of c
        ({"values": ("", *"ba" * 9, "b")}, None),  # not known of one
        ({"values": np.arange(20.0)}, None),  # numbers
        ({"classes": tuple("xy"), "told": np.arange(20) % 2}, None),  # the site tells the target
        ({"classes": tuple("xy"), "told": np.arange(20) // 10}, "site"),
        ({"name": "scanner"}, None),
    ],
)
def test_a_site_makes_strata_where_there_is_something_to_exchange_in_each(
    make_people, changes, chosen
):
    people = make_people(20)
    name = changes.get("name", "site")
    site = Confound(name=name, values=changes.get("values", ("a", "b") * 10))
    target = people.target
    if "told" in changes:
        target = Target(
            name="dx", kind="classes", values=changes["told"], classes=changes["classes"]
        )
    people = replace(people, confounds={name: site}, target=target)
    assert choose_strata(people, "site") == chosen
    renamed = replace(people, target=replace(target, name="site"))
    assert choose_strata(renamed, "site") is None


@pytest.mark.parametrize("name", ["scanner", "motion"])
def test_strata_must_be_a_confound_with_names(make_people, name):
    confounds = {
        "motion": Confound(name="motion", values=np.zeros(20)),
        "site": Confound(name="site", values=("a", "b") * 10),
    }
    people = replace(make_people(20), confounds=confounds)
    with pytest.raises(UsageError, match=f"'{name}' is not a confound with names.*'site'"):
        draw_rearrangements(people, 5, seed=0, strata=name)


def test_families_move_as_a_whole_and_within_themselves(make_people):
    family = [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5]
    people = make_people(12, group=lambda p: f"family-{family[p]}")
    moved, _ = draw_rearrangements(people, 200, seed=0)
    family = np.asarray(family)
    sizes = np.bincount(family)
    for one in moved:
        for name in range(6):
            taken = family[one[family == name]]
            assert np.unique(taken).size == 1
            assert sizes[taken[0]] == sizes[name]
    assert {tuple(one[:2]) for one in moved} == {(0, 1), (1, 0), (2, 3), (3, 2)}


def test_drug_and_placebo_change_places_within_people(make_people):
    people = crossover(make_people)
    assert level_of(people) == "within"
    moved, level = draw_rearrangements(people, 100, seed=0)
    assert level == "within"
    assert (moved // 2 == np.arange(18) // 2).all()
    assert len(np.unique(moved, axis=0)) > 50


def test_a_value_that_changes_little_between_sessions_moves_between_people(make_people, rng):
    people = make_people(20, sessions=2)
    values = people.target.values + 0.1 * rng.standard_normal(40)
    assert level_of(replace(people, target=replace(people.target, values=values))) == "between"


def test_a_planted_effect_has_the_least_p_value(make_people):
    found = permutation_test(make_people(50, effect=3.0), VALUE, DESIGN)
    assert found.p_value == pytest.approx(0.01)
    assert found.observed > found.null.max()
    assert found.null.shape == (99,)
    assert "the target was rearranged between participants" in found.notes[0]


def test_an_effect_of_a_drug_is_found_though_people_differ_more(make_people):
    found = permutation_test(crossover(make_people, 20, effect=4.0), CLASSES, DESIGN)
    assert found.p_value <= 0.02
    assert "within participants" in found.notes[0]


@pytest.mark.parametrize("classes", [(), ("a", "b"), ("a", "b", "c")])
def test_p_values_are_uniform_where_nothing_was_planted(make_people, classes):
    design = replace(DESIGN, n_permutations=19)
    p = [
        permutation_test(
            make_people(24, classes=classes, seed=seed), CLASSES if classes else VALUE, design
        ).p_value
        for seed in range(60)
    ]
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.2) <= 0.35


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "dimension", "classes", "group"),
    [
        (40, 20, (), None),
        (40, 20, ("a", "b"), None),
        (40, 100, ("a", "b", "c"), None),
        (12, 60, ("a", "b"), None),
        (48, 30, (), lambda p: f"family-{p // 2}"),
    ],
)
def test_p_values_of_200_null_cohorts_are_uniform(make_people, n, dimension, classes, group):
    design = Design(n_repeats=2, n_permutations=199)
    p = [
        permutation_test(
            make_people(n, dimension, classes=classes, seed=seed, group=group),
            CLASSES if classes else VALUE,
            replace(design, seed=seed),
        ).p_value
        for seed in range(200)
    ]
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) <= 0.09


@pytest.mark.slow
def test_p_values_of_200_null_crossovers_are_uniform(make_people):
    design = Design(n_repeats=2, n_permutations=199)
    p = [
        permutation_test(crossover(make_people, 12, seed=seed), CLASSES, design).p_value
        for seed in range(200)
    ]
    assert kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("classes", [(), ("a", "b", "c")])
def test_all_rearrangements_at_once_are_each_as_if_alone(make_people, classes):
    people = make_people(30, classes=classes, effect=0.5)
    recipe = replace(CLASSES if classes else VALUE, learner=Ridge(factors=(0.1,), n_folds=3))
    found = permutation_test(people, recipe, replace(DESIGN, n_permutations=4))
    moved, _ = draw_rearrangements(people, 4, seed=0)
    repeats = blind_folds(people, DESIGN).numbers
    told = people.target.values[np.vstack([np.arange(30), moved])]
    together = _statistics(people, recipe, told, repeats)
    alone = [_statistics(people, recipe, told[[k]], repeats)[0] for k in range(5)]
    np.testing.assert_allclose(together, alone, atol=1e-9)
    assert found.observed == pytest.approx(together[0])


@pytest.mark.parametrize("kind", ["classes", "value"])
def test_within_people_the_reported_folds_are_those_of_every_rearrangement(make_people, kind):
    people = crossover(make_people, 11, effect=2.0)
    recipe = CLASSES
    if kind == "value":
        values = np.random.default_rng(0).random(22) + people.target.values
        people = replace(people, target=Target(name="dose", kind="value", values=values))
        recipe = VALUE
    design = replace(DESIGN, n_repeats=3, n_permutations=20)
    moved, level = draw_rearrangements(people, 20, seed=0)
    assert level == "within"
    folds = outer_folds(people, design).numbers
    for one in moved:
        told = replace(people, target=replace(people.target, values=people.target.values[one]))
        for mine, its in zip(folds, outer_folds(told, design).numbers, strict=True):
            np.testing.assert_array_equal(mine, its)
    found = permutation_test(people, recipe, design)
    told = people.target.values[np.vstack([np.arange(22), moved])]
    assert found.observed == pytest.approx(_statistics(people, recipe, told, folds)[0])


@dataclass
class Told:
    """A step that remembers which targets it was shown."""

    name: str = "told"
    supervised: bool = True
    seen: set[bytes] = field(default_factory=set)

    def fit(self, x, rows, cohort):
        self.seen.add(cohort.target.values.tobytes())
        return self

    def apply(self, x, rows, cohort):
        return x


def test_a_step_that_looks_at_the_target_is_shown_the_rearranged_ones(make_people):
    people = make_people(20, classes=("a", "b"))
    spy = Told()
    design = replace(DESIGN, n_permutations=5)
    permutation_test(people, replace(CLASSES, steps=(spy,)), design)
    assert len(spy.seen) == 6
    blind = Told(supervised=False)
    permutation_test(people, replace(CLASSES, steps=(blind,)), design)
    assert blind.seen == {people.target.values.tobytes()}


def test_selection_does_not_make_noise_significant(make_people):
    recipe = replace(CLASSES, steps=(Select(n_best=5),))
    design = replace(DESIGN, n_permutations=9)
    p = [
        permutation_test(
            make_people(20, 200, classes=("a", "b"), seed=seed), recipe, design
        ).p_value
        for seed in range(12)
    ]
    assert 0.2 < np.mean(p) < 0.85


def test_people_who_may_not_exchange_have_no_p_value(make_people):
    people = uneven(make_people, [1, 2, 3, 4, 5, 6, 7, 8])
    found = permutation_test(people, VALUE, DESIGN)
    assert found.p_value is None
    assert "no two participants may exchange their target, so there is no p-value" in found.notes


def test_few_rearrangements_are_noted_and_the_p_value_counts_those_that_change_nothing(make_people):
    people = crossover(make_people, 8, effect=30.0)
    found = permutation_test(people, CLASSES, replace(DESIGN, n_permutations=999))
    assert any("different rearrangements were found, so p is coarse" in n for n in found.notes)
    # Two of 2^8 rearrangements tell as much: none moved, and all moved.
    assert 1 / 256 < found.p_value < 4 / 256
