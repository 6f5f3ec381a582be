"""A scan as tokens of a language model: fMRI-LM's encoder, a projection, and where parcels are.

What enters the language model are features of the encoder, not rows of its codebook. The public
code leaves tokens in the order of the encoder, parcel by parcel, and then counts steps as if they
lay volume by volume, which is right for one patch a parcel alone. Here tokens of one step of the
scan stand together; `TokensConfig.upstream_order` asks for the public code's order.

References
----------
fMRI-LM, arXiv 2511.21760, section 3; yuxiangwei0808/fMRI-LM at 037dcf9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models.fmri_lm_files import LmConfig
from neurostorm_app.models.fmri_lm_layers import Transformer
from neurostorm_app.models.hyper_parameters import pick
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["HEAD", "UPDATES", "ScanTokens", "TokensConfig", "build", "differing", "split_state"]

HEAD: Final = "llm.fmri_lm_head."
"""Beginning of the name of the head that tells codes."""
UPDATES: Final = "llm.base_model.base_model.model."
"""Beginning of the names of a language model that has updates."""
_PLAIN: Final = "llm.base_model."
_FIX: Final = "give the file as `train language` wrote it, with its card"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensConfig:
    """What shapes the tokens.

    Parameters
    ----------
    tokenizer : mapping
        Hyper-parameters of the tokenizer whose encoder it is, see `LmConfig`.
    width : int
        Of the language model.
    upstream_order : bool
        Tokens parcel by parcel, as the public code leaves them.
    """

    tokenizer: dict[str, Any]
    width: int
    upstream_order: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TokensConfig:
        """Pick ours from a configuration.

        Raises
        ------
        WrongWeightsError
            If one is missing, or they make no network.
        """
        made = pick(cls, config, what="fMRI-LM's tokens", fix=_FIX)
        if made.width < 1:
            raise WrongWeightsError(
                f"tokens of fMRI-LM have a width of {made.width}; that of a language model was "
                "expected",
                fix=_FIX,
            )
        return made

    @property
    def encoder(self) -> LmConfig:
        """Of the tokenizer."""
        return LmConfig.of(self.tokenizer)


class ScanTokens(nn.Module):
    """Series of parcels to tokens; the names of its tensors are upstream's.

    Parameters
    ----------
    config : TokensConfig
        Its shape.
    """

    def __init__(self, config: TokensConfig) -> None:
        super().__init__()
        self.config, self.encoder = config, config.encoder
        self.tokenizer = Transformer(self.encoder, decoder=False)
        self.encode_transform_layer = nn.Sequential(
            nn.Linear(self.encoder.width, config.width), nn.GELU()
        )
        self.pos_embed = nn.Embedding(self.encoder.n_parcels, config.width)
        nn.init.normal_(self.pos_embed.weight, std=0.02)
        self.updates: dict[str, Tensor] = {}
        """Of the language model, where a file brought them."""

    def forward(self, x: Tensor) -> Tensor:
        """Turn windows into tokens.

        Parameters
        ----------
        x : Tensor, shape (B, V, T)
            Scaled series of the contract's parcels; T is a whole number of patches.

        Returns
        -------
        Tensor, shape (B, N, W)
            Step by step, of each step all parcels; or parcel by parcel in upstream's order.

        Raises
        ------
        ContractError
            If the shape is not what the network was made for.
        """
        return self.project(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """Compute the encoder's features, (B, V, T) to (B, N, D), parcel by parcel."""
        encoder = self.encoder
        lengths = range(encoder.patch, encoder.n_volumes + 1, encoder.patch)
        if x.ndim != 3 or x.shape[1] != encoder.n_parcels or x.shape[2] not in lengths:
            raise ContractError(
                f"the tokens of fMRI-LM are made of series (batch, {encoder.n_parcels}, a multiple "
                f"of {encoder.patch} up to {encoder.n_volumes}); these have the shape "
                f"{tuple(x.shape)}",
                fix="cut the series of the contract's parcels into windows of its length",
            )
        features: Tensor = self.tokenizer(x)
        return features[:, int(encoder.class_token) :]

    def project(self, features: Tensor) -> Tensor:
        """Bring features (B, N, D) into the language model's space, and tell parcels apart."""
        inner: Tensor = self.encode_transform_layer(features)
        n = self.encoder.n_parcels
        parcels = torch.arange(n, device=inner.device).repeat_interleave(inner.shape[1] // n)
        tokens: Tensor = inner + self.pos_embed(parcels)
        if self.config.upstream_order:
            return tokens
        sides = (len(tokens), n, -1, tokens.shape[-1])
        return tokens.reshape(sides).transpose(1, 2).flatten(1, 2)

    def embed(self, x: Tensor) -> Tensor:
        """Embed windows (B, V, T) by the mean of what the language model is told of them."""
        tokens: Tensor = self(x)
        return tokens.mean(dim=1)


def split_state(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Part a file of scan and language into what is the scan's, updates, and the model itself.

    Parameters
    ----------
    state : mapping of str to Tensor
        Under upstream's names.

    Returns
    -------
    scan : dict of str to Tensor
        Of `ScanTokens`, and of the head that tells codes.
    updates : dict of str to Tensor
        Under the names of `language_updates.list_updates`.
    language : dict of str to Tensor
        Under the names of a stock language model; empty in files of this app.
    """
    scan: dict[str, Tensor] = {}
    updates: dict[str, Tensor] = {}
    language: dict[str, Tensor] = {}
    updated = any(name.startswith(UPDATES) for name in state)
    for name, value in state.items():
        if name.startswith(HEAD) or not name.startswith(_PLAIN):
            scan[name] = value
        elif ".lora_" in name:
            updates[name.removeprefix(UPDATES)] = value
        else:
            plain = name.removeprefix(UPDATES if updated else _PLAIN)
            language[plain.replace(".base_layer.", ".")] = value
    return scan, updates, language


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> ScanTokens:
    """Build the tokens of a tuned language model, and keep its updates beside them.

    Parameters
    ----------
    config : mapping
        See `TokensConfig`.
    checkpoint : Checkpoint
        The weights, under upstream's names.

    Returns
    -------
    ScanTokens
        With all its weights.

    Raises
    ------
    WrongWeightsError
        If configuration and weights do not belong together, or a language model is among them.
    """
    scan, updates, language = split_state(checkpoint.state)
    if language:
        raise WrongWeightsError(
            f"{checkpoint.source}: it holds {len(language)} tensors of a language model, such as "
            f"{min(language)}; it was expected to hold updates alone, and the model to lie in a "
            "folder of its own",
            fix=_FIX,
        )
    network = ScanTokens(TokensConfig.of(config))
    tokens = {name: value for name, value in scan.items() if not name.startswith(HEAD)}
    load_strictly(network, tokens, source=checkpoint.source)
    network.updates = updates
    return network


def differing(checkpoint: Checkpoint, given: Mapping[str, Any]) -> str:
    """Name the hyper-parameters in which a file and what was given differ; empty if none."""
    ours = TokensConfig.of(checkpoint.config or given)
    theirs = TokensConfig.of(given)
    found = [ours.encoder.differing(theirs.encoder)]
    found += [f"width {ours.width} and {theirs.width}"] if ours.width != theirs.width else []
    return ", ".join(part for part in found if part)
