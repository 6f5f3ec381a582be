"""Trials of re-identification: whose runs are in the gallery, which run is asked with, how alike.

Everything is drawn by name, not by row, so that the order of the rows changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Draws", "Person", "Similarities", "Trial", "draw_trials", "find_people"]

LARGEST: Final = 2000
"""Participants in a gallery at most: what more would tell is not worth its square."""
MOST_ROWS: Final = 4096
"""Rows up to which all inner products are computed once: 128 MiB."""
COLUMNS: Final = 8192
"""Numbers of a vector that are multiplied at a time, in double precision."""
NOTHING: Final = 1e-12
"""Share of a squared length that is left by rounding alone."""
SORTED_BY: Final = 8
"""Numbers of a window by which the windows of a run are put in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How often, of how many, and from which seed is drawn.

    Parameters
    ----------
    n_trials : int
        Galleries of each size.
    gallery : int
        Participants in a gallery beside the one of all, if there are more than that.
    n_bootstraps, n_permutations : int
        Weighings behind an interval; shuffled identities behind a p-value.
    confidence : float
        Of the intervals.
    seed : int
        Of all draws.
    """

    n_trials: int = 100
    gallery: int = 100
    n_bootstraps: int = 2000
    n_permutations: int = 1000
    confidence: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        counts = (self.n_trials, self.n_bootstraps, self.n_permutations, self.gallery - 1)
        if min(counts) < 1 or not 0.5 <= self.confidence < 1:
            raise UsageError(
                f"re-identification cannot be drawn with {self}",
                fix="ask for at least one trial, bootstrap and permutation, a gallery of at least "
                "two, and a confidence of 0.5 or more and below 1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A participant's rows.

    Parameters
    ----------
    name : str
        Label.
    sessions : tuple of tuple of ndarray of int
        Row numbers, by session, by run; one row a run, or one a window. Sorted by label.
    """

    name: str
    sessions: tuple[tuple[NDArray[np.int64], ...], ...]

    @property
    def n_runs(self) -> int:
        """Count the runs of all sessions."""
        return sum(map(len, self.sessions))

    def draw_gallery_and_query(self, u: NDArray[np.float64]) -> tuple[int, int]:
        """Draw a row for the gallery and one of another run to ask with; -1 if there is none.

        Parameters
        ----------
        u : ndarray, shape (6,)
            Uniform from 0 to 1.
        """
        sessions = list(self.sessions)
        if len(sessions) > 1:
            one, other = (sessions[i] for i in _two(u[0], u[1], len(sessions)))
            first, second = one[int(u[2] * len(one))], other[int(u[3] * len(other))]
        elif self.n_runs > 1:
            first, second = (sessions[0][i] for i in _two(u[0], u[1], self.n_runs))
        else:
            first, second = sessions[0][0], None
        query = -1 if second is None else int(second[int(u[5] * len(second))])
        return int(first[int(u[4] * len(first))]), query


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One gallery and what is asked of it.

    Parameters
    ----------
    people : ndarray, shape (G,), int
        Who is in the gallery: numbers of participants, ascending.
    gallery : ndarray, shape (G,), int
        The row of each.
    query : ndarray, shape (G,), int
        The row asked with, of another run of the same participant; -1 where there is none.
    """

    people: NDArray[np.int64]
    gallery: NDArray[np.int64]
    query: NDArray[np.int64]


def find_people(
    vectors: NDArray[np.floating],
    participants: Sequence[str],
    runs: Sequence[str],
    sessions: Sequence[str] | None,
) -> list[Person]:
    """Gather rows by participant, session and run, sorted by label.

    Raises
    ------
    DataError
        If there are not as many labels as rows, a vector is not finite or has no length, or fewer
        than two participants have two runs.
    """
    sessions = [""] * len(runs) if sessions is None else sessions
    _check(vectors, (participants, runs, sessions))
    found: dict[str, dict[str, dict[str, list[int]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row, labels in enumerate(zip(participants, sessions, runs, strict=True)):
        participant, session, run = labels
        found[participant][session][run].append(row)
    people = [
        Person(
            name=name,
            sessions=tuple(
                tuple(_in_order(vectors, of_name[session][run]) for run in sorted(of_name[session]))
                for session in sorted(of_name)
            ),
        )
        for name, of_name in sorted(found.items())
    ]
    n_queried = sum(person.n_runs > 1 for person in people)
    if n_queried < 2:
        raise DataError(
            f"{n_queried} of {len(people)} participants have two runs; at least 2 are needed to "
            "see whether a run is recognised as its participant's",
            fix="embed a second run or session of at least two participants; of one run each "
            "nothing can be said",
        )
    return people


def draw_trials(people: Sequence[Person], size: int, draws: Draws) -> Iterator[Trial]:
    """Draw galleries of a size, the same whatever the vectors.

    Yields
    ------
    Trial
        ``draws.n_trials`` of them.
    """
    rng = np.random.default_rng((draws.seed, size))
    for _ in range(draws.n_trials):
        drawn = np.sort(rng.choice(len(people), size, replace=False))
        u = rng.random((size, 6))
        pairs = [
            people[i].draw_gallery_and_query(numbers) for i, numbers in zip(drawn, u, strict=True)
        ]
        gallery, query = np.array(pairs, dtype=np.int64).T
        yield Trial(people=drawn, gallery=gallery, query=query)


class Similarities:
    """Cosines between rows, in double precision, of centred vectors if asked for.

    Parameters
    ----------
    vectors : ndarray, shape (N, D)
        One row a run, or a window.
    centre : bool
        Take off the mean of the gallery. Of fewer than three there is none worth taking off.
    """

    def __init__(self, vectors: NDArray[np.floating], *, centre: bool) -> None:
        self._vectors = vectors
        self._centre = centre
        self._squares = np.array([float(np.square(row, dtype=np.float64).sum()) for row in vectors])
        rows = np.arange(len(vectors))
        self._products = self._multiply(rows, rows) if len(rows) <= MOST_ROWS else None

    def cosines(self, query: NDArray[np.int64], gallery: NDArray[np.int64]) -> NDArray[np.float64]:
        r"""Compare rows with a gallery.

        With the gallery's mean :math:`m`, products of centred vectors follow from those of the
        vectors: :math:`(q-m)(g-m) = qg - qm - gm + mm`.

        Returns
        -------
        ndarray, shape (Q, G)
            Cosines; 0 for a vector of which centring leaves nothing.
        """
        product = self._inner(query, gallery)
        q_square, g_square = self._squares[query], self._squares[gallery]
        q_left, g_left = q_square, g_square
        if self._centre and len(gallery) >= 3:
            g_mean = self._inner(gallery, gallery).mean(axis=1)
            q_mean, square = product.mean(axis=1), g_mean.mean()
            product = product - q_mean[:, np.newaxis] - g_mean + square
            q_left, g_left = q_square - 2 * q_mean + square, g_square - 2 * g_mean + square
        q_inverse, g_inverse = _inverse(q_left, q_square), _inverse(g_left, g_square)
        return product * q_inverse[:, np.newaxis] * g_inverse

    def _inner(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        if self._products is not None:
            return self._products[np.ix_(one, other)]
        return self._multiply(one, other)

    def _multiply(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        """Multiply a few columns at a time: double precision takes twice the room."""
        product = np.zeros((len(one), len(other)))
        for start in range(0, self._vectors.shape[1], COLUMNS):
            part = self._vectors[:, start : start + COLUMNS]
            product += part[one].astype(np.float64) @ part[other].astype(np.float64).T
        return product


def _two(u: float, v: float, n: int) -> tuple[int, int]:
    """Draw two different numbers below n, in either order."""
    first, second = int(u * n), int(v * (n - 1))
    return first, second + (second >= first)


def _in_order(vectors: NDArray[np.floating], rows: list[int]) -> NDArray[np.int64]:
    """Put the windows of a run in an order that depends on what they are, not where they stand."""
    if len(rows) > 1:
        unit = {i: tuple(vectors[i, :SORTED_BY] / np.linalg.norm(vectors[i])) for i in rows}
        rows = sorted(rows, key=unit.__getitem__)
    return np.array(rows, dtype=np.int64)


def _inverse(left: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert lengths; 0 where nothing but rounding is left."""
    kept = left > NOTHING * square
    return np.where(kept, 1 / np.sqrt(np.where(kept, left, 1)), 0)


def _check(vectors: NDArray[np.floating], labels: Sequence[Sequence[str]]) -> None:
    counts = [len(some) for some in labels]
    if vectors.ndim != 2 or {len(vectors)} != set(counts):
        raise DataError(
            f"vectors of shape {vectors.shape} come with {counts[0]} participants, {counts[1]} "
            f"runs and {counts[2]} sessions",
            fix="give one label of each for every row of the vectors",
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # holds no second table
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise DataError(
            f"the vector of row {bad[0]} ({labels[0][bad[0]]}, {labels[1][bad[0]]}) cannot be "
            f"compared: it is not finite or has no length, as have {bad.size} in all",
            fix="embed these runs again, or leave them out",
        )
