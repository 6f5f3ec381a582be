"""MinD-Vis's autoencoder and condition: upstream's numbers, its files, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from neurostorm_app.errors import ContractError, UsageError, WrongWeightsError
from neurostorm_app.models import create_model, mind_vis
from neurostorm_app.models.checkpoint import Checkpoint, read_checkpoint
from neurostorm_app.models.families import check_family, name_family
from neurostorm_app.models.mind_vis import MindVis
from neurostorm_app.models.mind_vis_condition import Condition, build_condition
from neurostorm_app.models.mind_vis_files import MindVisConfig, pick_weights
from neurostorm_app.models.mind_vis_layers import make_positions
from neurostorm_app.models.stored_config import StoredConfig, name_stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "golden" / "mind_vis"
CLOSE = 1e-5
TINY: dict[str, Any] = {
    "num_voxels": 96,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 4,
    "decoder_embed_dim": 12,
    "decoder_depth": 1,
    "decoder_num_heads": 3,
    "mlp_ratio": 1.0,
}
"""6 tokens."""
HEADS = {"num_heads": 4, "decoder_num_heads": 3}


@pytest.fixture(scope="module")
def golden() -> Path:
    if not FOLDER.is_dir():
        pytest.skip("upstream's numbers are not beside the project (../shared/golden/mind_vis)")
    return FOLDER


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def build(state: dict[str, Tensor], **config: Any) -> MindVis:
    return mind_vis.build(config, Checkpoint(source="here", state=state)).eval()


def drawn(seed: int = 3, **change: Any) -> MindVis:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MindVis(MindVisConfig.of(TINY | change)).eval()


def voxels(n: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(n, 1, 96, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(("name", "ratio"), [("mr075", 0.75), ("mr000", 0.0)])
def test_hiding_and_guessing_are_upstreams(golden, name, ratio) -> None:
    found = load_file(golden / "mbm_mae.safetensors")
    model = build(part(found, "state."), num_heads=4, decoder_num_heads=4)
    model.config = replace(model.config, mask_ratio=ratio)
    x, io_ = found["input"], part(found, f"{name}.")
    torch.testing.assert_close(model.patch_embed(x), found["patch_embed"], atol=CLOSE, rtol=0)
    latent, hidden, back = model.encode(x, io_["noise"])
    assert torch.equal(hidden.float(), io_["mask"])
    assert torch.equal(back, io_["ids_restore"])
    torch.testing.assert_close(latent, io_["latent"], atol=CLOSE, rtol=0)
    guess = model.decode(latent, back)
    torch.testing.assert_close(guess, io_["pred"], atol=CLOSE, rtol=0)
    if ratio:
        squares = (guess - model.cut(x)).square().mean(dim=2)
        torch.testing.assert_close(squares[hidden].mean()[None], io_["loss"], atol=CLOSE, rtol=0)
        torch.testing.assert_close(guess.reshape(3, 1, -1), found["unpatchify_pred"],
                                   atol=CLOSE, rtol=0)  # fmt: skip


def test_names_and_shapes_are_upstreams(golden) -> None:
    stored = json.loads((golden / "keys_tiny.json").read_text())
    asked = {k: v for k, v in stored["config"].items() if k not in {"in_chans", "patch_size"}}
    assert (stored["config"]["in_chans"], stored["config"]["patch_size"]) == (1, 16)
    config = MindVisConfig.of(asked)
    network = MindVis(config).state_dict()
    assert {key: list(value.shape) for key, value in network.items()} == stored["mae_keys"]
    # What draws features of pictures is left out.
    assert pick_weights(dict.fromkeys(stored["nature_img_keys"], torch.zeros(1))) == {}
    width, n_voxels = stored["cond_stage_keys"]["dim_mapper.weight"][0], 256
    stage = Condition(replace(config, num_voxels=n_voxels), width=width).state_dict()
    ours = {key: list(value.shape) for key, value in stage.items()}
    left = stored["cond_stage_keys"].keys() - ours.keys()
    assert ours == {k: v for k, v in stored["cond_stage_keys"].items() if k not in left}
    assert left <= {"mae.mask_token"}  # nothing is hidden from a condition


@torch.no_grad()
def test_weighted_hiding_takes_the_same_path(golden) -> None:
    found = load_file(golden / "mbm_mae.safetensors")
    model = build(part(found, "state."), num_heads=4, decoder_num_heads=4)
    noise = found["focus.noise_after"].scatter(1, found["focus.ids_mask"], 1.1)
    _, hidden, back = model.encode(found["input"], noise)
    assert torch.equal(hidden.float(), found["focus.mask"])
    assert torch.equal(back, found["focus.ids_restore"])


@torch.no_grad()
def test_the_encoder_alone_and_its_condition_are_upstreams(golden) -> None:
    found = load_file(golden / "fmri_encoder.safetensors")
    for name in ("seq", "gp"):
        io_ = part(found, f"{name}.")
        model = build(part(io_, "state."), num_heads=4)
        assert not model.can_reconstruct
        got = model.tokens(io_["input"]) if name == "seq" else model.embed(io_["input"])[:, None]
        torch.testing.assert_close(got, io_["output"], atol=CLOSE, rtol=0)
    io_ = part(found, "cond.")
    whole = {f"cond_stage_model.{n}": v for n, v in part(io_, "state.").items()}
    whole["model.diffusion_model.out.2.bias"] = torch.ones(3)
    stage = build_condition({"num_heads": 4}, Checkpoint(source="here", state=whole))
    torch.testing.assert_close(stage(io_["input"]), io_["output"], atol=CLOSE, rtol=0)


@torch.no_grad()
def test_positions_are_upstreams_and_stretch_only_when_asked(golden) -> None:
    mae = part(load_file(golden / "mbm_mae.safetensors"), "state.")
    torch.testing.assert_close(make_positions(12, 32), mae["pos_embed"], atol=CLOSE, rtol=0)
    wanted = load_file(golden / "fmri_encoder.safetensors")["seq.state.pos_embed"]
    heads = {"num_heads": 4, "decoder_num_heads": 4}
    model = build(mae, **heads, num_voxels=256, interpolate_positions=True)
    assert torch.equal(model.pos_embed, wanted)
    assert model.decoder_pos_embed.shape == (1, 17, 24)


def test_another_number_of_voxels_is_refused() -> None:
    state = drawn().state_dict()
    with pytest.raises(WrongWeightsError, match="was trained on 96 voxels, in 6 patches; 128"):
        build(state, **HEADS, num_voxels=128)
    model = build(state, **HEADS, num_voxels=128, interpolate_positions=True)
    assert model.embed(torch.zeros(1, 1, 128)).shape == (1, 16)


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_the_ratio_of_the_perceptrons_is_read_from_the_weights(ratio) -> None:
    model = drawn(mlp_ratio=ratio)
    found = build(model.state_dict(), **HEADS, mlp_ratio=2.5)
    assert found.config.mlp_ratio == ratio
    assert torch.equal(found.embed(voxels()), model.embed(voxels()))


@torch.no_grad()
def test_the_released_shape_has_the_parameters_of_the_paper() -> None:
    released = {"num_voxels": 4656, "embed_dim": 1024, "depth": 24, "num_heads": 16}
    with torch.device("meta"):
        plain = MindVis(MindVisConfig.of(released))
        wide = MindVis(MindVisConfig.of(released | {"mlp_ratio": 4.0}))
    assert sum(p.numel() for p in plain.parameters()) == pytest.approx(164.9e6, rel=1e-3)
    assert sum(p.numel() for p in wide.blocks.parameters()) == pytest.approx(302.3e6, rel=1e-3)


@torch.no_grad()
def test_no_class_token_and_no_hiding_when_embedding() -> None:
    model, x = drawn(), voxels()
    before = model.embed(x)
    model.cls_token.add_(5)
    assert torch.equal(model.embed(x), before)
    assert model.tokens(x).shape == (2, 6, 16)
    assert torch.equal(model(x), before)


@torch.no_grad()
def test_the_error_counts_what_is_hidden_alone() -> None:
    model, x = drawn(), voxels()
    error = model.masked_error(x, generator=torch.Generator().manual_seed(4))
    noise = torch.rand(2, 6, generator=torch.Generator().manual_seed(4))
    latent, hidden, back = model.encode(x, noise)
    assert hidden.sum(dim=1).tolist() == [5, 5]
    squares = (model.decode(latent, back) - model.cut(x)).square().mean(dim=2)
    for row, wanted, where in zip(squares, error, hidden, strict=True):
        torch.testing.assert_close(row[where].mean(), wanted)


@torch.no_grad()
def test_what_is_hidden_does_not_reach_the_guess() -> None:
    model, x = drawn(), voxels(1)
    noise = torch.tensor([[0.9, 0.1, 0.8, 0.7, 0.6, 0.5]])  # the second token is seen
    latent, hidden, _ = model.encode(x, noise)
    assert hidden.tolist() == [[True, False, True, True, True, True]]
    other = x.clone()
    other[:, :, :16] += 3
    assert torch.equal(model.encode(other, noise)[0], latent)
    other[:, :, 16:32] += 3
    assert not torch.equal(model.encode(other, noise)[0], latent)


def test_the_condition_has_the_shape_of_a_text() -> None:
    config = MindVisConfig.of(TINY)
    stage = Condition(config, width=8)
    assert stage(voxels()).shape == (2, 77, 8)
    state = stage.state_dict()
    found = build_condition({"num_heads": 4}, Checkpoint(source="here", state=state))
    assert torch.equal(found(voxels()), stage(voxels()))
    with pytest.raises(WrongWeightsError, match="holds no stage that conditions pictures"):
        build_condition(HEADS, Checkpoint(source="here", state=drawn().state_dict()))


def test_an_encoder_alone_guesses_nothing() -> None:
    state = {n: v for n, v in drawn().state_dict().items() if not n.startswith("decoder_")}
    model = build(state, num_heads=4)
    with pytest.raises(UsageError, match="are the encoder alone: nothing can be guessed"):
        model.masked_error(voxels(), generator=torch.Generator())


def test_names_left_over_are_told_and_pictures_are_left_out() -> None:
    state = drawn().state_dict()
    build({**state, "nature_img_mask_token": torch.ones(1)}, **HEADS)
    with pytest.raises(WrongWeightsError, match="1 unknown: lora_a"):
        build({**state, "lora_a": torch.ones(1)}, **HEADS)
    del state["norm.bias"]
    with pytest.raises(WrongWeightsError, match=r"1 missing: norm\.bias"):
        build(state, **HEADS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": None}, "the configuration of MinD-Vis says num_heads: None"),
        ({"num_heads": 5}, "one does not divide the other"),
        ({"num_voxels": 97}, "one does not divide the other"),
        ({"depth": 0}, "expected 1 or more, and at most 256 blocks"),
        ({"mask_ratio": 1.0}, "tokens cannot be hidden: one must be seen"),
        ({"mask_ratio": 0.9}, "tokens cannot be hidden: one must be seen"),
    ],
)
def test_a_configuration_that_makes_no_network_is_refused(change, message) -> None:
    with pytest.raises(WrongWeightsError, match=message):
        MindVisConfig.of(TINY | change)


def test_what_no_tensor_tells_has_to_be_given() -> None:
    with pytest.raises(WrongWeightsError, match="of MinD-Vis lacks num_heads"):
        build(drawn().state_dict())


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(ContractError, match=r"MinD-Vis got an array of shape \(1, 1, 80\)"):
        drawn().embed(torch.zeros(1, 1, 80))


def test_the_family_is_told_by_the_names() -> None:
    state = drawn().state_dict()
    assert name_family(state) == "MinD-Vis"
    check_family(state, "mind-vis", source="here")
    with pytest.raises(WrongWeightsError, match="are those of MinD-Vis, not of BrainLM"):
        check_family(state, "brainlm", source="here")


# Upstream's files hold an object of a class `config.Config_MBM_fMRI`. Such a module is there while
# a file is written, and gone when it is read.

KEPT = {"embed_dim": 16, "num_heads": 4, "decoder_num_heads": 3, "mask_ratio": 0.5, "seed": 2022}


def make_class(state: Any, module: str = "config") -> type:
    def getstate(_: object) -> Any:
        return state

    return type("Config_MBM_fMRI", (), {"__module__": module, "__getstate__": getstate})


class Does:
    """Calls something when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.what = call, arguments

    def __reduce__(self) -> Any:
        return self.what


