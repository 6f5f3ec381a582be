"""Train neurostorm-demo: a small masked autoencoder on phantoms' volumes, from a seed.

It does two things in each step. It guesses what is hidden of windows of people who lie anywhere,
which is NeuroSTORM's own task, and it pulls embeddings of two runs of a person together and those
of other people apart, among people who were normalised. The first alone learns what all brains
share, and that does not tell people apart.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from neurostorm_app.models import read_card
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.losses import nt_xent
from neurostorm_app.models.neurostorm_files import Config
from neurostorm_app.pipelines.train.matching import Matching, compare_matching, find_hits
from neurostorm_app.pipelines.train.optimise import fit
from neurostorm_app.pipelines.train.volume_phantoms import FIRST, PLACED, VolumePhantoms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from neurostorm_app.models.card import Card

__all__ = ["Training", "VolumeTasks", "build_volumes", "embed_runs", "train_volumes"]

logger = logging.getLogger(__name__)

NAME = "neurostorm-demo"
HELD_OUT, CONTROLS = 30, 3
"""Participants that training never sees, and untrained networks to compare with."""
WINDOWS = 3
"""Windows in a run of scoring: about what phantoms have."""
PEOPLE, RUNS = 10, 3
"""Participants in a step, two runs of each, and runs from which these are drawn."""
VOLUMES, EVERY = 4, 10
"""Volumes that are seen of such a run, and repetition times between them: what tells people
apart shows in each volume, and volumes far apart have other signals on top."""
TEMPERATURE = 0.1
PULL = 1.0
"""Weight of the second task; the first has 1."""
PLACES = 64
"""Participants of whom a window is guessed, each lying somewhere."""
PEAK_RATE, WEIGHT_DECAY = 4e-3, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What came out of a training; all numbers are of participants that it never saw.

    Parameters
    ----------
    steps, seed, participants : int
        As asked for.
    loss : float
        Mean squared error over hidden voxels of people who lie anywhere, in variances of the
        brain's signal.
    loss_untrained : float
        Of a network before the first step.
    loss_constant : float
        Of the best single value for all voxels.
    loss_mean_volume : float
        Of the best single volume.
    matching : Matching
        Nearest runs of people who were normalised, against networks that were never trained.
    """

    steps: int
    seed: int
    participants: int
    loss: float
    loss_untrained: float
    loss_constant: float
    loss_mean_volume: float
    matching: Matching


def train_volumes(
    out: Path, *, participants: int = 80, steps: int = 250, seed: int = 1
) -> Training:
    """Train ``neurostorm-demo`` and write its weights.

    Parameters
    ----------
    out : Path
        The safetensors file to write; its configuration and the report are inside.
    participants : int
        Phantoms to train on, `RUNS` runs of each; 1 MB of memory a run.
    steps : int
        Steps of the optimiser.
    seed : int
        Of the phantoms, the first weights, the order and the masks.

    Returns
    -------
    Training
        How good it is, and how good simpler things are.
    """
    card = read_card(NAME)
    people = range(FIRST, FIRST + participants)
    held_out = range(FIRST + participants, FIRST + participants + HELD_OUT)
    model = build_volumes(card, seed)
    tasks = VolumeTasks(model, card, people, seed=seed)
    mean_volume = tasks.set_first_values()
    model.train()
    groups = [(list(model.parameters()), PEAK_RATE)]
    fit(groups, tasks, steps=steps, weight_decay=WEIGHT_DECAY)
    model.eval()
    report = Training(
        steps=steps,
        seed=seed,
        participants=participants,
        matching=_match(model, card, held_out, seed=seed),
        **_losses([model, build_volumes(card, seed)], card, mean_volume, held_out, seed=seed),
    )
    logger.info("trained: %s", report)
    content = json.dumps({**card.config, "training": asdict(report)})
    save_file(model.state_dict(), out, metadata={"config": content})
    out.chmod(0o644)  # it is written for its owner alone
    return report


