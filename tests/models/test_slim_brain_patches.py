"""SLIM-Brain on the patches of the brain: what is deleted is seen by nobody, the rest is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_files import SlimConfig
from neurostorm_app.models.slim_brain_jepa import SlimBrainJepa
from neurostorm_app.models.slim_brain_layers import cut_units
from neurostorm_app.models.slim_brain_mae import SlimBrainMae
from neurostorm_app.models.slim_brain_patches import encode_brain, find_patches

ROUNDING = 2e-6
TINY: dict[str, Any] = {
    "img_size": [16, 24, 8, 16],
    "embed_dim": 8,
    "num_heads": 1,
    "stages": [1, 1, 2],
    "patch_kernel": [1, 2, 2, 2],
    "q_pool": 2,
    "q_stride": [2, 2, 2, 2],
    "mask_unit_size": [4, 4, 4, 4],
    "mlp_ratio": 2.0,
}
"""4 x 2 x 3 x 1 mask units, T first; blocks 0 to 2 look at one unit, block 3 at all."""


def drawn(**changes: Any) -> SlimBrain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = SlimBrain(SlimConfig.of(TINY | changes)).eval()
    return model.requires_grad_(requires_grad=False)


def windows(n: int = 1) -> torch.Tensor:
    x = torch.randn(n, 1, *TINY["img_size"], generator=torch.Generator().manual_seed(1))
    return x.where(x.abs() > 0.01, 0.5)  # no voxel is 0 by chance


def ball() -> torch.Tensor:
    """Windows of a brain that fills a part of most units, and none of some."""
    axes = [torch.linspace(-1, 1, side) for side in TINY["img_size"][:3]]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return windows(2) * ((x**2 + (y + 0.4) ** 2 + z**2) < 0.5)[..., None]


@pytest.fixture(scope="module")
def whole() -> SlimBrain:
    return drawn()


@pytest.fixture(scope="module")
def sparing() -> SlimBrain:
    return drawn(empty_units="patches")


def test_where_all_is_brain_it_is_the_whole_encoder(whole, sparing) -> None:
    x = windows(2)
    torch.testing.assert_close(sparing.embed(x), whole.embed(x), atol=ROUNDING, rtol=0)


def test_units_that_are_empty_are_deleted_as_units(whole, sparing) -> None:
    x = windows(2)
    x[0, :, 8:] = 0
    x[1, :, :, :16] = 0
    expected = whole.embed(x, keep=whole.find_brain(x))
    torch.testing.assert_close(sparing.embed(x), expected, atol=ROUNDING, rtol=0)


def test_patches_are_found_where_the_voxels_are() -> None:
    config, x = SlimConfig.of(TINY), ball()[:1]
    found = find_patches(x, config)
    assert found.shape == (6, 4, 4, 4)
    voxels = cut_units(x, config)
    for place, (i, j, k) in enumerate(torch.cartesian_prod(*map(torch.arange, config.units[1:]))):
        unit = (voxels[0, :, i, j, k] != 0).any(dim=0).any(dim=0)  # of all times
        for p, q, r in torch.cartesian_prod(*[torch.arange(4)] * 3):
            patch = unit[2 * p : 2 * p + 2, 2 * q : 2 * q + 2, 2 * r : 2 * r + 2]
            assert bool(found[place, p, q, r]) == bool(patch.any())
    assert 0.1 < found.float().mean() < 0.5


def test_what_is_deleted_is_seen_by_nobody(whole, sparing) -> None:
    """The positions of deleted patches may be anything."""
    x, config = ball()[:1], sparing.config
    there = find_patches(x, config).reshape(*config.units[1:], 4, 4, 4)
    there = there.permute(0, 3, 1, 4, 2, 5).flatten()
    before = sparing.embed(x), whole.embed(x)
    noise = 9 * torch.randn(1, len(there), 8, generator=torch.Generator().manual_seed(2))
    for model in (sparing, whole):
        model.pos_embed_spatial += noise * ~there[None, :, None]
    after = sparing.embed(x), whole.embed(x)
    for model in (sparing, whole):
        model.pos_embed_spatial -= noise * ~there[None, :, None]
    torch.testing.assert_close(after[0], before[0], atol=0, rtol=0)
    assert (after[1] - before[1]).abs().max() > 0.01


def brute_block(block: Any, tokens: torch.Tensor, there: torch.Tensor) -> Any:
    """Compute a block for the tokens of a unit, (T, X, Y, Z, C), token by token."""
    kept = there.nonzero().tolist()
    normed = block.norm1(torch.stack([tokens[tuple(place)] for place in kept]))
    past = normed if block.proj is not None else torch.stack([tokens[tuple(p)] for p in kept])
    past = block.proj(normed) if block.proj is not None else past
    q, k, v = block.attn.qkv(normed).chunk(3, dim=-1)
    groups = [[i] for i in range(len(kept))]
    cells = [tuple(place) for place in kept]
    if block.stride is not None:
        coarse = [tuple(n // 2 for n in place) for place in kept]
        cells = sorted(set(coarse))
        groups = [[i for i, cell in enumerate(coarse) if cell == wanted] for wanted in cells]
    rows = []
    heads, size = block.attn.heads, q.shape[1] // block.attn.heads
    for group in groups:
        query, carried = q[group].amax(dim=0), past[group].amax(dim=0)
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = (k[:, part] @ query[part] / size**0.5).softmax(dim=0)
            mixed.append(weights @ v[:, part])
        row = carried + block.attn.proj(torch.cat(mixed))
        inner = fn.gelu(block.mlp.fc1(block.norm2(row)))
        rows.append(row + block.mlp.fc2(inner))
    side = [n // 2 if block.stride is not None else n for n in there.shape]
    out, left = torch.zeros(*side, len(rows[0])), torch.zeros(*side, dtype=torch.bool)
    for cell, row in zip(cells, rows, strict=True):
        out[cell], left[cell] = row, True
    return out, left


def test_tokens_are_those_of_a_computation_one_by_one() -> None:
    shape = {"img_size": [8, 8, 8, 4], "embed_dim": 4}  # one mask unit
    model = drawn(**shape, empty_units="patches")
    x = torch.randn(1, 1, *shape["img_size"], generator=torch.Generator().manual_seed(3))
    where = find_patches(ball()[:1], SlimConfig.of(TINY))[1]
    x *= where.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)[..., None]
    there = find_patches(x, model.config)[0].expand(4, -1, -1, -1)
    assert 4 < there[0].sum() < 60
    zero = torch.zeros(1, dtype=torch.int64)
    tokens = model.see_units(cut_units(x, model.config), zero, zero)[0]
    for block in model.blocks:
        tokens, there = brute_block(block, tokens, there)
    found = encode_brain(model, x)[0]
    torch.testing.assert_close(found, tokens[there], atol=ROUNDING, rtol=0)


def test_windows_do_not_depend_on_their_neighbours(sparing) -> None:
    x = ball()
    x[0, :, :8] = 0
    single = [sparing.embed(window) for window in x.split(1)]
    torch.testing.assert_close(sparing.embed(x), torch.cat(single), atol=ROUNDING, rtol=0)


def test_gradients_are_those_of_evaluation() -> None:
    model, x = drawn(empty_units="patches").requires_grad_(), ball()[:1]

    def slope() -> torch.Tensor:
        model.zero_grad()
        model.embed(x).square().sum().backward()
        return model.patch_embed.proj.weight.grad.clone()

    evaluated = slope()
    model.train()  # patch tokens are computed again for gradients
    torch.testing.assert_close(slope(), evaluated, atol=1e-5, rtol=1e-4)
    assert evaluated.abs().max() > 0


def test_without_brain_there_is_nothing_to_embed(sparing) -> None:
    with pytest.raises(ContractError, match="no patch of a window holds brain"):
        sparing.embed(torch.zeros(1, 1, *TINY["img_size"]))


def test_training_hides_whole_units(sparing) -> None:
    message = "training hides mask units as wholes"
    with pytest.raises(WrongWeightsError, match=message):
        SlimBrainMae(sparing.config)
    with pytest.raises(WrongWeightsError, match=message):
        SlimBrainJepa(sparing, seed=0)
