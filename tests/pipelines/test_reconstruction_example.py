"""The window that a report shows: measured as the others are, by networks that guess."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.models import brainlm_files, brainlm_native, create_model
from neurostorm_app.models.example import MaskedExample
from neurostorm_app.models.registry import read_card
from neurostorm_app.pipelines.reconstruction import measure_error, take_example


@pytest.fixture
def brainlm():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 8}
    config = sizes | {f"decoder_{name}": size for name, size in sizes.items()}
    config |= {"timepoint_patching_size": 20, "conv_kernel_size": 5, "mask_ratio": 0.5}
    config |= {"num_landmarks": 64, "segment_means_seq_len": 64}
    torch.manual_seed(0)
    untrained = brainlm_native.BrainLmNative(brainlm_files.NativeConfig.of(config))
    return create_model("brainlm", config=config, weights=untrained.state_dict()).eval()


@torch.inference_mode()
def test_the_error_of_the_example_is_the_one_that_is_measured_on_parcels(brainlm):
    signal, xyz = torch.randn(1, 6, 40), torch.zeros(1, 6, 3)
    error, example = take_example(brainlm, signal, xyz, number=3, affine=None)
    assert error == measure_error(brainlm, signal, xyz, number=3)
    [view] = example.views
    assert view.truth.shape == (6, 40)
    assert example.hidden_share == pytest.approx(0.5)
    tokens = view.hidden.reshape(6, 2, 20)
    assert (tokens == tokens[..., :1]).all()  # whole tokens are hidden


@torch.inference_mode()
def test_the_error_of_the_example_is_the_one_that_is_measured_on_volumes():
    card = read_card("neurostorm-demo")
    model = create_model(card).eval()
    shape = (*card.contract.grid.shape, card.contract.window)
    window = torch.randn(1, 1, *shape)
    affine = np.asarray(card.contract.grid.affine)
    error, example = take_example(model, window, number=1, affine=affine)
    assert error == measure_error(model, window, number=1)
    assert [view.title for view in example.views] == [
        "axial slice",
        "coronal slice",
        "sagittal slice",
    ]
    hidden = np.concatenate([view.hidden.ravel() for view in example.views]).mean()
    assert 0 < hidden < 1
    assert 0.3 < example.hidden_share < 0.9


class BrainOnly(torch.nn.Module):
    """Guesses 0 everywhere, and counts what is not 0."""

    def masked_example(self, x, *, generator):
        hidden = torch.rand(x.shape[0], *x.shape[2:], generator=generator) < 0.5
        where = hidden[:, None] & (x != 0)
        error = x[where].square().mean()[None]
        return MaskedExample(error=error, truth=x, guess=x * 0, hidden=hidden, counted=x != 0)


def test_the_mean_is_judged_over_the_voxels_over_which_the_guess_is():
    window = torch.full((1, 1, 4, 4, 4, 3), 2.0)
    window[:, :, :2] = 0
    error, example = take_example(BrainOnly(), window, number=0, affine=np.eye(4))
    assert error == 4.0
    assert example.error_of_mean == 0  # the brain is 2 everywhere: its mean is right
