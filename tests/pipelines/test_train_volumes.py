from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import safe_open

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.weights import EMBEDDED, hash_file
from neurostorm_app.pipelines.train import find_hits, train_volumes, volumes
from neurostorm_app.pipelines.train.volume_phantoms import FIRST, PLACED, VolumePhantoms

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CARD = read_card("neurostorm-demo")
UNSEEN = 20_001
"""Participants from here on are in no training."""


@pytest.fixture(scope="module")
def phantoms() -> VolumePhantoms:
    return VolumePhantoms(CARD, 1)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make few runs of few people, of one window, and hold out one participant."""
    for name, value in {"WINDOWS": 1, "HELD_OUT": 1, "CONTROLS": 1, "RUNS": 2}.items():
        monkeypatch.setattr(volumes, name, value)


@pytest.mark.usefixtures("brief")
def test_one_seed_trains_one_file_that_loads(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    files = [tmp_path / name for name in ("first.safetensors", "second.safetensors")]
    reports = [train_volumes(file, participants=2, steps=2, seed=3) for file in files]
    assert reports[0] == reports[1]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert reports[0].loss < reports[0].loss_untrained
    with safe_open(files[0], framework="pt") as file:
        stored = json.loads(file.metadata()["config"])
    assert stored["training"]["steps"] == 2
    model = create_model("neurostorm-mae", weights=files[0])
    assert model.embed(torch.rand(1, 1, 48, 48, 48, 20)).shape == (1, 96)


def test_only_models_of_volumes_can_be_trained_on_phantoms() -> None:
    with pytest.raises(UsageError, match=r"connectome.* takes no volumes, so phantoms cannot"):
        VolumePhantoms(read_card("connectome"), 1)


def test_training_sees_what_embedding_sees(phantoms: VolumePhantoms) -> None:
    windows = phantoms.windows(FIRST, 1, n=2)
    assert windows.shape == (2, 1, 48, 48, 48, 20)
    inside = windows > windows.min()
    assert 0.2 < inside.float().mean() < 0.35
    assert windows[inside].mean().item() == pytest.approx(0, abs=1e-3)  # standard deviations
    assert windows[inside].std().item() == pytest.approx(1, abs=1e-3)


def test_people_differ_by_little_and_runs_by_the_reach_of_the_mask(
    phantoms: VolumePhantoms,
) -> None:
    means = _mean_volumes(phantoms, range(UNSEEN, UNSEEN + 4))
    backgrounds = means.flatten(1).min(dim=1).values.numpy()
    assert 0.2 < backgrounds.std() < 1.0  # preprocessed phantoms: 0.4 to 0.5
    brain = (means > backgrounds.max() + 1).all(dim=0).numpy()
    found = means.numpy()[:, brain]
    usual = found.mean(axis=0)
    shapes = [values - np.polyval(np.polyfit(usual, values, 1), usual) for values in found]
    assert 0.02 < np.std(shapes) < 0.15  # preprocessed phantoms: 0.03 to 0.1
    assert find_hits(np.stack(shapes), "aabbccdd").all()


def test_people_who_lie_anywhere_differ_more(phantoms: VolumePhantoms) -> None:
    people = range(UNSEEN, UNSEEN + 3)
    spreads = [
        float(_mean_volumes(those, people).std(dim=0).mean())
        for those in (phantoms, VolumePhantoms(CARD, 1, spread=PLACED))
    ]
    assert spreads[1] > 1.2 * spreads[0]


@pytest.mark.usefixtures("brief")
def test_patches_enter_and_leave_as_their_principal_components() -> None:
    model = volumes.build_volumes(CARD, 1)
    tasks = volumes.VolumeTasks(model, CARD, range(FIRST, FIRST + 2), seed=1)
    mean = tasks.set_first_values()
    assert mean.shape == (1, 48, 48, 48, 1)
    x = tasks.windows[0][..., :1].float()
    with torch.no_grad():
        tokens = model.patch_embed(x)
        back = model.patch_embed.paste(model.decoder_pred(tokens))
    assert tokens.flatten(0, -2).std(dim=0).mean() == pytest.approx(1, abs=0.1)
    assert (back - x).square().mean() < 0.1 * x.var()


@pytest.mark.slow
def test_the_demo_weights_reconstruct_better_than_a_constant() -> None:
    training = _stored_training()
    model = create_model("neurostorm-demo")
    placed = VolumePhantoms(CARD, training["seed"], spread=PLACED)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for person in range(UNSEEN, UNSEEN + 5):
        x = placed.windows(person, 1, n=1)
        with torch.no_grad():
            mask = model.draw_mask(x, generator=generator)
            losses.append(model.reconstruct(x, mask).loss.item())
    assert np.mean(losses) == pytest.approx(training["loss"], rel=0.5)
    assert np.mean(losses) < training["loss_constant"] / 2


@pytest.mark.slow
def test_the_demo_weights_find_the_other_run_where_untrained_networks_do_not(
    monkeypatch: pytest.MonkeyPatch, phantoms: VolumePhantoms
) -> None:
    monkeypatch.setattr(volumes, "WINDOWS", 1)
    people = range(UNSEEN, UNSEEN + 10)
    of = [person for person in people for _ in (1, 2)]
    networks = [create_model("neurostorm-demo"), volumes.build_volumes(CARD, 1)]
    trained, untrained = (
        find_hits(vectors, of).mean() for vectors in volumes.embed_runs(networks, phantoms, people)
    )
    assert trained >= 0.85
    assert trained > untrained + 0.2


def test_the_card_is_of_the_file() -> None:
    path = EMBEDDED / str(CARD.file)
    assert hash_file(path) == CARD.sha256
    assert path.stat().st_size == CARD.size
    assert f"{_stored_training()['loss']:.3g}" in " ".join(CARD.limits)


def _mean_volumes(phantoms: VolumePhantoms, people: range) -> Tensor:
    """Average two runs of each over time: (2 * P, X, Y, Z)."""
    runs = [phantoms.volumes(p, run, n=10, every=10)[0] for p in people for run in (1, 2)]
    return torch.stack(runs).mean(dim=-1)


def _stored_training() -> dict[str, float]:
    with safe_open(EMBEDDED / str(CARD.file), framework="pt") as file:
        stored: dict[str, float] = json.loads(file.metadata()["config"])["training"]
    return stored
