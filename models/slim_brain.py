"""SLIM-Brain's encoder: a hierarchical transformer of four-dimensional windows (Hiera).

Of SLIM-Brain no code of the network is public. This one is written from what is known of the
layout of its weights and of Hiera: tokens of 4 x 4 x 4 voxels of one volume, attention in mask
units of 8 volumes and 32 x 32 x 32 voxels, then across them; the feature is the norm of the mean
token. A mask unit that is deleted is seen by nobody: nothing else changes.

References
----------
SLIM-Brain, arXiv 2512.21881; Ryali et al., "Hiera", arXiv 2306.00989.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from neurostorm_app.errors import ContractError
from neurostorm_app.models.slim_brain_files import SlimConfig, pick_encoder
from neurostorm_app.models.slim_brain_layers import (
    EPS,
    PatchEmbed,
    SlimBlock,
    cut_units,
)
from neurostorm_app.models.slim_brain_patches import encode_brain
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["SlimBrain", "build", "differing"]

AT_ONCE = 2**15
"""Patch tokens of mask units that are computed together: 8 units of the released shape, about
100 MB of intermediate values."""


class SlimBrain(nn.Module):
    """The encoder.

    Parameters
    ----------
    config : SlimConfig
        Its shape.
    """

    def __init__(self, config: SlimConfig) -> None:
        super().__init__()
        self.config = config
        t, x, y, z = config.grid
        self.pos_embed_spatial = nn.Parameter(torch.empty(1, x * y * z, config.embed_dim))
        self.pos_embed_temporal = nn.Parameter(torch.empty(1, t, config.embed_dim))
        for position in (self.pos_embed_spatial, self.pos_embed_temporal):
            nn.init.trunc_normal_(position, std=0.02)
        self.patch_embed = PatchEmbed(config)
        shapes = list(config.blocks())
        self.n_windowed = sum(shape.windowed for shape in shapes)
        self.blocks = nn.ModuleList(
            SlimBlock(shape, mlp_ratio=config.mlp_ratio, stride=config.q_stride) for shape in shapes
        )
        self.encoder_norm = nn.LayerNorm(config.width, eps=EPS)

    def embed(self, x: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Embed windows.

        Parameters
        ----------
        x : Tensor, shape (B, 1, X, Y, Z, T)
            Scaled series on the grid of the model's contract; exactly 0 is not brain.
        keep : Tensor of bool, shape (B, n_units), optional
            Mask units that are looked at, in C order over T, X, Y and Z. By default all, or, with
            ``empty_units: delete`` in the configuration, those that hold some brain; with
            ``empty_units: patches`` only their patches with brain, see `slim_brain_patches`.

        Returns
        -------
        Tensor, shape (B, D)
            Norm of the mean of all tokens.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for, or all units of a window would be
            deleted.
        """
        self.check_input(x)
        if keep is None and self.config.empty_units == "patches":
            parts = [encode_brain(self, x[i : i + 1]) for i in range(len(x))]
            return torch.cat([self._pool(part) for part in parts])
        if keep is None and self.config.empty_units == "delete":
            keep = self.find_brain(x)
        if keep is None:
            return self._pool(self.encode(x, self._all(x)))
        self._check_kept(keep, x)
        counts = keep.sum(dim=1)
        if bool((counts == counts[0]).all()):
            return self._pool(self.encode(x, _places(keep)))
        # Windows of unequal numbers of units cannot share a batch.
        parts = [self.encode(x[i : i + 1], _places(keep[i : i + 1])) for i in range(len(x))]
        return torch.cat([self._pool(part) for part in parts])

    def forward(self, x: Tensor) -> Tensor:
        """Do what `embed` does."""
        return self.embed(x)

    def encode(self, x: Tensor, places: Tensor) -> Tensor:
        """Compute the last tokens of some mask units.

        Parameters
        ----------
        x : Tensor, shape (B, 1, X, Y, Z, T)
            As for `embed`.
        places : Tensor of int, shape (B, n)
            Numbers of the units that are looked at.

        Returns
        -------
        Tensor, shape (B, n * tokens of a unit, D)
            Unit by unit in the given order; neither normalised nor pooled.
        """
        voxels = cut_units(x, self.config)
        windows = torch.arange(len(x), device=x.device)[:, None].expand_as(places).flatten()
        each = max(1, AT_ONCE // math.prod(self.config.mask_unit_size))
        parts = []
        numbers = places.flatten()
        for first in range(0, len(numbers), each):
            window, place = (part[first : first + each] for part in (windows, numbers))
            if torch.is_grad_enabled() and self.training:
                # Tokens of patches are many: what is needed for gradients is computed again.
                part = recompute(self._encode_units, voxels, window, place, use_reentrant=False)
            else:
                part = self._encode_units(voxels, window, place)
            parts.append(part)
        joined = torch.cat(parts)
        tokens = joined.reshape(len(x), -1, joined.shape[-1])
        for block in self.blocks[self.n_windowed :]:
            tokens = block(tokens)
        return tokens

    def find_brain(self, x: Tensor) -> Tensor:
        """Tell which mask units of windows hold a voxel that is not exactly 0.

        Parameters
        ----------
        x : Tensor, shape (B, 1, X, Y, Z, T)
            As for `embed`.

        Returns
        -------
        Tensor of bool, shape (B, n_units)
            In C order over T, X, Y and Z.
        """
        units = cut_units(x != 0, self.config).flatten(5)
        found: Tensor = units.any(dim=5).flatten(1)
        return found

    def see_units(self, voxels: Tensor, window: Tensor, place: Tensor) -> Tensor:
        """Give the tokens of the patches of mask units, before any block.

        Parameters
        ----------
        voxels : Tensor, shape (B, T, X, Y, Z, t, x, y, z)
            Of `cut_units`.
        window, place : Tensor of int, shape (n,)
            Which units of which windows.

        Returns
        -------
        Tensor, shape (n, T, X, Y, Z, C)
            With their positions.
        """
        t, i, j, k = torch.unravel_index(place.to(voxels.device), self.config.units)
        tokens: Tensor = self.patch_embed(voxels[window, t, i, j, k])
        return tokens + self._positions(t, i, j, k)

    def check_input(self, x: Tensor) -> None:
        """See that an array has the shape the network was made for.

        Raises
        ------
        ContractError
            If not.
        """
        wanted = (1, *self.config.img_size)
        if x.ndim != 6 or tuple(x.shape[1:]) != wanted:
            raise ContractError(
                f"SLIM-Brain got an array of shape {tuple(x.shape)}; it takes (batch, "
                f"{', '.join(map(str, wanted))}): one channel, three sides and volumes",
                fix="bring the series onto the grid and into the windows of the model's contract",
            )

    def _encode_units(self, voxels: Tensor, window: Tensor, place: Tensor) -> Tensor:
        """Take units (n,) of windows (n,) through all blocks that look at one unit at a time."""
        tokens = self.see_units(voxels, window, place)
        for block in self.blocks[: self.n_windowed]:
            tokens = block(tokens)
        return tokens

    def _positions(self, t: Tensor, i: Tensor, j: Tensor, k: Tensor) -> Tensor:
        """Add up where and when tokens of units are: (n, T, X, Y, Z, C)."""
        unit, units = self.config.mask_unit_size, self.config.units
        when = self.pos_embed_temporal.reshape(units[0], unit[0], 1, 1, 1, -1)[t]
        pairs = [n for pair in zip(units[1:], unit[1:], strict=True) for n in pair]
        space = self.pos_embed_spatial.reshape(*pairs, -1).permute(0, 2, 4, 1, 3, 5, 6)
        places: Tensor = when + space[i, j, k][:, None]
        return places

    def _pool(self, tokens: Tensor) -> Tensor:
        """Average tokens (B, n, D), then normalise: (B, D)."""
        vectors: Tensor = self.encoder_norm(tokens.mean(dim=1))
        return vectors

    def _all(self, x: Tensor) -> Tensor:
        return torch.arange(self.config.n_units, device=x.device).expand(len(x), -1)

    def _check_kept(self, keep: Tensor, x: Tensor) -> None:
        wanted = (len(x), self.config.n_units)
        if tuple(keep.shape) != wanted or keep.dtype != torch.bool:
            raise ContractError(
                f"what is kept is {keep.dtype} of shape {tuple(keep.shape)}; one truth value a "
                f"mask unit was expected, {wanted}",
                fix="count the mask units over T, X, Y and Z",
            )
        if not bool(keep.any(dim=1).all()):
            raise ContractError(
                "all mask units of a window would be deleted: there is nothing left to embed",
                fix="keep one or more units, or look whether the window holds any brain",
            )


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> SlimBrain:
    """Build the encoder and load its weights strictly; the decoder in the file is left out.

    Parameters
    ----------
    config : mapping
        Upstream's hyper-parameters.
    checkpoint : Checkpoint
        The weights, in the layout that was reported of the released file.

    Returns
    -------
    SlimBrain
        With all its weights.

    Raises
    ------
    WrongWeightsError
        If configuration and weights do not belong together; names that are neither the encoder's
        nor the decoder's are told.
    """
    network = SlimBrain(SlimConfig.of(config))
    load_strictly(network, pick_encoder(checkpoint.state), source=checkpoint.source)
    return network


def differing(checkpoint: Checkpoint, given: Mapping[str, Any]) -> str:
    """Name the hyper-parameters in which a file and what was given differ; empty if none."""
    return SlimConfig.of(checkpoint.config or given).differing(SlimConfig.of(given))


def _places(keep: Tensor) -> Tensor:
    """Find the numbers of what is kept of each row (B, n_units), equally many: (B, n)."""
    numbers: Tensor = keep.nonzero()[:, 1]
    return numbers.reshape(len(keep), -1)
