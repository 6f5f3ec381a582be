"""The masked autoencoder and the heads on configurations that nobody released."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neurostorm_app.errors import ContractError
from neurostorm_app.models import create_model
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.heads import LinearHead
from neurostorm_app.models.masking import name_regions
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config

SHAPE = (2, 2, 16, 32, 48, 6)
TILED = {"window_size": [2, 2, 4, 3]}  # windows that tile the grid of 8 x 16 x 24 x 6 tokens
OTHERS: dict[str, dict[str, Any]] = {
    "four unequal sides": {},
    "unequal sides of a patch": {
        "img_size": [16, 24, 64, 4], "patch_size": [2, 3, 8, 1], "window_size": [4, 2, 4, 2]
    },
    "one volume": {"img_size": [16, 16, 16, 1], "window_size": [2, 2, 2, 1]},
    "one channel, deep": {"in_chans": 1, "depths": [1, 3, 1, 2], "embed_dim": 6},
    "windows larger than later grids": {"window_size": [8, 16, 12, 6]},
    "no full last stage": {"last_layer_full_MSA": False},
}  # fmt: skip


@pytest.fixture
def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def make(small: dict[str, Any], filled: Any, change: dict[str, Any]) -> NeuroStormMae:
    network = NeuroStormMae(Config.of(small | TILED | change), atlas="atlas" in change.values())
    network.load_state_dict(filled(network.state_dict()))
    return network.eval()


def image(config: Config, n: int = 2, t: int | None = None) -> torch.Tensor:
    *space, length = config.img_size
    seed = torch.Generator().manual_seed(2)
    return torch.randn(n, config.in_chans, *space, t or length, generator=seed)


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_other_configurations_reconstruct_windows(
    small: dict[str, Any], filled: Any, seed: torch.Generator, change: dict[str, Any]
) -> None:
    mae = make(small, filled, change)
    x = image(mae.config)
    with torch.no_grad():
        mask = mae.draw_mask(x, generator=seed)
        made = mae.reconstruct(x, mask)
        features = mae.features(x)
    width, grid = mae.config.stage(3)
    assert made.pred.shape == x.shape
    assert features.shape == made.latent.shape == (2, width, *grid)
    assert mask.sum() == 2 * int(mask.shape[1] * mae.config.mask_ratio)
    patch = (*mae.config.patch_size[:3], 1)
    voxels = mae.scheme.spread(mask, mae.config.grid)
    for axis, n in enumerate(patch, start=1):
        voxels = voxels.repeat_interleave(n, axis)
    expected = (made.pred - x).square().mean(dim=1)[voxels].mean()
    torch.testing.assert_close(made.loss, expected)
    # what is hidden cannot be seen, and what is shown is
    unseen = torch.where(voxels[:, None], x + 1, x)
    seen = torch.where(voxels[:, None], x, x + 1)
    with torch.no_grad():
        assert torch.equal(mae.reconstruct(unseen, mask).pred, made.pred)
        assert not torch.equal(mae.reconstruct(seen, mask).pred, made.pred)


@pytest.mark.parametrize("t", [3, 6])
def test_a_window_may_be_shorter(
    small: dict[str, Any], filled: Any, seed: torch.Generator, t: int
) -> None:
    mae = make(small, filled, {})
    x = image(mae.config, t=t)
    with torch.no_grad():
        made = mae.reconstruct(x, mae.draw_mask(x, generator=seed))
    assert made.pred.shape == x.shape
    assert made.latent.shape[-1] == t


def test_masks_of_ones_and_zeros_hide_what_booleans_hide(
    small: dict[str, Any], filled: Any, seed: torch.Generator
) -> None:
    mae = make(small, filled, {})
    x = image(mae.config)
    mask = mae.draw_mask(x, generator=seed)
    with torch.no_grad():
        expected = mae.reconstruct(x, mask)
        for dtype in (torch.uint8, torch.int64, torch.float32):
            made = mae.reconstruct(x, mask.to(dtype))
            assert torch.equal(made.pred, expected.pred)
            assert torch.equal(made.loss, expected.loss)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"spatial_mask": "random", "time_mask": "tube"},
        {"spatial_mask": "window", "time_mask": "tube"},
        {"spatial_mask": "atlas"},
    ],
    ids=str,
)
def test_the_masked_error_is_that_of_each_window_alone(
    small: dict[str, Any], filled: Any, seed: torch.Generator, change: dict[str, Any]
) -> None:
    mae = make(small, filled, change)
    if mae.atlas_map is not None:
        mae.atlas_map = torch.arange(8 * 16 * 24).reshape(8, 16, 24) % 7 % 5
    x = image(mae.config)
    with torch.no_grad():
        error = mae.masked_error(x, generator=seed)
        mask = mae.draw_mask(x, generator=torch.Generator().manual_seed(0))
        alone = [mae.reconstruct(x[i : i + 1], mask[i : i + 1]).loss for i in range(2)]
    assert error.shape == (2,)
    torch.testing.assert_close(error, torch.stack(alone), rtol=1e-5, atol=0)


SCHEMES = [
    ("window", "random"), ("window", "tube"), ("random", "random"), ("random", "tube"),
    ("atlas", "random"), ("atlas", "tube"),
]  # fmt: skip


@pytest.mark.parametrize(("space", "time"), SCHEMES)
def test_every_way_of_hiding_is_trained(
    small: dict[str, Any], filled: Any, space: str, time: str
) -> None:
    mae = make(small, filled, {"spatial_mask": space, "time_mask": time}).train()
    if space == "atlas":
        labels = torch.arange(16 * 32 * 48).reshape(16, 32, 48) // 97 % 6
        mae.atlas_map = name_regions(labels, mae.config.patch_size)
    x = image(mae.config, t=3)
    token = {"window-random": "window_mask_token", "atlas": "atlas_mask_token"}
    token_name = token.get(f"{space}-{time}") or token.get(space, "mask_token")
    optimiser = torch.optim.AdamW(mae.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = mae.masked_error(x, generator=torch.Generator().manual_seed(1)).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    tokens = {"window_mask_token", "mask_token", "atlas_mask_token"}
    for name, parameter in mae.named_parameters():
        unused = name in tokens - {token_name}
        assert (parameter.grad is None) == unused, name
        assert unused or parameter.grad.abs().sum() > 0, name


def test_the_gradient_of_every_loss_is_that_of_finite_differences(
    small: dict[str, Any], filled: Any
) -> None:
    """Of tubes and atlases upstream has no numbers to compare with."""
    for space, time in SCHEMES[1:5]:
        mae = make(small, filled, {"spatial_mask": space, "time_mask": time}).double()
        if space == "atlas":
            mae.atlas_map = torch.arange(8 * 16 * 24).reshape(8, 16, 24) % 5
        x = image(mae.config, n=1, t=3).double()
        mask = mae.draw_mask(x, generator=torch.Generator().manual_seed(1))
        mae.reconstruct(x, mask).loss.backward()
        token = getattr(mae, mae.scheme.token_name)
        for parameter in (token, mae.layers[0].blocks[1].mamba.A_log, mae.decoder_pred.weight):
            way = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)).double()
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.add_(way, alpha=sign * 1e-7)
                    values.append(mae.reconstruct(x, mask).loss.item())
                    parameter.sub_(way, alpha=sign * 1e-7)
            slope = (values[0] - values[1]) / 2e-7
            assert slope == pytest.approx((parameter.grad * way).sum().item(), rel=1e-4, abs=1e-8)


def test_one_seed_gives_one_masked_error(small: dict[str, Any], filled: Any) -> None:
    mae = make(small, filled, {})
    x = image(mae.config)
    with torch.no_grad():
        errors = [
            mae.masked_error(x, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
        ]
    assert torch.equal(errors[0], errors[1])
    assert not torch.equal(errors[0], errors[2])


def test_an_error_over_nothing_is_refused(
    small: dict[str, Any], filled: Any, seed: torch.Generator
) -> None:
    mae = make(small, filled, {"mask_ratio": 0.001})
    with pytest.raises(ContractError, match=r"a mask ratio of 0\.001 hides nothing of"):
        mae.masked_error(image(mae.config), generator=seed)


def test_regions_of_the_weights_are_hidden_as_a_whole(
    small: dict[str, Any], filled: Any, seed: torch.Generator
) -> None:
    config = small | TILED | {"spatial_mask": "atlas", "mask_ratio": 0.5}
    state = filled(NeuroStormMae(Config.of(config), atlas=True).state_dict())
    state["atlas_map"] = torch.arange(8 * 16 * 24).reshape(8, 16, 24).remainder(5).float()
    mae = create_model("neurostorm-mae", config=config, weights=state)
    hidden = mae.scheme.spread(mae.draw_mask(image(mae.config), generator=seed), (8, 16, 24, 6))
    for item in hidden:
        regions = torch.unique(state["atlas_map"][item[..., 0]])
        assert len(regions) == 2
        assert 0 not in regions
        expected = torch.isin(state["atlas_map"], regions)
        assert torch.equal(item, expected[..., None].expand_as(item))


def test_a_head_reads_the_features_that_are_embedded(small: dict[str, Any], filled: Any) -> None:
    config = Config.of(small)
    network = NeuroStorm(config, head=LinearHead(32, 3))
    network.load_state_dict(filled(network.state_dict()))
    seen: list[torch.Tensor] = []
    network.patch_embed.register_forward_hook(lambda _m, _a, out: seen.append(out))
    x = image(config)
    with torch.no_grad():
        vectors, values = network.eval().embed_with_head(x)
        assert len(seen) == 1
        assert torch.equal(vectors, network.embed(x))
        assert torch.equal(values, network.predict(x))
    assert values.shape == (2, 3)


def test_weights_without_a_head_give_no_values(small: dict[str, Any]) -> None:
    network = NeuroStorm(Config.of(small))
    with pytest.raises(ContractError, match="these weights have no head"):
        network.embed_with_head(image(network.config))
