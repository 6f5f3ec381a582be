"""Layers of MinD-Vis: patches of a row of voxels, and plain transformer blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from neurostorm_app.models.transformer import Attention, Mlp

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Block", "PatchEmbed", "make_positions"]


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm; its epsilon is torch's, 1e-5.

    Parameters
    ----------
    width, heads : int
        Channels and heads of attention.
    ratio : float
        Widening in the perceptron.
    """

    def __init__(self, width: int, heads: int, *, ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, round(width * ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, n, C) to tokens."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """Tokens of patches, without positions.

    Parameters
    ----------
    size, width : int
        Voxels and channels of a token.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(1, width, kernel_size=size, stride=size)

    def forward(self, x: Tensor) -> Tensor:
        """Map voxels (B, 1, V) to tokens (B, n, C)."""
        out: Tensor = self.proj(x).transpose(1, 2)
        return out


def make_positions(n: int, width: int) -> Tensor:
    """Make fixed positions along a row: sines, then cosines.

    Parameters
    ----------
    n, width : int
        Tokens and channels.

    Returns
    -------
    Tensor, shape (1, 1 + n, C)
        That of the class token, 0, comes first.
    """
    rates = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(n, dtype=torch.float64)[:, None] * rates
    table = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([torch.zeros(1, table.shape[1]), table.float()])[None]
