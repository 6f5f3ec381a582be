"""A cohort that could leak, or that is too small to tell anything, cannot be made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Confound, Design, Target, group_numbers


def value(values):
    return Target(name="age", kind="value", values=np.asarray(values, dtype=np.float64))


def classes(values, names=("HC", "SZ")):
    return Target(
        name="dx", kind="classes", values=np.asarray(values, dtype=np.int64), classes=names
    )


@pytest.fixture
def people(make_people):
    return make_people(12)


def first(people: Cohort, n: int, target: Target | None = None) -> dict[str, object]:
    """Give the arguments of a cohort of the first n rows."""
    return {
        "rows": people.rows[:n],
        "participants": people.participants[:n],
        "groups": people.groups[:n],
        "features": {name: x[:n] for name, x in people.features.items()},
        "target": target or value(people.target.values[:n]),
    }


def test_a_cohort_counts_its_rows_participants_and_groups(make_people):
    people = make_people(10, sessions=3, group=lambda p: f"family-{p // 2}")
    assert (people.n_rows, people.n_participants, people.n_groups) == (30, 10, 5)


def test_three_participants_are_refused_with_a_clear_message(people):
    with pytest.raises(DataError, match="3 participants have features and a value of age") as found:
        Cohort(**first(people, 3))
    assert "at least 8" in str(found.value)
    assert "more participants" in found.value.fix


def test_sessions_do_not_stand_in_for_participants(make_people):
    with pytest.raises(DataError, match="7 participants have features"):
        make_people(7, sessions=5)


def test_eight_participants_are_enough(people):
    assert Cohort(**first(people, 8)).n_participants == 8


def test_a_class_of_four_is_refused(people):
    target = classes([0] * 8 + [1] * 4)
    with pytest.raises(DataError, match="4 participants of class 'SZ' in dx; an evaluation takes"):
        Cohort(**first(people, 12, target))


def test_a_class_without_anyone_is_refused(people):
    target = classes([0] * 6 + [1] * 6, names=("HC", "SZ", "MDD"))
    with pytest.raises(DataError, match="0 participants of class 'MDD'"):
        Cohort(**first(people, 12, target))


def test_two_groups_are_refused(people):
    sites = tuple("ab"[i % 2] for i in range(12))
    with pytest.raises(DataError, match="lie in 2 groups; with fewer than 3"):
        replace(people, groups=sites)


def test_a_class_in_two_groups_is_refused(people):
    sites, target = tuple("aaabbbccddee"), classes([0] * 6 + [1] * 6)
    with pytest.raises(DataError, match="rows of class 'HC' in dx lie in 2 groups"):
        replace(people, groups=sites, target=target)


def test_a_participant_in_two_groups_is_refused(make_people):
    people = make_people(10, sessions=2)
    torn = ("elsewhere", *people.groups[1:])
    with pytest.raises(DataError, match="lies in two groups, 'elsewhere' and 'sub-0000'"):
        replace(people, groups=torn)


def test_a_row_that_occurs_twice_is_refused(people):
    rows = (people.rows[1], *people.rows[1:])
    with pytest.raises(DataError, match="occurs 2 times among the rows"):
        replace(people, rows=rows)


@pytest.mark.parametrize("field", ["participants", "groups"])
def test_lengths_that_differ_are_refused(people, field):
    with pytest.raises(DataError, match=f"11 {field} for 12 rows of the cohort"):
        replace(people, **{field: getattr(people, field)[1:]})


def test_confounds_of_other_rows_are_refused(people):
    motion = Confound(name="motion", values=np.zeros(5))
    with pytest.raises(DataError, match="5 values of motion for 12 rows"):
        replace(people, confounds={"motion": motion})


def test_features_of_other_rows_are_refused(people):
    with pytest.raises(DataError, match="3 rows of features of demo for 12 rows"):
        replace(people, features={"demo": people.features["demo"][:3]})


def test_embeddings_with_nan_are_refused(people):
    x = people.features["demo"].copy()
    x[[2, 5], 3] = np.nan
    with pytest.raises(DataError, match="2 rows of demo hold numbers that are not finite"):
        replace(people, features={"demo": x})


@pytest.mark.parametrize("shape", [(12,), (12, 0), (12, 2, 2)])
def test_features_that_are_no_table_are_refused(people, shape):
    with pytest.raises(DataError, match="expected rows times dimensions"):
        replace(people, features={"demo": np.zeros(shape, dtype=np.float32)})


def test_a_constant_target_is_refused(people):
    with pytest.raises(DataError, match="age has the same value in all 12 rows"):
        replace(people, target=value(np.ones(12)))


def test_a_missing_target_is_refused(people):
    values = np.arange(12.0)
    values[4] = np.nan
    with pytest.raises(DataError, match="1 values of age are missing"):
        replace(people, target=value(values))


def test_a_class_without_a_name_is_refused(people):
    with pytest.raises(DataError, match="dx holds a class index outside 0 to 1"):
        replace(people, target=classes([0, 1, 2] * 4))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("n_folds", 1), ("n_repeats", 0), ("n_permutations", -1), ("n_bootstraps", 99), ("seed", -1)],
)
def test_a_design_out_of_range_is_refused(field, wrong):
    with pytest.raises(UsageError, match=f"{field} is {wrong}; the design of an evaluation takes"):
        Design(**{field: wrong})


@pytest.mark.parametrize("confidence", [0.4, 1.0, 90.0])
def test_a_confidence_that_is_no_fraction_is_refused(confidence):
    with pytest.raises(UsageError, match=r"expected 0\.5 or more and below 1"):
        Design(confidence=confidence)


def test_names_are_numbered_by_the_alphabet():
    assert group_numbers(["z", "a", "z", "m"]).tolist() == [2, 0, 2, 1]
