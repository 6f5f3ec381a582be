"""Fit a head on all rows of a cohort, and say what it is worth on rows it has not seen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.evaluate.calibrate import fit_calibration
from neurostorm_app.pipelines.evaluate.cohort import Target, group_numbers
from neurostorm_app.pipelines.evaluate.crossvalidate import evaluate
from neurostorm_app.pipelines.evaluate.estimators import Standardise, View, fit_steps
from neurostorm_app.pipelines.evaluate.heads import LEARNER, Head
from neurostorm_app.pipelines.evaluate.nested import indicators
from neurostorm_app.pipelines.evaluate.ridge import Ridge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design, Evaluation
    from neurostorm_app.pipelines.evaluate.ridge import FittedRidge

__all__ = ["fit_head", "half_width", "performance_of"]


def fit_head(
    cohort: Cohort,
    source: str,
    design: Design,
    *,
    fingerprint: Mapping[str, Any],
    demo: bool,
    performance: Mapping[str, Mapping[str, float | None]],
) -> Head:
    """Fit a head on all rows of a cohort.

    Covariates are not taken off and sites are not harmonised: a head that did would need them of
    each new person, and of a site that is among those of the cohort.

    Parameters
    ----------
    cohort : Cohort
        Rows, features, target.
    source : str
        Label of the features.
    design : Design
        Confidence, inner folds and seed.
    fingerprint : mapping
        What made the features.
    demo : bool
        Whether the model's weights are not for science.
    performance : mapping
        Out-of-fold metrics of ridge regression of this source on this target.

    Returns
    -------
    Head
        Ready to be applied to new people.

    Raises
    ------
    UsageError
        If the design harmonises sites.
    """
    if design.harmonise != "none":
        raise UsageError(
            f"a head cannot be kept with harmonise {design.harmonise}: it would take the site of "
            "each new person",
            fix="leave out --harmonise, or --save-heads",
        )
    target, rows = cohort.target, np.arange(cohort.n_rows)
    classes = target.kind == "classes"
    learner = Ridge(coding="fisher" if classes else "plain", n_folds=design.n_folds)
    view = View(cohort=cohort, source=source, steps=(Standardise(),), rows=rows)
    groups = group_numbers(cohort.groups)
    fitted = learner.fit_nested(view, indicators(target), groups, seed=design.seed)
    weights, intercept = _fold(cohort, source, fitted)
    numbers = np.asarray(target.values)
    return Head(
        source=source,
        fingerprint=fingerprint,
        target=Target(
            name=target.name,
            kind=target.kind,
            values=np.empty(0),
            classes=target.classes,
            unit=target.unit,
        ),
        weights=weights,
        intercept=intercept,
        calibration=fit_calibration(fitted.inner, numbers.astype(np.int64), len(target.classes))
        if classes
        else None,
        half_width=None
        if classes
        else half_width(np.abs(fitted.inner[:, 0] - numbers), design.confidence),
        confidence=design.confidence,
        n_rows=cohort.n_rows,
        n_participants=cohort.n_participants,
        per_session=cohort.rows != cohort.participants,
        performance=performance,
        demo=demo,
    )


def performance_of(
    cohort: Cohort, source: str, design: Design, evaluation: Evaluation
) -> dict[str, dict[str, float | None]]:
    """Bring out-of-fold metrics of what a head learns by to what a card holds.

    Parameters
    ----------
    cohort : Cohort
        Rows, features, target.
    source : str
        Label of the features.
    design : Design
        Of the evaluation.
    evaluation : Evaluation
        Of the source. If something else than ridge regression learned in it, the metrics are
        found anew.

    Returns
    -------
    dict
        Value, low and high by metric, to four digits: of few people more could be told from more.
    """
    if evaluation.learner != LEARNER:
        ridge = replace(design, classifier="ridge", n_permutations=0)
        evaluation = evaluate(cohort, source, ridge, steps=(Standardise(),))
    return {
        name: {
            key: None if math.isnan(bound) else float(f"{bound:.4g}")
            for key, bound in (("Value", m.value), ("Low", m.low), ("High", m.high))
        }
        for name, m in evaluation.metrics.items()
    }


def _fold(
    cohort: Cohort, source: str, fitted: FittedRidge
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fold standardisation and centring into weights (D, K) and intercept (K,)."""
    rows = np.arange(cohort.n_rows)
    (standardise,), _, _ = fit_steps(cohort, source, (Standardise(),), train=rows, test=rows[:0])
    n_columns = cohort.features[source].shape[1]
    # A standardised row is (x - mean) * scale: two rows tell both.
    told = standardise.apply(np.vstack([np.zeros(n_columns), np.ones(n_columns)]), rows[:2], cohort)
    scale = told[1] - told[0]
    weights = scale[:, None] * fitted.weights
    intercept = (told[0] - fitted.mean) @ fitted.weights + fitted.intercept
    return weights, intercept


def half_width(errors: NDArray[np.float64], confidence: float) -> float | None:
    """Find the half-width of an interval that holds a share of new rows.

    Parameters
    ----------
    errors : ndarray, shape (n,), float64
        Absolute out-of-fold errors.
    confidence : float
        The share.

    Returns
    -------
    float or None
        The ``ceil((n + 1) * confidence)``-th smallest; None if there are not so many.

    References
    ----------
    Barber, Candes, Ramdas and Tibshirani (2021), Predictive inference with the jackknife+,
    Annals of Statistics 49: the CV interval around the fit on all rows.

    Examples
    --------
    >>> half_width(np.arange(1.0, 20), 0.9), half_width(np.ones(5), 0.9)
    (18.0, None)
    """
    place = math.ceil((errors.size + 1) * confidence - 1e-9)
    return None if place > errors.size else float(np.sort(errors)[place - 1])
