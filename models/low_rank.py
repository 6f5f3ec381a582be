"""Low-rank updates of the matrices of a network: a matrix and the product of two thin ones.

A matrix is still read as ``weight``, so compiled loops and kernels see the sum.

References
----------
Hu et al., "LoRA", arXiv 2106.09685, section 4.1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_low_rank", "is_low_rank", "merge_low_rank"]

ALPHA = 16
"""Updates are scaled by this over their rank, so that one rate of learning fits any rank."""

MATRICES = frozenset({
    "in_proj", "x_proj", "out_proj", "linear1", "linear2",  # NeuroSTORM
    "query", "key", "value", "dense",  # BrainLM
})  # fmt: skip
"""Names of the linear layers of a block that are updated."""

_PART = ".parametrizations.weight."
"""In the names of what torch makes of an updated matrix."""


class _LowRank(nn.Module):
    """Adds a product of two thin matrices; the second is zero at first."""

    def __init__(self, like: Tensor, rank: int) -> None:
        super().__init__()
        out, width = like.shape
        self.down = nn.Parameter(like.new_empty(rank, width))
        self.up = nn.Parameter(like.new_zeros(out, rank))
        self.scale = ALPHA / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def add_low_rank(blocks: nn.Module, *, rank: int) -> None:
    """Give the matrices of blocks an update that is zero at first; they compute what they did.

    Parameters
    ----------
    blocks : Module
        Of NeuroSTORM or BrainLM; changed in place.
    rank : int
        Of the updates.
    """
    matrices = [
        module
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in MATRICES
    ]
    for matrix in matrices:
        parametrize.register_parametrization(matrix, "weight", _LowRank(matrix.weight, rank))


def is_low_rank(name: str) -> bool:
    """Tell whether a parameter of this name belongs to an update."""
    return _PART in name and not name.endswith(".original")


def merge_low_rank(network: nn.Module) -> dict[str, Tensor]:
    """Give the state of a network as if its matrices had always been the sums.

    Parameters
    ----------
    network : Module
        With updates or without.

    Returns
    -------
    dict of str to Tensor
        Under the names without updates.
    """
    merged = {}
    for name, value in network.state_dict().items():
        base, found, part = name.partition(_PART)
        if not found:
            merged[name] = value
        elif part == "original":
            merged[f"{base}.weight"] = network.get_submodule(base).weight
    return merged
