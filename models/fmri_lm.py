"""fMRI-LM's tokenizer: a transformer over patches of parcels, a codebook, and a transformer back.

Tokens are in upstream's order: all patches of the first parcel, then of the second. The position of
a token is that of its parcel alone; the encoder is told nothing of time.

References
----------
fMRI-LM, arXiv 2511.21760, section 3; yuxiangwei0808/fMRI-LM at 037dcf9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError
from neurostorm_app.models.fmri_lm_files import LmConfig, pick_tokenizer
from neurostorm_app.models.fmri_lm_layers import Transformer, make_head
from neurostorm_app.models.fmri_lm_quantise import EmaQuantiser, Quantised
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["LmTokenizer", "build", "differing"]


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
        self.encoder = Transformer(config, decoder=False)
        self.encode_task_layer = make_head(width, width, config.code_width)
        self.quantize = EmaQuantiser(config.n_codes, config.code_width, decay=config.decay)
        self.decoder_raw = Transformer(config, decoder=True)
        self.decode_task_layer_raw = make_head(config.n_patches * width, width, config.n_volumes)

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
