"""Which tokens of a window say what their neighbours say: spatiotemporal redundancy dropout.

While the autoencoder is trained, a token may be dropped with a probability that grows with how
much it resembles its neighbours in space and in time. The released weights of 2025 were trained
without it, and nothing here acts when a model embeds.

References
----------
Wang et al., arXiv 2506.11167; CUHK-AIM-Group/NeuroSTORM at a8dc38f.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.blocks import Size

__all__ = ["drop_probability", "find_neighbours"]


def find_neighbours(window: Size, *, space: int = 5, time: int = 5) -> tuple[Tensor, Tensor]:
    """Find the neighbours of each token of a window, itself left out.

    Parameters
    ----------
    window : tuple of int, length 4
        Tokens along X, Y, Z and T; N in all, counted in C order.
    space : int
        Edge of the cube, in tokens, that holds the neighbours of the same time; odd.
    time : int
        Length of the column, in tokens, that holds the neighbours of the same place; odd.

    Returns
    -------
    in_space, in_time : Tensor of bool, shape (N, N)
        ``True`` where the column is a neighbour of the row.

    Examples
    --------
    >>> in_space, in_time = find_neighbours((2, 1, 1, 3))
    >>> in_space.sum().item(), in_time.sum().item()
    (6, 12)
    """
    tokens = torch.cartesian_prod(*(torch.arange(n) for n in window)).reshape(-1, 4)
    apart = (tokens[:, None] - tokens[None]).abs()
    place, moment = apart[..., :3].amax(dim=-1), apart[..., 3]
    in_space = (place <= space // 2) & (moment == 0) & (place > 0)
    in_time = (moment <= time // 2) & (place == 0) & (moment > 0)
    return in_space, in_time


def drop_probability(tokens: Tensor, in_space: Tensor, in_time: Tensor) -> Tensor:
    """Work out how likely each token is dropped.

    Resemblance is the softmax of scaled products. Where a token has no neighbour in time (or in
    space), that half of the sum is 0.

    Parameters
    ----------
    tokens : Tensor, shape (B, N, C)
        What a scan gives for windows.
    in_space, in_time : Tensor of bool, shape (N, N)
        From `find_neighbours`.

    Returns
    -------
    Tensor, shape (B, N)
        Between 0 and 1.
    """
    alike = torch.softmax(tokens @ tokens.transpose(1, 2) / tokens.shape[-1] ** 0.5, dim=-1)
    weights = torch.zeros_like(alike)
    for ours, others in ((in_space, in_time), (in_time, in_space)):
        total = (alike * ours).sum(dim=-1, keepdim=True)
        closest = (alike * others).amax(dim=-1, keepdim=True)
        weights = weights + torch.where(total > 0, closest * alike / total, 0.0)
    n_neighbours = (in_space | in_time).sum(dim=-1).clamp(min=1)
    return weights.clamp(max=1.0).sum(dim=-1) / 2 / n_neighbours
