"""Language models in folders: what is opened, what is refused, and what is learnt of them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from neurostorm_app.errors import AppError, ExitCode, UsageError
from neurostorm_app.models import language as door
from neurostorm_app.models.language import open_language
from neurostorm_app.models.language_extra import OFFLINE, alone, need
from neurostorm_app.models.language_files import find_language
from neurostorm_app.models.language_updates import add_updates, list_updates

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("transformers", reason="the extra `language` is not installed")
pytest.importorskip("peft", reason="the extra `language` is not installed")

spec = importlib.util.spec_from_file_location(
    "tiny_language", Path(__file__).parents[1] / "tiny_language.py"
)
assert spec is not None
assert spec.loader is not None
tiny: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are not worth a second one, which others may be using."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


WEIGHTS, CONFIG, WORDS = "model.safetensors", "config.json", "tokenizer.json"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny.write_language(tmp_path / "llm")


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_a_folder_is_opened_without_a_network(kind, tmp_path, monkeypatch) -> None:
    folder = tiny.write_language(tmp_path / "llm", kind=kind)
    tried: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *_: tried.append("connect"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: tried.append("look up"))
    language = open_language(folder)
    assert not tried
    assert (language.kind, language.width, language.n_places) == (kind, 32, 256)
    assert language.n_words == 257
    assert language.end == 256
    assert language.encode("ab") == [language.encode("a")[0], language.encode("b")[0]]
    assert not any(value.requires_grad for value in language.model.parameters())
    assert not language.model.training
    again = load_file(folder / WEIGHTS)
    own = language.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in again.items())


def test_libraries_are_told_that_there_is_no_network_and_only_then(monkeypatch) -> None:
    hub = importlib.import_module("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    before = dict(os.environ), hub.constants.HF_HUB_OFFLINE

    @alone()
    def fail() -> None:
        assert all(os.environ[name] == value for name, value in OFFLINE.items())
        assert hub.constants.is_offline_mode()
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (dict(os.environ), hub.constants.HF_HUB_OFFLINE) == before


def test_the_hash_tells_models_apart(folder, tmp_path) -> None:
    other = tiny.write_language(tmp_path / "other", seed=1)
    same = tiny.write_language(tmp_path / "same")
    one, two, three = (find_language(path).digest() for path in (folder, other, same))
    assert one == three != two
    tiny.change_config(same, layer_norm_epsilon=1e-4)
    assert find_language(same).digest() != one


def test_weights_in_several_files_are_the_same_model(folder) -> None:
    whole = open_language(folder).model.state_dict()
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    parts = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: state[name] for name in some}, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    index = {
        "metadata": {},
        "weight_map": {name: file for file, some in parts.items() for name in some},
    }
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    found = open_language(folder).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    for wrong in ("../llm/a-1.safetensors", "a-3.safetensors", "a-1.bin"):
        path.write_text(json.dumps({"weight_map": dict.fromkeys(names, wrong)}))
        with pytest.raises(AppError, match=r"the index of .* names this file"):
            open_language(folder)
    path.write_text('{"weight_map": {}}')
    with pytest.raises(AppError, match="it names no file of weights"):
        open_language(folder)


def pickle_weights(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def change_weights(folder: Path, name: str, value: torch.Tensor | None) -> None:
    state = load_file(folder / WEIGHTS)
    state.pop(name, None)
    if value is not None:
        state[name] = value
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


NORM = "transformer.ln_f.weight"
DAMAGES: dict[str, tuple[Any, ExitCode, str]] = {
    "no folder": (
        lambda f: f.rename(f.with_name("away")), ExitCode.NO_INPUT, "no such folder of a language",
    ),
    "no config": (
        lambda f: (f / CONFIG).unlink(), ExitCode.NO_INPUT, "config.json: this file of a language",
    ),
    "no words": (
        lambda f: (f / WORDS).unlink(), ExitCode.NO_INPUT, "tokenizer.json: this file of a",
    ),
    "no weights": (
        lambda f: (f / WEIGHTS).unlink(), ExitCode.NO_INPUT, "there is no model.safetensors, nor",
    ),
    "pickled": (pickle_weights, ExitCode.DATA, r"weights are pickled \(pytorch_model.bin\)"),
    "cut": (cut, ExitCode.DATA, "the language model is damaged, or its files"),
    "config cut": (
        lambda f: (f / CONFIG).write_text('{"model_type"'), ExitCode.DATA, "is damaged, or no JSON",
    ),
    "config a list": (
        lambda f: (f / CONFIG).write_text("[]"), ExitCode.DATA, "it is a list, not names",
    ),
    "another kind": (
        lambda f: tiny.change_config(f, model_type="llama"), ExitCode.DATA, "of the kind 'llama'",
    ),
    "code": (
        lambda f: tiny.change_config(f, auto_map={"AutoModel": "x.Y"}),
        ExitCode.DATA,
        "asks for code of its own",
    ),
    "no end": (
        lambda f: tiny.change_config(f, eos_token_id=None), ExitCode.DATA, "says eos_token_id None",
    ),
    "an end beyond": (
        lambda f: tiny.change_config(f, eos_token_id=9000), ExitCode.DATA, "take 9001 tokens",
    ),
    "another width": (
        lambda f: tiny.change_config(f, n_embd=64), ExitCode.DATA, "the language model is damaged",
    ),
    "a wrong type": (
        lambda f: tiny.change_config(f, n_head="four"), ExitCode.DATA, "language model is damaged",
    ),
    "words of nothing": (
        lambda f: (f / WORDS).write_text("{}"), ExitCode.DATA, "the language model is damaged",
    ),
    "a tensor missing": (
        lambda f: change_weights(f, NORM, None), ExitCode.DATA, "1 tensors are missing",
    ),
    "a tensor more": (
        lambda f: change_weights(f, "more", torch.ones(1)), ExitCode.DATA, "1 unknown, such as",
    ),
    "not finite": (
        lambda f: change_weights(f, NORM, torch.full((32,), torch.nan)),
        ExitCode.DATA,
        "hold values that are not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_or_damaged_is_told(damage, folder) -> None:
    harm, code, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(AppError, match=message) as caught:
        open_language(folder)
    assert caught.value.exit_code is code
    assert str(folder) in caught.value.what


def test_a_file_that_is_far_too_large_is_not_read(folder, monkeypatch) -> None:
    monkeypatch.setattr("neurostorm_app.models.language_files.MOST", 100)
    with pytest.raises(AppError, match="a file of its kind has at most 100"):
        find_language(folder)


def test_masks_in_old_files_are_no_weights(folder) -> None:
    change_weights(folder, "transformer.h.0.attn.masked_bias", torch.tensor(-1e4))
    open_language(folder)


def test_what_is_not_ours_to_explain_is_not_explained(folder) -> None:
    class OtherError(Exception):
        pass

    with pytest.raises(OtherError), door._naming(find_language(folder)):
        raise OtherError


@pytest.mark.parametrize("package", ["transformers", "tokenizers"])
def test_without_the_extra_its_name_is_told(package, folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"the package {package} is not installed") as caught:
        open_language(folder)
    assert "neurostorm-app[language]" in caught.value.fix
    assert need("json") is json


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_updates_change_nothing_at_first_and_alone_learn(kind, tmp_path) -> None:
    folder = tiny.write_language(tmp_path / "llm", kind=kind)
    language, ids = open_language(folder), torch.arange(6)[None]
    with torch.no_grad():
        before = language.model(input_ids=ids).logits
    random = torch.random.get_rng_state()
    add_updates(language, rank=4, seed=3)
    assert torch.equal(torch.random.get_rng_state(), random)
    updates = list_updates(language.model)
    learns = [name for name, value in language.model.named_parameters() if value.requires_grad]
    assert sorted(learns) == sorted(updates)
    assert len(updates) == 2 * 2 * {"gpt2": 1, "qwen3": 7}[kind]
    with torch.no_grad():
        assert torch.equal(language.model(input_ids=ids).logits, before)
        state = {n: torch.linspace(-0.3, 0.3, v.numel()).view_as(v) for n, v in updates.items()}
        again = open_language(folder)
        add_updates(again, rank=4, state=state)
        assert (again.model(input_ids=ids).logits - before).abs().max() > 1e-3
    same = open_language(folder)
    add_updates(same, rank=4, seed=3)
    found = list_updates(same.model)
    assert all(torch.equal(found[name], value) for name, value in updates.items())


def test_updates_are_put_in_whole_or_not_at_all(folder) -> None:
    language = open_language(folder)
    add_updates(language, rank=4)
    good = {
        name: value.detach().clone() + 1 for name, value in list_updates(language.model).items()
    }
    first = min(good)
    wrongs = [
        {name: value for name, value in good.items() if name != first},
        good | {"more": torch.ones(1)},
        good | {first: good[first][:, :-1]},
        good | {first: good[first] * torch.nan},
    ]
    for wrong in wrongs:
        other = open_language(folder)
        with pytest.raises(AppError, match="the updates are not of this language model: 1 of 4"):
            add_updates(other, rank=4, state=wrong)
        assert all((value < 1).all() for value in list_updates(other.model).values())
