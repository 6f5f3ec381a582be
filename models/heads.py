"""Heads: from the last feature map to values.

Which head a file holds is read from its keys; the names are those of the released files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.errors import WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = [
    "EmbeddingHead",
    "LinearHead",
    "TransformerHead",
    "TwoLayerHead",
    "build_head",
    "pool_features",
]


def pool_features(features: Tensor) -> Tensor:
    """Average a feature map over all places and times: (B, C, X, Y, Z, T) to (B, C)."""
    return features.flatten(2).mean(dim=2)


class LinearHead(nn.Module):
    """One linear layer on the mean feature: classifier v1 and regression.

    Parameters
    ----------
    width, n_outputs : int
        Channels that come in, values that go out.
    """

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, n_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z, T) to (B, n_outputs)."""
        values: Tensor = self.head(pool_features(features))
        return values


class TwoLayerHead(nn.Module):
    """Two linear layers with nothing between them: classifier v2.

    Parameters
    ----------
    width, hidden, n_outputs : int
        Channels that come in, between, and values that go out.
    """

    def __init__(self, width: int, hidden: int, n_outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.head = nn.Linear(hidden, n_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z, T) to (B, n_outputs)."""
        values: Tensor = self.head(self.hidden(pool_features(features)))
        return values


class TransformerHead(nn.Module):
    """A class token that attends to all places and times: classifier v3.

    Parameters
    ----------
    width, n_outputs : int
        Channels that come in, values that go out.
    n_positions : int
        Learned positions: one for the class token, one for each place and time.
    depth : int
        Transformer layers.
    """

    def __init__(self, width: int, n_outputs: int, *, n_positions: int, depth: int = 6) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, n_positions, width))
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z, T) to (B, n_outputs)."""
        tokens = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.transformer_encoder(tokens + self.pos_embed[:, : tokens.shape[1]])
        values: Tensor = self.head(self.norm(tokens[:, 0]))
        return values


class EmbeddingHead(nn.Module):
    """Project the mean feature to a unit vector: contrastive pre-training.

    Parameters
    ----------
    width, n_outputs : int
        Channels that come in, length of the vector.
    """

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, n_outputs, bias=False)
        self.bn1 = nn.BatchNorm1d(n_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z, T) to (B, n_outputs), each row of length one."""
        return fn.normalize(self.bn1(self.fc1(pool_features(features))), dim=-1)


def build_head(state: Mapping[str, Tensor], width: int) -> nn.Module:
    """Build the head that a state dict belongs to; its weights are not loaded yet.

    Parameters
    ----------
    state : mapping of str to Tensor
        Upstream's names without the prefixes, such as ``head.weight``.
    width : int
        Channels of the feature map.

    Returns
    -------
    Module
        (B, C, X, Y, Z, T) to (B, n).

    Raises
    ------
    WrongWeightsError
        If the names are those of no known head.

    Examples
    --------
    >>> build_head({"head.weight": torch.zeros(7, 288), "head.bias": torch.zeros(7)}, 288)
    LinearHead(
      (head): Linear(in_features=288, out_features=7, bias=True)
    )
    """
    if "fc1.weight" in state:
        return EmbeddingHead(width, state["fc1.weight"].shape[0])
    if "head.weight" not in state:
        raise WrongWeightsError(
            f"the head's names are those of no known head: {', '.join(sorted(state)[:5])}",
            fix="use weights with a linear, two-layer, transformer or embedding head, "
            "or without a head",
        )
    n_outputs = state["head.weight"].shape[0]
    if "cls_token" in state:
        depth = len({name.split(".")[2] for name in state if name.startswith("transformer_")})
        positions = state["pos_embed"].shape[1] if "pos_embed" in state else 1
        return TransformerHead(width, n_outputs, n_positions=positions, depth=depth)
    if "hidden.weight" in state:
        return TwoLayerHead(width, state["hidden.weight"].shape[0], n_outputs)
    return LinearHead(width, n_outputs)
