"""NeuroSTORM as it was pre-trained: hide a part of a window, guess it from the rest.

Hidden tokens are replaced, not dropped, so they run through the whole encoder; the decoder has
neither skip connections nor positions of its own.

References
----------
Wang et al., arXiv 2506.11167; Xie et al., "SimMIM", arXiv 2111.09886.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models.blocks import Block
from neurostorm_app.models.example import MaskedExample
from neurostorm_app.models.masking import MaskScheme
from neurostorm_app.models.neurostorm import NeuroStorm, Stage, build_blocks
from neurostorm_app.models.neurostorm_files import Config, migrate
from neurostorm_app.models.patches import PatchExpanding
from neurostorm_app.models.redundancy_dropout import RedundancyDropout
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.redundancy_dropout import Redundancy
    from neurostorm_app.models.weights import Checkpoint

__all__ = ["NeuroStormMae", "Reconstruction", "build"]

Layout = Literal["2025", "2026-05"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """What a masked autoencoder makes of a window.

    Parameters
    ----------
    pred : Tensor, shape (B, C, X, Y, Z, T)
        The whole series, hidden or not, on the scale of the input.
    mask : Tensor, shape (B, units)
        What was hidden: the mask that was given.
    loss : Tensor, shape ()
        Mean squared error over what was hidden.
    latent : Tensor, shape (B, D, X', Y', Z', T)
        Last feature map of the encoder.
    """

    pred: Tensor
    mask: Tensor
    loss: Tensor
    latent: Tensor


class NeuroStormMae(NeuroStorm):
    """The encoder with the decoder it was pre-trained with.

    Parameters
    ----------
    config : Config
        Its shape: four stages, each twice as wide as the one before.
    layout : str
        ``2025`` has one mask token, for windows; ``2026-05`` has three.
    atlas : bool
        Hold a region for each place, for atlas masks.

    Attributes
    ----------
    redundancy : RedundancyDropout or None
        What `drop_redundancy` switched on.

    Raises
    ------
    WrongWeightsError
        If the decoder cannot be built for this shape.
    """

    def __init__(self, config: Config, *, layout: Layout = "2026-05", atlas: bool = False) -> None:
        super().__init__(config)
        if len(config.depths) != 4 or config.c_multiplier != 2:
            raise WrongWeightsError(
                f"the autoencoder has {len(config.depths)} stages and c_multiplier "
                f"{config.c_multiplier}; its decoder is made for 4 and 2",
                fix="load these weights as the encoder, `neurostorm`",
            )
        self.scheme = MaskScheme.of(config.spatial_mask, config.time_mask, config.window_size)
        width, (x, y, z, _) = config.stage(0)
        rows = torch.Size(config.window_size).numel()
        self.window_mask_token = nn.Parameter(0.02 * torch.randn(rows, width))
        both = layout == "2026-05"
        self.mask_token = nn.Parameter(0.02 * torch.randn(width)) if both else None
        self.atlas_mask_token = nn.Parameter(0.02 * torch.randn(width)) if both else None
        self.atlas_map: Tensor | None
        self.register_buffer("atlas_map", torch.zeros(x, y, z) if atlas else None)
        self.first_patch_expanding = PatchExpanding(config.stage(3)[0])
        self.layers_up = nn.ModuleList(_decoder_stage(config, i) for i in (2, 1, 0))
        self.norm_up = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, self.patch_embed.fc.in_features)
        self.redundancy: RedundancyDropout | None = None

    def drop_redundancy(self, settings: Redundancy | None, *, seed: int = 0) -> None:
        """Switch redundancy dropout of the encoder on or off; in evaluation mode it never acts.

        Parameters
        ----------
        settings : Redundancy or None
            Which, and how much; None for none.
        seed : int
            Of the training.
        """
        self.redundancy = None if settings is None else RedundancyDropout(settings, seed=seed)
        for stage in self.layers:
            for block in stage.get_submodule("blocks").children():
                if isinstance(block, Block):
                    block.redundancy = self.redundancy

    def draw_mask(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Choose what to hide of windows, by the scheme and ratio of the configuration.

        Parameters
        ----------
        x : Tensor, shape (B, C, X, Y, Z, T)
            What will be reconstructed; only its shape matters.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        Tensor of bool, shape (B, units)
            ``True`` is hidden.
        """
        grid = (*self.config.grid[:3], x.shape[5])
        ratio, atlas = self.config.mask_ratio, self.atlas_map
        mask = self.scheme.draw(len(x), grid=grid, ratio=ratio, generator=generator, atlas=atlas)
        return mask.to(x.device)

    def reconstruct(self, x: Tensor, mask: Tensor) -> Reconstruction:
        """Hide a part of windows and guess it from the rest.

        Parameters
        ----------
        x : Tensor, shape (B, C, X, Y, Z, T)
            As for `features`.
        mask : Tensor, shape (B, units)
            ``True`` or 1 is hidden, of any type; units are those of `MaskScheme`. At least one
            must be hidden.

        Returns
        -------
        Reconstruction
            Prediction, loss and the encoder's features.

        Raises
        ------
        ContractError
            If the mask does not fit, or the weights have no token for this scheme.
        """
        self.check_input(x)
        _, pred, latent = self._guess(x, mask)
        return Reconstruction(
            pred=pred, mask=mask, loss=self.error(pred, x, mask), latent=latent.movedim(-1, 1)
        )

    def error(self, pred: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Average the squared error of a guess over what a mask hides.

        Parameters
        ----------
        pred, x : Tensor, shape (B, C, X, Y, Z, T)
            The guess and the truth.
        mask : Tensor, shape (B, units)
            ``True`` or 1 is hidden; at least one must be.

        Returns
        -------
        Tensor, shape ()
            In the unit of the input, squared.
        """
        hidden = self.scheme.spread(mask, (*self.config.grid[:3], x.shape[5]))
        return self.patch_embed.cut((pred - x).square()).mean(dim=-1)[hidden].mean()

    def masked_error(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Give the error (B,) of `masked_example`."""
        return self.masked_example(x, generator=generator).error

    def masked_example(self, x: Tensor, *, generator: torch.Generator) -> MaskedExample:
        """Hide a part of each window by the configuration's scheme, and see how well it is guessed.

        Parameters
        ----------
        x : Tensor, shape (B, C, X, Y, Z, T)
            As for `features`.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        MaskedExample
            With what is hidden as (B, X', Y', Z', T).

        Raises
        ------
        ContractError
            If the shape is not what the network was made for, or nothing would be hidden.
        """
        self.check_input(x)
        mask = self.draw_mask(x, generator=generator)
        if not mask.any(dim=1).all():
            raise ContractError(
                f"a mask ratio of {self.config.mask_ratio:g} hides nothing of {mask.shape[1]} "
                "units",
                fix="give a configuration with a mask_ratio that hides one unit or more",
            )
        hidden, pred = self._guess(x, mask)[:2]
        squares = self.patch_embed.cut((pred - x).square()).mean(dim=-1)
        total = squares.masked_fill(~hidden, 0).flatten(1).sum(dim=1)
        error = total / hidden.flatten(1).sum(dim=1)
        return MaskedExample(error=error, truth=x, guess=pred, hidden=hidden)

    def _guess(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give what is hidden (B, X, Y, Z, T), the guess (as `x`) and the features, encoded."""
        hidden = self.scheme.spread(mask, (*self.config.grid[:3], x.shape[5]))
        tokens = torch.where(hidden[..., None], self._mask_token(hidden), self.patch_embed(x))
        latent = self.encode(tokens)
        return hidden, self.patch_embed.paste(self._decode(latent)), latent

    def _mask_token(self, hidden: Tensor) -> Tensor:
        """Stand-ins that broadcast against (B, X, Y, Z, T, C)."""
        name = self.scheme.token_name
        token: Tensor | None = getattr(self, name)
        if token is None:
            raise ContractError(
                f"weights of the 2025 layout have no {name}, only one for windows",
                fix="use spatial_mask 'window' and time_mask 'random'",
            )
        if token.ndim == 1:
            return token
        window = self.config.window_size  # one row a place in the window
        repeats = [n // w for n, w in zip(hidden.shape[1:], window, strict=True)]
        return token.reshape(*window, -1).repeat(*repeats, 1)

    def _decode(self, latent: Tensor) -> Tensor:
        tokens = self.first_patch_expanding(latent)
        for stage in self.layers_up:
            tokens = stage(tokens)
        patches: Tensor = self.decoder_pred(self.norm_up(tokens))
        return patches


def _decoder_stage(config: Config, i: int) -> Stage:
    blocks = build_blocks(config, i, decoder=True)
    return Stage(blocks, upsample=PatchExpanding(config.stage(i)[0])) if i else Stage(blocks)


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> NeuroStormMae:
    """Build the autoencoder and load its weights strictly.

    Parameters
    ----------
    config : mapping
        Upstream's hyper-parameters.
    checkpoint : Checkpoint
        The weights, under upstream's names of either layout; which one, the names tell.

    Returns
    -------
    NeuroStormMae
        With all its weights.

    Raises
    ------
    WrongWeightsError
        If configuration and weights do not belong together.
    """
    state = migrate(checkpoint.state, decoder=True)
    later = "mask_token" in state or "atlas_mask_token" in state
    if "atlas_map" in state:
        state["atlas_map"] = state["atlas_map"].float()  # regions are numbers; files hold any type
    network = NeuroStormMae(
        Config.of(config), layout="2026-05" if later else "2025", atlas="atlas_map" in state
    )
    load_strictly(network, state, source=checkpoint.source)
    return network
