from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.weights import EMBEDDED
from neurostorm_app.pipelines.train import train_volumes, volumes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs of one window, and hold out one participant."""
    monkeypatch.setattr(volumes, "WINDOWS", 1)
    monkeypatch.setattr(volumes, "HELD_OUT", 1)
    monkeypatch.setattr(volumes, "CONTROLS", 1)


@pytest.mark.usefixtures("brief")
def test_one_seed_trains_one_file_that_loads(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    files = [tmp_path / name for name in ("first.safetensors", "second.safetensors")]
    reports = [train_volumes(f, participants=2, runs=1, steps=2, seed=3) for f in files]
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
        volumes.Phantoms(read_card("connectome"), 1)


def test_training_sees_what_embedding_sees() -> None:
    phantoms = volumes.Phantoms(read_card("neurostorm-demo"), 1)
    windows = phantoms.windows(1, 1)
    assert windows.shape == (3, 1, 48, 48, 48, 20)
    inside = windows > windows.min()
    assert 0.2 < inside.float().mean() < 0.35
    assert windows[inside].mean().item() == pytest.approx(0, abs=1e-3)  # standard deviations
    assert windows[inside].std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_the_demo_weights_reconstruct_better_than_a_constant() -> None:
    card = read_card("neurostorm-demo")
    with safe_open(EMBEDDED / str(card.file), framework="pt") as file:
        training = json.loads(file.metadata()["config"])["training"]
    model = create_model("neurostorm-demo")
    phantoms = volumes.Phantoms(card, training["seed"])
    x = phantoms.windows(training["participants"] + 1, 1)
    mask = model.draw_mask(x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = model.reconstruct(x, mask).loss.item()
    assert loss == pytest.approx(training["loss"], rel=0.5)
    assert loss < training["loss_constant"] / 2
