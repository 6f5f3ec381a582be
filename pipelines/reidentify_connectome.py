"""The connectome fingerprint: two scans of a participant are more alike than scans of two.

References
----------
.. [1] Finn et al., "Functional connectome fingerprinting: identifying individuals using patterns
   of brain connectivity", Nature Neuroscience 18:1664, 2015: Pearson's correlation between the
   vectors of edges; the highest of the database is the answer; identities are shuffled for the
   null distribution.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.reidentify_scores import TIE, mean_interval
from neurostorm_app.pipelines.reidentify_trials import Draws, Person, find_people

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.evaluate.cohort import Interval

__all__ = ["Fingerprint", "fingerprint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Identification by the pattern of connectivity.

    Parameters
    ----------
    n_participants : int
        Participants with two scans, who are the database and the queries.
    n_across_sessions : int
        Those of them whose scans are of different sessions.
    n_edges : int
        Pairs of parcels.
    forward, backward : Interval
        Share identified when the first scans are looked for among the second, and the second
        among the first.
    p_forward, p_backward : float
        Share of shuffled identities that are as good or better.
    chance : float
        What guessing gives.
    draws : Draws
        Number of shuffles and weighings, confidence, seed.
    """

    n_participants: int
    n_across_sessions: int
    n_edges: int
    forward: Interval
    backward: Interval
    p_forward: float
    p_backward: float
    chance: float
    draws: Draws

    def as_dict(self) -> dict[str, Any]:
        """Say everything for a JSON file."""
        return {
            "Participants": self.n_participants,
            "ParticipantsAcrossSessions": self.n_across_sessions,
            "Edges": self.n_edges,
            "Similarity": "Pearson's correlation of the correlations of all pairs of parcels",
            "FirstAmongSecond": {**asdict(self.forward), "p": self.p_forward},
            "SecondAmongFirst": {**asdict(self.backward), "p": self.p_backward},
            "ByChance": self.chance,
            "Permutations": self.draws.n_permutations,
            "Confidence": self.draws.confidence,
            "Seed": self.draws.seed,
        }


def fingerprint(
    edges: NDArray[np.floating],
    participants: Sequence[str],
    runs: Sequence[str],
    *,
    sessions: Sequence[str] | None = None,
    fisher_z: bool = False,
    draws: Draws | None = None,
) -> Fingerprint:
    """Identify participants by their connectivity as Finn et al. did.

    Parameters
    ----------
    edges : ndarray, shape (N, E)
        Correlations of all pairs of parcels, one row a run (or a window: those of a run are
        averaged).
    participants, runs : sequence of N str
        Whose, and of which run.
    sessions : sequence of N str, optional
        Of which session. A participant's two scans are the means of her first two sessions, by
        label; her first two runs if she has one session.
    fisher_z : bool
        The edges are Fisher's z, as embeddings of ``connectome`` are, and are turned back.
    draws : Draws, optional
        Number of shuffles and weighings, confidence, seed.

    Returns
    -------
    Fingerprint
        Of the participants with two scans; others are left out.

    Raises
    ------
    DataError
        If fewer than two participants have two runs, there are not as many labels as rows, or a
        row is not finite or the same in all edges.
    """
    draws = draws or Draws()
    everybody = find_people(edges, participants, runs, sessions)
    people = [person for person in everybody if person.n_runs > 1]
    scans = [_two_scans(edges, person) for person in people]
    one, other = (
        _standardised(np.stack([pair[i] for pair in scans]), people, fisher_z=fisher_z)
        for i in (0, 1)
    )
    similarity = one @ other.T
    forward, p_forward = _identify(similarity, draws)
    backward, p_backward = _identify(similarity.T, draws)
    return Fingerprint(
        n_participants=len(people),
        n_across_sessions=sum(len(person.sessions) > 1 for person in people),
        n_edges=edges.shape[1],
        forward=forward,
        backward=backward,
        p_forward=p_forward,
        p_backward=p_backward,
        chance=1 / len(people),
        draws=draws,
    )


def _two_scans(
    edges: NDArray[np.floating], person: Person
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average the runs of the first two sessions, or take the first two runs."""
    several = len(person.sessions) > 1
    scans = person.sessions if several else [(run,) for run in person.sessions[0]]
    first, second = (
        np.mean([edges[rows].mean(axis=0, dtype=np.float64) for rows in scan], axis=0)
        for scan in scans[:2]
    )
    return first, second


def _standardised(
    edges: NDArray[np.float64], people: Sequence[Person], *, fisher_z: bool
) -> NDArray[np.float64]:
    """Take off each row's mean and make its length one: products are Pearson's correlations."""
    values = np.tanh(edges) if fisher_z else edges
    values = values - values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1)
    flat = np.flatnonzero(lengths <= TIE * np.linalg.norm(edges, axis=1))
    if flat.size:
        raise DataError(
            f"the connectivity of {people[flat[0]].name} is the same in all {edges.shape[1]} "
            "edges: there is no pattern to recognise",
            fix="leave the run out, or use a parcellation of at least three parcels",
        )
    return np.asarray(values / lengths[:, np.newaxis])


def _identify(similarity: NDArray[np.float64], draws: Draws) -> tuple[Interval, float]:
    """Look each row up among the columns; shuffle who the columns are for the p-value."""
    top = similarity >= similarity.max(axis=1, keepdims=True) - TIE
    credit = top / top.sum(axis=1, keepdims=True)
    people = np.arange(len(credit))
    right = credit[people, people]
    rng = np.random.default_rng((draws.seed, len(people), 2))
    shuffled = [credit[people, rng.permutation(people)].mean() for _ in range(draws.n_permutations)]
    as_good = np.count_nonzero(np.array(shuffled) >= right.mean() - TIE)
    p_value = (1 + as_good) / (1 + draws.n_permutations)
    return mean_interval(right, (0, 1), draws), p_value
