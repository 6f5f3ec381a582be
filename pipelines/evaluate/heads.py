r"""A head that is kept: ridge regression of a target on embeddings, fitted on all rows.

.. math:: s = x W + b

Standardisation is folded into :math:`W` and :math:`b`. Of classes, a curve makes probabilities of
:math:`s`; of a value, :math:`s` is the value, and an interval of one half-width lies around it.
Curve and half-width come from grouped out-of-fold scores of the rows the head was fitted on.

What is kept is a safetensors file of plain arrays and a card in JSON. Nothing in them names a
person, and nothing in them can run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.errors import ContractError, DataError
from neurostorm_app.models.card import fill_contract
from neurostorm_app.pipelines.evaluate.calibrate import decide

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.calibrate import Calibration
    from neurostorm_app.pipelines.evaluate.cohort import Target

__all__ = ["LEARNER", "Applied", "Head", "apply_head", "check_fingerprint"]

LEARNER: Final = "ridge"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A fitted head.

    Parameters
    ----------
    source : str
        BIDS label of the model whose embeddings it takes.
    fingerprint : mapping
        What made the embeddings: weights, contract, space, dimension; must be equal where the
        head is applied, see `check_fingerprint`.
    target : Target
        Name, kind, classes and unit; without values.
    weights : ndarray, shape (D, K), float64
        K is 1 for a value and for two classes, else the number of classes.
    intercept : ndarray, shape (K,), float64
        Added.
    calibration : Calibration or None
        From scores to probabilities of classes.
    half_width : float or None
        Of the interval of a value; None where rows are too few for the confidence.
    confidence : float
        Share of new people that the interval holds, if they are like those of the cohort.
    n_rows, n_participants : int
        What it was fitted on.
    per_session : bool
        Rows were sessions.
    performance : mapping
        Metrics of the same learner out of fold: value, low, high.
    demo : bool
        The weights are not for science, nor is the head.
    """

    source: str
    fingerprint: Mapping[str, Any]
    target: Target
    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]
    calibration: Calibration | None
    half_width: float | None
    confidence: float
    n_rows: int
    n_participants: int
    per_session: bool
    performance: Mapping[str, Mapping[str, float | None]]
    demo: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Applied:
    """What a head says of new rows.

    Parameters
    ----------
    predicted : ndarray, shape (m,), float64
        A value, or the index of a class: the one most above its share in the cohort.
    lower, upper : ndarray, shape (m,), float64, or None
        Bounds of a value.
    probabilities : ndarray, shape (m, C), float64, or None
        Of classes.
    """

    predicted: NDArray[np.float64]
    lower: NDArray[np.float64] | None = None
    upper: NDArray[np.float64] | None = None
    probabilities: NDArray[np.float64] | None = None


def apply_head(head: Head, features: NDArray[np.floating]) -> Applied:
    """Apply a head to embeddings.

    Parameters
    ----------
    head : Head
        From `fit_head`, or read from a file.
    features : ndarray, shape (m, D)
        One vector a row, made as those of the cohort: see `check_fingerprint`.

    Raises
    ------
    DataError
        If the vectors have another length, or are not finite.
    """
    if features.ndim != 2 or features.shape[1] != len(head.weights):
        raise DataError(
            f"features of the shape {features.shape} for a head of {len(head.weights)} dimensions",
            fix="give embeddings of the model that the head was fitted on",
        )
    if not np.isfinite(features).all():
        raise DataError(
            "an embedding that a head is applied to holds numbers that are not finite",
            fix="embed the run again",
        )
    scores = features.astype(np.float64) @ head.weights + head.intercept
    if head.calibration is not None:
        shares = head.calibration.probabilities(scores)
        chosen = decide(shares, head.calibration.prevalences)
        return Applied(predicted=chosen.astype(np.float64), probabilities=shares)
    values = scores[:, 0]
    if head.half_width is None:
        return Applied(predicted=values)
    return Applied(predicted=values, lower=values - head.half_width, upper=values + head.half_width)


def check_fingerprint(
    head: Head, source: str, fingerprint: Mapping[str, Any], *, beside: Collection[str] = ()
) -> None:
    """Refuse embeddings that were made otherwise than those the head was fitted on.

    Parameters
    ----------
    head : Head
        The head.
    source : str
        Label of the model of the embeddings.
    fingerprint : mapping
        What made them.
    beside : collection of str
        What either may say and may differ in, for it does not change vectors.

    Raises
    ------
    ContractError
        If label, weights, contract, space or dimension differ; the differences are named.
    """
    if source != head.source:
        raise ContractError(
            f"the head takes embeddings of {head.source}, and these are of {source}",
            fix=f"embed with {head.source}",
        )
    mine, theirs = _in_full(head.fingerprint), _in_full(fingerprint)
    keys = sorted({*mine, *theirs} - set(beside))
    wrong = [key for key in keys if mine.get(key) != theirs.get(key)]
    if wrong:
        raise ContractError(
            f"the embeddings of {source} were made otherwise than those the head was fitted on; "
            f"different are {', '.join(wrong)}",
            fix="embed with the weights, atlas, space and options named in the head's card",
        )


def _in_full(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    if "Contract" not in fingerprint:
        return dict(fingerprint)
    return {**fingerprint, "Contract": fill_contract(fingerprint["Contract"])}
