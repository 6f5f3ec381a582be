"""The step for targets that differ within people, such as drug and placebo: rows are compared.

People differ by more than sessions or runs of one do. Where a target is not about people, what a
person always has is noise: the mean over a person's rows is taken off each of them. That looks at
no label, and at no other person, so there is nothing to learn from training rows; but a new row can
be told only beside the other rows of its person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.evaluate.cohort import group_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort

__all__ = ["NOTE", "WithinPeople"]

NOTE = (
    "the target differs within participants: the mean over a participant's rows (sessions or runs) "
    "is taken off the embeddings, so that they are compared with each other"
)

_ROUNDING = 1e-12
"""Differences from a person's mean below this share of it are rounding errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithinPeople:
    """Take the mean over a participant's rows off each of them; it learns nothing."""

    name: str = "within participants"

    def fit(
        self,
        x: NDArray[np.float64],  # noqa: ARG002 - a step may need them; this one does not
        rows: NDArray[np.int64],  # noqa: ARG002
        cohort: Cohort,  # noqa: ARG002
    ) -> WithinPeople:
        """Learn nothing."""
        return self

    def apply(
        self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort
    ) -> NDArray[np.float64]:
        """Centre features (m, D) of these rows; a person's rows are never torn apart by folds.

        What is the same in all rows of a person becomes 0, not a rounding error, which a later
        step would blow up to the size of the others.
        """
        people = group_numbers(cohort.participants)[rows]
        n_rows = np.bincount(people)
        sums = np.zeros((n_rows.size, x.shape[1]))
        np.add.at(sums, people, x)
        means = (sums / np.maximum(n_rows, 1)[:, None])[people]
        return np.asarray(np.where(np.abs(x - means) > _ROUNDING * np.abs(means), x - means, 0.0))
