"""Rearrangements of a target that would be as likely as the real one if features told nothing.

What may be exchanged depends on where the target differs:

- *Between people* (age, diagnosis): all rows of a person move together, in their order, to a
  person with as many rows. A person with two sessions never gets the target of one with one.
  Where groups hold several people (families), whole groups change places with groups of the same
  make-up, and people of a group, with as many rows, change places within it.
- *Within people* (drug or placebo, the task of a run): the rows of each person change places with
  each other. This is chosen where the target says so, or more than half of its variance lies
  within people; shuffling whole people would then move next to nothing.

Within strata, such as sites, nothing leaves its stratum.

References
----------
Winkler et al., Multi-level block permutation, NeuroImage 2015.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.evaluate.cohort import group_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Target

__all__ = ["Level", "choose_strata", "draw_rearrangements", "level_of", "strata_of"]

FEWEST = 4
"""Participants of a stratum, from which on it has rearrangements enough (24) of its own."""

Level: TypeAlias = Literal["between", "within"]
Units: TypeAlias = "list[tuple[NDArray[np.int64], NDArray[np.int64]]]"
"""Per size of a unit: its class (u,), and its rows (u, size). Units of a class may be exchanged."""


def level_of(cohort: Cohort) -> Level:
    """Tell where the target differs most.

    Returns
    -------
    {"between", "within"}
        What the target says; else ``within`` if more than half of the variance lies within
        participants.
    """
    if cohort.target.level is not None:
        return cohort.target.level
    columns = _columns(cohort.target)
    people = group_numbers(cohort.participants)
    n_rows = np.bincount(people)[:, None]
    means = np.zeros((len(n_rows), columns.shape[1]))
    np.add.at(means, people, columns)
    inside = ((columns - (means / n_rows)[people]) ** 2).sum()
    return "within" if inside > 0.5 * ((columns - columns.mean(axis=0)) ** 2).sum() else "between"


def choose_strata(cohort: Cohort, name: str) -> str | None:
    """Tell whether a target may only be rearranged within the strata of a confound.

    Where recruitment balanced a target over sites, free rearrangements break that balance, and p
    comes out too large; where it did not, they make a site effect look like one of the target.

    Parameters
    ----------
    cohort : Cohort
        Rows and confounds.
    name : str
        Of a confound, such as the site.

    Returns
    -------
    str or None
        The name; None if there is no such confound of names, if it is the target, if it is not
        known of every row, or if a stratum has fewer than four participants or but one value of
        the target, so that there is nothing to exchange in it.
    """
    confound = cohort.confounds.get(name)
    if confound is None or name == cohort.target.name or not isinstance(confound.values, tuple):
        return None
    people = Counter(dict(zip(cohort.participants, confound.values, strict=True)).values())
    told = defaultdict(set)
    for stratum, value in zip(confound.values, cohort.target.values.tolist(), strict=True):
        told[stratum].add(value)
    enough = min(people.values()) >= FEWEST and min(map(len, told.values())) > 1
    return name if enough and "" not in people else None


def strata_of(cohort: Cohort, name: str | None) -> NDArray[np.int64]:
    """Give each row (N,) the number of its stratum: a name of a confound, or one for all.

    Raises
    ------
    UsageError
        If the cohort has no such confound, or it holds numbers.
    """
    if name is None:
        return np.zeros(cohort.n_rows, dtype=np.int64)
    confound = cohort.confounds.get(name)
    if confound is None or not isinstance(confound.values, tuple):
        named = sorted(c.name for c in cohort.confounds.values() if isinstance(c.values, tuple))
        raise UsageError(
            f"{name!r} is not a confound with names, within which a target could be rearranged; "
            f"there are {named}",
            fix="name one of these, such as the site",
        )
    return group_numbers(confound.values)


def draw_rearrangements(
    cohort: Cohort, n: int, *, seed: int, strata: str | None = None
) -> tuple[NDArray[np.int64], Level]:
    """Draw rearrangements.

    Parameters
    ----------
    cohort : Cohort
        Rows, participants, groups, target.
    n : int
        How many.
    seed : int
        Of the draw.
    strata : str or None
        Name of a confound whose names nothing leaves.

    Returns
    -------
    tuple of ndarray, shape (n, N), int64, and str
        Row i gets the target of row ``found[k, i]``; and the level, ``between`` or ``within``.
    """
    rng = np.random.default_rng(seed)
    level = level_of(cohort)
    layers = _layers(cohort, strata_of(cohort, strata), level)
    found = np.empty((n, cohort.n_rows), dtype=np.int64)
    for k in range(n):
        moved = np.arange(cohort.n_rows)
        for units in layers:
            moved = moved[_shuffled(units, cohort.n_rows, rng)]
        found[k] = moved
    return found, level


def _columns(target: Target) -> NDArray[np.float64]:
    """Give the target as columns whose variance can be added up."""
    if target.kind == "value":
        return np.asarray(target.values, dtype=np.float64)[:, None]
    return np.eye(len(target.classes))[target.values.astype(np.int64)]


def _layers(cohort: Cohort, strata: NDArray[np.int64], level: Level) -> list[Units]:
    """List what changes places, from the inside to the outside."""
    people = group_numbers(cohort.participants)
    if level == "within":
        rows = [np.array([row]) for row in range(cohort.n_rows)]
        return [_units(rows, [(people[row], strata[row]) for row in range(cohort.n_rows)])]
    groups = group_numbers(cohort.groups)
    persons = _members(people)
    make_up = [tuple(strata[rows].tolist()) for rows in persons]
    inner = [(groups[rows[0]], *kind) for rows, kind in zip(persons, make_up, strict=True)]
    of_group: dict[int, list[int]] = defaultdict(list)
    for person in sorted(range(len(persons)), key=lambda p: (make_up[p], p)):
        of_group[int(groups[persons[person][0]])].append(person)
    whole = [np.concatenate([persons[p] for p in some]) for some in of_group.values()]
    outer = [tuple(make_up[p] for p in some) for some in of_group.values()]
    return [_units(persons, inner), _units(whole, outer)]


def _members(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """List the rows of each number, in their order."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)


def _units(blocks: Sequence[NDArray[np.int64]], kinds: Sequence[tuple[object, ...]]) -> Units:
    """Sort blocks of rows by their size, and number their kinds; those alone of a kind stay."""
    numbers: dict[tuple[object, ...], int] = {}
    by_size: dict[int, list[tuple[int, NDArray[np.int64]]]] = defaultdict(list)
    for rows, kind in zip(blocks, kinds, strict=True):
        number = numbers.setdefault((rows.size, *kind), len(numbers))
        by_size[rows.size].append((number, rows))
    return [
        (np.array([number for number, _ in some]), np.stack([rows for _, rows in some]))
        for some in by_size.values()
    ]


def _shuffled(units: Units, n_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Exchange units of a kind at random: (N,), where the target of each row comes from."""
    moved = np.arange(n_rows)
    for kinds, rows in units:
        order = np.argsort(kinds, kind="stable")
        moved[rows[order]] = rows[np.lexsort((rng.random(kinds.size), kinds))]
    return moved
