"""Untrained controls: a model's architecture with random weights, under a name that says so.

Whatever an embedding of random weights tells of people comes from the data and the architecture,
not from training. A model that is not better than its control has learnt nothing of use.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import UsageError, WrongWeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from neurostorm_app.models.card import Card

__all__ = ["LABEL", "SEED", "SUFFIX", "draw", "hash_values", "untrained"]

SUFFIX: Final = "-untrained"
"""What the name of a control ends in."""
LABEL: Final = "Untrained"
"""What its BIDS label ends in."""
SEED: Final = 0
"""Of the weights of every control."""
ORIGIN: Final = (
    "CONTROL, RANDOM WEIGHTS: a control, not a model. Nothing was learnt from anything; it only "
    "stands beside the model of which it has the architecture."
)
DRAWN: Final = (
    f"Weights are drawn on the CPU with seed {SEED}, by the rules of the layers: one draw of many. "
    "Another version of torch may draw others."
)


def untrained(card: Card) -> Card:
    """Make the card of a model's control.

    Parameters
    ----------
    card : Card
        Of a network.

    Returns
    -------
    Card
        The same contract and configuration; neither weights, nor a head, nor an expected error.

    Raises
    ------
    UsageError
        If the model has no weights that could be random, or is a control itself.

    Examples
    --------
    >>> from neurostorm_app.models import read_card
    >>> control = untrained(read_card("neurostorm-demo"))
    >>> control.name, control.label, control.control
    ('neurostorm-demo-untrained', 'neurostormDemoUntrained', True)
    """
    if card.control or card.file is None:
        what = "is a control itself" if card.control else "has no weights that could be random"
        raise UsageError(
            f"there is no untrained control of {card.name}: it {what}",
            fix="name a network, such as neurostorm-demo-untrained",
        )
    return card.model_copy(
        update={
            "name": card.name + SUFFIX,
            "label": card.label + LABEL,
            "title": f"Untrained control of {card.title} (random weights, not a model)",
            "summary": f"The architecture of {card.name} with random weights: a control, not a "
            "model. It shows what data and architecture tell without any training.",
            "version": f"random weights of seed {SEED}",
            "demo": False,
            "control": True,
            "source": None,
            "file": None,
            "embedded": False,
            "sha256": None,
            "size": None,
            "licence": "Apache-2.0",
            "commercial_use": True,
            "layout": None,
            "output": None,
            "expected_error": None,
            "limits": (ORIGIN, DRAWN),
        }
    )


def draw(card: Card, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network of a control; the same weights in each call.

    Parameters
    ----------
    card : Card
        Of a control.
    config : mapping, optional
        Hyper-parameters under upstream's own names; by default the card's.

    Returns
    -------
    Module
        On the CPU. The random numbers of others are left as they were.

    Raises
    ------
    UsageError
        If neither the card nor the caller says what the network looks like.
    WrongWeightsError
        If the hyper-parameters make no network.
    """
    settings = config or card.config
    if not settings:
        raise UsageError(
            f"the configuration of {card.name} is not known: a network cannot be drawn from it",
            fix="give its hyper-parameters: config=...",
        )
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would also seed the GPUs, whose state nobody puts back.
        torch.default_generator.manual_seed(SEED)
        return _build(card.architecture, settings)


def hash_values(module: nn.Module) -> str:
    """Hash the names and values of all parameters and buffers, wherever they are.

    Returns
    -------
    str
        SHA-256, by which two machines can tell whether they drew the same weights.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _build(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    from neurostorm_app.models.autoencoder import NeuroStormMae
    from neurostorm_app.models.brainlm_files import NativeConfig, VitConfig
    from neurostorm_app.models.brainlm_native import BrainLmNative
    from neurostorm_app.models.brainlm_vit import BrainLmVit
    from neurostorm_app.models.fmri_lm import LmTokenizer
    from neurostorm_app.models.fmri_lm_files import LmConfig
    from neurostorm_app.models.mind_vis import MindVis
    from neurostorm_app.models.mind_vis_files import MindVisConfig
    from neurostorm_app.models.neurostorm import NeuroStorm
    from neurostorm_app.models.neurostorm_files import Config
    from neurostorm_app.models.slim_brain import SlimBrain
    from neurostorm_app.models.slim_brain_files import SlimConfig
    from neurostorm_app.models.slim_brain_mae import SlimBrainMae

    networks: dict[str, Callable[[], nn.Module]] = {
        "neurostorm": lambda: NeuroStorm(Config.of(config)),
        "neurostorm-mae": lambda: NeuroStormMae(Config.of(config)),
        "slim-brain": lambda: SlimBrain(SlimConfig.of(config)),
        "slim-brain-mae": lambda: SlimBrainMae(SlimConfig.of(config)),
        "fmri-lm": lambda: LmTokenizer(LmConfig.of(config)),
        "mind-vis": lambda: MindVis(MindVisConfig.of(config)),
    }
    if architecture in networks:
        return networks[architecture]()
    if architecture == "brainlm" and "timepoint_patching_size" in config:
        return BrainLmNative(NativeConfig.of(config))
    if architecture == "brainlm" and "patch_size" in config:
        return BrainLmVit(VitConfig.of(config), decoder=True, head=False)
    raise WrongWeightsError(
        f"the configuration is of no network of the architecture {architecture!r}: "
        f"{', '.join(sorted(config)[:5])}",
        fix="give the hyper-parameters that the weights of the model were trained with",
    )
