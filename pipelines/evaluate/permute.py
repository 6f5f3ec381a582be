"""Would chance do as well? The whole nested procedure, rerun with the target rearranged.

The folds of the test must not know the real target better than a rearranged one. Where a target
is rearranged within participants, all groups keep their make-up, and the stratified folds of the
reported metric are those of every rearrangement: they serve. Between participants, folds
stratified by the real target would favour it; the test draws blind ones, so that its statistic is
not the reported metric, but the same metric computed once more: r2 of a value, AUROC of the
scores of classes. If rows may be exchanged as ``rearrange`` says, the p-value is valid for any
sample size: the chance of p <= 0.05 under no effect is at most 0.05.

With a ridge all rearrangements are columns of one target matrix and are fitted together. A step
that looks at the target is fitted anew for each, which takes as long as it sounds.

References
----------
Ojala and Garriga, Permutation tests for studying classifier performance, JMLR 2010; Phipson and
Smyth, Permutation p-values should never be zero, 2010.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.evaluate.folds import blind_folds, derived_seed, outer_folds
from neurostorm_app.pipelines.evaluate.metrics import auroc, r_squared
from neurostorm_app.pipelines.evaluate.nested import indicators, out_of_fold_scores
from neurostorm_app.pipelines.evaluate.rearrange import draw_rearrangements

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design
    from neurostorm_app.pipelines.evaluate.nested import Recipe

__all__ = ["Permutations", "permutation_test"]

ROUNDING = 1e-9
"""A rearrangement that changes nothing gives the same statistic but for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permutations:
    """What the permutation test found.

    Parameters
    ----------
    p_value : float or None
        (1 + rearrangements that do as well) / (1 + rearrangements); None if nothing can be
        rearranged.
    observed : float
        The statistic of the real target.
    null : ndarray, shape (n,), float64
        Those of the rearranged ones.
    notes : tuple of str
        What was rearranged, and what limits the p-value.
    """

    p_value: float | None
    observed: float
    null: NDArray[np.float64]
    notes: tuple[str, ...]


def permutation_test(cohort: Cohort, recipe: Recipe, design: Design) -> Permutations:
    """Test whether features tell more of the target than of rearranged ones.

    Parameters
    ----------
    cohort : Cohort
        Rows, features, target.
    recipe : Recipe
        Source, steps, learner.
    design : Design
        Numbers of folds, repeats and permutations; strata; seed.

    Returns
    -------
    Permutations
        P-value and null distribution.
    """
    moved, level = draw_rearrangements(
        cohort, design.n_permutations, seed=derived_seed(design.seed, 3), strata=design.strata
    )
    values = cohort.target.values
    told = values[np.vstack([np.arange(cohort.n_rows), moved])]
    n_different = len(np.unique(told, axis=0))
    inside = f", within each {design.strata}" if design.strata else ""
    notes = [f"permutation test: the target was rearranged {level} participants{inside}"]
    if n_different < len(told) / 2:
        notes.append(f"only {n_different} different rearrangements were found, so p is coarse")
    folds = (outer_folds if level == "within" else blind_folds)(cohort, design)
    if any(getattr(step, "supervised", False) for step in recipe.steps):
        found = np.concatenate(
            [_statistics(_retold(cohort, one), recipe, one[None], folds.numbers) for one in told]
        )
    else:
        found = _statistics(cohort, recipe, told, folds.numbers)
    observed, null = float(found[0]), found[1:]
    n_as_good = int((null >= observed - ROUNDING).sum())
    p_value = (1 + n_as_good) / (1 + null.size) if n_different > 1 else None
    if p_value is None:
        notes.append("no two participants may exchange their target, so there is no p-value")
    return Permutations(p_value=p_value, observed=observed, null=null, notes=tuple(notes))


def _retold(cohort: Cohort, values: NDArray[np.float64] | NDArray[np.int64]) -> Cohort:
    """Give the cohort another target, for steps that look at it."""
    return replace(cohort, target=replace(cohort.target, values=values))


def _statistics(
    cohort: Cohort,
    recipe: Recipe,
    told: NDArray[np.float64] | NDArray[np.int64],
    repeats: tuple[NDArray[np.int64], ...],
) -> NDArray[np.float64]:
    """Run the nested procedure for targets (P, N) at once; give their statistics (P,)."""
    columns = [indicators(replace(cohort.target, values=values)) for values in told]
    y = np.hstack(columns)
    scores, means = np.zeros_like(y), np.zeros_like(y)
    for repeat, numbers in enumerate(repeats):
        some, mean = out_of_fold_scores(cohort, recipe, y, numbers=numbers, seed=repeat)
        scores += some / len(repeats)
        means += mean / len(repeats)
    once = np.ones((1, len(y)))
    if cohort.target.kind == "value":
        share: NDArray[np.float64] = r_squared(y, scores, means, once)[0]
        return share
    # Differences below the rounding of the algebra are ties.
    scores = np.round(scores, 9)
    areas = [auroc(scores[:, k], y[:, k] > 0, once)[0] for k in range(y.shape[1])]
    means_of: NDArray[np.float64] = np.reshape(areas, (len(told), -1)).mean(axis=1)
    return means_of
