"""Training to forecast: what can be forecast is learnt, in people that training did not see."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from neurostorm_app.errors import ContractError, UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.pipelines.forecast import compare_forecasts, network_forecaster
from neurostorm_app.pipelines.forecast_baselines import (
    Autoregression,
    RidgeVar,
    fit_lstm,
    forecast_mean,
    persist,
)
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.masks import Pretraining
from neurostorm_app.pipelines.train.material import Material, Start, draw_start
from neurostorm_app.pipelines.train.pretraining import pretrain
from neurostorm_app.pipelines.train.settings import Plan

V, LENGTH, HORIZON, PEOPLE = 8, 60, 10, 24
SEEN = LENGTH - HORIZON
SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32}
CONFIG: dict[str, Any] = SHAPE | {f"decoder_{name}": size for name, size in SHAPE.items()}
CONFIG |= {"timepoint_patching_size": 10, "conv_kernel_size": 5, "mask_ratio": 0.2}
CONFIG |= {"num_landmarks": 64, "segment_means_seq_len": 64}
PLACES = np.random.default_rng(5).uniform(-1, 1, (V, 3)).astype(np.float32)


def oscillate(seed: int, n_volumes: int) -> np.ndarray:
    """Damped oscillators, one a parcel, of periods that are everybody's: (V, T)."""
    draws = np.random.default_rng(seed)
    turn = 0.98 * np.exp(1j * 2 * np.pi / np.linspace(12, 30, V))
    state, steps = np.zeros(V, dtype=complex), []
    for _ in range(n_volumes + 100):
        state = state * turn + 0.3 * (draws.standard_normal((V, 2)) @ [1, 1j])
        steps.append(state.real)
    series = np.stack(steps[100:], axis=-1)
    return (series / series.std(axis=1, keepdims=True)).astype(np.float32)


class Run:
    """A run as the cache gives it."""

    n_volumes, xyz = 240, PLACES

    def __init__(self, seed: int) -> None:
        self.key, self.series = f"run {seed}", oscillate(seed, self.n_volumes)

    def window(self, start: int, length: int) -> np.ndarray:
        return self.series[:, start : start + length]


@pytest.fixture(scope="module")
def start() -> Start:
    card = read_card("brainlm-demo")
    contract = card.contract.model_copy(update={"n_parcels": V, "window": LENGTH, "stride": LENGTH})
    card = card.model_copy(update={"config": {}, "contract": contract, "centre": False})
    return draw_start(card, name="mine", seed=1, config=CONFIG)


@pytest.fixture(scope="module")
def material(start) -> Material:
    people = tuple((Run(seed),) for seed in range(PEOPLE))
    return Material(people=people, recipe=CacheRecipe(contract=start.card.contract))  # type: ignore[arg-type]


def test_it_forecasts_new_people_better_than_persistence_and_the_mean(start, material, tmp_path):
    settings = Pretraining(objective="forecast", horizon=HORIZON, validation=0.2)
    plan = Plan(steps=250, batch=32, rate=4e-3, validate_every=125, seed=1)
    ending = pretrain(material, start=start, settings=settings, plan=plan, out=tmp_path / "out")
    best = ending.outcome.best
    assert best["loss"] < 0.6 * best["persistence"]
    assert "Pre-trained (forecast)" in ending.card.summary
    assert any(
        "forecast of 10 volumes, mean squared" in limit.lower() for limit in ending.card.limits
    )
    said = json.loads((tmp_path / "out" / "training.json").read_text())
    assert said["settings"]["horizon"] == HORIZON
    model = create_model(ending.card)
    train = np.concatenate([np.split(oscillate(s, 240), 4, axis=1) for s in range(PEOPLE)])
    train = train.astype(np.float64)
    windows = np.stack([oscillate(seed, LENGTH) for seed in range(900, 940)]).astype(np.float64)
    scores = compare_forecasts(
        windows,
        {
            "brainlm": network_forecaster(model, PLACES),
            "persistence": persist,
            "mean": forecast_mean,
            "ar": Autoregression.fit(train),
            "var": RidgeVar.fit(train, order=2),
            "lstm": fit_lstm(train, width=32, n_steps=60),
        },
        seen=SEEN,
    )
    brainlm = scores["brainlm"]
    for simple in ("persistence", "mean"):
        assert brainlm.r2 > scores[simple].r2 + 0.2
        assert (brainlm.mse_windows < scores[simple].mse_windows).mean() > 0.8
    assert brainlm.r2 > 0.1
    assert brainlm.r > 0.3
    assert set(scores["lstm"].as_dict()) == {"R2", "r", "MSE"}


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"horizon": 0}, UsageError, "a forecast of 0 volumes is none"),
        ({"horizon": 7}, ContractError, "so what is seen must be a multiple of 10"),
        ({"mask_ratio": 0.5}, UsageError, "hides what follows and nothing else"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(
    start, material, tmp_path, settings, kind, message
) -> None:
    with pytest.raises(kind, match=message):
        pretrain(
            material,
            start=start,
            settings=Pretraining(objective="forecast", **{"horizon": HORIZON} | settings),
            plan=Plan(steps=1, batch=1),
            out=tmp_path / "out",
        )


def test_it_is_for_brainlm_alone(start, material, tmp_path) -> None:
    other = draw_start(read_card("mind-vis"), name="voxels", seed=1, config={"depth": 1})
    with pytest.raises(UsageError, match="the objective forecast is for BrainLM with its decoder"):
        pretrain(
            material,
            start=other,
            settings=Pretraining(objective="forecast"),
            plan=Plan(steps=1, batch=1),
            out=tmp_path / "out",
        )
