"""Train neurostorm-demo: a small masked autoencoder on phantoms' volumes, from a seed.

The phantoms' signals are rendered straight onto the grid of the model's contract and scaled by
the function that embedding uses.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from neurostorm_app.errors import UsageError
from neurostorm_app.models import read_card
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.card import VolumeContract
from neurostorm_app.models.neurostorm_files import Config
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.normalize import normalize_volume
from neurostorm_app.pipelines.phantom import standard_series
from neurostorm_app.pipelines.train.optimise import fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from neurostorm_app.models.card import Card

__all__ = ["Phantoms", "Training", "build_volumes", "score_matching", "train_volumes"]

logger = logging.getLogger(__name__)

WINDOWS = 3
"""Windows in a run of scoring; a run of training has one."""

HELD_OUT = 20
"""Participants that training never sees; their numbers follow those of training."""

SHAPE, PLACE, GAIN, AGAIN = 0.04, 4.0, 0.002, 0.5
"""How much phantoms differ in the standard space: spread of the linear map to it (no unit), its
shift (mm) and the gain (share a mm) between participants, and of the shift between runs (mm).
More than a good normalisation leaves: without it, a network learns one brain and looks at none.
The phantoms' template stands in for the contract's space, from which it differs by far less."""

SCORED, CONTROLS = 0.25, 3
"""Share of that variety with which matching is scored, and untrained networks to compare with."""

PEAK_RATE, WEIGHT_DECAY = 6e-3, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What came out of a training; all losses are of participants that it never saw.

    Parameters
    ----------
    steps, batch, seed, participants, runs : int
        As asked for.
    loss : float
        Mean squared error over hidden voxels, in variances of the brain's signal.
    loss_untrained : float
        Of the same network before the first step.
    loss_constant : float
        Of the best single value for all voxels.
    loss_mean_volume : float
        Of the best single volume: the mean volume of the training's runs.
    matched, matched_untrained : float
        Share of runs whose nearest run, by the cosine of their embeddings, is of the same
        participant, when participants differ by `SCORED` of what they do in training; of the
        weights, and the mean of `CONTROLS` networks that were never trained.
    matched_by_chance : float
    """

    steps: int
    batch: int
    seed: int
    participants: int
    runs: int
    loss: float
    loss_untrained: float
    loss_constant: float
    loss_mean_volume: float
    matched: float
    matched_untrained: float
    matched_by_chance: float


class Phantoms:
    """Runs of phantoms on the grid of a contract, scaled.

    Parameters
    ----------
    card : Card
        Of a model that takes volumes.
    seed : int
        The phantoms' own.
    variety : float
        How much participants differ in the standard space; 1 as in training.
    """

    def __init__(self, card: Card, seed: int, *, variety: float = 1.0) -> None:
        contract = card.contract
        if not isinstance(contract, VolumeContract):
            raise UsageError(
                f"{card.name} takes no volumes, so phantoms cannot train it",
                fix="train neurostorm-demo",
            )
        self.contract, self.seed, self.variety = contract, seed, variety
        self.points = Grid.from_rows(contract.grid.shape, contract.grid.affine).world()

    def windows(self, participant: int, run: int, *, n: int = WINDOWS) -> Tensor:
        """Render a run of n windows: (n, 1, X, Y, Z, L), no unit."""
        anatomy = np.random.default_rng((self.seed, participant))
        linear = np.eye(3) + anatomy.normal(0, self.variety * SHAPE, (3, 3))
        shift = anatomy.normal(0, self.variety * PLACE, 3)
        gain = np.exp(self.points @ anatomy.normal(0, self.variety * GAIN, 3)).astype(np.float32)
        shift += np.random.default_rng((self.seed, participant, run)).normal(0, AGAIN, 3)
        series, mask = standard_series(
            participant,
            run,
            seed=self.seed,
            grid=self.points @ linear.T + shift,
            n_volumes=n * self.contract.window,
            tr=self.contract.tr,
        )
        scaled, _ = normalize_volume(series * gain[..., None], mask, self.contract)
        return torch.from_numpy(np.stack(np.split(scaled, n, axis=-1))[:, None])


