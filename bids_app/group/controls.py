"""The untrained control of each model, made at the group level from what the model's runs say.

A prediction from a model's embeddings stands beside one from the same network with random weights.
Where a run has the one embedding and lacks the other, the sidecar of the first says what it was
made from and how; the control goes the same way, with the same units, sidecars and records.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.engines import ModelFiles
from neurostorm_app.bids_app.group.control_wishes import find_wishes
from neurostorm_app.bids_app.participant.embedding import embed_runs
from neurostorm_app.bids_app.participant.series_tables import series_engines, without_atlas
from neurostorm_app.bids_app.participant.units import Call, Ready, ready_from_precomputed
from neurostorm_app.bids_app.results import Progress
from neurostorm_app.errors import DataError, NoInputError
from neurostorm_app.pipelines.resources import detect, plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from neurostorm_app.bids_app.engines import Engines
    from neurostorm_app.bids_app.group.control_recipes import Recipe, Wish
    from neurostorm_app.bids_app.provenance import Ledger
    from neurostorm_app.bids_app.settings import Settings
    from neurostorm_app.errors import AppError

__all__ = ["Controls", "ensure_controls"]

log = logging.getLogger(__name__)

PER_PROCESS = 2**30
"""Bytes of memory that a network needs at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What came of the untrained controls.

    Parameters
    ----------
    made : mapping of str to int
        Runs that were embedded now, by the label of the control.
    held : mapping of str to int
        Runs that were embedded before.
    missing : mapping of str to mapping
        By the label of the control, why a run of that name lacks it.
    seconds : float
        Wall time.
    """

    made: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """Say for each control that is not complete which runs it lacks."""
        return [
            f"{label} is incomplete: {len(why)} runs lack it, the first is {run}: {first}"
            for label, why in self.missing.items()
            for run, first in list(why.items())[:1]
        ]


def ensure_controls(
    settings: Settings, labels: Iterable[str], *, engines: Engines, ledger: Ledger
) -> Controls:
    """Embed with the untrained control what is embedded with a network, where that is not done.

    Parameters
    ----------
    settings : Settings
        Of the call; participants that are not selected are left alone.
    labels : iterable of str
        BIDS labels of models, such as ``neurostormDemo``. Models without weights have no control.
    engines : Engines
        The doors to the pipelines.
    ledger : Ledger
        The records of the output folder.

    Returns
    -------
    Controls
        A run whose series is gone or has changed is named there, and nothing fails.
    """
    begin = time.monotonic()
    people = settings.selection.participant_label
    wishes, held, missing = find_wishes(settings, labels, people, ledger=ledger)
    made: dict[str, int] = {}
    recipes: dict[Recipe, list[Wish]] = {}
    for wish in wishes:
        recipes.setdefault(wish.recipe, []).append(wish)
    _tell_cost(wishes)
    for recipe, some in recipes.items():
        failed = _embed(recipe, some, settings, engines=engines, ledger=ledger)
        if failed:
            missing.setdefault(recipe.label, {}).update(failed)
        made[recipe.label] = made.get(recipe.label, 0) + len(some) - len(failed)
    done = Controls(made=made, held=held, missing=missing, seconds=time.monotonic() - begin)
    for label, why in missing.items():
        for run, reason in why.items():
            log.warning("%s: %s: no control: %s", run, label, reason)
    if wishes:
        log.info("controls: %d runs in %.1f s", sum(made.values()), done.seconds)
    return done


def _tell_cost(wishes: list[Wish]) -> None:
    """Say before the work begins how much there is, as the models themselves took."""
    if not wishes:
        return
    labels = dict.fromkeys(wish.recipe.label for wish in wishes)
    known = [wish.seconds for wish in wishes if wish.seconds is not None]
    cost = sum(known) / len(known) * len(wishes) if known else None
    told = "time not known" if cost is None else f"about {cost:.0f} s, as the models took"
    log.info(
        "controls: %d runs of %d models are to be embedded with random weights (%s): %s",
        len(wishes),
        len(labels),
        ", ".join(labels),
        told,
    )


def _embed(
    recipe: Recipe, wishes: list[Wish], settings: Settings, *, engines: Engines, ledger: Ledger
) -> dict[str, str]:
    """Embed runs that are made alike; give the reasons of those that fail."""
    try:
        files = _find_files(recipe, settings)
    except (NoInputError, DataError) as error:
        return {wish.item.name: error.what for wish in wishes}
    execution = settings.execution
    call = Call(
        settings=recipe.apply(settings),
        engines=series_engines(engines) if recipe.of_tables else engines,
        ledger=ledger,
        plan=plan(
            detect(),
            nprocs=1,
            nthreads=execution.omp_nthreads,
            memory=execution.memory,
            per_process=PER_PROCESS,
        ),
        models=(files,),
        missing={},
        scratch=settings.output_dir,
        series_dir=settings.output_dir,
    )
    progress = {wish.item.name: Progress(wish.item.name) for wish in wishes}
    embed_runs({w.item.name: partial(_ready, w, call) for w in wishes}, progress, call)
    errors: dict[str, list[AppError]] = {name: run.errors for name, run in progress.items()}
    return {name: found[0].what for name, found in errors.items() if found}


def _find_files(recipe: Recipe, settings: Settings) -> ModelFiles:
    """Find the parcellation and the statistics that the model used, and no others.

    Raises
    ------
    DataError
        If those on this machine are others.
    NoInputError
        If they are not there.
    """
    from neurostorm_app.bids_app.provenance import sha256_of
    from neurostorm_app.pipelines.inputs import find_inputs

    science, card = settings.science, recipe.card
    found = find_inputs(
        card,
        weights_dir=science.weights_dir,
        atlas=science.atlas.get(recipe.model),
        statistics=science.parcel_statistics.get(recipe.model),
    )
    files = ModelFiles(
        card=card,
        atlas=found.atlas,
        coordinates=found.coordinates,
        statistics=found.statistics,
    )
    if recipe.of_tables:
        files = without_atlas(files)
    for option, path, wanted in (
        ("--atlas", files.atlas, recipe.atlas),
        ("--parcel-statistics", files.statistics, recipe.statistics),
    ):
        if (sha256_of(path) if path else None) != wanted:
            raise DataError(
                f"{recipe.model} embedded the runs with another file of {option} than "
                f"{path or 'none'}",
                fix=f"give {option} {recipe.model}=PATH as it was given then",
            )
    return files


def _ready(wish: Wish, call: Call, _: str) -> Ready:
    """Hash the series of a run, and see that they are what the model was given.

    Raises
    ------
    DataError
        If one has changed.
    """
    ready = ready_from_precomputed(wish.item, call)
    for role, path in ready.files.items():
        if wish.inputs.get(call.uri(path), ready.hashes[role]) != ready.hashes[role]:
            raise DataError(
                f"{path} has changed since the model embedded it",
                fix="run the participant level again, then the group level",
            )
    return ready
