"""Losses that bring scans and texts together: their four forms in fMRI-LM's public code.

The scale is what cosines are multiplied by, itself and not its logarithm, and it may be learnt: no
gradient is cut off. The public code gives the logarithm where the scale is meant, and learns none.

References
----------
Radford et al., "CLIP", arXiv 2103.00020 (pairs, see `losses.pair_loss`); Zhai et al., "SigLIP",
arXiv 2303.15343, equation 1; Scotti et al., "MindEye", arXiv 2305.18274, section 3.1 (soft pairs);
yuxiangwei0808/fMRI-LM at 037dcf9 (weights and temperatures).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as fn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["sigmoid_pair_loss", "soft_pair_loss", "soft_sigmoid_loss"]

SCALE = 1 / 0.07
"""Of cosines, at first."""


def soft_pair_loss(first: Tensor, second: Tensor, *, temperature: float = 0.125) -> Tensor:
    """Tell how alike each text is to all texts, from its scan and the other way round.

    Parameters
    ----------
    first, second : Tensor, shape (B, D)
        A vector of each scan, and of each text: what is to be told comes from the second.
    temperature : float
        What cosines are divided by.

    Returns
    -------
    Tensor, shape ()
        Kullback-Leibler divergence, mean over items and both directions; nats.
    """
    one, other = fn.normalize(first, dim=-1), fn.normalize(second, dim=-1)
    alike = one @ other.T / temperature
    wanted = (other @ other.T / temperature).softmax(dim=-1)
    both = torch.stack([alike, alike.T]).log_softmax(dim=-1)
    return fn.kl_div(both, wanted.expand_as(both), reduction="sum") / (2 * len(first))


def sigmoid_pair_loss(
    first: Tensor, second: Tensor, *, scale: Tensor | float = SCALE, bias: Tensor | float = 0.0
) -> Tensor:
    """Ask of each scan and each text by itself whether they belong together.

    Parameters
    ----------
    first, second : Tensor, shape (B, D)
        One vector of either kind for each of two items or more, of any length.
    scale, bias : Tensor or float
        Logits are ``scale * cosine + bias``.

    Returns
    -------
    Tensor, shape ()
        Cross-entropy, mean over all B * B pairs; the right ones weigh as much as all others.
    """
    alike = fn.normalize(first, dim=-1) @ fn.normalize(second, dim=-1).T
    return _weighed(scale * alike + bias, torch.eye(len(alike), device=alike.device))


def soft_sigmoid_loss(first: Tensor, second: Tensor, *, scale: Tensor | float = SCALE) -> Tensor:
    """Ask of each scan and each text whether they could belong together, by how alike texts are.

    Parameters
    ----------
    first, second : Tensor, shape (B, D)
        A vector of each scan, and of each text, of any length.
    scale : Tensor or float
        Of the cosines of scans with texts, and of texts with texts, whose sigmoids are the targets.

    Returns
    -------
    Tensor, shape ()
        As `sigmoid_pair_loss`.
    """
    one, other = fn.normalize(first, dim=-1), fn.normalize(second, dim=-1)
    return _weighed(scale * (one @ other.T), (scale * (other @ other.T)).sigmoid().detach())


def _weighed(logits: Tensor, wanted: Tensor) -> Tensor:
    """Compare logits with targets; of each row one pair is right and the others are not."""
    weight = torch.tensor(max(len(logits) - 1, 1), device=logits.device)
    return fn.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight)
