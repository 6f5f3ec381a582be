"""A step that keeps the columns which tell most of the target, seen in the training rows alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort

__all__ = ["FittedSelect", "Select"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """Keep the columns that, one by one, tell most of the target in the training rows.

    Of a value this is the squared correlation; of classes the share of variance between them.
    Both rank as the F test does.

    Parameters
    ----------
    n_best : int
        How many are kept; all, if there are fewer.
    """

    n_best: int
    name: str = "select"
    supervised: bool = field(default=True, init=False)

    def fit(self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort) -> FittedSelect:
        """Choose columns of x (n, D) by the target of these rows."""
        values = cohort.target.values[rows]
        if cohort.target.kind == "classes":
            told = (values[:, None] == np.unique(values)).astype(np.float64)
            # Orthonormal columns that span the classes without the mean.
            basis = np.linalg.qr(told - told.mean(axis=0))[0][:, : told.shape[1] - 1]
        else:
            centred = values - values.mean()
            basis = (centred / max(float(np.linalg.norm(centred)), 1e-300))[:, None]
        spread = ((x - x.mean(axis=0)) ** 2).sum(axis=0)
        told_of = ((basis.T @ x) ** 2).sum(axis=0)
        share = np.divide(told_of, spread, out=np.zeros_like(spread), where=spread > 0)
        best = np.argsort(-share, kind="stable")[: self.n_best]
        return FittedSelect(columns=np.sort(best))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSelect:
    """Columns that are kept.

    Parameters
    ----------
    columns : ndarray, shape (n_best,), int64
        Their numbers, ascending.
    """

    columns: NDArray[np.int64]

    def apply(
        self,
        x: NDArray[np.float64],
        rows: NDArray[np.int64],  # noqa: ARG002
        cohort: Cohort,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Keep the columns of x (m, D)."""
        return x[:, self.columns]
