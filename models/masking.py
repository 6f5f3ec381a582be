"""Which tokens a masked autoencoder hides.

A mask is boolean, (B, units): ``True`` is hidden. What a unit is, the scheme says. Units are
counted in C order over X, Y, Z and T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch

from neurostorm_app.errors import ContractError, WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from neurostorm_app.models.blocks import Size

__all__ = ["MaskScheme", "name_regions"]

_Space = Literal["window", "random", "atlas"]
_Time = Literal["random", "tube"]


@dataclass(frozen=True, slots=True)
class MaskScheme:
    """A way to choose tokens, by its upstream names.

    =========  ========  =========================================================
    space      time      a unit is
    =========  ========  =========================================================
    window     random    a 4D window of tokens (what the released weights saw)
    window     tube      a 3D window of tokens, at all times
    random     random    one token
    random     tube      one place, for as many volumes as a window has
    atlas      either    one token; `draw` chooses whole regions, at all times
    =========  ========  =========================================================

    Parameters
    ----------
    space, time : str
        Upstream's ``spatial_mask`` and ``time_mask``.
    window : tuple of int, length 4
        Tokens of a window along X, Y, Z and T.
    """

    space: _Space
    time: _Time
    window: Size

    @classmethod
    def of(cls, space: str, time: str, window: Size) -> MaskScheme:
        """Read the scheme from upstream's words.

        Raises
        ------
        WrongWeightsError
            If one of them is unknown.
        """
        for key, found, known in (
            ("spatial_mask", space, get_args(_Space)),
            ("time_mask", time, get_args(_Time)),
        ):
            if found not in known:
                raise WrongWeightsError(
                    f"{key} is {found!r}; known are {', '.join(known)}",
                    fix="give the hyper_parameters the weights were trained with",
                )
        return cls(cast("_Space", space), cast("_Time", time), window)

    @property
    def token_name(self) -> str:
        """Name of the parameter that stands in for hidden tokens."""
        if self.space == "window" and self.time == "random":
            return "window_mask_token"
        return "atlas_mask_token" if self.space == "atlas" else "mask_token"

    def unit(self, grid: Sequence[int]) -> Size:
        """Count the tokens of one unit along X, Y, Z and T, on a grid of tokens."""
        x, y, z, t = self.window
        match self.space, self.time:
            case "window", "random":
                return x, y, z, t
            case "window", "tube":
                return x, y, z, grid[3]
            case "random", "tube":
                return 1, 1, 1, t
            case _:
                return 1, 1, 1, 1

    def counts(self, grid: Sequence[int]) -> Size:
        """Count the units along X, Y, Z and T, on a grid of tokens.

        Raises
        ------
        ContractError
            If the grid is not a whole number of units.
        """
        unit = self.unit(grid)
        if any(n % w for n, w in zip(grid, unit, strict=True)):
            raise ContractError(
                f"a grid of {tuple(grid)} tokens is not a whole number of mask units of {unit}",
                fix="mask windows of a length that divides the grid",
            )
        x, y, z, t = (n // w for n, w in zip(grid, unit, strict=True))
        return x, y, z, t

    def spread(self, mask: Tensor, grid: Sequence[int]) -> Tensor:
        """Tell of each token whether it is hidden.

        Parameters
        ----------
        mask : Tensor, shape (B, units)
            ``True`` or 1 is hidden, ``False`` or 0 is not; of any type.
        grid : sequence of int, length 4
            Tokens along X, Y, Z and T.

        Returns
        -------
        Tensor of bool, shape (B, X, Y, Z, T)
            ``True`` is hidden.

        Raises
        ------
        ContractError
            If the mask does not have one value a unit, or holds others than 0 and 1.
        """
        counts = self.counts(grid)
        if (mask.ndim, mask.shape[-1]) != (2, math.prod(counts)):
            raise ContractError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; expected torch.bool of "
                f"shape (batch, {math.prod(counts)}), one value a unit of {self.unit(grid)} tokens",
                fix="draw the mask for this grid: MaskScheme.draw",
            )
        hidden = mask.bool()
        if not torch.equal(hidden.to(mask.dtype), mask):
            raise ContractError(
                f"the mask holds other values than 0 and 1, from {mask.min():g} to {mask.max():g}",
                fix="give 1 for what is hidden and 0 for what is not, or booleans",
            )
        whole = hidden.reshape(mask.shape[0], *counts)
        for axis, n in enumerate(self.unit(grid), start=1):
            whole = whole.repeat_interleave(n, dim=axis)
        return whole

    def draw(
        self,
        batch: int,
        *,
        grid: Sequence[int],
        ratio: float,
        generator: torch.Generator,
        atlas: Tensor | None = None,
    ) -> Tensor:
        """Choose what to hide, anew for each item: int(units * ratio) units of each.

        Parameters
        ----------
        batch : int
            Number of items.
        grid : sequence of int, length 4
            Tokens along X, Y, Z and T.
        ratio : float
            Share of the units (with an atlas, of the regions) to hide.
        generator : torch.Generator
            Source of randomness, on the CPU.
        atlas : Tensor, shape (X, Y, Z), optional
            Region of each place, for the atlas scheme; 0 is no region.

        Returns
        -------
        Tensor of bool, shape (B, units)
            ``True`` is hidden.

        Raises
        ------
        ContractError
            If the scheme needs an atlas and there is none.
        """
        if self.space != "atlas":
            return _draw(batch, math.prod(self.counts(grid)), ratio, generator)
        if atlas is None:
            raise ContractError(
                "atlas masks need the region of each place; the weights hold no atlas_map",
                fix="use weights that were trained with an atlas, or another mask scheme",
            )
        regions = torch.unique(atlas[atlas > 0])
        chosen = _draw(batch, len(regions), ratio, generator)
        places = torch.stack([torch.isin(atlas, regions[row]) for row in chosen])
        return places[..., None].expand(-1, -1, -1, -1, grid[3]).reshape(batch, -1)


def name_regions(labels: Tensor, patch: Sequence[int]) -> Tensor:
    """Tell the region of each token from that of each voxel, for atlas masks.

    Parameters
    ----------
    labels : Tensor of int, shape (X, Y, Z)
        Region of each voxel of a window; 0 is no region.
    patch : sequence of int
        Voxels of a token along X, Y and Z; more lengths are not looked at.

    Returns
    -------
    Tensor of float32, shape (X', Y', Z')
        The region that most voxels of a patch lie in, of equal ones the smallest; 0 only where no
        voxel lies in one. What an autoencoder keeps as ``atlas_map``.

    Raises
    ------
    ContractError
        If patches do not tile the volume.

    Examples
    --------
    >>> name_regions(torch.tensor([[[0, 0, 0, 3]], [[0, 0, 2, 3]]]), (2, 1, 2))
    tensor([[[0., 3.]]])
    """
    p, q, r = patch[:3]
    x, y, z = labels.shape
    if x % p or y % q or z % r:
        raise ContractError(
            f"an atlas of {x} x {y} x {z} voxels is not a whole number of patches of {p} x {q} "
            f"x {r}",
            fix="bring the atlas onto the grid of the windows",
        )
    cut = labels.reshape(x // p, p, y // q, q, z // r, r).permute(0, 2, 4, 1, 3, 5).flatten(3)
    region = torch.zeros(cut.shape[:3], dtype=torch.int64)
    most = region.clone()
    for label in torch.unique(labels[labels > 0]):
        count = (cut == label).sum(dim=-1)
        region = torch.where(count > most, label, region)
        most = torch.maximum(count, most)
    return region.float()


def _draw(batch: int, units: int, ratio: float, generator: torch.Generator) -> Tensor:
    order = torch.rand(batch, units, generator=generator).argsort(dim=1)
    return order < int(units * ratio)
