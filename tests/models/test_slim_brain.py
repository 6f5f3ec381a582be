"""SLIM-Brain's encoder: the numbers of the one public code that loads it, and units that go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models import create_model, read_card, slim_brain
from neurostorm_app.models.families import check_family, name_family
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_files import SlimConfig
from neurostorm_app.models.slim_brain_layers import cut_units, paste_units
from neurostorm_app.models.slim_brain_mae import SlimBrainMae
from neurostorm_app.models.weights import list_places

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "golden" / "slim_brain"
NAME = "hiera4d_encoder_tiny"
TOLERANCE = 1e-5  # absolute, of values up to 2.7
ROUNDING = 1e-6
TINY: dict[str, Any] = {
    "img_size": [8, 16, 8, 8],
    "embed_dim": 8,
    "num_heads": 1,
    "stages": [1, 1, 1],
    "patch_kernel": [1, 2, 2, 2],
    "q_pool": 1,
    "q_stride": [2, 2, 2, 2],
    "mask_unit_size": [4, 4, 4, 4],
    "mlp_ratio": 2.0,
    "guess_width": 16,
}
"""2 x 1 x 2 x 1 mask units, T first."""


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not FOLDER.is_dir():
        pytest.skip("the numbers of the public loader are not beside the project")
    about = json.loads((FOLDER / f"{NAME}.json").read_text())
    return about["config"], load_file(FOLDER / f"{NAME}.safetensors")


@pytest.fixture(scope="module")
def loaded(golden) -> SlimBrain:
    config, tensors = golden
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    model = create_model("slim-brain", config=config, weights=state)
    assert isinstance(model, SlimBrain)
    return model


@pytest.fixture
def tiny() -> SlimBrain:
    return drawn(TINY)


def drawn(config: dict[str, Any], kind: type[SlimBrain] = SlimBrain) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return kind(SlimConfig.of(config)).eval()


def windows(n: int = 2, seed: int = 1) -> Tensor:
    x = torch.randn(n, 1, *TINY["img_size"], generator=torch.Generator().manual_seed(seed))
    return x.where(x.abs() > 0.01, 0.5)  # no voxel is 0 by chance


def on_grid(tokens: Tensor, config: SlimConfig, left: list[int]) -> Tensor:
    """Bring tokens of all units of a batch to (B, T, X, Y, Z, C)."""
    whole = tokens.reshape(-1, *config.units, *left, tokens.shape[-1])
    whole = whole.permute(0, 1, 5, 2, 6, 3, 7, 4, 8, 9)
    sides = [u * n for u, n in zip(config.units, left, strict=True)]
    return whole.reshape(len(whole), *sides, -1)


def test_features_are_those_of_the_public_loader(golden, loaded) -> None:
    _, tensors = golden
    x = tensors["input"].movedim(2, -1)  # the app has time last
    with torch.no_grad():
        whole, part = loaded.embed(x), loaded.embed(x, keep=tensors["mask_keep"])
    torch.testing.assert_close(whole, tensors["features_full"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(part, tensors["features_masked"], atol=TOLERANCE, rtol=0)
    assert (whole - part).abs().max() > 0.01


def test_every_stage_gives_the_tokens_of_the_public_loader(golden, loaded, monkeypatch) -> None:
    _, tensors = golden
    monkeypatch.setattr(slim_brain, "AT_ONCE", 2**20)
    seen: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _a, out, i=i: seen.__setitem__(i, out))
        for i, block in enumerate(loaded.blocks)
    ]
    x = tensors["input"].movedim(2, -1)
    with torch.no_grad():
        loaded.embed(x)
    for hook in hooks:
        hook.remove()
    for stage, last, side in ((1, 1, 4), (2, 3, 2), (3, 4, 2)):
        found = on_grid(seen[last], loaded.config, [side] * 4)
        expected = tensors[f"full.stage{stage}_spatial"]
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_last_tokens_of_kept_units_are_those_of_the_public_loader(golden, loaded) -> None:
    """The order of tokens is Hiera's own there; as a set they are the same."""
    _, tensors = golden
    x, keep = tensors["input"].movedim(2, -1), tensors["mask_keep"]
    places = keep.nonzero()[:, 1].reshape(len(keep), -1)
    with torch.no_grad():
        found = loaded.encoder_norm(loaded.encode(x, places))
    expected = tensors["masked.final_normed"]
    nearest = torch.cdist(found, expected, compute_mode="donot_use_mm_for_euclid_dist").argmin(2)
    for mine, theirs, order in zip(found, expected, nearest, strict=True):
        assert sorted(order.tolist()) == list(range(len(theirs)))
        torch.testing.assert_close(mine, theirs[order], atol=TOLERANCE, rtol=0)


