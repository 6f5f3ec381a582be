"""Covariates: taken off features inside the folds, or in place of features, to see what they tell.

Everything about a covariate is learned from training rows: the median or the most frequent name
that stands in for a missing one, the names that get a column, the mean that columns are counted
from, and the least squares that take it off.

References
----------
Snoek, Miletic and Scholte (2019), How to control for confounds in decoding analyses of
neuroimaging data, NeuroImage 184, doi:10.1016/j.neuroimage.2018.09.074: regression within the
folds, not before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.evaluate.cohort import group_numbers
from neurostorm_app.pipelines.evaluate.covariates import check_names, encode
from neurostorm_app.pipelines.evaluate.within import WithinPeople

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort
    from neurostorm_app.pipelines.evaluate.covariates import Encoding

__all__ = [
    "ConfoundFeatures",
    "Deconfound",
    "FittedConfoundFeatures",
    "FittedDeconfound",
    "confound_source",
]

_SMALLEST = 1e-10
"""A singular value below this share of the largest is a column that others already say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedDeconfound:
    """Least squares of training rows, to take covariates off any rows.

    Parameters
    ----------
    encoding : Encoding
        Of the covariates.
    slopes : ndarray, shape (K, D)
        Of each feature on each column.
    within : bool
        Columns count from the mean of their participant.
    """

    encoding: Encoding
    slopes: NDArray[np.float64]
    within: bool

    def apply(
        self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort
    ) -> NDArray[np.float64]:
        """Take the covariates off the features (n, D) of rows (n,); training's means stay."""
        return np.asarray(
            x - _columns(self.encoding, rows, cohort, within=self.within) @ self.slopes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deconfound:
    """Take covariates off the features by least squares fitted on training rows.

    Parameters
    ----------
    names : tuple of str
        Confounds of the cohort; never the target.
    within : bool
        Features have had the mean over a participant's rows taken off; so have the covariates
        then. How much people differ in a covariate would otherwise hide what its changes from
        session to session do.
    """

    names: tuple[str, ...]
    within: bool = False
    name: str = field(default="deconfound", init=False)

    def fit(
        self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort
    ) -> FittedDeconfound:
        """Fit it.

        Parameters
        ----------
        x : ndarray, shape (n, D)
            Features of training rows.
        rows : ndarray, shape (n,), int64
            Which rows they are.
        cohort : Cohort
            Holds the covariates.

        Raises
        ------
        UsageError
            If a covariate is not there, or is the target.
        DataError
            If there are as many covariates as rows: nothing would be left of the features.
        """
        encoding = encode(cohort, self.names, rows)
        columns = _columns(encoding, rows, cohort, within=self.within)
        slopes, _, rank, _ = np.linalg.lstsq(columns, x - x.mean(axis=0), rcond=_SMALLEST)
        taken = np.unique(group_numbers(cohort.participants)[rows]).size if self.within else 1
        if rank >= len(rows) - taken:
            raise DataError(
                f"{len(self.names)} covariates make {rank} independent columns for {len(rows)} "
                "training rows; nothing would be left of the features",
                fix="name fewer covariates, or join rare names such as small sites",
            )
        return FittedDeconfound(encoding=encoding, slopes=slopes, within=self.within)


def _columns(
    encoding: Encoding, rows: NDArray[np.int64], cohort: Cohort, *, within: bool
) -> NDArray[np.float64]:
    """Write covariates as columns (n, K), from the mean of all or of their participant."""
    columns = encoding.matrix(rows, cohort)
    return WithinPeople().apply(columns, rows, cohort) if within else columns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedConfoundFeatures:
    """Confounds in place of features.

    Parameters
    ----------
    encoding : Encoding
        Of the confounds.
    """

    encoding: Encoding

    def apply(
        self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort
    ) -> NDArray[np.float64]:
        """Write the confounds of rows (n,) as columns (n, K); what `x` (n, 1) says is not used."""
        if x.shape[0] != len(rows):
            raise DataError(
                f"{x.shape[0]} features for {len(rows)} rows of confounds",
                fix="give the rows that the features are of",
            )
        return self.encoding.matrix(rows, cohort)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfoundFeatures:
    """Put confounds in the place of features; gaps are filled by training rows.

    Parameters
    ----------
    names : tuple of str
        Confounds of the cohort; never the target.
    """

    names: tuple[str, ...]
    name: str = field(default="confounds", init=False)

    def fit(
        self,
        x: NDArray[np.float64],  # noqa: ARG002 - what a step takes
        rows: NDArray[np.int64],
        cohort: Cohort,
    ) -> FittedConfoundFeatures:
        """Learn from training rows how the confounds become columns; see `encode`."""
        return FittedConfoundFeatures(encoding=encode(cohort, self.names, rows))


def confound_source(
    cohort: Cohort, names: tuple[str, ...]
) -> tuple[NDArray[np.float32], ConfoundFeatures]:
    """Build a source of confounds alone, to be evaluated as predictors.

    Gaps may be filled by training rows only, so the table cannot be made before the folds are.
    The source is therefore an empty column, and a step that writes the confounds in its place.

    Parameters
    ----------
    cohort : Cohort
        Holds the confounds.
    names : tuple of str
        Which of them.

    Returns
    -------
    features : ndarray, shape (N, 1), float32
        Zeros.
    step : ConfoundFeatures
        First of the steps of this source.

    Raises
    ------
    UsageError
        If a confound is not there, or is the target.
    """
    check_names(cohort, names)
    return np.zeros((cohort.n_rows, 1), dtype=np.float32), ConfoundFeatures(names=names)
