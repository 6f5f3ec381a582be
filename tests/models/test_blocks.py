from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from neurostorm_app.models import blocks
from neurostorm_app.models.blocks import (
    Block,
    Mamba,
    Size,
    effective_window,
    partition_windows,
    reverse_windows,
)
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config
from neurostorm_app.models.patches import PatchEmbed, PatchExpanding, PatchMerging


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_windows_come_back_to_their_place(generator: torch.Generator) -> None:
    x = torch.rand(2, 6, 4, 10, 9, 5, generator=generator)
    windows = partition_windows(x, (3, 4, 2, 3))
    assert windows.shape == (2 * 2 * 1 * 5 * 3, 72, 5)
    assert torch.equal(reverse_windows(windows, (3, 4, 2, 3), (6, 4, 10, 9)), x)


def test_a_window_holds_its_tokens_with_time_fastest() -> None:
    grid = (2, 4, 6, 4)
    x = torch.arange(math.prod(grid)).reshape(1, *grid, 1)
    windows = partition_windows(x, (2, 2, 3, 2))
    # the third window is second in Z (of 2) and first in time (of 2)
    assert torch.equal(windows[2, :, 0], x[0, 0:2, 0:2, 3:6, 0:2, 0].flatten())


@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [
        ((16, 16, 16, 20), (4, 4, 4, 4), (2, 2, 2, 2)),
        ((4, 4, 4, 20), (4, 4, 4, 4), (0, 0, 0, 2)),
        ((2, 5, 3, 4), (2, 4, 3, 4), (0, 2, 0, 0)),
    ],
)
def test_an_axis_that_fits_a_window_is_not_shifted(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    assert effective_window(grid, (4, 4, 4, 4), shifted=True) == (window, shift)
    assert effective_window(grid, (4, 4, 4, 4), shifted=False) == (window, (0, 0, 0, 0))


def test_a_mamba_sees_no_token_that_comes_later(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    mamba = Mamba(8)
    x = torch.rand(2, 40, 8, generator=generator)
    changed = x.clone()
    changed[:, 25:] += 1
    before, after = mamba(x), mamba(changed)
    torch.testing.assert_close(after[:, :25], before[:, :25], atol=1e-7, rtol=0)  # no unit
    assert (after[:, 25] - before[:, 25]).abs().max() > 1e-3


def test_steps_start_between_a_thousandth_and_a_tenth() -> None:
    torch.manual_seed(0)
    steps = torch.nn.functional.softplus(Mamba(32).dt_proj.bias)
    assert 0.00099 < steps.min() < 0.003
    assert 0.03 < steps.max() < 0.1001


@pytest.mark.parametrize("shifted", [False, True])
def test_a_block_works_on_grids_that_windows_do_not_tile(
    *, shifted: bool, generator: torch.Generator
) -> None:
    torch.manual_seed(0)
    block = Block(4, (2, 3, 4, 2), shifted=shifted, prompt_len=3)
    x = torch.rand(2, 5, 7, 6, 9, 4, generator=generator)
    together = block(x)
    assert together.shape == x.shape
    alone = torch.cat([block(x[:1]), block(x[1:])])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)  # no unit


def test_shifted_windows_wrap_around_the_map(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    block = Block(4, (4, 8, 8, 8), shifted=True)
    x = torch.rand(1, 8, 1, 1, 1, 4, generator=generator)
    changed = x.clone()
    changed[:, 7, ..., 0] += 5  # the last place lies in one window with the first, before it
    moved = (block(changed) - block(x)).detach().abs().amax(dim=(0, 2, 3, 4, 5))
    assert (moved > 0).nonzero().flatten().tolist() == [0, 1, 7]


def test_patches_are_pasted_where_they_were_cut(generator: torch.Generator) -> None:
    embed = PatchEmbed((2, 3, 4), channels=2, width=5)
    x = torch.rand(2, 2, 4, 9, 8, 5, generator=generator)
    patches = embed.cut(x)
    assert patches.shape == (2, 2, 3, 2, 5, 48)
    assert torch.equal(patches[0, 1, 2, 1, 4, 0:2], x[0, :, 2, 6, 4, 4])  # channels fastest
    assert torch.equal(embed.paste(patches), x)
    assert embed(x).shape == (2, 2, 3, 2, 5, 5)


def test_merging_halves_space_and_expanding_doubles_it(generator: torch.Generator) -> None:
    x = torch.rand(2, 4, 6, 2, 5, 8, generator=generator)
    assert PatchMerging(8, 16)(x).shape == (2, 2, 3, 1, 5, 16)
    assert PatchExpanding(8)(x).shape == (2, 8, 12, 4, 5, 4)


CASES = [
    ((4, 4, 4, 4), (4, 4, 4, 4), False, 0),  # one window
    ((4, 6, 2, 8), (2, 3, 2, 4), False, 0),
    ((4, 6, 2, 8), (2, 3, 2, 4), True, 2),
    ((5, 7, 3, 6), (2, 3, 4, 4), True, 0),  # padded
    ((5, 2, 3, 1), (4, 4, 2, 4), True, 3),  # shorter than the window
]


@pytest.mark.parametrize(("grid", "window", "shifted", "prompt_len"), CASES)
def test_a_block_is_that_of_the_reference_engine(
    grid: Size,
    window: Size,
    *,
    shifted: bool,
    prompt_len: int,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    block = Block(5, window, shifted=shifted, prompt_len=prompt_len).double()
    if block.prompt is not None:
        torch.nn.init.normal_(block.prompt)
    x = torch.randn(2, *grid, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(2, *grid, 5, generator=generator, dtype=torch.float64)
    leaves = [x, *block.parameters()]
    found = {}
    for engine in ("reference", "numba"):
        block.mamba.engine = engine
        y = block(x)
        found[engine] = [y, *torch.autograd.grad((y * probe).sum(), leaves)]
    for ours, theirs in zip(found["numba"], found["reference"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    monkeypatch.setattr(blocks, "PART", 3 * math.prod(window))
    with torch.no_grad():
        torch.testing.assert_close(block(x), found["reference"][0], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("grad", [False, True])
def test_pads_are_zeros_after_the_norm_and_before_the_shift(
    *, grad: bool, generator: torch.Generator
) -> None:
    torch.manual_seed(0)
    block = Block(4, (2, 3, 4, 2), shifted=True)
    torch.nn.init.normal_(block.norm1.bias)
    x = torch.rand(1, 5, 7, 6, 9, 4, generator=generator)
    h = torch.nn.functional.pad(block.norm1(x), (0, 0, 0, 1, 0, 2, 0, 2, 0, 1))
    rolled = h.roll((-1, -1, -2, -1), dims=(1, 2, 3, 4))
    mixed = block.mamba(partition_windows(rolled, block.window))
    back = reverse_windows(mixed, block.window, h.shape[1:5]).roll((1, 1, 2, 1), (1, 2, 3, 4))
    expected = x + back[:, :5, :7, :6, :9]
    expected = expected + block.mlp(block.norm2(expected))
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(block(x), expected, atol=1e-6, rtol=1e-6)


@pytest.fixture
def network(small: dict[str, Any], filled: Any) -> NeuroStorm:
    network = NeuroStorm(Config.of(small | {"prompt_len": 2}))
    network.load_state_dict(filled(network.state_dict()))
    return network.eval()


def test_neither_the_batch_nor_the_threads_change_a_bit_of_the_features(
    network: NeuroStorm, generator: torch.Generator
) -> None:
    x = torch.randn(3, 2, 16, 32, 48, 6, generator=generator)
    n_threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            with torch.inference_mode():
                found.append(network.features(x))
                alone = network.features(x[1:2])
            assert torch.equal(alone[0], found[0][1])
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_features_in_parts_are_those_at_once(
    network: NeuroStorm, generator: torch.Generator
) -> None:
    x = torch.randn(2, 2, 16, 32, 48, 6, generator=generator)
    at_once = network.features(x).detach()  # gradients need all that is in between
    with torch.no_grad():
        torch.testing.assert_close(network.features(x), at_once, atol=2e-6, rtol=0)  # no unit


def test_mixed_precision_reaches_every_thread(
    network: NeuroStorm, generator: torch.Generator
) -> None:
    x = torch.randn(1, 2, 16, 32, 48, 6, generator=generator)
    n_threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                found.append(network.features(x).float())
    finally:
        torch.set_num_threads(n_threads)
    with torch.inference_mode():
        exact = network.features(x)
    assert torch.equal(found[0], found[1])
    error = (found[0] - exact).abs().max() / exact.abs().max()
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize("grad", [False, True])
def test_patches_are_embedded_as_they_are_cut(*, grad: bool, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed((2, 3, 4), channels=2, width=5)
    merge, expand = PatchMerging(8, 16), PatchExpanding(8)
    x = torch.rand(2, 2, 4, 9, 8, 5, generator=generator)
    tokens = torch.rand(2, 4, 6, 2, 5, 8, generator=generator)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(embed(x), embed.fc(embed.cut(x)))
        for resample in (merge, expand):
            alone = torch.cat([resample(tokens[:1]), resample(tokens[1:])])
            assert torch.equal(resample(tokens), alone)
            assert torch.equal(resample(tokens[:, :2]), resample(tokens)[:, : len(alone[0]) // 2])
