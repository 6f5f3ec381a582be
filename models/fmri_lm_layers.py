"""The layers of fMRI-LM's tokenizer, under upstream's names of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from neurostorm_app.models.transformer import Attention, Mlp

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.fmri_lm_files import LmConfig

__all__ = ["Transformer", "make_head"]

EPS = 1e-6
"""Of all norms."""


class _Block(nn.Module):
    """A layer; in training, either half is left out for a share of the samples."""

    def __init__(self, config: LmConfig, *, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = Mlp(config.width, round(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to tokens."""
        x = x + self._leave_out(self.attn(self.norm1(x)))
        return x + self._leave_out(self.mlp(self.norm2(x)))

    def _leave_out(self, x: Tensor) -> Tensor:
        if not self.training or self.drop == 0:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
        return x * kept / (1 - self.drop)


class _Patches(nn.Module):
    """Patches of series to tokens; the weight has upstream's shape, (D, 1, 1, P)."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, kernel_size=(1, patch), stride=(1, patch))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, V, T) to (B, V * n, D), patches of a parcel together."""
        tokens: Tensor = self.proj(x[:, None])
        return tokens.permute(0, 2, 3, 1).flatten(1, 2)


class Transformer(nn.Module):
    """Encoder and decoder are alike but for what enters."""

    def __init__(self, config: LmConfig, *, decoder: bool) -> None:
        super().__init__()
        width = config.width
        if decoder:
            self.patch_embed: nn.Module = nn.Linear(config.code_width, width)
        else:
            self.patch_embed = _Patches(width, config.patch)
        self.pos_embed = nn.Parameter(torch.empty(1, config.n_parcels, width))
        drawn = [self.pos_embed]
        self.own = "pos_embed_cls_dec" if decoder else "pos_embed_cls"
        if config.class_token:
            names = [self.own] if decoder else ["cls_token", self.own]
            for name in names:
                self.register_parameter(name, nn.Parameter(torch.empty(1, 1, width)))
                drawn.append(getattr(self, name))
        for values in drawn:
            nn.init.trunc_normal_(values, std=0.02)
        step = config.drop_path / max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(_Block(config, drop=i * step) for i in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map series (B, V, T), or rows of the codebook (B, N, C), to tokens (B, N, D)."""
        tokens = self.patch_embed(x)
        first = getattr(self, "cls_token", None)
        if first is not None:
            tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        ahead = getattr(self, self.own, None)
        n_tokens = tokens.shape[1] - (ahead is not None)
        where = self.pos_embed.repeat_interleave(n_tokens // self.pos_embed.shape[1], dim=1)
        if ahead is not None:
            where = torch.cat([ahead, where], dim=1)
        tokens = tokens + where
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out


def make_head(width: int, inner: int, out: int) -> nn.Sequential:
    """Make two linear maps with a tanh between them."""
    return nn.Sequential(nn.Linear(width, inner), nn.Tanh(), nn.Linear(inner, out))
