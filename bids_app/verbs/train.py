"""The verb ``train``: the demos on phantoms, pre-training and tuning on a user's derivatives.

With a launcher (``torchrun`` or ``accelerate launch``, on the module
``neurostorm_app.bids_app.tools``) the same words train on several GPUs.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any, Literal

from neurostorm_app.bids_app.verbs.train_options import DEMOS, add_train
from neurostorm_app.errors import NoInputError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.verbs.train_cohort import Runs
    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.inputs import InputFiles
    from neurostorm_app.pipelines.train.export import Ending
    from neurostorm_app.pipelines.train.material import Material, Start
    from neurostorm_app.pipelines.train.settings import Plan

__all__ = ["DEMOS", "add_train", "call_train"]

PLAN = {
    "batch_size": "batch",
    "accumulate": "accumulate",
    "learning_rate": "rate",
    "head_rate": "head_rate",
    "layer_decay": "layer_decay",
    "warm_up": "warm_up",
    "least_rate": "least_rate",
    "weight_decay": "weight_decay",
    "precision": "precision",
    "device": "device",
    "seed": "seed",
    "checkpoint_every": "checkpoint_every",
    "validate_every": "validate_every",
    "patience": "patience",
}
"""Options of the command, and what the plan calls them."""


def call_train(asked: argparse.Namespace) -> None:
    """Do what the verb asks for."""
    from neurostorm_app.bids_app.logs import to_terminal

    to_terminal(0)
    kinds = {"demo": _demo, "pretrain": _pretrain, "tune": _tune, "language": _language}
    kinds[asked.training](asked)


def _demo(asked: argparse.Namespace) -> None:
    from neurostorm_app.pipelines import train

    given = {name: getattr(asked, name) for name in ("participants", "steps", "seed")}
    call = getattr(train, DEMOS[asked.name])
    done = call(asked.out, **{name: value for name, value in given.items() if value is not None})
    print(f"{asked.out}\n{done}")


def _pretrain(asked: argparse.Namespace) -> None:
    from neurostorm_app.bids_app.verbs.train_cohort import find_runs
    from neurostorm_app.pipelines.train.masks import Pretraining
    from neurostorm_app.pipelines.train.pretraining import pretrain

    settings = Pretraining(
        objective=asked.objective or _usual_objective(asked.model),
        spatial_mask=asked.spatial_mask,
        time_mask=asked.time_mask,
        mask_ratio=asked.mask_ratio,
        redundancy=asked.redundancy,
        strength=asked.strength,
        kind=asked.kind_of,
        augment=not asked.no_augmentation,
        mix=asked.mix,
        horizon=asked.horizon,
        validation=asked.validation,
        validation_windows=asked.validation_windows,
    )
    if asked.config is not None and not asked.from_scratch:
        raise UsageError(
            f"{asked.config}: weights have a configuration of their own",
            fix="add --from-scratch, or leave --config out",
        )
    if asked.labels and not (asked.from_scratch and asked.atlas):
        raise UsageError(
            f"--labels {' '.join(asked.labels)}: weights have labels of their own",
            fix="add --from-scratch and --atlas, or leave --labels out",
        )
    card, start, files = _start(asked)
    tasks, labels = asked.task_label or (), asked.participant_label or ()
    space = card.contract.space
    runs = find_runs(asked.derivatives, space=space, tasks=tasks, participants=labels)
    participants, material = _gather(asked, card, files, runs)
    plan = _plan(asked, len(participants) * (1 - settings.validation))
    atlas = asked.atlas if card.contract.kind == "volume" else None  # of masks
    _tell(pretrain(material, start=start, settings=settings, plan=plan, out=asked.out, atlas=atlas))


def _usual_objective(name: str) -> Literal["mae", "codes"]:
    from neurostorm_app.models import read_card

    return "codes" if read_card(name).architecture == "fmri-lm" else "mae"


def _tune(asked: argparse.Namespace) -> None:
    from neurostorm_app.bids_app.verbs.train_cohort import build_target, find_runs, read_target
    from neurostorm_app.pipelines.train.tuning import Tuning, tune

    settings = Tuning(
        strategy=asked.strategy,
        prompt_len=asked.prompt_len,
        rank=asked.rank,
        validation=asked.validation,
        test=asked.test,
        weighted=not asked.no_class_weights,
        windows=asked.validation_windows,
    )
    card, start, files = _start(asked)
    folder = asked.derivatives[0]
    tasks, labels = asked.task_label or (), asked.participant_label or ()
    space = card.contract.space
    runs = find_runs(asked.derivatives, space=space, tasks=tasks, participants=labels)
    known = read_target(
        asked.target,
        folder,
        sorted({label for label, _ in runs}),
        tables=(asked.bids_dir, asked.participants_file),
    )
    labelled = [(label, run) for label, run in runs if (label, None) in known.values]
    if not labelled:
        raise NoInputError(
            f"{asked.target!r}: none of the {len({label for label, _ in runs})} participants who "
            "have runs has a value",
            fix="look whether the labels of the table are those of the runs",
        )
    participants, material = _gather(asked, card, files, labelled)
    target = build_target(known, participants)
    held = settings.validation + settings.test
    plan = _plan(asked, len(participants) * (1 - held))
    _tell(tune(material, target, start=start, settings=settings, plan=plan, out=asked.out))


def _language(asked: argparse.Namespace) -> None:
    from neurostorm_app.bids_app.verbs.train_cohort import find_runs
    from neurostorm_app.bids_app.verbs.train_language import (
        check_questions,
        find_subjects,
        read_wording,
    )
    from neurostorm_app.models.language import open_language
    from neurostorm_app.pipelines.train.language import Instructing, check_start, tune_language

    settings = Instructing(
        rank=asked.rank,
        tags=asked.tags,
        validation=asked.validation,
        test=asked.test,
        windows=asked.validation_windows,
    )
    check_questions(asked)
    wording = read_wording(asked.wording)
    language = open_language(asked.llm)  # it goes where the training goes
    card, start, files = _start(asked)
    check_start(start)
    tasks, labels = asked.task_label or (), asked.participant_label or ()
    space = card.contract.space
    runs = find_runs(asked.derivatives, space=space, tasks=tasks, participants=labels)
    participants, material = _gather(asked, card, files, runs)
    subjects = find_subjects(asked, participants, material)
    plan = _plan(asked, len(participants) * (1 - settings.validation - settings.test))
    _tell(
        tune_language(
            material,
            subjects,
            start=start,
            language=language,
            settings=settings,
            plan=plan,
            out=asked.out,
            wording=wording,
        )
    )


def _start(asked: argparse.Namespace) -> tuple[Card, Start, InputFiles]:
    """Find and open what the training starts from."""
    from neurostorm_app.bids_app.verbs.train_cohort import are_phantoms
    from neurostorm_app.models import read_card
    from neurostorm_app.models.card import VolumeContract
    from neurostorm_app.pipelines.inputs import InputFiles, find_inputs, find_parcellation
    from neurostorm_app.pipelines.train.material import draw_control, draw_start, open_start

    card = read_card(asked.model)
    name = asked.name or asked.out.resolve().name
    demo = asked.demo or are_phantoms(asked.derivatives)
    volumes = isinstance(card.contract, VolumeContract)
    atlas = None if volumes else asked.atlas  # for volumes it is of masks
    if asked.training == "language" and card.control:
        files = find_inputs(card, atlas=atlas, weights_dir=asked.weights_dir)
        return card, draw_control(card, name=name), files
    if not getattr(asked, "from_scratch", False):
        files = find_inputs(
            card,
            weights=asked.weights,
            weights_dir=asked.weights_dir,
            atlas=atlas,
            statistics=asked.statistics,
        )
        return card, open_start(card, files, name=name, demo=demo), files
    if asked.labels:
        from neurostorm_app.pipelines.label_names import take_voxels

        card = take_voxels(card, asked.atlas, asked.labels)
    config: Mapping[str, Any] | None = None
    if asked.config is not None:
        config = _read_config(asked.config)
    start = draw_start(card, name=name, seed=asked.seed or 0, config=config, demo=demo)
    if not isinstance(card.contract, VolumeContract):
        atlas = find_parcellation(card.contract, atlas, asked.weights_dir)
    return start.card, start, InputFiles(atlas=atlas, statistics=asked.statistics)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: no configuration can be read from it: {error}", fix="give a file of JSON"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{path}: a configuration is names and values; this is a {type(content).__name__}",
            fix='write {"embed_dim": 24, ...}',
        )
    return content


def _gather(
    asked: argparse.Namespace, card: Card, files: InputFiles, runs: Runs
) -> tuple[Sequence[str], Material]:
    """Make the runs ready."""
    from neurostorm_app.pipelines.stage import InputOptions
    from neurostorm_app.pipelines.train.cache import CacheRecipe
    from neurostorm_app.pipelines.train.material import gather

    usual: Literal["float16", "float32"]
    usual = "float16" if card.contract.kind == "volume" else "float32"
    dtype: Literal["float16", "float32"] = asked.cache_dtype or usual
    recipe = CacheRecipe(
        contract=card.contract,
        atlas=files.atlas if card.contract.kind != "volume" else None,
        options=InputOptions(statistics=files.statistics),
        dtype=dtype,
    )
    folder = asked.cache_dir or asked.out.resolve().with_name(".neurostorm-cache")
    return gather(runs, recipe, folder, device=asked.device or "cpu")


def _plan(asked: argparse.Namespace, n_training: float) -> Plan:
    """Make the plan; an epoch is one window of each participant to train on."""
    from neurostorm_app.pipelines.train.settings import Plan

    asks = {plan: getattr(asked, option, None) for option, plan in PLAN.items()}
    given: dict[str, Any] = {name: value for name, value in asks.items() if value is not None}
    if asked.steps is not None:
        given["steps"] = asked.steps
    plan = Plan(**given)
    if asked.epochs is None:
        return plan
    if not 0 < asked.epochs < math.inf:
        raise UsageError(
            f"a training cannot run for {asked.epochs:g} epochs",
            fix="give --epochs a number above 0, such as 20",
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    each = plan.batch * plan.accumulate * world
    return Plan(**given, steps=max(1, math.ceil(asked.epochs * n_training / each)))


def _tell(ending: Ending) -> None:
    """Print what came of a training, once."""
    outcome = ending.outcome
    if not outcome.is_main:
        return
    best = ", ".join(f"{name} {value:.4g}" for name, value in outcome.best.items())
    print(f"{ending.folder}: {ending.card.name}, best after {best}")
    if ending.test:
        tested = ", ".join(f"{name} {value:.4g}" for name, value in ending.test.items())
        print(f"test participants: {tested}")
    print(f"{outcome.steps} steps, {outcome.seconds:.0f} s; use it with --models {ending.folder}")
