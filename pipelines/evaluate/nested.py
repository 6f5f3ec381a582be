"""One pass of nested cross-validation: each row is scored by what never saw its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.evaluate.cohort import group_numbers
from neurostorm_app.pipelines.evaluate.estimators import NestedLearner, View
from neurostorm_app.pipelines.evaluate.folds import derived_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Target
    from neurostorm_app.pipelines.evaluate.estimators import Fitted, Learner, Step

__all__ = ["HeldOut", "Recipe", "fit_rows", "indicators", "iter_folds", "out_of_fold_scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done in each fold.

    Parameters
    ----------
    source : str
        Label of the features.
    steps : sequence of Step
        In the order they are applied.
    learner : Learner
        What learns from features after the steps.
    """

    source: str
    steps: Sequence[Step]
    learner: Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """One outer fold.

    Parameters
    ----------
    train, test : ndarray, shape (n,), (m,), int64
        Rows of the cohort.
    fitted : Fitted
        The learner, fitted on ``train``.
    scores : ndarray, shape (m, K), float64
        Of ``test``.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    fitted: Fitted
    scores: NDArray[np.float64]


def indicators(target: Target) -> NDArray[np.float64]:
    """Give the target as columns: a value (N, 1); of two classes the second; of more, each.

    Examples
    --------
    >>> from neurostorm_app.pipelines.evaluate.cohort import Target
    >>> sex = Target(name="sex", kind="classes", values=np.array([0, 1, 1]), classes=("F", "M"))
    >>> indicators(sex).ravel()
    array([0., 1., 1.])
    """
    if target.kind == "value":
        return np.asarray(target.values, dtype=np.float64)[:, None]
    columns = np.eye(len(target.classes))[target.values.astype(np.int64)]
    return columns[:, 1:] if len(target.classes) == 2 else columns


def fit_rows(
    cohort: Cohort,
    recipe: Recipe,
    y: NDArray[np.float64],
    *,
    rows: NDArray[np.int64],
    seed: int,
) -> Fitted:
    """Fit a recipe on some rows and on nothing else.

    Parameters
    ----------
    cohort : Cohort
        Where the rows come from.
    recipe : Recipe
        Source, steps, learner.
    y : ndarray, shape (n, K), float64
        Targets of these rows.
    rows : ndarray, shape (n,), int64
        Rows of the cohort.
    seed : int
        Of inner folds, and of what is random in the learner.

    Returns
    -------
    Fitted
        A learner that fits steps in its inner folds does so; for any other the steps are fitted
        once, on all these rows.
    """
    view = View(cohort=cohort, source=recipe.source, steps=recipe.steps, rows=rows)
    groups = group_numbers(cohort.groups)[rows]
    if isinstance(recipe.learner, NestedLearner):
        return recipe.learner.fit_nested(view, y, groups, seed=seed)
    everyone = np.arange(rows.size)
    return recipe.learner.fit(view.split(everyone, everyone[:0])[0], y, groups, seed=seed)


def iter_folds(
    cohort: Cohort,
    recipe: Recipe,
    y: NDArray[np.float64],
    *,
    numbers: NDArray[np.int64],
    seed: int,
) -> Iterator[HeldOut]:
    """Fit and apply a recipe fold by fold.

    Parameters
    ----------
    cohort : Cohort
        Rows and features.
    recipe : Recipe
        Source, steps, learner.
    y : ndarray, shape (N, K), float64
        Targets of all rows; those of held-out rows are not handed to anything.
    numbers : ndarray, shape (N,), int64
        The fold in which a row is held out.
    seed : int
        Of everything random.

    Yields
    ------
    HeldOut
        In the order of the folds.
    """
    for fold in range(int(numbers.max()) + 1):
        train, test = np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)
        outer = View(
            cohort=cohort, source=recipe.source, steps=recipe.steps, rows=np.arange(len(y))
        )
        fitted = fit_rows(cohort, recipe, y[train], rows=train, seed=derived_seed(seed, fold))
        scores = fitted.scores(outer.split(train, test)[1])
        yield HeldOut(train=train, test=test, fitted=fitted, scores=scores)


def out_of_fold_scores(
    cohort: Cohort,
    recipe: Recipe,
    y: NDArray[np.float64],
    *,
    numbers: NDArray[np.int64],
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give scores of K targets, each row's by what was fitted without its group.

    Parameters
    ----------
    cohort, recipe, y, numbers, seed
        As in ``iter_folds``.

    Returns
    -------
    tuple of ndarray, shape (N, K), float64
        Scores, and the means of the targets over the training rows.
    """
    scores, means = np.empty_like(y), np.empty_like(y)
    for fold in iter_folds(cohort, recipe, y, numbers=numbers, seed=seed):
        scores[fold.test] = fold.scores
        means[fold.test] = y[fold.train].mean(axis=0)
    return scores, means
