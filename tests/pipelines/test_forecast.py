"""Forecasts: signals that can be forecast are, noise is not, and nobody sees the future."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.errors import ContractError, DataError, SeriesTooShortError
from neurostorm_app.models.brainlm_files import NativeConfig, VitConfig
from neurostorm_app.models.brainlm_guess import count_tokens, guess_future, guess_hidden
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.models.brainlm_vit import BrainLmVit
from neurostorm_app.pipelines.forecast import compare_forecasts, cut_windows, network_forecaster
from neurostorm_app.pipelines.forecast_baselines import (
    Autoregression,
    RidgeVar,
    fit_lstm,
    forecast_mean,
    persist,
)

N_PARCELS, LENGTH, SEEN = 8, 60, 50
SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32}
BOTH = SHAPE | {f"decoder_{name}": size for name, size in SHAPE.items()}
NATIVE = BOTH | {"timepoint_patching_size": 10, "conv_kernel_size": 5, "mask_ratio": 0.2}
NATIVE |= {"num_landmarks": 64, "segment_means_seq_len": 64}
VIT = BOTH | {"patch_size": 14, "num_channels": 3, "mask_ratio": 0.75}


def oscillators(seed: int, n: int = 12) -> np.ndarray:
    """Series of damped oscillators that drive the next parcel: a VAR(1) in twice the parcels."""
    draws = np.random.default_rng(seed)
    turn = 0.98 * np.exp(1j * 2 * np.pi / np.linspace(12, 30, N_PARCELS))
    state = np.zeros((n, N_PARCELS), dtype=complex)
    steps = []
    for _ in range(LENGTH + 100):
        noise = draws.standard_normal((n, N_PARCELS, 2)) @ [1, 1j]
        state = state * turn + 0.05 * np.roll(state, 1, axis=1) + 0.3 * noise
        steps.append(state.real)
    windows = np.stack(steps[100:], axis=-1)
    return windows / windows.std()


def noise(seed: int, n: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, N_PARCELS, LENGTH))


def compare(make, *, n=12, **more):
    train = make(1, 40)
    methods = {
        "persistence": persist,
        "mean": forecast_mean,
        "ar": Autoregression.fit(train, order=4),
        "var": RidgeVar.fit(train, order=2),
    }
    return compare_forecasts(make(2, n), methods | more, seen=SEEN)


def test_what_can_be_forecast_is_forecast_better_than_by_persistence_and_the_mean():
    scores = compare(oscillators)
    for name in ("ar", "var"):
        assert scores[name].r2 > 0.35
        for simple in ("persistence", "mean"):
            assert scores[name].r2 > scores[simple].r2 + 0.3
            assert (scores[name].mse_windows < scores[simple].mse_windows).mean() > 0.9
    assert scores["var"].mse_steps[0] < scores["var"].mse_steps[-1]


def test_parcels_that_drive_each_other_are_forecast_better_from_all():
    def driven(seed, n):
        windows = noise(seed, n)
        for parcel in range(1, N_PARCELS):
            windows[:, parcel] *= 0.3
            windows[:, parcel, 1:] += 0.9 * windows[:, parcel - 1, :-1]
        return windows

    scores = compare_forecasts(
        driven(2, 60)[..., : SEEN + 1],
        {"ar": Autoregression.fit(driven(1, 40)), "var": RidgeVar.fit(driven(1, 40))},
        seen=SEEN,
    )
    assert scores["var"].r2 > 0.6
    assert scores["ar"].r2 < 0.1


def test_noise_is_forecast_by_nobody():
    scores = compare(noise, n=60, lstm=fit_lstm(noise(1, 40), n_steps=40))
    for name in ("ar", "var", "mean", "lstm"):
        assert -0.1 < scores[name].r2 < 0.01, name
    assert scores["persistence"].r2 == pytest.approx(-1, abs=0.15)
    assert abs(scores["persistence"].r) < 0.05


def test_an_lstm_beats_persistence_where_there_is_something_to_learn():
    scores = compare(oscillators, lstm=fit_lstm(oscillators(1, 200), width=48, n_steps=250))
    assert scores["lstm"].r2 > max(0.1, scores["persistence"].r2 + 0.3)


def test_an_lstm_repeats():
    ones = [fit_lstm(noise(1, 8), n_steps=3)(noise(2, 2), 4) for _ in range(2)]
    assert np.array_equal(*ones)


def test_measures_are_what_they_say():
    windows = noise(3, 5)
    truth = windows[..., SEEN:]
    other = noise(4, 5)[..., SEEN:]
    score = compare_forecasts(windows, {"other": lambda _past, _n: other}, seen=SEEN)["other"]
    mse = ((truth - other) ** 2).mean()
    assert score.mse == pytest.approx(mse)
    assert score.r2 == pytest.approx(1 - mse / truth.var())
    assert score.r == pytest.approx(np.corrcoef(truth.ravel(), other.ravel())[0, 1])
    assert score.mse_steps.mean() == pytest.approx(mse)
    assert score.mse_windows.mean() == pytest.approx(mse)
    assert score.as_dict() == {
        "R2": round(score.r2, 6), "r": round(score.r, 6), "MSE": round(score.mse, 6)
    }  # fmt: skip


def test_a_missing_parcel_counts_for_nobody_and_a_constant_has_no_correlation():
    windows = noise(3, 5)
    missing = windows.copy()
    missing[:, 2] = 0
    rest = np.delete(windows, 2, axis=1)
    zeros = {"zeros": lambda past, n: np.zeros((*past.shape[:2], n))}
    one = compare_forecasts(missing, zeros, seen=SEEN)["zeros"]
    assert one.r is None
    assert one.mse == pytest.approx(compare_forecasts(rest, zeros, seen=SEEN)["zeros"].mse)
    assert np.isnan(one.r2_parcels[2])
    assert np.isfinite(np.delete(one.r2_parcels, 2)).all()


def test_a_parcel_that_never_varies_is_continued_as_it_is():
    windows = oscillators(1)
    windows[:, 3] = 2.0
    for method in (Autoregression.fit(windows, order=3), RidgeVar.fit(windows)):
        assert method(windows[..., :SEEN], 5)[:, 3] == pytest.approx(2.0)


def test_windows_are_cut_from_the_beginning():
    series = np.arange(100.0).reshape(2, 50)
    windows = cut_windows(series, length=20, stride=15)
    assert windows[:, 0, 0].tolist() == [0, 15, 30]
    with pytest.raises(SeriesTooShortError, match="a window that is seen and forecast has 60"):
        cut_windows(series, length=60)


@pytest.mark.parametrize(
    ("windows", "method", "message"),
    [
        (noise(1, 2), lambda past, n: past, "windows, parcels, volumes that follow"),
        (noise(1, 2), lambda past, n: np.full((2, 8, n), np.nan), "that are not finite"),
        (np.zeros((2, 3, LENGTH)), persist, "no parcel varies in the volumes"),
        (noise(1, 2)[..., :SEEN], persist, "of which 50 are seen leave nothing"),
    ],
)
def test_what_cannot_be_measured_is_refused(windows, method, message):
    with pytest.raises(DataError, match=message):
        compare_forecasts(windows, {"method": method}, seen=SEEN)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(DataError, match="too short to look back at 60"):
        RidgeVar.fit(noise(1), order=60)
    with pytest.raises(DataError, match="to fit a vector autoregression to do not vary"):
        RidgeVar.fit(np.ones((2, 3, 10)))


# BrainLM


def native() -> BrainLmNative:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BrainLmNative(NativeConfig.of(NATIVE)).eval()


def vit() -> BrainLmVit:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BrainLmVit(VitConfig.of(VIT)).eval()


def places(n: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-60, 60, (n, 3)).astype(np.float32)


def test_brainlm_learns_to_forecast_what_can_be_forecast():
    """It is trained here, on masked last patches, and compared on the windows of all others."""
    model, xyz = native(), torch.from_numpy(places(N_PARCELS) / 60)
    train = torch.from_numpy(oscillators(1, 400).astype(np.float32))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    draws = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(250):
        some = train[torch.randint(len(train), (32,), generator=draws)]
        guess = guess_future(model, some[..., :SEEN], xyz.expand(32, -1, -1), horizon=10)
        loss = (guess - some[..., SEEN:]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    forecasts = {"brainlm": network_forecaster(model, xyz.numpy())}
    windows = oscillators(2, 40)
    scores = compare_forecasts(
        windows, forecasts | {"persistence": persist, "mean": forecast_mean}, seen=SEEN
    )
    assert scores["brainlm"].r2 > 0.2
    assert scores["brainlm"].r2 > scores["persistence"].r2 + 0.3
    still = compare_forecasts(noise(2, 40), forecasts, seen=SEEN)["brainlm"]
    assert still.r2 < 0.05


def test_the_native_forecast_hides_exactly_the_last_patches_and_keeps_parcels_apart():
    model, past = native(), torch.from_numpy(noise(1, 2)[..., :40].astype(np.float32))
    xyz = torch.from_numpy(places(N_PARCELS)).expand(2, -1, -1)
    future = guess_future(model, past, xyz, horizon=13)
    assert future.shape == (2, N_PARCELS, 13)
    whole = torch.cat([past, torch.full((2, N_PARCELS, 20), 9.0)], dim=-1)  # is not looked at
    hidden = torch.zeros(N_PARCELS, 6, dtype=torch.bool)
    hidden[:, 4:] = True
    guess = guess_hidden(model, whole, xyz, hidden=hidden.flatten())
    assert torch.equal(guess.values[..., 40:53], future)
    assert guess.hidden[..., 40:].all()
    assert not guess.hidden[..., :40].any()


@pytest.mark.parametrize(("mode", "n_seen"), [("predict_last", 177), ("predict_last_pixel", 180)])
def test_the_vit_forecast_sees_what_it_says(mode, n_seen):
    """With patches of 14 whole tokens hide 23 volumes where 20 are asked for."""
    model, xyz = vit(), torch.from_numpy(places(424))[None]
    past = torch.randn(1, 424, 180, generator=torch.Generator().manual_seed(1))
    past.requires_grad_()
    future = guess_future(model, past, xyz, horizon=20, mode=mode)
    assert future.shape == (1, 424, 20)
    (seen,) = torch.autograd.grad(future[:, 7].square().sum(), past)
    used = (seen.abs().sum(dim=(0, 1)) > 0).nonzero().flatten()
    assert int(used[-1]) + 1 == n_seen


def test_the_vit_forecast_is_in_the_order_and_unit_of_its_input():
    model, xyz = vit(), torch.from_numpy(places(424))[None]
    signal = torch.randn(1, 424, 200, generator=torch.Generator().manual_seed(1))
    hidden = torch.arange(count_tokens(model, signal)) % 5 == 0
    guess = guess_hidden(model, signal, xyz, hidden=hidden)
    shuffle = torch.randperm(424, generator=torch.Generator().manual_seed(2))
    other = guess_hidden(model, signal[:, shuffle], xyz[:, shuffle], hidden=hidden)
    assert torch.allclose(other.values, guess.values[:, shuffle], atol=1e-5)
    assert torch.equal(other.hidden, guess.hidden[:, shuffle])


def test_lengths_that_a_network_does_not_have_are_refused():
    past, xyz = torch.zeros(1, 424, 45), torch.zeros(1, 424, 3)
    with pytest.raises(ContractError, match="so what is seen must be a multiple of 10"):
        guess_future(native(), past, xyz, horizon=10)
    with pytest.raises(ContractError, match="those seen and those forecast together"):
        guess_future(vit(), past, xyz, horizon=20)
    with pytest.raises(ContractError, match="one at least must stay visible"):
        guess_hidden(native(), past[..., :40], xyz, hidden=torch.ones(4 * 424, dtype=torch.bool))
    with pytest.raises(ContractError, match="no tokens of parcels that can be hidden"):
        count_tokens(torch.nn.Identity(), past)
