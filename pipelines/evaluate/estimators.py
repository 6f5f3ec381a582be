"""The only way from features to a learner: steps that are fitted on the rows that learn.

A learner never sees a cohort. It sees a ``View`` of the training rows of one outer fold, which
hands out features of some of them to learn from and of others to predict; all steps are fitted
on the former. Rows of one group on both sides are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.evaluate.cohort import group_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort

__all__ = [
    "Fitted",
    "FittedStep",
    "Learner",
    "NestedLearner",
    "Standardise",
    "Step",
    "View",
    "apply_steps",
    "fit_steps",
]


class Step(Protocol):
    """What changes features, and learns how from the rows given.

    A step that looks at the target has an attribute ``supervised`` that is True: a permutation
    test then fits it anew for each rearrangement.
    """

    @property
    def name(self) -> str:
        """How it is called in notes."""
        ...

    def fit(self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort) -> FittedStep:
        """Learn from features (n, D) of these rows of the cohort, and from no other row."""
        ...


class FittedStep(Protocol):
    """A step that has learned."""

    def apply(
        self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort
    ) -> NDArray[np.float64]:
        """Change features (m, D) of these rows."""
        ...


class Fitted(Protocol):
    """A learner that has learned.

    ``inner``, shape (n, K), holds grouped out-of-fold scores of the training rows at the chosen
    penalty, for calibration.
    """

    @property
    def inner(self) -> NDArray[np.float64]:
        """Out-of-fold scores of the training rows."""
        ...

    def scores(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give scores (m, K) of features (m, D)."""
        ...


@runtime_checkable
class Learner(Protocol):
    """What learns K targets at once from features that steps have changed.

    Of classes the columns of y are indicators, 0 or 1: one column of the second of two classes,
    C columns of more. ``permutable`` is False where a permutation test would take hours.
    """

    @property
    def name(self) -> str:
        """How it is called in tables."""
        ...

    @property
    def permutable(self) -> bool:
        """Whether many targets cost little more than one."""
        ...

    def fit(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        groups: NDArray[np.int64],
        *,
        seed: int,
    ) -> Fitted:
        """Learn y (n, K) from x (n, D); inner folds are grouped."""
        ...


@runtime_checkable
class NestedLearner(Learner, Protocol):
    """A learner that also fits the steps anew in each of its inner folds."""

    def fit_nested(
        self, view: View, y: NDArray[np.float64], groups: NDArray[np.int64], *, seed: int
    ) -> Fitted:
        """Learn y (n, K) of the n rows of a view."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Features of the training rows of one outer fold, and no way to the others.

    Parameters
    ----------
    cohort : Cohort
        Where the rows come from.
    source : str
        Label of the features.
    steps : sequence of Step
        In the order they are applied.
    rows : ndarray, shape (n,), int64
        The training rows; positions below count within them.
    """

    cohort: Cohort
    source: str
    steps: Sequence[Step]
    rows: NDArray[np.int64]

    def split(
        self, train: NDArray[np.int64], test: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give features of rows to learn from, and of others by the same steps.

        Parameters
        ----------
        train, test : ndarray, shape (n,), (m,), int64
            Positions in ``rows``.

        Returns
        -------
        tuple of ndarray, shape (n, D), (m, D), float64
            Changed by the steps, which were fitted on ``train`` alone.

        Raises
        ------
        DataError
            If rows of one group lie on both sides.
        """
        _, x_train, x_test = fit_steps(
            self.cohort, self.source, self.steps, train=self.rows[train], test=self.rows[test]
        )
        return x_train, x_test


def fit_steps(
    cohort: Cohort,
    source: str,
    steps: Sequence[Step],
    *,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> tuple[tuple[FittedStep, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Fit steps one after another on some rows, and apply them to these and to others.

    Parameters
    ----------
    cohort : Cohort
        Where the rows come from.
    source : str
        Label of the features.
    steps : sequence of Step
        In the order they are applied.
    train, test : ndarray, shape (n,), (m,), int64
        Rows of the cohort. No group may lie on both sides; ``test`` may be empty.

    Returns
    -------
    tuple
        The fitted steps, and features (n, D) and (m, D) after them, float64.

    Raises
    ------
    UsageError
        If the cohort has no such source.
    DataError
        If rows of one group lie on both sides.
    """
    if source not in cohort.features:
        raise UsageError(
            f"the cohort has no features of {source!r}; it has {sorted(cohort.features)}",
            fix="name one of these",
        )
    numbers = group_numbers(cohort.groups)
    both = np.intersect1d(numbers[train], numbers[test])
    if both.size:
        shared = cohort.groups[int(np.flatnonzero(numbers == both[0])[0])]
        raise DataError(
            f"rows of {both.size} groups, {shared!r} among them, lie on both sides of a split",
            fix="split by groups, as `outer_folds` does",
        )
    features = cohort.features[source]
    x_train, x_test = features[train].astype(np.float64), features[test].astype(np.float64)
    fitted: list[FittedStep] = []
    for step in steps:
        done = step.fit(x_train, train, cohort)
        x_train, x_test = done.apply(x_train, train, cohort), done.apply(x_test, test, cohort)
        fitted.append(done)
    return tuple(fitted), x_train, x_test


def apply_steps(
    fitted: Sequence[FittedStep], x: NDArray[np.floating], rows: NDArray[np.int64], cohort: Cohort
) -> NDArray[np.float64]:
    """Apply fitted steps one after another to features (m, D) of these rows."""
    changed = np.asarray(x, dtype=np.float64)
    for step in fitted:
        changed = step.apply(changed, rows, cohort)
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardise:
    """Take the training rows' mean off each column and divide by their standard deviation.

    A column that is constant in the training rows says nothing and becomes 0.
    """

    name: str = "standardise"

    def fit(
        self,
        x: NDArray[np.float64],
        rows: NDArray[np.int64],  # noqa: ARG002 - a step may need them; this one does not
        cohort: Cohort,  # noqa: ARG002
    ) -> FittedStandardise:
        """Learn mean and scale of each column of x (n, D)."""
        mean, sd = x.mean(axis=0), x.std(axis=0)
        # A constant column has a standard deviation of rounding errors, not of 0.
        told = sd > 1e-10 * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
        return FittedStandardise(mean=mean, scale=np.where(told, 1 / np.where(told, sd, 1), 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedStandardise:
    """Mean and scale of each column.

    Parameters
    ----------
    mean, scale : ndarray, shape (D,), float64
        What is taken off, and what the rest is multiplied by; 0 for constant columns.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def apply(
        self,
        x: NDArray[np.float64],
        rows: NDArray[np.int64],  # noqa: ARG002
        cohort: Cohort,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Standardise x (m, D)."""
        return np.asarray((x - self.mean) * self.scale, dtype=np.float64)
