"""Parts of plain transformers, under the names of tensors that timm gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as fn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Attention", "Mlp"]


class Attention(nn.Module):
    """Attention of all tokens to all tokens, by several heads.

    Parameters
    ----------
    width : int
        Channels.
    heads : int
        They share the channels evenly.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Let tokens (B, N, D) look at each other."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = fn.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear maps with a GELU (erf) between them.

    Parameters
    ----------
    width : int
        Channels that come and go.
    inner : int
        Channels between.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to itself."""
        out: Tensor = self.fc2(fn.gelu(self.fc1(x)))
        return out
