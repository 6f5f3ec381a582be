"""From voxels to tokens and back, and between the resolutions of a hierarchy.

Feature maps are channels-last, (B, X, Y, Z, T, C). Time is never merged.

References
----------
Liu et al., arXiv 2103.14030 (patch merging); Cao et al., arXiv 2105.05537 (patch expanding).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from neurostorm_app.models.threads import by_slabs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PatchEmbed", "PatchExpanding", "PatchMerging"]


class PatchEmbed(nn.Module):
    """Make one token of each block of voxels, volume by volume.

    Parameters
    ----------
    patch : tuple of int, length 3
        Voxels along X, Y and Z.
    channels, width : int
        Channels that come in and go out.
    """

    def __init__(self, patch: tuple[int, int, int], *, channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.fc = nn.Linear(math.prod(patch) * channels, width)

    def cut(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z, T) to (B, X', Y', Z', T, patch), channels fastest in a patch."""
        b, c, i, j, k, t = x.shape
        p, q, r = self.patch
        cut = x.reshape(b, c, i // p, p, j // q, q, k // r, r, t)
        return cut.permute(0, 2, 4, 6, 8, 3, 5, 7, 1).flatten(5)

    def paste(self, patches: Tensor) -> Tensor:
        """Undo `cut`: (B, X', Y', Z', T, patch) to (B, C, X, Y, Z, T)."""
        b, i, j, k, t, n = patches.shape
        p, q, r = self.patch
        cut = patches.reshape(b, i, j, k, t, p, q, r, n // math.prod(self.patch))
        return cut.permute(0, 8, 1, 5, 2, 6, 3, 7, 4).reshape(b, -1, i * p, j * q, k * r, t)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z, T) to (B, X', Y', Z', T, width)."""
        b, _, i, j, k, t = x.shape
        p, q, r = self.patch
        shape = (b, i // p, j // q, k // r, t, self.fc.out_features)
        return by_slabs(self._embed, x, axis=2, thickness=p, shape=shape)

    def _embed(self, x: Tensor) -> Tensor:
        """Do what ``fc(cut(x))`` does; time stays last while voxels move, so long runs move."""
        b, c, i, j, k, t = x.shape
        p, q, r = self.patch
        cut = x.reshape(b, c, i // p, p, j // q, q, k // r, r, t)
        patches = cut.permute(0, 2, 4, 6, 3, 5, 7, 1, 8).reshape(b, i // p, j // q, k // r, -1, t)
        return patches.transpose(-1, -2) @ self.fc.weight.T + self.fc.bias


class PatchMerging(nn.Module):
    """Halve X, Y and Z: eight neighbours become one token.

    Parameters
    ----------
    width : int
        Channels that come in.
    out : int
        Channels that go out.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * width)
        self.reduction = nn.Linear(8 * width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, Z, T, C) to (B, X/2, Y/2, Z/2, T, out); of the eight, Z runs fastest."""
        b, i, j, k, t, _ = x.shape
        shape = (b, i // 2, j // 2, k // 2, t, self.reduction.out_features)
        return by_slabs(self._merge, x, axis=1, thickness=2, shape=shape)

    def _merge(self, x: Tensor) -> Tensor:
        b, i, j, k, t, c = x.shape
        cut = x.reshape(b, i // 2, 2, j // 2, 2, k // 2, 2, t, c)
        eight = cut.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).flatten(5)
        merged: Tensor = self.reduction(self.norm(eight))
        return merged


class PatchExpanding(nn.Module):
    """Double X, Y and Z and halve the channels: one token becomes eight.

    Parameters
    ----------
    width : int
        Channels that come in; even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.norm = nn.LayerNorm(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, Z, T, C) to (B, 2X, 2Y, 2Z, T, C/2)."""
        b, i, j, k, t, c = x.shape
        shape = (b, 2 * i, 2 * j, 2 * k, t, c // 2)
        return by_slabs(self._expand, x, axis=1, thickness=1, shape=shape)

    def _expand(self, x: Tensor) -> Tensor:
        b, i, j, k, t, c = x.shape
        eight = self.expand(x).reshape(b, i, j, k, t, 2, 2, 2, c // 2)
        spread = eight.permute(0, 1, 5, 2, 6, 3, 7, 4, 8)
        expanded: Tensor = self.norm(spread.reshape(b, 2 * i, 2 * j, 2 * k, t, c // 2))
        return expanded
