"""The card of a model that was trained here: what was done, how good it is, and its limits."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import UsageError
from neurostorm_app.models import list_models, read_card
from neurostorm_app.models.adapters import Tuned
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.card import Card, Output
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.models.mind_vis import MindVis
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_mae import SlimBrainMae

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from neurostorm_app.pipelines.train.material import Start
    from neurostorm_app.pipelines.train.task import Outcome

__all__ = ["DEMO", "HEAD", "WEIGHTS", "describe_model", "name_model"]

WEIGHTS: Final = "weights.safetensors"
HEAD: Final = "head.safetensors"
"""The head of a network whose weights have no place for one."""
NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,99}")
DEMO: Final = "DEMO WEIGHTS, NOT FOR SCIENCE."
OF_SLIM_BRAIN: Final = (
    "Pre-trained by an objective of this app, masked units or latent space: decoder or predictor, "
    "loss and schedule are ours. It is no SLIM-Brain of the paper, whatever its encoder's shape."
)
OF_MIND_VIS: Final = (
    "Experimental: a masked autoencoder of voxels, of MinD-Vis's kind, trained by its user. It "
    "decodes no pictures, and was told of none."
)
OF_CODES: Final = (
    "A tokenizer trained by the first stage of fMRI-LM without its texts. It is not that of the "
    "paper, whatever its shape."
)
NO_TIME: Final = (
    "The encoder is told which parcel a patch is of, but not when it was. Nothing was hidden from "
    "it: the error says what the codes keep of a window, and nothing of understanding."
)


COLLAPSED: Final = (
    "The training went on until its encoder had collapsed: it told hardly anything apart by then. "
    "The weights are those of an earlier step, by a measure that sees only the worst of it."
)


def name_model(name: str) -> str:
    """Make the BIDS label of a model's name, or say why no model can have that name.

    Parameters
    ----------
    name : str
        Of the model to be.

    Returns
    -------
    str
        Letters and digits.

    Raises
    ------
    UsageError
        If the name cannot be used, or is taken.

    Examples
    --------
    >>> name_model("my-lab_age.v2")
    'myLabAgeV2'
    """
    words: list[str] = re.findall(r"[0-9A-Za-z]+", name) or [""]
    first, *others = words
    label = first + "".join(word[0].upper() + word[1:] for word in others)
    taken = {other.lower() for other in list_models()}
    taken |= {read_card(other).label.lower() for other in list_models()}
    ends = ("untrained", "windows")
    if (
        not NAME.fullmatch(name)
        or {name.lower(), label.lower()} & taken
        or label.lower().endswith(ends)
    ):
        raise UsageError(
            f"a model cannot be called {name!r}: names are of letters, digits, '.', '_' and '-', "
            f"do not end in {' or '.join(ends)}, and are not those of the package's models",
            fix="give another name with --name",
        )
    return label


def describe_model(
    model: nn.Module,
    config: dict[str, Any],
    start: Start,
    outcome: Outcome,
    facts: Mapping[str, Any],
    output: Output | None,
) -> Card:
    """Make the card of what came of a training, without the hash of the weights.

    Parameters
    ----------
    model : Module
        A network, or one that was tuned, with its head.
    config : dict
        Its hyper-parameters, under upstream's names.
    start : Start
        What it started from.
    outcome : Outcome
        How the training went.
    facts : mapping
        As of `export_model`.
    output : Output or None
        What the head says.

    Returns
    -------
    Card
        It says what was done, on whom it was measured, and what of the start still holds.
    """
    base = start.card
    network = model.network if isinstance(model, Tuned) else model
    architecture, layout, width = _name(network, config)
    done = _tell(start, outcome, facts)
    limits = [done, _judge(outcome, facts)]
    if facts["what"] == "tune":
        limits.append(
            f"It has seen {facts['target']} of the people it was tuned on: how well that is told "
            "from their embeddings says nothing of others, however folds are made."
        )
    if isinstance(model, Tuned) and output is None:
        limits.append(
            f"The head is in {HEAD}: weights of BrainLM have no place for it, and the app does not "
            "apply it."
        )
    later = [row for row in outcome.validations if row["step"] > outcome.best_step]
    if any(row.get("collapsed") for row in later):
        limits.append(COLLAPSED)
    limits += _limits_of(network)
    if not start.scratch:
        limits += [f"Of {base.name}, from which it started: {limit}" for limit in base.limits]
    if start.demo:
        limits.insert(0, f"{DEMO} It started from demo weights, or was trained on phantoms.")
    what = "tuned" if facts["what"] == "tune" else "pre-trained"
    return Card(
        name=start.name,
        label=name_model(start.name),
        title=f"{start.name}, {what} by its user",
        architecture=architecture,
        version="1",
        summary=(f"{DEMO} " if start.demo else "") + done,
        demo=start.demo,
        file=WEIGHTS,
        licence=base.licence,
        commercial_use=base.commercial_use,
        layout=layout,
        config=json.loads(json.dumps(config)),
        dimension=width,
        pooling=base.pooling,
        centre=base.centre,
        contract=base.contract,
        output=output,
        limits=tuple(limits),
        references=base.references,
    )


def _name(network: nn.Module, config: Mapping[str, Any]) -> tuple[str, str | None, int | None]:
    """Name the architecture and the layout of a network, and the width of what it gives."""
    if isinstance(network, NeuroStorm):
        mae = isinstance(network, NeuroStormMae)
        older = isinstance(network, NeuroStormMae) and network.mask_token is None
        layout = "2025" if older else "2026-05"
        width = network.config.stage(len(network.config.depths) - 1)[0]
        return ("neurostorm-mae" if mae else "neurostorm"), layout, width
    if isinstance(network, SlimBrain):
        mae = isinstance(network, SlimBrainMae)
        return ("slim-brain-mae" if mae else "slim-brain"), None, network.config.width
    if isinstance(network, MindVis):
        return "mind-vis", None, network.config.embed_dim
    if isinstance(network, LmTokenizer):
        return "fmri-lm", None, network.config.width
    return "brainlm", None, config.get("hidden_size")


def _limits_of(network: nn.Module) -> list[str]:
    """Say what is known of every network of a kind that was trained here."""
    if isinstance(network, SlimBrain):
        return [OF_SLIM_BRAIN]
    if isinstance(network, MindVis):
        return [OF_MIND_VIS]
    return [OF_CODES, NO_TIME] if isinstance(network, LmTokenizer) else []


def _tell(start: Start, outcome: Outcome, facts: Mapping[str, Any]) -> str:
    """Say in a sentence what was done."""
    settings, split = facts["settings"], facts["split"]
    how = f"Pre-trained ({settings.get('objective')})"
    if facts["what"] == "tune":
        how = f"Tuned ({settings['strategy']}) to tell {facts['target']}"
    origin = "from scratch" if start.scratch else f"from {start.card.name}"
    return (
        f"{how} by its user on their own data, {origin}: {split['train']} participants, "
        f"{outcome.best_step} steps."
    )


def _judge(outcome: Outcome, facts: Mapping[str, Any]) -> str:
    """Say how good it is, and of whom that was measured."""
    best = ", ".join(f"{n} {v:.4g}" for n, v in outcome.best.items() if n != "step")
    measured = facts["measured"]  # may begin with a column of the user, whose case is kept
    said = (
        f"{measured[:1].upper()}{measured[1:]}, of {facts['split']['validation']} participants by "
        f"whom the best step was chosen, which makes it too good: {best}."
    )
    if facts.get("test"):
        tested = ", ".join(f"{n} {v:.4g}" for n, v in facts["test"].items())
        said += f" Of {facts['split']['test']} participants that nothing was chosen by: {tested}."
    return said
