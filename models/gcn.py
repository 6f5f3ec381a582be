"""A graph network on dense matrices: the recipe that BrainGB found to work best.

Nodes are parcels and carry their connection profiles; messages join both ends of an edge; the
nodes are put one after the other at the end. Written from the paper. There are no released
weights: it is trained inside the folds of an evaluation.

References
----------
Cui et al. (2023), BrainGB, IEEE Transactions on Medical Imaging 42, arXiv 2204.07054, section IV.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from neurostorm_app.models.matrices import check_matrices

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ConnectomeGcn"]


class _Messages(nn.Module):
    """Average what the neighbours of a node send: one linear map of both ends put together."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(width, out), nn.Linear(width, out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        # A linear map of [own; other] is the sum of two maps: pairs never need to be laid out.
        n_neighbours = edges.sum(dim=-1, keepdim=True)
        heard = edges @ self.other(nodes) / n_neighbours.clamp(min=1)
        return torch.relu(self.norm(self.own(nodes) * (n_neighbours > 0) + heard))


class ConnectomeGcn(nn.Module):
    """Messages along the strongest connections, then all nodes in a row and a head.

    Parameters
    ----------
    n_parcels : int
        V.
    n_outputs : int
        Values that the head gives.
    width : int
        Channels of a node.
    depth : int
        Rounds of messages.
    density : float
        Share of the connections of a matrix, the strongest by absolute value, that are edges.
    dropout : float
        While it is trained.
    """

    def __init__(
        self,
        n_parcels: int,
        n_outputs: int,
        *,
        width: int = 64,
        depth: int = 2,
        density: float = 0.2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.n_parcels, self.density = n_parcels, density
        widths = [n_parcels, *[width] * depth]
        self.layers = nn.ModuleList(_Messages(a, b) for a, b in pairwise(widths))
        self.narrow = nn.Sequential(nn.Linear(width, 8), nn.LeakyReLU())
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(8 * n_parcels, 32),
            nn.LeakyReLU(),
            nn.Linear(32, n_outputs),
        )

    def edges(self, matrices: Tensor) -> Tensor:
        """Choose the strongest connections of each matrix: (B, V, V), 1 is an edge."""
        strength = matrices.abs() * (1 - torch.eye(self.n_parcels, device=matrices.device))
        cut = torch.quantile(strength.flatten(1).float(), 1 - self.density, dim=1)
        return (strength > cut[:, None, None]).to(matrices.dtype)

    def embed(self, matrices: Tensor) -> Tensor:
        """Put the nodes in a row.

        Parameters
        ----------
        matrices : Tensor, shape (B, V, V)
            Correlations of parcels, 1 on the diagonal.

        Returns
        -------
        Tensor, shape (B, 8 * V)
            Parcels one after the other.

        Raises
        ------
        ContractError
            If the matrices are not square, or of another number of parcels.
        """
        check_matrices(matrices, self.n_parcels)
        nodes, edges = matrices, self.edges(matrices)
        for layer in self.layers:
            nodes = layer(nodes, edges)
        vectors: Tensor = self.narrow(nodes).flatten(1)
        return vectors

    def predict(self, matrices: Tensor) -> Tensor:
        """Map (B, V, V) to (B, n_outputs)."""
        values: Tensor = self.head(self.embed(matrices))
        return values

    def forward(self, matrices: Tensor) -> Tensor:
        """Do what `predict` does."""
        return self.predict(matrices)
