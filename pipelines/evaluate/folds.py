"""Folds that never tear a group apart: outer and inner, stratified by the target or blind to it.

Stratified folds hold each class, or each range of a value, about equally often, which steadies
the reported metrics. They depend on which targets a group holds, not on which of its rows holds
them. Blind folds are drawn without a look at the target; a permutation test between groups needs
them, because a rearranged target must meet folds made exactly as those of the real one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.evaluate.cohort import group_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design, Target

__all__ = ["Folds", "blind_folds", "derived_seed", "inner_folds", "outer_folds"]

MAX_BINS = 10
"""Ranges of a value that folds are stratified by, at most."""
MAX_STRATA = 20
"""More different rows of targets than this are not classes, and folds are blind to them."""
TRIES = 20
"""Draws before we say that the groups cannot be split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """Outer folds of all repeats.

    Parameters
    ----------
    numbers : tuple of n_repeats ndarrays, shape (N,), int64
        The fold in which a row is held out.
    n_folds : int
        How many there are; fewer than the design says where groups are few.
    notes : tuple of str
        Says so, if it is the case.
    """

    numbers: tuple[NDArray[np.int64], ...]
    n_folds: int
    notes: tuple[str, ...] = ()


def derived_seed(*numbers: int) -> int:
    """Make one seed out of several numbers, such as a seed, a repeat and a fold.

    Examples
    --------
    >>> derived_seed(0, 1) == derived_seed(0, 1) != derived_seed(1, 0)
    True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def outer_folds(cohort: Cohort, design: Design) -> Folds:
    """Draw the outer folds: grouped, and stratified by the target.

    They depend on groups, target and seed alone, so that all sources meet the same.

    Parameters
    ----------
    cohort : Cohort
        Rows with their groups and target.
    design : Design
        Number of folds and repeats, seed.

    Returns
    -------
    Folds
        One fold number a row and repeat.

    Raises
    ------
    DataError
        If no way is found that leaves every class among the training rows of every fold.
    """
    groups = group_numbers(cohort.groups)
    strata = _strata(cohort.target, groups, design.n_folds)
    n_folds = min(design.n_folds, _fewest_groups(groups, strata))
    classes = cohort.target.values if cohort.target.kind == "classes" else None
    numbers = tuple(
        _whole(groups, strata, n_folds, seed=derived_seed(design.seed, repeat), classes=classes)
        for repeat in range(design.n_repeats)
    )
    return Folds(numbers=numbers, n_folds=n_folds, notes=_lowered(n_folds, design.n_folds))


def blind_folds(cohort: Cohort, design: Design) -> Folds:
    """Draw outer folds without a look at the target: grouped, of about equal numbers of rows."""
    groups = group_numbers(cohort.groups)
    n_folds = min(design.n_folds, cohort.n_groups)
    numbers = tuple(
        _deal_by_size(groups, n_folds, seed=derived_seed(design.seed, repeat, 1))
        for repeat in range(design.n_repeats)
    )
    return Folds(numbers=numbers, n_folds=n_folds, notes=_lowered(n_folds, design.n_folds))


def inner_folds(
    y: NDArray[np.float64], groups: NDArray[np.int64], n_folds: int, *, seed: int
) -> NDArray[np.int64]:
    """Draw folds within training rows: grouped, and stratified where y holds classes.

    Parameters
    ----------
    y : ndarray, shape (n, K), float64
        Targets. Where its rows are few different ones (indicators of classes) folds are
        stratified by them; otherwise they are blind, the same for all K.
    groups : ndarray, shape (n,), int64
        What stays together.
    n_folds : int
        Lowered to the number of groups (of the rarest class), but not below 2.
    seed : int
        Of the draw.

    Returns
    -------
    ndarray, shape (n,), int64
        The fold in which a row is held out.

    Raises
    ------
    DataError
        If there is but one group.
    """
    n_groups = np.unique(groups).size
    if n_groups < 2:
        raise DataError(
            "the training rows lie in one group; no penalty can be chosen without a second",
            fix="use fewer folds, or group by something smaller",
        )
    strata = _classes_of(y)
    if strata is None or _fewest_groups(groups, strata) < 2:
        return _deal_by_size(groups, min(n_folds, n_groups), seed=seed)
    n_folds = min(n_folds, max(2, _fewest_groups(groups, strata)))
    return _deal(groups, strata, n_folds, seed=seed)


def _lowered(found: int, wanted: int) -> tuple[str, ...]:
    """Note that there are fewer folds than asked for."""
    if found == wanted:
        return ()
    return (f"{found} outer folds instead of {wanted}: more would leave a fold without a group",)


def _classes_of(y: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Tell the classes of rows by their indicators, or None if there are none or too many."""
    if y.shape[1] > MAX_STRATA or not np.isin(y, (0.0, 1.0)).all():
        return None
    different, numbers = np.unique(y, axis=0, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64) if len(different) <= MAX_STRATA else None


