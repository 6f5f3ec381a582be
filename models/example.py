"""What a masked autoencoder made of windows, a part of which was hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MaskedExample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedExample:
    """Windows, what was hidden of them, and the guess of it.

    Parameters
    ----------
    error : Tensor, shape (B,)
        Mean squared error over what was hidden, in the unit of the input, squared.
    truth, guess : Tensor, shape (B, ..., T) or (B, V, n, P)
        Volumes, or parcels in the order and unit in which the network guesses them; the guess is
        of everything, hidden or not.
    hidden : Tensor of bool, shape (B, ...)
        ``True`` is hidden. An axis has as many entries as that of `truth`, or a whole fraction of
        them; the axis of the values of a token is left out.
    counted : Tensor of bool, shape of `truth`, or None
        ``True`` where the error looks, as far as it is hidden; None is everywhere.
    """

    error: Tensor
    truth: Tensor
    guess: Tensor
    hidden: Tensor
    counted: Tensor | None = None
