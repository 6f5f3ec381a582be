"""The splice over stock language models, and losses of scans and texts, as in the public code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as fn

from neurostorm_app.models.alignment import sigmoid_pair_loss, soft_pair_loss, soft_sigmoid_loss
from neurostorm_app.models.fmri_lm_language import ScanLanguage
from neurostorm_app.models.fmri_lm_text import (
    TextBatch,
    join,
)
from neurostorm_app.models.fmri_lm_tokens import ScanTokens, TokensConfig, split_state
from neurostorm_app.models.language import open_language
from neurostorm_app.models.language_updates import add_updates
from neurostorm_app.models.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


pytest.importorskip("transformers", reason="the extra `language` is not installed")
pytest.importorskip("peft", reason="the extra `language` is not installed")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are not worth a second one, which others may be using."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FOLDER = Path(__file__).parents[2] / ".." / "shared" / "golden" / "fmri_lm"
NEAR = {"atol": 1e-4, "rtol": 0}
ENCODER: dict[str, Any] = {
    "width": 24, "depth": 1, "heads": 4, "n_parcels": 6, "n_volumes": 32, "patch": 16,
    "n_codes": 20, "code_width": 16,
}  # fmt: skip
CASES = {"gpt2": False, "gpt2_delim": True, "qwen_lora": True}


def read(name: str) -> dict[str, Tensor]:
    if not FOLDER.is_dir():
        pytest.skip("the numbers of the public code are not beside the project")
    return load_file(FOLDER / f"{name}.safetensors")


def open_golden(name: str, tensors: dict[str, Tensor], folder: Path) -> ScanLanguage:
    """Make a folder of the language model in a golden file, and open it with its tokens."""
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    scan, updates, language = split_state(state)
    folder.mkdir()
    kind = "gpt2" if name.startswith("gpt2") else "qwen3"
    config = json.loads((FOLDER / f"llm_config_{kind}.json").read_text())
    config |= {"eos_token_id": 264, "bos_token_id": None, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((FOLDER / "tiny_tokenizer.json").read_bytes())
    save_file(language, folder / "model.safetensors", metadata={"format": "pt"})
    opened = open_language(folder)
    if updates:
        add_updates(opened, rank=8, state=updates)
    settings = TokensConfig(tokenizer=ENCODER, width=32, upstream_order=True)
    tokens = ScanTokens(settings)
    own = {k: v for k, v in scan.items() if not k.startswith("llm.")}
    load_strictly(tokens, own, source="the golden file")
    return ScanLanguage(tokens, opened, tags=CASES[name])


@pytest.fixture(scope="module", params=list(CASES))
def golden(request, tmp_path_factory) -> tuple[str, dict[str, Tensor], ScanLanguage]:
    tensors = read(f"llm_splice_{request.param}")
    folder = tmp_path_factory.mktemp("golden") / "llm"
    return request.param, tensors, open_golden(request.param, tensors, folder)


def text_of(tensors: dict[str, Tensor]) -> TextBatch:
    real = tensors["f2t.text_mask"].bool()
    answers = real.clone()
    answers[:, 0] = False  # the public code never asks for the first word
    return TextBatch(ids=tensors["f2t.text_ids"], real=real, answers=answers)


@torch.no_grad()
def test_tokens_of_a_scan_are_those_of_the_public_code(golden) -> None:
    _, tensors, model = golden
    x = tensors["x_fmri"]
    features = model.tokens.encode(x)
    torch.testing.assert_close(features, tensors["encoder_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.tokens(x), tensors["fmri_embeds"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_words_after_a_scan_are_told_as_by_the_public_code(golden) -> None:
    _, tensors, model = golden
    text = text_of(tensors)
    held = model.read(model.tokens(tensors["x_fmri"]), text)
    real = tensors["f2t.mask_used"][0, 0].diagonal().bool()  # what is padded means nothing
    logits = model.logits(held)
    torch.testing.assert_close(logits[:, real], tensors["f2t.logits"][:, real], **NEAR)
    loss = model(tensors["x_fmri"], text)
    torch.testing.assert_close(loss, tensors["f2t.loss"][0], **NEAR)


@torch.no_grad()
def test_codes_of_the_next_step_are_told_as_by_the_public_code(golden) -> None:
    _, tensors, model = golden
    model = ScanLanguage(model.tokens, model.words)  # never with tags
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    empty = TextBatch(ids=nothing, real=nothing.bool(), answers=nothing.bool())
    held = model.read(model.tokens(tensors["x_fmri"]), empty)
    logits = fn.linear(held, tensors["state.llm.fmri_lm_head.weight"])
    torch.testing.assert_close(logits, tensors["f2f.logits"], **NEAR)
    codes = tensors["f2f.codes"]
    loss = fn.cross_entropy(logits[:, :6].flatten(0, 1), codes[:, 6:].flatten())
    torch.testing.assert_close(loss, tensors["f2f.loss"][0], **NEAR)


@torch.no_grad()
def test_text_alone_is_read_as_by_the_public_code(golden) -> None:
    _, tensors, model = golden
    ids, real = tensors["f2t.text_ids"], tensors["f2t.text_mask"].bool()
    logits = model.language(input_ids=ids, attention_mask=real.long()).logits
    torch.testing.assert_close(logits[real], tensors["t2t.logits"][real], **NEAR)
    wanted = ids[:, 1:].masked_fill(~real[:, 1:], -100)
    loss = fn.cross_entropy(logits[:, :-1].transpose(1, 2), wanted)
    torch.testing.assert_close(loss, tensors["t2t.loss"][0], **NEAR)


@torch.no_grad()
@pytest.mark.parametrize("which", ["free", "allowed"])
def test_the_likeliest_words_are_those_of_the_public_code(golden, which: str) -> None:
    _, tensors, model = golden
    tokens, ids = model.tokens(tensors["x_fmri"]), tensors["gen.prompt"]
    for _ in range(3):
        text = join([(row, []) for row in ids.tolist()])
        logits = model.logits(model.read(tokens, text))[:, -1]
        if which == "allowed":
            barred = torch.ones(logits.shape[1], dtype=torch.bool)
            barred[tensors["gen.allowed"]] = False
            logits = logits.masked_fill(barred, -torch.inf)
        ids = torch.cat([ids, logits.argmax(dim=1, keepdim=True)], dim=1)
    assert torch.equal(ids, tensors[f"gen.ids_{which}"])


@pytest.mark.parametrize("name", ["gpt2", "gpt2_delim", "qwen", "qwen_lora"])
def test_names_and_shapes_of_all_parts_are_those_of_the_public_code(name: str, tmp_path) -> None:
    tensors = read(f"llm_splice_{'qwen_lora' if name == 'qwen' else name}")
    stored = json.loads((FOLDER / f"llm_keys_{name}.json").read_text())
    state = {key: torch.zeros(shape) for key, shape in stored.items()}
    scan, updates, language = split_state(state)
    settings = TokensConfig(tokenizer=ENCODER, width=32, upstream_order=True)
    tokens = ScanTokens(settings).state_dict()
    assert {key: list(value.shape) for key, value in tokens.items()} == {
        key: shape for key, shape in stored.items() if not key.startswith("llm.")
    }
    assert scan.keys() - tokens.keys() == {"llm.fmri_lm_head.weight"}
    opened = open_golden(name if name in CASES else "qwen_lora", tensors, tmp_path / "llm")
    told = {
        key.replace(".base_layer.", "."): list(value.shape)
        for key, value in opened.language.state_dict().items()
    }
    wanted = {key: list(value.shape) for key, value in (language | updates).items()}
    told.pop("lm_head.weight")  # the words again: the file need not hold them twice
    wanted.pop("lm_head.weight", None)
    if name == "qwen":
        told = {key: shape for key, shape in told.items() if ".lora_" not in key}
    assert wanted == told
    assert bool(updates) == (name == "qwen_lora")


def test_alignment_losses_are_those_of_the_public_code() -> None:
    tensors = read("alignment_losses")
    a, b = tensors["a"], tensors["b"]
    raw = torch.tensor(1 / 0.07).log()  # the public code gives the logarithm for the scale
    found = {
        "soft_clip": soft_pair_loss(a, b),
        "siglip_default": sigmoid_pair_loss(a, b),
        "siglip_as_called": sigmoid_pair_loss(a, b, scale=raw),
        "soft_siglip": soft_sigmoid_loss(a, b),
        # The public code's function adds a tenth of the other loss unless told not to.
        "soft_siglip_default": soft_sigmoid_loss(a, b) + 0.1 * sigmoid_pair_loss(a, b),
    }
    for name, value in found.items():
        torch.testing.assert_close(value, tensors[name][0], atol=1e-5, rtol=0)


def test_a_scale_and_a_bias_are_learnt() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 5, 7, generator=generator)
    log_scale = torch.tensor(2.0, requires_grad=True)
    bias = torch.tensor(-1.0, requires_grad=True)
    loss = sigmoid_pair_loss(a, b, scale=log_scale.exp(), bias=bias)
    (loss + soft_sigmoid_loss(a, b, scale=log_scale.exp())).backward()
    assert log_scale.grad is not None
    assert bias.grad is not None
    assert abs(log_scale.grad) > 1e-3
    assert abs(bias.grad) > 1e-3
    near = a + 0.01 * b
    for loss_of in (soft_pair_loss, sigmoid_pair_loss, soft_sigmoid_loss):
        assert loss_of(near, a) < 0.5 * loss_of(near.roll(1, 0), a)
