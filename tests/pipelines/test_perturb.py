"""Perturbations find the region that a class token hangs on, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.errors import DataError
from neurostorm_app.models.brainlm_files import NativeConfig
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.pipelines.perturb import LIMITS, HowPerturbed, find_perturbation

V, T = 12, 20
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 24}
NATIVE = SHAPE | {f"decoder_{name}": size for name, size in SHAPE.items()}
NATIVE |= {"timepoint_patching_size": 5, "conv_kernel_size": 5, "mask_ratio": 0.2}
NATIVE |= {"num_landmarks": 64, "segment_means_seq_len": 64}
XYZ = np.random.default_rng(5).uniform(-1, 1, (V, 3)).astype(np.float32)


class Hanging(torch.nn.Module):
    """Its class token hangs on one region alone, or on one ten times as much as on the others."""

    def __init__(self, region: int, others: float) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(9)
        self.weights = torch.randn(4, T, generator=draws) / T**0.5
        self.strength = torch.full((V, 1), others)
        self.strength[region] = 1.0

    def embed(self, signal: torch.Tensor, xyz: torch.Tensor) -> torch.Tensor:
        return ((signal * self.strength).sum(dim=1) @ self.weights.T).tanh()


def window(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((V, T)).astype(np.float32)


def token(model, series) -> np.ndarray:
    with torch.no_grad():
        return model.embed(torch.from_numpy(series)[None], torch.from_numpy(XYZ)[None])[0].numpy()


@pytest.mark.parametrize("region", [0, 7])
@pytest.mark.parametrize("others", [0.0, 0.1])
def test_the_region_that_the_class_token_hangs_on_is_found(region, others):
    model = Hanging(region, others)
    found = find_perturbation(model, window(1), XYZ, target=token(model, window(2)))
    assert int(found.size.argmax()) == region
    rest = np.delete(found.size, region)
    assert rest.max() < (1e-12 if others == 0 else 0.2 * found.size[region])
    assert found.reached > 0.8
    assert found.random < found.reached - 0.5


def test_brainlm_is_moved_towards_its_target_and_noise_does_not_do_it():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BrainLmNative(NativeConfig.of(NATIVE)).eval()
    target = token(model, window(2))
    found = find_perturbation(model, window(1), XYZ, target=target)
    assert found.reached > 0.5
    assert found.random < found.reached - 0.3
    moved = window(1) + found.change.astype(np.float32)
    left = np.square(token(model, moved) - target).sum()
    start = np.square(token(model, window(1)) - target).sum()
    assert 1 - left / start == pytest.approx(found.reached, abs=1e-5)
    assert found.size == pytest.approx(np.sqrt(np.square(found.change).mean(axis=1)), abs=1e-6)
    again = find_perturbation(model, window(1), XYZ, target=target)
    assert np.array_equal(again.change, found.change)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_missing_parcel_is_left_as_it_is():
    model, series = Hanging(3, 0.5), window(1)
    series[3] = 0
    found = find_perturbation(model, series, XYZ, target=token(model, window(2)))
    assert found.size[3] == 0
    assert np.delete(found.size, 3).min() > 0


def test_a_larger_penalty_changes_less():
    model = Hanging(3, 0.5)
    target = token(model, window(2))
    sizes = [
        find_perturbation(model, window(1), XYZ, target=target, how=HowPerturbed(penalty=penalty))
        for penalty in (0.001, 10.0)
    ]
    assert np.square(sizes[1].change).mean() < 0.5 * np.square(sizes[0].change).mean()


def test_limits_go_with_the_result():
    model = Hanging(3, 0.5)
    found = find_perturbation(model, window(1), XYZ, target=token(model, window(2)))
    assert found.as_dict()["Limits"] == LIMITS
    assert "not of a brain" in LIMITS


def test_targets_that_are_none_are_refused():
    model = Hanging(3, 0.5)
    with pytest.raises(DataError, match="a vector of 5 numbers; class tokens of this network have"):
        find_perturbation(model, window(1), XYZ, target=np.zeros(5, dtype=np.float32))
    with pytest.raises(DataError, match="of the window is the target already"):
        find_perturbation(model, window(1), XYZ, target=token(model, window(1)))
