"""SLIM-Brain's encoder on the patches of the brain alone: those around it are deleted.

The paper says that background, 70 % of a window, is deleted, and does not say how; the mask units
of the released weights are too large for it. This is ours. Of each mask unit the patches that hold
brain in none of the window's volumes are left out: nobody attends to them, a pooled token is the
maximum over what is left, and so is the mean token the mean of what is left. Where every patch
holds brain it is the whole encoder. Weights that were trained on whole units have not seen this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint as recompute

from neurostorm_app.errors import ContractError
from neurostorm_app.models.slim_brain_layers import cut_units, pool_grid

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.slim_brain import SlimBrain
    from neurostorm_app.models.slim_brain_files import Four, SlimConfig

__all__ = ["encode_brain", "find_patches"]


def find_patches(window: Tensor, config: SlimConfig) -> Tensor:
    """Tell which patches of a window hold a voxel that is not exactly 0 in some volume.

    Parameters
    ----------
    window : Tensor, shape (1, 1, X, Y, Z, T)
        Scaled; 0 is not brain.
    config : SlimConfig
        The sizes of patches and mask units.

    Returns
    -------
    Tensor of bool, shape (n_places, X', Y', Z')
        Of the patches of each place of mask units, in C order over X, Y and Z.
    """
    brain = cut_units(window != 0, config)[0].any(dim=0).any(dim=3).flatten(0, 2)
    _, *kernel = config.patch_kernel
    _, *unit = config.mask_unit_size
    sides = [n for pair in zip(unit, kernel, strict=True) for n in pair]
    patches = brain.reshape(len(brain), *sides).permute(0, 1, 3, 5, 2, 4, 6)
    found: Tensor = patches.flatten(4).any(dim=4)
    return found


def encode_brain(network: SlimBrain, window: Tensor) -> Tensor:
    """Compute the last tokens of the patches of a window that hold brain.

    Parameters
    ----------
    network : SlimBrain
        The encoder.
    window : Tensor, shape (1, 1, X, Y, Z, T)
        As for its `embed`.

    Returns
    -------
    Tensor, shape (1, n, D)
        Neither normalised nor pooled.

    Raises
    ------
    ContractError
        If no patch holds brain.
    """
    config = network.config
    kept = find_patches(window, config)
    if not bool(kept.any()):
        raise ContractError(
            "no patch of a window holds brain: there is nothing left to embed",
            fix="look whether the brain of the run lies in the model's grid",
        )
    voxels, parts = cut_units(window, config), []
    for place in kept.flatten(1).any(dim=1).nonzero()[:, 0].tolist():
        # All units of a place, one after the other in time, lack the same patches.
        numbers = place + len(kept) * torch.arange(config.units[0], device=window.device)
        here = _Patches(kept[place].expand(config.mask_unit_size[0], -1, -1, -1))
        if torch.is_grad_enabled() and network.training:
            tokens = recompute(_encode_place, network, voxels, numbers, here, use_reentrant=False)
        else:
            tokens = _encode_place(network, voxels, numbers, here)
        parts.append(tokens.flatten(0, 1))
    whole: Tensor = torch.cat(parts)[None]
    for block in network.blocks[network.n_windowed :]:
        whole = block(whole)
    return whole


@dataclass(slots=True)
class _Patches:
    """Which tokens of a mask unit are there, (T, X, Y, Z); fewer after each pooling."""

    there: Tensor

    def pool(self, x: Tensor, stride: Four) -> Tensor:
        """Take the maximum over blocks of the tokens (N, n, C) that are there."""
        grid = x.new_full((len(x), *self.there.shape, x.shape[-1]), -torch.inf)
        grid[:, self.there] = x
        return pool_grid(grid, stride)[:, self.pooled(stride).there]

    def pooled(self, stride: Four) -> _Patches:
        """Tell which tokens are there after pooling: those of one that is, at least."""
        whole = self.there[None, ..., None].to(torch.float32)
        return _Patches(pool_grid(whole, stride)[0, ..., 0] > 0)


def _encode_place(network: SlimBrain, voxels: Tensor, numbers: Tensor, here: _Patches) -> Tensor:
    """Take the units of a place through all blocks that look at one unit at a time."""
    tokens = network.see_units(voxels, torch.zeros_like(numbers), numbers)[:, here.there]
    for block in network.blocks[: network.n_windowed]:
        stride: Any = block.stride
        if stride is None:
            tokens = block(tokens)
            continue
        tokens = block(tokens, lambda x, here=here, stride=stride: here.pool(x, stride))
        here = here.pooled(stride)
    return tokens
