"""Calibration tables: what was predicted against what was observed, of groups of people.

Out-of-fold predictions are written and observed values are not. A table of small groups would
give these away, so a group has at least five participants, one of classes never holds people of
one kind alone, and numbers are rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Evaluation

__all__ = ["FEWEST", "MOST", "bin_rows", "calibration"]

FEWEST: Final = 5
"""Participants of a bin, at least."""
MOST: Final = 5
"""Bins, at most: with many bins of many models, single values could be solved for."""
STEP_OF_SHARE: Final = 0.05
STEP_OF_SD: Final = 0.1


def bin_rows(
    order: Sequence[int], people: Sequence[str], is_full: Callable[[list[int]], bool]
) -> list[list[int]]:
    """Cut rows in an order into bins of enough people, about equally many.

    Parameters
    ----------
    order : sequence of int
        Rows, sorted by what is predicted.
    people : sequence of str
        Participant of each row.
    is_full : callable
        What else a bin has to fulfil.

    Returns
    -------
    list of list of int
        Rows of each bin. A rest that makes no bin joins the last one; none if all rows make none.
    """
    wanted = max(FEWEST, -(-len(set(people)) // MOST))
    bins: list[list[int]] = [[]]
    for row in order:
        bins[-1].append(row)
        if len({people[i] for i in bins[-1]}) >= wanted and is_full(bins[-1]):
            bins.append([])
    rest = bins.pop()
    if rest and bins:
        bins[-1] += rest
    return bins


def calibration(cohort: Cohort, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Make the calibration table of a source.

    Parameters
    ----------
    cohort : Cohort
        With what was observed.
    evaluation : Evaluation
        With what was predicted out of fold.

    Returns
    -------
    list of dict
        One a bin: ``Class`` (of classes), ``Participants``, and the means ``Predicted`` and
        ``Observed``, rounded to 0.05 of shares and a tenth of a standard deviation of values.
    """
    values = np.asarray(cohort.target.values, dtype=np.float64)
    if evaluation.probabilities is None:
        step = STEP_OF_SD * float(values.std())
        return _table(cohort, evaluation.predicted, values, step=step)
    # Of two classes the second says all; of more each has a table.
    classes = cohort.target.classes
    shown = range(1, 2) if len(classes) == 2 else range(len(classes))
    return [
        {"Class": classes[index], **row}
        for index in shown
        for row in _table(
            cohort,
            evaluation.probabilities[:, index],
            (values == index).astype(np.float64),
            step=STEP_OF_SHARE,
        )
    ]


def _table(
    cohort: Cohort,
    predicted: NDArray[np.float64],
    observed: NDArray[np.float64],
    *,
    step: float,
) -> list[dict[str, Any]]:
    people = cohort.participants
    order = np.argsort(predicted, kind="stable").tolist()
    bins = bin_rows(order, people, lambda rows: np.unique(observed[rows]).size > 1)
    return [
        {
            "Participants": len({people[i] for i in rows}),
            "Predicted": _rounded(predicted[rows].mean(), step),
            "Observed": _rounded(observed[rows].mean(), step),
        }
        for rows in bins
    ]


def _rounded(value: float, step: float) -> float:
    return float(f"{round(float(value) / step) * step:.6g}")
