"""Participants apart: some to train on, some to choose the best step by, some to judge it by.

A participant is on one side with all runs. Upstream's default shares leave nothing for a test, and
its test set then *is* the validation set: the number it reports is of the participants by whom the
weights were chosen, and too good. Here the validation says so, and a test set is one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.train.batches import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Split", "split_participants"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Participants by number; no participant is in two of the three.

    Parameters
    ----------
    train, validation, test : tuple of int
        Ascending; there may be none to test on.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...] = ()


def split_participants(
    n: int,
    *,
    seed: int,
    validation: float = 0.2,
    test: float = 0.0,
    classes: NDArray[np.int64] | None = None,
) -> Split:
    """Draw who is trained on, who validates and who tests.

    Parameters
    ----------
    n : int
        Participants.
    seed : int
        Of the draw.
    validation, test : float
        Shares; validation has at least one participant (of each class), and so has a test that is
        asked for.
    classes : ndarray, shape (n,), optional
        Class of each participant, to keep the shares of classes alike.

    Returns
    -------
    Split
        All participants.

    Raises
    ------
    UsageError
        If the shares leave nobody to train on.
    DataError
        If a class, or the whole, has too few participants to be on each side.

    Examples
    --------
    >>> split = split_participants(10, seed=1, classes=np.repeat([0, 1], 5))
    >>> len(split.train), len(split.validation), len(split.test)
    (8, 2, 0)
    """
    if not (0 < validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise UsageError(
            f"the shares of validation and test are {validation:g} and {test:g}; they leave "
            "nobody to train on, or nobody to validate by",
            fix="give shares between 0 and 1 whose sum is below 1, such as 0.2 and 0",
        )
    labels = np.zeros(n, dtype=np.int64) if classes is None else np.asarray(classes)
    rng = np.random.default_rng(derive_seed(seed, "split"))
    sides: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held = [_count(share, len(members)) for share in (validation, test)]
        if sum(held) >= len(members):
            raise DataError(
                f"{len(members)} participants of one kind are too few to be on each side of a "
                f"split: {sum(held)} would be held out",
                fix="leave that class out, hold out a smaller share, or find more participants",
            )
        for side, some in zip(sides, np.split(members, np.cumsum(held)), strict=True):
            side.extend(some.tolist())
    held_out, tested, trained = (tuple(sorted(side)) for side in sides)
    return Split(train=trained, validation=held_out, test=tested)


def _count(share: float, n: int) -> int:
    return max(1, round(share * n)) if share else 0
