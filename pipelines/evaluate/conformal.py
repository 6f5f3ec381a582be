r"""Intervals of a predicted value that hold whatever its distribution: CV+, by MAPIE.

In each outer fold the training rows are split into grouped inner folds; each inner model gives
the residuals of the rows it was fitted without, and predictions of the held-out rows. With the
confidence :math:`1 - \alpha` and n training rows CV+ covers a new, exchangeable row with a
probability of at least :math:`1 - 2\alpha - \sqrt{2/n}`, and in practice of about
:math:`1 - \alpha` (Barber, Candès, Ramdas and Tibshirani, Predictive inference with the
jackknife+, Annals of Statistics 2021, theorem 4).

The guarantee is about exchangeable rows. Rows of one participant, family or site are alike, so
with several rows a group it holds for groups only in so far as they are as many and alike; folds
are grouped, so that at least no residual is too small because a model knew the group. At a site
never seen, differences between sites add to the error as they do among the sites seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.pipelines.evaluate.cohort import group_numbers
from neurostorm_app.pipelines.evaluate.estimators import View
from neurostorm_app.pipelines.evaluate.folds import derived_seed, inner_folds
from neurostorm_app.pipelines.evaluate.nested import fit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design
    from neurostorm_app.pipelines.evaluate.estimators import Fitted
    from neurostorm_app.pipelines.evaluate.nested import Recipe

__all__ = ["Bounds", "conformal_bounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Intervals of the value of each row.

    Parameters
    ----------
    lower, upper : ndarray, shape (N,), float64, or None
        In the unit of the value; None if there are too few rows for the confidence.
    coverage : float or None
        Share of rows whose value lies inside.
    width : float or None
        Mean distance of the bounds.
    notes : tuple of str
        What the bounds promise, or why there are none.
    """

    lower: NDArray[np.float64] | None
    upper: NDArray[np.float64] | None
    coverage: float | None
    width: float | None
    notes: tuple[str, ...]


def conformal_bounds(
    cohort: Cohort, recipe: Recipe, design: Design, numbers: NDArray[np.int64]
) -> Bounds:
    """Give each row an interval from models that never saw its group.

    Parameters
    ----------
    cohort : Cohort
        Rows, features, a target that is a value.
    recipe : Recipe
        Source, steps, learner; all of it is fitted anew in each inner fold.
    design : Design
        Confidence, inner folds, seed.
    numbers : ndarray, shape (N,), int64
        The outer fold in which a row is held out: those of one repeat, because each takes
        n_folds + 1 nested fits a fold.

    Returns
    -------
    Bounds
        With the observed coverage, or without bounds where too few rows are there to learn from.
    """
    folds = range(int(numbers.max()) + 1)
    fewest = min(int((numbers != fold).sum()) for fold in folds)
    # Order statistics: one would be infinite below one row less, and MAPIE refuses that one too.
    needed = ceil(1 / (1 - design.confidence) - 1e-9)
    if fewest < needed:
        note = (
            f"no intervals of the value: a confidence of {design.confidence:g} takes {needed} "
            f"training rows, and a fold has {fewest}"
        )
        return Bounds(lower=None, upper=None, coverage=None, width=None, notes=(note,))
    lower, upper = np.empty(cohort.n_rows), np.empty(cohort.n_rows)
    for fold in folds:
        train, test = np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)
        bounds = _bounds(cohort, recipe, design, train=train, test=test)
        lower[test], upper[test] = bounds[:, 0], bounds[:, 1]
    values = cohort.target.values
    return Bounds(
        lower=lower,
        upper=upper,
        coverage=float(((values >= lower) & (values <= upper)).mean()),
        width=float((upper - lower).mean()),
        notes=(_promise(design.confidence),),
    )


def _promise(confidence: float) -> str:
    """Say what the bounds promise."""
    return (
        "intervals of the value are of the first repeat (CV+); at least "
        f"{2 * confidence - 1:.0%} of new rows lie inside if rows are exchangeable, about "
        f"{confidence:.0%} in practice"
    )


def _bounds(
    cohort: Cohort,
    recipe: Recipe,
    design: Design,
    *,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Let MAPIE make the intervals (m, 2) of one outer fold."""
    from mapie.regression import CrossConformalRegressor
    from sklearn.model_selection import PredefinedSplit

    seed = derived_seed(design.seed, 4)
    y = cohort.target.values[train].astype(np.float64)
    groups = group_numbers(cohort.groups)[train]
    inner = inner_folds(y[:, None], groups, design.n_folds, seed=seed)
    regressor: Any = RowRegressor(cohort=cohort, recipe=recipe, seed=seed)
    conformal = CrossConformalRegressor(
        regressor,
        confidence_level=design.confidence,
        method="plus",
        cv=PredefinedSplit(inner),
    )
    conformal.fit_conformalize(train[:, None], y)
    _, bounds = conformal.predict_interval(test[:, None])
    return np.asarray(bounds[:, :, 0], dtype=np.float64)


class RowRegressor:
    """A regressor of scikit-learn's kind whose features are numbers of rows.

    So steps and penalty are fitted inside, on the rows that MAPIE hands over and on no other.

    Parameters
    ----------
    cohort : Cohort
        Rows and features.
    recipe : Recipe
        Source, steps, learner.
    seed : int
        Of inner folds.
    """

    _estimator_type = "regressor"

    def __init__(self, *, cohort: Cohort, recipe: Recipe, seed: int) -> None:
        self.cohort, self.recipe, self.seed = cohort, recipe, seed

    def get_params(self, *, deep: bool = False) -> dict[str, Any]:  # noqa: ARG002 - sklearn's own
        """Give what a copy is made with."""
        return {"cohort": self.cohort, "recipe": self.recipe, "seed": self.seed}

    def __sklearn_clone__(self) -> RowRegressor:
        """Copy it without its cohort, of which each fold would keep a copy otherwise."""
        return RowRegressor(cohort=self.cohort, recipe=self.recipe, seed=self.seed)

    def fit(self, X: NDArray[np.int64], y: NDArray[np.float64]) -> RowRegressor:
        """Learn values (n,) of rows (n, 1)."""
        self.rows_: NDArray[np.int64] = X[:, 0]
        self.fitted_: Fitted = fit_rows(
            self.cohort, self.recipe, y[:, None], rows=self.rows_, seed=self.seed
        )
        return self

    def predict(self, X: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predict values (m,) of rows (m, 1), none of them of a group that was learned from."""
        everyone = np.arange(self.cohort.n_rows)
        recipe = self.recipe
        view = View(cohort=self.cohort, source=recipe.source, steps=recipe.steps, rows=everyone)
        return self.fitted_.scores(view.split(self.rows_, X[:, 0])[1])[:, 0]
