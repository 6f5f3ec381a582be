"""All sources side by side on the same folds, and what can be said of each.

Every source is evaluated as it is, and once more with covariates taken off its features inside
the folds. Beside them stand what must be beaten, or must not do as well: guessing, the connectome,
the same networks untrained, and the confounds alone, each and all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurostorm_app.pipelines.evaluate.contenders import (
    BASELINE,
    CONFOUNDS,
    Contender,
    choose_covariates,
    confound_features,
    list_contenders,
    plan_jobs,
)
from neurostorm_app.pipelines.evaluate.crossvalidate import evaluate, evaluate_baseline
from neurostorm_app.pipelines.evaluate.folds import outer_folds
from neurostorm_app.pipelines.evaluate.harmonise import Combat, count_left_alone
from neurostorm_app.pipelines.evaluate.intervals import difference_interval
from neurostorm_app.pipelines.evaluate.metrics import primary_metric
from neurostorm_app.pipelines.evaluate.verdict import (
    ALPHA,
    DEMO,
    GUESSING,
    Finding,
    Numbers,
    judge,
    judge_target,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design, Evaluation, Interval
    from neurostorm_app.pipelines.evaluate.verdict import Verdict

__all__ = ["BASELINE", "CONFOUNDS", "CONNECTOME", "UNTRAINED", "Comparison", "Contender", "compare"]

CONNECTOME = "connectome"
"""Source that others are compared with."""
UNTRAINED = "Untrained"
"""What the label of a network with random weights ends in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came out for one target.

    Parameters
    ----------
    evaluations : mapping of str to Evaluation
        By source: models, untrained controls, connectome, contenders, ``baseline``,
        ``confounds``, ``confounds-<name>``.
    adjusted : mapping of str to Evaluation
        Of models, controls, connectome and contenders with covariates taken off the features.
    differences : mapping of tuple of str to Interval
        Primary metric of the first less that of the second source, paired over participants.
    verdicts : mapping of str to Verdict
        Of models, controls, connectome and contenders.
    sentence : str
        Of the whole target.
    covariates : tuple of str
        What was taken off, and what ``confounds`` holds.
    notes : tuple of str
        What was left out or filled in.
    """

    evaluations: Mapping[str, Evaluation]
    adjusted: Mapping[str, Evaluation]
    differences: Mapping[tuple[str, str], Interval]
    verdicts: Mapping[str, Verdict]
    sentence: str
    covariates: tuple[str, ...]
    notes: tuple[str, ...]


def compare(
    cohort: Cohort,
    design: Design,
    *,
    learners: Mapping[str, Contender] | None = None,
    demos: Collection[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Evaluate all sources of a cohort on the same folds.

    Parameters
    ----------
    cohort : Cohort
        Rows, sources, target, confounds.
    design : Design
        How; its covariates are taken off in the adjusted evaluations, by default all confounds
        that tell something. The target is never a covariate of itself.
    learners : mapping of str to Contender, optional
        By name: more contenders than the ridge (or logistic) of each source.
    demos : collection of str
        Sources whose weights are demos; their sentences, and that of the target, begin with it.
    progress : callable, optional
        Told the name of what begins, how many are done, and how many there are.

    Returns
    -------
    Comparison
        Evaluations, differences, verdicts.

    Raises
    ------
    UsageError
        If a covariate or the source of a contender is not there, or a name is given twice.
    DataError
        If the cohort cannot be split, harmonised or adjusted.
    """
    contenders = list_contenders(cohort, design, learners or {})
    covariates, notes = choose_covariates(cohort, design)
    jobs = plan_jobs(cohort, design, contenders, covariates)
    wide = replace(cohort, features={**cohort.features, **confound_features(cohort)})
    evaluations: dict[str, Evaluation] = {}
    adjusted: dict[str, Evaluation] = {}
    for done, job in enumerate(jobs):
        if progress is not None:
            progress(job.title, done, len(jobs))
        one = evaluate(wide, job.source, design, steps=job.steps, learner=job.learner)
        (adjusted if job.adjusted else evaluations)[job.name] = replace(one, source=job.name)
    evaluations[BASELINE] = evaluate_baseline(cohort, design)
    differences = {
        pair: difference_interval(cohort, evaluations[pair[0]], evaluations[pair[1]], design)
        for pair in _pairs(contenders)
    }
    found = Comparison(
        evaluations=evaluations,
        adjusted=adjusted,
        differences=differences,
        verdicts={},
        sentence="",
        covariates=covariates,
        notes=(*notes, *_harmonising(cohort, design)),
    )
    return _judged(cohort, design, found, contenders, demos)


