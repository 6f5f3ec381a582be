"""How well embeddings tell people apart: the nearest run is of the same participant, or it is not.

Shares come with intervals, because few participants say little: participants are drawn again and
again with replacement, and the middle 95 % of the shares is the interval.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Matching", "compare_matching", "find_hits"]

DRAWS, MIDDLE = 2000, (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How often the nearest run is of the same participant, trained and not.

    Parameters
    ----------
    matched, matched_untrained : float
        Share of runs: of the weights, and the mean of networks that were never trained.
    margin : float
        The first minus the second.
    margin_low, margin_high : float
        Its 95 % interval over participants.
    chance : float
        Share that is matched by chance.
    n_participants, n_runs, n_untrained : int
        How many there were.
    """

    matched: float
    matched_untrained: float
    margin: float
    margin_low: float
    margin_high: float
    chance: float
    n_participants: int
    n_runs: int
    n_untrained: int

    def as_dict(self) -> dict[str, Any]:
        """List the numbers for a JSON file."""
        return asdict(self)


def find_hits(
    vectors: NDArray[np.floating], people: Sequence[object], *, centre: bool = True
) -> NDArray[np.bool_]:
    """Tell of each run whether the nearest other one is of the same participant.

    Parameters
    ----------
    vectors : ndarray, shape (N, D)
        Embeddings of runs.
    people : sequence
        The participant of each.
    centre : bool
        Take the mean over runs off first, as an index does whose card says so.

    Returns
    -------
    ndarray, shape (N,), bool
        Nearest by the cosine.

    Examples
    --------
    >>> find_hits(np.array([[1, 0], [2, 0.1], [0, 1], [0, 3]]), "aabb").tolist()
    [True, True, True, True]
    """
    rows = np.asarray(vectors, dtype=np.float64)
    rows = rows - rows.mean(axis=0) if centre else rows
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    alike = rows @ rows.T
    np.fill_diagonal(alike, -np.inf)
    of = np.asarray([str(person) for person in people])
    return np.asarray(of[alike.argmax(axis=1)] == of)


def compare_matching(
    trained: NDArray[np.bool_],
    untrained: Sequence[NDArray[np.bool_]],
    people: Sequence[object],
    *,
    seed: int = 0,
) -> Matching:
    """Compare trained weights with untrained ones on the same runs.

    Parameters
    ----------
    trained : ndarray, shape (N,), bool
        Hits of the weights; see `find_hits`.
    untrained : sequence of ndarray, shape (N,), bool
        Hits of networks that were never trained.
    people : sequence
        The participant of each run.
    seed : int
        Of the drawing of participants.

    Returns
    -------
    Matching
        Shares, margin and its interval.
    """
    control = np.mean(untrained, axis=0)
    of = np.unique([str(person) for person in people], return_inverse=True)[1]
    counts = np.bincount(of)
    differences = np.bincount(of, weights=trained - control)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (DRAWS, len(counts)))
    margins = differences[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(margins, MIDDLE)
    n = len(of)
    return Matching(
        matched=float(trained.mean()),
        matched_untrained=float(control.mean()),
        margin=float(trained.mean() - control.mean()),
        margin_low=float(low),
        margin_high=float(high),
        chance=float(((counts - 1) * counts).sum() / (n * (n - 1))),
        n_participants=len(counts),
        n_runs=n,
        n_untrained=len(untrained),
    )
