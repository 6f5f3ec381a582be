"""How far a metric may be off: bootstrap over participants.

People are drawn with replacement, all rows of a person together, and the metric is measured of
the out-of-fold predictions of those drawn. The interval says how much the metric would move with
other people to *test* on. It does not contain how much it would move with other people to *train*
on, nor with other folds: the fitted models stay as they are. It is therefore somewhat too narrow
for the question how well the method would do in another cohort, and right for the question how
well it did here beyond the luck of who was here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.evaluate.cohort import Interval, group_numbers
from neurostorm_app.pipelines.evaluate.folds import derived_seed
from neurostorm_app.pipelines.evaluate.metrics import is_degenerate, measure, primary_metric

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design, Evaluation

__all__ = ["difference_interval", "iter_draws", "metric_intervals"]

MIN_UNITS = 10
"""With fewer groups than this a bootstrap of groups says next to nothing; people are drawn."""
BLOCK = 1 << 22
"""Numbers of weightings held at once: 32 MiB."""
NOT_IN_INTERVALS = (
    "intervals of metrics are over participants to test on; how much other training participants "
    "would change is not in them"
)


def metric_intervals(
    cohort: Cohort, found: Evaluation, design: Design
) -> tuple[dict[str, Interval], tuple[str, ...]]:
    """Measure out-of-fold predictions, with intervals.

    Parameters
    ----------
    cohort : Cohort
        The rows that were predicted.
    found : Evaluation
        Their predictions.
    design : Design
        Number of draws, confidence, seed.

    Returns
    -------
    dict of str to Interval, and tuple of str
        By metric, the primary one first; and what limits the intervals.
    """
    values = {name: float(v[0]) for name, v in measure(cohort.target, found).items()}
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in values}
    again = 0
    for weights, rejected in iter_draws(cohort, design):
        again += rejected
        for name, some in measure(cohort.target, found, weights).items():
            drawn[name].append(some)
    notes = [NOT_IN_INTERVALS]
    if _draws_people(cohort):
        notes.append(
            f"intervals draw participants, not groups: there are only {cohort.n_groups} groups"
        )
    if again:
        notes.append(f"{again} bootstrap draws lacked a class or a difference and were drawn again")
    intervals = {
        name: _interval(value, np.concatenate(drawn[name]), design.confidence)
        for name, value in values.items()
    }
    return intervals, tuple(notes)


def difference_interval(
    cohort: Cohort, one: Evaluation, other: Evaluation, design: Design
) -> Interval:
    """Measure how much better one source is than another, in the primary metric, paired.

    The same people are drawn for both, so that what is hard about a person cancels out.

    Parameters
    ----------
    cohort : Cohort
        The rows that both predicted.
    one, other : Evaluation
        Their predictions.
    design : Design
        Number of draws, confidence, seed.

    Returns
    -------
    Interval
        Of the metric of ``one`` less that of ``other``.
    """
    name = primary_metric(cohort.target)

    def difference(weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Measure both under the same weightings."""
        first = measure(cohort.target, one, weights)[name]
        return first - measure(cohort.target, other, weights)[name]

    drawn = [difference(weights) for weights, _ in iter_draws(cohort, design)]
    return _interval(float(difference(None)[0]), np.concatenate(drawn), design.confidence)


def iter_draws(cohort: Cohort, design: Design) -> Iterator[tuple[NDArray[np.float64], int]]:
    """Draw groups with replacement, or participants where groups are fewer than ten.

    Draws without a class, or in which the value does not differ, are drawn again; whether one is
    depends on the target alone, so that all sources meet the same draws.

    Parameters
    ----------
    cohort : Cohort
        Rows with their groups.
    design : Design
        Number of draws and seed.

    Yields
    ------
    tuple of ndarray, shape (b, N), float64, and int
        How often each row counts, ``n_bootstraps`` in all; and how many were drawn again.
    """
    units = group_numbers(cohort.participants if _draws_people(cohort) else cohort.groups)
    n_units = int(units.max()) + 1
    rng = np.random.default_rng(derived_seed(design.seed, 2))
    most = max(1, BLOCK // cohort.n_rows)
    left = design.n_bootstraps
    while left:
        counts = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=min(left, most))
        weights = counts[:, units].astype(np.float64)
        wrong = is_degenerate(cohort.target, weights)
        left -= int((~wrong).sum())
        yield weights[~wrong], int(wrong.sum())


def _draws_people(cohort: Cohort) -> bool:
    """Tell whether groups are too few to draw."""
    return cohort.n_groups < MIN_UNITS and cohort.n_groups < cohort.n_participants


def _interval(value: float, drawn: NDArray[np.float64], confidence: float) -> Interval:
    """Give the percentiles of draws about a value."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=value, low=float(low), high=float(high))
