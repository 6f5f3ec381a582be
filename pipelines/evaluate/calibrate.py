r"""Scores become probabilities, by a logistic curve fitted to out-of-fold scores.

With scores :math:`s_c` of C classes (of two classes: 0 and the one score)

.. math:: p_c \propto \exp(a\, s_c + b_c), \quad a \ge 0 .

For two classes this is Platt's curve; for more it is temperature scaling with a bias for each
class. The slope may not be negative: a learner whose out-of-fold scores point the wrong way has
learned nothing, and everyone then gets the prevalences. The biases bear no penalty, so the mean
probability of a class is its prevalence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Calibration", "decide", "fit_calibration"]

PRIOR_SD = 5.0
"""Of the slope, in units of one over the standard deviation of the scores: weak, but enough to
keep it finite where few rows are told apart without an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The curve from scores to probabilities.

    Parameters
    ----------
    slope : float
        What scores are multiplied by, 0 or more.
    biases : ndarray, shape (C,), float64
        What is added for each class; that of the first class is 0 unless the slope is.
    prevalences : ndarray, shape (C,), float64
        Shares of the classes among the rows it was fitted on.
    """

    slope: float
    biases: NDArray[np.float64]
    prevalences: NDArray[np.float64]

    def probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give probabilities (m, C) of scores (m, C), or (m, 1) of two classes."""
        logits = self.slope * _all_columns(scores) + self.biases
        return np.asarray(softmax(logits, axis=1), dtype=np.float64)


def fit_calibration(
    scores: NDArray[np.float64], classes: NDArray[np.int64], n_classes: int
) -> Calibration:
    """Fit the curve.

    Parameters
    ----------
    scores : ndarray, shape (n, C), or (n, 1) of two classes, float64
        Out-of-fold: never those of rows the learner was fitted on.
    classes : ndarray, shape (n,), int64
        What the rows are; each class occurs.
    n_classes : int
        C.

    Returns
    -------
    Calibration
        Of the largest penalised likelihood.

    References
    ----------
    Platt, Probabilistic outputs for support vector machines, 1999; Alexandari, Kundaje and
    Shrikumar, Maximum likelihood with bias-corrected calibration, ICML 2020. Instead of Platt's
    softened targets a normal prior bounds the slope, which leaves the prevalences as they are.
    """
    columns = _all_columns(scores)
    told = np.eye(n_classes)[classes]
    prevalences = told.mean(axis=0)
    flat = Calibration(slope=0.0, biases=np.log(prevalences), prevalences=prevalences)
    spread = float(columns.std()) if scores.shape[1] > 1 else float(scores.std())
    if spread <= 1e-12 * max(float(np.abs(scores).max()), 1e-300):
        return flat
    columns = columns / spread
    # Convex: where the likelihood does not rise from a slope of 0, 0 is the best that is allowed.
    if ((told - prevalences) * columns).sum() <= 0:
        return flat

    def loss(free: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Give the penalised negative log likelihood, and its gradient."""
        slope, biases = free[0], np.concatenate([[0.0], free[1:]])
        logs = log_softmax(slope * columns + biases, axis=1)
        wrong = np.exp(logs) - told
        gradient = np.concatenate([[(wrong * columns).sum()], wrong.sum(axis=0)[1:]])
        gradient[0] += slope / PRIOR_SD**2
        return float(-(told * logs).sum() + 0.5 * (slope / PRIOR_SD) ** 2), gradient

    start = np.concatenate([[0.0], np.log(prevalences[1:] / prevalences[0])])
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-7}).x
    return Calibration(
        slope=max(float(found[0]), 0.0) / spread,
        biases=np.concatenate([[0.0], found[1:]]),
        prevalences=prevalences,
    )


def decide(
    probabilities: NDArray[np.float64], prevalences: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Choose the class whose probability is most above its prevalence, (m,).

    This is the rule that makes balanced accuracy largest: with the more probable class, a rare
    one would never be chosen.

    Parameters
    ----------
    probabilities : ndarray, shape (m, C), float64
        Calibrated at the prevalences.
    prevalences : ndarray, shape (C,) or (m, C), float64
        Shares of the classes among the training rows.

    Returns
    -------
    ndarray, shape (m,), int64
        Index of the class; the first of equals.

    Examples
    --------
    >>> decide(np.array([[0.8, 0.2], [0.95, 0.05]]), np.array([0.9, 0.1]))
    array([1, 0])
    """
    ratio = np.round(probabilities / prevalences, 12)  # equal but for rounding is equal
    return np.asarray(ratio.argmax(axis=1), dtype=np.int64)


def _all_columns(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give a column for each class."""
    if scores.shape[1] > 1:
        return scores
    return np.hstack([np.zeros_like(scores), scores])
