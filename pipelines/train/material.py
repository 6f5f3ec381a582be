"""What a training starts from: a network, and participants whose runs are in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from neurostorm_app.errors import AppError, DataError, UsageError
from neurostorm_app.models import create_model
from neurostorm_app.models.untrained import hash_values
from neurostorm_app.pipelines.train.cache import CacheRecipe, build_cache
from neurostorm_app.pipelines.train.engine import main_first
from neurostorm_app.pipelines.train.export import name_model
from neurostorm_app.pipelines.train.first_networks import build_first

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.inputs import InputFiles
    from neurostorm_app.pipelines.stage import StandardSeries
    from neurostorm_app.pipelines.train.cache_file import CachedRun

__all__ = ["Material", "Start", "draw_control", "draw_start", "gather", "open_start"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A network before its training.

    Parameters
    ----------
    name : str
        Of the model that will come of it.
    card : Card
        What is known of it; its configuration is that of the network.
    model : Module
        On the CPU.
    sha256 : str
        Of its values.
    scratch : bool
        Whether its weights were drawn, not read.
    demo : bool
        Whether what comes of it is for trying only: it starts from demo weights, or sees phantoms.
    """

    name: str
    card: Card
    model: nn.Module
    sha256: str
    scratch: bool = False
    demo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Runs to train on.

    Parameters
    ----------
    people : tuple of tuple of CachedRun
        The runs of each participant.
    recipe : CacheRecipe
        How they were made ready.
    n_left_out : int
        Runs that could not be used.
    """

    people: tuple[tuple[CachedRun, ...], ...]
    recipe: CacheRecipe
    n_left_out: int = 0

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return sum(map(len, self.people))

    @property
    def digest(self) -> str:
        """Hash of all that will be seen; it names no participant and no file."""
        return hashlib.sha256(self.secret).hexdigest()

    @property
    def secret(self) -> bytes:
        """The keys of all runs, which only who has the runs knows."""
        return json.dumps([[run.key for run in runs] for runs in self.people]).encode()


def open_start(card: Card, files: InputFiles, *, name: str, demo: bool = False) -> Start:
    """Load the weights that a training starts from.

    Parameters
    ----------
    card : Card
        Of a network.
    files : InputFiles
        Its weights.
    name : str
        Of the model that will come of it.
    demo : bool
        Whether the runs are of phantoms.

    Returns
    -------
    Start
        The network as its file says, with the file's own configuration.

    Raises
    ------
    UsageError
        If the model has no weights to train.
    MissingWeightsError, WrongWeightsError
        If the weights are not there, or of another model.
    """
    name_model(name)  # refused before hours of training, not after
    if card.file is None:
        raise UsageError(
            f"{card.name} has no weights, so there is nothing to train",
            fix="choose a network, such as neurostorm-demo",
        )
    model = create_model(card, weights=files.weights)
    return Start(
        name=name, card=card, model=model, sha256=hash_values(model), demo=card.demo or demo
    )


def draw_control(card: Card, *, name: str) -> Start:
    """Take a network with the random weights of its control, which a training leaves as they are.

    Parameters
    ----------
    card : Card
        Of a control, such as ``fmri-lm-untrained``.
    name : str
        Of the model that will come of it.

    Returns
    -------
    Start
        Of what is for trying only.
    """
    name_model(name)
    model = create_model(card)
    return Start(
        name=name, card=card, model=model, sha256=hash_values(model), scratch=True, demo=True
    )


def draw_start(
    card: Card,
    *,
    name: str,
    seed: int,
    config: Mapping[str, Any] | None = None,
    demo: bool = False,
) -> Start:
    """Draw the weights that a training starts from: from scratch.

    Parameters
    ----------
    card : Card
        Of a network; its contract, and where `config` says nothing else, its shape.
    name : str
        Of the model that will come of it.
    seed : int
        Of the draw.
    config : mapping, optional
        Hyper-parameters under upstream's names that replace the card's.
    demo : bool
        Whether the runs are of phantoms.

    Returns
    -------
    Start
        Of a card that no longer speaks of the weights it was of.

    Raises
    ------
    UsageError
        If the network would not eat what its contract makes.
    WrongWeightsError
        If the hyper-parameters make no network.
    """
    name_model(name)
    settings = {**card.config, **(config or {})}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build_first(card, settings, seed)
    fresh = card.model_copy(
        update={"config": settings, "licence": "Apache-2.0", "commercial_use": True, "demo": demo}
    )
    return Start(
        name=name, card=fresh, model=model, sha256=hash_values(model), scratch=True, demo=demo
    )


def gather(
    runs: Sequence[tuple[str, StandardSeries]], recipe: CacheRecipe, folder: Path, *, device: str
) -> tuple[tuple[str, ...], Material]:
    """Make runs ready, once for all processes of a launcher.

    Parameters
    ----------
    runs : sequence of (str, StandardSeries)
        A word for the participant, and a run.
    recipe : CacheRecipe
        How.
    folder : Path
        Of the cache.
    device : {'cpu', 'cuda'}
        Where will be trained.

    Returns
    -------
    participants : tuple of str
        Those with a run that can be used, ascending.
    material : Material
        Their runs, in the same order.

    Raises
    ------
    DataError
        If no run can be used.
    CannotCreateError
        If there is no space for the cache.
    """
    recipe.window  # noqa: B018  refuses a model without windows before anything is read
    ordered = sorted(runs, key=lambda item: (item[0], item[1].name))
    with main_first(device):
        found = build_cache([series for _, series in ordered], recipe, folder)
    people: dict[str, list[CachedRun]] = {}
    first: AppError | None = None
    for (participant, series), run in zip(ordered, found, strict=True):
        if isinstance(run, AppError):
            first = first or run
        else:
            people.setdefault(participant, []).append(replace(run, source=series))
    if not people:
        why = f"; the first: {first.what}" if first else ""
        raise DataError(
            f"none of {len(ordered)} runs can be trained on{why}",
            fix=first.fix if first else "check the folder of derivatives",
        )
    material = Material(
        people=tuple(map(tuple, people.values())),
        recipe=recipe,
        n_left_out=sum(isinstance(run, AppError) for run in found),
    )
    log.info(
        "%d runs of %d participants to train on; %d left out",
        *(material.n_runs, len(people), material.n_left_out),
    )
    return tuple(people), material
