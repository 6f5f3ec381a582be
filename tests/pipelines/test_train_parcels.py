from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.weights import EMBEDDED, hash_file
from neurostorm_app.pipelines.train import compare_matching, find_hits, parcels, train_parcels
from neurostorm_app.pipelines.train.first_values import draw_plain_values
from neurostorm_app.pipelines.train.parcel_phantoms import FIRST, ParcelPhantoms
from neurostorm_app.pipelines.train.parcel_tasks import contrast, correlate

if TYPE_CHECKING:
    from pathlib import Path

CARD = read_card("brainlm-demo")
UNSEEN = 20_001
"""Participants from here on are in no training."""


@pytest.fixture(scope="module")
def phantoms() -> ParcelPhantoms:
    return ParcelPhantoms(CARD, 1)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score on few participants and networks."""
    monkeypatch.setattr(parcels, "HELD_OUT", 2)
    monkeypatch.setattr(parcels, "CONTROLS", 1)


@pytest.mark.usefixtures("brief")
def test_one_seed_trains_one_file_that_loads(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    files = [tmp_path / name for name in ("first.safetensors", "second.safetensors")]
    reports = [train_parcels(file, participants=40, steps=10, seed=3) for file in files]
    assert reports[0] == reports[1]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert reports[0].loss < reports[0].loss_untrained
    with safe_open(files[0], framework="pt") as file:
        stored = json.loads(file.metadata()["config"])
    assert stored["training"]["steps"] == 10
    model = create_model("brainlm-demo", config=CARD.config, weights=load_file(files[0]))
    assert model.embed(torch.randn(1, 100, 60), torch.zeros(1, 100, 3)).shape == (1, 96)


def test_first_values_are_those_of_the_seed() -> None:
    one, two = (parcels.build_parcels(CARD, seed).state_dict() for seed in (1, 2))
    again = parcels.build_parcels(CARD, 1).state_dict()
    assert all(torch.equal(values, again[name]) for name, values in one.items())
    assert not torch.equal(
        one["vit.embeddings.xyz_embedding_projection.weight"],
        two["vit.embeddings.xyz_embedding_projection.weight"],
    )


def test_series_and_places_enter_on_channels_of_their_own() -> None:
    first = parcels.build_parcels(CARD, 1).state_dict()
    signal, places = (
        first[f"vit.embeddings.{name}_embedding_projection.weight"] for name in ("signal", "xyz")
    )
    assert not (signal.abs().sum(dim=1) * places.abs().sum(dim=1)).any()
    entering = signal[signal.any(dim=1)]
    torch.testing.assert_close(entering @ entering.T, torch.eye(len(entering)), atol=1e-5, rtol=0)


def test_only_models_of_windows_of_parcels_can_be_trained_on_parcels() -> None:
    with pytest.raises(UsageError, match=r"connectome takes no windows of parcels, so their"):
        ParcelPhantoms(read_card("connectome"), 1)


def test_training_sees_what_embedding_sees(phantoms: ParcelPhantoms) -> None:
    run = phantoms.run(FIRST, 1, n_volumes=70)
    assert run.shape == (100, 70)
    assert phantoms.windows(run).shape == (2, 100, 60)
    quartiles = np.percentile(run.numpy(), [25, 50, 75], axis=1)
    np.testing.assert_allclose(quartiles[1], 0, atol=1e-6)  # robust scaling
    np.testing.assert_allclose(quartiles[2] - quartiles[0], 1, atol=1e-6)
    assert phantoms.places.shape == (100, 3)
    assert phantoms.places[:, 0].abs().max() < 80  # mm


def test_parcels_resemble_themselves_over_runs_more_than_other_people(
    phantoms: ParcelPhantoms,
) -> None:
    runs = phantoms.runs(range(UNSEEN, UNSEEN + 10), n_runs=2, n_volumes=100)
    matrices = correlate(runs.flatten(0, 1))
    upper = torch.triu_indices(100, 100, offset=1)
    rows = matrices[:, upper[0], upper[1]].numpy()
    assert find_hits(rows, [person for person in range(10) for _ in (1, 2)]).mean() > 0.9


def test_two_runs_of_a_person_are_pulled_together() -> None:
    own = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    together = own.repeat_interleave(2, dim=0)
    apart = own.repeat(2, 1)
    assert contrast(together) < 0.1 < contrast(apart)


def test_the_shipped_file_is_the_one_of_the_card() -> None:
    file = EMBEDDED / str(CARD.file)
    assert CARD.demo
    assert "DEMO" in CARD.summary
    assert (hash_file(file), file.stat().st_size) == (CARD.sha256, CARD.size)
    assert file.stat().st_size < 2.5e6
    with safe_open(file, framework="pt") as opened:
        stored = json.loads(opened.metadata()["config"])
    training = stored.pop("training")
    assert stored == CARD.config
    assert training["matching"]["margin_low"] > 0
    assert training["loss"] < min(
        training["loss_untrained"], training["loss_constant"], training["loss_mean"]
    )


def test_the_shipped_weights_find_people_that_untrained_ones_do_not(
    phantoms: ParcelPhantoms,
) -> None:
    runs = phantoms.runs(range(UNSEEN, UNSEEN + 20), n_runs=2, n_volumes=70)
    people = [person for person in range(20) for _ in (1, 2)]

    def hits(network: torch.nn.Module) -> np.ndarray:
        return find_hits(parcels.embed_runs(network, runs, phantoms).numpy(), people)

    trained = hits(create_model("brainlm-demo"))
    untrained = [hits(parcels.build_parcels(CARD, seed)) for seed in (1, 2)]
    plain = hits(parcels.build_parcels(CARD, 1, draw_plain_values))
    found = compare_matching(trained, [*untrained, plain], people)
    assert found.margin_low > 0.1
