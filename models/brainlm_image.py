"""Parcels by volumes as the image that the ViT-MAE family of BrainLM sees.

Parcels are sorted from the back of the head to the front, values divided by the training set's
largest, and 424 x 200 pixels padded with -1 to a square of tokens. About half of the tokens hold
nothing but padding.

References
----------
vandijklab/BrainLM at b591d88; padding and masks are those of its model with padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError
from neurostorm_app.models.brainlm_files import PADDED
from neurostorm_app.models.brainlm_scene import Scene, check_places, choose, hide

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "LARGEST",
    "Geometry",
    "hide_anywhere",
    "hide_last",
    "make_positions",
    "sort_pixels",
]

SIZE = (424, 200)
"""Parcels and volumes."""

LARGEST = 5.6430855
"""Largest value of the training set after robust scaling and clipping."""


def sort_pixels(signal: Tensor, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Sort parcels by Y, from the back, and bring their values to the scale of the training.

    Parameters
    ----------
    signal : Tensor, shape (B, 424, 200)
        Robust-scaled series, in the order of the atlas.
    xyz : Tensor, shape (B, 424, 3)
        Place of each parcel, MNI mm. Parcels of one Y keep their order: there are only 77
        values of Y, and upstream's numbers rest on it.

    Returns
    -------
    pixels : Tensor, shape (B, 424, 200)
        Over 5.6430855.
    order : Tensor of int64, shape (B, 424)
        Parcel in each row of the pixels.

    Raises
    ------
    ContractError
        If a shape does not fit.
    """
    if signal.shape[1:] != SIZE or signal.ndim != 3:
        raise ContractError(
            f"the series have the shape {tuple(signal.shape)}; expected (batch, 424 parcels, "
            "200 volumes): this family cannot take another image",
            fix="cut the series into windows of 200 volumes, or use the native BrainLM",
        )
    check_places(signal, xyz)
    order = xyz[..., 1].argsort(dim=1, stable=True)
    return signal.gather(1, order[..., None].expand_as(signal)) / LARGEST, order


class Geometry(NamedTuple):
    """Where the data lie in the padded square.

    Attributes
    ----------
    patch, side : int
        Pixels along a patch, and along the square.
    """

    patch: int
    side: int

    @classmethod
    def of(cls, patch: int) -> Geometry:
        """Look up the square of a patch."""
        return cls(patch, PADDED[patch])

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels of padding above the data, and left of them; as many lie beyond."""
        return (self.side - SIZE[0]) // 2, (self.side - SIZE[1]) // 2

    @property
    def along(self) -> int:
        """Tokens along the square."""
        return self.side // self.patch

    def pad(self, pixels: Tensor) -> Tensor:
        """Map (B, 424, 200) to (B, side, side), padded with -1."""
        top, left = self.margins
        return fn.pad(pixels, (left, left, top, top), value=-1.0)

    def crop(self, square: Tensor) -> Tensor:
        """Undo `pad`."""
        top, left = self.margins
        return square[:, top : top + SIZE[0], left : left + SIZE[1]]

    def spread(self, tokens: Tensor) -> Tensor:
        """Give each pixel of the data the value of its token: (B, L) to (B, 424, 200)."""
        square = tokens.reshape(-1, self.along, self.along)
        square = square.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        return self.crop(square)

    def last_tokens(self, n: int, *, whole: bool) -> Tensor:
        """Mark the tokens of the last n volumes: (L,), 1.0 for those to hide.

        Parameters
        ----------
        n : int
            Volumes.
        whole : bool
            Also hide the tokens that hold other volumes as well.

        Returns
        -------
        Tensor
            All rows, and the columns that hold data.
        """
        end = self.margins[1] + SIZE[1]
        begin = end - n
        first = begin // self.patch if whole else -(-begin // self.patch)
        marked = torch.zeros(self.along, self.along)
        if n:
            marked[:, first : -(-end // self.patch)] = 1.0
        return marked.flatten()


def hide_anywhere(
    pixels: Tensor, geometry: Geometry, *, ratio: float, noise: Tensor | None
) -> Scene:
    """Hide a share of the tokens anywhere in the square, padding and all.

    Raises
    ------
    ContractError
        If the ratio or the noise does not fit.
    """
    hiding = choose(pixels, geometry.along**2, ratio=ratio, noise=noise)
    return Scene(geometry.pad(pixels), hiding, geometry.spread(hiding.mask))


def hide_last(pixels: Tensor, geometry: Geometry, *, ratio: float, pixelwise: bool) -> Scene:
    """Hide the last share of the volumes.

    Parameters
    ----------
    pixels : Tensor, shape (B, 424, 200)
        The whole image.
    geometry : Geometry
        Of the square.
    ratio : float
        Share of the volumes.
    pixelwise : bool
        Exactly so many; those that share a token with earlier ones become zero. Otherwise
        whole tokens are hidden, and so up to a patch more.

    Returns
    -------
    Scene
        The same hiding for all windows.

    Raises
    ------
    ContractError
        If the ratio is no share.
    """
    if not 0 <= ratio < 1:
        raise ContractError(
            f"a mask_ratio of {ratio} is no share of the volumes to forecast",
            fix="give a mask_ratio from 0 to below 1",
        )
    n = int(ratio * SIZE[1])
    marked = geometry.last_tokens(n, whole=not pixelwise).to(pixels.device)
    hiding = hide(marked.expand(len(pixels), -1), len(marked) - int(marked.sum()))
    square = geometry.pad(pixels)
    if not pixelwise:
        return Scene(square, hiding, geometry.spread(hiding.mask))
    mask = torch.zeros_like(pixels)
    mask[..., SIZE[1] - n :] = 1.0
    end = geometry.margins[1] + SIZE[1]
    square[..., end - n : end] = 0.0  # in the rows of padding too, as upstream does
    return Scene(square, hiding, mask)


def make_positions(width: int, along: int) -> Tensor:
    """Compute the table of positions of a square of tokens.

    Parameters
    ----------
    width : int
        Channels; a multiple of 4.
    along : int
        Tokens along the square.

    Returns
    -------
    Tensor, shape (1, 1 + along ** 2, width)
        Zeros for the class token; half of the channels tell the column, half the row, each by
        sines and then cosines.

    Examples
    --------
    >>> make_positions(8, 3).shape
    torch.Size([1, 10, 8])
    """
    quarter = width // 4
    steps = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(along, dtype=torch.float64)[:, None] * steps
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = axis.expand(along, -1, -1)
    table = torch.cat([columns, columns.transpose(0, 1)], dim=-1).flatten(0, 1)
    return fn.pad(table, (0, 0, 1, 0)).float()[None]
