"""How tokens of a scan stand before tokens of text in a language model: who sees whom, and where.

The order is tag, scan, tag, text; tags are ordinary text and may be absent. Tokens of one step of
the scan share a position, so that 2,250 of them take 5 places of a language model. A stock model
takes the two as its ``attention_mask`` (of four dimensions, see `as_additive`) and ``position_ids``
beside ``inputs_embeds``.

References
----------
fMRI-LM, arXiv 2511.21760, section 3; yuxiangwei0808/fMRI-LM at 037dcf9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from neurostorm_app.errors import ContractError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Splice", "as_additive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splice:
    """The layout of a sequence.

    Parameters
    ----------
    n_steps : int
        Steps of the scan.
    n_parcels : int
        Tokens of a step: so many that follow each other.
    before, after : int
        Tokens of the tags.
    """

    n_steps: int
    n_parcels: int
    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        """See that there is a scan."""
        if min(self.n_steps, self.n_parcels) < 1 or min(self.before, self.after) < 0:
            raise ContractError(
                f"a sequence of {self.n_steps} steps of {self.n_parcels} tokens and tags of "
                f"{self.before} and {self.after}; expected 1 or more, and tags of 0 or more",
                fix="give the numbers of the tokenizer's patches and parcels",
            )

    @property
    def n_prefix(self) -> int:
        """Tokens before the text."""
        return self.before + self.n_steps * self.n_parcels + self.after

    def steps_mask(self) -> Tensor:
        """Say which tokens of the scan see which: all of their own step and of those before.

        Returns
        -------
        Tensor of bool, shape (N, N)
            Rows look at columns.

        Examples
        --------
        >>> Splice(n_steps=2, n_parcels=1).steps_mask()
        tensor([[ True, False],
                [ True,  True]])
        """
        step = torch.arange(self.n_steps).repeat_interleave(self.n_parcels)
        return step[:, None] >= step[None]

    def mask(self, text: Tensor) -> Tensor:
        """Say which tokens see which: no scan sees text, and nothing sees padding or is seen by it.

        Parameters
        ----------
        text : Tensor, shape (B, n)
            1 for a token of text, 0 for padding.

        Returns
        -------
        Tensor of bool, shape (B, L, L)
            Rows look at columns; tags and text look back, as in any language model.

        Raises
        ------
        ContractError
            If it is not one row for each sequence.
        """
        if text.ndim != 2:
            raise ContractError(
                f"the mask of a text has the shape {tuple(text.shape)}; expected (batch, tokens)",
                fix="give the attention_mask of the text's tokenizer",
            )
        length = self.n_prefix + text.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=text.device).tril()
        scan = slice(self.before, self.n_prefix - self.after)
        seen[scan, scan] = self.steps_mask().to(text.device)
        real = torch.ones(len(text), length, dtype=torch.bool, device=text.device)
        real[:, self.n_prefix :] = text.bool()
        return seen & real[:, :, None] & real[:, None]

    def positions(self, n_text: int) -> Tensor:
        """Count the places: one for each token of tags and text, one for each step of the scan.

        Parameters
        ----------
        n_text : int
            Tokens of text, padding included.

        Returns
        -------
        Tensor of int64, shape (L,)
            From 0 upwards.
        """
        steps = torch.arange(self.n_steps).repeat_interleave(self.n_parcels) + self.before
        rest = torch.arange(self.after + n_text) + self.before + self.n_steps
        return torch.cat([torch.arange(self.before), steps, rest])


def as_additive(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn who sees whom into what attention adds to its scores.

    Parameters
    ----------
    mask : Tensor of bool, shape (B, L, L)
        Of `Splice.mask`.
    dtype : torch.dtype
        Of the model.

    Returns
    -------
    Tensor, shape (B, 1, L, L)
        0 where one is seen, the lowest number where not; one for all heads.
    """
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill(~mask, torch.finfo(dtype).min)[:, None]
