"""What the demo of BrainLM learns: BrainLM's own task, and three of ours for its class token.

BrainLM guesses hidden patches. That alone hardly shapes the class token, which is what embedding
takes. Here a parcel's token also tells how its series goes with those of the others, the class
token tells fixed sums of all these correlations, and later the class tokens of two runs of one
participant are pulled together. The linear layers that tell are thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.models.brainlm_scene import choose

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.brainlm_native import BrainLmNative

__all__ = ["Losses", "Tasks", "contrast", "correlate"]

N_SUMS = 64
"""Sums of correlations that the class token tells."""
LISTENS = 2
"""Layers after which a parcel's token must know whom it goes with."""
TEMPERATURE, CONTRAST = 0.2, 0.5
"""Of the pulling together, and its weight among the tasks; the others weigh 1."""


@dataclass(frozen=True, slots=True)
class Losses:
    """One step: hidden patches, correlations by parcel, their sums, two runs of one person.

    Parameters
    ----------
    hidden, rows, sums, contrast : Tensor, shape ()
        The first is a mean squared error; the next two are shares of the variance that is not
        told; the last is a cross entropy.
    """

    hidden: Tensor
    rows: Tensor
    sums: Tensor
    contrast: Tensor

    def total(self, *, pulled: bool) -> Tensor:
        """Add them up; two runs of one person count only when they are pulled together."""
        total = self.hidden + self.rows + self.sums
        return total + CONTRAST * self.contrast if pulled else total


class Tasks(nn.Module):
    """The tasks, with the layers that are thrown away.

    Parameters
    ----------
    network : BrainLmNative
        What is trained.
    places : Tensor, shape (V, 3)
        MNI mm.
    usual : Tensor, shape (V, V)
        Mean correlations over participants; only what differs from it is told.
    generator : torch.Generator
        Of first values, sums and hiding.
    """

    def __init__(
        self, network: BrainLmNative, places: Tensor, usual: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        width, n = network.config.hidden_size, len(places)
        self.generator, self.places, self.usual = generator, places, usual
        self.pairs = torch.triu_indices(n, n, offset=1)
        self.sums = torch.randn(self.pairs.shape[1], N_SUMS, generator=generator)
        with torch.random.fork_rng(devices=[]):  # these first values are thrown away
            self.tell_row, self.tell_sums = nn.Linear(width, n), nn.Linear(width, N_SUMS)
        for layer in (self.tell_row, self.tell_sums):
            nn.init.normal_(layer.weight, std=width**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, network: BrainLmNative, windows: Tensor, *, n_hidden: int) -> Losses:
        """Do all tasks on windows (B, V, L), two runs of each participant one after the other.

        The first `n_hidden` windows are those with hidden patches.
        """
        tokens, rows = self._encode(network, windows)
        found = correlate(windows) - self.usual
        told = self.tell_row(rows - rows.mean(dim=0))
        sums = found[:, self.pairs[0], self.pairs[1]] @ self.sums
        told_sums = self.tell_sums(tokens - tokens.mean(dim=0))
        places = self.places.expand(n_hidden, -1, -1)
        error = network.masked_error(windows[:n_hidden], places, generator=self.generator)
        return Losses(
            hidden=error.mean(),
            rows=fn.mse_loss(told, found) / found.square().mean(),
            sums=fn.mse_loss(told_sums, sums) / sums.square().mean(),
            contrast=contrast(tokens),
        )

    def _encode(self, network: BrainLmNative, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class tokens (B, H), and the parcels' tokens after some layers (B, V, H)."""
        batch, n = windows.shape[:2]
        patches = windows.reshape(batch, n, -1, network.patch)
        nothing = choose(patches, n * patches.shape[2], ratio=0.0, noise=None)
        tokens = network.vit.embeddings(patches, self.places.expand(batch, -1, -1), nothing)
        rows = tokens
        for number, layer in enumerate(network.vit.encoder.layer, start=1):
            tokens = layer(tokens)
            rows = tokens if number == LISTENS else rows
        rows = rows[:, 1:].reshape(batch, n, -1, rows.shape[-1]).mean(dim=2)
        return network.vit.layernorm(tokens)[:, 0], rows


def correlate(windows: Tensor) -> Tensor:
    """Compute the correlations of the series of windows: (B, V, L) to (B, V, V)."""
    centred = windows - windows.mean(dim=2, keepdim=True)
    unit = fn.normalize(centred, dim=2)
    return unit @ unit.transpose(1, 2)


def contrast(tokens: Tensor) -> Tensor:
    """Ask of each run which other one is of the same participant: NT-Xent.

    Parameters
    ----------
    tokens : Tensor, shape (B, H)
        Two runs of each participant, one after the other.

    Returns
    -------
    Tensor, shape ()
        Cross entropy.

    References
    ----------
    Chen et al., "A simple framework for contrastive learning of visual representations",
    arXiv 2002.05709.
    """
    unit = fn.normalize(tokens - tokens.mean(dim=0), dim=1)
    alike = unit @ unit.T / TEMPERATURE
    itself = torch.eye(len(tokens), dtype=torch.bool)
    return fn.cross_entropy(alike.masked_fill(itself, -torch.inf), torch.arange(len(tokens)) ^ 1)
