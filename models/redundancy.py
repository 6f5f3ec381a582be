r"""Spatiotemporal redundancy dropout: what a token shares with its neighbours is taken away.

While an autoencoder is trained, and only then, this acts on what the Mamba of each block of its
encoder gives for a window of N tokens. The released weights of 2025 were trained without it.

Of tokens :math:`h_i` the resemblance is :math:`A = \mathrm{softmax}(h h^T / \sqrt{c})`. Around
each token lie neighbours in space, :math:`\Omega_s(i)` (a cube at the same time), and in time,
:math:`\Omega_t(i)` (a column at the same place). With :math:`f(i) = \max_{j \in \Omega(i)} A_{ij}`

.. math:: W_{ij} = \frac{1}{2} \left( f_t(i) \frac{A_{ij}}{\sum_{k \in \Omega_s(i)} A_{ik}}
          + f_s(i) \frac{A_{ij}}{\sum_{k \in \Omega_t(i)} A_{ik}} \right), \qquad 0 \le W \le 1

is how likely the entry (i, j) is dropped. Two variants act on it:

``paper``
    Entries of the mixing are dropped. What is certain of the paper: entries of the resemblance
    are dropped, not whole tokens, with probabilities W. Its equations could not be read whole,
    so the rest is a guess:

    - the first term counts for j in space, the second for j in time, and no other entry is
      dropped (another reading of the paper, for volumes without time, does the same);
    - a token loses what the dropped entries mix into it, :math:`h_i - \sum_j D_{ij} A_{ij} h_j`
      with D the draw: without a draw nothing changes, so that evaluation meets the same network;
    - rows are not scaled up again, and no gradient flows through A.
``upstream``
    Whole tokens become zero, with probability :math:`\sum_j W_{ij} / (|\Omega_s| + |\Omega_t|)`,
    j over the whole window: upstream's code since 2026-05.

`redundancy_dropout` draws; here are the probabilities.

References
----------
Wang et al., "NeuroSTORM", arXiv 2506.11167 (the method); CUHK-AIM-Group/NeuroSTORM at a8dc38f.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.blocks import Size

__all__ = ["drop_probability", "entry_probability", "find_neighbours", "resemble"]

TINY = 1e-8
"""Added to sums of resemblance, as upstream does: a token may resemble nothing but itself."""


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
    """Work out how likely each token is dropped: the variant ``upstream``.

    Where a token has no neighbour in time (or in space), that half of the sum is 0.

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
    alike = resemble(tokens)
    to_space, to_time = _closeness(alike, in_space, in_time)
    weights = (alike * (to_space + to_time)).clamp(max=1.0)
    n_neighbours = (in_space | in_time).sum(dim=-1).clamp(min=1)
    return (weights.sum(dim=-1) / n_neighbours).clamp(max=1.0)


def entry_probability(alike: Tensor, in_space: Tensor, in_time: Tensor) -> Tensor:
    """Work out how likely each entry between neighbours is dropped: the variant ``paper``.

    Parameters
    ----------
    alike : Tensor, shape (B, N, N)
        From `resemble`.
    in_space, in_time : Tensor of bool, shape (N, N)
        From `find_neighbours`.

    Returns
    -------
    Tensor, shape (B, N, N)
        Between 0 and 1; 0 for tokens that are no neighbours.
    """
    to_space, to_time = _closeness(alike, in_space, in_time)
    return (alike * (to_space * in_space + to_time * in_time)).clamp(max=1.0)


def resemble(tokens: Tensor) -> Tensor:
    """Tell how much tokens resemble each other: (B, N, C) to (B, N, N), rows sum to one."""
    return torch.softmax(tokens @ tokens.transpose(1, 2) / tokens.shape[-1] ** 0.5, dim=-1)


def _closeness(alike: Tensor, in_space: Tensor, in_time: Tensor) -> tuple[Tensor, Tensor]:
    """Give what resemblance to neighbours in space, and in time, is multiplied by: (B, N, 1)."""
    factors = []
    for ours, others in ((in_space, in_time), (in_time, in_space)):
        total = (alike * ours).sum(dim=-1, keepdim=True)
        closest = (alike * others).amax(dim=-1, keepdim=True)
        factors.append(closest / (total + TINY) / 2 * ours.any(dim=-1, keepdim=True))
    return factors[0], factors[1]
