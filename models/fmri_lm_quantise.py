"""From features to codes: a codebook that follows a moving average, or a fixed grid of levels.

Nothing changes outside training. Upstream fills an empty codebook at its first look at data, also
in evaluation, and counts codes there too; both are left out.

References
----------
van den Oord et al., arXiv 1711.00937, appendix A.1 (moving average); Peng et al., BEiT v2,
arXiv 2208.06366 (rows of length one); Mentzer et al., arXiv 2309.15505 (finite levels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["EmaQuantiser", "FiniteQuantiser", "Quantised"]

ROUNDS = 10
"""Of the clustering that fills the codebook."""
MARGIN = 1e-3
"""Share by which the outermost levels reach beyond the range of tanh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """Features after quantisation.

    Parameters
    ----------
    values : Tensor, shape (..., D)
        Rows of the codebook; gradients pass through as if nothing had been rounded.
    codes : Tensor of int64, shape (...)
        Which rows.
    loss : Tensor, shape ()
        Mean squared distance of features from their rows, both of length one.
    """

    values: Tensor
    codes: Tensor
    loss: Tensor


class _Codebook(nn.Module):
    """Rows of length one, and what is counted of them; the names are upstream's."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        rows = fn.normalize(torch.randn(n, width), dim=-1)
        self.weight: Tensor
        self.cluster_size: Tensor
        self.embed_avg: Tensor
        self.initted: Tensor
        self.register_buffer("weight", rows)
        self.register_buffer("cluster_size", torch.zeros(n))
        self.register_buffer("embed_avg", rows.clone())
        self.register_buffer("initted", torch.zeros(1))


class EmaQuantiser(nn.Module):
    """The nearest row of a codebook by cosine; rows follow the features while training.

    Parameters
    ----------
    n : int
        Rows.
    width : int
        Their length.
    decay : float
        How much of a row stays at a step.
    """

    def __init__(self, n: int, width: int, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.cluster_size: Tensor
        self.register_buffer("cluster_size", torch.zeros(n))
        self.embedding = _Codebook(n, width)

    def forward(self, z: Tensor) -> Quantised:
        """Quantise features (..., D).

        Parameters
        ----------
        z : Tensor, shape (..., D)
            Of any length.

        Returns
        -------
        Quantised
            With the rows as they were before this step; in float32, whatever the precision around.
        """
        # Eight bits of bfloat16 cannot tell thousands of rows apart, nor hold a moving average.
        with torch.autocast(z.device.type, enabled=False):
            units = fn.normalize(z.float(), dim=-1)
            flat = units.detach().reshape(-1, units.shape[-1])
            if self.training:
                self._fill(flat)
            codes = (flat @ self.embedding.weight.T).argmax(dim=1)
            rows = self.embedding.weight[codes].reshape(units.shape)
            if self.training:
                self._follow(flat, codes)
            loss = fn.mse_loss(units, rows)
            values = units + (rows - units).detach()
        return Quantised(values=values, codes=codes.reshape(units.shape[:-1]), loss=loss)

    @torch.no_grad()
    def _follow(self, flat: Tensor, codes: Tensor) -> None:
        """Move the rows that were met towards the mean of what met them."""
        rows = self.embedding.weight
        counts = torch.bincount(codes, minlength=len(rows)).to(rows.dtype)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        sums = torch.zeros_like(rows).index_add_(0, codes, flat)
        moved = self.decay * rows + (1 - self.decay) * fn.normalize(sums, dim=-1)
        rows.copy_(torch.where(counts[:, None] > 0, fn.normalize(moved, dim=-1), rows))

    @torch.no_grad()
    def _fill(self, flat: Tensor) -> None:
        """Fill an empty codebook with the centres of the first features of training."""
        book = self.embedding
        if bool(book.initted.all()):
            return
        n = len(book.weight)
        picked = torch.randperm(len(flat), device=flat.device)[:n]
        if len(flat) < n:  # fewer features than rows: the others begin as copies
            more = torch.randint(len(flat), (n - len(flat),), device=flat.device)
            picked = torch.cat([picked, more])
        rows = flat[picked].clone()
        for _ in range(ROUNDS):
            codes = (flat @ rows.T).argmax(dim=1)
            met = torch.bincount(codes, minlength=n)[:, None] > 0
            sums = torch.zeros_like(rows).index_add_(0, codes, flat)
            rows = torch.where(met, fn.normalize(sums, dim=-1), rows)
        book.weight.copy_(rows)
        book.embed_avg.copy_(rows)
        book.initted.fill_(1)


class FiniteQuantiser(nn.Module):
    """A fixed grid of levels for each channel; nothing is learnt but the projections.

    Parameters
    ----------
    levels : sequence of int
        Of each channel, 2 or more.
    width : int, optional
        Of the features, where it is not the number of channels: they are projected.

    Raises
    ------
    UsageError
        If a channel has fewer than two levels.
    """

    def __init__(self, levels: Sequence[int], width: int | None = None) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise UsageError(
                f"the levels of the channels are {list(levels)}; expected two or more for each",
                fix="give levels such as [8, 8, 8, 6, 5]",
            )
        self.levels = tuple(levels)
        if width is not None and width != len(levels):
            self.project_in = nn.Linear(width, len(levels))
            self.project_out = nn.Linear(len(levels), width)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Round features (..., D).

        Parameters
        ----------
        z : Tensor, shape (..., D)
            Features.

        Returns
        -------
        values : Tensor, shape (..., D)
            On the grid, and projected back.
        codes : Tensor of int32, shape (...)
            Number of the point of the grid, the first channel fastest.
        """
        projected = hasattr(self, "project_in")
        inner = self.project_in(z) if projected else z
        levels = torch.tensor(self.levels, device=z.device)
        half = (levels - 1) * (1 + MARGIN) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        bounded = (inner + (offset / half).atanh()).tanh() * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        side = levels // 2
        steps = torch.cat([levels.new_ones(1), levels.cumprod(0)[:-1]])
        codes = ((rounded.round() + side) * steps).sum(dim=-1).to(torch.int32)
        values = rounded / side
        return (self.project_out(values) if projected else values), codes
