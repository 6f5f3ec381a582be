"""How good predictions are, for many weightings of the rows at once.

A weighting says how often each row counts: all once, or as often as a bootstrap drew it. What
the training rows alone say (their mean, their prevalences) is the reference of r2, of the
correlation and of the ranking, because it differs a little between folds, and against the values
held out: without it, predictions that know nothing would look worse than nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Evaluation, Target

__all__ = ["auroc", "is_degenerate", "measure", "primary_metric", "r_squared"]


def primary_metric(target: Target) -> str:
    """Name the metric that verdicts rest upon: ``r2`` of a value, ``auroc`` of classes."""
    return "r2" if target.kind == "value" else "auroc"


def measure(
    target: Target, found: Evaluation, weights: NDArray[np.float64] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Measure out-of-fold predictions.

    Parameters
    ----------
    target : Target
        What was to be predicted.
    found : Evaluation
        ``predicted`` and ``reference``; of classes ``probabilities``.
    weights : ndarray, shape (B, N), float64, or None
        How often each row counts; None for once, B = 1.

    Returns
    -------
    dict of str to ndarray, shape (B,), float64
        Of a value: ``r2`` against the training mean; ``r``, Pearson's correlation of value and
        prediction, the training mean taken off both (0 for a constant); ``mae``, in the unit of
        the value. Of classes: ``auroc``, the mean over classes of one against the rest, ranked
        by the odds over those of the prevalence; ``balanced_accuracy``; ``brier``, the mean
        squared error of the probability (of two classes that of the second; of more the sum over
        classes). The primary metric comes first. NaN for weightings that are degenerate.

    Raises
    ------
    UsageError
        If classes come without probabilities.
    """
    if weights is None:
        weights = np.ones((1, len(target.values)))
    if target.kind == "value":
        return _measure_value(target.values.astype(np.float64), found, weights)
    return _measure_classes(target, found, weights)


def is_degenerate(target: Target, weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find weightings (B, N) under which values do not differ, or a class is missing: (B,)."""
    if target.kind == "classes":
        counts = weights @ np.eye(len(target.classes))[target.values.astype(np.int64)]
        missing: NDArray[np.bool_] = (counts == 0).any(axis=1)
        return missing
    return _is_constant(target.values.astype(np.float64), weights)


def r_squared(
    values: NDArray[np.float64],
    predicted: NDArray[np.float64],
    reference: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    r"""Share of the squared error of the training mean that a prediction takes away.

    :math:`R^2 = 1 - \sum (y - \hat{y})^2 / \sum (y - \bar{y}_{train})^2`.

    Parameters
    ----------
    values, predicted, reference : ndarray, shape (N,) or (N, K), float64
        Values, predictions, means of the training rows.
    weights : ndarray, shape (B, N), float64
        How often each row counts.

    Returns
    -------
    ndarray, shape (B,) or (B, K), float64
        1 is perfect; 0 no better than the mean; below 0 worse.
    """
    share: NDArray[np.float64] = 1 - _ratio(
        weights @ (values - predicted) ** 2, weights @ (values - reference) ** 2
    )
    return share


def auroc(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Chance that a positive row scores above a negative one; ties count half.

    Parameters
    ----------
    scores : ndarray, shape (N,), float64
        Higher for positive.
    positive : ndarray, shape (N,), bool
        What the rows are.
    weights : ndarray, shape (B, N), float64
        How often each row counts.

    Returns
    -------
    ndarray, shape (B,), float64
        NaN where one of the two kinds is missing.

    Examples
    --------
    >>> auroc(np.array([1.0, 2, 2]), np.array([False, False, True]), np.ones((1, 3)))
    array([0.75])
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    above = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    below = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    lower = np.cumsum(below, axis=1) - below
    won = (above * (lower + below / 2)).sum(axis=1)
    return _ratio(won, above.sum(axis=1) * below.sum(axis=1))


def _measure_value(
    values: NDArray[np.float64], found: Evaluation, weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Measure predictions of a value."""
    told, truth = found.predicted - found.reference, values - found.reference
    n = weights.sum(axis=1)
    mean_told, mean_truth = weights @ told / n, weights @ truth / n
    covariance = weights @ (told * truth) / n - mean_told * mean_truth
    variance = weights @ told**2 / n - mean_told**2
    variances = variance * (weights @ truth**2 / n - mean_truth**2)
    # Differences of squares leave rounding errors where nothing is told.
    constant = variance <= 1e-12 * (weights @ truth**2 / n)
    r = np.where(constant, 0.0, _ratio(covariance, np.sqrt(np.maximum(variances, 0))))
    return {
        "r2": r_squared(values, found.predicted, found.reference, weights),
        "r": np.where(_is_constant(values, weights), np.nan, r),
        "mae": weights @ np.abs(values - found.predicted) / n,
    }


def _is_constant(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find weightings (B, N) that leave a single value, (B,)."""
    drawn = weights > 0
    highest = np.where(drawn, values, -np.inf).max(axis=1)
    same: NDArray[np.bool_] = highest == np.where(drawn, values, np.inf).min(axis=1)
    return same


def _measure_classes(
    target: Target, found: Evaluation, weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Measure probabilities of classes."""
    if found.probabilities is None:
        raise UsageError(
            f"the evaluation of {found.source} has no probabilities of {target.name}",
            fix="measure classes by what `evaluate` gave",
        )
    classes, n_classes = target.values.astype(np.int64), len(target.classes)
    told = np.eye(n_classes)[classes]
    odds = _log_odds(found.probabilities) - _log_odds(found.reference)
    areas, recalls = [], []
    right = (found.predicted == classes).astype(np.float64)
    for c in range(n_classes):
        member = told[:, c]
        areas.append(auroc(np.round(odds[:, c], 9), member > 0, weights))
        recalls.append(_ratio(weights @ (right * member), weights @ member))
    wrong = ((found.probabilities - told) ** 2).sum(axis=1) / (2 if n_classes == 2 else 1)
    return {
        "auroc": np.mean(areas, axis=0),
        "balanced_accuracy": np.mean(recalls, axis=0),
        "brier": weights @ wrong / weights.sum(axis=1),
    }


def _log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the logarithm of p / (1 - p), finite for 0 and 1."""
    p = np.clip(p, 1e-15, 1 - 1e-15)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def _ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; NaN where there is nothing to divide by."""
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)
