"""Functional connectivity of parcels: no weights, and the baseline every network has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from neurostorm_app.errors import ContractError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Connectome"]

CLIP = 0.999999
"""Largest correlation before the transform: two parcels with one series would give infinity."""

FLAT = 1e-9
"""A parcel whose standard deviation is below this share of its mean is constant."""


class Connectome(nn.Module):
    """Correlate parcels; a window or a run becomes the upper triangle of its matrix.

    Examples
    --------
    >>> series = torch.tensor([[[1.0, 2, 3, 2], [1, 2, 3, 2], [3, 2, 1, 2]]])
    >>> Connectome().embed(series).tanh().round(decimals=3)
    tensor([[ 1., -1., -1.]])
    """

    def embed(self, series: Tensor) -> Tensor:
        """Compute Fisher's z of Pearson's correlation of every pair of parcels.

        Parameters
        ----------
        series : Tensor, shape (B, V, T)
            Mean series of V parcels over T volumes, cleaned.

        Returns
        -------
        Tensor, shape (B, V * (V - 1) / 2)
            Row by row above the diagonal: (0, 1), (0, 2), ..., (1, 2), .... A parcel that does
            not vary correlates 0 with all others: nothing is known of it.

        Raises
        ------
        ContractError
            If there are fewer than two parcels or three volumes, or a value is not finite.
        """
        if series.ndim != 3 or series.shape[1] < 2 or series.shape[2] < 3:
            raise ContractError(
                f"the series have the shape {tuple(series.shape)}; expected (batch, at least 2 "
                "parcels, at least 3 volumes)",
                fix="give the mean series of the parcels of a run",
            )
        if not torch.isfinite(series).all():
            bad = torch.unique((~torch.isfinite(series)).nonzero()[:, 1]).tolist()
            raise ContractError(
                f"{len(bad)} parcels hold values that are not finite, the first is number {bad[0]}",
                fix="leave out parcels without voxels, or set them to a constant",
            )
        x = series.double()
        mean = x.mean(dim=2, keepdim=True)
        x = x - mean
        length = x.norm(dim=2, keepdim=True)
        flat = length <= FLAT * mean.abs() * series.shape[2] ** 0.5
        x = torch.where(flat, 0.0, x / torch.where(flat, 1.0, length))
        rows, columns = torch.triu_indices(series.shape[1], series.shape[1], offset=1)
        r = (x @ x.mT)[:, rows, columns]
        return torch.atanh(r.clamp(-CLIP, CLIP)).to(series.dtype)

    def forward(self, series: Tensor) -> Tensor:
        """Do what `embed` does."""
        return self.embed(series)


def build() -> Connectome:
    """Build it: there is nothing to configure and nothing to load."""
    return Connectome()
