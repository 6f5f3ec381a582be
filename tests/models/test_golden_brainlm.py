"""The numbers of upstream's own code, float32 on a CPU. Tolerances are those of their README."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from neurostorm_app.models import create_model
from neurostorm_app.models.brainlm_image import make_positions
from neurostorm_app.models.brainlm_native import make_position
from neurostorm_app.models.brainlm_scene import hide

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

TINY = 2e-5  # features and guesses have no unit; their values reach 5
REAL = 5e-5
LARGEST = 2e-4  # 650M
LOSS = 1e-5  # relative

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "golden" / "brainlm"


@pytest.fixture(scope="session")
def golden() -> Path:
    if not FOLDER.is_dir():
        pytest.skip("upstream's numbers are not beside the project (../shared/golden/brainlm)")
    return FOLDER


@pytest.fixture(scope="session")
def xyz(golden: Path) -> Tensor:
    """Places of the 424 parcels, MNI mm: (1, 424, 3)."""
    rows = np.loadtxt(golden / "atlas" / "A424_Coordinates.dat")
    return torch.from_numpy(rows[:, 1:4].astype(np.float32))[None]


def read(golden: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads((golden / f"{name}.config.json").read_text())
    return config, load_file(golden / f"{name}.io.safetensors")


def tiny(golden: Path, name: str, **change: Any) -> tuple[Any, dict[str, Tensor]]:
    config, io = read(golden, name)
    weights = load_file(golden / f"{name}.safetensors")
    return create_model("brainlm", config=config | change, weights=weights), io


def by_rule(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Fill a parameter by its name: SplitMix64 of the name's CRC and the element's index."""
    low = name.lower()
    norm = "layernorm" in low or "decoder_norm" in low
    if norm:
        base, amplitude = (1.0, 0.2) if low.endswith("weight") else (0.0, 0.1)
    elif low.endswith(".bias"):
        base, amplitude = 0.0, 0.05
    elif "cls_token" in low or "mask_token" in low:
        base, amplitude = 0.0, 0.5
    elif low.endswith("conv.weight"):
        base, amplitude = 0.0, 0.15
    elif "xyz" in low:
        base, amplitude = 0.0, 0.01
    else:
        base, amplitude = 0.0, math.sqrt(3 / math.prod(shape[1:]))
    z = np.arange(math.prod(shape), dtype=np.uint64)
    with np.errstate(over="ignore"):
        z += np.uint64((zlib.crc32(name.encode()) << 32) + 0x9E3779B97F4A7C15 & (1 << 64) - 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    u = (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1
    return (base + amplitude * u).astype(np.float32).reshape(shape)


def rebuild(golden: Path, name: str) -> dict[str, Tensor]:
    """Build the weights of a large model: tables of positions are ours, the rest by the rule."""
    names = json.loads((golden / f"{name}.keys.json").read_text())["keys"]
    state = {}
    for key, shape in names.items():
        if key.endswith(".pe"):
            state[key] = make_position(shape[1])
        elif "pos" in key.rsplit(".", 1)[-1]:
            state[key] = make_positions(shape[2], math.isqrt(shape[1]))
        else:
            state[key] = torch.from_numpy(by_rule(key, tuple(shape)))
    return state


def check_rule(golden: Path, name: str, state: dict[str, Tensor]) -> None:
    check = json.loads((golden / f"{name}.rule_check.json").read_text())
    assert check.keys() == state.keys()
    for key, (first, last, total) in check.items():
        value = state[key].double()
        exact = 1e-6 if "pos" in key else 0  # sines differ a little between machines
        assert value.flatten()[0].item() == pytest.approx(first, abs=exact), key
        assert value.flatten()[-1].item() == pytest.approx(last, abs=exact), key
        assert value.sum().item() == pytest.approx(total, rel=1e-7, abs=1e-3), key


def watch(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Record what modules give."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
            seen[name] = out

        return keep

    for name, module in modules.items():
        module.register_forward_hook(hook(name))
    return seen


def agree(made: Any, io: dict[str, Tensor], case: str, *, atol: float) -> None:
    """Compare all that a case has of a reconstruction."""
    for key in ("logits", "last_hidden", "cls"):
        if f"{case}/{key}" in io:
            expected = io[f"{case}/{key}"]
            torch.testing.assert_close(getattr(made, key), expected, atol=atol, rtol=0)
    assert made.mask.dtype == torch.float32
    assert torch.equal(made.mask, io[f"{case}/mask"].float())
    if f"{case}/ids_restore" in io:
        assert torch.equal(made.ids_restore, io[f"{case}/ids_restore"].long())
    loss = io[f"{case}/loss"].item()
    assert made.loss.item() == pytest.approx(loss, rel=LOSS, nan_ok=True)


NATIVE = [
    ("masked", "noise", None, "mse"),
    ("masked_mae", "noise", 0.25, "mae"),
    ("nomask_identity", "noise_identity", 0.0, "mse"),
    ("nomask_shuffled", "noise", 0.0, "mse"),
]


@pytest.mark.parametrize(("case", "noise", "ratio", "loss"), NATIVE)
def test_the_native_model_gives_upstreams_numbers(
    golden: Path, case: str, noise: str, ratio: float | None, loss: str
) -> None:
    model, io = tiny(golden, "tiny_brainlm", loss_fn=loss)
    vit = model.vit
    seen = watch(
        {"embeddings": vit.embeddings}
        | {f"hidden_{i + 1}": layer for i, layer in enumerate(vit.encoder.layer)}
    )
    signal, places = io["signal_vectors"], io["xyz_vectors"]
    with torch.no_grad():
        made = model.reconstruct(signal, places, noise=io[noise], mask_ratio=ratio)
        agree(made, io, case, atol=TINY)
        seen["hidden_0"] = seen["embeddings"]
        for name, found in seen.items():
            torch.testing.assert_close(found, io[f"{case}/{name}"], atol=TINY, rtol=0)
        for layer in (0, 1):
            if f"{case}/attn_{layer}" in io:
                share = model.config.mask_ratio if ratio is None else ratio
                weights = model.attentions(
                    signal, places, layer=layer, noise=io[noise], mask_ratio=share
                )
                expected = io[f"{case}/attn_{layer}"]
                torch.testing.assert_close(weights, expected, atol=TINY, rtol=0)


def test_an_embedding_is_upstreams_with_tokens_in_their_own_order(golden: Path) -> None:
    model, io = tiny(golden, "tiny_brainlm")
    signal, places = io["signal_vectors"], io["xyz_vectors"]
    with torch.no_grad():
        vectors, hidden = model.embed(signal, places), model.encode(signal, places)
        made = model.reconstruct(signal, places, mask_ratio=0.0)
    expected = io["nomask_identity/last_hidden"]
    for found in (hidden, made.last_hidden):
        torch.testing.assert_close(found, expected, atol=TINY, rtol=0)
    torch.testing.assert_close(vectors, io["nomask_identity/cls"], atol=TINY, rtol=0)
    shuffled = io["nomask_shuffled/cls"]
    assert (vectors - shuffled).abs().max() > 0.5  # the order matters, so it must be right


@pytest.mark.parametrize("name", ["tiny_brainlm", "tiny_vitmae_p16", "tiny_vitmae_finetune"])
def test_a_file_comes_back_under_upstreams_names(golden: Path, name: str) -> None:
    model, _ = tiny(golden, name)
    expected = load_file(golden / f"{name}.safetensors")
    assert model.state_dict().keys() == expected.keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key])


@pytest.mark.parametrize("name", ["repo_20230606_5M", "hub_old_13M"])
def test_the_released_native_shapes(golden: Path, name: str) -> None:
    config, io = read(golden, name)
    state = rebuild(golden, name)
    check_rule(golden, name, state)
    model = create_model("brainlm", config=config, weights=state)
    about = json.loads((golden / f"{name}.keys.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == about["n_params"]
    vit, rows = model.vit, io["hidden_token_index"]
    seen = watch(
        {"hidden_0": vit.embeddings}
        | {f"hidden_{i + 1}": layer for i, layer in enumerate(vit.encoder.layer)}
    )
    signal, places = io["signal_vectors"], io["xyz_vectors"]
    for case, noise, ratio in (("masked", io["noise"], 0.2), ("nomask_identity", None, 0.0)):
        with torch.no_grad():
            made = model.reconstruct(signal, places, noise=noise, mask_ratio=ratio)
        agree(made, io, case, atol=REAL)
        hidden = made.last_hidden
        expected = {f"{case}/{k}_sel": v[:, rows] for k, v in seen.items()} | {
            f"{case}/embeddings_sel": seen["hidden_0"][:, rows],
            f"{case}/last_hidden_sel": hidden[:, rows],
            f"{case}/mean_token": hidden[:, 1:].mean(dim=1),
        }
        for key, found in expected.items():
            torch.testing.assert_close(found, io[key], atol=REAL, rtol=0)
        total = io[f"{case}/last_hidden_abs_sum"].item()
        assert hidden.abs().double().sum().item() == pytest.approx(total, rel=1e-5)
    with torch.no_grad():
        vectors = model.embed(signal, places)
    torch.testing.assert_close(vectors, io["nomask_identity/cls"], atol=REAL, rtol=0)


@pytest.mark.parametrize(("case", "ratio"), [("mae75", None), ("mae20", 0.2), ("nomask", 0.0)])
def test_the_vit_family_gives_upstreams_numbers(
    golden: Path, xyz: Tensor, case: str, ratio: float | None
) -> None:
    model, io = tiny(golden, "tiny_vitmae_p16")
    seen = watch(
        {
            "embeddings": model.vit.embeddings,
            "hidden_1": model.vit.encoder.layer[0],
            "patches": model.decoder.decoder_pred,
        }
    )
    signal, places = io["signal_vectors"], xyz.expand(2, -1, -1)
    with torch.no_grad():
        made = model.reconstruct(signal, places, noise=io[f"{case}/noise"], mask_ratio=ratio)
        seen = dict(seen)
        vectors = model.embed(signal, places)
        weights = model.attentions(
            signal, places, noise=io["mae75/noise"], mask_ratio=model.config.mask_ratio
        )
    agree(made, io, case, atol=TINY)
    assert torch.equal(made.order, io["order_by_y"].expand(2, -1))
    torch.testing.assert_close(vectors, io["nomask/cls"], atol=TINY, rtol=0)
    rows = weights[:, :, 0].mean(dim=1)
    torch.testing.assert_close(rows, io["mae75/cls_attn_last_layer_headmean"], atol=1e-6, rtol=0)
    first = io[f"{case}/patch_logits_first_batch"]
    for name in ("embeddings", "hidden_1"):
        torch.testing.assert_close(seen[name], io[f"{case}/{name}"], atol=TINY, rtol=0)
    patches = seen["patches"][:1, 1 : 1 + first.shape[1]]
    torch.testing.assert_close(patches, first, atol=TINY, rtol=0)


@pytest.mark.parametrize("mode", ["predict_last", "predict_last_pixel"])
@pytest.mark.parametrize("ratio", [0.2, 0.1])
def test_the_last_volumes_are_forecast_as_upstream_does(
    golden: Path, xyz: Tensor, mode: str, ratio: float
) -> None:
    model, io = tiny(golden, "tiny_vitmae_p16")
    with torch.no_grad():
        made = model.reconstruct(
            io["signal_vectors"], xyz.expand(2, -1, -1), mask_ratio=ratio, train_mode=mode
        )
    agree(made, io, f"{mode}_{ratio}", atol=TINY)
    assert made.last_hidden.shape[1] - 1 == io[f"{mode}_{ratio}/n_visible"].item()


def test_the_fine_tuned_head_is_upstreams(golden: Path, xyz: Tensor) -> None:
    model, io = tiny(golden, "tiny_vitmae_finetune")
    signal = load_file(golden / "tiny_vitmae_p16.io.safetensors")["signal_vectors"]
    places = xyz.expand(2, -1, -1)
    pooled, _ = tiny(golden, "tiny_vitmae_finetune", use_mean_pooling=True)
    with torch.no_grad():
        hidden = model.predict(signal, places, noise=io["noise"], mask_ratio=0.75)
        mean = pooled.predict(signal, places, noise=io["noise"], mask_ratio=0.75)
        whole = model.predict(signal, places)
        vectors, values = model.embed_with_head(signal, places)
        same = model.embed(signal, places)
    for found, name in (
        (hidden, "pred_is_train_false"), (hidden, "logits"), (mean, "pred_mean_pool"),
        (whole, "pred_nomask"), (values, "pred_nomask"),
    ):  # fmt: skip
        torch.testing.assert_close(found, io[name], atol=TINY, rtol=0)
    torch.testing.assert_close(vectors, same, atol=TINY, rtol=0)
    error = (hidden[:, 0] - torch.tensor([0.3, -0.7])).square().mean()
    assert error.item() == pytest.approx(io["loss"].item(), rel=LOSS)
    assert torch.equal(hide(io["noise"], int(729 * (1 - 0.75))).mask, io["mask"])


@pytest.mark.parametrize(
    ("name", "atol"),
    [("vitmae_111M", REAL), pytest.param("vitmae_650M", LARGEST, marks=pytest.mark.slow)],
)
def test_the_released_shapes_of_the_vit_family(
    golden: Path, xyz: Tensor, name: str, atol: float
) -> None:
    config, io = read(golden, name)
    state = rebuild(golden, name)
    check_rule(golden, name, state)
    about = json.loads((golden / f"{name}.keys.json").read_text())
    model = create_model("brainlm", config=config, weights=state)
    del state
    assert sum(p.numel() for p in model.parameters()) == about["n_params"]
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learned == about["n_trainable"]
    for case, ratio in (("mae75", None), ("nomask", 0.0)):
        with torch.no_grad():
            made = model.reconstruct(io["signal_vectors"], xyz, io[f"{case}/noise"], ratio)
        agree(made, io, case, atol=atol)
        hidden = made.last_hidden
        for key, found in (
            ("last_hidden_first8", hidden[:, :8]), ("mean_token", hidden[:, 1:].mean(dim=1)),
        ):  # fmt: skip
            torch.testing.assert_close(found, io[f"{case}/{key}"], atol=atol, rtol=0)
    with torch.no_grad():
        vectors = model.embed(io["signal_vectors"], xyz)
    torch.testing.assert_close(vectors, io["nomask/cls"], atol=atol, rtol=0)
