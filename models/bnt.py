"""Brain Network Transformer: parcels are tokens that carry their connection profiles.

Read-out is by soft clusters around orthonormal centres. Written from the paper; sizes are smaller
than its, for cohorts of tens to hundreds of people, and profiles are first brought to a width that
the heads divide. There are no released weights: it is trained inside the folds of an evaluation.

References
----------
Kan et al. (2022), Brain Network Transformer, NeurIPS, arXiv 2210.06681, sections 3.2 and 3.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from neurostorm_app.models.matrices import check_matrices

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BrainNetworkTransformer"]


class _Readout(nn.Module):
    """Sum nodes by how much they belong to each of K clusters."""

    def __init__(self, width: int, n_clusters: int) -> None:
        super().__init__()
        centres = nn.init.xavier_uniform_(torch.empty(n_clusters, width))
        self.centres = nn.Parameter(torch.linalg.qr(centres.T)[0].T.contiguous())

    def forward(self, nodes: Tensor) -> Tensor:
        shares = torch.softmax(nodes @ self.centres.T, dim=-1)
        return shares.mT @ nodes


class BrainNetworkTransformer(nn.Module):
    """Attention between parcels, then a read-out by clusters and a head.

    Parameters
    ----------
    n_parcels : int
        V.
    n_outputs : int
        Values that the head gives.
    width : int
        Channels of a node; a multiple of `n_heads`.
    n_clusters : int
        Clusters of the read-out, at most `width`.
    n_heads, depth : int
        Of the attention.
    dropout : float
        While it is trained.
    """

    def __init__(  # noqa: PLR0913  the sizes of a network
        self,
        n_parcels: int,
        n_outputs: int,
        *,
        width: int = 64,
        n_clusters: int = 10,
        n_heads: int = 4,
        depth: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.n_parcels = n_parcels
        self.profile = nn.Linear(n_parcels, width)
        layer = nn.TransformerEncoderLayer(
            width, n_heads, 2 * width, dropout=dropout, batch_first=True
        )
        self.attention = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.readout = _Readout(width, n_clusters)
        self.narrow = nn.Sequential(nn.Linear(width, 8), nn.LeakyReLU())
        self.head = nn.Sequential(
            nn.Linear(8 * n_clusters, 32), nn.LeakyReLU(), nn.Linear(32, n_outputs)
        )

    def embed(self, matrices: Tensor) -> Tensor:
        """Read matrices out.

        Parameters
        ----------
        matrices : Tensor, shape (B, V, V)
            Correlations of parcels, 1 on the diagonal.

        Returns
        -------
        Tensor, shape (B, D)
            Clusters one after the other.

        Raises
        ------
        ContractError
            If the matrices are not square, or of another number of parcels.
        """
        check_matrices(matrices, self.n_parcels)
        nodes = self.attention(self.profile(matrices))
        vectors: Tensor = self.narrow(self.readout(nodes)).flatten(1)
        return vectors

    def predict(self, matrices: Tensor) -> Tensor:
        """Map (B, V, V) to (B, n_outputs)."""
        values: Tensor = self.head(self.embed(matrices))
        return values

    def forward(self, matrices: Tensor) -> Tensor:
        """Do what `predict` does."""
        return self.predict(matrices)
