"""How good predictions of participants are, each beside what a guess without a brain would get."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["measure_classes", "measure_values"]


def measure_classes(
    logits: NDArray[np.float64], truth: NDArray[np.int64], n_classes: int
) -> dict[str, float]:
    """Measure classes by logits.

    Parameters
    ----------
    logits : ndarray, shape (N, 1) or (N, C)
        One logit of the second of two classes, or one a class.
    truth : ndarray, shape (N,), int
        Index of the class.
    n_classes : int
        C.

    Returns
    -------
    dict
        ``accuracy``; ``accuracy_majority``, of the most frequent class of these participants;
        ``balanced_accuracy``, by chance one over the classes that are there; ``auroc`` of two
        classes that are both there.

    Examples
    --------
    >>> found = measure_classes(np.array([[-1.0], [2.0], [0.5]]), np.array([0, 1, 1]), 2)
    >>> found["accuracy"], found["auroc"]
    (1.0, 1.0)
    """
    one = logits.shape[1] == 1
    chosen = (logits[:, 0] >= 0).astype(np.int64) if one else logits.argmax(axis=1)
    hits = chosen == truth
    there = np.unique(truth)
    counts = np.bincount(truth, minlength=n_classes)
    measured = {
        "accuracy": float(hits.mean()),
        "accuracy_majority": float(counts.max() / len(truth)),
        "balanced_accuracy": float(np.mean([hits[truth == label].mean() for label in there])),
    }
    if one and len(there) == 2:
        positive, negative = logits[truth == 1, 0], logits[truth == 0, 0]
        pairs = np.sign(positive[:, None] - negative[None])
        measured["auroc"] = float((pairs.mean() + 1) / 2)
    return measured


def measure_values(
    predicted: NDArray[np.float64], truth: NDArray[np.float64], *, mean: float
) -> dict[str, float]:
    """Measure values in their unit.

    Parameters
    ----------
    predicted, truth : ndarray, shape (N,)
        In the unit of the target.
    mean : float
        Of the training participants: the guess without a brain.

    Returns
    -------
    dict
        ``mae`` and ``mae_mean`` (of that guess), in the unit. Where there are three participants or
        more who differ, ``r2``, against that guess, and ``r``, Pearson's.
    """
    error = predicted - truth
    total = float(np.square(truth - mean).sum())
    measured = {
        "mae": float(np.abs(error).mean()),
        "mae_mean": float(np.abs(truth - mean).mean()),
    }
    if len(truth) > 2 and total > 0:
        measured["r2"] = 1 - float(np.square(error).sum()) / total
    if len(truth) > 2 and truth.std() > 0 and predicted.std() > 0:
        measured["r"] = float(np.corrcoef(predicted, truth)[0, 1])
    return measured
