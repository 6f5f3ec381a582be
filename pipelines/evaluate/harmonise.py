r"""ComBat: sites made alike in location and scale, inside the folds.

A feature g of row j at site i is :math:`y_{ijg} = \alpha_g + x_{ij}\beta_g + \gamma_{ig} +
\delta_{ig}\varepsilon_{ijg}`. The site's shift :math:`\gamma` and scale :math:`\delta` are drawn
towards what the site does to all features (parametric empirical Bayes) and taken off; what the
preserved covariates x explain stays.

Everything is estimated from training rows. A row whose site has fewer than two of them is put
in standard units by the pooled mean and variance and back again, so that it stays as it is:
nothing is guessed of an unknown site. `count_left_alone` says how many these are.

The target is never preserved: it would be written into the features of test rows. If it is the
site itself, nothing is preserved, and taking it off test rows by their label can only hide it.

References
----------
Johnson, Li and Rabinovic (2007), Adjusting batch effects in microarray expression data using
empirical Bayes methods, Biostatistics 8, doi:10.1093/biostatistics/kxj037, sections 3.1 and 3.2.
Fortin et al. (2018), Harmonization of cortical thickness measurements across scanners and sites,
NeuroImage 167, doi:10.1016/j.neuroimage.2017.11.024.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.evaluate.covariates import encode, name_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort
    from neurostorm_app.pipelines.evaluate.covariates import Encoding

__all__ = ["PRESERVED", "Combat", "FittedCombat", "count_left_alone", "preserved"]

PRESERVED = ("age", "sex")
"""Covariates that are preserved unless asked otherwise; the target never is."""

_SETTLED = 1e-7
"""Change of a shift (standard deviations) and of a scale (relative) at which both have settled."""
_CONSTANT = 1e-12
"""A feature whose variance is below this share of its mean square is constant."""
_LEAST_ROWS = 2
"""Training rows of a site below which nothing is known of its scale."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedCombat:
    """What training rows say of the sites.

    Parameters
    ----------
    site : str
        Name of the confound.
    sites : tuple of S str
        Those with two training rows or more.
    encoding : Encoding
        Of the preserved covariates, K columns.
    mean, scale : ndarray, shape (D,)
        Mean over sites and pooled standard deviation of each feature.
    slopes : ndarray, shape (K, D)
        Of the features on the preserved covariates.
    shift, spread : ndarray, shape (S, D)
        Of each site, in standard units.
    """

    site: str
    sites: tuple[str, ...]
    encoding: Encoding
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    slopes: NDArray[np.float64]
    shift: NDArray[np.float64]
    spread: NDArray[np.float64]

    def apply(
        self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort
    ) -> NDArray[np.float64]:
        """Harmonise the features (n, D) of rows (n,); rows of unknown sites stay as they are."""
        labels = name_labels(cohort.confounds[self.site])
        where = np.array([self._index(labels[row]) for row in rows], dtype=np.int64)
        known = where >= 0
        expected = self.mean + self.encoding.matrix(rows[known], cohort) @ self.slopes
        standard = (x[known] - expected) / self.scale
        standard = (standard - self.shift[where[known]]) / self.spread[where[known]]
        harmonised = np.array(x, dtype=np.float64)
        harmonised[known] = standard * self.scale + expected
        return harmonised

    def _index(self, label: str) -> int:
        return self.sites.index(label) if label in self.sites else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Combat:
    """Make sites alike by ComBat, fitted on training rows.

    Parameters
    ----------
    site : str
        Confound that names the site.
    preserve : tuple of str, optional
        Confounds whose effects stay; by default age and sex where they are known, without the
        target.
    prior : {"parametric", "none"}
        ``none`` keeps a site's own means and variances; this leaves less, but is unsteady.
    """

    site: str = "site"
    preserve: tuple[str, ...] | None = None
    prior: Literal["parametric", "none"] = "parametric"
    name: str = field(default="combat", init=False)

    def fit(self, x: NDArray[np.float64], rows: NDArray[np.int64], cohort: Cohort) -> FittedCombat:
        """Fit it.

        Parameters
        ----------
        x, rows, cohort
            Features (n, D) of training rows, which rows they are, and site and covariates.

        Raises
        ------
        UsageError
            If the site or a covariate is not there, or the target were preserved.
        DataError
            If no two sites have two training rows, sites and covariates cannot be told apart,
            all rows of a site are alike, or there are fewer than two features that vary.
        """
        labels = np.array([self._labels(cohort)[row] for row in rows])
        counts = Counter(labels.tolist())
        sites = tuple(sorted(s for s in counts if s and counts[s] >= _LEAST_ROWS))
        if len(sites) < 2:
            raise DataError(
                f"{len(sites)} sites have two training rows or more; harmonising takes two sites",
                fix="do not harmonise, or hold out by something other than the site",
            )
        used = np.isin(labels, sites)
        member = (labels[used, None] == np.array(sites)).astype(np.float64)
        names = preserved(cohort, site=self.site) if self.preserve is None else self.preserve
        encoding = encode(cohort, names, rows[used])
        covariates = encoding.matrix(rows[used], cohort)
        _check_apart(member, covariates, names)
        mean, slopes, scale, standard = _standardise(x[used], member, covariates)
        shift, spread = _estimate(standard, member, sites, prior=self.prior)
        return FittedCombat(
            site=self.site,
            sites=sites,
            encoding=encoding,
            mean=mean,
            scale=scale,
            slopes=slopes,
            shift=shift,
            spread=spread,
        )

    def _labels(self, cohort: Cohort) -> tuple[str, ...]:
        if self.site not in cohort.confounds:
            raise UsageError(
                f"no column {self.site!r} says at which site a participant was scanned",
                fix="name the column of the site, or do not harmonise",
            )
        return name_labels(cohort.confounds[self.site])


