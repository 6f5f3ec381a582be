"""Learning in latent space on SLIM-Brain's encoder: predict what is not seen as an encoder sees it.

The paper describes such a pre-training and released none of it; this one is ours. Of a window, some
volumes of some places are seen. What a second encoder, which follows the first slowly, makes of the
rest is predicted: the same places at other times, other places at the same times, and both.

References
----------
Assran et al., "I-JEPA", arXiv 2301.08243; Dong et al., "Brain-JEPA", arXiv 2409.19407.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from neurostorm_app.errors import ContractError
from neurostorm_app.models.slim_brain_files import BlockShape
from neurostorm_app.models.slim_brain_layers import EPS, SlimBlock

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.slim_brain import SlimBrain

__all__ = ["KINDS", "SlimBrainJepa"]

KINDS: Final = ("time", "place", "both")
"""What differs from what is seen."""
SEEN_TIMES, SEEN_PLACES = 0.6, 0.5
"""Shares of a window's units along time and of its places that are seen: 30 % of all units."""
MOMENTUM: Final = 0.99
"""Share of the second encoder that stays in the first step; it grows to 1."""


class SlimBrainJepa(nn.Module):
    """An encoder, a second one that follows it, and what predicts the one from the other.

    Parameters
    ----------
    encoder : SlimBrain
        What learns; it is kept as it is given.
    seed : int
        Of the predictor.
    """

    def __init__(self, encoder: SlimBrain, *, seed: int) -> None:
        super().__init__()
        config = self.config = encoder.config
        config.check_whole_units()
        self.encoder = encoder
        self.target = _frozen(encoder)
        self.followed: Tensor
        self.register_buffer("followed", torch.tensor(-1))
        self.each, width = math.prod(config.left), config.guess_width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.embed = nn.Linear(config.width, width)
            self.token = nn.Parameter(0.02 * torch.randn(width))
            self.where = nn.Parameter(0.02 * torch.randn(config.n_units, self.each, width))
            shape = BlockShape(width_in=width, width=width, heads=config.guess_heads)
            self.blocks = nn.ModuleList(
                SlimBlock(shape, mlp_ratio=config.mlp_ratio, stride=config.q_stride)
                for _ in range(config.guess_depth)
            )
            self.norm = nn.LayerNorm(width, eps=EPS)
            self.out = nn.Linear(width, config.width)

    def draw_places(
        self, x: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Choose what is seen of a batch and what is predicted, among units with brain.

        Parameters
        ----------
        x : Tensor, shape (B, 1, X, Y, Z, T)
            Windows.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        seen : Tensor of int, shape (n,)
            Numbers of units, the same for all windows.
        asked : dict of str to Tensor of int, shape (m,)
            Of each of `KINDS`.

        Raises
        ------
        ContractError
            If the windows have not at least two times and two places with brain.
        """
        brain = self.encoder.find_brain(x).all(dim=0).reshape(self.config.units[0], -1).cpu()
        times, places = brain.any(dim=1).nonzero()[:, 0], brain.all(dim=0).nonzero()[:, 0]
        if min(len(times), len(places)) < 2:
            raise ContractError(
                f"windows have {len(times)} times and {len(places)} places of mask units with "
                "brain; two of each are needed, to see one and predict another",
                fix="give longer windows, or look whether the brain lies in the model's grid",
            )
        seen_t, other_t = _split(times, SEEN_TIMES, generator)
        seen_p, other_p = _split(places, SEEN_PLACES, generator)
        n_places = brain.shape[1]

        def cross(t: Tensor, p: Tensor) -> Tensor:
            """Cross times with places: the numbers of units."""
            return (t[:, None] * n_places + p).flatten().to(x.device)

        asked = (cross(other_t, seen_p), cross(seen_t, other_p), cross(other_t, other_p))
        return cross(seen_t, seen_p), dict(zip(KINDS, asked, strict=True))

    def error(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Predict what is not seen of windows.

        Parameters
        ----------
        x : Tensor, shape (B, 1, X, Y, Z, T)
            As for the encoder.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        Tensor, shape (3,)
            Smooth L1 for each of `KINDS`, in standard deviations of the features of a token.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for, or there is nothing to predict.
        """
        self.encoder.check_input(x)
        seen, asked = self.draw_places(x, generator=generator)
        wanted = torch.cat(list(asked.values()))
        context = self.encoder.encoder_norm(self.encoder.encode(x, seen.expand(len(x), -1)))
        guess = self._predict(context, seen, wanted)
        truth = self._look(x, torch.cat([seen, wanted]))[:, len(seen) :]
        errors = F.smooth_l1_loss(guess, truth, reduction="none").mean(dim=(0, 2, 3))
        parts = errors.split([len(places) for places in asked.values()])  # type: ignore[no-untyped-call]
        return torch.stack([part.mean() for part in parts])

    @torch.no_grad()
    def spread(self, x: Tensor) -> Tensor:
        """Measure how much tokens of the second encoder differ: near 0, it has collapsed.

        Returns
        -------
        Tensor, shape ()
            Standard deviation over tokens and windows, mean over features; features of a token
            have a standard deviation of 1.
        """
        places = torch.arange(self.config.n_units, device=x.device)
        return self._look(x, places).flatten(0, 2).std(dim=0).mean()

    @torch.no_grad()
    def follow(self, step: int, steps: int) -> None:
        """Let the second encoder come nearer to the first, once a step.

        Parameters
        ----------
        step, steps : int
            Number of the step, from 0, and how many there will be.
        """
        if step <= int(self.followed):
            return
        self.followed.fill_(step)
        share = (1 - MOMENTUM) * (1 + math.cos(math.pi * min(step / max(steps, 1), 1))) / 2
        theirs = self.target.state_dict()
        for name, value in self.encoder.state_dict().items():
            theirs[name].lerp_(value, share)

    def _predict(self, context: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """Predict tokens (B, m, tokens of a unit, D) of units (m,) from those that are seen."""
        known = self.embed(context) + self.where[seen].flatten(0, 1)
        queries = (self.token + self.where[wanted].flatten(0, 1)).expand(len(context), -1, -1)
        tokens = torch.cat([known, queries], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.out(self.norm(tokens[:, known.shape[1] :]))
        return out.reshape(len(context), len(wanted), self.each, -1)

    @torch.no_grad()
    def _look(self, x: Tensor, places: Tensor) -> Tensor:
        """See units (m,) with the second encoder: scaled tokens (B, m, tokens of a unit, D)."""
        tokens = self.target.encode(x, places.expand(len(x), -1))
        scaled = F.layer_norm(tokens, tokens.shape[-1:])
        return scaled.reshape(len(x), len(places), self.each, -1)


def _frozen(encoder: SlimBrain) -> SlimBrain:
    """Copy an encoder whose values nobody optimises: as buffers, which checkpoints hold."""
    copied = copy.deepcopy(encoder)
    for module in list(copied.modules()):
        for name, value in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, value.detach())
    return copied


def _split(numbers: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose a share of some numbers, at least one and not all."""
    n = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    order = numbers[torch.randperm(len(numbers), generator=generator)]
    return order[:n].sort().values, order[n:].sort().values
