"""Supervised tuning: a head, and as much of a network as a strategy lets learn."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models.adapters import Tuned, prepare_tuning
from neurostorm_app.models.card import Output
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.pipelines.train.engine import train
from neurostorm_app.pipelines.train.export import Ending, export_model
from neurostorm_app.pipelines.train.supervised import Supervised, Tuning

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.pipelines.evaluate.cohort import Target
    from neurostorm_app.pipelines.train.material import Material, Start
    from neurostorm_app.pipelines.train.settings import Plan

__all__ = ["Tuning", "tune"]


def tune(
    material: Material,
    target: Target,
    *,
    start: Start,
    settings: Tuning,
    plan: Plan,
    out: Path,
) -> Ending:
    """Tune a network to tell a target, and write it as a model.

    Parameters
    ----------
    material : Material
        Runs in the cache.
    target : Target
        Of the participants of the material, in the same order.
    start : Start
        Weights to go on from.
    settings : Tuning
        What learns, and who is held out.
    plan : Plan
        How the optimiser runs.
    out : Path
        Folder of checkpoints, the log and the model.

    Returns
    -------
    Ending
        Where the model is, and how good.

    Raises
    ------
    UsageError
        If the strategy is not for this network.
    DataError
        If there are too few participants, the target is constant, or training fails.
    CannotCreateError
        If the folder cannot be used.
    """
    if len(target.values) != len(material.people):
        raise DataError(
            f"{target.name} has {len(target.values)} values; there are runs of "
            f"{len(material.people)} participants",
            fix="give one value for each participant with runs",
        )
    if plan.layer_decay != 1 and settings.strategy != "full":
        raise UsageError(
            f"rates fall with depth (layer_decay {plan.layer_decay:g}) where all of a network "
            f"learns; with {settings.strategy} it does not",
            fix="choose --strategy full, or leave --layer-decay out",
        )
    n_classes = len(target.classes)
    tuned = prepare_tuning(
        start.model,
        settings.strategy,
        n_outputs=n_classes if n_classes > 2 else 1,
        prompt_len=settings.prompt_len,
        rank=settings.rank,
        seed=plan.seed,
    )
    task = Supervised(tuned, material, target, settings, seed=plan.seed)
    identity = {
        "what": "tune",
        "start": start.sha256,
        "data": _digest(material, target),
        "target": [target.name, target.kind, *target.classes],
        "settings": asdict(settings),
    }
    outcome = train(task, plan, folder=out, identity=identity)
    split = task.split
    facts = {
        "what": "tune",
        "target": target.name,
        "measured": f"{target.name}, means over participants",
        "settings": asdict(settings),
        "plan": plan.identity(),
        "split": {name: len(getattr(split, name)) for name in ("train", "validation", "test")},
        "runs": material.n_runs,
        "left_out": material.n_left_out,
        "test": task.measure(split.test) if split.test else {},
    }
    output = _say(target, task, outcome.best_step) if _has_head(tuned) else None
    return export_model(out, tuned, start=start, outcome=outcome, facts=facts, output=output)


def _has_head(tuned: Tuned) -> bool:
    return isinstance(tuned.network, NeuroStorm)


def _say(target: Target, task: Supervised, steps: int) -> Output:
    kinds: dict[bool, Literal["binary", "classes"]] = {True: "binary", False: "classes"}
    kind = "value" if target.kind == "value" else kinds[len(target.classes) == 2]
    return Output(
        target=target.name,
        kind=kind,
        classes=target.classes,
        unit=target.unit,
        mean=task.mean,
        sd=task.sd,
        origin=f"the {len(task.split.train)} participants of the user's training split, "
        f"{steps} steps",
    )


def _digest(material: Material, target: Target) -> str:
    """Hash runs and labels as one: labels alone are few enough to be guessed from their hash."""
    values = np.asarray(target.values, dtype=np.float64).tobytes()
    return hashlib.sha256(material.digest.encode() + material.secret + values).hexdigest()
