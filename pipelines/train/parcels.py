"""Train brainlm-demo: a small BrainLM of the native family on phantoms' parcels, from a seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from neurostorm_app.models import read_card
from neurostorm_app.models.brainlm_files import NativeConfig
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.pipelines.train.first_values import (
    draw_first_values,
    draw_plain_values,
    fit_last_layer,
)
from neurostorm_app.pipelines.train.matching import Matching, compare_matching, find_hits
from neurostorm_app.pipelines.train.optimise import fit
from neurostorm_app.pipelines.train.parcel_phantoms import FIRST, ParcelPhantoms
from neurostorm_app.pipelines.train.parcel_tasks import Tasks, correlate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.train.parcel_tasks import Losses

__all__ = ["ParcelTraining", "build_parcels", "embed_runs", "train_parcels"]

NAME = "brainlm-demo"
RUN = 100
"""Volumes of a run of training, from which a window is cut at random."""
SCORED = 70
"""Volumes of a run of scoring: about what phantoms have."""
HELD_OUT, CONTROLS = 40, 5
"""Participants that training never sees, and untrained networks to compare with."""
PEOPLE, HIDDEN = 8, 4
"""Participants in a step, two runs of each, and windows of these with hidden patches."""
SOME = 200
"""Runs to which the decoder's last layer is fitted at the start."""
PULLED_FROM = 0.3
"""Share of the steps after which two runs of one participant are pulled together."""
PEAK_RATE, TELLERS_RATE, WEIGHT_DECAY = 1e-3, 5e-3, 0.01
TABLE = 100
"""Rows of the table of positions that are stored: patches a window may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelTraining:
    """What came out of a training; all numbers are of participants that it never saw.

    Parameters
    ----------
    steps, seed, participants : int
        As asked for.
    loss, loss_untrained : float
        Mean squared error over hidden patches, of the weights and before the first step.
    loss_constant : float
        Of the best single value.
    loss_mean : float
        Of the mean over visible parcels, volume by volume.
    matching : Matching
        Nearest runs, against networks that start from the same first values.
    matched_plain : float
        Share matched by untrained networks with the usual first values.
    """

    steps: int
    seed: int
    participants: int
    loss: float
    loss_untrained: float
    loss_constant: float
    loss_mean: float
    matching: Matching
    matched_plain: float


def train_parcels(
    out: Path, *, participants: int = 3000, steps: int = 4000, seed: int = 1
) -> ParcelTraining:
    """Train ``brainlm-demo`` and write its weights.

    Parameters
    ----------
    out : Path
        The safetensors file to write; its configuration and the report are inside.
    participants : int
        Phantoms to train on, two runs of each.
    steps : int
        Steps of the optimiser.
    seed : int
        Of the phantoms, the first weights, the order and what is hidden.

    Returns
    -------
    ParcelTraining
        How good it is, and how good simpler things are.
    """
    card = read_card(NAME)
    phantoms = ParcelPhantoms(card, seed)
    network = build_parcels(card, seed)
    known = phantoms.runs(range(FIRST, FIRST + participants), n_runs=2, n_volumes=RUN)
    _fit(network, known, phantoms, steps=steps, seed=seed)
    first = FIRST + participants
    held_out = phantoms.runs(range(first, first + HELD_OUT), n_runs=2, n_volumes=SCORED)
    matching, plain = _match(network, card, held_out, phantoms, seed=seed)
    report = ParcelTraining(
        steps=steps,
        seed=seed,
        participants=participants,
        matching=matching,
        matched_plain=plain,
        **_losses(network, build_parcels(card, seed), held_out, phantoms, seed=seed),
    )
    _save(network, card, report, out)
    return report


def embed_runs(network: BrainLmNative, runs: Tensor, phantoms: ParcelPhantoms) -> Tensor:
    """Embed runs, (P, R, V, T), by the mean over windows: (P * R, H)."""
    vectors = []
    with torch.no_grad():
        for run in runs.flatten(0, 1):
            windows = phantoms.windows(run)
            places = phantoms.places.expand(len(windows), -1, -1)
            vectors.append(network.embed(windows, places).mean(dim=0))
    return torch.stack(vectors)


def build_parcels(
    card: Card, seed: int, draw: Callable[[BrainLmNative, int], None] = draw_first_values
) -> BrainLmNative:
    """Build a network that was never trained, from a seed; `draw` gives its first values."""
    with torch.random.fork_rng(devices=[]):
        network = BrainLmNative(NativeConfig.of(card.config), table=TABLE)
    draw(network, seed)
    return network.eval()  # no dropout: it would drown so small a network


def _fit(
    network: BrainLmNative, known: Tensor, phantoms: ParcelPhantoms, *, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    some = known[:SOME, 0, :, : phantoms.window]
    fit_last_layer(network, some, phantoms.places.expand(len(some), -1, -1), generator)
    usual = correlate(known[:, 0, :, : phantoms.window]).mean(dim=0)
    tasks = Tasks(network, phantoms.places, usual, generator)

    def loss_of(step: int) -> Tensor:
        windows = _draw_windows(known, phantoms.window, generator)
        losses: Losses = tasks(network, windows, n_hidden=HIDDEN)
        return losses.total(pulled=step >= PULLED_FROM * steps)

    groups = [(list(network.parameters()), PEAK_RATE), (list(tasks.parameters()), TELLERS_RATE)]
    fit(groups, loss_of, steps=steps, weight_decay=WEIGHT_DECAY)


def _draw_windows(known: Tensor, window: int, generator: torch.Generator) -> Tensor:
    """Cut windows at random from the two runs of random participants: (2 * P, V, L)."""
    people = torch.randperm(len(known), generator=generator)[:PEOPLE]
    starts = torch.randint(known.shape[-1] - window + 1, (len(people), 2), generator=generator)
    cut = [
        known[person, run, :, start : start + window]
        for person, pair in zip(people.tolist(), starts.tolist(), strict=True)
        for run, start in enumerate(pair)
    ]
    return torch.stack(cut)


def _match(
    network: BrainLmNative, card: Card, runs: Tensor, phantoms: ParcelPhantoms, *, seed: int
) -> tuple[Matching, float]:
    people = [person for person in range(len(runs)) for _ in range(runs.shape[1])]

    def hits(candidate: BrainLmNative) -> NDArray[np.bool_]:
        return find_hits(embed_runs(candidate, runs, phantoms).numpy(), people)

    seeds = range(seed, seed + CONTROLS)
    untrained = [hits(build_parcels(card, s)) for s in seeds]
    plain = [hits(build_parcels(card, s, draw_plain_values)) for s in seeds]
    return compare_matching(hits(network), untrained, people), float(np.mean(plain))


def _losses(
    network: BrainLmNative,
    untrained: BrainLmNative,
    runs: Tensor,
    phantoms: ParcelPhantoms,
    *,
    seed: int,
) -> dict[str, float]:
    """Mean squared errors over the same hidden patches of participants that were held out."""
    windows = torch.cat([phantoms.windows(run)[:1] for run in runs[:, 0]])
    places = phantoms.places.expand(len(windows), -1, -1)
    patches = windows.reshape(*windows.shape[:2], -1, network.patch)
    noise = torch.rand(
        len(windows), patches[0, ..., 0].numel(), generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        made = network.reconstruct(windows, places, noise=noise)
        before = untrained.reconstruct(windows, places, noise=noise)
    hidden = made.mask[..., None].expand_as(patches).bool()
    shown = torch.where(hidden, torch.nan, patches).nanmean(dim=1, keepdim=True)
    return {
        "loss": float(made.loss),
        "loss_untrained": float(before.loss),
        "loss_constant": float(patches[hidden].var(correction=0)),
        "loss_mean": float((patches - shown)[hidden].square().mean()),
    }


def _save(network: BrainLmNative, card: Card, report: ParcelTraining, out: Path) -> None:
    content = json.dumps({**card.config, "training": asdict(report)})
    save_file(network.state_dict(), out, metadata={"config": content})
    out.chmod(0o644)  # it is written for its owner alone
