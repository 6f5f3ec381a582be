"""fMRI-LM's tokenizer: the numbers of its public code, and a codebook that training alone moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError, UsageError, WrongWeightsError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.families import name_family
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.models.fmri_lm_files import LmConfig, pick_tokenizer
from neurostorm_app.models.fmri_lm_quantise import EmaQuantiser, FiniteQuantiser
from neurostorm_app.models.losses import pair_loss
from neurostorm_app.pipelines.scale_parcels import measure_statistics, scale_series

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "golden" / "fmri_lm"
TOLERANCE = 1e-5
TINY: dict[str, Any] = {
    "width": 32,
    "depth": 2,
    "heads": 4,
    "n_parcels": 6,
    "n_volumes": 32,
    "patch": 16,
    "n_codes": 64,
    "code_width": 16,
}


def read(name: str) -> dict[str, Tensor]:
    if not FOLDER.is_dir():
        pytest.skip("the numbers of the public code are not beside the project")
    return load_file(FOLDER / f"{name}.safetensors")


def inner(tensors: dict[str, Tensor], prefix: str = "state.") -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def drawn(**changes: Any) -> LmTokenizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return LmTokenizer(LmConfig.of(TINY | changes)).eval()


def trained(**changes: Any) -> dict[str, Tensor]:
    """Give the tensors of a file whose codebook was filled."""
    state = drawn(**changes).state_dict()
    return state | {"quantize.embedding.initted": torch.ones(1)}


def series(n: int = 2, length: int = 32, seed: int = 1) -> Tensor:
    return torch.randn(n, 6, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patch", [16, 32])
def test_features_codes_and_series_are_those_of_the_public_code(patch: int) -> None:
    tensors = read(f"vq_tokenizer_p{patch}of32")
    model = create_model("fmri-lm", config=TINY | {"patch": patch}, weights=inner(tensors))
    assert isinstance(model, LmTokenizer)
    x = tensors["input"]
    with torch.no_grad():
        features, found, back = model.encode(x), model.quantise(x), model.reconstruct(x)
        total, _ = model(x)
        vectors = model.embed(x)
    near = {"atol": TOLERANCE, "rtol": 0}
    torch.testing.assert_close(features, tensors["encoder_features"], **near)
    torch.testing.assert_close(vectors, tensors["encoder_features"].mean(dim=1), **near)
    torch.testing.assert_close(found.values, tensors["z_q"], **near)
    assert torch.equal(found.codes.flatten(), tensors["indices"])
    torch.testing.assert_close(back, tensors["rec"], **near)
    torch.testing.assert_close(found.loss, tensors["commit_loss"][0], **near)
    torch.testing.assert_close(total, tensors["total_loss"][0], **near)


@pytest.mark.parametrize("patch", [16, 32])
def test_one_step_of_training_moves_the_codebook_as_in_the_public_code(patch: int) -> None:
    tensors = read(f"vq_tokenizer_p{patch}of32")
    model = create_model("fmri-lm", config=TINY | {"patch": patch}, weights=inner(tensors))
    assert isinstance(model, LmTokenizer)
    before = model.quantize.embedding.weight.clone()
    found = model.quantize.train()(tensors["to_quantizer"])
    assert torch.equal(found.codes.flatten(), tensors["ema.indices"])
    torch.testing.assert_close(found.loss, tensors["ema.loss"][0], atol=TOLERANCE, rtol=0)
    after = model.quantize.embedding.weight
    torch.testing.assert_close(after, tensors["ema.weight_after"], atol=TOLERANCE, rtol=0)
    assert (after - before).abs().max() > 100 * TOLERANCE
    counted = tensors["ema.cluster_size_after"]
    torch.testing.assert_close(model.quantize.cluster_size, counted, atol=TOLERANCE, rtol=0)


def test_gradients_pass_through_the_codebook_as_in_the_public_code() -> None:
    tensors = read("norm_ema_quantizer")
    quantiser = EmaQuantiser(12, 8).eval()
    quantiser.embedding.weight.copy_(tensors["weight"])
    z = tensors["z"].clone().requires_grad_()
    found = quantiser(z)
    torch.testing.assert_close(found.values, tensors["z_q"], atol=TOLERANCE, rtol=0)
    assert torch.equal(found.codes.flatten(), tensors["indices"])
    ((found.values * tensors["upstream"]).sum() + found.loss).backward()
    torch.testing.assert_close(z.grad, tensors["grad_z"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_finite_levels_are_those_of_the_public_code(case: str) -> None:
    tensors = inner(read("fsq"), f"{case}.")
    z = tensors["z"]
    quantiser = FiniteQuantiser(tensors["levels"].tolist(), z.shape[-1])
    quantiser.load_state_dict(inner(tensors))
    values, codes = quantiser(z)
    torch.testing.assert_close(values, tensors["out"], atol=TOLERANCE, rtol=0)
    assert torch.equal(codes, tensors["indices"])
    assert codes.dtype == torch.int32


@pytest.mark.parametrize("name", ["clip", "clip_default"])
def test_the_loss_of_pairs_is_that_of_the_public_code(name: str) -> None:
    tensors = read("alignment_losses")
    found = pair_loss(tensors["a"], tensors["b"])
    torch.testing.assert_close(found, tensors[name][0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("p16of32", {}),
        ("p32of32", {"patch": 32}),
        ("p16of32_cls", {"class_token": True}),
    ],
)
def test_names_and_shapes_are_those_of_the_public_code(name: str, changes: dict[str, Any]) -> None:
    if not FOLDER.is_dir():
        pytest.skip("the names of the public code are not beside the project")
    wanted = json.loads((FOLDER / "vq_keys_tiny.json").read_text())[name]
    ours = {key: list(value.shape) for key, value in drawn(**changes).state_dict().items()}
    assert ours == wanted


@pytest.mark.parametrize(
    ("size", "patch", "millions"),
    [("small", 32, 46.1), ("base", 160, 174.5), ("large", 160, 610.3)],
)
def test_the_sizes_are_those_of_the_paper(size: str, patch: int, millions: float) -> None:
    config = {"size": size, "n_parcels": 450, "n_volumes": 160, "patch": patch}
    with torch.device("meta"):
        model = LmTokenizer(LmConfig.of(config))
    found = sum(value.numel() for value in model.state_dict().values())
    assert round(found / 1e6, 1) == millions


def test_nothing_changes_in_evaluation() -> None:
    model = drawn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        first, second = model.quantise(series()), model.quantise(series())
        model.reconstruct(series())
    assert torch.equal(first.codes, second.codes)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not model.quantize.embedding.initted.any()


@pytest.mark.parametrize("training", [True, False])
def test_codes_do_not_depend_on_the_precision_around(training: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    z = torch.randn(300, 16, generator=generator).bfloat16()
    found = []
    for enabled in (True, False):
        torch.manual_seed(0)
        quantiser = EmaQuantiser(256, 16).train(training)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            quantised = quantiser(z if enabled else z.float())
        assert quantised.values.dtype == quantised.loss.dtype == torch.float32
        found.append((quantised.codes, quantised.values, quantiser.embedding.weight))
    for here, there in zip(*found, strict=True):
        assert torch.equal(here, there)


def test_a_step_of_training_in_half_the_bits_moves_the_codebook() -> None:
    model = drawn().train()
    before = model.quantize.embedding.weight.clone()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model(series())
    loss.backward()
    assert loss.isfinite()
    assert (model.quantize.embedding.weight - before).abs().max() > 1e-3
    weight = model.encoder.patch_embed.proj.weight
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0


def test_training_fills_an_empty_codebook_once_with_centres_of_the_data() -> None:
    directions = torch.eye(16)[:4]
    z = directions.repeat(20, 1) + 0.02 * torch.randn(
        80, 16, generator=torch.Generator().manual_seed(2)
    )
    quantiser = EmaQuantiser(32, 16).train()
    torch.manual_seed(0)
    assert quantiser(z).loss < 1e-3
    assert quantiser.embedding.initted.all()
    torch.testing.assert_close(quantiser.embedding.weight.norm(dim=1), torch.ones(32))
    filled = quantiser.embedding.weight.clone()
    far = quantiser(-z)  # another kind of data does not fill it again
    assert far.loss > 0.05
    assert (quantiser.embedding.weight * filled).sum(dim=1).min() > 0.99
    fewer = EmaQuantiser(128, 16).train()  # more rows than features
    assert fewer(z).loss < 1e-3


def test_training_learns_planted_patterns_that_fresh_codes_do_not_hold() -> None:
    generator = torch.Generator().manual_seed(3)
    patterns = torch.randn(4, 6, 32, generator=generator)
    kinds = torch.randint(4, (64,), generator=generator)
    x = patterns[kinds] + 0.1 * torch.randn(64, 6, 32, generator=generator)
    model = drawn(drop_path=0.0)
    with torch.no_grad():
        before = fn.mse_loss(model.reconstruct(x), x)
    torch.manual_seed(1)
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(60):
        loss, _ = model(x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        after = fn.mse_loss(model.eval().reconstruct(x), x)
        codes = model.quantise(x).codes
    assert after < 0.5 * before
    alike = (codes[:, None] == codes[None]).float().mean(dim=2)
    same = kinds[:, None] == kinds[None]
    others = ~torch.eye(64, dtype=torch.bool)
    # Windows of one pattern share more codes than windows of two.
    assert alike[same & others].mean() > alike[~same].mean() + 0.2


def test_tokens_of_a_parcel_stand_together_and_its_place_alone_tells_them_apart() -> None:
    model = drawn()
    x = series(1)
    swapped = torch.cat([x[..., 16:], x[..., :16]], dim=2)
    with torch.no_grad():
        here, there = model.encode(x), model.encode(swapped)
        moved = model.embed(x.roll(1, dims=1))
        there = there.unflatten(1, (6, 2)).flip(2).flatten(1, 2)
        torch.testing.assert_close(here, there, atol=TOLERANCE, rtol=0)
        assert (moved - model.embed(x)).abs().max() > 1e-3


def test_a_class_token_stands_first_and_is_not_averaged() -> None:
    model = drawn(class_token=True)
    with torch.no_grad():
        features = model.encode(series())
        assert features.shape == (2, 13, 32)
        torch.testing.assert_close(model.embed(series()), features[:, 1:].mean(dim=1))
        assert model.reconstruct(series()).shape == (2, 6, 32)


def test_a_shorter_window_is_embedded_but_not_decoded() -> None:
    model = drawn()
    with torch.no_grad():
        assert model.embed(series(length=16)).shape == (2, 32)
    with pytest.raises(ContractError, match="takes those of a whole window"):
        model.reconstruct(series(length=16))


@pytest.mark.parametrize("shape", [(2, 5, 32), (2, 6, 24), (2, 6, 48), (2, 6, 0), (6, 32)])
def test_series_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match="fMRI-LM got series of shape"):
        drawn().embed(torch.zeros(shape))


def test_layers_are_left_out_in_training_only() -> None:
    model = drawn(drop_path=0.9)
    x = series(64)
    torch.manual_seed(0)
    with torch.no_grad():
        sure = model.encode(x)
        torch.testing.assert_close(model.encode(x), sure)
        assert (model.train().encode(x) - sure).abs().max() > 1e-3


def test_stage_1_files_hold_the_same_tokenizer() -> None:
    plain = trained()
    beside = {"x_proj.weight": torch.ones(3, 2), "domain_classifier.0.bias": torch.ones(2)}
    whole = {f"VQ.{name}": value for name, value in plain.items()} | beside
    one = create_model("fmri-lm", config=TINY, weights=plain)
    two = create_model("fmri-lm", config=TINY, weights=whole)
    assert all(torch.equal(two.state_dict()[n], v) for n, v in one.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"VQ.more": torch.ones(1)}, "1 unknown: more"),
        ({"llm.fmri_lm_head.weight": torch.ones(2, 2)}, "later stages, with a language model"),
        ({"quantize.embedding.initted": torch.zeros(1)}, "the codebook was never filled"),
        ({"x_proj.weight": torch.ones(1)}, "1 unknown: x_proj.weight"),
    ],
)
def test_other_files_are_refused_by_name(change: dict[str, Tensor], message: str) -> None:
    state = trained()
    if any(name.startswith("VQ.") for name in change):
        state = {f"VQ.{name}": value for name, value in state.items()}
    with pytest.raises(WrongWeightsError, match=message):
        create_model("fmri-lm", config=TINY, weights=state | change)


def test_a_name_that_is_missing_is_told() -> None:
    state = trained()
    del state["decoder_raw.norm.bias"]
    with pytest.raises(WrongWeightsError, match=r"1 missing: decoder_raw\.norm\.bias"):
        create_model("fmri-lm", config=TINY, weights=state)


def test_files_of_other_families_are_told_apart() -> None:
    assert name_family(drawn().state_dict()) == "fMRI-LM"
    with pytest.raises(WrongWeightsError, match="are those of fMRI-LM, not of BrainLM"):
        create_model("brainlm", weights=drawn().state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "huge"}, "no fMRI-LM tokenizer of the size 'huge'"),
        ({"width": None}, "fMRI-LM's tokenizer says width: None"),
        ({"depth": 0}, "expected sizes of 1 or more"),
        ({"patch": 12}, "no whole number of patches of 12"),
        ({"heads": 5}, "cannot be shared evenly by 5 heads"),
        ({"decay": 1.0}, "drop_path is 0.1 and decay 1.0"),
    ],
)
def test_configurations_of_no_network_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongWeightsError, match=message):
        LmConfig.of(TINY | change)


def test_a_configuration_that_lacks_something_is_refused() -> None:
    with pytest.raises(WrongWeightsError, match="tokenizer lacks n_parcels, n_volumes, patch"):
        LmConfig.of({"size": "small"})


def test_a_different_configuration_is_told() -> None:
    ours, theirs = LmConfig.of(TINY), LmConfig.of(TINY | {"heads": 8, "decay": 0.9})
    assert ours.differing(theirs) == "heads 4 and 8"


def test_levels_below_two_are_refused() -> None:
    with pytest.raises(UsageError, match=r"levels of the channels are \[8, 1\]"):
        FiniteQuantiser([8, 1])


def test_the_card_says_that_nothing_is_released() -> None:
    card = read_card("fmri-lm")
    contract, config = card.contract, LmConfig.of(card.config)
    assert contract.kind == "parcels"
    assert (card.source, card.commercial_use, card.sha256) == (None, None, None)
    assert card.licence.startswith("none")
    assert "No weights are released" in card.limits[0]
    assert (contract.n_parcels, contract.window) == (config.n_parcels, config.n_volumes)
    assert (contract.multiple, card.dimension) == (config.patch, config.width)
    assert contract.scaling == "median"


def test_a_control_embeds_windows_of_the_card() -> None:
    model = create_model("fmri-lm-untrained", config=TINY)
    with torch.no_grad():
        vectors = model.embed(series())
    assert vectors.shape == (2, 32)
    assert vectors.std() > 1e-3


def test_median_scaling_is_the_robust_one_without_a_limit() -> None:
    values = np.random.default_rng(1).normal(size=(3, 400)) * [[1.0], [5.0], [0.0]]
    values[0, 7] = 50.0
    values -= values.mean(axis=1, keepdims=True)
    statistics = measure_statistics(values, np.arange(1, 4))
    scaled, clipped = scale_series(values, statistics, scaling="median")
    low, middle, high = np.percentile(values[:2], [25, 50, 75], axis=1)
    expected = (values[:2] - middle[:, None]) / (high - low)[:, None]
    np.testing.assert_allclose(scaled[:2], expected)
    assert (scaled[2] == 0).all()
    assert clipped == 0
    robust, some = scale_series(values, statistics, scaling="robust")
    assert some > 0.01
    assert robust[0, 7] < scaled[0, 7]


def test_a_file_of_the_tokenizer_is_taken_as_it_is() -> None:
    state = trained()
    assert pick_tokenizer(state, source="a file").keys() == state.keys()
