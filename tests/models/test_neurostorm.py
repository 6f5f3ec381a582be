from __future__ import annotations

from typing import Any

import pytest
import torch

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config, migrate


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 2, 16, 32, 48, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def mae(small: dict[str, Any], filled: Any) -> NeuroStormMae:
    network = NeuroStormMae(Config.of(small))
    network.load_state_dict(filled(network.state_dict()))
    return network.eval()


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_released_configuration_has_the_released_numbers_of_parameters() -> None:
    config = Config.of(read_card("neurostorm").config)
    with torch.device("meta"):
        encoder, mae, old = (
            NeuroStorm(config), NeuroStormMae(config), NeuroStormMae(config, layout="2025")
        )  # fmt: skip
    assert (count(encoder), len(encoder.state_dict())) == (5_173_020, 223)
    assert (count(mae), len(mae.state_dict())) == (7_712_964, 409)
    assert count(old) == 7_712_892


def test_prompts_of_the_released_configuration_add_what_upstream_counts() -> None:
    config = read_card("neurostorm").config
    with torch.device("meta"):
        encoder = NeuroStorm(Config.of(config | {"prompt_len": 50}))
    assert count(encoder) - 5_173_020 == 82_800


@pytest.mark.parametrize(
    ("extra", "prompts"),
    [
        ({"prompt_len": 5}, 5),
        ({"prompt_len": 5, "use_prompt_tuning": False}, 0),
        ({"prompt_len": 5, "use_prompt_tuning": True}, 5),
        ({"prompt_len": 5, "tpt_strategy": "ln"}, 0),
        ({"prompt_len": 5, "tpt_strategy": "prompt_ln"}, 5),
        ({}, 0),
    ],
)
def test_prompts_are_there_only_if_they_were_trained(
    small: dict[str, Any], extra: dict[str, Any], prompts: int
) -> None:
    assert Config.of(small | extra).prompt_len == prompts


def test_features_shrink_space_and_keep_time(mae: NeuroStormMae, x: torch.Tensor) -> None:
    with torch.no_grad():
        features = mae.features(x)
        assert features.shape == (2, 32, 1, 2, 3, 6)
        assert mae.features(x[..., :4]).shape == (2, 32, 1, 2, 3, 4)
        torch.testing.assert_close(mae.embed(x), features.mean(dim=(2, 3, 4, 5)))
        assert torch.equal(mae(x), features)


def test_an_embedding_is_the_same_twice_and_alone(mae: NeuroStormMae, x: torch.Tensor) -> None:
    with torch.no_grad():
        together, again = mae.embed(x), mae.embed(x)
        alone = torch.cat([mae.embed(x[:1]), mae.embed(x[1:])])
    assert torch.equal(again, together)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)  # no unit


def test_only_hidden_parts_count_for_the_loss(mae: NeuroStormMae, x: torch.Tensor) -> None:
    # windows of (2, 3, 4, 3) tokens do not tile the grid (8, 16, 24, 6): hide single tokens
    mae.scheme = type(mae.scheme).of("random", "random", mae.config.window_size)
    mask = mae.draw_mask(x, generator=torch.Generator().manual_seed(0))
    made = mae.reconstruct(x, mask)
    assert made.pred.shape == x.shape
    hidden = mae.scheme.spread(mask, (8, 16, 24, 6))
    voxels = hidden.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    error = (made.pred - x).square().mean(dim=1)[voxels].mean()
    assert made.loss.item() == pytest.approx(error.item(), rel=1e-5)
    changed = x.clone()
    changed.movedim(1, -1)[voxels] += 1  # what is hidden is not looked at
    torch.testing.assert_close(mae.reconstruct(changed, mask).pred, made.pred, atol=0, rtol=0)


