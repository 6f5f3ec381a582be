"""Redundancy dropout and the loss of pre-training: none, as in the paper, as in upstream's code.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_redundancy.py [STEPS] [SEEDS] [scratch]

Networks of neurostorm-demo's shape start from the same weights (the demo's own, or drawn ones) and
see the same windows of phantoms, with the same masks, in the same order; only what is dropped
differs. The loss is of participants who are held out, the same in all trainings of a seed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurostorm_app.models import read_card
from neurostorm_app.pipelines.inputs import find_inputs
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.engine import train
from neurostorm_app.pipelines.train.masks import Pretraining
from neurostorm_app.pipelines.train.material import Material, draw_start, open_start
from neurostorm_app.pipelines.train.pretraining import MaskedGuess, with_masks
from neurostorm_app.pipelines.train.settings import Plan
from neurostorm_app.pipelines.train.volume_phantoms import FIRST, PLACED, VolumePhantoms

CARD = read_card("neurostorm-demo")
PEOPLE, VOLUMES = 20, 40


@dataclass(frozen=True)
class Run:
    """A rendered run that is asked for windows like one in the cache."""

    key: str
    series: np.ndarray
    xyz: None = None

    @property
    def n_volumes(self) -> int:
        return self.series.shape[-1]

    def window(self, start: int, length: int) -> np.ndarray:
        return self.series[..., start : start + length].astype(np.float32)


def measure(material: Material, redundancy: str, *, steps: int, seed: int) -> None:
    settings = Pretraining(redundancy=redundancy, validation=0.3, validation_windows=1)
    if "scratch" in sys.argv:
        start = draw_start(CARD, name="bench", seed=seed)
    else:
        start = open_start(CARD, find_inputs(CARD), name="bench")
    task = MaskedGuess(with_masks(start, settings), material, settings, seed=seed)
    shares: list[float] = []
    forward = task.forward

    def counted(draw, loaded):
        loss = forward(draw, loaded)
        shares.extend(task.dropped[-1:])
        return loss

    task.forward = counted
    plan = Plan(
        steps=steps, batch=1, rate=1e-3, weight_decay=0.05, seed=seed, patience=0,
        validate_every=max(1, steps // 4), checkpoint_every=steps,
    )  # fmt: skip
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = train(task, plan, folder=Path(folder) / "out", identity={})
    losses = " ".join(f"{row['loss']:.5f}" for row in out.validations)
    dropped = f"{np.mean(shares):.3%}" if shares else "-"
    seconds = (time.perf_counter() - began) / steps
    print(f"{seed:5d} {redundancy:9s} {losses:36s} {dropped:9s} {seconds:.2f}", flush=True)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 160
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    phantoms = VolumePhantoms(CARD, 1, spread=PLACED)
    people = tuple(
        (Run(str(person), phantoms.volumes(person, 1, n=VOLUMES).half().numpy()),)
        for person in range(FIRST, FIRST + PEOPLE)
    )
    material = Material(people=people, recipe=CacheRecipe(contract=CARD.contract))
    print(f"{' seed':5s} {'dropout':9s} {'held-out loss at each quarter':36s} dropped   s/step")
    for seed in range(1, seeds + 1):
        for redundancy in ("none", "paper", "upstream"):
            measure(material, redundancy, steps=steps, seed=seed)


if __name__ == "__main__":
    main()
