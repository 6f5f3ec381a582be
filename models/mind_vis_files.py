"""What the files of MinD-Vis say: sizes are read from the tensors, the rest from what is stored.

Upstream's configuration has an MLP ratio of 1, the paper's number of parameters needs 4, and which
of them a released file has, only its tensors tell: so widths, depths and ratios come from there.
The number of heads is in no tensor, and must be stored or given.

References
----------
Chen et al., "Seeing Beyond the Brain", CVPR 2023; zjc062/mind-vis at 08d5386.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import WrongWeightsError
from neurostorm_app.models.hyper_parameters import pick

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["MindVisConfig", "fit_positions", "pick_condition", "pick_weights"]

_FIX = "give the hyper-parameters the weights were trained with: config=..."
_PICTURES = "nature_img_"
"""Beginning of the names of a decoder of features of pictures that upstream can train beside."""
_DECODER = "decoder_"
_CONDITION = "cond_stage_model."
_MOST = 256
"""Blocks beyond which nothing is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MindVisConfig:
    """The hyper-parameters that shape the network, under upstream's names.

    Parameters
    ----------
    num_voxels : int
        Padded: a whole number of patches.
    embed_dim, depth, num_heads : int
        Of the encoder.
    decoder_embed_dim, decoder_depth, decoder_num_heads : int
        Of the decoder; a depth of 0 is none.
    mlp_ratio : float
        Widening in the perceptrons of both.
    patch_size : int
        Voxels of a token.
    mask_ratio : float
        Share of the tokens that training hides.
    interpolate_positions : bool
        Ours: stretch the positions of weights that were trained on another number of voxels.
    """

    num_voxels: int
    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mlp_ratio: float = 1.0
    patch_size: int = 16
    mask_ratio: float = 0.75
    interpolate_positions: bool = False

    @property
    def n_tokens(self) -> int:
        """Tokens of a window, without the class token."""
        return self.num_voxels // self.patch_size

    @classmethod
    def of(
        cls, config: Mapping[str, Any], state: Mapping[str, Tensor] | None = None
    ) -> MindVisConfig:
        """Pick ours from all that upstream stores; what tensors say goes before it.

        Parameters
        ----------
        config : mapping
            Names and values.
        state : mapping of str to Tensor, optional
            Weights. Of the configuration only heads, the share that is hidden, and the number of
            voxels that is wanted are taken then.

        Raises
        ------
        WrongWeightsError
            If something is missing, or they make no network.
        """
        found = {**config, **({} if state is None else _read_sizes(state))}
        if state is not None and config.get("num_voxels") is not None:
            found["num_voxels"] = config["num_voxels"]
        if found.get("decoder_depth") == 0:
            found["decoder_num_heads"] = 1
        made = pick(cls, found, what="MinD-Vis", fix=_FIX)
        made.check()
        return made

    def check(self) -> None:
        """See that patches tile the voxels and heads the widths."""
        sizes = (self.num_voxels, self.embed_dim, self.num_heads, self.patch_size, self.depth)
        decoder = (self.decoder_embed_dim, self.decoder_num_heads)
        depth = max(self.depth, self.decoder_depth)
        if min(*sizes, *decoder) < 1 or self.decoder_depth < 0 or depth > _MOST:
            raise WrongWeightsError(
                f"num_voxels, embed_dim, num_heads, patch_size and depth are {sizes}, those of the "
                f"decoder {(*decoder, self.decoder_depth)}: expected 1 or more, and at most "
                f"{_MOST} blocks",
                fix=_FIX,
            )
        uneven = self.embed_dim % self.num_heads or self.decoder_embed_dim % self.decoder_num_heads
        odd = self.embed_dim % 2 or self.decoder_embed_dim % 2  # positions are sines and cosines
        if self.num_voxels % self.patch_size or uneven or odd or self.mlp_ratio <= 0:
            raise WrongWeightsError(
                f"{self.num_voxels} voxels in patches of {self.patch_size}, widths of "
                f"{self.embed_dim} and {self.decoder_embed_dim} for {self.num_heads} and "
                f"{self.decoder_num_heads} heads, MLP ratio {self.mlp_ratio}: one does not divide "
                "the other, or a width is odd",
                fix=_FIX,
            )
        if not 0 < self.mask_ratio < 1 or int(self.n_tokens * (1 - self.mask_ratio)) < 1:
            raise WrongWeightsError(
                f"a share of {self.mask_ratio} of {self.n_tokens} tokens cannot be hidden: one "
                "must be seen and one hidden",
                fix="give a mask_ratio such as 0.75, or more voxels",
            )

    def differing(self, other: MindVisConfig) -> str:
        """Name the hyper-parameters that shape the network and differ; what is hidden may."""
        free = {"mask_ratio", "num_voxels", "interpolate_positions"}
        names = [f.name for f in fields(self) if f.name not in free]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b)

    def without_decoder(self) -> MindVisConfig:
        """Give the same encoder alone."""
        return replace(self, decoder_depth=0, decoder_num_heads=1)


