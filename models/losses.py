"""Contrastive losses: two views of one thing lie close, all others far.

References
----------
Chen et al., "SimCLR", arXiv 2002.05709, equation 1 (NT-Xent); Dave et al., "TCLR",
arXiv 2101.07974, section 3.3 (local and global).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as fn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["local_global_loss", "nt_xent"]


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Tell the other view of an item from all views of the other items.

    Parameters
    ----------
    first, second : Tensor, shape (B, D)
        Two views of each item, of any length: their cosines count.
    temperature : float
        What cosines are divided by.

    Returns
    -------
    Tensor, shape ()
        Cross-entropy, mean over the 2 B views; nats.
    """
    views = fn.normalize(torch.cat([first, second]), dim=-1)
    own = torch.eye(len(views), dtype=torch.bool, device=views.device)
    alike = (views @ views.T / temperature).masked_fill(own, -torch.inf)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return fn.cross_entropy(alike, other)


def local_global_loss(local: Tensor, whole: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Tell which short clip a slice of the long one shows, and the other way round.

    Parameters
    ----------
    local : Tensor, shape (B, K, D)
        Of each item, a vector for each of K slices of its long clip; of length one.
    whole : Tensor, shape (B, K, D)
        A vector for each of the K short clips that show the same times; of length one.
    temperature : float
        What products are divided by.

    Returns
    -------
    Tensor, shape ()
        Cross-entropy, summed over slices, mean over items and both directions; nats.
    """
    alike = local @ whole.transpose(1, 2) / temperature
    both = torch.cat([alike, alike.transpose(1, 2)])
    slices = torch.arange(both.shape[1], device=both.device).repeat(len(both))
    return fn.cross_entropy(both.flatten(0, 1), slices, reduction="sum") / len(both)
