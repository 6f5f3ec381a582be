"""What BrainLM attends to, told in parcels and time; nothing is hidden, tokens keep their order.

Weights of attention say where a layer takes its values from. They do not say what a network's
answer rests on, and still less what parts of a brain do with each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from neurostorm_app.errors import ContractError
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.models.brainlm_vit import BrainLmVit

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.brainlm_face import BrainLm

__all__ = ["ClassAttention", "read_class_attention", "read_parcel_attention"]


class ClassAttention(NamedTuple):
    """What the class token attends to, heads averaged.

    Attributes
    ----------
    parcels : Tensor, shape (B, V, n)
        Parcels in the order of the input, by patch of volumes in the native family, by volume in
        the ViT-MAE family, where a token's weight is spread evenly over its pixels.
    rest : Tensor, shape (B,)
        What falls on the class token itself and on padding: all weights of a window sum to one.
    """

    parcels: Tensor
    rest: Tensor


def read_class_attention(
    model: BrainLm, signal: Tensor, xyz: Tensor, *, layer: int = -1
) -> ClassAttention:
    """Read the row of the class token in one layer, the last by default.

    Parameters
    ----------
    model : BrainLm
        In evaluation mode.
    signal, xyz : Tensor
        As for `BrainLm.embed`.
    layer : int
        From 0; negative ones count from the end.

    Returns
    -------
    ClassAttention
        Of each window.

    Raises
    ------
    ContractError
        If a shape does not fit, there is no such layer, or the network is of neither family.
    """
    row = model.attentions(signal, xyz, layer=layer)[:, :, 0].mean(dim=1)[:, 1:]
    if isinstance(model, BrainLmNative):
        parcels = row.reshape(*signal.shape[:2], -1)  # all patches of a parcel lie together
    elif isinstance(model, BrainLmVit):
        order = xyz[..., 1].argsort(dim=1, stable=True)
        rows = model.geometry.spread(row / model.geometry.patch**2)
        parcels = rows.gather(1, order.argsort(dim=1)[..., None].expand_as(rows))
    else:
        raise _unknown(model)
    return ClassAttention(parcels, 1 - parcels.sum(dim=(1, 2)))


def read_parcel_attention(
    model: BrainLm, signal: Tensor, xyz: Tensor, *, layer: int = -1
) -> Tensor:
    """Read what parcels attend to, heads and times averaged.

    Parameters
    ----------
    model : BrainLm
        Of the native family: in the other, a token holds 14 or 16 parcels.
    signal, xyz : Tensor
        As for `BrainLm.embed`.
    layer : int
        From 0; negative ones count from the end.

    Returns
    -------
    Tensor, shape (B, V, V)
        Entry (i, j) is what a patch of parcel i gives to all patches of parcel j, averaged over
        the patches of i. Rows sum to one less what falls on the class token.

    Raises
    ------
    ContractError
        If a shape does not fit, there is no such layer, or tokens are not of single parcels.
    """
    if not isinstance(model, BrainLmNative):
        raise _unknown(model)
    batch, n_parcels, _ = signal.shape
    found = []
    for one in range(batch):  # heads x tokens x tokens of a window are held at a time
        part = slice(one, one + 1)
        weights = model.attentions(signal[part], xyz[part], layer=layer)[:, :, 1:, 1:].mean(dim=1)
        n = weights.shape[1] // n_parcels
        folded = weights.reshape(1, n_parcels, n, n_parcels, n)
        found.append(folded.sum(dim=4).mean(dim=2))
    return torch.cat(found)


def _unknown(model: BrainLm) -> ContractError:
    return ContractError(
        f"{type(model).__name__} has no tokens that are of one parcel each",
        fix="give a network of the native family of BrainLM: brainlm, brainlm-5m, brainlm-demo",
    )
