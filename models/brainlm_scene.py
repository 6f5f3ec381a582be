"""What BrainLM sees of windows, in which order, and what it makes of the rest.

References
----------
He et al., "Masked autoencoders are scalable vision learners", arXiv 2111.06377.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from neurostorm_app.errors import ContractError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Hiding",
    "Reconstruction",
    "Scene",
    "by_unit",
    "check_places",
    "choose",
    "hide",
    "mean_hidden",
    "mean_hidden_each",
    "split_batch",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """What BrainLM makes of windows with hidden tokens, in upstream's shapes, order and unit.

    The native family has (B, V, n, P) for V parcels and n patches of P volumes, in the order and
    unit of the input. The ViT-MAE family has (B, 424, 200), parcels sorted by Y, values over
    5.6430855.

    Parameters
    ----------
    logits : Tensor, shape (B, V, n, P) or (B, V, T)
        The guess of all values, hidden or not.
    mask : Tensor, shape (B, V, n) or (B, V, T)
        1.0 is hidden, 0.0 visible.
    loss : Tensor, shape ()
        Error over what is hidden, as the configuration says. Not a number, and without a
        gradient, where nothing is hidden: then there is nothing to guess.
    ids_restore : Tensor of int64, shape (B, L)
        Where each token went in the shuffled order; the first ones of that order are visible.
    last_hidden : Tensor, shape (B, 1 + visible, H)
        The encoder's output, normalised: the class token, then the others in shuffled order.
    order : Tensor of int64, shape (B, V)
        Parcel of the input in each row of `logits` and `mask`.
    """

    logits: Tensor
    mask: Tensor
    loss: Tensor
    ids_restore: Tensor
    last_hidden: Tensor
    order: Tensor

    @property
    def cls(self) -> Tensor:
        """The class token of the last layer, shape (B, H)."""
        return self.last_hidden[:, 0]


class Hiding(NamedTuple):
    """Which tokens are visible, and in which order.

    Attributes
    ----------
    keep : Tensor of int64, shape (B, visible)
        Tokens that enter the encoder, in this order.
    restore : Tensor of int64, shape (B, L)
        Place of each token in the shuffled order.
    mask : Tensor, shape (B, L)
        1.0 is hidden.
    """

    keep: Tensor
    restore: Tensor
    mask: Tensor

    def take(self, tokens: Tensor) -> Tensor:
        """Pick the visible ones: (B, L, H) to (B, visible, H)."""
        return _rows(tokens, self.keep)

    def fill(self, tokens: Tensor, stand_in: Tensor) -> Tensor:
        """Put visible tokens back and a stand-in elsewhere: (B, visible, H) to (B, L, H)."""
        hidden = stand_in.expand(len(tokens), self.restore.shape[1] - tokens.shape[1], -1)
        return _rows(torch.cat([tokens, hidden], dim=1), self.restore)


class Scene(NamedTuple):
    """Windows with a part hidden.

    Attributes
    ----------
    values : Tensor, shape (B, ...)
        What tokens are made of; values of hidden tokens are not looked at.
    hiding : Hiding
        Of the tokens.
    mask : Tensor
        1.0 where the error counts; the shape is that of the guess, or without its last axis.
    """

    values: Tensor
    hiding: Hiding
    mask: Tensor


def hide(noise: Tensor, n_visible: int) -> Hiding:
    """Hide the tokens with the largest noise; the others enter in the order of theirs.

    Parameters
    ----------
    noise : Tensor, shape (B, L)
        Any numbers; equal ones keep their order.
    n_visible : int
        Tokens that stay.

    Returns
    -------
    Hiding
        For `take` and `fill`.

    Examples
    --------
    >>> hide(torch.tensor([[0.3, 0.9, 0.1]]), 2).mask
    tensor([[0., 1., 0.]])
    """
    shuffle = noise.argsort(dim=1, stable=True)
    restore = shuffle.argsort(dim=1)
    mask = (restore >= n_visible).to(torch.float32)
    return Hiding(keep=shuffle[:, :n_visible], restore=restore, mask=mask)


def choose(like: Tensor, n_tokens: int, *, ratio: float, noise: Tensor | None) -> Hiding:
    """Hide a share of the tokens, by given noise or by a draw of torch's generator.

    Parameters
    ----------
    like : Tensor, shape (B, ...)
        Gives the size of the batch and the device.
    n_tokens : int
        Tokens of an item.
    ratio : float
        Share to hide; ``int(n_tokens * (1 - ratio))`` stay.
    noise : Tensor, shape (B, n_tokens), optional
        As for `hide`. Without it, and with nothing to hide, the tokens keep their own order.

    Returns
    -------
    Hiding
        Of each item.

    Raises
    ------
    ContractError
        If the ratio leaves nothing visible, or the noise has another shape.
    """
    n_visible = int(n_tokens * (1 - ratio))
    if not (0 <= ratio < 1 and n_visible):
        raise ContractError(
            f"a mask_ratio of {ratio} leaves no token of {n_tokens} visible, or is no share",
            fix="give a mask_ratio from 0 to below 1",
        )
    if noise is None and n_visible == n_tokens:
        noise = torch.arange(n_tokens).expand(len(like), -1)
    elif noise is None:
        noise = torch.rand(len(like), n_tokens)
    if noise.shape != (len(like), n_tokens):
        raise ContractError(
            f"the noise has the shape {tuple(noise.shape)}; expected {(len(like), n_tokens)}: one "
            "number for each token of each window",
            fix="draw the noise for these windows, or leave it out",
        )
    return hide(noise.to(like.device), n_visible)


def by_unit(errors: Tensor, mask: Tensor) -> Tensor:
    """Average over the volumes of a patch where the mask is one of patches."""
    return errors.mean(dim=-1) if errors.ndim > mask.ndim else errors


def mean_hidden(errors: Tensor, mask: Tensor) -> Tensor:
    """Average over what is hidden: not a number, and no gradient, where nothing is.

    Parameters
    ----------
    errors, mask : Tensor, of one shape
        1.0 of the mask is hidden.

    Returns
    -------
    Tensor, shape ()
        Over all windows together.
    """
    if not mask.any():
        return torch.full((), torch.nan, device=mask.device)
    return (errors * mask).sum() / mask.sum()


def mean_hidden_each(errors: Tensor, mask: Tensor) -> Tensor:
    """Average over what is hidden, window by window.

    Parameters
    ----------
    errors, mask : Tensor, shape (B, ...)
        1.0 of the mask is hidden.

    Returns
    -------
    Tensor, shape (B,)
        One value a window.

    Raises
    ------
    ContractError
        If nothing is hidden in some window.
    """
    n_hidden = mask.flatten(1).sum(dim=1)
    if not n_hidden.all():
        raise ContractError(
            "the configuration's mask_ratio hides nothing of a window, so there is no error of it",
            fix="give a larger mask_ratio in the configuration",
        )
    return (errors * mask).flatten(1).sum(dim=1) / n_hidden


def split_batch(values: Tensor) -> list[slice]:
    """Cut a batch into what runs together: window by window on a CPU.

    There it is no slower, takes a fraction of the memory, and the numbers of a window do not
    depend on the others of the batch.
    """
    n = len(values)
    return [slice(None)] if values.is_cuda else [slice(i, i + 1) for i in range(n)]


def check_places(signal: Tensor, xyz: Tensor) -> None:
    """See that every parcel of every window has a place.

    Parameters
    ----------
    signal : Tensor, shape (B, V, T)
        Series of parcels.
    xyz : Tensor, shape (B, V, 3)
        Their places, MNI mm.

    Raises
    ------
    ContractError
        If not.
    """
    if xyz.shape != (*signal.shape[:2], 3):
        raise ContractError(
            f"the places have the shape {tuple(xyz.shape)}; expected {(*signal.shape[:2], 3)}: "
            "X, Y and Z of each parcel of each window, MNI mm",
            fix="give the coordinates that come with the atlas, in the order of its labels",
        )


def _rows(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
