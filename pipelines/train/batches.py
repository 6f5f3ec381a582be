"""Which windows a step sees: a function of the seed, the step and the process, and nothing else.

A training that was killed and taken up again therefore sees what it would have seen, without a
sampler's state on disk. Participants come in shuffled rounds, each as often as any other however
many runs they have; which of their windows is seen is drawn anew each time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.train.cache_file import CachedRun

__all__ = ["Draw", "Rounds", "Window", "derive_seed", "draw_window", "tile_run"]


def derive_seed(*parts: int | str) -> int:
    """Make a seed of numbers and words: other parts, another stream.

    Returns
    -------
    int
        63 bits.

    Examples
    --------
    >>> derive_seed(1, "masks", 7) == derive_seed(1, "masks", 7) != derive_seed(1, "masks", 8)
    True
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A piece of a step: what one process sees before gradients are added up.

    Parameters
    ----------
    seed : int
        Of the training.
    step : int
        From 0.
    part : int
        Which of the pieces that are accumulated, from 0.
    parts : int
        Their number.
    rank, world : int
        Which process, of how many.
    batch : int
        Items of a piece.
    """

    seed: int
    step: int
    part: int = 0
    parts: int = 1
    rank: int = 0
    world: int = 1
    batch: int = 1

    @property
    def items(self) -> range:
        """Numbers of the items of this piece among all that a training sees."""
        piece = (self.step * self.parts + self.part) * self.world + self.rank
        return range(piece * self.batch, (piece + 1) * self.batch)

    def rng(self, purpose: str, item: int | None = None) -> np.random.Generator:
        """Make numpy's generator for a purpose, of this piece or of one item."""
        where = ("item", item) if item is not None else ("piece", self.items.start, self.rank)
        return np.random.default_rng(derive_seed(self.seed, purpose, *where))

    def generator(self, purpose: str) -> torch.Generator:
        """Make torch's generator for a purpose, on the CPU."""
        seed = derive_seed(self.seed, purpose, self.items.start, self.rank)
        return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """The order in which participants come.

    Parameters
    ----------
    n : int
        Participants.
    seed : int
        Of the order.
    distinct : int
        So many that follow one another, from a multiple of it on, are all different; 1 asks for
        nothing. What is left of a round then waits for the next one.

    Raises
    ------
    UsageError
        If there are fewer participants than have to differ.
    """

    n: int
    seed: int
    distinct: int = 1

    def __post_init__(self) -> None:
        if self.distinct > self.n:
            raise UsageError(
                f"a batch of {self.distinct} different participants was asked for; there are "
                f"{self.n} to train on",
                fix=f"set --batch-size to {self.n} or less",
            )

    def participant(self, item: int) -> int:
        """Say whose turn it is."""
        length = self.n - self.n % self.distinct
        number, place = divmod(item, length)
        order = np.random.default_rng(derive_seed(self.seed, "round", number)).permutation(self.n)
        return int(order[place])


@dataclass(frozen=True, slots=True)
class Window:
    """A window of one of a participant's runs.

    Parameters
    ----------
    run : int
        Which of the participant's runs.
    start : int
        First volume.
    """

    run: int
    start: int


def draw_window(
    runs: Sequence[CachedRun], length: int, rng: np.random.Generator, *, run: int | None = None
) -> Window:
    """Draw a window of a participant: a run, then a start anywhere in it.

    Parameters
    ----------
    runs : sequence of CachedRun
        Of one participant.
    length : int
        Volumes of a window.
    rng : numpy.random.Generator
        Source of randomness.
    run : int, optional
        The run; by default each is as likely.

    Returns
    -------
    Window
        Inside the run.
    """
    chosen = int(rng.integers(len(runs))) if run is None else run
    return Window(chosen, int(rng.integers(runs[chosen].n_volumes - length + 1)))


def tile_run(
    run: CachedRun, window: int, stride: int, *, most: int | None = None
) -> NDArray[np.int64]:
    """Find the windows in which a run is judged: those of embedding, or some of them.

    Parameters
    ----------
    run : CachedRun
        At least one window long.
    window, stride : int
        In volumes.
    most : int, optional
        So many, spread evenly; by default all.

    Returns
    -------
    ndarray of int
        First volumes, ascending.
    """
    from neurostorm_app.pipelines.tile import window_starts

    starts = np.asarray(window_starts(run.n_volumes, window=window, stride=stride), dtype=np.int64)
    if most is None or len(starts) <= most:
        return starts
    spread = np.linspace(0, len(starts) - 1, most).round().astype(np.int64)
    return np.asarray(starts[spread], dtype=np.int64)
