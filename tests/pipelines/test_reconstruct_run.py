"""Whole runs as BrainLM guesses them: nothing is told twice, and parcels that go together help."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.errors import ContractError, DataError, SeriesTooShortError
from neurostorm_app.models.brainlm_files import NativeConfig, VitConfig
from neurostorm_app.models.brainlm_guess import count_tokens, guess_hidden, guess_whole
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.models.brainlm_vit import BrainLmVit
from neurostorm_app.pipelines.reconstruct_run import HowGuessed, reconstruct_run

V, WINDOW = 8, 20
SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32}
BOTH = SHAPE | {f"decoder_{name}": size for name, size in SHAPE.items()}
NATIVE = BOTH | {"timepoint_patching_size": 5, "conv_kernel_size": 5, "mask_ratio": 0.2}
NATIVE |= {"num_landmarks": 64, "segment_means_seq_len": 64}
VIT = BOTH | {"patch_size": 16, "num_channels": 3, "mask_ratio": 0.75}
XYZ = np.random.default_rng(5).uniform(-1, 1, (V, 3)).astype(np.float32)


def native() -> BrainLmNative:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BrainLmNative(NativeConfig.of(NATIVE)).eval()


def grouped(seed: int, n: int, length: int = WINDOW) -> np.ndarray:
    """Parcels 0 to 5 share an oscillation; 6 and 7 are noise, and nothing tells them."""
    draws = np.random.default_rng(seed)
    turns = np.arange(length) / draws.uniform(8, 20, (n, 1))
    shared = np.sqrt(2) * np.sin(2 * np.pi * (turns + draws.uniform(0, 1, (n, 1))))
    series = draws.standard_normal((n, V, length))
    series[:, :6] = shared[:, None] + 0.3 * series[:, :6]
    return series.astype(np.float32)


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((V, length)).astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> BrainLmNative:
    model, train, xyz = native(), torch.from_numpy(grouped(1, 600)), torch.from_numpy(XYZ)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    draws = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(150):
        some = train[torch.randint(len(train), (32,), generator=draws)]
        hidden = torch.rand(V * 4, generator=draws) < 0.2
        hidden[int(torch.randint(V * 4, (), generator=draws))] = True
        guess = guess_hidden(model, some, xyz.expand(32, -1, -1), hidden=hidden)
        loss = (guess.values - some)[guess.hidden].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def test_parcels_that_others_tell_are_guessed_and_lone_ones_are_not(trained):
    series = grouped(2, 1, 200)[0]
    made = reconstruct_run(trained, series, XYZ, window=WINDOW)
    assert made.r2_parcels[:6].min() > 0.5
    assert made.r2_parcels[6:].max() < 0.1
    assert made.n_passes == 5


def test_the_mean_of_several_rounds_is_no_worse(trained):
    series = grouped(3, 1, 100)[0]
    first = reconstruct_run(trained, series, XYZ, window=WINDOW)
    how = HowGuessed(mode="mean", n_rounds=4)
    mean = reconstruct_run(trained, series, XYZ, window=WINDOW, how=how)
    assert mean.r2 > first.r2 - 0.01
    assert not np.allclose(mean.guess, first.guess)
    assert mean.n_passes == 20


def test_a_run_is_guessed_to_its_last_volume_and_the_same_twice():
    series = noise(47)
    ones = [reconstruct_run(native(), series, XYZ, window=WINDOW) for _ in range(2)]
    assert np.array_equal(ones[0].guess, ones[1].guess)
    assert ones[0].guess.shape == (V, 47)
    assert (ones[0].guess != 0).all()
    # the last window begins at 27; what the one before has guessed stays
    longer = reconstruct_run(native(), series[:, :40], XYZ, window=WINDOW)
    assert np.array_equal(longer.guess, ones[0].guess[:, :40])


def test_the_mean_averages_where_windows_overlap():
    series, how = noise(30), HowGuessed(mode="mean", n_rounds=1)
    both = reconstruct_run(native(), series, XYZ, window=WINDOW, how=how).guess
    first = reconstruct_run(native(), series, XYZ, window=WINDOW).guess
    assert np.array_equal(both[:, :10], first[:, :10])
    assert not np.allclose(both[:, 10:20], first[:, 10:20])
    assert np.array_equal(both[:, 20:], first[:, 20:])


def test_no_guess_sees_the_value_it_guesses():
    """A token is changed: only guesses of other tokens may change."""
    model, xyz = native(), torch.from_numpy(XYZ)[None]
    signal = torch.from_numpy(noise(WINDOW))[None]
    parts = torch.randperm(V * 4, generator=torch.Generator().manual_seed(1)) % 5
    before = guess_whole(model, signal, xyz, parts=parts, n_parts=5)
    changed = signal.clone()
    changed[0, 3, 5:10] += 7
    after = guess_whole(model, changed, xyz, parts=parts, n_parts=5)
    same = (before == after)[0]
    assert same[3, 5:10].all()
    assert not same.all()


def test_the_vit_family_hides_each_value_once_too():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BrainLmVit(VitConfig.of(VIT)).eval()
    draws = np.random.default_rng(1)
    series = draws.standard_normal((424, 200)).astype(np.float32)
    xyz = draws.uniform(-60, 60, (424, 3)).astype(np.float32)
    how = HowGuessed(share=0.5)
    made = reconstruct_run(model, series, xyz, window=200, how=how)
    assert made.n_passes == 2
    assert made.r2 < 0.1
    n = count_tokens(model, torch.from_numpy(series)[None])
    with pytest.raises(ContractError, match="were not hidden exactly once"):
        guess_whole(
            model,
            torch.from_numpy(series)[None],
            torch.from_numpy(xyz)[None],
            parts=torch.arange(n) % 3,
            n_parts=2,
        )


def test_a_missing_parcel_has_no_r2():
    series = noise(40)
    series[2] = 0
    made = reconstruct_run(native(), series, XYZ, window=WINDOW)
    assert np.isnan(made.r2_parcels).tolist() == [p == 2 for p in range(V)]
    said = made.as_dict()
    assert said["PassesPerWindow"] == 5
    assert said["R2MedianOfParcels"] == pytest.approx(np.nanmedian(made.r2_parcels), abs=1e-6)


@pytest.mark.parametrize(
    ("series", "how", "error", "message"),
    [
        (noise(19), HowGuessed(), SeriesTooShortError, "a window that is guessed has 20"),
        (noise(40), HowGuessed(share=0.7), DataError, "a share above 0 and at most 0.5"),
        (noise(40) * 0, HowGuessed(), DataError, "there is nothing to guess of the run"),
    ],
)
def test_what_cannot_be_guessed_is_refused(series, how, error, message):
    with pytest.raises(error, match=message):
        reconstruct_run(native(), series, XYZ, window=WINDOW, how=how)
