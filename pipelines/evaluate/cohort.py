"""What an evaluation is about: rows of a cohort, what is predicted of them, and what came out.

A *row* is one participant, or one session or run of one participant. Rows that may not be torn
apart (those of one participant, of one family, of one site) share a *group*, which is never on
both sides of a split. A cohort that breaks this cannot be made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.evaluate.checks import check_cohort

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Cohort",
    "Confound",
    "Design",
    "Evaluation",
    "Interval",
    "Target",
    "group_numbers",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is predicted; rows without it were left out before.

    Parameters
    ----------
    name : str
        As in the table it came from.
    kind : {"value", "classes"}
        A number with a unit, or a name out of several.
    values : ndarray, shape (N,)
        float64 for a value; int64 index of the class for classes. None is missing.
    classes : tuple of str
        Names by index; empty for a value.
    unit : str or None
        Unit of a value, if it is known.
    level : {"between", "within"} or None
        Whether it is about people or about rows of each, where that follows from what it is; None
        where its values tell.
    """

    name: str
    kind: Literal["value", "classes"]
    values: NDArray[np.float64] | NDArray[np.int64]
    classes: tuple[str, ...] = ()
    unit: str | None = None
    level: Literal["between", "within"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confound:
    """What may explain a target without the brain: motion, site, age, sex.

    Parameters
    ----------
    name : str
        As in the table it came from.
    values : ndarray, shape (N,), float64, or tuple of N str
        Numbers, NaN where missing; or names, empty where missing.
    """

    name: str
    values: NDArray[np.float64] | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Rows, their features and their target; checked when it is made.

    Parameters
    ----------
    rows : tuple of N str
        Names such as ``sub-01`` or ``sub-01_ses-2``; each once.
    participants : tuple of N str
        Whose row it is.
    groups : tuple of N str
        What is never on both sides of a split; each participant lies in one group.
    features : mapping of str to ndarray, shape (N, D), float32
        By source: the label of a model, or ``connectome``. All finite.
    target : Target
        What is predicted, N values.
    confounds : mapping of str to Confound
        By name, N values each.

    Raises
    ------
    DataError
        If lengths differ, a row occurs twice, a feature or value is not finite, a participant
        lies in two groups, the target is constant, or there are too few participants or groups.
    """

    rows: tuple[str, ...]
    participants: tuple[str, ...]
    groups: tuple[str, ...]
    features: Mapping[str, NDArray[np.float32]]
    target: Target
    confounds: Mapping[str, Confound] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_cohort(self)

    @property
    def n_rows(self) -> int:
        """Number of rows, N."""
        return len(self.rows)

    @property
    def n_participants(self) -> int:
        """Number of people."""
        return len(set(self.participants))

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(set(self.groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How the evaluation is done.

    Parameters
    ----------
    n_folds : int
        Outer folds; inner folds are as many, within the training rows.
    n_repeats : int
        How often the outer folds are drawn anew.
    n_permutations : int
        Rearrangements of the target for the p-value; 0 for none.
    n_bootstraps : int
        Draws of participants for an interval of a metric.
    confidence : float
        Of intervals, both of metrics and of predictions.
    classifier : {"ridge", "logistic"}
        Learner of classes.
    harmonise : {"none", "combat"}
        How sites are made alike, inside the folds.
    covariates : tuple of str
        Names of confounds that are taken off the features in the adjusted evaluation.
    strata : str or None
        Name of a confound, such as the site, within which the target is rearranged in the
        permutation test; None to rearrange over all.
    seed : int
        The same seed gives the same folds, permutations and draws.

    Raises
    ------
    UsageError
        If a number is out of its range.
    """

    n_folds: int = 5
    n_repeats: int = 5
    n_permutations: int = 1000
    n_bootstraps: int = 2000
    confidence: float = 0.9
    classifier: Literal["ridge", "logistic"] = "ridge"
    harmonise: Literal["none", "combat"] = "none"
    covariates: tuple[str, ...] = ()
    strata: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n_folds": 2, "n_repeats": 1, "n_permutations": 0, "n_bootstraps": 100, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(
                    f"{name} is {getattr(self, name)}; the design of an evaluation takes at "
                    f"least {low}",
                    fix=f"give {low} or more",
                )
        if not 0.5 <= self.confidence < 1:
            raise UsageError(
                f"a confidence of {self.confidence}; expected 0.5 or more and below 1",
                fix="give it as a fraction, such as 0.9",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number and how far it may be off.

    Parameters
    ----------
    value : float
        As found in the cohort.
    low, high : float
        Bounds at the design's confidence.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well one source tells one target; every prediction is out-of-fold.

    Parameters
    ----------
    source : str
        Label of the features.
    learner : str
        Name of what learned.
    n_rows, n_participants, n_groups : int
        How many there were.
    predicted : ndarray, shape (N,), float64
        Mean over repeats of the value; for classes the index of the class that is most above
        its prevalence.
    reference : ndarray, shape (N,) or (N, C), float64
        What the training rows alone say without features: their mean, or their prevalences.
    probabilities : ndarray, shape (N, C), float64, or None
        Of classes, calibrated at the cohort's prevalence; mean over repeats.
    lower, upper : ndarray, shape (N,), float64, or None
        Bounds of the value, of the first repeat.
    metrics : mapping of str to Interval
        Of a value ``r2``, ``r``, ``mae``; of classes ``auroc``, ``balanced_accuracy``, ``brier``.
        The first is the primary one.
    p_value : float or None
        Of the permutation test; None if it was not run.
    n_permutations : int
        Rearrangements it rests upon.
    null : ndarray, shape (n_permutations,), float64, or None
        The statistic of the test under them.
    coverage, width : float or None
        Share of rows inside their bounds, and the mean distance of the bounds.
    notes : tuple of str
        What was done otherwise than the design says, and what limits the numbers.
    """

    source: str
    learner: str
    n_rows: int
    n_participants: int
    n_groups: int
    predicted: NDArray[np.float64]
    reference: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None = None
    lower: NDArray[np.float64] | None = None
    upper: NDArray[np.float64] | None = None
    metrics: Mapping[str, Interval] = field(default_factory=dict)
    p_value: float | None = None
    n_permutations: int = 0
    null: NDArray[np.float64] | None = None
    coverage: float | None = None
    width: float | None = None
    notes: tuple[str, ...] = ()


def group_numbers(names: Sequence[str]) -> NDArray[np.int64]:
    """Give each name a number, from 0 in the order of the alphabet.

    Examples
    --------
    >>> group_numbers(["b", "a", "b"])
    array([1, 0, 1])
    """
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)