def train_volumes(
    out: Path,
    *,
    participants: int = 100,
    runs: int = 2,
    steps: int = 900,
    seed: int = 1,
    batch: int = 1,
) -> Training:
    """Train ``neurostorm-demo`` and write its weights.

    Parameters
    ----------
    out : Path
        The safetensors file to write; its configuration and the report are inside.
    participants, runs : int
        Phantoms to train on, and runs of each.
    steps : int
        Steps of the optimiser.
    seed : int
        Of the phantoms, the first weights, the order and the masks.
    batch : int
        Windows a step.

    Returns
    -------
    Training
        How good it is, and how good simpler things are.
    """
    card = read_card("neurostorm-demo")
    phantoms = Phantoms(card, seed)
    model = build_volumes(card, seed)
    people = range(1, participants + 1)
    known = [phantoms.windows(p, 1, n=1).mean(dim=(0, -1)) for p in people]
    mean_volume = torch.stack(known).mean(dim=0)[..., None]  # (1, X, Y, Z, 1)
    nn.init.constant_(model.decoder_pred.bias, float(mean_volume.mean()))
    _fit(model, _batches(phantoms, people, runs=runs, batch=batch), steps=steps, seed=seed)
    held_out = range(participants + 1, participants + 1 + HELD_OUT)
    report = Training(
        steps=steps,
        batch=batch,
        seed=seed,
        participants=participants,
        runs=runs,
        **_matching(model, card, held_out, seed=seed),
        **_losses([model, build_volumes(card, seed)], phantoms, mean_volume, held_out),
    )
    logger.info("trained: %s", report)
    content = json.dumps({**card.config, "training": asdict(report)})
    save_file(model.state_dict(), out, metadata={"config": content})
    out.chmod(0o644)  # it is written for its owner alone
    return report


def score_matching(model: NeuroStormMae, phantoms: Phantoms, people: Sequence[int]) -> float:
    """Tell how often the nearest run is the other run of the same participant.

    Parameters
    ----------
    model : NeuroStormMae
        Whatever embeds.
    phantoms : Phantoms
        Where the runs come from; two of each participant.
    people : sequence of int
        Numbers of the participants.

    Returns
    -------
    float
        Share of runs, by the cosine of the mean embeddings of their windows.
    """
    keys = [(p, r) for p in people for r in (1, 2)]
    with torch.no_grad():
        runs = torch.stack([model.embed(phantoms.windows(p, r)).mean(dim=0) for p, r in keys])
    unit = nn.functional.normalize(runs.double(), dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(dim=1).tolist()
    return float(np.mean([keys[i][0] == keys[j][0] for i, j in enumerate(nearest)]))


def build_volumes(card: Card, seed: int) -> NeuroStormMae:
    """Build a network that was never trained, from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NeuroStormMae(Config.of(card.config)).eval()


def _matching(
    model: NeuroStormMae, card: Card, people: Sequence[int], *, seed: int
) -> dict[str, float]:
    phantoms = Phantoms(card, seed, variety=SCORED)
    controls = [build_volumes(card, seed + i) for i in range(CONTROLS)]
    return {
        "matched": score_matching(model, phantoms, people),
        "matched_untrained": float(
            np.mean([score_matching(control, phantoms, people) for control in controls])
        ),
        "matched_by_chance": 1 / (2 * len(people) - 1),
    }


def _batches(
    phantoms: Phantoms, people: Sequence[int], *, runs: int, batch: int
) -> Iterator[Tensor]:
    """Yield (B, 1, X, Y, Z, L), each of different runs, without end."""
    rng = np.random.default_rng(phantoms.seed)
    keys = [(p, r) for p in people for r in range(1, runs + 1)]
    while True:
        order = rng.permutation(len(keys))
        for first in range(0, len(keys) - batch + 1, batch):
            chosen = [keys[i] for i in order[first : first + batch]]
            yield torch.cat([phantoms.windows(*key, n=1) for key in chosen])


def _fit(model: NeuroStormMae, batches: Iterator[Tensor], *, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def loss_of(_: int) -> Tensor:
        x = next(batches)
        loss: Tensor = model.reconstruct(x, model.draw_mask(x, generator=generator)).loss
        return loss

    model.train()
    groups = [(list(model.parameters()), PEAK_RATE)]
    fit(groups, loss_of, steps=steps, weight_decay=WEIGHT_DECAY)
    model.eval()


def _losses(
    models: Sequence[NeuroStormMae],
    phantoms: Phantoms,
    mean_volume: Tensor,
    people: Sequence[int],
) -> dict[str, float]:
    """Mean squared errors over the same hidden voxels of participants that were held out."""
    generator = torch.Generator().manual_seed(phantoms.seed)
    trained, untrained = models
    errors: dict[str, list[float]] = {}
    for person in people:
        x = phantoms.windows(person, 1)
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
