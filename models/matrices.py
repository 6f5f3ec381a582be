"""Matrices of correlations, as networks of parcels take them, from the vectors they are kept as."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from neurostorm_app.errors import ContractError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_matrices", "fold_matrices"]


def fold_matrices(vectors: Tensor) -> Tensor:
    """Fold the embeddings of the connectome back into matrices.

    Parameters
    ----------
    vectors : Tensor, shape (B, V * (V - 1) / 2)
        Fisher's z above the diagonal, row by row, as :class:`~neurostorm_app.models.connectome.
        Connectome` gives them.

    Returns
    -------
    Tensor, shape (B, V, V)
        Pearson's r, symmetric, 1 on the diagonal.

    Raises
    ------
    ContractError
        If the vectors are not as long as the triangle of any matrix.

    Examples
    --------
    >>> fold_matrices(torch.zeros(1, 3)).diagonal(dim1=1, dim2=2)
    tensor([[1., 1., 1.]])
    """
    n_parcels = (1 + math.isqrt(1 + 8 * vectors.shape[1])) // 2
    if n_parcels * (n_parcels - 1) // 2 != vectors.shape[1]:
        raise ContractError(
            f"vectors of {vectors.shape[1]} numbers are not the triangle of any square matrix",
            fix="give the embeddings of the connectome, V * (V - 1) / 2 numbers of V parcels",
        )
    rows, columns = torch.triu_indices(n_parcels, n_parcels, offset=1)
    matrices = torch.eye(n_parcels, dtype=vectors.dtype).repeat(len(vectors), 1, 1)
    matrices[:, rows, columns] = matrices[:, columns, rows] = vectors.tanh()
    return matrices


def check_matrices(matrices: Tensor, n_parcels: int) -> None:
    """See that matrices are those of a network's parcels.

    Raises
    ------
    ContractError
        If not.
    """
    if matrices.ndim != 3 or matrices.shape[1:] != (n_parcels, n_parcels):
        raise ContractError(
            f"the network got matrices of shape {tuple(matrices.shape)}; it takes (batch, "
            f"{n_parcels}, {n_parcels})",
            fix="give correlations of the parcels that the network was made for",
        )
