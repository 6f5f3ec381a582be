"""BrainLM, ViT-MAE family (111M, 650M): parcels by volumes as an image.

Parcels are sorted from the back of the head to the front, values divided by the training set's
largest, and 424 x 200 pixels padded with -1 to a square; three channels are the same. All this
happens here: what comes in is in the order of the atlas. Positions are added before tokens are
hidden, so their order does not matter.

References
----------
Ortega Caro et al., bioRxiv 2023.09.12.557460; vandijklab/BrainLM at b591d88; He et al., "Masked
autoencoders are scalable vision learners", arXiv 2111.06377.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError
from neurostorm_app.models.brainlm_face import BrainLm
from neurostorm_app.models.brainlm_files import TrainMode
from neurostorm_app.models.brainlm_image import (
    LARGEST,
    Geometry,
    hide_anywhere,
    hide_last,
    make_positions,
    sort_pixels,
)
from neurostorm_app.models.brainlm_layers import Encoder, VitLayer

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.brainlm_files import VitConfig
    from neurostorm_app.models.brainlm_scene import Hiding, Scene

__all__ = ["BrainLmVit"]


class _PatchEmbeddings(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, square: Tensor) -> Tensor:
        """Map (B, side, side) to (B, L, H), row by row."""
        conv = self.projection
        # channels are the same image: adding their filters does a third of the work
        weight = conv.weight.sum(dim=1, keepdim=True)
        tokens = fn.conv2d(square[:, None], weight, conv.bias, conv.stride)
        return tokens.flatten(2).transpose(1, 2)


class _Embeddings(nn.Module):
    def __init__(self, config: VitConfig, along: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.patch_embeddings = _PatchEmbeddings(config.num_channels, width, config.patch_size)
        self.position_embeddings = nn.Parameter(make_positions(width, along), requires_grad=False)

    def forward(self, square: Tensor, hiding: Hiding) -> Tensor:
        """Map (B, side, side) to visible tokens behind the class token, (B, 1 + visible, H)."""
        position = self.position_embeddings
        tokens = hiding.take(self.patch_embeddings(square) + position[:, 1:])
        first = self.cls_token + position[:, :1]
        return torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)


class _Decoder(nn.Module):
    """From visible tokens to the padded square."""

    def __init__(self, config: VitConfig, geometry: Geometry) -> None:
        super().__init__()
        width = config.decoder_hidden_size
        self.geometry = geometry
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.decoder_embed = nn.Linear(config.hidden_size, width)
        self.decoder_pos_embed = nn.Parameter(
            make_positions(width, geometry.along), requires_grad=False
        )
        self.decoder_layers = nn.ModuleList(
            _layer(config, decoder=True) for _ in range(config.decoder_num_hidden_layers)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder_pred = nn.Linear(width, config.patch_size**2 * config.num_channels)

    def forward(self, hidden: Tensor, hiding: Hiding) -> Tensor:
        """Map (B, 1 + visible, H) to (B, 424, 200), the mean of the channels."""
        tokens = self.decoder_embed(hidden)
        every = hiding.fill(tokens[:, 1:], self.mask_token)
        tokens = torch.cat([tokens[:, :1], every], dim=1) + self.decoder_pos_embed
        for layer in self.decoder_layers:
            tokens = layer(tokens)
        patches = self.decoder_pred(self.decoder_norm(tokens))[:, 1:]
        along, p = self.geometry.along, self.geometry.patch
        pixels = patches.reshape(len(hidden), along, along, p, p, -1).mean(dim=-1)
        return self.geometry.crop(pixels.transpose(2, 3).reshape(len(hidden), along * p, along * p))


class _Head(nn.Module):
    """Three linear layers on one vector a window; values are raw, without a sigmoid."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width, half = config.hidden_size, config.hidden_size // 2
        self.mean = config.use_mean_pooling
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.lin1 = nn.Linear(width, half)
        self.lin2 = nn.Linear(half, half)
        self.lin3 = nn.Linear(half, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, S, H) to (B, 1), from the class token or the mean of all tokens."""
        vectors = hidden.mean(dim=1) if self.mean else hidden[:, 0]
        inner = self.dropout(self.lin1(vectors)).relu()
        values: Tensor = self.lin3(self.dropout(self.lin2(inner)).relu())
        return values


def _layer(config: VitConfig, *, decoder: bool = False) -> VitLayer:
    width, inner, heads = config.decoder_sizes if decoder else config.sizes
    return VitLayer(
        width,
        inner,
        heads,
        bias=config.qkv_bias,
        eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
    )


class BrainLmVit(BrainLm):
    """The network of the ViT-MAE family, with the decoder or the fine-tuned head of its file.

    Parameters
    ----------
    config : VitConfig
        Its shape.
    decoder : bool
        Files of pre-training have one.
    head : bool
        Fine-tuned files have one.
    """

    unit = LARGEST

    def __init__(self, config: VitConfig, *, decoder: bool = True, head: bool = False) -> None:
        super().__init__(config)
        self.geometry = Geometry.of(config.patch_size)
        self.vit = Encoder(
            _Embeddings(config, self.geometry.along),
            [_layer(config) for _ in range(config.num_hidden_layers)],
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
        )
        if decoder:
            self.decoder = _Decoder(config, self.geometry)
        if head:
            self.mlp_pred_head = _Head(config)

    @property
    def head(self) -> nn.Module | None:  # type: ignore[override]
        """What `predict` runs; None where the weights are not fine-tuned."""
        head: nn.Module | None = getattr(self, "mlp_pred_head", None)
        return head

    def embed_with_head(self, signal: Tensor, xyz: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class tokens and what the head says of the windows, with nothing hidden.

        Parameters
        ----------
        signal, xyz : Tensor
            As for `embed`.

        Returns
        -------
        vectors : Tensor, shape (B, H)
            As of `embed`.
        values : Tensor, shape (B, 1)
            Raw: a logit or a standardised value.

        Raises
        ------
        ContractError
            If a shape does not fit, or the weights came without a head.
        """
        head = self._check_head()
        hidden = [self.vit(tokens) for tokens in self._whole(signal, xyz)]
        vectors = torch.cat([tokens[:, 0] for tokens in hidden])
        return vectors, torch.cat([head(tokens) for tokens in hidden])

    def predict(
        self,
        signal: Tensor,
        xyz: Tensor,
        *,
        noise: Tensor | None = None,
        mask_ratio: float = 0.0,
    ) -> Tensor:
        """Run the fine-tuned head on windows.

        Parameters
        ----------
        signal, xyz : Tensor
            As for `embed`.
        noise, mask_ratio
            As for `reconstruct`. By default nothing is hidden; upstream hides 0.75 even here,
            at random.

        Returns
        -------
        Tensor, shape (B, 1)
            Raw: a logit or a standardised value.

        Raises
        ------
        ContractError
            If a shape does not fit, or the weights came without a head.
        """
        head = self._check_head()
        values, _ = self._read(signal, xyz)
        scene = self._hide(values, noise, mask_ratio, "auto_encode")
        predicted: Tensor = head(self.vit(self._enter(scene, xyz)))
        return predicted

    def _read(self, signal: Tensor, xyz: Tensor) -> tuple[Tensor, Tensor]:
        return sort_pixels(signal, xyz)

    def _count(self, values: Tensor) -> int:  # noqa: ARG002
        return self.geometry.along**2

    def _hide(self, values: Tensor, noise: Tensor | None, ratio: float, mode: str) -> Scene:
        """Hide tokens of the square, or the last volumes.

        Raises
        ------
        ContractError
            If ratio, mode or noise does not fit.
        """
        if mode == "auto_encode":
            return hide_anywhere(values, self.geometry, ratio=ratio, noise=noise)
        if mode not in get_args(TrainMode):
            raise ContractError(
                f"there is no train_mode {mode!r}",
                fix=f"give one of {', '.join(get_args(TrainMode))}",
            )
        if noise is not None:
            raise ContractError(
                f"noise was given, but {mode!r} hides the last volumes and draws nothing",
                fix="leave out the noise, or give train_mode='auto_encode'",
            )
        pixelwise = mode == "predict_last_pixel"
        return hide_last(values, self.geometry, ratio=ratio, pixelwise=pixelwise)

    def _enter(self, scene: Scene, xyz: Tensor) -> Tensor:  # noqa: ARG002
        tokens: Tensor = self.vit.embeddings(scene.values, scene.hiding)
        return tokens

    def _guess(self, hidden: Tensor, scene: Scene, xyz: Tensor) -> Tensor:  # noqa: ARG002
        guess: Tensor = self.decoder(hidden, scene.hiding)
        return guess

    def _check_head(self) -> nn.Module:
        """Return the head.

        Raises
        ------
        ContractError
            If there is none.
        """
        if self.head is None:
            raise ContractError(
                "these weights have no head, so there is nothing to predict with",
                fix="use fine-tuned weights, or embed",
            )
        return self.head