def _strata(target: Target, groups: NDArray[np.int64], n_folds: int) -> NDArray[np.int64]:
    """Give each row its class, or the range in which the mean value of its group lies."""
    if target.kind == "classes":
        return target.values.astype(np.int64)
    n_rows = np.bincount(groups)
    order = np.lexsort((target.values, groups))  # a sum whose rounding knows no order of rows
    means = np.bincount(groups[order], weights=target.values[order]) / n_rows
    n_bins = int(np.clip(n_rows.size // n_folds, 1, MAX_BINS))
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    bins: NDArray[np.int64] = (ranks * n_bins // n_rows.size)[groups]
    return bins


def _fewest_groups(groups: NDArray[np.int64], strata: NDArray[np.int64]) -> int:
    """Count the groups of the stratum that has fewest."""
    return min(np.unique(groups[strata == one]).size for one in np.unique(strata))


def _whole(
    groups: NDArray[np.int64],
    strata: NDArray[np.int64],
    n_folds: int,
    *,
    seed: int,
    classes: NDArray[np.int64] | NDArray[np.float64] | None,
) -> NDArray[np.int64]:
    """Draw folds until no training side lacks a class."""
    for attempt in range(TRIES):
        numbers = _deal(groups, strata, n_folds, seed=derived_seed(seed, attempt))
        if classes is None:
            return numbers
        n_classes = np.unique(classes).size
        if all(np.unique(classes[numbers != f]).size == n_classes for f in range(n_folds)):
            return numbers
    raise DataError(
        f"no way was found to hold out 1 of {n_folds} folds of groups so that every class stays "
        "among the others",
        fix="group by something smaller, or leave the class out that lies in few groups",
    )


def _deal(
    groups: NDArray[np.int64], strata: NDArray[np.int64], n_folds: int, *, seed: int
) -> NDArray[np.int64]:
    """Deal groups to folds, stratum by stratum."""
    _, first, members, n_rows = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    pure = (strata == strata[first][members]).all()
    if pure and (n_rows == n_rows[0]).all():
        # As StratifiedKFold of groups; StratifiedGroupKFold gives the like a hundred times slower.
        shuffled = np.random.default_rng(seed).permutation(first.size)
        order = shuffled[np.argsort(strata[first][shuffled], kind="stable")]
        fold_of = np.empty(first.size, dtype=np.int64)
        fold_of[order] = np.arange(first.size) % n_folds
        return fold_of[members]
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    numbers = np.empty(groups.size, dtype=np.int64)
    with warnings.catch_warnings():
        # A class with one row can be in one fold only; the fold without it scores 0 for it.
        warnings.filterwarnings("ignore", message="The least populated class")
        for fold, (_, held) in enumerate(splitter.split(groups, strata, groups)):
            numbers[held] = fold
    return numbers


def _deal_by_size(groups: NDArray[np.int64], n_folds: int, *, seed: int) -> NDArray[np.int64]:
    """Deal groups in random order, the largest first, each to the fold with fewest rows."""
    _, members, n_rows = np.unique(groups, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(n_rows.size)
    held = np.zeros(n_folds)
    fold_of = np.empty(n_rows.size, dtype=np.int64)
    for group in shuffled[np.argsort(-n_rows[shuffled], kind="stable")]:
        fold_of[group] = np.argmin(held)
        held[fold_of[group]] += n_rows[group]
    return fold_of[members]
