"""Redundancy dropout while an autoencoder is trained: draws by `redundancy`, and their counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models.redundancy import (
    drop_probability,
    entry_probability,
    find_neighbours,
    resemble,
)

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.blocks import Size

__all__ = ["Dropped", "Redundancy", "RedundancyDropout"]

Variant = Literal["paper", "upstream"]

PART = 64
"""Windows whose N x N resemblances are held together; another number would draw other entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redundancy:
    """How redundancy is dropped.

    Parameters
    ----------
    variant : str
        ``paper`` drops entries of the mixing, ``upstream`` whole tokens.
    space : int
        Edge of the cube, in tokens, that holds the neighbours of the same time; odd.
    time : int
        Length of the column, in tokens, that holds the neighbours of the same place; odd.
    strength : float
        Times the probability; 1 is what the equations give. Products above 1 count as 1.

    Raises
    ------
    UsageError
        If one of them is none of these.
    """

    variant: Variant = "paper"
    space: int = 5
    time: int = 5
    strength: float = 1.0

    def __post_init__(self) -> None:
        known = get_args(Variant)
        if self.variant not in known:
            raise UsageError(
                f"there is no redundancy dropout {self.variant!r}",
                fix=f"give one of {', '.join(known)}",
            )
        if min(self.space, self.time) < 1 or self.space % 2 == 0 or self.time % 2 == 0:
            raise UsageError(
                f"neighbours of redundancy dropout span {self.space} tokens in space and "
                f"{self.time} in time; a token stands in the middle of an odd number",
                fix="give odd numbers from 1 on, such as 5 and 5",
            )
        if not 0 < self.strength < float("inf"):
            raise UsageError(
                f"the strength of redundancy dropout is {self.strength}; it multiplies "
                "probabilities",
                fix="give a number above 0, or switch redundancy dropout off",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What was dropped since the last step began.

    Parameters
    ----------
    share : float
        Share that was dropped: of the tokens for ``upstream``, of the entries between neighbours
        for ``paper``. NaN if nothing went through.
    expected : float
        Mean of the probabilities it was drawn with.
    moved : float
        Share of the tokens that changed at all.
    n : int
        Tokens, or entries, that could be dropped.
    """

    share: float
    expected: float
    moved: float
    n: int


class RedundancyDropout:
    """Drops redundancy from the windows of all blocks of one encoder, and counts.

    Not a module: it has no weights. Each draw comes from the seed, the step, the rank and how many
    draws the step has seen, so that a run that is taken up again draws what it would have drawn.

    Parameters
    ----------
    settings : Redundancy
        Which, and how much.
    seed : int
        Of the training.
    """

    def __init__(self, settings: Redundancy, *, seed: int = 0) -> None:
        self.settings = settings
        self.seed = seed
        self.begin(0)

    def begin(self, step: int, *, rank: int = 0) -> None:
        """Begin a step: the draws depend on it, and the counts start anew.

        Parameters
        ----------
        step : int
            Number of the step, from 0.
        rank : int
            Of the process, where several train together.
        """
        self._place = (step, rank)
        self._draws = 0
        self._n = self._n_tokens = 0
        self._counts: list[Tensor] = []  # (dropped, expected, moved) of each draw

    def __call__(self, tokens: Tensor, window: Size) -> Tensor:
        """Drop redundancy within windows.

        Parameters
        ----------
        tokens : Tensor, shape (B, N, C)
            What a Mamba gives for B windows.
        window : tuple of int, length 4
            Tokens along X, Y, Z and T, as the grid really has them; N in all.

        Returns
        -------
        Tensor, shape (B, N, C)
            The same without what was dropped; what is left is not scaled up.
        """
        neighbours = _neighbours(window, self.settings.space, self.settings.time, tokens.device)
        generator = torch.Generator(device=tokens.device)
        generator.manual_seed(self._next_seed())
        drop = self._tokens if self.settings.variant == "upstream" else self._entries
        parts = [drop(part, neighbours, generator) for part in torch.split(tokens, PART)]
        self._n_tokens += tokens.shape[0] * tokens.shape[1]
        return torch.cat(parts)

    def measured(self) -> Dropped:
        """Tell how much was dropped since `begin`."""
        if not self._n:
            return Dropped(share=float("nan"), expected=float("nan"), moved=float("nan"), n=0)
        dropped, expected, moved = torch.stack(self._counts).sum(dim=0).tolist()
        return Dropped(
            share=dropped / self._n,
            expected=expected / self._n,
            moved=moved / self._n_tokens,
            n=self._n,
        )

    def _next_seed(self) -> int:
        entropy = (self.seed, *self._place, self._draws)
        self._draws += 1
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    def _tokens(
        self, tokens: Tensor, neighbours: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> Tensor:
        chance = drop_probability(tokens.detach().float(), *neighbours) * self.settings.strength
        dropped = torch.bernoulli(chance.clamp_(max=1.0), generator=generator)
        self._count(chance, dropped, dropped, n=chance.numel())
        return tokens.masked_fill(dropped.bool()[..., None], 0.0)

    def _entries(
        self, tokens: Tensor, neighbours: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> Tensor:
        alike = resemble(tokens.detach().float())
        chance = entry_probability(alike, *neighbours) * self.settings.strength
        dropped = torch.bernoulli(chance.clamp_(max=1.0), generator=generator)
        n_entries = int(sum(n.sum() for n in neighbours)) * len(tokens)
        self._count(chance, dropped, dropped.amax(dim=-1), n=n_entries)
        return tokens - (dropped * alike).to(tokens.dtype) @ tokens

    def _count(self, chance: Tensor, dropped: Tensor, moved: Tensor, *, n: int) -> None:
        self._n += n
        sums = [x.sum(dtype=torch.float64) for x in (dropped, chance, moved)]
        self._counts.append(torch.stack(sums))


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # training uses what a look under inference mode left here
def _neighbours(window: Size, space: int, time: int, device: torch.device) -> tuple[Tensor, Tensor]:
    in_space, in_time = find_neighbours(window, space=space, time=time)
    return in_space.to(device), in_time.to(device)
