"""BrainLM: from a configuration and weights of either family to the network.

References
----------
Ortega Caro et al., bioRxiv 2023.09.12.557460; vandijklab/BrainLM at b591d88.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from neurostorm_app.models.brainlm_files import NativeConfig, VitConfig, find_family
from neurostorm_app.models.brainlm_native import PLACES, BrainLmNative
from neurostorm_app.models.brainlm_vit import BrainLmVit
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from neurostorm_app.models.weights import Checkpoint

__all__ = ["build", "differing"]

_FREE = {"mask_ratio", "train_mode", "loss_fn", "hidden_dropout_prob"}
"""Hyper-parameters that may differ from those stored: they do not change an embedding."""

_DEAD = "decoder.decoder_pred.bias"
"""Of a layer of the native files that upstream never runs."""

_TABLE = "vit.embeddings.pos_embedding.pe"
"""Of positions: 5000 rows in the released files, fewer in our demo."""


def build(config: Mapping[str, Any], checkpoint: Checkpoint) -> BrainLmNative | BrainLmVit:
    """Build the network of the family that the names tell, and load its weights strictly.

    Parameters
    ----------
    config : mapping
        Upstream's hyper-parameters: the content of ``config.json``.
    checkpoint : Checkpoint
        The weights, under upstream's names.

    Returns
    -------
    BrainLmNative or BrainLmVit
        With all its weights.

    Raises
    ------
    WrongWeightsError
        If the names are of neither family, or configuration and weights do not belong together.
    """
    state = checkpoint.state
    family = find_family(state, source=checkpoint.source)
    with torch.device("meta"):  # first values would be drawn for nothing
        network = _native(config, state) if family == "native" else _vit(config, state)
    network.to_empty(device="cpu")
    load_strictly(network, state, source=checkpoint.source)
    return network


def _native(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> BrainLmNative:
    dead = len(state[_DEAD]) if _DEAD in state else None
    table = len(state[_TABLE]) if _TABLE in state else PLACES
    return BrainLmNative(NativeConfig.of(config), dead=dead, table=table)


def _vit(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> BrainLmVit:
    parts = {name.split(".")[0] for name in state}
    return BrainLmVit(
        VitConfig.of(config), decoder="decoder" in parts, head="mlp_pred_head" in parts
    )


def differing(checkpoint: Checkpoint, given: Mapping[str, Any]) -> str:
    """Name the hyper-parameters that shape the network and differ from the stored ones.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights and the configuration stored with them.
    given : mapping
        Another configuration.

    Returns
    -------
    str
        Such as ``num_attention_heads 4 and 8``; empty if they agree.

    Raises
    ------
    WrongWeightsError
        If one of them makes no network of the weights' family.
    """
    family = find_family(checkpoint.state, source=checkpoint.source)
    kind = NativeConfig if family == "native" else VitConfig
    ours, theirs = kind.of(checkpoint.config or given), kind.of(given)
    pairs = [(f.name, getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(kind)]
    return ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b and name not in _FREE)
