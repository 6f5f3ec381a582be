"""Where a run stands among all runs: how far the nearest one is, and how far that usually is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neurostorm_app.bids_app.report.neighbours import Cohort

__all__ = ["FEWEST", "Standing", "find_standing"]

FEWEST = 10
"""Runs of other participants below which nobody can say what is usual."""
_REACH = 3.0
"""Spans between the quartiles, above the upper one, beyond which a run stands apart."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A run among the runs of other participants.

    Parameters
    ----------
    label : str
        Of the model.
    demo : bool
        Whether its weights are not for science.
    nearest : str
        Name of the nearest run of another participant.
    distance : float
        To it: one less the cosine of the vectors, as the index compares them.
    usual : float
        Within which nine of ten runs of other participants have one of somebody else.
    fence : float or None
        Beyond which a run stands apart; None with too few runs to say.
    n_runs : int
        Runs of other participants, of which `usual` is told.
    """

    label: str
    demo: bool
    nearest: str
    distance: float
    usual: float
    fence: float | None
    n_runs: int


def find_standing(cohort: Cohort, name: str, *, demo: bool) -> Standing | None:
    """Compare a run with those of other participants.

    Parameters
    ----------
    cohort : Cohort
        All runs of a model.
    name : str
        Of the run.
    demo : bool
        Whether the weights are not for science.

    Returns
    -------
    Standing or None
        None if the run is not among them, or there is no other participant.
    """
    if name not in cohort.names or len(set(cohort.participants)) < 2:
        return None
    people = np.asarray(cohort.participants)
    others = np.where(people[:, None] == people[None, :], np.inf, 1 - cohort.similarity)
    row = cohort.names.index(name)
    distances = others.min(axis=1)
    own, rest = float(distances[row]), distances[people != people[row]]
    low, high = np.percentile(rest, [25, 75])
    return Standing(
        label=cohort.label,
        demo=demo,
        nearest=cohort.names[int(others[row].argmin())],
        distance=own,
        usual=float(np.percentile(rest, 90)),
        fence=float(high + _REACH * (high - low)) if len(rest) >= FEWEST else None,
        n_runs=len(rest),
    )
