"""What the files of SLIM-Brain say: hyper-parameters, and which of their tensors are the encoder's.

The released file is reported to be that of a masked autoencoder, encoder and decoder together
(``mask_token``, ``decoder*``, ``multi_scale*``). Of the decoder no code is public: it is left out.

References
----------
OneMore1/SLIM-Brain2026 at 1dc91eb; Ryali et al., "Hiera", arXiv 2306.00989.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from neurostorm_app.errors import WrongWeightsError
from neurostorm_app.models.hyper_parameters import pick

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

__all__ = ["BlockShape", "SlimConfig", "pick_encoder"]

Four = tuple[int, int, int, int]

_DECODER = ("mask_token", "decoder", "multi_scale")
"""Beginnings of the names that only the autoencoder has."""
_FIX = "give the hyper-parameters the weights were trained with: config=..."
_MOST = 256
"""Blocks beyond which nothing is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """Of one block.

    Parameters
    ----------
    width_in, width, heads : int
        Channels that enter and leave, and heads of attention.
    pools : bool
        Whether queries are pooled inside the mask unit.
    windowed : bool
        Whether attention stays inside the mask unit.
    """

    width_in: int
    width: int
    heads: int
    pools: bool = False
    windowed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimConfig:
    """The hyper-parameters that shape the network, under upstream's names, time first.

    Two are ours: `img_size` is upstream's ``input_size`` with time last, (X, Y, Z, T), as every
    window of the app has it; `empty_units` says what becomes of mask units without brain, or of
    all patches without brain. The last four are of our own masked autoencoder.
    """

    img_size: Four
    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    patch_kernel: Four
    q_pool: int
    q_stride: Four
    mask_unit_size: Four
    mlp_ratio: float
    empty_units: Literal["keep", "delete", "patches"] = "keep"
    mask_ratio: float = 0.7
    guess_width: int = 128
    guess_depth: int = 2
    guess_heads: int = 4

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> SlimConfig:
        """Pick ours from all that upstream stores.

        Raises
        ------
        WrongWeightsError
            If one is missing, contradicts another, or they make no network we know.
        """
        found = {**config}
        if "input_size" in found:
            t, *space = found["input_size"]
            found.setdefault("img_size", [*space, t])
            if list(found["img_size"]) != [*space, t]:
                raise WrongWeightsError(
                    f"input_size is {found['input_size']} (time first) and img_size "
                    f"{found['img_size']} (time last): these are two different windows",
                    fix="give one of the two",
                )
        made = pick(cls, found, what="SLIM-Brain", fix=_FIX)
        made.check()
        made.check_fixed(found)
        return made

    @property
    def grid(self) -> Four:
        """Grid of patch tokens along T, X, Y and Z."""
        x, y, z, t = self.img_size
        return _divide((t, x, y, z), self.patch_kernel)

    @property
    def units(self) -> Four:
        """Grid of mask units along T, X, Y and Z."""
        return _divide(self.grid, self.mask_unit_size)

    @property
    def n_units(self) -> int:
        """Mask units in a window."""
        return math.prod(self.units)

    @property
    def left(self) -> Four:
        """Tokens along T, X, Y and Z that pooling leaves of a mask unit."""
        t, x, y, z = (
            a // s**self.q_pool for a, s in zip(self.mask_unit_size, self.q_stride, strict=True)
        )
        return t, x, y, z

    @property
    def width(self) -> int:
        """Channels of the last stage: the length of an embedding."""
        return self.embed_dim << (len(self.stages) - 1)

    def blocks(self) -> Iterator[BlockShape]:
        """Give the shape of each block.

        Attention is that of the stage of the block *before*: the first block of a stage still
        looks where the previous stage looked.
        """
        stage_of = [i for i, depth in enumerate(self.stages) for _ in range(depth)]
        for before, stage in pairwise([0, *stage_of]):
            yield BlockShape(
                width_in=self.embed_dim * 2**before,
                width=self.embed_dim * 2**stage,
                heads=self.num_heads * 2**stage,
                pools=before < stage <= self.q_pool,
                windowed=before < self.q_pool,
            )

    def differing(self, other: SlimConfig) -> str:
        """Name the hyper-parameters that shape the network and differ; what is hidden may."""
        free = {"mask_ratio", "empty_units"}
        names = [f.name for f in fields(self) if f.name not in free]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b)

    def check(self) -> None:
        """See that patches tile the window, units the patches, and pooling the units."""
        sizes = (*self.img_size, *self.patch_kernel, *self.mask_unit_size, *self.q_stride)
        numbers = (self.embed_dim, self.num_heads, self.guess_width, self.guess_depth)
        least = min(*sizes, *numbers, self.guess_heads, *(self.stages or (0,)))
        pools = 0 <= self.q_pool < max(len(self.stages), 1)
        if least < 1 or not pools or self.mlp_ratio <= 0 or sum(self.stages) > _MOST:
            raise WrongWeightsError(
                f"stages {self.stages}, q_pool {self.q_pool}, embed_dim {self.embed_dim}, heads "
                f"{self.num_heads}, mlp_ratio {self.mlp_ratio}, sizes {sizes}: expected 1 or more, "
                f"fewer poolings than stages, and at most {_MOST} blocks",
                fix=_FIX,
            )
        x, y, z, t = self.img_size
        unit = [a * k for a, k in zip(self.mask_unit_size, self.patch_kernel, strict=True)]
        deep = [s**self.q_pool for s in self.q_stride]
        if any(n % u for n, u in zip((t, x, y, z), unit, strict=True)) or any(
            a % d for a, d in zip(self.mask_unit_size, deep, strict=True)
        ):
            raise WrongWeightsError(
                f"a window of {t} volumes of {x} x {y} x {z} voxels is no whole number of mask "
                f"units of {unit} (time first), or {self.mask_unit_size} tokens cannot be pooled "
                f"{self.q_pool} times by {self.q_stride}",
                fix=_FIX,
            )
        if self.embed_dim % self.num_heads or self.guess_width % self.guess_heads:
            raise WrongWeightsError(
                f"a width of {self.embed_dim} or {self.guess_width} cannot be shared evenly by "
                f"{self.num_heads} or {self.guess_heads} heads",
                fix=_FIX,
            )
        if not 0 < self.mask_ratio < 1:
            raise WrongWeightsError(
                f"the share of hidden mask units is {self.mask_ratio}; expected more than 0, less "
                "than 1",
                fix="give a mask_ratio such as 0.7",
            )

    def check_whole_units(self) -> None:
        """Refuse to hide mask units of which parts are deleted already."""
        if self.empty_units == "patches":
            raise WrongWeightsError(
                "empty_units is patches: training hides mask units as wholes, and guesses wholes",
                fix="train with empty_units: keep or delete; what is trained can embed by patches",
            )

    def check_fixed(self, found: Mapping[str, Any]) -> None:
        """Refuse what upstream's code could do and ours does not, by name."""
        windowed = [i < self.q_pool for i in range(len(self.stages))]
        known: dict[str, Any] = {
            "in_chans": 1,
            "patch_stride": list(self.patch_kernel),
            "patch_padding": [0, 0, 0, 0],
            "sep_pos_embed": True,
            "mask_unit_attn": windowed,
        }
        for name, wanted in known.items():
            given = found.get(name, wanted)
            if (list(given) if isinstance(given, (list, tuple)) else given) != wanted:
                raise WrongWeightsError(
                    f"{name} is {given}; the only SLIM-Brain known here has {wanted}", fix=_FIX
                )


def pick_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the decoder of the reported layout; every other name stays as it is.

    Parameters
    ----------
    state : mapping of str to Tensor
        As the file has it.

    Returns
    -------
    dict of str to Tensor
        The same tensors; what is not of the encoder either, strict loading refuses by name.

    Examples
    --------
    >>> list(pick_encoder({"encoder_norm.bias": ..., "mask_token": ..., "decoder_pred.bias": ...}))
    ['encoder_norm.bias']
    """
    return {name: value for name, value in state.items() if not name.startswith(_DECODER)}


def _divide(sizes: Four, by: Four) -> Four:
    t, x, y, z = (n // d for n, d in zip(sizes, by, strict=True))
    return t, x, y, z
