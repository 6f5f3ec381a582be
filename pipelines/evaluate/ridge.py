r"""Ridge regression of many targets at once, its penalty chosen in grouped inner folds.

One eigendecomposition of a training set serves all penalties and all targets: with
:math:`X_c = U S V^T` (columns centred) the scores of other rows are

.. math:: Z_t \, (S^2 + \alpha)^{-1} \, Z^T Y_c, \quad Z = X_c V, \; Z_t = (X_t - \bar{x}) V,

where ``V`` comes from :math:`X_c^T X_c` if there are more rows than columns, and otherwise, as
:math:`V = X_c^T U S^{-1}`, from :math:`X_c X_c^T` (the dual, or kernel, form). A thousand
permutations of a target are a thousand columns of ``Y``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurostorm_app.pipelines.evaluate.folds import inner_folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.estimators import View

__all__ = ["FACTORS", "FittedRidge", "Plain", "Ridge"]

FACTORS = tuple(float(f) for f in np.logspace(-3, 5, 13))
"""Penalties, in units of the mean squared length of a centred training row."""
BLOCK = 64
"""Targets whose scores at all penalties are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    r"""Ridge regression; the intercept bears no penalty.

    Parameters
    ----------
    coding : {"plain", "fisher"}
        ``plain`` regresses y as it is. ``fisher`` takes columns of 0 and 1 and codes them anew
        in each training set as :math:`(y - p) / (p (1 - p))`, p the share of ones, which is
        :math:`n/n_1` and :math:`-n/n_0`: both classes pull alike however rare one is, and scores
        have the mean 0, so that they compare between folds. A column without both classes
        gives the score 0.
    n_folds : int
        Inner folds.
    factors : tuple of float
        Penalties tried, in units of the mean squared length of a centred training row.

    References
    ----------
    Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd ed., 3.4.1 and
    18.3.5; Duda, Hart and Stork, Pattern Classification, 2nd ed., 5.8.2, for the coding.
    """

    coding: Literal["plain", "fisher"] = "plain"
    n_folds: int = 5
    factors: tuple[float, ...] = FACTORS
    name: str = field(default="ridge", init=False)
    permutable: bool = field(default=True, init=False)

    def fit(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        groups: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedRidge:
        """Learn y (n, K) from x (n, D) as it stands; see ``fit_nested``."""
        return self.fit_nested(Plain(x=x), y, groups, seed=seed)

    def fit_nested(
        self,
        view: View | Plain,
        y: NDArray[np.float64],
        groups: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedRidge:
        """Learn y (n, K), steps and decomposition anew in each inner fold.

        Parameters
        ----------
        view : View
            Features of the n training rows.
        y : ndarray, shape (n, K), float64
            Targets.
        groups : ndarray, shape (n,), int64
            What stays together in inner folds.
        seed : int
            Of the inner folds.

        Returns
        -------
        FittedRidge
            At the penalty whose summed squared inner out-of-fold error is least, by target.
        """
        everyone = np.arange(len(y))
        whole = _decompose(view.split(everyone, everyone[:0])[0])
        penalties = whole.mean_square * np.asarray(self.factors)
        numbers = inner_folds(y, groups, self.n_folds, seed=seed)
        parts = [self._part(view, y, numbers == fold) for fold in range(int(numbers.max()) + 1)]
        error = np.zeros((penalties.size, y.shape[1]))
        for part in parts:
            error += part.errors(penalties)
        chosen = penalties[error.argmin(axis=0)]
        inner = np.empty_like(y, dtype=np.float64)
        for part in parts:
            inner[part.held] = part.scores(chosen)
        coded, offset, _ = self._code(y)
        return FittedRidge(
            inner=inner,
            penalties=chosen,
            intercept=offset,
            mean=whole.mean,
            left=whole.left,
            right=whole.weights(coded, chosen),
        )

    def _part(self, view: View | Plain, y: NDArray[np.float64], held: NDArray[np.bool_]) -> _Part:
        """Decompose one inner fold."""
        train, test = np.flatnonzero(~held), np.flatnonzero(held)
        x_train, x_test = view.split(train, test)
        decomposed = _decompose(x_train)
        coded, offset, scale = self._code(y[train])
        told = (y[test] - y[train].mean(axis=0)) * scale if self.coding == "fisher" else y[test]
        return _Part(
            held=test,
            rotated=decomposed.rotate(x_test),
            squares=decomposed.squares,
            products=decomposed.rotated.T @ coded,
            offset=offset,
            told=told,
        )

    def _code(
        self, y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Centre and scale targets; give also the intercept and the scale, (K,) each."""
        mean = y.mean(axis=0)
        if self.coding == "plain":
            return y - mean, mean, np.ones_like(mean)
        variance = mean * (1 - mean)
        scale = np.divide(1.0, variance, out=np.zeros_like(mean), where=variance > 0)
        return (y - mean) * scale, np.zeros_like(mean), scale


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRidge:
    """Weights at the chosen penalties.

    Parameters
    ----------
    inner : ndarray, shape (n, K), float64
        Grouped out-of-fold scores of the training rows, at the chosen penalty.
    penalties : ndarray, shape (K,), float64
        What was chosen.
    intercept : ndarray, shape (K,), float64
        Score of a row at the mean.
    mean : ndarray, shape (D,), float64
        Of the training rows.
    left, right : ndarray, shape (D, q), (q, K), float64
        Their product is the weights; in the dual form the left is the training rows themselves,
        and the product is never made unless asked for.
    """

    inner: NDArray[np.float64]
    penalties: NDArray[np.float64]
    intercept: NDArray[np.float64]
    mean: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weights (D, K) of centred features."""
        return self.left @ self.right

    def scores(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give scores (m, K) of features (m, D)."""
        scores: NDArray[np.float64] = ((x - self.mean) @ self.left) @ self.right + self.intercept
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Features that no step changes."""

    x: NDArray[np.float64]

    def split(
        self, train: NDArray[np.int64], test: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give rows of both sides."""
        return self.x[train], self.x[test]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decomposed:
    """Centred rows U S V^T: V is ``left @ turn``, ``squares`` S^2 (p,), ``rotated`` U S (n, p)."""

    mean: NDArray[np.float64]
    left: NDArray[np.float64]
    turn: NDArray[np.float64] | None
    squares: NDArray[np.float64]
    rotated: NDArray[np.float64]

    @property
    def mean_square(self) -> float:
        """Mean squared length of a row; 1 where all are the same, so that a penalty is left."""
        return float(self.squares.sum()) / len(self.rotated) or 1.0

    def rotate(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn rows (m, D), as they stand, onto the axes: (m, p)."""
        turned: NDArray[np.float64] = (x - self.mean) @ self.left
        return turned if self.turn is None else turned @ self.turn

    def weights(
        self, coded: NDArray[np.float64], penalties: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Give what ``left`` is multiplied by to make the weights, (q, K)."""
        weights = (self.rotated.T @ coded) / (self.squares[:, None] + penalties)
        return weights if self.turn is None else self.turn @ weights


def _decompose(x: NDArray[np.float64]) -> _Decomposed:
    """Decompose rows (n, D) by the smaller of their two Gram matrices."""
    mean = x.mean(axis=0)
    x = x - mean
    dual = x.shape[1] > x.shape[0]
    squares, vectors = np.linalg.eigh(x @ x.T if dual else x.T @ x)
    # The mean takes one dimension away; what is left of it is rounding errors.
    kept = squares > squares.max(initial=0.0) * max(x.shape) * np.finfo(np.float64).eps
    squares, vectors = squares[kept], np.ascontiguousarray(vectors[:, kept])
    roots = np.sqrt(squares)
    return _Decomposed(
        mean=mean,
        left=x.T if dual else vectors,
        turn=vectors / roots if dual else None,
        squares=squares,
        rotated=vectors * roots if dual else x @ vectors,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One inner fold: rows held out (m, p) on the axes of the others, and Z^T Y (p, K)."""

    held: NDArray[np.int64]
    rotated: NDArray[np.float64]
    squares: NDArray[np.float64]
    products: NDArray[np.float64]
    offset: NDArray[np.float64]
    told: NDArray[np.float64]

    def errors(self, penalties: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum the squared errors of the rows held out, (A, K), a block of targets at a time."""
        shrink = 1 / (self.squares[:, None] + penalties)
        errors = np.empty((penalties.size, self.told.shape[1]))
        for begin in range(0, self.told.shape[1], BLOCK):
            block = slice(begin, begin + BLOCK)
            weights = shrink[:, :, None] * self.products[:, None, block]
            _, n_penalties, n_targets = weights.shape
            scores = self.rotated @ weights.reshape(self.squares.size, n_penalties * n_targets)
            scores = scores.reshape(len(self.held), n_penalties, n_targets)
            left = self.told[:, None, block] - self.offset[block] - scores
            errors[:, block] = np.einsum("iak,iak->ak", left, left)
        return errors

    def scores(self, penalties: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give scores (m, K) of the rows held out, each target at its penalty."""
        weights = self.products / (self.squares[:, None] + penalties)
        scores: NDArray[np.float64] = self.rotated @ weights + self.offset
        return scores
