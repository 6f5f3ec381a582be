"""Layers of both families of BrainLM: exact attention, and a filter along the tokens.

Tokens are (B, S, H); the class token is number 0. Modules carry the names of the released files.
No matrix of S x S is kept: attention runs through PyTorch's fused kernel, and its weights are
computed for one layer only where they are asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Encoder", "Layer", "NativeLayer", "VitLayer", "mix_neighbours"]

BLOCK = 64
"""Tokens whose neighbours are mixed by one matrix multiplication."""


class Layer(nn.Module):
    """One layer of an encoder."""

    @abstractmethod
    def forward(self, tokens: Tensor, n: int | None = None) -> Tensor:
        """Map (B, S, H) to the first n tokens of the next layer, (B, n, H)."""

    @abstractmethod
    def weigh(self, tokens: Tensor) -> Tensor:
        """Compute the weights of attention, (B, heads, S, S), of tokens that enter."""


class _Projections(nn.Module):
    """Queries, keys and values of the heads, and the filter of the native family."""

    def __init__(self, width: int, heads: int, *, bias: bool, kernel: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        if kernel is not None:
            self.conv = nn.Conv2d(
                heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False
            )

    def split(self, projected: Tensor) -> Tensor:
        """Map (B, S, H) to (B, heads, S, H / heads)."""
        batch, n, _ = projected.shape
        return projected.reshape(batch, n, self.heads, -1).transpose(1, 2)

    def weigh(self, tokens: Tensor) -> Tensor:
        """Compute the weights of attention: (B, S, H) to (B, heads, S, S), rows sum to one."""
        query, key = self.split(self.query(tokens)), self.split(self.key(tokens))
        scores: Tensor = query @ key.mT * query.shape[-1] ** -0.5
        return scores.softmax(dim=-1)

    def forward(self, tokens: Tensor, asking: Tensor) -> Tensor:
        """Let the first tokens, (B, Q, H), ask all, (B, S, H)."""
        query = self.split(self.query(asking))
        key, value = self.split(self.key(tokens)), self.split(self.value(tokens))
        mixed = fn.scaled_dot_product_attention(query, key, value)
        if hasattr(self, "conv"):
            mixed = mixed + mix_neighbours(value, self.conv.weight, query.shape[2])
        return mixed.transpose(1, 2).flatten(2)


def mix_neighbours(value: Tensor, weight: Tensor, n: int) -> Tensor:
    """Convolve along the tokens, one filter a head, zeros beyond both ends.

    A band matrix of 64 rows does 64 tokens at once: twice the arithmetic of the filter, at the
    rate of a matrix multiplication; a convolution of PyTorch takes seven times as long.

    Parameters
    ----------
    value : Tensor, shape (B, heads, S, d)
        Of all tokens.
    weight : Tensor, shape (heads, 1, taps, 1)
        The filter, not flipped; taps are odd.
    n : int
        The first n tokens are wanted.

    Returns
    -------
    Tensor, shape (B, heads, n, d)
        The same as ``conv2d(value, weight, padding=(taps // 2, 0), groups=heads)[:, :, :n]``.
    """
    batch, heads, _, width = value.shape
    taps = weight.shape[2]
    rows = min(BLOCK, n)
    n_blocks = -(-n // rows)
    span = rows + taps - 1
    filters = fn.pad(weight[:, 0, :, 0], (0, rows))
    # each row of the flat band begins one place later than the row above
    band = filters[:, None].expand(-1, rows, -1).flatten(1)[:, : rows * span]
    end = rows * n_blocks + taps // 2
    padded = fn.pad(value[:, :, :end], (0, 0, taps // 2, max(0, end - value.shape[2])))
    spans = padded.unfold(2, span, rows).permute(1, 4, 0, 2, 3).reshape(heads, span, -1)
    mixed = torch.bmm(band.reshape(heads, rows, span), spans)
    mixed = mixed.reshape(heads, rows, batch, n_blocks, width).permute(2, 0, 3, 1, 4)
    return mixed.flatten(2, 3)[:, :, :n]


class _Dense(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.dense(tokens)
        return out


class _DenseNorm(_Dense):
    """A linear layer whose output is added to what came before, and normed."""

    def __init__(self, width: int, out: int, *, eps: float, dropout: float) -> None:
        super().__init__(width, out)
        self.dropout = nn.Dropout(dropout)
        self.LayerNorm = nn.LayerNorm(out, eps=eps)

    def join(self, tokens: Tensor, before: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(before + self.dropout(self.dense(tokens)))
        return out


class _NativeAttention(nn.Module):
    def __init__(self, projections: _Projections, output: _DenseNorm) -> None:
        super().__init__()
        self.self = projections
        self.output = output


class _VitAttention(nn.Module):
    def __init__(self, projections: _Projections, output: _Dense) -> None:
        super().__init__()
        self.attention = projections
        self.output = output


class NativeLayer(Layer):
    """Attention plus a filter over neighbours, then two linear layers; the norm comes after.

    Parameters
    ----------
    width, inner : int
        Channels of a token, and between the two linear layers.
    heads : int
        Shares of the channels.
    kernel : int or None
        Taps of the filter along the tokens; None for no filter.
    eps : float
        Of the norms.
    dropout : float
        Share of values dropped in training.
    """

    def __init__(
        self, width: int, inner: int, heads: int, *, kernel: int | None, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.attention = _NativeAttention(
            _Projections(width, heads, bias=True, kernel=kernel),
            _DenseNorm(width, width, eps=eps, dropout=dropout),
        )
        self.intermediate = _Dense(width, inner)
        self.output = _DenseNorm(inner, width, eps=eps, dropout=dropout)

    def forward(self, tokens: Tensor, n: int | None = None) -> Tensor:
        """Map (B, S, H) to the first n tokens of the next layer, (B, n, H)."""
        first = tokens[:, :n]
        mixed = self.attention.output.join(self.attention.self(tokens, first), first)
        return self.output.join(fn.gelu(self.intermediate(mixed)), mixed)

    def weigh(self, tokens: Tensor) -> Tensor:
        """Compute the weights of attention, (B, heads, S, S), of tokens that enter."""
        return self.attention.self.weigh(tokens)


class VitLayer(Layer):
    """Attention, then two linear layers; the norms come before.

    Parameters
    ----------
    width, inner : int
        Channels of a token, and between the two linear layers.
    heads : int
        Shares of the channels.
    bias : bool
        Whether queries, keys and values have one.
    eps : float
        Of the norms.
    dropout : float
        Share of values dropped in training.
    """

    def __init__(
        self, width: int, inner: int, heads: int, *, bias: bool, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layernorm_before = nn.LayerNorm(width, eps=eps)
        self.attention = _VitAttention(
            _Projections(width, heads, bias=bias, kernel=None), _Dense(width, width)
        )
        self.layernorm_after = nn.LayerNorm(width, eps=eps)
        self.intermediate = _Dense(width, inner)
        self.output = _Dense(inner, width)

    def forward(self, tokens: Tensor, n: int | None = None) -> Tensor:
        """Map (B, S, H) to the first n tokens of the next layer, (B, n, H)."""
        normed = self.layernorm_before(tokens)
        mixed = self.attention.attention(normed, normed[:, :n])
        mixed = tokens[:, :n] + self.dropout(self.attention.output(mixed))
        inner = fn.gelu(self.intermediate(self.layernorm_after(mixed)))
        out: Tensor = mixed + self.dropout(self.output(inner))
        return out

    def weigh(self, tokens: Tensor) -> Tensor:
        """Compute the weights of attention, (B, heads, S, S), of tokens that enter."""
        return self.attention.attention.weigh(self.layernorm_before(tokens))


class _Layers(nn.Module):
    layer: Sequence[Layer]

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)  # type: ignore[assignment]


class Encoder(nn.Module):
    """Layers one after the other, then a norm.

    Parameters
    ----------
    embeddings : Module
        What makes tokens of a family's input.
    layers : sequence of Layer
        Of one width.
    norm : LayerNorm
        At the end.
    """

    def __init__(self, embeddings: nn.Module, layers: Sequence[Layer], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.encoder = _Layers(layers)
        self.layernorm = norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens, (B, S, H), to the last hidden state, (B, S, H)."""
        for layer in self.encoder.layer:
            tokens = layer(tokens)
        hidden: Tensor = self.layernorm(tokens)
        return hidden

    def first(self, tokens: Tensor) -> Tensor:
        """Compute the class token alone, (B, H): in the last layer, nothing else is needed."""
        *before, last = self.encoder.layer
        for layer in before:
            tokens = layer(tokens)
        token: Tensor = self.layernorm(last(tokens, 1))
        return token[:, 0]

    def weigh(self, tokens: Tensor, layer: int) -> Tensor:
        """Compute the weights of attention of one layer, (B, heads, S, S).

        Raises
        ------
        ContractError
            If there is no such layer.
        """
        n = len(self.encoder.layer)
        if not -n <= layer < n:
            raise ContractError(
                f"attention was asked of layer {layer}; this encoder has {n} layers",
                fix=f"ask for a layer from 0 to {n - 1}, or from the end: -1",
            )
        for module in self.encoder.layer[: layer % n]:
            tokens = module(tokens)
        return self.encoder.layer[layer].weigh(tokens)
