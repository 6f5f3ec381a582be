"""What can be asked of BrainLM, whichever family the weights are of.

A family says how series become tokens, what is hidden and how it is guessed; everything else is
the same. Embedding hides nothing and draws nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from neurostorm_app.errors import ContractError
from neurostorm_app.models.brainlm_scene import (
    Reconstruction,
    by_unit,
    mean_hidden,
    mean_hidden_each,
    split_batch,
)
from neurostorm_app.models.example import MaskedExample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Generator, Tensor

    from neurostorm_app.models.brainlm_files import NativeConfig, VitConfig
    from neurostorm_app.models.brainlm_layers import Encoder
    from neurostorm_app.models.brainlm_scene import Scene

__all__ = ["BrainLm"]


class BrainLm(nn.Module):
    """A masked autoencoder of the series of parcels.

    Parameters
    ----------
    config : NativeConfig or VitConfig
        Its shape.

    Examples
    --------
    >>> from neurostorm_app.models import brainlm_files, brainlm_native, create_model
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> sizes |= {"intermediate_size": 8}
    >>> config = sizes | {f"decoder_{name}": size for name, size in sizes.items()}
    >>> config |= {"timepoint_patching_size": 20, "conv_kernel_size": 5, "mask_ratio": 0.5}
    >>> config |= {"num_landmarks": 64, "segment_means_seq_len": 64}
    >>> untrained = brainlm_native.BrainLmNative(brainlm_files.NativeConfig.of(config))
    >>> model = create_model("brainlm", config=config, weights=untrained.state_dict())
    >>> signal, xyz = torch.randn(2, 6, 40), torch.zeros(2, 6, 3)  # six parcels, 40 volumes
    >>> model.embed(signal, xyz).shape
    torch.Size([2, 8])
    >>> model.reconstruct(signal, xyz).mask.sum(dim=(1, 2))
    tensor([6., 6.])
    """

    unit: float = 1.0
    """What 1 of a guess is, in the unit of the input."""

    head: nn.Module | None = None
    """What makes values of windows, in fine-tuned weights."""

    vit: Encoder

    def __init__(self, config: NativeConfig | VitConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def can_reconstruct(self) -> bool:
        """Whether the weights came with a decoder: fine-tuned ones may not."""
        return hasattr(self, "decoder")

    def embed(self, signal: Tensor, xyz: Tensor) -> Tensor:
        """Compute the class token of windows: nothing hidden, tokens in their own order.

        Parameters
        ----------
        signal : Tensor, shape (B, V, T)
            Series of parcels in the order of the atlas, scaled as the card says. The native
            family takes any V, and any T that is a whole number of patches; the ViT-MAE family
            takes 424 x 200.
        xyz : Tensor, shape (B, V, 3)
            Place of each parcel, MNI mm.

        Returns
        -------
        Tensor, shape (B, H)
            After the last norm. The same input gives the same numbers, alone or in a batch.

        Raises
        ------
        ContractError
            If a shape does not fit.
        """
        return torch.cat([self.vit.first(tokens) for tokens in self._whole(signal, xyz)])

    def encode(self, signal: Tensor, xyz: Tensor) -> Tensor:
        """Compute the last hidden state of windows: nothing hidden, tokens in their own order.

        Parameters
        ----------
        signal, xyz : Tensor
            As for `embed`.

        Returns
        -------
        Tensor, shape (B, 1 + L, H)
            After the last norm, the class token first.

        Raises
        ------
        ContractError
            If a shape does not fit.
        """
        return torch.cat([self.vit(tokens) for tokens in self._whole(signal, xyz)])

    def forward(self, signal: Tensor, xyz: Tensor) -> Tensor:
        """Do what `embed` does."""
        return self.embed(signal, xyz)

    def reconstruct(
        self,
        signal: Tensor,
        xyz: Tensor,
        noise: Tensor | None = None,
        mask_ratio: float | None = None,
        train_mode: str | None = None,
    ) -> Reconstruction:
        """Hide a part of windows and guess it from the rest.

        Parameters
        ----------
        signal, xyz : Tensor
            As for `embed`.
        noise : Tensor, shape (B, L), optional
            One number for each token: those with the largest are hidden, and the others enter the
            encoder in the order of theirs. By default it is drawn from torch's generator, as
            upstream draws it; if nothing is hidden, nothing is drawn and tokens keep their order.
        mask_ratio : float, optional
            Share to hide, from 0 to below 1; by default the configuration's.
        train_mode : str, optional
            ``auto_encode`` hides tokens anywhere. The ViT-MAE family also has ``predict_last``
            (the tokens that hold the last volumes) and ``predict_last_pixel`` (exactly the last
            volumes; they become zero where they share a token with others), which draw nothing.
            By default the configuration's.

        Returns
        -------
        Reconstruction
            In the shapes, order and unit given there.

        Raises
        ------
        ContractError
            If a shape, the ratio or the mode does not fit, or the weights came without a decoder.
        """
        if not self.can_reconstruct:
            raise ContractError(
                "these weights have no decoder, so there is nothing to reconstruct with",
                fix="use the weights of pre-training, or embed and predict",
            )
        values, order = self._read(signal, xyz)
        ratio = self.config.mask_ratio if mask_ratio is None else mask_ratio
        scene = self._hide(values, noise, ratio, train_mode or self.config.train_mode)
        hidden = self.vit(self._enter(scene, xyz))
        logits = self._guess(hidden, scene, xyz)
        return Reconstruction(
            logits=logits,
            mask=scene.mask,
            loss=mean_hidden(self._score(logits - self._target(values), scene.mask), scene.mask),
            ids_restore=scene.hiding.restore,
            last_hidden=hidden,
            order=order,
        )

    def masked_error(self, signal: Tensor, xyz: Tensor, *, generator: Generator) -> Tensor:
        """Give the error (B,) of `masked_example`."""
        return self.masked_example(signal, xyz, generator=generator).error

    def masked_example(self, signal: Tensor, xyz: Tensor, *, generator: Generator) -> MaskedExample:
        """Hide by the configuration's scheme and see how well it is guessed, parcel by parcel.

        Parameters
        ----------
        signal, xyz : Tensor
            As for `embed`.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Raises
        ------
        ContractError
            As `reconstruct`, or if the configuration hides nothing.
        """
        values, _ = self._read(signal, xyz)
        anywhere, size = self.config.train_mode == "auto_encode", (len(values), self._count(values))
        noise = torch.rand(*size, generator=generator) if anywhere else None
        errors, made = [], []
        for some in split_batch(values):
            drawn = None if noise is None else noise[some]
            made.append(one := self.reconstruct(signal[some], xyz[some], noise=drawn))
            squares = ((one.logits - values[some]) * self.unit).square()
            errors.append(mean_hidden_each(by_unit(squares, one.mask), one.mask))
        return MaskedExample(
            error=torch.cat(errors),
            truth=values * self.unit,
            guess=torch.cat([one.logits for one in made]) * self.unit,
            hidden=torch.cat([one.mask for one in made]).bool(),
        )

    def attentions(
        self,
        signal: Tensor,
        xyz: Tensor,
        *,
        layer: int = -1,
        noise: Tensor | None = None,
        mask_ratio: float = 0.0,
    ) -> Tensor:
        """Compute the weights of attention of one layer of the encoder; only these are held.

        Parameters
        ----------
        signal, xyz : Tensor
            As for `embed`.
        layer : int
            From 0; negative ones count from the end.
        noise, mask_ratio
            As for `reconstruct`; by default nothing is hidden and tokens keep their order.

        Returns
        -------
        Tensor, shape (B, heads, S, S)
            Rows sum to one. Token 0 is the class token; then come, in the native family, all
            patches of the first parcel, of the second, and so on; in the ViT-MAE family, the
            rows of the padded square.

        Raises
        ------
        ContractError
            If a shape does not fit, or there is no such layer.
        """
        values, _ = self._read(signal, xyz)
        scene = self._hide(values, noise, mask_ratio, "auto_encode")
        return self.vit.weigh(self._enter(scene, xyz), layer)

    @abstractmethod
    def _read(self, signal: Tensor, xyz: Tensor) -> tuple[Tensor, Tensor]:
        """Map series to the values that are guessed, and tell the parcel of each row.

        Raises
        ------
        ContractError
            If a shape does not fit.
        """

    @abstractmethod
    def _count(self, values: Tensor) -> int:
        """Count the tokens of a window."""

    @abstractmethod
    def _hide(self, values: Tensor, noise: Tensor | None, ratio: float, mode: str) -> Scene:
        """Hide a part of the values.

        Raises
        ------
        ContractError
            If ratio, mode or noise does not fit.
        """

    @abstractmethod
    def _enter(self, scene: Scene, xyz: Tensor) -> Tensor:
        """Make the tokens that enter the encoder, the class token first."""

    @abstractmethod
    def _guess(self, hidden: Tensor, scene: Scene, xyz: Tensor) -> Tensor:
        """Map what leaves the encoder to a guess of all values."""

    def _whole(self, signal: Tensor, xyz: Tensor) -> Iterator[Tensor]:
        """Make the tokens of windows with nothing hidden."""
        values, _ = self._read(signal, xyz)
        for some in split_batch(values):
            yield self._enter(self._hide(values[some], None, 0.0, "auto_encode"), xyz[some])

    def _target(self, values: Tensor) -> Tensor:
        if not self.config.norm_pix_loss:
            return values
        centred = values - values.mean(dim=-1, keepdim=True)
        return centred / (values.var(dim=-1, keepdim=True) + 1e-6).sqrt()

    def _score(self, error: Tensor, mask: Tensor) -> Tensor:
        absolute = self.config.reconstruction_loss == "mae"
        return by_unit(error.abs() if absolute else error.square(), mask)