def test_every_parameter_learns_but_the_tokens_of_other_schemes(
    small: dict[str, Any], x: torch.Tensor
) -> None:
    torch.manual_seed(0)
    mae = NeuroStormMae(Config.of(small | {"window_size": [2, 2, 4, 3]}))
    mae.reconstruct(x, mae.draw_mask(x, generator=torch.Generator().manual_seed(0))).loss.backward()
    still = {name for name, p in mae.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {"mask_token", "atlas_mask_token"}


def test_one_seed_makes_one_network(small: dict[str, Any]) -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(4)
        networks.append(NeuroStormMae(Config.of(small)).state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_the_network_says_which_input_it_takes(mae: NeuroStormMae, x: torch.Tensor) -> None:
    for wrong in (x[:, :, :15], x[:, :1], x[0], torch.cat([x, x], dim=-1)):
        with pytest.raises(
            ContractError, match=r"; it takes \(batch, .*2, 16, 32, 48, 1 to 6 volumes\)"
        ):
            mae.features(wrong)


def test_weights_without_a_head_do_not_predict(mae: NeuroStormMae, x: torch.Tensor) -> None:
    with pytest.raises(ContractError, match="these weights have no head"):
        mae.predict(x)


def test_the_layout_of_2025_hides_windows_only(small: dict[str, Any], x: torch.Tensor) -> None:
    config = Config.of(small | {"spatial_mask": "random"})
    mae = NeuroStormMae(config, layout="2025")
    with pytest.raises(
        ContractError, match=r"weights of the 2025 layout have no .*mask_token, only"
    ):
        mae.reconstruct(x, mae.draw_mask(x, generator=torch.Generator().manual_seed(0)))


def test_an_atlas_comes_with_the_weights(small: dict[str, Any], x: torch.Tensor) -> None:
    config = small | {"spatial_mask": "atlas", "mask_ratio": 0.5}
    state = NeuroStormMae(Config.of(config), atlas=True).state_dict()
    state["atlas_map"] = torch.arange(8 * 16 * 24).reshape(8, 16, 24) % 5
    mae = create_model("neurostorm-mae", config=config, weights=state)
    mask = mae.draw_mask(x, generator=torch.Generator().manual_seed(0))
    assert mask.float().mean() == pytest.approx(0.4, abs=0.01)  # two regions of four, and none
    assert mae.reconstruct(x, mask).loss > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "swift"}, "of the model 'swift', not of NeuroSTORM"),
        ({"first_window_size": None}, "lack first_window_size"),
        ({"img_size": [16, 32, 40, 6]}, "cannot be halved 3 times"),
        ({"embed_dim": 0}, "expected 1 or more"),
        ({"depths": [2, 2, 2, 10_000]}, "stages of 256 blocks in all"),
        ({"patch_size": [2, 2, 2, 2]}, "a patch is one volume long"),
    ],
)
def test_hyper_parameters_that_make_no_network_are_refused(
    small: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    config = {k: v for k, v in (small | change).items() if v is not None}
    with pytest.raises(WrongWeightsError, match=message):
        Config.of(config)


def test_a_decoder_needs_four_stages(small: dict[str, Any]) -> None:
    config = Config.of(small | {"depths": [1, 1, 1]})
    assert NeuroStorm(config) is not None
    with pytest.raises(WrongWeightsError, match="has 3 stages and c_multiplier 2"):
        NeuroStormMae(config)


def test_names_of_2025_become_ours() -> None:
    one = torch.zeros(1)
    rows = torch.zeros(8, 4)
    state = {
        "model.norm_up.weight": one,
        "model.mask_token": rows,
        "model.layers.0.blocks.0.norm1.weight": one,
        "output_head.head.head.weight": one,
        "output_head.head.norm.weight": one,
        "model.lora_A": one,
    }
    found = migrate(state, decoder=True)
    assert set(found) == {
        "norm_up.weight", "window_mask_token", "layers.0.blocks.0.norm1.weight",
        "head.head.weight", "lora_A",
    }  # fmt: skip
    assert found["window_mask_token"] is rows
    assert "norm_up.weight" not in migrate(state, decoder=False)


@pytest.mark.parametrize(
    ("name", "value"), [("depths", "many"), ("img_size", [16, 32]), ("embed_dim", "wide")]
)
def test_hyper_parameters_of_another_kind_are_refused_by_name(small, name, value):
    with pytest.raises(WrongWeightsError, match=f"the hyper-parameters say {name}"):
        Config.of(small | {name: value})
