"""Nested cross-validation of one source: predictions, metrics, intervals and a p-value.

Outer folds hold groups out; inside each, steps, penalty and calibration are learned from the
training rows alone, by inner folds that are grouped as well. Repeats draw the outer folds anew;
a row's prediction is the mean over repeats, each from a model that never saw its group.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.evaluate.calibrate import decide, fit_calibration
from neurostorm_app.pipelines.evaluate.cohort import Evaluation
from neurostorm_app.pipelines.evaluate.conformal import conformal_bounds
from neurostorm_app.pipelines.evaluate.estimators import NestedLearner
from neurostorm_app.pipelines.evaluate.folds import derived_seed, outer_folds
from neurostorm_app.pipelines.evaluate.intervals import metric_intervals
from neurostorm_app.pipelines.evaluate.logistic import Logistic
from neurostorm_app.pipelines.evaluate.nested import Recipe, indicators, iter_folds
from neurostorm_app.pipelines.evaluate.permute import permutation_test
from neurostorm_app.pipelines.evaluate.ridge import Ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design, Target
    from neurostorm_app.pipelines.evaluate.estimators import Learner, Step
    from neurostorm_app.pipelines.evaluate.folds import Folds

__all__ = ["choose_learner", "evaluate", "evaluate_baseline"]


def choose_learner(target: Target, design: Design) -> Learner:
    """Choose a ridge for a value, and the design's classifier for classes."""
    if target.kind == "value":
        return Ridge(n_folds=design.n_folds)
    if design.classifier == "logistic":
        return Logistic(n_folds=design.n_folds)
    return Ridge(coding="fisher", n_folds=design.n_folds)


def evaluate(
    cohort: Cohort,
    source: str,
    design: Design,
    *,
    steps: Sequence[Step] = (),
    learner: Learner | None = None,
) -> Evaluation:
    """Find out how well a source tells the target.

    Parameters
    ----------
    cohort : Cohort
        Rows, features, target.
    source : str
        Label of the features.
    design : Design
        Folds, repeats, permutations, draws, confidence, seed.
    steps : sequence of Step
        In the order they are applied; ``Standardise`` is not one of them unless it is given.
    learner : Learner or None
        What learns; None for the design's.

    Returns
    -------
    Evaluation
        Out-of-fold predictions with what they are worth. Of a value also conformal bounds; a
        p-value if the learner is permutable.

    Raises
    ------
    UsageError
        If the cohort has no such source, or no such strata.
    DataError
        If the groups cannot be split.
    """
    recipe = Recipe(
        source=source, steps=steps, learner=learner or choose_learner(cohort.target, design)
    )
    folds = outer_folds(cohort, design)
    found = replace(_predict(cohort, recipe, design, folds), notes=(*folds.notes, *_limits(recipe)))
    if cohort.target.kind == "value" and recipe.learner.permutable:
        bounds = conformal_bounds(cohort, recipe, design, folds.numbers[0])
        found = replace(
            found,
            lower=bounds.lower,
            upper=bounds.upper,
            coverage=bounds.coverage,
            width=bounds.width,
            notes=(*found.notes, *bounds.notes),
        )
    found = _measured(cohort, found, design)
    if not (design.n_permutations and recipe.learner.permutable):
        return found
    chance = permutation_test(cohort, recipe, design)
    return replace(
        found,
        p_value=chance.p_value,
        n_permutations=design.n_permutations,
        null=chance.null,
        notes=(*found.notes, *chance.notes),
    )


def evaluate_baseline(cohort: Cohort, design: Design) -> Evaluation:
    """Find out how well the mean, or the most frequent class, does on the same folds.

    Parameters
    ----------
    cohort : Cohort
        Rows and target; features are not looked at.
    design : Design
        Folds, repeats, draws, confidence, seed.

    Returns
    -------
    Evaluation
        Source ``baseline``; no p-value and no bounds.
    """
    folds = outer_folds(cohort, design)
    told = _told(cohort.target)
    reference = np.mean([_training_means(told, numbers) for numbers in folds.numbers], axis=0)
    is_value = cohort.target.kind == "value"
    found = Evaluation(
        source="baseline",
        learner="mean" if is_value else "majority",
        n_rows=cohort.n_rows,
        n_participants=cohort.n_participants,
        n_groups=cohort.n_groups,
        predicted=reference[:, 0] if is_value else reference.argmax(axis=1).astype(np.float64),
        reference=reference[:, 0] if is_value else reference,
        probabilities=None if is_value else reference,
        notes=folds.notes,
    )
    return _measured(cohort, found, design)


def _limits(recipe: Recipe) -> tuple[str, ...]:
    """Note what this learner does otherwise."""
    notes = []
    if not recipe.learner.permutable:
        notes.append(f"no permutation test with {recipe.learner.name}: it would take hours")
    if recipe.steps and not isinstance(recipe.learner, NestedLearner):
        notes.append(
            f"steps were fitted once on the training rows of a fold, not anew in the inner folds "
            f"of {recipe.learner.name}"
        )
    return tuple(notes)


def _told(target: Target) -> NDArray[np.float64]:
    """Give a value as a column (N, 1), classes as indicators (N, C)."""
    if target.kind == "value":
        return target.values.astype(np.float64)[:, None]
    return np.eye(len(target.classes))[target.values.astype(np.int64)]


def _training_means(told: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give each row the mean of the rows that are not held out with it."""
    means = np.empty_like(told)
    for fold in range(int(numbers.max()) + 1):
        means[numbers == fold] = told[numbers != fold].mean(axis=0)
    return means


def _predict(cohort: Cohort, recipe: Recipe, design: Design, folds: Folds) -> Evaluation:
    """Predict every row in every repeat, and average."""
    target, y = cohort.target, indicators(cohort.target)
    n_classes, classes = len(target.classes), target.values.astype(np.int64)
    found = np.zeros((cohort.n_rows, max(n_classes, 1)))
    reference = np.zeros_like(found)
    for repeat, numbers in enumerate(folds.numbers):
        reference += _training_means(_told(target), numbers) / len(folds.numbers)
        seed = derived_seed(design.seed, repeat, 5)
        for fold in iter_folds(cohort, recipe, y, numbers=numbers, seed=seed):
            told = fold.scores
            if target.kind == "classes":
                curve = fit_calibration(fold.fitted.inner, classes[fold.train], n_classes)
                told = curve.probabilities(fold.scores)
            found[fold.test] += told / len(folds.numbers)
    is_value = target.kind == "value"
    return Evaluation(
        source=recipe.source,
        learner=recipe.learner.name,
        n_rows=cohort.n_rows,
        n_participants=cohort.n_participants,
        n_groups=cohort.n_groups,
        predicted=found[:, 0] if is_value else decide(found, reference).astype(np.float64),
        reference=reference[:, 0] if is_value else reference,
        probabilities=None if is_value else found,
    )


def _measured(cohort: Cohort, found: Evaluation, design: Design) -> Evaluation:
    """Add metrics with their intervals."""
    metrics, notes = metric_intervals(cohort, found, design)
    return replace(found, metrics=metrics, notes=(*found.notes, *notes))
