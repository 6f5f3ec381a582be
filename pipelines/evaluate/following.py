"""How far embeddings follow a property of people, such as motion or the site of the scanner.

The squared differences between people are split into what goes with the property and the rest, as
a variance is split in regression, but from similarities alone. That a property takes some share
by chance is told beside it, and whether as large a share comes about when the property is dealt
out at random. Properties are taken one by one: those that go together take the same share twice.

References
----------
McArdle and Anderson, Fitting multivariate models to community data, Ecology 2001; Zapala and
Schork, Multivariate regression analysis of distance matrices, PNAS 2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["FEWEST", "Following", "average_people", "measure_following"]

FEWEST: Final = 8
"""People, below which no share is told."""
BLOCK: Final = 64
"""Rearrangements that are worked out together; bounds memory to so many columns."""
ROUNDING: Final = 1e-9
"""A rearrangement that changes nothing gives the same share but for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """How far embeddings follow one property.

    Parameters
    ----------
    share : float
        Of the squared differences between people, from 0 to 1.
    by_chance : float
        The mean share of a property that has nothing to do with them.
    p_value : float
        (1 + rearrangements that take as much) / (1 + rearrangements).
    n : int
        People.
    """

    share: float
    by_chance: float
    p_value: float
    n: int


def average_people(
    similarity: NDArray[np.float64], people: Sequence[str]
) -> tuple[list[str], NDArray[np.float64]]:
    """Turn similarities of runs into those of people's mean vectors.

    Parameters
    ----------
    similarity : ndarray, shape (N, N), float64
        Inner products of the vectors of runs.
    people : sequence of str
        Whose each run is.

    Returns
    -------
    list of str and ndarray, shape (n, n), float64
        People in the order in which they come, and inner products of their means.

    Examples
    --------
    >>> average_people(np.eye(3), ["b", "b", "a"])
    (['b', 'a'], array([[0.5, 0. ],
           [0. , 1. ]]))
    """
    names = list(dict.fromkeys(people))
    numbers = {name: i for i, name in enumerate(names)}
    mean = np.zeros((len(names), len(people)))
    mean[[numbers[name] for name in people], np.arange(len(people))] = 1
    mean /= mean.sum(axis=1, keepdims=True)
    return names, mean @ similarity @ mean.T


def measure_following(
    gram: NDArray[np.float64],
    values: NDArray[np.float64] | Sequence[str],
    *,
    n_permutations: int = 999,
    seed: int = 0,
) -> Following | None:
    """Measure how far people's vectors follow a property.

    Parameters
    ----------
    gram : ndarray, shape (n, n), float64
        Inner products of people's vectors, about any origin.
    values : ndarray, shape (n,), float64, or sequence of str
        The property: a number of each, or a name, such as the site. NaN and empty: not known.
    n_permutations : int
        Of the test.
    seed : int
        Of the rearrangements.

    Returns
    -------
    Following or None
        None where fewer than `FEWEST` people are left, where the property does not vary among
        them or is a name of everybody's own, or where their vectors do not differ.
    """
    columns, known = _columns(values)
    n = int(known.sum())
    if n < FEWEST or columns.shape[1] == 0 or columns.shape[1] >= n - 1:
        return None
    centred = gram[np.ix_(known, known)]
    centred = centred - centred.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    whole = float(np.trace(centred))
    if whole <= ROUNDING * max(1.0, float(np.trace(gram))):
        return None
    basis = np.linalg.qr(columns)[0]
    rng = np.random.default_rng(seed)
    orders = np.vstack([np.arange(n), *(rng.permutation(n)[None] for _ in range(n_permutations))])
    shares = np.concatenate(
        [_shares(centred, basis, orders[i : i + BLOCK]) for i in range(0, len(orders), BLOCK)]
    )
    shares /= whole
    as_large = int((shares[1:] >= shares[0] - ROUNDING).sum())
    return Following(
        share=float(shares[0]),
        by_chance=columns.shape[1] / (n - 1),
        p_value=(1 + as_large) / (1 + n_permutations),
        n=n,
    )


def _columns(
    values: NDArray[np.float64] | Sequence[str],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Make centred columns (n, k) of a property, and say of whom it is known."""
    if isinstance(values, np.ndarray):
        known = np.isfinite(values)
        columns = values[known, None]
    else:
        known = np.array([value != "" for value in values], dtype=bool)
        names = [value for value in values if value != ""]
        kinds = sorted(set(names))
        columns = np.array([[name == kind for kind in kinds[1:]] for name in names], dtype=float)
        columns = columns.reshape(len(names), max(len(kinds) - 1, 0))
    if len(columns) == 0:
        return columns, known
    columns = columns - columns.mean(axis=0)
    spread = np.abs(columns).max(axis=0)
    return columns[:, spread > 0] / spread[spread > 0], known


def _shares(
    gram: NDArray[np.float64], basis: NDArray[np.float64], orders: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum the squares of the vectors along a property, for each order (P, n) of people."""
    moved = basis[orders]  # (P, n, k)
    found: NDArray[np.float64] = np.einsum(
        "pnk,pnk->p", moved, np.einsum("nm,pmk->pnk", gram, moved, optimize=True)
    )
    return found
