"""Folds keep groups whole, whatever their sizes, and hold the classes evenly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.evaluate import folds as module
from neurostorm_app.pipelines.evaluate.cohort import Design, Target, group_numbers
from neurostorm_app.pipelines.evaluate.folds import (
    blind_folds,
    derived_seed,
    inner_folds,
    outer_folds,
)


def torn(numbers, groups) -> list[object]:
    """List groups that lie in more than one fold."""
    groups = np.asarray(groups)
    return [g for g in np.unique(groups) if np.unique(numbers[groups == g]).size > 1]


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=6, max_size=30),
    n_folds=st.integers(2, 6),
    n_classes=st.integers(0, 3),
    seed=st.integers(0, 10_000),
)
def test_no_inner_fold_tears_a_group(sizes, n_folds, n_classes, seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    y = rng.standard_normal((groups.size, 1))
    if n_classes:
        y = np.eye(n_classes + 1)[rng.integers(0, n_classes + 1, groups.size)]
    numbers = inner_folds(y, groups, n_folds, seed=seed)
    assert not torn(numbers, groups)
    assert set(numbers) == set(range(numbers.max() + 1))
    assert 2 <= numbers.max() + 1 <= n_folds


@pytest.mark.parametrize("classes", [(), ("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("group", [None, lambda p: f"family-{p // 3}", lambda p: f"{p**2 % 7}"])
def test_no_outer_fold_tears_a_group(make_people, classes, group):
    people = make_people(45, classes=classes, sessions=2, group=group)
    for draw in (outer_folds, blind_folds):
        for numbers in draw(people, Design(seed=3)).numbers:
            assert not torn(numbers, people.groups)
            assert not torn(numbers, people.participants)


def test_every_class_lies_evenly_in_all_folds(make_people):
    people = make_people(50, classes=("a", "b"))
    values = np.arange(50) % 5 == 0  # 10 of one class
    target = replace(people.target, values=values.astype(np.int64))
    people = replace(people, target=target)
    for numbers in outer_folds(people, Design()).numbers:
        assert np.bincount(numbers).tolist() == [10] * 5
        assert np.bincount(numbers[values]).tolist() == [2] * 5


def test_classes_that_differ_within_families_lie_about_evenly(make_people):
    people = make_people(60, classes=("a", "b"), group=lambda p: f"family-{p // 2}")
    for numbers in outer_folds(people, Design()).numbers:
        held = np.bincount(numbers[people.target.values == 1], minlength=5)
        assert held.min() >= 4
        assert held.max() <= 8


def test_the_ranges_of_a_value_lie_evenly_in_all_folds(make_people):
    people = make_people(100)
    by_value = np.argsort(people.target.values)
    for numbers in outer_folds(people, Design()).numbers:
        for tenth in np.split(by_value, 10):
            assert np.bincount(numbers[tenth], minlength=5).tolist() == [2] * 5


def test_folds_are_lowered_to_the_groups_of_the_rarest_class_and_this_is_noted(make_people):
    people = make_people(30, classes=("a", "b"))
    values = np.zeros(30, dtype=np.int64)
    values[:6] = 1
    target = replace(people.target, values=values)
    found = outer_folds(replace(people, target=target), Design(n_folds=10))
    assert found.n_folds == 6
    assert found.notes == ("6 outer folds instead of 10: more would leave a fold without a group",)
    assert outer_folds(people, Design()).notes == ()


def test_three_sites_are_three_folds(make_people):
    people = make_people(30, group=lambda p: f"site-{p % 3}")
    for draw in (outer_folds, blind_folds):
        found = draw(people, Design())
        assert found.n_folds == 3
        assert all(np.unique(numbers).size == 3 for numbers in found.numbers)


def test_repeats_differ_and_seeds_decide(make_people):
    people = make_people(40)
    one, same, other = (outer_folds(people, Design(seed=seed)).numbers for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_blind_folds_do_not_look_at_the_target(make_people, rng):
    people = make_people(40)
    other = Target(name="age", kind="value", values=rng.standard_normal(40))
    np.testing.assert_array_equal(
        blind_folds(people, Design()).numbers,
        blind_folds(replace(people, target=other), Design()).numbers,
    )


def test_blind_folds_hold_about_as_many_rows(make_people):
    people = make_people(40, group=lambda p: f"family-{int(p**0.5)}")
    for numbers in blind_folds(people, Design()).numbers:
        assert np.bincount(numbers).max() <= 13  # the largest family has 11 of 40


def test_many_targets_share_folds_that_none_of_them_decides(rng):
    groups = np.arange(30)
    y = (rng.random((30, 50)) < 0.5).astype(float)
    np.testing.assert_array_equal(
        inner_folds(y, groups, 5, seed=1), inner_folds(1 - y, groups, 5, seed=1)
    )


def test_inner_folds_of_a_rare_class_keep_it_on_both_sides():
    y = np.zeros((30, 1))
    y[:2] = 1
    numbers = inner_folds(y, np.arange(30), 5, seed=0)
    assert numbers.max() == 1
    assert set(numbers[:2]) == {0, 1}


def test_one_group_cannot_be_split():
    with pytest.raises(DataError, match="the training rows lie in one group"):
        inner_folds(np.zeros((5, 1)), np.zeros(5, dtype=np.int64), 5, seed=0)


def test_a_class_that_lies_in_one_group_cannot_be_held_out():
    classes = np.array([0, 0, 0, 0, 1, 1])
    with pytest.raises(DataError, match="no way was found to hold out 1 of 2 folds of groups"):
        module._whole(group_numbers(list("aabbcc")), classes, 2, seed=0, classes=classes)


def test_seeds_made_of_numbers_differ():
    assert len({derived_seed(a, b) for a in range(10) for b in range(10)}) == 100


def test_targets_that_are_alike_in_no_two_groups_are_dealt_by_size(rng):
    y = rng.integers(0, 2, (16, 20)).astype(float)
    numbers = inner_folds(y, np.repeat(np.arange(8), 2), 4, seed=0)
    assert np.bincount(numbers).tolist() == [4, 4, 4, 4]
