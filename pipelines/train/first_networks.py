"""Networks before their first step, as a training from scratch draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import UsageError
from neurostorm_app.models.card import ParcelContract, VolumeContract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from neurostorm_app.models.card import Card

__all__ = ["build_first"]


def build_first(card: Card, config: Mapping[str, Any], seed: int) -> nn.Module:
    """Build the network of a card with drawn weights.

    Parameters
    ----------
    card : Card
        Its architecture and contract.
    config : mapping
        Hyper-parameters under upstream's names.
    seed : int
        Of those layers whose first values are not torch's; the others draw from torch's generator.

    Returns
    -------
    Module
        On the CPU.

    Raises
    ------
    UsageError
        If the network would not eat what its contract makes, or cannot be trained from scratch.
    WrongWeightsError
        If the hyper-parameters make no network.
    """
    from neurostorm_app.models.autoencoder import NeuroStormMae
    from neurostorm_app.models.brainlm_files import NativeConfig
    from neurostorm_app.models.brainlm_native import BrainLmNative
    from neurostorm_app.models.fmri_lm import LmTokenizer
    from neurostorm_app.models.fmri_lm_files import LmConfig
    from neurostorm_app.models.mind_vis import MindVis
    from neurostorm_app.models.mind_vis_files import MindVisConfig
    from neurostorm_app.models.neurostorm_files import Config
    from neurostorm_app.models.slim_brain_files import SlimConfig
    from neurostorm_app.models.slim_brain_mae import SlimBrainMae
    from neurostorm_app.pipelines.train.first_values import draw_plain_values

    _check_shape(card, config)
    if card.architecture.startswith("neurostorm"):
        return NeuroStormMae(Config.of(config))
    if card.architecture.startswith("slim-brain"):
        return SlimBrainMae(SlimConfig.of(config))
    if card.architecture == "mind-vis":
        return MindVis(MindVisConfig.of(config))
    if card.architecture == "fmri-lm":
        return LmTokenizer(LmConfig.of(config))
    if card.architecture == "brainlm" and "timepoint_patching_size" in config:
        window = card.contract.window or 1
        network = BrainLmNative(
            NativeConfig.of(config), table=max(1, window // config["timepoint_patching_size"])
        )
        draw_plain_values(network, seed)
        return network
    raise UsageError(
        f"{card.name} cannot be trained from scratch here",
        fix="choose a NeuroSTORM, slim-brain, mind-vis, fmri-lm, or a BrainLM of the native "
        "family, such as brainlm-demo",
    )


def _check_shape(card: Card, config: Mapping[str, Any]) -> None:
    """See that hyper-parameters speak of the windows that the contract makes."""
    contract = card.contract
    wanted: dict[str, Any] = {}
    if isinstance(contract, VolumeContract):
        wanted = {"img_size": [*contract.grid.shape, contract.window]}
    elif isinstance(contract, ParcelContract) and card.architecture == "fmri-lm":
        wanted = {"n_parcels": contract.n_parcels, "n_volumes": contract.window}
    for name, value in wanted.items():
        found = config.get(name, value)
        if (list(found) if isinstance(found, list | tuple) else found) != value:
            raise UsageError(
                f"{name} is {found}; the contract of {card.name} makes windows of {value}",
                fix=f"leave {name} out, or choose the model whose contract has that size",
            )
