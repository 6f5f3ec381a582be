"""Contrastive losses: two views of one thing lie close, all others far.

References
----------
Chen et al., "SimCLR", arXiv 2002.05709, equation 1 (NT-Xent); Dave et al., "TCLR",
arXiv 2101.07974, section 3.3 (local and global); Kim et al., "SwiFT", arXiv 2307.05916 (which
views are compared); Radford et al., "CLIP", arXiv 2103.00020 (pairs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as fn

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from neurostorm_app.models.neurostorm import NeuroStorm

__all__ = ["Contrast", "contrastive_loss", "local_global_loss", "nt_xent", "pair_loss"]

Contrast = Literal["windows", "augmentations"]


def contrastive_loss(
    model: NeuroStorm,
    head: nn.Module,
    first: Tensor,
    second: Tensor,
    *,
    kind: Contrast = "windows",
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Compare windows of participants as SwiFT does, at the temperature of upstream, 0.1.

    Parameters
    ----------
    model : NeuroStorm
        Windows to feature maps.
    head : Module
        Feature maps to vectors, such as an `EmbeddingHead`.
    first, second : Tensor, shape (B, C, X, Y, Z, T)
        Two windows of each of B participants, none of them twice in a batch.
    kind : str
        ``windows``, upstream's type 1, tells the other window of a participant from those of
        others. ``augmentations``, type 2, tells another augmentation of the same window from
        windows of others, among the first and among the second; the mean of both.
    augment : callable, optional
        Makes another view of windows each time, such as `augment_windows`. Without, the type
        ``windows`` compares them as they are.

    Returns
    -------
    Tensor, shape ()
        Cross-entropy, mean over all views; nats.

    Raises
    ------
    UsageError
        If there is nothing to tell apart, or no augmentation for its kind.
    """
    if len(first) < 2:
        raise UsageError(
            f"a contrastive loss got windows of {len(first)} participants; it tells them apart",
            fix="give batches of two participants or more",
        )
    if kind == "augmentations" and augment is None:
        raise UsageError(
            "two augmentations of a window are compared, and no augmentation was given",
            fix="give augment=, such as augment_windows, or kind='windows'",
        )

    def view(x: Tensor) -> Tensor:
        """Look at windows once."""
        vectors: Tensor = head(model.features(x if augment is None else augment(x)))
        return vectors

    if kind == "windows":
        return nt_xent(view(first), view(second))
    return (nt_xent(view(first), view(first)) + nt_xent(view(second), view(second))) / 2


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


def pair_loss(first: Tensor, second: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Tell which of two kinds of description belong together, such as scans and texts (CLIP).

    Parameters
    ----------
    first, second : Tensor, shape (B, D)
        One vector of either kind for each item, of any length: their cosines count.
    temperature : float
        What cosines are divided by.

    Returns
    -------
    Tensor, shape ()
        Cross-entropy, mean over items and both directions; nats.
    """
    alike = fn.normalize(first, dim=-1) @ fn.normalize(second, dim=-1).T / temperature
    own = torch.arange(len(alike), device=alike.device)
    return (fn.cross_entropy(alike, own) + fn.cross_entropy(alike.T, own)) / 2


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
