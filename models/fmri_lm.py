"""fMRI-LM's tokenizer: a transformer over patches of parcels, a codebook, and a transformer back.

Tokens are in upstream's order: all patches of the first parcel, then of the second. The position of
a token is that of its parcel alone; the encoder is told nothing of time.

References
----------
fMRI-LM, arXiv 2511.21760, section 3; yuxiangwei0808/fMRI-LM at 037dcf9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError
from neurostorm_app.models.fmri_lm_files import LmConfig, pick_tokenizer
from neurostorm_app.models.fmri_lm_quantise import EmaQuantiser, Quantised
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["LmTokenizer", "build", "differing"]

EPS = 1e-6
"""Of all norms."""


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Let tokens (B, N, D) look at each other."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = fn.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to itself."""
        out: Tensor = self.fc2(fn.gelu(self.fc1(x)))
        return out


class _Block(nn.Module):
    """A layer; in training, either half is left out for a share of the samples."""

    def __init__(self, config: LmConfig, *, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = _Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = _Mlp(config.width, round(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to tokens."""
        x = x + self._leave_out(self.attn(self.norm1(x)))
        return x + self._leave_out(self.mlp(self.norm2(x)))

    def _leave_out(self, x: Tensor) -> Tensor:
        if not self.training or self.drop == 0:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
        return x * kept / (1 - self.drop)


class _Patches(nn.Module):
    """Patches of series to tokens; the weight has upstream's shape, (D, 1, 1, P)."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, kernel_size=(1, patch), stride=(1, patch))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, V, T) to (B, V * n, D), patches of a parcel together."""
        tokens: Tensor = self.proj(x[:, None])
        return tokens.permute(0, 2, 3, 1).flatten(1, 2)


class _Transformer(nn.Module):
    """Encoder and decoder are alike but for what enters."""

    def __init__(self, config: LmConfig, *, decoder: bool) -> None:
        super().__init__()
        width = config.width
        if decoder:
            self.patch_embed: nn.Module = nn.Linear(config.code_width, width)
        else:
            self.patch_embed = _Patches(width, config.patch)
        self.pos_embed = nn.Parameter(torch.empty(1, config.n_parcels, width))
        drawn = [self.pos_embed]
        self.own = "pos_embed_cls_dec" if decoder else "pos_embed_cls"
        if config.class_token:
            names = [self.own] if decoder else ["cls_token", self.own]
            for name in names:
                self.register_parameter(name, nn.Parameter(torch.empty(1, 1, width)))
                drawn.append(getattr(self, name))
        for values in drawn:
            nn.init.trunc_normal_(values, std=0.02)
        step = config.drop_path / max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(_Block(config, drop=i * step) for i in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map series (B, V, T), or rows of the codebook (B, N, C), to tokens (B, N, D)."""
        tokens = self.patch_embed(x)
        first = getattr(self, "cls_token", None)
        if first is not None:
            tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        ahead = getattr(self, self.own, None)
        n_tokens = tokens.shape[1] - (ahead is not None)
        where = self.pos_embed.repeat_interleave(n_tokens // self.pos_embed.shape[1], dim=1)
        if ahead is not None:
            where = torch.cat([ahead, where], dim=1)
        tokens = tokens + where
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out


def _head(width: int, inner: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.Tanh(), nn.Linear(inner, out))


class LmTokenizer(nn.Module):
    """Series of parcels to codes and back.

    Parameters
    ----------
    config : LmConfig
        Its shape.
    """

    def __init__(self, config: LmConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.encoder = _Transformer(config, decoder=False)
        self.encode_task_layer = _head(width, width, config.code_width)
        self.quantize = EmaQuantiser(config.n_codes, config.code_width, decay=config.decay)
        self.decoder_raw = _Transformer(config, decoder=True)
        self.decode_task_layer_raw = _head(config.n_patches * width, width, config.n_volumes)

    def embed(self, x: Tensor) -> Tensor:
        """Embed windows by the mean of the encoder's features, without its class token.

        Parameters
        ----------
        x : Tensor, shape (B, V, T)
            Scaled series of the parcels of the contract; T is any whole number of patches.

        Returns
        -------
        Tensor, shape (B, D)
            Of continuous features: neither the codebook nor the decoder has a part in it.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for.
        """
        return self.encode(x)[:, int(self.config.class_token) :].mean(dim=1)

    def encode(self, x: Tensor) -> Tensor:
        """Compute the encoder's features.

        Parameters
        ----------
        x : Tensor, shape (B, V, T)
            As for `embed`.

        Returns
        -------
        Tensor, shape (B, N, D)
            The class token first, if there is one; then N = V * T / patch tokens, those of a parcel
            together.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for.
        """
        self._check(x)
        out: Tensor = self.encoder(x)
        return out

    def quantise(self, x: Tensor) -> Quantised:
        """Turn series into codes; in training mode, the codebook follows them.

        Parameters
        ----------
        x : Tensor, shape (B, V, T)
            As for `embed`.

        Returns
        -------
        Quantised
            Codes are of shape (B, N), in the order of `encode`.
        """
        found: Quantised = self.quantize(self.encode_task_layer(self.encode(x)))
        return found

    def decode(self, values: Tensor) -> Tensor:
        """Turn rows of the codebook into series.

        Parameters
        ----------
        values : Tensor, shape (B, N, C)
            Of a whole window, in the order of `encode`.

        Returns
        -------
        Tensor, shape (B, V, T)
            In the unit of the input.

        Raises
        ------
        ContractError
            If they are not of a whole window.
        """
        config = self.config
        n_first = int(config.class_token)
        wanted = (config.n_parcels * config.n_patches + n_first, config.code_width)
        if values.ndim != 3 or tuple(values.shape[1:]) != wanted:
            raise ContractError(
                f"the decoder of fMRI-LM got rows of shape {tuple(values.shape)}; it takes those "
                f"of a whole window, (batch, {wanted[0]}, {wanted[1]})",
                fix=f"give windows of {config.n_volumes} volumes",
            )
        tokens = self.decoder_raw(values)[:, n_first:]
        parcels = tokens.reshape(len(tokens), config.n_parcels, -1)
        out: Tensor = self.decode_task_layer_raw(parcels)
        return out

    def reconstruct(self, x: Tensor) -> Tensor:
        """Take whole windows through the codebook and back.

        Parameters
        ----------
        x : Tensor, shape (B, V, T)
            Windows of the full length: the decoder has one.

        Returns
        -------
        Tensor, shape (B, V, T)
            What the codes keep of them. Nothing is hidden, so this is no test of understanding.
        """
        return self.decode(self.quantise(x).values)

    def forward(self, x: Tensor) -> tuple[Tensor, Quantised]:
        """Compute the loss of training: mean squared error plus distance from the codebook.

        Parameters
        ----------
        x : Tensor, shape (B, V, T)
            Whole windows.

        Returns
        -------
        loss : Tensor, shape ()
            To be made small.
        quantised : Quantised
            What was met on the way.
        """
        quantised = self.quantise(x)
        return fn.mse_loss(self.decode(quantised.values), x) + quantised.loss, quantised

    def _check(self, x: Tensor) -> None:
        config = self.config
        lengths = range(config.patch, config.n_volumes + 1, config.patch)
        if x.ndim != 3 or x.shape[1] != config.n_parcels or x.shape[2] not in lengths:
            raise ContractError(
                f"fMRI-LM got series of shape {tuple(x.shape)}; it takes (batch, "
                f"{config.n_parcels}, a multiple of {config.patch} up to {config.n_volumes})",
                fix="cut the series of the contract's parcels into windows of its length",
            )


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> LmTokenizer:
    """Build the tokenizer and load its weights strictly, from either layout.

    Parameters
    ----------
    config : mapping
        Hyper-parameters, see `LmConfig`.
    checkpoint : Checkpoint
        The weights, under upstream's names.

    Returns
    -------
    LmTokenizer
        With all its weights.

    Raises
    ------
    WrongWeightsError
        If configuration and weights do not belong together.
    """
    network = LmTokenizer(LmConfig.of(config))
    state = pick_tokenizer(checkpoint.state, source=checkpoint.source)
    load_strictly(network, state, source=checkpoint.source)
    return network


def differing(checkpoint: Checkpoint, given: Mapping[str, Any]) -> str:
    """Name the hyper-parameters in which a file and what was given differ; empty if none."""
    return LmConfig.of(checkpoint.config or given).differing(LmConfig.of(given))
