r"""Re-identification: whether a run is recognised as its participant's among runs of others.

A trial draws a gallery of G participants, one run of each, and for each who has another run one
query. The query is compared with the whole gallery by cosine. *Rank-1* is the share of queries
whose most similar run is the participant's own; *mAP* is the mean average precision, which is the
mean of one over the rank, as each participant is in the gallery once. By chance they are
:math:`1 / G` and :math:`\frac{1}{G} \sum_{r=1}^{G} \frac{1}{r}`.

Query and gallery are never of the same run, so windows of one run never match each other; of a
run with several windows each trial draws one. They are of different sessions wherever the
participant has two. Who has one run only is an impostor in the gallery, never a query. Where a
card asks for centring, the mean is that of the gallery: nothing of the queries is in it.

Two habits that make such numbers too good are avoided. NeuroSTORM's code ranks all clips against
all, so that a clip's best match is its neighbour in time, of the same scan; and its
``gallery_size`` cuts the ranking to its first G instead of drawing a gallery of G, so that the
number means something else.

Intervals are over participants. A participant's score is the mean over her trials; scores are
weighed anew, galleries are not made anew of resampled participants: who was drawn twice would be
her own impostor, or have two right answers. An interval so says what other queries would give
among these impostors, at this size of gallery.

References
----------
.. [1] Finn et al., "Functional connectome fingerprinting: identifying individuals using patterns
   of brain connectivity", Nature Neuroscience 18:1664, 2015.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.reidentify_connectome import Fingerprint, fingerprint
from neurostorm_app.pipelines.reidentify_scores import (
    GalleryScore,
    chance_precision,
    mean_interval,
    score_ranks,
)
from neurostorm_app.pipelines.reidentify_trials import (
    LARGEST,
    Draws,
    Person,
    Similarities,
    draw_trials,
    find_people,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Interval

__all__ = [
    "Difference",
    "Draws",
    "Fingerprint",
    "GalleryScore",
    "Reidentification",
    "compare_reidentification",
    "fingerprint",
    "reidentify",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reidentification:
    """How well runs are recognised as their participants'.

    Parameters
    ----------
    whole : GalleryScore
        Of galleries of all participants, 2,000 at most.
    sampled : GalleryScore or None
        Of galleries of the stated size; None if there are no more participants than that.
    n_participants, n_runs : int
        All there are.
    n_impostors : int
        Participants with one run, who are only ever in the gallery.
    n_across_sessions : int
        Participants whose query and gallery run are of different sessions.
    centred : bool
        Whether the gallery's mean was taken off.
    draws : Draws
        How it was drawn.
    about : str
        Hash of who has which runs, by which two results are seen to be of the same.
    """

    whole: GalleryScore
    sampled: GalleryScore | None
    n_participants: int
    n_runs: int
    n_impostors: int
    n_across_sessions: int
    centred: bool
    draws: Draws
    about: str

    def as_dict(self) -> dict[str, Any]:
        """Say everything but single people's scores for a JSON file."""
        galleries = [self.whole] if self.sampled is None else [self.whole, self.sampled]
        return {
            "Participants": self.n_participants,
            "ParticipantsWithOneRun": self.n_impostors,
            "ParticipantsAcrossSessions": self.n_across_sessions,
            "Runs": self.n_runs,
            "Similarity": "cosine" + (", mean of the gallery taken off" if self.centred else ""),
            "Galleries": [gallery.as_dict() for gallery in galleries],
            "Trials": self.draws.n_trials,
            "Confidence": self.draws.confidence,
            "Seed": self.draws.seed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much better one model recognises runs than another, in galleries of one size.

    Parameters
    ----------
    size : int
        Participants in a gallery.
    n_queried : int
        Participants who were asked for.
    rank1, mean_precision : Interval
        Of the first less that of the second, paired by participant.
    """

    size: int
    n_queried: int
    rank1: Interval
    mean_precision: Interval


def reidentify(
    vectors: NDArray[np.floating],
    participants: Sequence[str],
    runs: Sequence[str],
    *,
    sessions: Sequence[str] | None = None,
    centre: bool = False,
    draws: Draws | None = None,
) -> Reidentification:
    """Measure how well runs are recognised as their participants'.

    Parameters
    ----------
    vectors : ndarray, shape (N, D)
        One row a run, or one a window.
    participants, runs : sequence of N str
        Whose, and of which run. Runs of the same name are of different runs if the participant or
        the session differs.
    sessions : sequence of N str, optional
        Of which session; all of one by default.
    centre : bool
        Take the gallery's mean off before lengths are made one, as the model's card says. Of
        fewer than three participants there is no mean worth taking off, and none is.
    draws : Draws, optional
        How many trials, of how many participants, from which seed.

    Returns
    -------
    Reidentification
        Rank-1 and mAP with intervals and what chance gives.

    Raises
    ------
    DataError
        If fewer than two participants have two runs, there are not as many labels as rows, or a
        vector is not finite or has no length.
    """
    draws = draws or Draws()
    people = find_people(vectors, participants, runs, sessions)
    similarities = Similarities(vectors, centre=centre)
    whole = min(len(people), LARGEST)
    return Reidentification(
        whole=_score(people, similarities, whole, draws),
        sampled=_score(people, similarities, draws.gallery, draws)
        if draws.gallery < whole
        else None,
        n_participants=len(people),
        n_runs=sum(person.n_runs for person in people),
        n_impostors=sum(person.n_runs == 1 for person in people),
        n_across_sessions=sum(len(person.sessions) > 1 for person in people),
        centred=centre and len(people) >= 3,
        draws=draws,
        about=_about(participants, runs, sessions),
    )


def compare_reidentification(
    first: Reidentification, second: Reidentification
) -> tuple[Difference, ...]:
    """Tell how much better one model is than another on the same runs.

    Both met the same galleries and queries, so that what is hard about a participant cancels out.

    Parameters
    ----------
    first, second : Reidentification
        Of the same runs, drawn in the same way.

    Returns
    -------
    tuple of Difference
        For galleries of all, and of the stated size if there is one: first less second.

    Raises
    ------
    DataError
        If they are not of the same runs, or were drawn in another way.
    """
    if (first.about, first.draws) != (second.about, second.draws):
        raise DataError(
            f"two models can only be compared on the same runs: the first was measured on "
            f"{first.n_runs} of {first.n_participants} participants with {first.draws}, the second "
            f"on {second.n_runs} of {second.n_participants} with {second.draws}",
            fix="leave out the runs that one of them lacks, and draw both from the same seed",
        )
    pairs = [(first.whole, second.whole)]
    if first.sampled is not None and second.sampled is not None:
        pairs.append((first.sampled, second.sampled))
    return tuple(_difference(one, other, first.draws) for one, other in pairs)


def _score(
    people: Sequence[Person], similarities: Similarities, size: int, draws: Draws
) -> GalleryScore:
    """Average each participant over the trials she was asked for in, then over participants."""
    total, n_times = np.zeros((len(people), 2)), np.zeros(len(people))
    for trial in draw_trials(people, size, draws):
        right = np.flatnonzero(trial.query >= 0)
        if not right.size:
            continue
        cosines = similarities.cosines(trial.query[right], trial.gallery)
        total[trial.people[right]] += score_ranks(cosines, right)
        n_times[trial.people[right]] += 1
    asked = np.flatnonzero(n_times)
    scores = total[asked] / n_times[asked, np.newaxis]
    return GalleryScore(
        size=size,
        n_queried=len(asked),
        rank1=mean_interval(scores[:, 0], (0, 1), draws),
        mean_precision=mean_interval(scores[:, 1], (1 / size, 1), draws),
        chance_rank1=1 / size,
        chance_precision=chance_precision(size),
        names=tuple(people[i].name for i in asked),
        scores=scores,
    )


def _difference(one: GalleryScore, other: GalleryScore, draws: Draws) -> Difference:
    by_person = one.scores - other.scores
    most = 1 - 1 / one.size
    return Difference(
        size=one.size,
        n_queried=one.n_queried,
        rank1=mean_interval(by_person[:, 0], (-1, 1), draws),
        mean_precision=mean_interval(by_person[:, 1], (-most, most), draws),
    )


def _about(participants: Sequence[str], runs: Sequence[str], sessions: Sequence[str] | None) -> str:
    """Hash the labels of all rows, whatever their order."""
    labels = sorted(zip(participants, sessions or [""] * len(runs), runs, strict=True))
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()
