"""Logistic regression of classes, its penalty chosen in grouped inner folds.

Slower than the ridge, and fitted one target at a time, so no permutation test is run with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax

from neurostorm_app.pipelines.evaluate.folds import inner_folds
from neurostorm_app.pipelines.evaluate.ridge import Plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.estimators import View

__all__ = ["FittedLogistic", "Logistic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """Logistic regression with an L2 penalty; classes weigh alike however rare one is.

    Rows are turned onto at most n axes first, which changes nothing under an L2 penalty (the
    weights lie in the span of the training rows) and much of the time.

    Parameters
    ----------
    n_folds : int
        Inner folds.
    factors : tuple of float
        Penalties tried, in units of the mean squared length of a centred training row.

    References
    ----------
    Hastie and Tibshirani, Efficient quadratic regularization for expression arrays,
    Biostatistics 2004, for the rotation.
    """

    n_folds: int = 5
    factors: tuple[float, ...] = tuple(float(f) for f in np.logspace(-3, 4, 8))
    name: str = field(default="logistic", init=False)
    permutable: bool = field(default=False, init=False)

    def fit(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        groups: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedLogistic:
        """Learn y (n, K) from x (n, D) as it stands; see ``fit_nested``."""
        return self.fit_nested(Plain(x=x), y, groups, seed=seed)

    def fit_nested(
        self,
        view: View | Plain,
        y: NDArray[np.float64],
        groups: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedLogistic:
        """Learn indicators, steps and rotation anew in each inner fold.

        Parameters
        ----------
        view : View
            Features of the n training rows.
        y : ndarray, shape (n, K), float64
            One column of the second of two classes, or a column for each of more.
        groups : ndarray, shape (n,), int64
            What stays together in inner folds.
        seed : int
            Of the inner folds.

        Returns
        -------
        FittedLogistic
            At the penalty whose inner out-of-fold balanced log loss is least.
        """
        everyone = np.arange(len(y))
        x = view.split(everyone, everyone[:0])[0]
        penalties = float(x.var(axis=0).sum() or 1.0) * np.asarray(self.factors)
        numbers = inner_folds(y, groups, self.n_folds, seed=seed)
        inner = np.empty((penalties.size, *y.shape))
        for fold in range(int(numbers.max()) + 1):
            train, test = np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)
            x_train, x_test = view.split(train, test)
            rotation = _rotation(x_train)
            for k, penalty in enumerate(penalties):
                fitted = _solve(x_train @ rotation, y[train], float(penalty))
                inner[k, test] = (x_test @ rotation) @ fitted[0] + fitted[1]
        best = int(np.argmin([_balanced_loss(inner[k], y) for k in range(penalties.size)]))
        rotation = _rotation(x)
        weights, intercept = _solve(x @ rotation, y, float(penalties[best]))
        return FittedLogistic(
            inner=inner[best],
            penalty=float(penalties[best]),
            weights=rotation @ weights,
            intercept=intercept,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLogistic:
    """Weights at the chosen penalty.

    Parameters
    ----------
    inner : ndarray, shape (n, K), float64
        Grouped out-of-fold scores of the training rows, at the chosen penalty.
    penalty : float
        What was chosen.
    weights : ndarray, shape (D, K), float64
        Of features.
    intercept : ndarray, shape (K,), float64
        Score of a row of zeros.
    """

    inner: NDArray[np.float64]
    penalty: float
    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def scores(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give scores (m, K) of features (m, D): log odds, without the prevalences."""
        scores: NDArray[np.float64] = x @ self.weights + self.intercept
        return scores


def _rotation(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give orthonormal axes (D, p) that span the rows (n, D), p at most n."""
    if x.shape[1] <= x.shape[0]:
        return np.eye(x.shape[1])
    return np.linalg.qr(x.T)[0]


def _solve(
    x: NDArray[np.float64], y: NDArray[np.float64], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit weights (p, K) and intercept (K,); a class that is not there keeps the score 0."""
    from sklearn.linear_model import LogisticRegression

    classes = y[:, 0].astype(np.int64) if y.shape[1] == 1 else y.argmax(axis=1)
    weights, intercept = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    present = np.unique(classes)
    if present.size < 2:
        return weights, intercept
    fitted = LogisticRegression(
        C=1 / penalty, class_weight="balanced", max_iter=10_000, tol=1e-6
    ).fit(x, classes)
    if present.size > 2 or y.shape[1] == 1:
        columns = present if y.shape[1] > 1 else np.array([0])
        weights[:, columns], intercept[columns] = fitted.coef_.T, fitted.intercept_
    else:  # two of several classes: the one score is theirs, with either sign
        weights[:, present] = fitted.coef_.T * np.array([-0.5, 0.5])
        intercept[present] = fitted.intercept_ * np.array([-0.5, 0.5])
    return weights, intercept


def _balanced_loss(scores: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Mean over classes of the mean log loss of their rows."""
    if y.shape[1] == 1:
        scores, y = np.hstack([np.zeros_like(scores), scores]), np.hstack([1 - y, y])
    losses = -(y * log_softmax(scores, axis=1)).sum(axis=0)
    return float((losses / np.maximum(y.sum(axis=0), 1)).mean())
