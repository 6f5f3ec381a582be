"""The result of a training as a model like any other: weights, a card, and what was done.

Nothing in the folder names a participant or a place on the machine.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import yaml
from safetensors.torch import save_file

from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.adapters import Tuned, export_config, export_head, export_state
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.pipelines.train.export_card import (
    DEMO,
    HEAD,
    WEIGHTS,
    describe_model,
    name_model,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from neurostorm_app.models.card import Card, Output
    from neurostorm_app.pipelines.train.material import Start
    from neurostorm_app.pipelines.train.task import Outcome

__all__ = ["DEMO", "HEAD", "WEIGHTS", "Ending", "export_model", "name_model"]

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
    card = describe_model(model, config, start, outcome, facts, output)
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
