"""A masked autoencoder on SLIM-Brain's encoder: delete most mask units, guess them from the rest.

The decoder is ours. Upstream's is not public, and its weights have no place here: what is trained
this way is no SLIM-Brain, and says so. Mask units without brain are neither seen nor guessed.

References
----------
He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from neurostorm_app.errors import ContractError
from neurostorm_app.models.example import MaskedExample
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_files import BlockShape, SlimConfig
from neurostorm_app.models.slim_brain_layers import EPS, SlimBlock, cut_units, paste_units
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["SlimBrainMae", "build"]


class _Guesser(nn.Module):
    """The decoder: tokens of units that are seen to voxels of all units.

    Parameters
    ----------
    config : SlimConfig
        Its width, depth and heads, and what a unit is.
    """

    def __init__(self, config: SlimConfig) -> None:
        super().__init__()
        self.config, width = config, config.guess_width
        self.each = math.prod(config.left)
        sides = zip(config.mask_unit_size, config.patch_kernel, config.left, strict=True)
        self.cell = tuple(a * k // n for a, k, n in sides)
        times, places = config.units[0] * config.left[0], math.prod(config.units[1:])
        self.embed = nn.Linear(config.width, width)
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.when = nn.Parameter(0.02 * torch.randn(times, width))
        self.where = nn.Parameter(0.02 * torch.randn(places * math.prod(config.left[1:]), width))
        shape = BlockShape(width_in=width, width=width, heads=config.guess_heads)
        self.blocks = nn.ModuleList(
            SlimBlock(shape, mlp_ratio=config.mlp_ratio, stride=config.q_stride)
            for _ in range(config.guess_depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.out = nn.Linear(width, math.prod(self.cell))

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Guess voxels.

        Parameters
        ----------
        tokens : Tensor, shape (B, n * tokens of a unit, D)
            Normalised, of the units that are seen.
        places : Tensor of int, shape (B, n)
            Their numbers.

        Returns
        -------
        Tensor, shape (B, n_units, t, x, y, z)
            Of all units, seen or not.
        """
        seen = self.embed(tokens).unflatten(1, (-1, self.each))
        whole = self.token.expand(len(seen), self.config.n_units, self.each, -1)
        index = places[:, :, None, None].expand_as(seen)
        whole = whole.scatter(1, index, seen.to(whole.dtype)) + self._positions()
        whole = whole.flatten(1, 2)
        for block in self.blocks:
            whole = block(whole)
        cells: Tensor = self.out(self.norm(whole))
        cells = cells.reshape(-1, self.config.n_units, *self.config.left, *self.cell)
        cells = cells.permute(0, 1, 2, 6, 3, 7, 4, 8, 5, 9)
        sides = [n * c for n, c in zip(self.config.left, self.cell, strict=True)]
        return cells.reshape(len(seen), self.config.n_units, *sides)

    def _positions(self) -> Tensor:
        """Add up where and when tokens are: (n_units, tokens of a unit, W)."""
        (t, *units), (a, *left) = self.config.units, self.config.left
        when = self.when.reshape(t, 1, a, 1, -1)
        where = self.where.reshape(1, math.prod(units), 1, math.prod(left), -1)
        places: Tensor = (when + where).flatten(0, 1).flatten(1, 2)
        return places


class SlimBrainMae(SlimBrain):
    """The encoder with a decoder of ours.

    Parameters
    ----------
    config : SlimConfig
        Its shape, and the share of units that is hidden.
    """

    def __init__(self, config: SlimConfig) -> None:
        config.check_whole_units()
        super().__init__(config)
        self.guess = _Guesser(config)

    @classmethod
    def around(cls, encoder: SlimBrain, *, seed: int) -> SlimBrainMae:
        """Put a fresh decoder behind the weights of an encoder.

        Parameters
        ----------
        encoder : SlimBrain
            Its weights are copied.
        seed : int
            Of the decoder.

        Returns
        -------
        SlimBrainMae
            In the mode and on the device of the encoder.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = cls(encoder.config)
        network.load_state_dict({**network.state_dict(), **encoder.state_dict()})
        return network.to(encoder.pos_embed_spatial.device).train(encoder.training)

    def draw_places(self, x: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose the mask units that are seen, among those that hold brain.

        Parameters
        ----------
        x : Tensor, shape (B, 1, X, Y, Z, T)
            Windows.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        places : Tensor of int, shape (B, n)
            Numbers of the units that are seen; equally many in all windows.
        hidden : Tensor of bool, shape (B, n_units)
            Units with brain that are not seen.

        Raises
        ------
        ContractError
            If a window has fewer than two units with brain.
        """
        brain = self.find_brain(x)
        least = int(brain.sum(dim=1).min())
        if least < 2:
            raise ContractError(
                f"a window has {least} mask units with brain; one must be seen and one hidden",
                fix="leave the run out, or look whether its brain lies in the model's grid",
            )
        n_seen = min(max(1, round((1 - self.config.mask_ratio) * least)), least - 1)
        order = torch.rand(brain.shape, generator=generator).to(x.device)
        places = order.masked_fill(~brain, 2).argsort(dim=1)[:, :n_seen]
        return places, brain.scatter(1, places, value=False)

    def masked_error(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Hide units of windows (B, 1, X, Y, Z, T) and guess them: the error (B,)."""
        return self._guess(x, generator)[0]

    def masked_example(self, x: Tensor, *, generator: torch.Generator) -> MaskedExample:
        """Hide mask units of each window, and see how well they are guessed.

        Parameters
        ----------
        x : Tensor, shape (B, 1, X, Y, Z, T)
            As for `embed`.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        MaskedExample
            With what is hidden as (B, X', Y', Z', T'), one value a mask unit. The error is the mean
            over voxels of the brain alone: those around it are 0 and no guess.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for, or there is nothing to hide.
        """
        error, guess, hidden = self._guess(x, generator)
        where = hidden.reshape(len(x), *self.config.units).movedim(1, -1)
        pasted = paste_units(guess, self.config)
        return MaskedExample(error=error, truth=x, guess=pasted, hidden=where, counted=x != 0)

    def _guess(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Give the error (B,), the voxels of units and what is hidden (B, n_units)."""
        self.check_input(x)
        places, hidden = self.draw_places(x, generator=generator)
        guess: Tensor = self.guess(self.encoder_norm(self.encode(x, places)), places)
        truth = cut_units(x, self.config).flatten(1, 4)
        counted = (truth != 0) & hidden[:, :, None, None, None, None]
        squares = (guess - truth).square().masked_fill(~counted, 0)
        return squares.flatten(1).sum(dim=1) / counted.flatten(1).sum(dim=1), guess, hidden


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> SlimBrainMae:
    """Build the autoencoder and load weights that the app trained, strictly.

    Parameters
    ----------
    config : mapping
        The hyper-parameters.
    checkpoint : Checkpoint
        The weights of encoder and our decoder.

    Returns
    -------
    SlimBrainMae
        With all its weights.

    Raises
    ------
    WrongWeightsError
        If configuration and weights do not belong together; upstream's decoder is none of ours.
    """
    network = SlimBrainMae(SlimConfig.of(config))
    load_strictly(network, checkpoint.state, source=checkpoint.source)
    return network