class VolumeTasks:
    """What is asked of the network in each step; called, it gives the loss.

    Parameters
    ----------
    model : NeuroStormMae
        The network.
    card : Card
        Of a model that takes volumes.
    people : sequence of int
        Participants of training.
    seed : int
        Of the phantoms, the order and the masks.
    """

    def __init__(
        self, model: NeuroStormMae, card: Card, people: Sequence[int], *, seed: int
    ) -> None:
        self.model = model
        normalised, placed = VolumePhantoms(card, seed), VolumePhantoms(card, seed, spread=PLACED)
        runs = range(1, RUNS + 1)
        self.runs = [
            [normalised.volumes(person, run, n=VOLUMES, every=EVERY).half() for run in runs]
            for person in people
        ]
        self.windows = [placed.windows(person, 1, n=1).half() for person in people[:PLACES]]
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)

    def __call__(self, _: int) -> Tensor:
        """Compute the loss of a step."""
        return self.guess() + PULL * self.pull()

    def guess(self) -> Tensor:
        """Hide a part of a window of a person who lies anywhere, and guess it."""
        x = self.windows[self.rng.integers(len(self.windows))].float()
        mask = self.model.draw_mask(x, generator=self.generator)
        loss: Tensor = self.model.reconstruct(x, mask).loss
        return loss

    def pull(self) -> Tensor:
        """Tell the other run of a person from runs of other people.

        The mean over runs is off, as an index takes it off.
        """
        n = min(PEOPLE, len(self.runs))
        people = self.rng.choice(len(self.runs), n, replace=False)
        pairs = [self.rng.choice(RUNS, 2, replace=False) for _ in people]
        views = [
            self.runs[person][pair[which]]
            for which in (0, 1)
            for person, pair in zip(people, pairs, strict=True)
        ]
        vectors = self.model.embed(torch.stack(views).float())
        first, second = (vectors - vectors.mean(dim=0)).chunk(2)
        return nt_xent(first, second, temperature=TEMPERATURE)

    @torch.no_grad()
    def set_first_values(self) -> Tensor:
        """Let patches enter and leave the network as their principal components.

        Returns
        -------
        Tensor, shape (1, X, Y, Z, 1)
            Mean of the people who lie anywhere.
        """
        volumes = torch.cat(self.windows)[..., :1].float()
        embed, out = self.model.patch_embed.fc, self.model.decoder_pred
        patches = self.model.patch_embed.cut(volumes).reshape(-1, embed.in_features).double()
        mean = patches.mean(dim=0)
        _, sizes, axes = torch.linalg.svd(patches - mean, full_matrices=False)
        spread = sizes[: embed.out_features, None] / len(patches) ** 0.5
        axes = axes[: embed.out_features]
        embed.weight.copy_(axes / spread)
        embed.bias.copy_(-(axes / spread) @ mean)
        out.weight.copy_((axes * spread).T)
        out.bias.copy_(mean)
        return volumes.mean(dim=0)


def embed_runs(
    models: Sequence[NeuroStormMae], phantoms: VolumePhantoms, people: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Embed two runs of each participant by the mean over windows: of each model, (2 * P, D)."""
    vectors: list[list[Tensor]] = [[] for _ in models]
    with torch.no_grad():
        for person, run in product(people, (1, 2)):
            windows = phantoms.windows(person, run, n=WINDOWS).chunk(WINDOWS)
            for model, rows in zip(models, vectors, strict=True):
                rows.append(torch.cat([model.embed(x) for x in windows]).mean(dim=0))
    return [torch.stack(rows).numpy() for rows in vectors]


def build_volumes(card: Card, seed: int) -> NeuroStormMae:
    """Build a network that was never trained, from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NeuroStormMae(Config.of(card.config)).eval()


def _match(model: NeuroStormMae, card: Card, people: Sequence[int], *, seed: int) -> Matching:
    of = [person for person in people for _ in (1, 2)]
    models = [model, *(build_volumes(card, seed + i) for i in range(CONTROLS))]
    vectors = embed_runs(models, VolumePhantoms(card, seed), people)
    hits = [find_hits(rows, of, centre=card.centre) for rows in vectors]
    return compare_matching(hits[0], hits[1:], of)


def _losses(
    models: Sequence[NeuroStormMae],
    card: Card,
    mean_volume: Tensor,
    people: Sequence[int],
    *,
    seed: int,
) -> dict[str, float]:
    """Mean squared errors over the same hidden voxels of participants that were held out."""
    generator = torch.Generator().manual_seed(seed)
    phantoms = VolumePhantoms(card, seed, spread=PLACED)
    trained, untrained = models
    errors: dict[str, list[float]] = {}
    for person in people:
        x = phantoms.windows(person, 1, n=1)
        mask = trained.draw_mask(x, generator=generator)
        with torch.no_grad():
            made = {
                "loss": trained.reconstruct(x, mask).loss,
                "loss_untrained": untrained.reconstruct(x, mask).loss,
                "loss_constant": trained.error(mean_volume.mean().expand_as(x), x, mask),
                "loss_mean_volume": trained.error(mean_volume.expand_as(x), x, mask),
            }
        for name, value in made.items():
            errors.setdefault(name, []).append(value.item())
    return {name: float(np.mean(values)) for name, values in errors.items()}
