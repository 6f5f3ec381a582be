"""Runs of one person are nearer to each other than to those of others, after learning from others.

The truth is planted: each person has a map of their own, under one that all share, under networks
that come and go differently in each run, and under noise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.card import Card, GridSpec
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.masks import Pretraining
from neurostorm_app.pipelines.train.matching import find_hits
from neurostorm_app.pipelines.train.material import Material, draw_start
from neurostorm_app.pipelines.train.pretraining import pretrain
from neurostorm_app.pipelines.train.settings import Plan

SIDES, WINDOW, N_VOLUMES, RUNS = (8, 16, 8), 8, 32, 2
LEARNT, ASKED = 24, 12
OWN = 1.5  # of the map that all share
CHANCE = (RUNS - 1) / (RUNS * ASKED - 1)
MARGIN = 0.35  # seen: 0.58
CONFIG = {
    "img_size": [*SIDES, WINDOW], "embed_dim": 8, "num_heads": 1, "stages": [1, 1, 1],
    "patch_kernel": [1, 2, 2, 2], "q_pool": 1, "q_stride": [2, 2, 2, 2],
    "mask_unit_size": [4, 4, 4, 4], "mlp_ratio": 2.0, "guess_width": 16,
}  # fmt: skip
AXES = np.meshgrid(*[np.linspace(-1, 1, n) for n in SIDES], indexing="ij")
BRAIN = sum(axis**2 for axis in AXES) < 1.2


def smooth(draws: np.random.Generator) -> np.ndarray:
    """Draw a smooth map of standard deviation 1 in the brain."""
    total = np.zeros(SIDES)
    for _ in range(6):
        turns = draws.normal(0, 2.5, 3)
        height = draws.normal()
        waves = sum(turn * axis for turn, axis in zip(turns, AXES, strict=True))
        total += height * np.sin(waves + draws.uniform(0, 6))
    return total / total[BRAIN].std()


class Run:
    """A run as the cache gives it."""

    n_volumes, xyz = N_VOLUMES, None

    def __init__(self, person: int, number: int) -> None:
        draws = np.random.default_rng([7, person, number])
        own = smooth(np.random.default_rng([3, person]))
        still = smooth(np.random.default_rng(0)) + OWN * own
        series = still[..., None] + draws.normal(size=(*SIDES, N_VOLUMES))
        for _ in range(3):
            course = np.convolve(draws.normal(size=N_VOLUMES + 4), np.ones(5) / 2, "valid")
            series += 0.7 * smooth(draws)[..., None] * course
        inside = series[BRAIN]
        scaled = (series - inside.mean()) / inside.std() * BRAIN[..., None]
        self.key, self.series = f"{person}-{number}", scaled[np.newaxis].astype(np.float32)

    def window(self, start: int, length: int) -> np.ndarray:
        return self.series[..., start : start + length]


@pytest.fixture(scope="module")
def card() -> Card:
    """A card of the package on a grid of 8 x 16 x 8."""
    full = read_card("slim-brain")
    rows = ((2.0, 0.0, 0.0, 0.0), (0.0, 2.0, 0.0, 0.0), (0.0, 0.0, 2.0, 0.0))
    contract = full.contract.model_copy(
        update={
            "grid": GridSpec(shape=SIDES, affine=rows), "tr": 2.0, "tr_range": None,
            "window": WINDOW, "stride": WINDOW,
        }
    )  # fmt: skip
    return full.model_copy(update={"contract": contract, "config": CONFIG})


def match(model: torch.nn.Module) -> float:
    """Tell how often the nearest run of new people is their own."""
    vectors, of = [], []
    for person in range(LEARNT, LEARNT + ASKED):
        for number in range(RUNS):
            run = Run(person, number)
            windows = [run.window(start, WINDOW) for start in range(0, N_VOLUMES, WINDOW)]
            with torch.inference_mode():
                found = model.eval().embed(torch.from_numpy(np.stack(windows)))
            vectors.append(found.mean(dim=0).numpy())
            of.append(person)
    return float(find_hits(np.stack(vectors), of).mean())


def test_embeddings_of_one_person_are_nearer_than_those_of_others(card, tmp_path) -> None:
    people = tuple(tuple(Run(person, n) for n in range(RUNS)) for person in range(LEARNT))
    material = Material(people=people, recipe=CacheRecipe(contract=card.contract))  # type: ignore[arg-type]
    start = draw_start(card, name="mine", seed=1, demo=True)
    before = match(start.model)
    ending = pretrain(
        material,
        start=start,
        settings=Pretraining(mask_ratio=0.5, validation=0.2, validation_windows=1),
        plan=Plan(steps=60, batch=8, rate=5e-3, validate_every=30, seed=3),
        out=tmp_path / "out",
    )
    after = match(create_model(ending.card))
    assert after > CHANCE + MARGIN
    assert after > before + 0.05
