"""What a cohort must fulfil before anything is learned from it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Target

__all__ = ["MIN_GROUPS", "MIN_PARTICIPANTS", "MIN_PER_CLASS", "check_cohort"]

MIN_PARTICIPANTS = 8
"""Fewer are refused. Eight people with two sessions each allow 2^8 = 256 rearrangements of the
target, about the least with which p = 0.01 can be reached, and leave six to train on."""
MIN_PER_CLASS = 5
"""Participants of the rarest class: one for each of the five usual folds. Two classes of five
allow 252 rearrangements."""
MIN_GROUPS = 3
"""One to test on, and two to choose a penalty between."""


def check_cohort(cohort: Cohort) -> None:
    """See that rows, groups, features and target belong together and are enough.

    Raises
    ------
    DataError
        If they do not, or are not; each with what to do.
    """
    _check_lengths(cohort)
    _check_rows(cohort)
    _check_features(cohort.features)
    _check_target(cohort.target)
    _check_enough(cohort)


def _check_lengths(cohort: Cohort) -> None:
    """See that everything is of the rows."""
    lengths = {
        "participants": len(cohort.participants),
        "groups": len(cohort.groups),
        "values of the target": len(cohort.target.values),
        **{f"rows of features of {name}": len(x) for name, x in cohort.features.items()},
        **{f"values of {name}": len(c.values) for name, c in cohort.confounds.items()},
    }
    for what, found in lengths.items():
        if found != len(cohort.rows):
            raise DataError(
                f"{found} {what} for {len(cohort.rows)} rows of the cohort",
                fix="leave the same rows out everywhere",
            )


def _check_rows(cohort: Cohort) -> None:
    """See that each row is there once and no participant lies in two groups."""
    twice = [row for row, n in Counter(cohort.rows).items() if n > 1]
    if twice:
        raise DataError(
            f"{twice[0]} occurs {cohort.rows.count(twice[0])} times among the rows of the cohort",
            fix="average the runs of a row before",
        )
    group_of: dict[str, str] = {}
    for participant, group in zip(cohort.participants, cohort.groups, strict=True):
        if group_of.setdefault(participant, group) != group:
            raise DataError(
                f"participant {participant} lies in two groups, {group_of[participant]!r} and "
                f"{group!r}; a person on both sides of a split would be recognised",
                fix="give every row of a participant the same group",
            )


def _check_features(features: Mapping[str, NDArray[np.float32]]) -> None:
    """See that all features are finite tables."""
    for source, x in features.items():
        if x.ndim != 2 or x.shape[1] == 0:
            raise DataError(
                f"features of {source} have the shape {x.shape}; expected rows times dimensions",
                fix="give one vector a row",
            )
        wrong = int((~np.isfinite(x)).any(axis=1).sum())
        if wrong:
            raise DataError(
                f"{wrong} rows of {source} hold numbers that are not finite",
                fix="leave these rows out, or look at why the embedding failed",
            )


def _check_target(target: Target) -> None:
    """See that there is something to predict."""
    values = np.asarray(target.values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} values of {target.name} are missing",
            fix="leave rows without the target out",
        )
    if target.kind == "classes":
        known = range(len(target.classes))
        if not np.isin(values, known).all():
            raise DataError(
                f"{target.name} holds a class index outside 0 to {len(target.classes) - 1}",
                fix="number the classes from 0 in the order of their names",
            )
    if np.unique(values).size < 2:
        raise DataError(
            f"{target.name} has the same value in all {values.size} rows; nothing to predict",
            fix="choose a target that differs between rows",
        )


def _check_enough(cohort: Cohort) -> None:
    """See that there are people enough to learn from and to test on."""
    name = cohort.target.name
    if cohort.n_participants < MIN_PARTICIPANTS:
        raise DataError(
            f"{cohort.n_participants} participants have features and a value of {name}; an "
            f"evaluation takes at least {MIN_PARTICIPANTS}",
            fix="collect more participants; so few cannot tell an effect from chance",
        )
    kinds: list[tuple[str, NDArray[np.bool_]]] = [("", np.ones(cohort.n_rows, dtype=bool))]
    if cohort.target.kind == "classes":
        kinds += [
            (f" of class {label!r}", cohort.target.values == index)
            for index, label in enumerate(cohort.target.classes)
        ]
    for of_what, held in kinds:
        people = len({p for p, here in zip(cohort.participants, held, strict=True) if here})
        groups = len({g for g, here in zip(cohort.groups, held, strict=True) if here})
        if people < MIN_PER_CLASS:
            raise DataError(
                f"{people} participants{of_what} in {name}; an evaluation takes at least "
                f"{MIN_PER_CLASS} of each class",
                fix="leave the class out, or join it with another",
            )
        if groups < MIN_GROUPS:
            raise DataError(
                f"rows{of_what} in {name} lie in {groups} groups; with fewer than {MIN_GROUPS} "
                "none can be held out while a penalty is chosen between the others",
                fix="group by something smaller, such as the participant",
            )
