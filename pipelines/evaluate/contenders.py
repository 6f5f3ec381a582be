"""What is compared: sources, networks, confounds alone, and which covariates are taken off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.evaluate.covariates import check_names, count_missing, tells_nothing
from neurostorm_app.pipelines.evaluate.deconfound import Deconfound, confound_source
from neurostorm_app.pipelines.evaluate.estimators import Standardise
from neurostorm_app.pipelines.evaluate.harmonise import Combat
from neurostorm_app.pipelines.evaluate.rearrange import level_of
from neurostorm_app.pipelines.evaluate.within import NOTE, WithinPeople

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Cohort, Design
    from neurostorm_app.pipelines.evaluate.estimators import Learner, Step

__all__ = [
    "BASELINE",
    "CONFOUNDS",
    "Contender",
    "Job",
    "choose_covariates",
    "confound_features",
    "list_contenders",
    "plan_jobs",
]

BASELINE = "baseline"
"""Name of the mean, or of the most frequent class."""
CONFOUNDS = "confounds"
"""Name of the confounds together; one of them alone is ``confounds-<name>``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A source with a learner of its own, such as a network of connectomes.

    Parameters
    ----------
    source : str
        Features it learns from.
    learner : Learner
        What learns; features come as they are, not standardised.
    """

    source: str
    learner: Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One evaluation.

    Parameters
    ----------
    name : str
        Of what is evaluated.
    source : str
        Features it learns from.
    steps : tuple of Step
        In the order they are applied.
    learner : Learner or None
        What learns; None for the design's.
    adjusted : bool
        Whether covariates are taken off.
    """

    name: str
    source: str
    steps: tuple[Step, ...]
    learner: Learner | None = None
    adjusted: bool = False

    @property
    def title(self) -> str:
        """What progress is told."""
        return f"{self.name}, covariates taken off" if self.adjusted else self.name


def list_contenders(
    cohort: Cohort, design: Design, learners: Mapping[str, Contender]
) -> dict[str, Contender | None]:
    """List what is compared, by name; None stands for the design's own learner."""
    check_names(cohort, tuple(name for name in design.covariates if name != cohort.target.name))
    found: dict[str, Contender | None] = dict.fromkeys(cohort.features)
    for name in (*cohort.features, *learners):
        if name in {BASELINE, CONFOUNDS} or (name in learners and name in cohort.features):
            raise UsageError(
                f"two of what is compared would be called {name!r}",
                fix="give the source or the learner another name",
            )
    for name, contender in learners.items():
        if contender.source not in cohort.features:
            raise UsageError(
                f"{name} would learn from {contender.source!r}, of which there are no features",
                fix=f"embed the runs with {contender.source} first",
            )
        found[name] = contender
    return found


def choose_covariates(cohort: Cohort, design: Design) -> tuple[tuple[str, ...], list[str]]:
    """Choose covariates: the design's, or all that tell something; and say what was done."""
    asked = tuple(name for name in design.covariates if name != cohort.target.name)
    own = [name for name in cohort.confounds if name != cohort.target.name]
    silent = [name for name in own if tells_nothing(cohort.confounds[name])]
    notes = [f"{name} is the same, or unknown, in most rows; it is no confound" for name in silent]
    if level_of(cohort) == "within":
        notes.append(NOTE)
    names = asked or tuple(name for name in own if name not in silent)
    for name in names:
        missing = count_missing(cohort.confounds[name])
        if missing:
            notes.append(
                f"{name} is missing in {missing} of {cohort.n_rows} rows; training rows fill it"
            )
    return names, notes


def _singles(cohort: Cohort) -> dict[str, str]:
    """List confounds that are tried alone, by the name of their source."""
    return {
        f"{CONFOUNDS}-{name}": name
        for name, confound in cohort.confounds.items()
        if name != cohort.target.name and not tells_nothing(confound)
    }


def confound_features(cohort: Cohort) -> dict[str, NDArray[np.float32]]:
    """Give room for the confounds, which a step writes into it inside the folds."""
    empty = np.zeros((cohort.n_rows, 1), dtype=np.float32)
    return dict.fromkeys((CONFOUNDS, *_singles(cohort)), empty)


def plan_jobs(
    cohort: Cohort,
    design: Design,
    contenders: Mapping[str, Contender | None],
    covariates: tuple[str, ...],
) -> list[Job]:
    """List all evaluations but that of guessing."""
    combat: tuple[Step, ...] = (Combat(),) if design.harmonise == "combat" else ()
    centred: tuple[Step, ...] = (WithinPeople(),) if level_of(cohort) == "within" else ()
    off: tuple[Step, ...] = (Deconfound(names=covariates, within=bool(centred)),)
    jobs = []
    for name, own in contenders.items():
        source, learner = (name, None) if own is None else (own.source, own.learner)
        last: tuple[Step, ...] = (Standardise(),) if own is None else ()
        job = Job(name=name, source=source, steps=(*combat, *centred, *last), learner=learner)
        jobs.append(job)
        if covariates:
            jobs.append(replace(job, steps=(*combat, *centred, *off, *last), adjusted=True))
    alone = {name: (confound,) for name, confound in _singles(cohort).items()}
    together = {CONFOUNDS: covariates} if covariates else {}
    for name, names in (together | alone).items():
        _, written = confound_source(cohort, names)
        jobs.append(Job(name=name, source=name, steps=(written, *centred, Standardise())))
    return jobs
