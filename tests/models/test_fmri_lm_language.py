"""A language model that is told a scan: order, masks, what is learnt, and how answers are scored.

The faults of the public code that concern this are each the subject of a test.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.fmri_lm_language import ScanLanguage, share
from neurostorm_app.models.fmri_lm_text import (
    Question,
    frame_answer,
    frame_question,
    join,
    read_questions,
)
from neurostorm_app.models.fmri_lm_tokens import UPDATES, ScanTokens, TokensConfig, differing
from neurostorm_app.models.language import open_language
from neurostorm_app.models.language_updates import add_updates, list_updates
from neurostorm_app.models.weights import Checkpoint

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


ENCODER: dict[str, Any] = {
    "width": 16, "depth": 1, "heads": 2, "n_parcels": 5, "n_volumes": 24, "patch": 8,
    "n_codes": 16, "code_width": 8,
}  # fmt: skip
CONFIG: dict[str, Any] = {"tokenizer": ENCODER, "width": 32}
SEX = Question(name="sex", texts=("Sex?", "Which sex?"), answers=("F", "Male", "Mal"))


def make_tokens(**changes: Any) -> ScanTokens:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return ScanTokens(TokensConfig.of(CONFIG | changes)).eval()


def windows(n: int = 2, length: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 5, length, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])
def folder(request, tmp_path_factory) -> Path:
    return tiny.write_language(tmp_path_factory.mktemp(request.param) / "llm", kind=request.param)


@pytest.fixture
def model(folder) -> ScanLanguage:
    return ScanLanguage(make_tokens(), open_language(folder), tags=True)


def test_tokens_of_a_step_stand_together_where_upstream_mixes_steps() -> None:
    ours, theirs = make_tokens(), make_tokens(upstream_order=True)
    with torch.no_grad():
        features = ours.encode(windows())
        found, kept = ours(windows()), theirs(windows())
        inner = ours.encode_transform_layer(features)
    for parcel in range(5):
        for step in range(3):
            expected = inner[:, parcel * 3 + step] + ours.pos_embed.weight[parcel]
            torch.testing.assert_close(found[:, step * 5 + parcel], expected)
            torch.testing.assert_close(kept[:, parcel * 3 + step], expected)
    torch.testing.assert_close(ours.embed(windows()), found.mean(dim=1))


def test_shorter_windows_have_fewer_steps_and_others_are_refused() -> None:
    tokens = make_tokens()
    assert tokens(windows(length=16)).shape == (2, 10, 32)
    for shape in [(2, 4, 24), (2, 5, 12), (2, 5, 32), (5, 24)]:
        with pytest.raises(ContractError, match="the tokens of fMRI-LM are made of series"):
            tokens(torch.zeros(shape))


@torch.no_grad()
def test_a_step_is_not_told_of_later_ones_nor_a_scan_of_text(model) -> None:
    tokens = model.tokens(windows())
    one, other = (join([(model.words.encode(text), [])] * 2) for text in ("abc", "xyz"))
    before = model.read(tokens, one)
    tokens[:, 10:] *= -1
    after = model.read(tokens, one)
    n = len(model.tags[0])
    torch.testing.assert_close(after[:, : n + 10], before[:, : n + 10])
    assert (after[:, n + 10 :] - before[:, n + 10 :]).abs().amax(dim=2).min() > 1e-5
    told = model.read(tokens, other)
    end = -one.ids.shape[1]
    torch.testing.assert_close(told[:, :end], after[:, :end])
    assert (told[:, end:] - after[:, end:]).abs().max() > 1e-3


def test_the_loss_is_of_answers_and_their_ends_alone(model) -> None:
    asked = frame_question(model.words, "Sex?")
    answers = [frame_answer(model.words, answer) for answer in ("F", "Male")]
    assert all(answer[-1] == model.words.end for answer in answers)
    batch = join([(asked, answer) for answer in answers])
    with torch.no_grad():
        loss = model(windows(), batch)
        logs = model.logits(model.read(model.tokens(windows()), batch)).log_softmax(dim=-1)
    n = logs.shape[1] - batch.ids.shape[1]
    told = [
        -logs[row, n + len(asked) + place - 1, word]
        for row, answer in enumerate(answers)
        for place, word in enumerate(answer)
    ]
    torch.testing.assert_close(loss, torch.stack(told).mean())
    assert batch.answers.sum() == len(told)


@torch.no_grad()
def test_a_score_is_the_whole_answer_with_its_end_whatever_stands_beside_it(model) -> None:
    told = model.tell(windows(1))
    scores = model.score(told, SEX)
    asked = frame_question(model.words, SEX.texts[0])
    pairs = [(asked, frame_answer(model.words, answer)) for answer in SEX.answers]
    batch = join(pairs)  # shorter answers are padded
    logs = model.logits(model.read(model.tokens(windows(1)).expand(3, -1, -1), batch))
    logs = logs.log_softmax(dim=-1)[:, -batch.ids.shape[1] - 1 : -1]
    each = logs.gather(2, batch.ids[..., None])[..., 0]
    torch.testing.assert_close(scores, (each * batch.answers).sum(dim=1), atol=1e-5, rtol=0)
    assert torch.equal(model.score(told, SEX), scores)  # nothing is drawn, nothing is kept
    fewer = Question(name="sex", texts=SEX.texts, answers=SEX.answers[:2])
    assert torch.equal(model.score(told, fewer), scores[:2])
    assert not torch.equal(model.score(told, SEX, text=1), scores)
    assert not torch.equal(model.score(model.tell(windows(1, seed=2)), SEX), scores)
    # The beginning of another answer is no better for being shorter: its end is asked for too.
    [shorter] = [len(model.words.encode(" Mal"))]
    assert int(batch.answers[2].sum()) == shorter + 1


@torch.no_grad()
def test_answers_leave_nothing_in_what_the_model_keeps_of_a_scan(model) -> None:
    told = model.tell(windows(1))
    before = [(keys.clone(), values.clone()) for keys, values, *_ in told.cache]
    together = model.score(told, SEX)
    for (keys, values), (was_keys, was_values) in zip(
        ((keys, values) for keys, values, *_ in told.cache), before, strict=True
    ):
        assert torch.equal(keys, was_keys)
        assert torch.equal(values, was_values)
    asked = frame_question(model.words, SEX.texts[0])
    answers = [frame_answer(model.words, answer) for answer in SEX.answers]
    alone = [model._score(model.tell(windows(1)), asked, answer) for answer in answers]
    assert torch.equal(together, torch.stack(alone))


@torch.no_grad()
def test_no_second_copy_of_what_the_model_keeps_is_held_for_an_answer(model, monkeypatch) -> None:
    told, given = model.tell(windows(1)), []
    run = model._run

    def watch(*args: Any, cache: Any) -> torch.Tensor:
        given.append(cache)
        held: torch.Tensor = run(*args, cache=cache)
        return held

    monkeypatch.setattr(model, "_run", watch)
    model.score(told, SEX)
    assert len(given) == 3
    assert all(cache is told.cache for cache in given)


def test_shares_of_answers_add_up_to_one_and_average_over_windows() -> None:
    scores = [torch.tensor([0.0, -2.0]), torch.tensor([-4.0, -2.0])]
    found = share(scores)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5], dtype=torch.float64))
    certain = share([torch.tensor([-900.0, -1000.0])])
    assert certain[0] == 1
    assert torch.isfinite(certain).all()


def test_projection_places_and_updates_learn_and_nothing_else(model) -> None:
    add_updates(model.words, rank=2)
    model.train()
    frozen = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    for name, module in model.language.named_modules():
        if isinstance(module, torch.nn.Dropout):
            assert module.training == (".lora_dropout" in name)
    assert frozen
    assert not model.tokens.tokenizer.training
    learns = {name for name, value in model.named_parameters() if value.requires_grad}
    expected = {f"language.{name}" for name in list_updates(model.language)}
    expected |= {f"tokens.encode_transform_layer.0.{part}" for part in ("weight", "bias")}
    assert learns == expected | {"tokens.pos_embed.weight"}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimiser = torch.optim.AdamW([v for v in model.parameters() if v.requires_grad], lr=0.01)
    asked, answer = frame_question(model.words, "Sex?"), frame_answer(model.words, "F")
    for _ in range(2):  # the second matrix of an update is zero at first
        optimiser.zero_grad()
        model(windows(), join([(asked, answer)] * 2)).backward()
        optimiser.step()
    moved = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert moved == learns
    model.eval()
    assert not any(module.training for module in model.modules())


def test_models_that_do_not_fit_are_refused(folder) -> None:
    language = open_language(folder)
    with pytest.raises(WrongWeightsError, match="tokens of the scan have 48 values, and those of"):
        ScanLanguage(make_tokens(width=48), language)
    model = ScanLanguage(make_tokens(), language)
    long = Question(name="sex", texts=("a" * 300,), answers=("F", "M"))
    with pytest.raises(ContractError, match="places; the language model has 256"):
        model.score(model.tell(windows(1)), long)


@pytest.mark.parametrize(
    "wrong",
    [
        {"texts": ()}, {"texts": (" ",)}, {"answers": ("a",)}, {"answers": ("a", "a")},
        {"answers": ("a", "")}, {"name": ""}, {"texts": ("a" * 1001,)},
    ],
)  # fmt: skip
def test_a_question_without_a_choice_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="a text of 1 to 1000 letters and two different"):
        Question(**({"name": "sex", "texts": ("?",), "answers": ("a", "b")} | wrong))


def test_questions_are_read_as_they_were_written() -> None:
    assert read_questions([SEX.as_dict()], source="here") == (SEX,)
    for wrong in ([{}], [{"name": "a"}], ["a"], [SEX.as_dict() | {"answers": []}]):
        with pytest.raises(WrongWeightsError, match="here: its questions cannot be read"):
            read_questions(wrong, source="here")
    for nothing in (None, [], {}):
        with pytest.raises(WrongWeightsError, match="tuned for no question, so none can be asked"):
            read_questions(nothing, source="here")


def test_marks_of_chats_are_used_where_the_model_has_them(folder, tmp_path) -> None:
    plain = open_language(folder)
    chat = open_language(tiny.write_language(tmp_path / "llm", kind="qwen3", chat=True))
    assert frame_question(plain, "Sex?") == plain.encode("### Question: Sex?\n### Answer:")
    assert frame_answer(plain, "F") == [*plain.encode(" F"), plain.end]
    asked = frame_question(chat, "Sex?")
    begin = chat.encode("<|im_start|>")
    assert len(begin) == 1
    assert asked[0] == begin[0]
    assert asked[1:10] == chat.encode("user\nSex?")
    assert asked[10] == chat.end  # the mark that ends what is asked ends answers too
    assert frame_answer(chat, "F") == [*chat.encode("F"), chat.end]


def file_of(tokens: ScanTokens, path: Path, **more: torch.Tensor) -> Path:
    save_file({name: v.contiguous() for name, v in tokens.state_dict().items()} | more, path)
    return path


def test_a_file_of_tokens_and_updates_is_a_model_like_any_other(tmp_path) -> None:
    tokens = make_tokens()
    name = "transformer.h.0.attn.c_attn.lora_A.default.weight"
    path = file_of(tokens, tmp_path / "w.safetensors", **{UPDATES + name: torch.ones(2, 32)})
    card = read_card("fmri-lm").model_copy(
        update={"architecture": "fmri-lm-language", "config": CONFIG, "dimension": 32}
    )
    model: Any = create_model(card, weights=path)
    assert list(model.updates) == [name]
    with torch.no_grad():
        torch.testing.assert_close(model.embed(windows()), tokens.embed(windows()))
    with pytest.raises(WrongWeightsError, match="are those of fMRI-LM, not of NeuroSTORM"):
        create_model("neurostorm", weights=path)
    with pytest.raises(WrongWeightsError, match="later stages, with a language model"):
        create_model("fmri-lm", config=ENCODER, weights=path)
    whole = file_of(tokens, tmp_path / "v.safetensors", **{UPDATES + "lm.weight": torch.ones(2)})
    with pytest.raises(WrongWeightsError, match="it holds 1 tensors of a language model, such as"):
        create_model(card, weights=whole)
    more = file_of(tokens, tmp_path / "u.safetensors", more=torch.ones(1))
    with pytest.raises(WrongWeightsError, match="1 unknown: more"):
        create_model(card, weights=more)


def test_configurations_of_no_tokens_are_refused() -> None:
    with pytest.raises(WrongWeightsError, match="tokens of fMRI-LM have a width of 0"):
        TokensConfig.of(CONFIG | {"width": 0})
    with pytest.raises(
        WrongWeightsError, match="the configuration of fMRI-LM's tokens lacks width"
    ):
        TokensConfig.of({"tokenizer": ENCODER})
    stored = Checkpoint(source="a file", state={}, config=CONFIG)
    other = CONFIG | {"width": 64, "tokenizer": ENCODER | {"depth": 2}}
    assert differing(stored, other) == "depth 1 and 2, width 32 and 64"
    assert not differing(stored, CONFIG)