def _pairs(contenders: Iterable[str]) -> list[tuple[str, str]]:
    """Pair each model with the connectome, and with its own control."""
    names = list(contenders)
    pairs = [
        (name, other)
        for name in names
        for other in (CONNECTOME, name + UNTRAINED)
        if other in names and name != other and not name.endswith(UNTRAINED)
    ]
    return sorted(pairs)


def _harmonising(cohort: Cohort, design: Design) -> tuple[str, ...]:
    """Say how many rows harmonising could not reach, and what it may not do."""
    if design.harmonise != "combat":
        return ()
    notes = []
    rows, times = count_left_alone(cohort, outer_folds(cohort, design).numbers)
    if rows:
        notes.append(
            f"{rows} rows were left as they are, {times} times in {design.n_repeats} repeats: "
            "fewer than two training rows are of their site"
        )
    if cohort.target.name == Combat().site:
        notes.append("the site is the target: harmonising takes it off test rows by their label")
    return tuple(notes)


def _judged(
    cohort: Cohort,
    design: Design,
    found: Comparison,
    contenders: Iterable[str],
    demos: Collection[str],
) -> Comparison:
    """Add the verdicts and the sentence of the target."""
    verdicts = {
        name: judge(_numbers(cohort, design, found, name, demo=name in demos))
        for name in contenders
    }
    sentence = judge_target(
        cohort.target.name,
        {name: v for name, v in verdicts.items() if not name.endswith(UNTRAINED)},
        n_participants=cohort.n_participants,
        covariates=found.covariates,
    )
    begin = DEMO if any(name in demos for name in verdicts) else ""
    return replace(found, verdicts=verdicts, sentence=begin + sentence)


def _numbers(
    cohort: Cohort, design: Design, found: Comparison, name: str, *, demo: bool
) -> Numbers:
    """Collect what the verdict of a source rests upon."""
    metric: Literal["r2", "auroc"] = "r2" if primary_metric(cohort.target) == "r2" else "auroc"

    def finding(evaluations: Mapping[str, Evaluation], source: str) -> Finding | None:
        one = evaluations.get(source)
        return None if one is None else _finding(one, metric)

    own = found.evaluations[name]
    return Numbers(
        target=cohort.target.name,
        source=name,
        metric=metric,
        confidence=design.confidence,
        finding=_finding(own, metric),
        confounds=finding(found.evaluations, CONFOUNDS),
        adjusted=finding(found.adjusted, name),
        covariates=found.covariates,
        over_connectome=found.differences.get((name, CONNECTOME)),
        over_control=found.differences.get((name, name + UNTRAINED)),
        n_participants=cohort.n_participants,
        detectable=_detectable(own, metric),
        demo=demo,
    )


def _finding(evaluation: Evaluation, metric: str) -> Finding:
    return Finding(measured=evaluation.metrics[metric], p_value=evaluation.p_value)


def _detectable(evaluation: Evaluation, metric: str) -> float | None:
    """Find the metric below which p is above 0.05: a high quantile of what chance reaches.

    None if there was no test, or if it is not above guessing in the two decimals that are told.
    """
    if evaluation.null is None or evaluation.p_value is None:
        return None
    allowed = int(ALPHA * (evaluation.null.size + 1)) - 1  # rearrangements that may do as well
    if allowed < 0:
        return None
    reached = float(np.sort(evaluation.null)[::-1][allowed])
    return reached if round(reached, 2) > GUESSING[metric] else None
