"""Scores of re-identification: the right answer's rank, and how far a mean may be off."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.pipelines.evaluate.cohort import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.reidentify_trials import Draws

__all__ = ["GalleryScore", "chance_precision", "mean_interval", "score_ranks"]

TIE: Final = 1e-9
"""Similarities closer than this are the same: the order in which they stand decides nothing."""
BLOCK: Final = 1 << 22
"""Weights held at once: 32 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryScore:
    """What galleries of one size give.

    Parameters
    ----------
    size : int
        Participants in a gallery, G.
    n_queried : int
        Participants who were asked for, in one trial at least.
    rank1, mean_precision : Interval
        Rank-1 and mAP, means over participants.
    chance_rank1, chance_precision : float
        What guessing gives.
    names : tuple of str
        Who was asked for.
    scores : ndarray, shape (n_queried, 2)
        Rank-1 and average precision of each, mean over trials. They are of single people.
    """

    size: int
    n_queried: int
    rank1: Interval
    mean_precision: Interval
    chance_rank1: float
    chance_precision: float
    names: tuple[str, ...] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Say the numbers for a JSON file; nobody is named."""
        return {
            "GallerySize": self.size,
            "ParticipantsQueried": self.n_queried,
            "Rank1": asdict(self.rank1),
            "Rank1ByChance": self.chance_rank1,
            "MeanAveragePrecision": asdict(self.mean_precision),
            "MeanAveragePrecisionByChance": self.chance_precision,
        }


def score_ranks(similarity: NDArray[np.float64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score each query by the rank of its one right answer, ties broken by lot.

    Parameters
    ----------
    similarity : ndarray, shape (Q, G)
        Of each query with the gallery.
    right : ndarray, shape (Q,), int
        Column of the right answer.

    Returns
    -------
    ndarray, shape (Q, 2)
        Rank-1 (1 if nothing is more similar) and average precision (one over the rank), as they
        are expected over the orders of what ties.

    Examples
    --------
    >>> score_ranks(np.array([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1]]), np.array([2, 0])).tolist()
    [[0.0, 0.5], [0.5, 0.75]]
    """
    own = np.take_along_axis(similarity, right[:, np.newaxis], 1)
    above = (similarity > own + TIE).sum(axis=1)
    ties = (np.abs(similarity - own) <= TIE).sum(axis=1)  # with itself
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, similarity.shape[1] + 1))])
    precision = (harmonic[above + ties] - harmonic[above]) / ties
    return np.column_stack([(above == 0) / ties, precision])


def chance_precision(size: int) -> float:
    """Tell the mean average precision of guessing in a gallery of a size.

    Examples
    --------
    >>> chance_precision(2)
    0.75
    """
    return float(np.mean(1 / np.arange(1, size + 1)))


def mean_interval(scores: NDArray[np.float64], ends: tuple[float, float], draws: Draws) -> Interval:
    """Bound the mean over participants by a Bayesian bootstrap.

    Participants are weighed anew at random, by Dirichlet's distribution, which is the smooth form
    of drawing them with replacement [1]_. Half a participant at each end of the scale is weighed
    with them: where all scores are alike there is nothing to draw from, and the interval would
    have no width, which 12 participants of 12 do not earn. For scores of 0 and 1 the interval is
    Jeffreys' of a proportion [2]_.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        One a participant.
    ends : tuple of float
        The lowest and the highest a score can be.
    draws : Draws
        Number of weighings, confidence, seed.

    Returns
    -------
    Interval
        The mean of the scores as they are, and its bounds.

    References
    ----------
    .. [1] Rubin, "The Bayesian bootstrap", Annals of Statistics 9:130, 1981.
    .. [2] Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", Statistical
       Science 16:101, 2001.
    """
    rng = np.random.default_rng((draws.seed, len(scores), 1))
    values = np.concatenate([scores, ends])
    shape = np.concatenate([np.ones(len(scores)), (0.5, 0.5)])
    step = max(1, BLOCK // len(values))
    means = []
    for start in range(0, draws.n_bootstraps, step):
        n_rows = min(step, draws.n_bootstraps - start)
        weights = rng.standard_gamma(shape, size=(n_rows, len(values)))
        means.append(weights @ values / weights.sum(axis=1))
    tail = (1 - draws.confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    value = float(np.mean(scores))
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