def test_the_released_shape_has_300_tensors_of_the_known_names() -> None:
    if not FOLDER.is_dir():
        pytest.skip("the names of the public loader are not beside the project")
    known = json.loads((FOLDER / "encoder_full_keys.json").read_text())
    card = read_card("slim-brain")
    assert SlimConfig.of(known["config"]) == SlimConfig.of(card.config)
    with torch.device("meta"):
        network = SlimBrain(SlimConfig.of(card.config))
    found = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert found == known["keys"]


def test_the_released_shape_is_that_of_the_paper() -> None:
    with torch.device("meta"):
        network = SlimBrain(SlimConfig.of(read_card("slim-brain").config))
    assert sum(p.numel() for p in network.parameters()) == 23_336_512
    assert len(network.state_dict()) == 300
    assert (network.n_windowed, network.config.n_units) == (6, 135)
    assert network.config.width == read_card("slim-brain").dimension


def released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add what the reported layout has besides the encoder."""
    names = ("mask_token", "decoder_embed.weight", "decoder_pred.bias", "multi_scale_fusion.0.w")
    return {**state, **{name: torch.zeros(3) for name in names}}


def test_a_file_of_the_reported_layout_loads_without_its_decoder(tiny, tmp_path) -> None:
    path = tmp_path / "best_model.pth"
    content = {"epoch": 39, "model_state_dict": released(tiny.state_dict()), "optimizer": {}}
    torch.save(content, path)
    model = create_model("slim-brain", config=TINY, weights=path)
    with torch.no_grad():
        assert torch.equal(model.embed(windows()), tiny.embed(windows()))


def test_what_is_neither_encoder_nor_decoder_is_refused_by_name(tiny) -> None:
    state = tiny.state_dict()
    with pytest.raises(WrongWeightsError, match=r"1 unknown: predictor\.weight"):
        create_model(
            "slim-brain", config=TINY, weights={**state, "predictor.weight": torch.ones(2)}
        )
    del state["blocks.1.proj.bias"]
    with pytest.raises(WrongWeightsError, match=r"1 missing: blocks\.1\.proj\.bias"):
        create_model("slim-brain", config=TINY, weights=state)
    with pytest.raises(WrongWeightsError, match="of another shape: pos_embed_spatial is"):
        create_model("slim-brain", weights=tiny.state_dict())


def test_a_foreign_file_is_told_by_its_family(tiny) -> None:
    assert name_family(tiny.state_dict()) == "SLIM-Brain"
    with pytest.raises(WrongWeightsError, match="are those of SLIM-Brain, not of NeuroSTORM"):
        create_model("neurostorm", weights=tiny.state_dict())
    storm = ["layers.0.blocks.0.mamba.D"]
    with pytest.raises(WrongWeightsError, match="are those of NeuroSTORM, not of SLIM-Brain"):
        check_family(storm, "slim-brain", source="a file")


def test_a_file_that_could_be_anybodys_counts_only_in_its_folder(tmp_path) -> None:
    places = list_places(read_card("slim-brain"), weights_dir=tmp_path)
    assert places[0] == tmp_path / "slim-brain" / "best_model.pth"
    assert tmp_path / "best_model.pth" not in places


def test_how_many_units_are_computed_together_changes_nothing(tiny, monkeypatch) -> None:
    with torch.no_grad():
        whole = tiny.embed(windows(3))
        monkeypatch.setattr(slim_brain, "AT_ONCE", 1)
        torch.testing.assert_close(tiny.embed(windows(3)), whole, atol=ROUNDING, rtol=0)


def test_a_window_does_not_depend_on_its_neighbours(tiny) -> None:
    x = windows(3)
    keep = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        together = tiny.embed(x, keep=keep)  # of unequal numbers of units
        single = [tiny.embed(x[i : i + 1], keep=keep[i : i + 1]) for i in range(3)]
        torch.testing.assert_close(together, torch.cat(single), atol=ROUNDING, rtol=0)
        torch.testing.assert_close(together[2:], tiny.embed(x[2:]), atol=ROUNDING, rtol=0)


def test_what_lies_in_a_deleted_unit_is_not_seen(tiny) -> None:
    x = windows(1)
    keep = torch.tensor([[True, False, True, True]])  # the second half of Y, first volumes, goes
    changed = x.clone()
    changed[..., 8:, :, :4] += 3
    with torch.no_grad():
        assert not torch.allclose(tiny.embed(x), tiny.embed(changed), atol=1e-3)
        unseen = tiny.embed(x, keep=keep), tiny.embed(changed, keep=keep)
    # The number of unit 1 over T, X, Y, Z is the second along Y.
    torch.testing.assert_close(*unseen, atol=0, rtol=0)


def test_units_without_brain_are_found_and_deleted_on_demand(tiny) -> None:
    x = windows(2)
    x[0, :, :, 8:] = 0
    brain = tiny.find_brain(x)
    assert brain.tolist() == [[True, False, True, False], [True] * 4]
    deleting = drawn(TINY | {"empty_units": "delete"})
    with torch.no_grad():
        expected = tiny.embed(x, keep=brain)
        torch.testing.assert_close(deleting.embed(x), expected, atol=ROUNDING, rtol=0)
        assert not torch.allclose(tiny.embed(x)[0], expected[0], atol=1e-3)
    with pytest.raises(ContractError, match="all mask units of a window would be deleted"):
        deleting.embed(torch.zeros_like(x))


def test_units_are_cut_and_put_back() -> None:
    config = SlimConfig.of(TINY)
    x = windows(2)
    units = cut_units(x, config)
    assert units.shape == (2, 2, 1, 2, 1, 4, 8, 8, 8)
    assert torch.equal(units[1, 1, 0, 1, 0], x[1, 0, :, 8:, :, 4:].permute(3, 0, 1, 2))
    assert torch.equal(paste_units(units.flatten(1, 4), config), x)


@pytest.mark.parametrize("shape", [(1, 1, 8, 16, 8, 4), (1, 2, 8, 16, 8, 8), (1, 8, 16, 8, 8)])
def test_another_shape_is_refused(tiny, shape) -> None:
    with pytest.raises(ContractError, match="SLIM-Brain got an array of shape"):
        tiny.embed(torch.zeros(shape))


def test_a_mask_of_another_shape_or_type_is_refused(tiny) -> None:
    with pytest.raises(ContractError, match="one truth value a mask unit was expected"):
        tiny.embed(windows(), keep=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ContractError, match="one truth value a mask unit was expected"):
        tiny.embed(windows(), keep=torch.ones(2, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": None}, "the configuration of SLIM-Brain says embed_dim: None"),
        ({"embed_dim": 0}, "fewer poolings than stages, and at most"),
        ({"q_pool": 3}, "fewer poolings than stages, and at most"),
        ({"stages": []}, "fewer poolings than stages, and at most"),
        ({"img_size": [8, 12, 8, 8]}, "is no whole number of mask units of"),
        ({"q_stride": [3, 2, 2, 2]}, "tokens cannot be pooled 1 times"),
        ({"num_heads": 3}, "cannot be shared evenly by 3 or 4 heads"),
        ({"mask_ratio": 1.0}, "the share of hidden mask units is 1.0"),
        ({"in_chans": 2}, "in_chans is 2; the only SLIM-Brain known here has 1"),
        ({"patch_stride": [1, 1, 1, 1]}, "patch_stride is .*; the only SLIM-Brain known here has"),
        ({"sep_pos_embed": False}, "sep_pos_embed is False; the only SLIM-Brain known"),
        ({"mask_unit_attn": [True] * 3}, "mask_unit_attn is .* the only SLIM-Brain known here"),
        ({"input_size": [8, 8, 8, 16]}, "these are two different windows"),
    ],
)
def test_a_configuration_that_makes_no_known_network_is_refused(changes, message) -> None:
    with pytest.raises(WrongWeightsError, match=message):
        SlimConfig.of(TINY | changes)


def test_a_configuration_that_lacks_something_is_refused_by_name() -> None:
    with pytest.raises(WrongWeightsError, match="the configuration of SLIM-Brain lacks stages"):
        SlimConfig.of({name: value for name, value in TINY.items() if name != "stages"})


def test_two_configurations_of_one_file_must_agree(tiny, tmp_path) -> None:
    torch.save({"state_dict": tiny.state_dict(), "hyper_parameters": TINY}, tmp_path / "a.pth")
    other = TINY | {"embed_dim": 16}
    with pytest.raises(WrongWeightsError, match="embed_dim 8 and 16"):
        create_model("slim-brain", config=other, weights=tmp_path / "a.pth")
    freer = TINY | {"empty_units": "delete"}
    model = create_model("slim-brain", config=freer, weights=tmp_path / "a.pth")
    assert model.config.empty_units == "delete"


def test_its_control_embeds_with_random_weights() -> None:
    model = create_model("slim-brain-untrained", config=TINY)
    with torch.no_grad():
        vectors = model.embed(windows())
    assert vectors.shape == (2, 32)
    assert vectors.std() > 1e-3


@pytest.fixture
def mae() -> SlimBrainMae:
    return drawn(TINY | {"mask_ratio": 0.5}, SlimBrainMae)


def test_what_is_hidden_of_a_window_does_not_reach_the_guess(mae) -> None:
    x = windows(2)
    with torch.no_grad():
        made = mae.masked_example(x, generator=torch.Generator().manual_seed(3))
        assert made.guess.shape == x.shape
        assert made.hidden.shape == (2, 1, 2, 1, 2)
        assert made.hidden.flatten(1).sum(dim=1).tolist() == [2, 2]
        sides = (8, 8, 8, 4)
        where = made.hidden
        for axis, side in enumerate(sides, start=1):
            where = where.repeat_interleave(side, axis)
        changed = torch.where(where[:, None], x + 5, x)
        again = mae.masked_example(changed, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again.guess, made.guess)
    squares = (made.guess - x).square()[:, 0]
    errors = [float(squares[i][where[i]].mean()) for i in range(2)]
    assert made.error.tolist() == pytest.approx(errors, rel=1e-4)


def test_units_without_brain_are_neither_seen_nor_guessed(mae) -> None:
    x = windows(2)
    x[0, :, :, 8:] = 0
    places, hidden = mae.draw_places(x, generator=torch.Generator().manual_seed(0))
    assert places.shape == (2, 1)  # half of the two units that the emptier window has
    assert int(places[0, 0]) in {0, 2}
    assert hidden.sum(dim=1).tolist() == [1, 3]
    x[0, ..., :4] = 0
    with pytest.raises(ContractError, match="a window has 1 mask units with brain"):
        mae.masked_error(x, generator=torch.Generator().manual_seed(0))


def test_a_fresh_decoder_goes_behind_given_weights(tiny) -> None:
    network = SlimBrainMae.around(tiny, seed=2)
    with torch.no_grad():
        assert torch.equal(network.embed(windows()), tiny.embed(windows()))
    again = SlimBrainMae.around(tiny, seed=2)
    assert torch.equal(network.guess.out.weight, again.guess.out.weight)


def test_the_autoencoder_of_the_app_takes_its_own_files_only(mae) -> None:
    card = read_card("slim-brain").model_copy(update={"architecture": "slim-brain-mae"})
    model = create_model(card, config=TINY, weights=mae.state_dict())
    with torch.no_grad():
        assert torch.equal(model.embed(windows()), mae.embed(windows()))
    with pytest.raises(WrongWeightsError, match=r"unknown: guess\."):
        create_model("slim-brain", config=TINY, weights=mae.state_dict())
    encoder = released(drawn(TINY).state_dict())
    with pytest.raises(WrongWeightsError, match="unknown: mask_token"):
        create_model(card, config=TINY, weights=encoder)


def test_gradients_are_those_of_all_units_at_once(mae, monkeypatch) -> None:
    x, found = windows(2), []
    for at_once in (1, 2**20):
        monkeypatch.setattr(slim_brain, "AT_ONCE", at_once)
        mae.train().zero_grad()
        mae.masked_error(x, generator=torch.Generator().manual_seed(1)).mean().backward()
        found.append({name: p.grad.clone() for name, p in mae.named_parameters()})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-6, rtol=1e-4)


def test_half_precision_is_near_and_trains(mae) -> None:
    x = windows(2)
    with torch.no_grad():
        whole, error = mae.embed(x), mae.masked_error(x, generator=torch.Generator())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half, guessed = mae.embed(x), mae.masked_error(x, generator=torch.Generator())
    assert not torch.equal(half.float(), whole)
    torch.testing.assert_close(half.float(), whole, atol=0.1, rtol=0)  # of about 1
    torch.testing.assert_close(guessed.float(), error, atol=0, rtol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mae.train().masked_error(x, generator=torch.Generator()).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in mae.parameters())
