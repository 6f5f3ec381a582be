"""Covariates as columns of numbers, as training rows say: gaps filled, names one-hot, centred."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from neurostorm_app.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Confound

__all__ = ["Encoding", "check_names", "count_missing", "encode", "name_labels", "tells_nothing"]

_CONSTANT = 1e-12
"""Numbers that spread less than this share of their size are one number."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Numbers:
    """A covariate of numbers: the median fills gaps; columns count from the mean, in deviations."""

    name: str
    median: float
    mean: float
    scale: float

    width: ClassVar[int] = 1

    def columns(self, confound: Confound, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        values = np.asarray(confound.values, dtype=np.float64)[rows]
        filled = np.where(np.isnan(values), self.median, values)
        return np.asarray((filled - self.mean)[:, None] / self.scale)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Names:
    """A covariate of names: a column each; one that training never saw counts as the average."""

    name: str
    frequent: str
    levels: tuple[str, ...]
    shares: NDArray[np.float64]

    @property
    def width(self) -> int:
        return len(self.levels)

    def columns(self, confound: Confound, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        names = np.array([str(confound.values[row]) or self.frequent for row in rows], dtype=str)
        table = names[:, None] == np.array(self.levels)
        known = table.any(axis=1, keepdims=True)
        return np.asarray(np.where(known, table - self.shares, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoding:
    """Covariates as columns, as training rows say.

    Parameters
    ----------
    parts : tuple
        One a covariate.
    """

    parts: tuple[_Numbers | _Names, ...]

    @property
    def width(self) -> int:
        """Number of columns, K."""
        return sum(part.width for part in self.parts)

    def matrix(self, rows: NDArray[np.int64], cohort: Cohort) -> NDArray[np.float64]:
        """Write the covariates of rows (n,) as columns (n, K), counted from training's means."""
        blocks = [part.columns(cohort.confounds[part.name], rows) for part in self.parts]
        return np.concatenate([np.empty((len(rows), 0)), *blocks], axis=1)


def encode(cohort: Cohort, names: tuple[str, ...], rows: NDArray[np.int64]) -> Encoding:
    """Learn from training rows how covariates become columns.

    Parameters
    ----------
    cohort : Cohort
        Holds the covariates.
    names : tuple of str
        Which of its confounds.
    rows : ndarray, shape (n,), int64
        Training rows; no other is looked at.

    Raises
    ------
    UsageError
        If one is not there, or is the target itself.
    DataError
        If no training row knows it.
    """
    check_names(cohort, names)
    return Encoding(parts=tuple(_learn(cohort.confounds[name], rows) for name in names))


def check_names(cohort: Cohort, names: tuple[str, ...]) -> None:
    """See that covariates are there, and that the target is none of them.

    Raises
    ------
    UsageError
        If not.
    """
    for name in names:
        if name == cohort.target.name:
            raise UsageError(
                f"{name} is the target; it cannot be a covariate of its own prediction",
                fix="leave it out of the covariates",
            )
        if name not in cohort.confounds:
            known = ", ".join(sorted(cohort.confounds)) or "none"
            raise UsageError(
                f"there is no covariate {name!r}; known are {known}",
                fix="name a column that the participants have",
            )


def name_labels(confound: Confound) -> tuple[str, ...]:
    """Read a confound as names, "" where missing; a site may be a number as well.

    Examples
    --------
    >>> from neurostorm_app.pipelines.evaluate.cohort import Confound
    >>> name_labels(Confound(name="site", values=np.array([1.0, np.nan, 2.0])))
    ('1', '', '2')
    """
    if isinstance(confound.values, tuple):
        return confound.values
    return tuple("" if np.isnan(value) else f"{value:.15g}" for value in confound.values)


def _learn(confound: Confound, rows: NDArray[np.int64]) -> _Numbers | _Names:
    """Learn how one covariate becomes columns."""
    if isinstance(confound.values, tuple):
        counts = Counter(confound.values[row] for row in rows if confound.values[row])
        if not counts:
            raise _unknown(confound, len(rows))
        frequent = min(counts, key=lambda name: (-counts[name], name))
        counts[frequent] += len(rows) - counts.total()
        levels = tuple(sorted(counts))
        shares = np.array([counts[level] / len(rows) for level in levels])
        return _Names(name=confound.name, frequent=frequent, levels=levels, shares=shares)
    values = confound.values[rows]
    if np.isnan(values).all():
        raise _unknown(confound, len(rows))
    median = float(np.nanmedian(values))
    filled = np.where(np.isnan(values), median, values)
    spread = float(filled.std())
    return _Numbers(
        name=confound.name,
        median=median,
        mean=float(filled.mean()),
        scale=spread if spread > _CONSTANT * np.abs(filled).max() else 1.0,
    )


def _unknown(confound: Confound, n_rows: int) -> DataError:
    return DataError(
        f"none of {n_rows} training rows knows {confound.name}",
        fix="leave this covariate out; it is missing for nearly all",
    )


def count_missing(confound: Confound) -> int:
    """Count the rows in which a confound is missing.

    Examples
    --------
    >>> from neurostorm_app.pipelines.evaluate.cohort import Confound
    >>> count_missing(Confound(name="site", values=("a", "", "b")))
    1
    """
    return sum(not label for label in name_labels(confound))


def tells_nothing(confound: Confound) -> bool:
    """Say whether a confound is known in less than half of the rows, or is the same in all."""
    labels = name_labels(confound)
    different = {label for label in labels if label}
    return len(different) < 2 or 2 * count_missing(confound) > len(labels)