@pytest.fixture
def save(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Write a file as upstream does, with an object of a class that this machine lacks."""

    def write(stored: object, *named: Any) -> Path:
        path = tmp_path / "fmri_encoder.pth"
        content = {"model": drawn().state_dict(), "optimizer": {"state": {}}, "epoch": 499}
        with monkeypatch.context() as patch:
            for thing in named or (type(stored),):
                module = types.ModuleType(thing.__module__)
                module.__path__ = []
                setattr(module, thing.__name__, thing)
                patch.setitem(sys.modules, thing.__module__, module)
            torch.save({**content, "scaler": {"scale": 1.0}, "config": stored}, path)
        assert "config" not in sys.modules
        return path

    return write


def test_a_stored_configuration_is_read_as_values(save) -> None:
    path = save(make_class(KEPT)())
    assert name_stored(path) == [(StoredConfig, "config.Config_MBM_fMRI")]
    found = read_checkpoint(path)
    assert found.config == KEPT
    model = mind_vis.build(found.config or {}, found)
    assert model.config.mask_ratio == 0.5
    assert torch.equal(model.embed(voxels()), drawn().embed(voxels()))


def test_a_module_of_that_name_is_not_imported(save, tmp_path, monkeypatch) -> None:
    path = save(make_class(KEPT)())
    trace = tmp_path / "imported"
    (tmp_path / "config.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert read_checkpoint(path).config == KEPT
    assert not trace.exists()


@pytest.mark.parametrize("how", ["called", "nested", "part of config", "with arguments"])
def test_a_stored_configuration_that_does_something_is_refused(save, how, tmp_path) -> None:
    trace = tmp_path / "trace"

    def system(command: str) -> None:
        raise AssertionError(command)

    system.__module__, system.__qualname__ = "config.os", "system"
    plain, touch = make_class(KEPT)(), f"touch {trace}"
    if how == "called":
        path = save(Does(os.system, touch), type(plain))
    elif how == "nested":
        path = save(make_class({"num_heads": Does(os.system, touch)})())
    elif how == "part of config":
        path = save(Does(system, touch), type(plain), system)
    else:
        path = save(Does(type(plain), touch), type(plain))
    known = "truncated or damaged" if how == "with arguments" else "which is code; it was not run"
    with pytest.raises(WrongWeightsError, match=known):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("state", [[1, 2], {3: 4}, ({}, {"__class__": 1})])
def test_a_stored_configuration_that_is_no_values_is_refused(save, state) -> None:
    path = save(make_class(state)())
    with pytest.raises(WrongWeightsError, match="truncated or damaged"):
        read_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError, match="a stored configuration is not names and"):
        StoredConfig().__setstate__(state)


def test_through_the_registry_the_stored_heads_count(save) -> None:
    path = save(make_class(KEPT)())
    model = create_model("mind-vis", weights=path)
    assert torch.equal(model(voxels()), drawn()(voxels()))
    with pytest.raises(WrongWeightsError, match="differs from the one stored with the weights in"):
        create_model("mind-vis", weights=path, config={"num_heads": 2, "decoder_num_heads": 3})
