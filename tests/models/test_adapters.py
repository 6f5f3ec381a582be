"""What learns and what does not, and that what was learnt is a model like any other."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.adapters import (
    Tuned,
    count_trainable,
    export_config,
    export_head,
    export_state,
    prepare_tuning,
    trainable_names,
)
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.blocks import Mamba
from neurostorm_app.models.brainlm_files import NativeConfig, VitConfig
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.models.brainlm_vit import BrainLmVit
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

STRATEGIES: list[Any] = ["linear", "prompt", "prompt+norm", "lora", "full"]
SAME = 1e-5  # features have no unit; their values are of order one

NATIVE = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40,
    "decoder_hidden_size": 24, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 36, "timepoint_patching_size": 5, "conv_kernel_size": 7,
    "num_landmarks": 64, "segment_means_seq_len": 64, "mask_ratio": 0.3,
    "hidden_dropout_prob": 0.2,
}  # fmt: skip
VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 1,
    "decoder_intermediate_size": 12, "patch_size": 14, "num_channels": 3, "mask_ratio": 0.75,
    "image_size": [434, 434], "hidden_dropout_prob": 0.2,
}  # fmt: skip


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture
def storm(small: dict[str, Any], filled: Any) -> NeuroStorm:
    network = NeuroStorm(Config.of(small))
    network.load_state_dict(filled(network.state_dict()))
    return network.eval()


@pytest.fixture(params=["native", "vit"])
def brain(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if request.param == "native":
            model: nn.Module = BrainLmNative(NativeConfig.of(NATIVE))
            signal = torch.randn(2, 11, 30)
        else:
            model = BrainLmVit(VitConfig.of(VIT), head=True)
            signal = torch.randn(2, 424, 200)
    places = (torch.rand(*signal.shape[:2], 3, generator=seeded(2)) - 0.5) * 140  # mm
    return model.eval(), (signal, places)


def image(n: int = 2, t: int = 4) -> Tensor:
    return torch.randn(n, 2, 16, 32, 48, t, generator=seeded(1))


def tune(model: nn.Module, strategy: Any, **numbers: int) -> Tuned:
    return prepare_tuning(model, strategy, **{"n_outputs": 3, "prompt_len": 4, "seed": 7} | numbers)


def learn(tuned: Tuned, *inputs: Tensor, steps: int = 4, lr: float = 1e-2) -> list[float]:
    target = torch.randn(2, 3, generator=seeded(8))
    learning = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=lr, weight_decay=0.1)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = (tuned.train()(*inputs) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def kinds(names: list[str]) -> set[str]:
    """Say in a word of what kind parameters are."""

    def kind(name: str) -> str:
        if name.startswith("head."):
            return "head"
        if ".parametrizations.weight." in name and not name.endswith(".original"):
            return "low rank"
        if name.endswith(".prompt"):
            return "prompt"
        if ".norm" in name:
            return "norm"
        return "position" if "_embed." in name and "pos" in name else "other"

    return {kind(name) for name in names}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("linear", {"head"}),
        ("prompt", {"head", "prompt"}),
        ("prompt+norm", {"head", "prompt", "norm"}),
        ("lora", {"head", "low rank"}),
    ],
)
def test_a_strategy_names_what_learns(storm: NeuroStorm, strategy: Any, expected: set[str]) -> None:
    tuned = tune(storm, strategy)
    learning = trainable_names(tuned)
    assert kinds(learning) == expected
    frozen = [n for n, _ in tuned.named_parameters() if n not in learning]
    assert not kinds(frozen) & expected
    assert any("pos_embed" in name for name in frozen)
    assert count_trainable(tuned) == sum(
        p.numel() for n, p in tuned.named_parameters() if n in learning
    )


def test_in_full_everything_learns(storm: NeuroStorm) -> None:
    tuned = tune(storm, "full")
    assert trainable_names(tuned) == [name for name, _ in tuned.named_parameters()]
    assert count_trainable(tuned) == sum(p.numel() for p in storm.parameters()) + 33 * 3


def test_every_matrix_of_a_block_gets_an_update(storm: NeuroStorm) -> None:
    tuned = tune(storm, "lora", rank=3)
    updated = {n.split(".parametrizations")[0] for n in trainable_names(tuned) if ".down" in n}
    per_block = {"mamba.in_proj", "mamba.x_proj", "mamba.out_proj", "mlp.linear1", "mlp.linear2"}
    expected = {
        f"network.{name}.{part}"
        for name, module in storm.named_modules()
        if type(module).__name__ == "Block"
        for part in per_block
    }
    assert updated == expected
    module = tuned.network.get_submodule("layers.1.blocks.0.mamba.in_proj")
    assert isinstance(module, nn.Linear)
    shapes = {n: tuple(p.shape) for n, p in module.named_parameters() if not n.endswith("original")}
    assert shapes == {
        "parametrizations.weight.0.down": (3, 8), "parametrizations.weight.0.up": (32, 3)
    }  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_what_learns_changes_and_all_of_it(storm: NeuroStorm, strategy: Any) -> None:
    before = copy.deepcopy(storm.state_dict())
    tuned = tune(storm, strategy)
    first = copy.deepcopy(tuned.state_dict())
    losses = learn(tuned, image())
    assert losses[-1] < losses[0]
    learning = set(trainable_names(tuned))
    for name, value in tuned.state_dict().items():
        late = name.endswith("time_embed") and strategy == "full"  # later volumes are not used
        assert late or (not torch.equal(value, first[name])) == (name in learning), name
    assert all(torch.equal(value, before[name]) for name, value in storm.state_dict().items())


@pytest.mark.parametrize("strategy", ["linear", "lora"])
def test_the_network_starts_as_it_was(storm: NeuroStorm, strategy: Any) -> None:
    tuned = tune(storm, strategy)
    with torch.no_grad():
        torch.testing.assert_close(tuned.embed(image()), storm.embed(image()), atol=SAME, rtol=0)


def test_the_same_seed_starts_the_same(storm: NeuroStorm) -> None:
    for strategy in STRATEGIES:
        first, again, other = (tune(storm, strategy, seed=s).state_dict() for s in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["head.weight"], other["head.weight"])
        for name in (n for n in first if n.endswith((".prompt", ".down"))):
            assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_frozen_stays_in_evaluation_mode(storm: NeuroStorm, strategy: Any) -> None:
    tuned = tune(storm, strategy).eval()
    assert not any(module.training for module in tuned.modules())
    tuned.train()  # as a trainer does, at each epoch
    learning = set(trainable_names(tuned))
    for name, module in tuned.network.named_modules():
        own = {f"network.{name}.{n}" for n, _ in module.named_parameters(recurse=False)}
        assert module.training == (strategy == "full" or bool(own & learning)), name
    assert tuned.head.training


@pytest.mark.parametrize("strategy", ["linear", "lora"])
def test_nothing_is_dropped_of_a_frozen_brainlm(
    brain: tuple[nn.Module, tuple[Tensor, Tensor]], strategy: Any
) -> None:
    model, inputs = brain
    tuned = tune(model, strategy).train()
    with torch.no_grad():
        assert torch.equal(tuned(*inputs), tuned(*inputs))
        assert torch.equal(tuned.embed(*inputs), model.embed(*inputs))
        loose = tune(model, "full").train()
        assert not torch.equal(loose(*inputs), loose(*inputs))


def test_a_frozen_network_keeps_nothing_for_a_backward_pass(storm: NeuroStorm) -> None:
    for strategy, keeps in (("linear", False), ("prompt", True)):
        tuned = tune(storm, strategy)
        seen: list[bool] = []
        tuned.network.patch_embed.register_forward_hook(
            lambda *_, seen=seen: seen.append(torch.is_grad_enabled())
        )
        assert tuned.embed(image()).requires_grad == keeps
        assert seen == [keeps]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_was_learnt_is_a_model_like_any_other(
    storm: NeuroStorm, strategy: Any, tmp_path: Path
) -> None:
    tuned = tune(storm, strategy)
    learn(tuned, image(), steps=2)
    state, config = export_state(tuned), json.loads(json.dumps(export_config(tuned)))
    save_file(state, tmp_path / "tuned.safetensors")
    again = create_model(
        "neurostorm", config=config, weights=load_file(tmp_path / "tuned.safetensors")
    )
    x = image(t=6)
    with torch.no_grad():
        vectors, values = again.embed_with_head(x)
        torch.testing.assert_close(vectors, tuned.eval().embed(x), atol=SAME, rtol=0)
        torch.testing.assert_close(values, tuned(x), atol=SAME, rtol=0)
        if strategy != "linear":
            assert (vectors - storm.embed(x)).abs().max() > 100 * SAME
    prompts = {name for name in state if name.endswith(".prompt")}
    assert len(prompts) == (6 if strategy.startswith("prompt") else 0)
    assert not any("parametrizations" in name for name in state)


@pytest.mark.parametrize("strategy", ["linear", "lora", "full"])
def test_what_brainlm_learnt_is_a_model_like_any_other(
    brain: tuple[nn.Module, tuple[Tensor, Tensor]], strategy: Any
) -> None:
    model, inputs = brain
    tuned = tune(model, strategy)
    losses = learn(tuned, *inputs, steps=3, lr=3e-3)
    assert strategy != "lora" or losses[-1] < losses[0]
    assert all(p.grad is not None for p in tuned.parameters() if p.requires_grad)
    assert not any("decoder" in n or "mlp_pred_head" in n for n in trainable_names(tuned))
    again = create_model("brainlm", config=export_config(tuned), weights=export_state(tuned))
    head = export_head(tuned)
    with torch.no_grad():
        vectors = again.embed(*inputs)
        torch.testing.assert_close(vectors, tuned.eval().embed(*inputs), atol=SAME, rtol=0)
        values = vectors @ head["weight"].T + head["bias"]
        torch.testing.assert_close(values, tuned(*inputs), atol=SAME, rtol=0)
        if strategy != "linear":
            assert (vectors - model.embed(*inputs)).abs().max() > 100 * SAME


def test_upstreams_prompts_give_upstreams_features(golden: Path) -> None:
    about = json.loads((golden / "enc_prompt5.json").read_text())
    tensors = load_file(golden / "enc_prompt5.safetensors")
    weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights")}
    bare = create_model(
        "neurostorm",
        config=about["config"] | {"prompt_len": 0},
        weights={k: v for k, v in weights.items() if not k.endswith(".prompt")},
    )
    tuned = prepare_tuning(bare, "prompt", n_outputs=1, prompt_len=5, seed=0)
    prompts = {f"network.{k}": v for k, v in weights.items() if k.endswith(".prompt")}
    assert set(trainable_names(tuned)) == {*prompts, "head.weight", "head.bias"}
    tuned.load_state_dict(tuned.state_dict() | prompts)
    x = tensors["input/x"]
    with torch.no_grad():
        pooled = tuned.train().embed(x)
        again = create_model("neurostorm", config=export_config(tuned), weights=export_state(tuned))
        features = again.features(x)
    torch.testing.assert_close(pooled, tensors["output/pooled"], atol=5e-5, rtol=0)
    torch.testing.assert_close(features, tensors["output/features"], atol=5e-5, rtol=0)


def test_the_released_configuration_has_82800_numbers_in_its_prompts() -> None:
    with torch.device("meta"):
        network = NeuroStorm(Config.of(read_card("neurostorm").config))
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert sum(p.numel() for p in network.parameters()) == 5_173_020
    tuned = prepare_tuning(network, "prompt", n_outputs=1, seed=0)
    assert count_trainable(tuned) == 82_800 + 289
    assert count_trainable(prepare_tuning(network, "linear", n_outputs=1, seed=0)) == 289


@pytest.mark.parametrize("strategy", ["prompt+norm", "lora"])
def test_gradients_are_those_of_finite_differences_whatever_the_engine(
    storm: NeuroStorm, strategy: Any
) -> None:
    tuned = tune(storm.double(), strategy)
    for name, parameter in tuned.named_parameters():
        if name.endswith((".up", ".prompt")):  # away from zero, where products have no slope
            nn.init.normal_(parameter, std=0.1, generator=seeded(len(name)))
    x = image(n=1, t=3).double()
    probe = torch.randn(1, 3, generator=seeded(3), dtype=torch.float64)

    def value() -> Tensor:
        return (tuned(x) * probe).sum()

    found: dict[str, dict[str, Tensor]] = {}
    for engine in ("reference", "numba"):
        for module in tuned.modules():
            if isinstance(module, Mamba):
                module.engine = engine  # type: ignore[assignment]
        tuned.zero_grad()
        value().backward()
        found[engine] = {
            n: p.grad.clone() for n, p in tuned.named_parameters() if p.grad is not None
        }
    assert set(found["numba"]) == set(trainable_names(tuned))
    for name, expected in found["reference"].items():
        torch.testing.assert_close(found["numba"][name], expected, atol=1e-9, rtol=1e-7)
    parameters = dict(tuned.named_parameters())
    names = [n for n in parameters if n in found["numba"]][::5]
    for i, name in enumerate(names):
        way = torch.randn(parameters[name].shape, generator=seeded(i), dtype=torch.float64)
        slope = []
        for sign in (1, -1):
            with torch.no_grad():
                parameters[name] += sign * 1e-5 * way
                slope.append(value().item())
                parameters[name] -= sign * 1e-5 * way
        expected = (found["numba"][name] * way).sum().item()
        assert (slope[0] - slope[1]) / 2e-5 == pytest.approx(expected, rel=1e-4, abs=1e-7), name


def test_of_an_autoencoder_the_encoder_is_tuned(small: dict[str, Any], filled: Any) -> None:
    mae = NeuroStormMae(Config.of(small | {"window_size": [2, 2, 4, 3]}))
    mae.load_state_dict(filled(mae.state_dict()))
    tuned = tune(mae.eval(), "linear")
    assert not isinstance(tuned.network, NeuroStormMae)
    with torch.no_grad():
        torch.testing.assert_close(tuned.embed(image()), mae.embed(image()), atol=SAME, rtol=0)


def test_prompts_that_were_learnt_go_on_learning(storm: NeuroStorm) -> None:
    tuned = tune(storm, "prompt")
    learn(tuned, image(), steps=1)
    once = create_model("neurostorm", config=export_config(tuned), weights=export_state(tuned))
    again = tune(once, "prompt+norm")
    kept = tune(once, "lora")
    with torch.no_grad():
        for other in (again, kept):
            torch.testing.assert_close(other.embed(image()), once.embed(image()), atol=SAME, rtol=0)
    assert not any(name.endswith(".prompt") for name in trainable_names(kept))
    with pytest.raises(UsageError, match="the network has prompts of 4 tokens; 5 were asked for"):
        tune(once, "prompt", prompt_len=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "adapter"}, "there is no way of tuning called 'adapter'"),
        ({"n_outputs": 0}, "a network cannot be tuned where n_outputs is 0"),
        ({"rank": 0, "prompt_len": -1}, "prompt_len is -1, rank is 0"),
    ],
)
def test_what_makes_no_tuning_is_refused(
    storm: NeuroStorm, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tune(storm, **{"strategy": "lora"} | change)


def test_brainlm_has_no_windows_to_put_prompts_before(
    brain: tuple[nn.Module, tuple[Tensor, Tensor]],
) -> None:
    with pytest.raises(UsageError, match="prompts are tokens before the windows of NeuroSTORM's"):
        tune(brain[0], "prompt")


def test_a_connectome_has_nothing_to_tune() -> None:
    with pytest.raises(UsageError, match="has no weights that could be tuned"):
        tune(create_model("connectome"), "linear")
