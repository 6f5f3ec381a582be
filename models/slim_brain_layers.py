"""Layers of SLIM-Brain's encoder: patches of a window, attention in mask units or across them.

A mask unit is a block of tokens over time and space, (T, X, Y, Z, C). Units are independent of
each other until the first block of global attention, so they are folded into the batch axis:
there attention takes the fused kernel, and any number of them can be computed at a time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from neurostorm_app.models.transformer import Mlp

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from neurostorm_app.models.slim_brain_files import BlockShape, Four, SlimConfig

    Pool = Callable[[Tensor], Tensor]

__all__ = ["PatchEmbed", "SlimBlock", "cut_units", "paste_units", "pool_grid"]

EPS = 1e-6
"""Of all layer norms."""


class _Projection(nn.Module):
    """The weights of a convolution whose kernel is its stride; (out, in, t, x, y, z)."""

    def __init__(self, width: int, kernel: Four) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 1, *kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.weight, std=0.02)


class PatchEmbed(nn.Module):
    """Tokens of patches, without positions.

    Parameters
    ----------
    config : SlimConfig
        Size and width of a patch.
    """

    def __init__(self, config: SlimConfig) -> None:
        super().__init__()
        self.kernel, self.unit = config.patch_kernel, config.mask_unit_size
        self.proj = _Projection(config.embed_dim, config.patch_kernel)

    def forward(self, units: Tensor) -> Tensor:
        """Map voxels of mask units (N, t, x, y, z) to tokens (N, T, X, Y, Z, C)."""
        pairs = [n for pair in zip(self.unit, self.kernel, strict=True) for n in pair]
        patches = units.reshape(len(units), *pairs).permute(0, 1, 3, 5, 7, 2, 4, 6, 8)
        return F.linear(patches.flatten(5), self.proj.weight.flatten(1), self.proj.bias)


class _Attention(nn.Module):
    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width_in, 3 * shape.width)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor, pool: Pool | None) -> Tensor:
        """Attend over all axes between the first and the last, with queries that are pooled."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = q if pool is None else pool(q)
        queries, keys, values = (
            part.reshape(len(x), -1, self.heads, part.shape[-1] // self.heads).transpose(1, 2)
            for part in (q, k, v)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
        out: Tensor = self.proj(mixed.reshape(q.shape))
        return out


class SlimBlock(nn.Module):
    """Attention and a multilayer perceptron, both behind a norm.

    Parameters
    ----------
    shape : BlockShape
        Its widths and whether it pools.
    mlp_ratio : float
        Widening in the perceptron.
    stride : tuple of int, length 4
        Tokens along T, X, Y and Z that are pooled to one, where it pools.
    """

    def __init__(self, shape: BlockShape, *, mlp_ratio: float, stride: Four) -> None:
        super().__init__()
        changes = shape.width_in != shape.width
        self.stride = stride if shape.pools else None
        self.norm1 = nn.LayerNorm(shape.width_in, eps=EPS)
        self.attn = _Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width, eps=EPS)
        self.mlp = Mlp(shape.width, int(shape.width * mlp_ratio))
        self.proj = nn.Linear(shape.width_in, shape.width) if changes else None

    def forward(self, x: Tensor, pool: Pool | None = None) -> Tensor:
        """Map tokens to tokens.

        Parameters
        ----------
        x : Tensor, shape (N, T, X, Y, Z, C) or (B, n, C)
            Mask units, each for itself, or all tokens of windows.
        pool : callable, optional
            Pools tokens that lie on no whole grid, where the block pools.

        Returns
        -------
        Tensor
            As `x`, with fewer and wider tokens if the block pools and widens.
        """
        normed = self.norm1(x)
        # Where the width changes, what is carried past is taken behind the norm.
        past = x if self.proj is None else self.proj(normed)
        if self.stride is None:
            pool = None
        elif pool is None:
            pool = partial(pool_grid, stride=self.stride)
        past = past if pool is None else pool(past)
        x = past + self.attn(normed, pool)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def pool_grid(x: Tensor, stride: Four) -> Tensor:
    """Take the maximum over blocks of tokens (N, T, X, Y, Z, C)."""
    for axis, step in enumerate(stride, start=1):  # one by one: all at once takes 15 times longer
        sides = (*x.shape[:axis], x.shape[axis] // step, step, *x.shape[axis + 1 :])
        x = x.reshape(sides).amax(dim=axis + 1)
    return x


def cut_units(x: Tensor, config: SlimConfig) -> Tensor:
    """See windows as mask units; nothing is copied.

    Parameters
    ----------
    x : Tensor, shape (B, 1, X, Y, Z, T)
        Windows.
    config : SlimConfig
        The size of a unit.

    Returns
    -------
    Tensor, shape (B, T, X, Y, Z, t, x, y, z)
        Grid of units, and the voxels of each.
    """
    t, i, j, k = config.units
    pairs = [
        n for u, side in zip((i, j, k, t), config.img_size, strict=True) for n in (u, side // u)
    ]
    # Axes are only split, so a view is enough however the volumes lie in memory.
    return x.view(len(x), *pairs).permute(0, 7, 1, 3, 5, 8, 2, 4, 6)


def paste_units(units: Tensor, config: SlimConfig) -> Tensor:
    """Undo `cut_units`.

    Parameters
    ----------
    units : Tensor, shape (B, n_units, t, x, y, z)
        Voxels of all units, in the order of their grid.
    config : SlimConfig
        The grid of units.

    Returns
    -------
    Tensor, shape (B, 1, X, Y, Z, T)
        Windows.
    """
    grid = units.reshape(len(units), *config.units, *units.shape[2:])
    return grid.permute(0, 2, 6, 3, 7, 4, 8, 1, 5).reshape(len(units), 1, *config.img_size)
