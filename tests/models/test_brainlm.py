"""BrainLM against its own definition: order, masks, geometry, and every way a file can be wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError, ExitCode, WrongWeightsError
from neurostorm_app.models import create_model
from neurostorm_app.models.brainlm_files import NativeConfig, VitConfig, find_family
from neurostorm_app.models.brainlm_image import Geometry, hide_last, sort_pixels
from neurostorm_app.models.brainlm_layers import mix_neighbours
from neurostorm_app.models.brainlm_native import BrainLmNative
from neurostorm_app.models.brainlm_scene import choose, hide
from neurostorm_app.models.brainlm_vit import BrainLmVit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

SAME = 1e-5  # features have no unit; their values reach 4

NATIVE: dict[str, Any] = {
    "model_type": "brainlm_mae", "hidden_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 3, "intermediate_size": 40, "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 36, "timepoint_patching_size": 5, "conv_kernel_size": 7,
    "num_landmarks": 64, "segment_means_seq_len": 64, "mask_ratio": 0.3, "loss_fn": "mse",
}  # fmt: skip
VIT: dict[str, Any] = {
    "model_type": "vit_mae", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 1, "decoder_intermediate_size": 12, "patch_size": 14,
    "num_channels": 3, "mask_ratio": 0.75, "image_size": [434, 434],
}  # fmt: skip


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def state_of(config: dict[str, Any], **parts: Any) -> dict[str, Tensor]:
    """Draw weights that make every part of the network matter."""
    kind = BrainLmNative if "conv_kernel_size" in config else BrainLmVit
    shape = NativeConfig if kind is BrainLmNative else VitConfig
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = kind(shape.of(config), **parts).state_dict()
    noise = seeded(4)
    return {
        name: value if "pos" in name else value + 0.1 * torch.randn(value.shape, generator=noise)
        for name, value in state.items()
    }


def native(**change: Any) -> Any:
    config = NATIVE | change
    return create_model("brainlm", config=config, weights=state_of(config))


def vit(*, decoder: bool = True, head: bool = False, **change: Any) -> Any:
    config = VIT | change
    state = state_of(config, decoder=decoder, head=head)
    return create_model("brainlm", config=config, weights=state)


def windows(batch: int = 2, parcels: int = 11, volumes: int = 30) -> tuple[Tensor, Tensor]:
    signal = torch.randn(batch, parcels, volumes, generator=seeded(1))
    return signal, (torch.rand(batch, parcels, 3, generator=seeded(2)) - 0.5) * 140  # mm


@pytest.fixture(params=["native", "vit"])
def either(request: pytest.FixtureRequest) -> tuple[Any, Tensor, Tensor]:
    """A model of each family and windows for it."""
    if request.param == "native":
        return native(), *windows()
    return vit(), *windows(parcels=424, volumes=200)


def test_an_embedding_is_the_same_twice_and_alone(either: tuple[Any, Tensor, Tensor]) -> None:
    model, signal, xyz = either
    before = torch.random.get_rng_state()
    with torch.no_grad():
        together, again = model.embed(signal, xyz), model(signal, xyz)
        alone = torch.cat([model.embed(signal[i : i + 1], xyz[i : i + 1]) for i in (0, 1)])
        at_once = model.reconstruct(signal, xyz, mask_ratio=0.0).cls
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(again, together)
    assert torch.equal(alone, together)
    torch.testing.assert_close(at_once, together, atol=SAME, rtol=0)
    torch.testing.assert_close(model.encode(signal, xyz)[:, 0], together, atol=SAME, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=0.01)


def test_the_number_of_threads_does_not_change_an_embedding() -> None:
    model = native()
    signal, xyz = windows(parcels=40)
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(model.embed(signal, xyz).detach())
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], atol=SAME, rtol=0)


@pytest.mark.parametrize(
    ("parcels", "volumes", "change"),
    [
        (1, 5, {}),
        (7, 45, {"num_attention_heads": 4, "decoder_num_attention_heads": 6}),
        (90, 25, {"conv_kernel_size": 33}),
        (13, 36, {"timepoint_patching_size": 12, "conv_kernel_size": 1}),
        (5, 20, {"conv_kernel_size": 65, "num_hidden_layers": 1}),
        (5, 20, {"conv_kernel_size": None}),
    ],
)
def test_the_native_family_takes_any_number_of_parcels_and_patches(
    parcels: int, volumes: int, change: dict[str, Any]
) -> None:
    model = native(**change)
    signal, xyz = windows(parcels=parcels, volumes=volumes)
    patch = model.config.timepoint_patching_size
    n = volumes // patch
    with torch.no_grad():
        made = model.reconstruct(signal, xyz, mask_ratio=0.0)
        vectors = model.embed(signal, xyz)
    assert made.logits.shape == (2, parcels, n, patch)
    assert made.last_hidden.shape == (2, 1 + parcels * n, 24)
    torch.testing.assert_close(vectors, made.cls, atol=SAME, rtol=0)
    torch.testing.assert_close(vectors, by_hand(model, signal, xyz), atol=SAME, rtol=0)


def by_hand(model: Any, signal: Tensor, xyz: Tensor) -> Tensor:
    """Compute the class token as the paper writes it: matrices, a convolution, plain loops."""
    w = model.state_dict()
    config = model.config
    patches = signal.reshape(*signal.shape[:2], -1, config.timepoint_patching_size)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].mT + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return fn.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    at = "vit.embeddings."
    x = linear(patches, f"{at}signal_embedding_projection")
    x = x + linear(xyz, f"{at}xyz_embedding_projection")[:, :, None]
    x = (x + w[f"{at}pos_embedding.pe"][: patches.shape[2]]).flatten(1, 2)
    x = torch.cat([w[f"{at}cls_token"].expand(len(x), 1, -1), x], dim=1)
    heads = config.num_attention_heads
    for i in range(config.num_hidden_layers):
        at = f"vit.encoder.layer.{i}."
        q, k, v = (
            linear(x, f"{at}attention.self.{name}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
        if config.conv_kernel_size:
            filters = w[f"{at}attention.self.conv.weight"]
            half = config.conv_kernel_size // 2
            mixed = mixed + fn.conv2d(v, filters, padding=(half, 0), groups=heads)
        mixed = mixed.transpose(1, 2).flatten(2)
        x = norm(
            x + linear(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm"
        )
        inner = fn.gelu(linear(x, f"{at}intermediate.dense"))
        x = norm(x + linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
    return norm(x, "vit.layernorm")[:, 0]


@pytest.mark.parametrize(
    ("tokens", "n", "taps"),
    [
        (97, 97, 65),
        (97, 1, 65),
        (300, 300, 65),
        (300, 1, 5),
        (64, 64, 3),
        (257, 200, 33),
        (3, 3, 9),
    ],
)
def test_mixing_neighbours_is_a_convolution(tokens: int, n: int, taps: int) -> None:
    value = torch.randn(2, 3, tokens, 8, generator=seeded())
    weight = torch.randn(3, 1, taps, 1, generator=seeded(1))
    expected = fn.conv2d(value, weight, padding=(taps // 2, 0), groups=3)[:, :, :n]
    torch.testing.assert_close(mix_neighbours(value, weight, n), expected, atol=1e-4, rtol=0)


def test_the_order_of_tokens_matters_in_the_native_family_only() -> None:
    for model, data, some in ((native(), windows(), True), (vit(), windows(1, 424, 200), False)):
        n = model.encode(*data).shape[1] - 1
        noise = torch.rand(len(data[0]), n, generator=seeded(5))
        with torch.no_grad():
            shuffled = model.reconstruct(*data, noise=noise, mask_ratio=0.0).cls
            moved = (shuffled - model.embed(*data)).abs().max() > 0.01
        assert moved == some


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.3, 0.75, 0.9])
def test_so_many_tokens_are_hidden_as_the_ratio_says(
    either: tuple[Any, Tensor, Tensor], ratio: float
) -> None:
    model, signal, xyz = either
    n = model.encode(signal[:1], xyz[:1]).shape[1] - 1
    made = model.reconstruct(signal, xyz, mask_ratio=ratio)
    visible = int(n * (1 - ratio))
    assert made.last_hidden.shape[1] == 1 + visible
    assert torch.equal(made.ids_restore.sort(dim=1).values, torch.arange(n).expand(2, -1))
    hidden = (made.ids_restore >= visible).float()
    if made.mask.ndim == 3 and made.mask.shape[1] == 424:
        assert torch.equal(made.mask, model.geometry.spread(hidden))
    else:
        assert torch.equal(made.mask.flatten(1), hidden)
    assert torch.isnan(made.loss) == (ratio == 0)
    assert made.loss.requires_grad == (ratio > 0)


def test_what_is_hidden_is_not_looked_at(either: tuple[Any, Tensor, Tensor]) -> None:
    model, signal, xyz = either
    torch.manual_seed(6)
    with torch.no_grad():
        made = model.reconstruct(signal, xyz)
        noise = made.ids_restore.float()
        hidden = made.mask.bool()
        if hidden.shape == signal.shape:
            back = made.order.argsort(dim=1)
            hidden = hidden.gather(1, back[..., None].expand_as(hidden))
        else:
            hidden = hidden.repeat_interleave(model.config.timepoint_patching_size, dim=2)
        changed = torch.where(hidden, signal + 100, signal)
        again = model.reconstruct(changed, xyz, noise=noise)
    assert torch.equal(again.mask, made.mask)
    torch.testing.assert_close(again.logits, made.logits, atol=SAME, rtol=0)
    assert again.loss > 10 * made.loss


def test_noise_is_drawn_from_torchs_generator(either: tuple[Any, Tensor, Tensor]) -> None:
    model, signal, xyz = either
    n = model.encode(signal[:1], xyz[:1]).shape[1] - 1
    torch.manual_seed(7)
    drawn = model.reconstruct(signal, xyz)
    torch.manual_seed(7)
    given = model.reconstruct(signal, xyz, noise=torch.rand(2, n))
    assert torch.equal(drawn.ids_restore, given.ids_restore)
    assert torch.equal(drawn.logits, given.logits)


def test_the_masked_error_is_one_value_a_window(either: tuple[Any, Tensor, Tensor]) -> None:
    model, signal, xyz = either
    with torch.no_grad():
        errors = model.masked_error(signal, xyz, generator=seeded())
        again = model.masked_error(signal, xyz, generator=seeded())
        other = model.masked_error(signal, xyz, generator=seeded(1))
        noise = torch.rand(2, model.encode(signal[:1], xyz[:1]).shape[1] - 1, generator=seeded())
        alone = [
            model.reconstruct(signal[i : i + 1], xyz[i : i + 1], noise[i : i + 1]).loss
            for i in (0, 1)
        ]
    assert errors.shape == (2,)
    assert torch.equal(errors, again)
    assert not torch.equal(errors, other)
    expected = torch.stack(alone) * model.unit**2
    torch.testing.assert_close(errors, expected, atol=0, rtol=1e-4)


def test_a_configuration_that_hides_nothing_has_no_masked_error() -> None:
    with pytest.raises(ContractError, match="mask_ratio hides nothing of a window"):
        native(mask_ratio=0.0).masked_error(*windows(), generator=seeded())


def test_the_loss_is_what_the_configuration_says() -> None:
    signal, xyz = windows()
    noise = torch.rand(2, 66, generator=seeded())
    made = native().reconstruct(signal, xyz, noise)
    truth = signal.reshape(2, 11, 6, 5)
    hidden = made.mask.bool()
    error = (made.logits - truth)[hidden]
    normed = truth - truth.mean(dim=-1, keepdim=True)
    normed = normed / (truth.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    for change, expected in (
        ({}, error.square()),
        ({"loss_fn": "mae"}, error.abs()),
        ({"norm_pix_loss": True}, (made.logits - normed)[hidden].square()),
    ):
        loss = native(**change).reconstruct(signal, xyz, noise).loss
        assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    squashed = native(use_tanh_decoder=True).reconstruct(signal, xyz, noise)
    torch.testing.assert_close(squashed.logits, made.logits.tanh())
    model = vit(norm_pix_loss=True)
    pixels, _ = sort_pixels(*windows(2, 424, 200))
    made = model.reconstruct(*windows(2, 424, 200), train_mode="predict_last", mask_ratio=0.1)
    normed = (pixels - pixels.mean(dim=-1, keepdim=True)) / (
        pixels.var(dim=-1, keepdim=True) + 1e-6
    ).sqrt()
    expected = (made.logits - normed)[made.mask.bool()].square().mean()
    assert made.loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("family", ["native", "vit"])
def test_every_learned_parameter_learns(family: str) -> None:
    model = native() if family == "native" else vit(head=True)
    signal, xyz = windows() if family == "native" else windows(1, 424, 200)
    loss = model.reconstruct(signal, xyz).loss
    if family == "vit":
        loss = loss + model.predict(signal, xyz).sum()
    loss.backward()
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    still = {n for n in learned if not model.get_parameter(n).grad.any()}
    # softmax does not see what all keys have in common
    assert {n for n in still if not n.endswith("key.bias")} == set()
    embedded = native() if family == "native" else vit()
    embedded.embed(signal, xyz).sum().backward()
    assert embedded.vit.embeddings.cls_token.grad.any()


def test_tokens_keep_their_order_where_noise_ties() -> None:
    hiding = hide(torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]]), 3)
    assert hiding.keep.tolist() == [[1, 3, 4]]
    assert hiding.mask.tolist() == [[1, 0, 1, 0, 0]]
    tokens = torch.arange(5.0).reshape(1, 5, 1)
    filled = hiding.fill(hiding.take(tokens), torch.full((1, 1, 1), -1.0))
    assert filled.flatten().tolist() == [-1, 1, -1, 3, 4]
    assert choose(tokens, 5, ratio=0.0, noise=None).keep.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("patch", "ratio", "columns"),
    [(16, 0.2, 44), (14, 0.2, 51), (16, 0.1, 28), (14, 0.1, 23), (16, 0.06, 12), (16, 0.0, 0)],
)
def test_a_forecast_hides_whole_tokens_or_exact_volumes(
    patch: int, ratio: float, columns: int
) -> None:
    geometry = Geometry.of(patch)
    pixels = torch.rand(2, 424, 200, generator=seeded())
    whole = hide_last(pixels, geometry, ratio=ratio, pixelwise=False)
    exact = hide_last(pixels, geometry, ratio=ratio, pixelwise=True)
    last = int(ratio * 200)
    for scene, n in ((whole, columns), (exact, last)):
        assert torch.equal(scene.mask, (torch.arange(200) >= 200 - n).float().expand(2, 424, -1))
    assert torch.equal(whole.values, geometry.pad(pixels))
    left = (geometry.side - 200) // 2
    assert not exact.values[:, :, left + 200 - last : left + 200].any()
    tokens = whole.hiding.mask.reshape(2, geometry.along, geometry.along)
    assert torch.equal(tokens, tokens[:1, :1].expand_as(tokens))  # whole columns of tokens
    assert exact.hiding.mask.sum() <= whole.hiding.mask.sum()


def test_forecasts_draw_nothing_and_refuse_noise() -> None:
    model, data = vit(train_mode="predict_last", mask_ratio=0.2), windows(1, 424, 200)
    before = torch.random.get_rng_state()
    first, second = model.reconstruct(*data), model.reconstruct(*data)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.logits, second.logits)
    assert first.mask[0, 0].sum() == 51
    assert model.masked_error(*data, generator=seeded()).shape == (1,)
    with pytest.raises(ContractError, match="noise was given, but 'predict_last' hides"):
        model.reconstruct(*data, noise=torch.rand(1, 961))
    with pytest.raises(ContractError, match="is no share of the volumes to forecast"):
        model.reconstruct(*data, mask_ratio=1.0)
    with pytest.raises(ContractError, match="there is no train_mode 'extrapolate'"):
        model.reconstruct(*data, train_mode="extrapolate")
    with pytest.raises(ContractError, match=r"the native BrainLM has no train_mode .*predict"):
        native().reconstruct(*windows(), train_mode="predict_last")


@pytest.mark.parametrize("patch", [14, 16])
def test_the_image_is_padded_on_all_sides_alike(patch: int) -> None:
    geometry = Geometry.of(patch)
    pixels = torch.rand(2, 424, 200, generator=seeded())
    square = geometry.pad(pixels)
    assert square.shape == (2, geometry.side, geometry.side)
    assert geometry.side % patch == 0
    assert torch.equal(geometry.crop(square), pixels)
    assert torch.equal(square.flip(1, 2) == -1, square == -1)
    number = torch.arange(float(geometry.along**2))[None]
    spread = geometry.spread(number)[0]
    first = (geometry.side - 200) // 2 // patch
    assert spread[0, 0] == first
    assert spread[-1, 0] == geometry.along * (geometry.along - 1) + first


def test_parcels_are_sorted_from_the_back_and_ties_keep_their_order() -> None:
    signal, xyz = windows(2, 424, 200)
    xyz[0, :, 1] = torch.arange(424) % 7 - 3.0
    pixels, order = sort_pixels(signal, xyz)
    for item in (0, 1):
        expected = sorted(range(424), key=lambda parcel: float(xyz[item, parcel, 1]))
        assert order[item].tolist() == expected
        torch.testing.assert_close(pixels[item] * 5.6430855, signal[item, expected])


def test_the_vit_family_does_not_mind_the_order_of_the_atlas() -> None:
    model, (signal, xyz) = vit(), windows(1, 424, 200)
    other = torch.randperm(424, generator=seeded())
    with torch.no_grad():
        first, second = model.embed(signal, xyz), model.embed(signal[:, other], xyz[:, other])
    assert torch.equal(first, second)


def test_attention_of_a_layer_sums_to_one(either: tuple[Any, Tensor, Tensor]) -> None:
    model, signal, xyz = either
    n = model.encode(signal[:1], xyz[:1]).shape[1]
    heads = model.config.num_attention_heads
    with torch.no_grad():
        last = model.attentions(signal[:1], xyz[:1])
        assert last.shape == (1, heads, n, n)
        torch.testing.assert_close(last.sum(dim=-1), torch.ones(1, heads, n))
        same = model.attentions(signal[:1], xyz[:1], layer=model.config.num_hidden_layers - 1)
    assert torch.equal(same, last)
    with pytest.raises(ContractError, match=r"attention was asked of layer 9; .* has"):
        model.attentions(signal, xyz, layer=9)


def test_the_head_of_a_fine_tuned_file_predicts() -> None:
    data = windows(2, 424, 200)
    for mean in (False, True):
        model = vit(decoder=False, head=True, use_mean_pooling=mean)
        with torch.no_grad():
            vectors, values = model.embed_with_head(*data)
            torch.testing.assert_close(vectors, model.embed(*data), atol=SAME, rtol=0)
            torch.testing.assert_close(values, model.predict(*data), atol=SAME, rtol=0)
        assert values.shape == (2, 1)
        assert model.head is model.mlp_pred_head
        assert not model.can_reconstruct
        with pytest.raises(ContractError, match="these weights have no decoder"):
            model.reconstruct(*data)
        with pytest.raises(ContractError, match="these weights have no decoder"):
            model.masked_error(*data, generator=seeded())
    both = vit(head=True)  # fine-tuned with its decoder
    assert both.can_reconstruct
    assert both.predict(*data).shape == (2, 1)


def test_weights_without_a_head_do_not_predict() -> None:
    assert native().head is None
    model, data = vit(), windows(1, 424, 200)
    assert model.head is None
    for ask in (model.predict, model.embed_with_head):
        with pytest.raises(ContractError, match="these weights have no head"):
            ask(*data)


def test_half_precision_comes_near(either: tuple[Any, Tensor, Tensor]) -> None:
    model, signal, xyz = either
    with torch.no_grad():
        full = model.embed(signal, xyz)
        with torch.autocast("cpu", torch.bfloat16):
            half = model.embed(signal, xyz)
            error = model.masked_error(signal, xyz, generator=seeded())
        torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0)
        assert torch.isfinite(error).all()


def test_a_window_of_another_shape_is_refused() -> None:
    signal, xyz = windows()
    for model, wrong, what in (
        (native(), (signal[:, :, :28], xyz), "expected .batch, parcels, a multiple of 5 volumes"),
        (native(), (signal[0], xyz[0]), "multiple of 5 volumes"),
        (native(), (signal[:, :, :0], xyz), "multiple of 5 volumes"),
        (native(), (signal, xyz[0]), "the places have the shape"),
        (native(), (signal, xyz[:, :10]), "X, Y and Z of each parcel of each window, MNI mm"),
        (vit(), (signal, xyz), "expected .batch, 424 parcels, 200 volumes"),
        (vit(), (*windows(2, 424, 180),), "424 parcels, 200 volumes"),
    ):
        with pytest.raises(ContractError, match=what):
            model.embed(*wrong)


@pytest.mark.parametrize("ratio", [1.0, -0.1, 0.999])
def test_a_ratio_that_leaves_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ContractError, match=r"leaves no token of 66 visible, or is no share"):
        native().reconstruct(*windows(), mask_ratio=ratio)


def test_noise_of_another_shape_is_refused(either: tuple[Any, Tensor, Tensor]) -> None:
    model, signal, xyz = either
    with pytest.raises(ContractError, match="one number for each token of each window"):
        model.reconstruct(signal, xyz, noise=torch.rand(2, 7))


def test_families_are_told_by_their_names() -> None:
    assert find_family(state_of(NATIVE), source="a") == "native"
    assert find_family(state_of(VIT), source="b") == "vit"
    with pytest.raises(WrongWeightsError, match="names of both families of BrainLM"):
        find_family(state_of(NATIVE) | state_of(VIT), source="c")
    with pytest.raises(WrongWeightsError, match=r"d: names of neither family .*among its 0"):
        find_family([], source="d")


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


LAYER = "vit.encoder.layer.1.output.dense.bias"

DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (lambda s: without(s, LAYER), f"these are not the weights .*1 missing: {LAYER}"),
    "extra": (lambda s: s | {"decoder.lora_A": torch.ones(2)}, "1 unknown: decoder.lora_A"),
    "renamed": (
        lambda s: without(s, LAYER) | {f"{LAYER}es": s[LAYER]},
        f"1 missing: {LAYER}; 1 unknown: {LAYER}es",
    ),
    "reshaped": (lambda s: s | {LAYER: torch.ones(3)}, rf"{LAYER} is \(3,\), expected"),
    "broken": (lambda s: s | {LAYER: s[LAYER] * torch.nan}, f"1 not finite: {LAYER}"),
    "neither": (
        lambda s: {name.replace("vit.embeddings.", "body."): v for name, v in s.items()},
        "names of neither family of BrainLM",
    ),
}


@pytest.mark.parametrize("config", [NATIVE, VIT], ids=["native", "vit"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_weights_that_do_not_fit_are_refused(
    config: dict[str, Any], damage: str, tmp_path: Path
) -> None:
    change, message = DAMAGE[damage]
    path = tmp_path / "some.safetensors"
    save_file({k: v.clone() for k, v in change(state_of(config)).items()}, path)
    with pytest.raises(WrongWeightsError, match=message) as caught:
        create_model("brainlm", config=config, weights=path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == ExitCode.DATA


def test_weights_of_one_family_are_not_loaded_as_the_other() -> None:
    with pytest.raises(WrongWeightsError, match="configuration lacks timepoint_patching_size"):
        create_model("brainlm", config=VIT, weights=state_of(NATIVE))
    with pytest.raises(WrongWeightsError, match="lacks patch_size, num_channels of VitConfig"):
        create_model("brainlm", config=NATIVE, weights=state_of(VIT))


def test_the_dead_layer_of_a_native_file_is_kept_and_not_needed() -> None:
    state, data = state_of(NATIVE), windows()
    dead = {
        "decoder.decoder_pred.weight": torch.ones(768, 24),
        "decoder.decoder_pred.bias": torch.ones(768),
    }
    with_it = create_model("brainlm", config=NATIVE, weights=state | dead)
    without_it = create_model("brainlm", config=NATIVE, weights=state)
    assert with_it.state_dict().keys() == (state | dead).keys()
    assert without_it.state_dict().keys() == state.keys()
    noise = torch.rand(2, 66, generator=seeded())
    made = [m.reconstruct(*data, noise=noise).logits for m in (with_it, without_it)]
    assert torch.equal(*made)


def test_a_configuration_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    for config in (NATIVE, VIT):
        save_file(state_of(config), path, metadata={"config": json.dumps(config)})
        create_model("brainlm", weights=path)
        create_model("brainlm", config=config | {"mask_ratio": 0.5}, weights=path)
        heads = config["num_attention_heads"]  # leaves no trace in the weights
        other = config | {"num_attention_heads": heads * 4}
        with pytest.raises(
            WrongWeightsError, match=f"differs from .* in num_attention_heads {heads} and"
        ):
            create_model("brainlm", config=other, weights=path)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (NATIVE, {"num_landmarks": 32}, "ask for approximate attention; ours is exact"),
        (NATIVE, {"decoder_hidden_size": 48}, "places of parcels are added in both"),
        (NATIVE, {"conv_kernel_size": 8}, "a token must be in the middle"),
        (NATIVE, {"loss_fn": "huber"}, "the configuration says loss_fn: 'huber'"),
        (NATIVE, {"train_mode": "predict_last"}, "the native BrainLM has 'auto_encode' only"),
        (NATIVE, {"num_attention_heads": 5}, "hidden_size 24 cannot be shared evenly by 5"),
        (NATIVE, {"hidden_act": "relu"}, "the only one known is 'gelu', with erf"),
        (NATIVE, {"mask_ratio": 1.0}, "mask_ratio is 1.0; expected 0 to 1, without 1"),
        (VIT, {"patch_size": 8}, "patch_size is 8; the padding is known for 14 and 16"),
        (VIT, {"image_size": 224}, r"image_size is \[224, 224\]; patches of 14 pixels pad"),
        (VIT, {"train_mode": "guess"}, "the configuration says train_mode: 'guess'"),
        (VIT, {"decoder_num_attention_heads": 3}, "decoder_hidden_size 8 cannot be shared"),
    ],
)
def test_hyper_parameters_that_make_no_network_are_refused(
    config: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    kind = NativeConfig if config is NATIVE else VitConfig
    with pytest.raises(WrongWeightsError, match=message):
        kind.of(config | change)


def test_a_hyper_parameter_that_is_missing_is_named() -> None:
    config = {k: v for k, v in NATIVE.items() if k not in {"hidden_size", "num_landmarks"}}
    with pytest.raises(
        WrongWeightsError, match="lacks hidden_size, num_landmarks of NativeConfig"
    ) as caught:
        NativeConfig.of(config)
    assert "config.json" in caught.value.fix
    assert VitConfig.of(VIT).train_mode == "auto_encode"


def test_a_number_that_a_configuration_holds_as_text_is_a_number() -> None:
    assert NativeConfig.of(NATIVE | {"layer_norm_eps": "1e-12"}).layer_norm_eps == 1e-12


@pytest.mark.parametrize("kind", [NativeConfig, VitConfig])
def test_a_value_of_another_kind_is_refused_by_name(kind: Any) -> None:
    config = NATIVE if kind is NativeConfig else VIT
    with pytest.raises(WrongWeightsError, match="the configuration says hidden_size: 'wide'"):
        kind.of(config | {"hidden_size": "wide"})