def pick_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what is of no use: the decoder of pictures, the mask token of an encoder alone.

    Parameters
    ----------
    state : mapping of str to Tensor
        As the file has it.

    Returns
    -------
    dict of str to Tensor
        The same tensors; what is unknown stays, so that strict loading refuses it by name.
    """
    alone = not any(name.startswith(_DECODER) for name in state)
    unused = {"mask_token"} if alone else set()
    return {
        name: value
        for name, value in state.items()
        if not name.startswith(_PICTURES) and name not in unused
    }


def pick_condition(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Pick the stage that conditions pictures out of all that upstream's ``finetuned.pth`` holds.

    Parameters
    ----------
    state : mapping of str to Tensor
        The whole file, or the stage alone: ``mae.*``, ``channel_mapper.*``, ``dim_mapper.*``.
    source : str
        Where it comes from, for messages.

    Returns
    -------
    dict of str to Tensor
        Under the names of the stage alone. The diffusion model is left out.

    Raises
    ------
    WrongWeightsError
        If there is no such stage.
    """
    stage = {n.removeprefix(_CONDITION): v for n, v in state.items() if n.startswith(_CONDITION)}
    found = stage or dict(state)
    if "dim_mapper.weight" not in found or "channel_mapper.0.weight" not in found:
        raise WrongWeightsError(
            f"{source}: holds no stage that conditions pictures: neither channel_mapper nor "
            "dim_mapper is among its tensors",
            fix="give upstream's finetuned.pth; fmri_encoder.pth has only the encoder",
        )
    inner = {n.removeprefix("mae."): v for n, v in found.items() if n.startswith("mae.")}
    outer = {n: v for n, v in found.items() if not n.startswith("mae.")}
    return {**outer, **{f"mae.{name}": value for name, value in pick_weights(inner).items()}}


def fit_positions(
    state: Mapping[str, Tensor], config: MindVisConfig, *, source: str
) -> dict[str, Tensor]:
    """Stretch the positions of tokens to another number of voxels, if that was asked for.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights under the network's own names.
    config : MindVisConfig
        The number of voxels that is wanted.
    source : str
        Where the weights come from, for messages.

    Returns
    -------
    dict of str to Tensor
        The class token's position as it is, the others taken from the nearest token.

    Raises
    ------
    WrongWeightsError
        If the numbers differ and nobody asked.
    """
    from torch.nn import functional

    stored = state["pos_embed"].shape[1] - 1
    if stored == config.n_tokens:
        return dict(state)
    if not config.interpolate_positions:
        size = config.patch_size
        raise WrongWeightsError(
            f"{source}: was trained on {stored * size} voxels, in {stored} patches; "
            f"{config.num_voxels} are wanted. A position has no place in the brain that two sets "
            "of voxels would share",
            fix="give the voxels it was trained on, or, for a start of training, "
            "interpolate_positions: true in the configuration",
        )
    fitted = dict(state)
    for name in ("pos_embed", "decoder_pos_embed"):
        if name in state:
            first, rest = state[name][:, :1], state[name][:, 1:]
            wide = functional.interpolate(rest.transpose(1, 2), size=config.n_tokens)
            fitted[name] = first.new_empty(1, config.n_tokens + 1, first.shape[2])
            fitted[name][:, :1], fitted[name][:, 1:] = first, wide.transpose(1, 2)
    return fitted


def _read_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read from the shapes of tensors what they tell; what is missing, strict loading tells."""
    found: dict[str, Any] = {"decoder_depth": _count(state, "decoder_blocks")}
    if (depth := _count(state, "blocks")) > 0:
        found["depth"] = depth
    patch, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if patch is not None and patch.ndim == 3:
        found |= {"embed_dim": len(patch), "patch_size": patch.shape[2]}
        if position is not None and position.ndim == 3:
            found["num_voxels"] = (position.shape[1] - 1) * patch.shape[2]
    wide = state.get("blocks.0.mlp.fc1.weight")
    if wide is not None and wide.ndim == 2:
        found["mlp_ratio"] = wide.shape[0] / wide.shape[1]
    if "decoder_embed.bias" in state:
        found["decoder_embed_dim"] = len(state["decoder_embed.bias"])
    return found


def _count(state: Mapping[str, Tensor], stack: str) -> int:
    """Count the blocks of a stack."""
    found = [re.match(rf"{stack}\.(\d{{1,4}})\.", name) for name in state]
    return 1 + max((int(match[1]) for match in found if match), default=-1)
