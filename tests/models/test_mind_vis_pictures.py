"""MinD-Vis's model of pictures in diffusers: upstream's numbers, and files that are refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from neurostorm_app.errors import UsageError, WrongWeightsError
from neurostorm_app.models.checkpoint import Checkpoint
from neurostorm_app.models.mind_vis_condition import Condition
from neurostorm_app.models.mind_vis_files import MindVisConfig
from neurostorm_app.models.mind_vis_pictures import build_picture_unet

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / ".." / "shared" / "golden" / "mind_vis" / "dc_unet_tiny.safetensors"
CLOSE = 1e-4
pytest.importorskip("diffusers", reason="needs the extra `pictures`")


STEP, CONTEXT = 128, 24
LEVELS = (32, 64, 64)


def put(state: dict[str, Tensor], name: str, *shape: int, bias: bool = True) -> None:
    state[f"{name}.weight"] = torch.randn(shape) * 0.1
    if bias:
        state[f"{name}.bias"] = torch.randn(shape[0]) * 0.1


def put_residual(state: dict[str, Tensor], name: str, old: int, new: int) -> None:
    put(state, f"{name}.in_layers.0", old)
    put(state, f"{name}.in_layers.2", new, old, 3, 3)
    put(state, f"{name}.emb_layers.1", new, STEP)
    put(state, f"{name}.out_layers.0", new)
    put(state, f"{name}.out_layers.3", new, new, 3, 3)
    if old != new:
        put(state, f"{name}.skip_connection", new, old, 1, 1)


def put_attention(state: dict[str, Tensor], name: str, width: int) -> None:
    block = f"{name}.transformer_blocks.0"
    put(state, f"{name}.norm", width)
    put(state, f"{name}.proj_in", width, width, 1, 1)
    put(state, f"{name}.proj_out", width, width, 1, 1)
    for one, inward in (("attn1", width), ("attn2", CONTEXT)):
        put(state, f"{block}.{one}.to_out.0", width, width)
        for part, columns in (("q", width), ("k", inward), ("v", inward)):
            put(state, f"{block}.{one}.to_{part}", width, columns, bias=False)
    put(state, f"{block}.ff.net.0.proj", 8 * width, width)
    put(state, f"{block}.ff.net.2", width, 4 * width)
    for one in ("norm1", "norm2", "norm3"):
        put(state, f"{block}.{one}", width)


def put_way_down(state: dict[str, Tensor]) -> list[int]:
    """Two blocks a level, attention at all but the finest; give the widths that are carried."""
    put(state, "input_blocks.0.0", LEVELS[0], 3, 3, 3)
    widths = [LEVELS[0]]
    for level, new in enumerate(LEVELS):
        for _ in range(2):
            put_residual(state, f"input_blocks.{len(widths)}.0", widths[-1], new)
            if level:
                put_attention(state, f"input_blocks.{len(widths)}.1", new)
            widths.append(new)
        if level + 1 < len(LEVELS):
            put(state, f"input_blocks.{len(widths)}.0.op", new, new, 3, 3)
            widths.append(new)
    return widths


def draw_state() -> dict[str, Tensor]:
    """Draw weights of a UNet under upstream's names."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    put(state, "time_embed.0", STEP, LEVELS[0])
    put(state, "time_embed.2", STEP, STEP)
    put(state, "time_embed_condtion.0", 38, 77, 1)
    put(state, "time_embed_condtion.1", 1, 38, 1)
    put(state, "time_embed_condtion.2", STEP, CONTEXT)
    widths, width = put_way_down(state), LEVELS[-1]
    put_residual(state, "middle_block.0", width, width)
    put_attention(state, "middle_block.1", width)
    put_residual(state, "middle_block.2", width, width)
    for number, new in enumerate(new for new in reversed(LEVELS) for _ in range(3)):
        level = len(LEVELS) - 1 - number // 3
        put_residual(state, f"output_blocks.{number}.0", width + widths.pop(), new)
        if level:
            put_attention(state, f"output_blocks.{number}.1", new)
        if level and number % 3 == 2:
            put(state, f"output_blocks.{number}.2.conv", new, new, 3, 3)
        width = new
    put(state, "out.0", width)
    put(state, "out.2", 3, width, 3, 3)
    return state


