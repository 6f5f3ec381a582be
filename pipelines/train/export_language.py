"""A tuned language model as a folder: what was learnt, a card, and what was done.

Nothing in the folder names a participant or a place on the machine, and nothing of the language
model is in it but what was learnt.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import yaml

from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.card import Card
from neurostorm_app.models.fmri_lm_tuned import ARCHITECTURE, export_tuned
from neurostorm_app.pipelines.train.export import PACKAGES, Ending, _save, _write
from neurostorm_app.pipelines.train.export_card import DEMO, WEIGHTS, name_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.models.fmri_lm_language import ScanLanguage
    from neurostorm_app.models.fmri_lm_text import Question
    from neurostorm_app.pipelines.train.material import Start
    from neurostorm_app.pipelines.train.task import Outcome

__all__ = ["export_language"]

LIBRARIES: Final = (*PACKAGES, "transformers", "tokenizers", "peft")
CLOSED: Final = (
    "It answers the questions it was tuned for, each from a closed set. What it gives are shares "
    "of these answers that add up to 1: not calibrated, no finding, and not for diagnosis. It "
    "never writes text."
)
WINDOWS: Final = (
    "Answers about a run's connectivity are known of the whole run, and it is told one window at a "
    "time; scores are averaged over windows."
)


def export_language(
    folder: Path,
    model: ScanLanguage,
    questions: Sequence[Question],
    *,
    start: Start,
    outcome: Outcome,
    facts: Mapping[str, Any],
) -> Ending:
    """Write what a tuning made.

    Parameters
    ----------
    folder : Path
        Of the training.
    model : ScanLanguage
        With the weights of the best validation.
    questions : sequence of Question
        That it was tuned for.
    start : Start
        The tokenizer.
    outcome : Outcome
        How it went.
    facts : mapping
        For ``training.json``.

    Returns
    -------
    Ending
        The card as it can be read back.
    """
    state, config = export_tuned(model, questions, rank=facts["settings"]["rank"])
    card = _describe(config, start, outcome, facts)
    if outcome.is_main:
        sha256, size = _save(folder / WEIGHTS, state, config)
        card = card.model_copy(update={"sha256": sha256, "size": size})
        training = {
            **facts,
            "start": {"model": start.card.name, "values": start.sha256, "scratch": start.scratch},
            "files": {"weights": WEIGHTS},
            "questions": config["questions"],
            "steps": outcome.steps,
            "best_step": outcome.best_step,
            "validations": list(outcome.validations),
            "seconds": round(outcome.seconds, 1),
            "processes": outcome.world,
            "versions": {name: version(name) for name in LIBRARIES}
            | {"python": platform.python_version()},
        }
        _write(folder / "training.json", json.dumps(training, indent=2, ensure_ascii=False) + "\n")
        content = card.model_dump(mode="json")
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        _write(folder / "card.yaml", text)  # last: without it the folder is no model
        card = read_card(str(folder))
        create_model(card)  # it must open, or all was in vain
    return Ending(folder=folder, card=card, outcome=outcome, test=facts["test"])


def _describe(
    config: dict[str, Any], start: Start, outcome: Outcome, facts: Mapping[str, Any]
) -> Card:
    """Write the card, without the hash of the weights."""
    base, split = start.card, facts["split"]
    done = (
        f"A {config['kind']} language model, tuned by its user on their own data to tell "
        f"{facts['target']} from tokens of {base.name}: {split['train']} participants, "
        f"{outcome.best_step} steps."
    )
    seen = (
        f"It has seen {facts['target']} of the people it was tuned on: what it answers about them "
        "says nothing of others."
    )
    needs = (
        "It needs the language model it was tuned with, which is not part of it and has a licence "
        f"of its own: the files of hash {config['language']}."
    )
    limits = [done, _judge(outcome, facts), CLOSED, seen, needs, WINDOWS]
    if start.scratch:
        limits.append("Its tokens are made by an encoder of random weights: nothing was learnt.")
    limits += [f"Of {base.name}, which makes its tokens: {limit}" for limit in base.limits]
    if start.demo:
        limits.insert(0, f"{DEMO} It has demo or random weights in it, or was tuned on phantoms.")
    return Card(
        name=start.name,
        label=name_model(start.name),
        title=f"{start.name}, a language model's updates, tuned by its user",
        architecture=ARCHITECTURE,
        version="1",
        summary=(f"{DEMO} " if start.demo else "") + done,
        demo=start.demo,
        file=WEIGHTS,
        licence=base.licence,
        commercial_use=base.commercial_use,
        config=json.loads(json.dumps(config)),
        dimension=config["width"],
        pooling="mean of the tokens that the language model is told of each window; a run is the "
        "mean of its windows",
        contract=base.contract,
        limits=tuple(limits),
        references=base.references,
    )


def _judge(outcome: Outcome, facts: Mapping[str, Any]) -> str:
    """Say how good it is, and of whom that was measured."""
    best = ", ".join(f"{n} {v:.4g}" for n, v in outcome.best.items() if n != "step")
    said = (
        f"Answers of {facts['split']['validation']} participants by whom the best step was chosen, "
        f"which makes them too good: {best}."
    )
    if facts["test"]:
        tested = ", ".join(f"{n} {v:.4g}" for n, v in facts["test"].items())
        said += f" Of {facts['split']['test']} participants that nothing was chosen by: {tested}."
    return said
