"""BrainLM, native family (5M, 13M): one token for each parcel and patch of volumes.

The layers look at neighbours along the tokens, so their order matters. Upstream shuffles them even
when nothing is hidden, which makes its embeddings random; here they stay in their own order: all
patches of the first parcel, then of the second, and so on.

References
----------
Ortega Caro et al., bioRxiv 2023.09.12.557460; vandijklab/BrainLM at b591d88.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError
from neurostorm_app.models.brainlm_face import BrainLm
from neurostorm_app.models.brainlm_layers import Encoder, NativeLayer
from neurostorm_app.models.brainlm_scene import Scene, check_places, choose

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.brainlm_files import NativeConfig
    from neurostorm_app.models.brainlm_scene import Hiding

__all__ = ["PLACES", "BrainLmNative", "make_position"]

PLACES = 5000
"""Patches a window may have: the length of the table in the released files."""


def make_position(width: int, n: int = PLACES) -> Tensor:
    """Compute the table of positions: sines on even channels, cosines on odd ones.

    Parameters
    ----------
    width : int
        Channels.
    n : int
        Length of the table.

    Returns
    -------
    Tensor, shape (n, width)
        Of the number of a patch within its window.

    Examples
    --------
    >>> make_position(4)[0]
    tensor([0., 1., 0., 1.])
    """
    steps = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(n)[:, None] * steps
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class _Position(nn.Module):
    def __init__(self, width: int, n: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        self.pe: Tensor
        self.register_buffer("pe", make_position(width, n))

    def forward(self, tokens: Tensor) -> Tensor:
        """Add to (B, V, n, H)."""
        out: Tensor = self.dropout(tokens + self.pe[: tokens.shape[2]])
        return out


class _Embeddings(nn.Module):
    """Tokens of series and of the places of their parcels."""

    def __init__(self, width: int, patch: int, table: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.signal_embedding_projection = nn.Linear(patch, width)
        self.xyz_embedding_projection = nn.Linear(3, width)
        self.pos_embedding = _Position(width, table)

    def forward(self, patches: Tensor, xyz: Tensor, hiding: Hiding) -> Tensor:
        """Map (B, V, n, P) and (B, V, 3) to (B, 1 + visible, H), patches of a parcel together."""
        places = self.xyz_embedding_projection(xyz)[:, :, None]
        tokens = self.pos_embedding(self.signal_embedding_projection(patches) + places)
        visible = hiding.take(tokens.flatten(1, 2))
        return torch.cat([self.cls_token.expand(len(visible), -1, -1), visible], dim=1)


class _Decoder(nn.Module):
    """From visible tokens to all series.

    `decoder_pred` is dead: upstream inherits it and never runs it, but it is in the files.
    """

    def __init__(self, config: NativeConfig, *, dead: int | None, table: int) -> None:
        super().__init__()
        width = config.decoder_hidden_size
        self.tanh = config.use_tanh_decoder
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.decoder_embed = nn.Linear(config.hidden_size, width)
        self.decoder_layers = nn.ModuleList(
            _layer(config, decoder=True) for _ in range(config.decoder_num_hidden_layers)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        if dead is not None:
            self.decoder_pred = nn.Linear(width, dead)
        self.decoder_xyz_projection = nn.Linear(3, config.hidden_size)
        self.pos_embedding = _Position(width, table)
        self.decoder_pred1 = nn.Linear(width, width // 2)
        self.decoder_pred2 = nn.Linear(width // 2, config.timepoint_patching_size)

    def forward(self, hidden: Tensor, hiding: Hiding, xyz: Tensor) -> Tensor:
        """Map (B, 1 + visible, H) to (B, V, n, P)."""
        tokens = self.decoder_embed(hidden)
        every = hiding.fill(tokens[:, 1:], self.mask_token)
        every = every.reshape(*xyz.shape[:2], -1, every.shape[-1])
        every = self.pos_embedding(every + self.decoder_xyz_projection(xyz)[:, :, None])
        tokens = torch.cat([tokens[:, :1], every.flatten(1, 2)], dim=1)
        for layer in self.decoder_layers:
            tokens = layer(tokens)
        inner = fn.leaky_relu(self.decoder_pred1(self.decoder_norm(tokens[:, 1:])), 0.1)
        series: Tensor = self.decoder_pred2(inner)
        series = series.tanh() if self.tanh else series
        return series.reshape(*xyz.shape[:2], -1, series.shape[-1])


def _layer(config: NativeConfig, *, decoder: bool = False) -> NativeLayer:
    width, inner, heads = config.decoder_sizes if decoder else config.sizes
    return NativeLayer(
        width,
        inner,
        heads,
        kernel=config.conv_kernel_size,
        eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
    )


class BrainLmNative(BrainLm):
    """The native masked autoencoder; V, the parcels, and T, the volumes, are free.

    Parameters
    ----------
    config : NativeConfig
        Its shape.
    dead : int, optional
        Outputs of the layer ``decoder.decoder_pred``, where a file has it; it is never run.
    table : int
        Patches a window may have: the length of the file's table of positions.
    """

    def __init__(
        self, config: NativeConfig, *, dead: int | None = None, table: int = PLACES
    ) -> None:
        super().__init__(config)
        self.table = table
        self.patch = config.timepoint_patching_size
        self.vit = Encoder(
            _Embeddings(config.hidden_size, self.patch, table),
            [_layer(config) for _ in range(config.num_hidden_layers)],
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
        )
        self.decoder = _Decoder(config, dead=dead, table=table)

    def _read(self, signal: Tensor, xyz: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, V, T) to (B, V, n, P), and parcels to themselves.

        Raises
        ------
        ContractError
            If a shape does not fit.
        """
        patch = self.patch
        if (
            signal.ndim != 3
            or signal.shape[2] % patch
            or not 0 < signal.shape[2] // patch <= self.table
        ):
            raise ContractError(
                f"the series have the shape {tuple(signal.shape)}; expected (batch, parcels, a "
                f"multiple of {patch} volumes)",
                fix="cut the series into windows of the model's contract",
            )
        check_places(signal, xyz)
        order = torch.arange(xyz.shape[1], device=xyz.device).expand(len(xyz), -1)
        return signal.reshape(*signal.shape[:2], -1, patch), order

    def _count(self, values: Tensor) -> int:
        return values.shape[1] * values.shape[2]

    def _hide(self, values: Tensor, noise: Tensor | None, ratio: float, mode: str) -> Scene:
        """Hide single tokens.

        Raises
        ------
        ContractError
            If the ratio or the noise does not fit, or the mode is not of this family.
        """
        if mode != "auto_encode":
            raise ContractError(
                f"the native BrainLM has no train_mode {mode!r}, only 'auto_encode'",
                fix="use weights of the ViT-MAE family, or hide the last patches by noise",
            )
        hiding = choose(values, self._count(values), ratio=ratio, noise=noise)
        return Scene(values, hiding, hiding.mask.reshape(values.shape[:3]))

    def _enter(self, scene: Scene, xyz: Tensor) -> Tensor:
        tokens: Tensor = self.vit.embeddings(scene.values, xyz, scene.hiding)
        return tokens

    def _guess(self, hidden: Tensor, scene: Scene, xyz: Tensor) -> Tensor:
        guess: Tensor = self.decoder(hidden, scene.hiding, xyz)
        return guess