def preserved(cohort: Cohort, *, site: str = "site") -> tuple[str, ...]:
    """List what is preserved by default: age and sex where known, without the target.

    Nothing is if the site is the target: errors of a covariate's slope move the shift of a site
    the other way, and test rows would carry their label in the direction that is learned.
    """
    if cohort.target.name == site:
        return ()
    return tuple(n for n in PRESERVED if n in cohort.confounds and n != cohort.target.name)


def _check_apart(
    member: NDArray[np.float64], covariates: NDArray[np.float64], names: tuple[str, ...]
) -> None:
    """See that no covariate says the same as the sites do."""
    alone = int(np.linalg.matrix_rank(covariates)) if covariates.size else 0
    together = int(np.linalg.matrix_rank(np.concatenate([member, covariates], axis=1)))
    if together < member.shape[1] + alone:
        raise DataError(
            f"sites and {', '.join(names)} cannot be told apart: every site has one value of its "
            "own in the training rows",
            fix="preserve fewer covariates, or do not harmonise",
        )


def _standardise(
    x: NDArray[np.float64], member: NDArray[np.float64], covariates: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit sites and covariates by least squares: mean (D,), slopes (K, D), scale (D,), z (n, D)."""
    design = np.concatenate([member, covariates], axis=1)
    fitted = np.asarray(np.linalg.lstsq(design, x, rcond=None)[0], dtype=np.float64)
    n_sites = member.shape[1]
    mean = member.mean(axis=0) @ fitted[:n_sites]
    slopes = fitted[n_sites:]
    variance = np.square(x - design @ fitted).mean(axis=0)
    varies = variance > _CONSTANT * np.square(x).mean(axis=0)
    if varies.sum() < 2:
        raise DataError(
            f"{int(varies.sum())} of {x.shape[1]} features vary within sites; what a site does is "
            "learned from at least two",
            fix="harmonise features of a model or a connectome",
        )
    scale = np.asarray(np.sqrt(np.where(varies, variance, 1.0)), dtype=np.float64)
    standard = (x - mean - covariates @ slopes) / scale
    return mean, slopes, scale, np.where(varies, standard, np.nan)


def _estimate(
    standard: NDArray[np.float64],
    member: NDArray[np.float64],
    sites: tuple[str, ...],
    *,
    prior: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate shift and spread of each site, (S, D); a constant feature keeps 0 and 1."""
    varies = ~np.isnan(standard[0])
    shift, spread = np.zeros((2, len(sites), len(varies)))
    spread += 1.0
    for index, site in enumerate(sites):
        z = standard[member[:, index] > 0][:, varies]
        found = z.var(axis=0, ddof=1)
        if (found.min() if prior == "none" else found.max()) <= _CONSTANT:
            raise DataError(
                f"{len(z)} training rows of site {site!r} are alike in what varies elsewhere",
                fix="look for rows that occur under two names",
            )
        alone = z.mean(axis=0), found
        shift[index, varies], variance = alone if prior == "none" else _shrink(z, found)
        spread[index, varies] = np.sqrt(variance)
    return shift, spread


def _shrink(
    z: NDArray[np.float64], variance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw shift and variance of a site, (D,) each, towards those of all its features.

    Conditional posterior means in turn, until both have settled; hyperparameters by the method of
    moments: Johnson et al. 2007, section 3.2.
    """
    n, mean = len(z), z.mean(axis=0)
    centre, between = mean.mean(), mean.var(ddof=1)
    usual, spread = variance.mean(), variance.var(ddof=1)
    if spread <= _CONSTANT * usual**2:  # the prior is certain
        moved = (n * between * mean + usual * centre) / (n * between + usual)
        return moved, np.full_like(variance, usual)
    shape, rate = usual**2 / spread + 2, usual**3 / spread + usual
    squares = np.square(z - mean).sum(axis=0)
    shift, scale = mean, variance
    while True:
        moved = (n * between * mean + scale * centre) / (n * between + scale)
        about = squares + n * np.square(mean - moved)
        again = (rate + about / 2) / (n / 2 + shape - 1)
        settled = np.abs(moved - shift).max() < _SETTLED
        settled &= (np.abs(again - scale) <= _SETTLED * again).all()
        shift, scale = moved, again
        if settled:
            return shift, scale


def count_left_alone(
    cohort: Cohort, repeats: Sequence[NDArray[np.int64]], *, site: str = "site"
) -> tuple[int, int]:
    """Count rows that harmonising leaves as they are when they are held out.

    Parameters
    ----------
    cohort : Cohort
        Names the sites.
    repeats : sequence of ndarray, shape (N,), int64
        The fold in which a row is held out, by repeat.
    site : str
        Confound that names the site.

    Returns
    -------
    rows, times : int
        Different rows, and how often in all repeats.
    """
    labels = np.array(name_labels(cohort.confounds[site]))
    alone = np.zeros(len(labels), dtype=np.int64)
    for numbers in repeats:
        for fold in range(int(numbers.max()) + 1):
            counts = Counter(labels[numbers != fold].tolist())
            unknown = np.array([not s or counts[s] < _LEAST_ROWS for s in labels.tolist()])
            alone += unknown & (numbers == fold)
    return int((alone > 0).sum()), int(alone.sum())