def given(state: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(source="here", state=state)


def whole(state: dict[str, Tensor]) -> Checkpoint:
    """As upstream's file holds it, beside what is not the UNet."""
    named = {f"model.diffusion_model.{name}": value for name, value in state.items()}
    return given({**named, "model_ema.decay": torch.ones(1), "first_stage_model.a": torch.ones(1)})


@torch.no_grad()
def test_upstreams_numbers() -> None:
    if not GOLDEN.exists():
        pytest.skip("needs ../shared/golden/mind_vis")
    found = load_file(GOLDEN)
    state = {n.removeprefix("state."): v for n, v in found.items() if n.startswith("state.")}
    model = build_picture_unet(whole(state))
    step = model.step(found["context"])
    torch.testing.assert_close(step, found["time_cond"], atol=CLOSE, rtol=0)
    noise = model(found["x_t"], found["t"], found["context"])
    torch.testing.assert_close(noise, found["eps"], atol=CLOSE, rtol=0)


@torch.no_grad()
def test_both_conditions_matter_and_every_tensor_is_used() -> None:
    state = draw_state()
    model = build_picture_unet(whole(state))
    assert sum(p.numel() for p in model.parameters()) == sum(v.numel() for v in state.values())
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([12])
    one, other = torch.randn(2, 1, 77, 24)
    told = model(x, t, one)
    assert told.shape == x.shape
    assert not torch.allclose(told, model(x, t, other))
    model.step[2].weight.zero_()
    assert not torch.allclose(told, model(x, t, one))


def test_other_heads_are_another_network() -> None:
    state = draw_state()
    x, t, context = torch.randn(1, 3, 8, 8), torch.tensor([12]), torch.randn(1, 77, 24)
    with torch.no_grad():
        one, two = (build_picture_unet(given(state), num_heads=n)(x, t, context) for n in (1, 2))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time_embed_condtion.2.weight": None}, "holds no UNet that is conditioned twice"),
        ({"middle_block.1.transformer_blocks.0.attn2.to_k.weight": None}, "is not upstream's"),
        ({"input_blocks.1.0.in_layers.2.weight": torch.ones(33, 32, 3, 3)}, "is not upstream's"),
        ({"output_blocks.2.2.conv.bias": None}, "up_blocks.0.upsamplers.0.conv.bias"),
        ({"input_blocks.1.0.unheard.weight": torch.ones(1)}, "unheard"),
        ({"output_blocks.x.weight": torch.ones(1)}, "output_blocks.x.weight"),
        ({"out.2.bias": torch.ones(4)}, "conv_out.bias"),
    ],
)
def test_another_file_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    state = {**draw_state(), **change}
    kept = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(WrongWeightsError, match=re.escape(words)):
        build_picture_unet(given(kept))


def test_without_the_package_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match="the package diffusers is not installed") as caught:
        build_picture_unet(given(draw_state()))
    assert caught.value.fix == "pip install 'neurostorm-app[pictures]'"


def test_the_page_draws_a_latent_as_it_says(tmp_path, monkeypatch) -> None:
    config = MindVisConfig(
        num_voxels=64, embed_dim=32, depth=1, num_heads=16, decoder_embed_dim=16, decoder_depth=1,
        decoder_num_heads=2, mlp_ratio=1.0,
    )  # fmt: skip
    stage = Condition(config, width=24)
    parts = {f"model.diffusion_model.{n}": v for n, v in draw_state().items()}
    parts |= {f"cond_stage_model.{n}": v for n, v in stage.state_dict().items()}
    torch.save({"state_dict": parts}, tmp_path / "finetuned.pth")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/systems/mind-vis.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    space: dict[str, Any] = {"voxels": torch.randn(1, 1, 64)}
    steps = {"set_timesteps(250)": "set_timesteps(2)", "64, 64": "8, 8"}
    for block in blocks:
        for old, new in steps.items():
            block = block.replace(old, new)  # noqa: PLW2901
        exec(block, space)
    assert space["context"].shape == (1, 77, 24)
    assert space["latent"].shape == (1, 3, 8, 8)
    assert torch.isfinite(space["latent"]).all()
