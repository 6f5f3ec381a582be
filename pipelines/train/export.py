"""The result of a training as a model like any other: weights, a card, and what was done.

Nothing in the folder names a participant or a place on the machine.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import yaml
from safetensors.torch import save_file

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model, list_models, read_card
from neurostorm_app.models.adapters import Tuned, export_config, export_head, export_state
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.card import Card, Output
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.models.mind_vis import MindVis
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_mae import SlimBrainMae

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from neurostorm_app.pipelines.train.material import Start
    from neurostorm_app.pipelines.train.task import Outcome

__all__ = ["Ending", "export_model", "name_model"]

WEIGHTS: Final = "weights.safetensors"
HEAD: Final = "head.safetensors"
NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,99}")
DEMO: Final = "DEMO WEIGHTS, NOT FOR SCIENCE."
PACKAGES: Final = ("neurostorm-app", "torch", "accelerate", "numpy", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a training left.

    Parameters
    ----------
    folder : Path
        Of the model; ``--models FOLDER`` takes it.
    card : Card
        Of the model.
    outcome : Outcome
        Steps, seconds and validations.
    test : mapping
        What was measured on participants that nothing was chosen by; empty if there were none.
    """

    folder: Path
    card: Card
    outcome: Outcome
    test: Mapping[str, float]


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


def export_model(
    folder: Path,
    model: nn.Module,
    *,
    start: Start,
    outcome: Outcome,
    facts: Mapping[str, Any],
    output: Output | None = None,
) -> Ending:
    """Write what a training made.

    Parameters
    ----------
    folder : Path
        Of the training.
    model : Module
        A network, or one that was tuned, with its head.
    start : Start
        What it started from.
    outcome : Outcome
        How the training went.
    facts : mapping
        For ``training.json``: ``what``, ``measured`` (the name of the validation's loss),
        ``settings``, ``plan``, ``split``, ``runs``, ``left_out``, and ``test`` where there is one.
    output : Output, optional
        What the head says.

    Returns
    -------
    Ending
        The card as it can be read back.
    """
    state, config = _upstream(model)
    sizes = {"weights": WEIGHTS}
    card = _describe(model, config, start, outcome, facts, output)
    if outcome.is_main:
        sha256, size = _save(folder / WEIGHTS, state, config)
        if isinstance(model, Tuned) and not isinstance(model.network, NeuroStorm):
            _save(folder / HEAD, export_head(model), {})
            sizes["head"] = HEAD
        card = card.model_copy(update={"sha256": sha256, "size": size})
        training = {
            **facts,
            "start": {"model": start.card.name, "values": start.sha256, "scratch": start.scratch},
            "files": sizes,
            "output": output and output.model_dump(mode="json"),
            "steps": outcome.steps,
            "best_step": outcome.best_step,
            "validations": list(outcome.validations),
            "seconds": round(outcome.seconds, 1),
            "processes": outcome.world,
            "versions": {name: version(name) for name in PACKAGES}
            | {"python": platform.python_version()},
        }
        _write(folder / "training.json", json.dumps(training, indent=2, ensure_ascii=False) + "\n")
        content = card.model_dump(mode="json")
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        _write(folder / "card.yaml", text)  # last: without it the folder is no model
        card = read_card(str(folder))
        create_model(card)  # it must open, or all was in vain
    return Ending(folder=folder, card=card, outcome=outcome, test=facts.get("test", {}))


def _upstream(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Give weights and hyper-parameters under upstream's names."""
    if isinstance(model, Tuned):
        return export_state(model), export_config(model)
    network: Any = model
    prefix = "model." if isinstance(model, NeuroStorm) else ""
    state = {
        f"{prefix}{name}": value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    return state, asdict(network.config)


def _describe(
    model: nn.Module,
    config: dict[str, Any],
    start: Start,
    outcome: Outcome,
    facts: Mapping[str, Any],
    output: Output | None,
) -> Card:
    """Write the card, without the hash of the weights."""
    base = start.card
    network = model.network if isinstance(model, Tuned) else model
    architecture, layout, width = "brainlm", None, config.get("hidden_size")
    if isinstance(network, NeuroStorm):
        mae = isinstance(network, NeuroStormMae)
        architecture = "neurostorm-mae" if mae else "neurostorm"
        layout = "2025" if mae and network.mask_token is None else "2026-05"
        width = network.config.stage(len(network.config.depths) - 1)[0]
    if isinstance(network, SlimBrain):
        mae = isinstance(network, SlimBrainMae)
        architecture = "slim-brain-mae" if mae else "slim-brain"
        width = network.config.width
    if isinstance(network, MindVis):
        architecture, width = "mind-vis", network.config.embed_dim
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
    if isinstance(network, SlimBrain):
        limits.append(
            "Pre-trained by an objective of this app, masked units or latent space: decoder or "
            "predictor, loss and schedule are ours. It is no SLIM-Brain of the paper, whatever its "
            "encoder's shape."
        )
    if isinstance(network, MindVis):
        limits.append(
            "Experimental: a masked autoencoder of voxels, of MinD-Vis's kind, trained by its "
            "user. It decodes no pictures, and was told of none."
        )
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


def _save(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[str, int]:
    aside = path.with_suffix(".part")
    metadata = {"config": json.dumps(config)} if config else None
    save_file(dict(state), aside, metadata=metadata)
    aside.chmod(0o644)  # it is written for its owner alone
    aside.replace(path)
    return hash_file(path), path.stat().st_size


def _write(path: Path, text: str) -> None:
    aside = path.with_suffix(".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
