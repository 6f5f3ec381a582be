"""Tuning a language model: what is learnt, who is held out, and that a planted answer is found."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from neurostorm_app.errors import ContractError, DataError, UsageError, WrongWeightsError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.models.fmri_lm_files import LmConfig
from neurostorm_app.models.fmri_lm_tokens import UPDATES
from neurostorm_app.models.fmri_lm_tuned import open_tuned
from neurostorm_app.models.language import open_language
from neurostorm_app.models.untrained import hash_values
from neurostorm_app.pipelines.ask import load_asker
from neurostorm_app.pipelines.questions import Subject, Wording
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.cache_file import open_cached, write_cached
from neurostorm_app.pipelines.train.checkpoints import find_checkpoint
from neurostorm_app.pipelines.train.instructions import Instructing
from neurostorm_app.pipelines.train.language import tune_language
from neurostorm_app.pipelines.train.material import Material, Start
from neurostorm_app.pipelines.train.measures import measure_classes
from neurostorm_app.pipelines.train.settings import Plan
from neurostorm_app.pipelines.train.split import split_participants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.train.export import Ending

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


V, T, PATCH = 6, 32, 8
CONFIG: dict[str, Any] = {
    "width": 32, "depth": 1, "heads": 2, "n_parcels": V, "n_volumes": T, "patch": PATCH,
    "n_codes": 32, "code_width": 8,
}  # fmt: skip
SHORT = {"group": Wording(texts=("Group?", "Which group?"))}
QUICK = Plan(
    steps=6, batch=4, rate=1e-2, validate_every=3, checkpoint_every=3, seed=1, weight_decay=0.0
)


def coupled(person: int, *, tight: bool, n: int = 2 * T) -> np.ndarray:
    """Series of two halves of parcels: in some people both do the same, in others each its own.

    A parcel by itself is alike in all people; only how parcels go together tells them apart.
    """
    rng = np.random.default_rng(person)

    def slow(n_series: int) -> np.ndarray:
        noise = rng.normal(size=(n_series, n))
        return np.stack([np.convolve(row, np.full(8, 8**-0.5), "same") for row in noise])

    one, other = slow(2)
    shared = np.stack([one] * 3 + [one if tight else other] * 3)
    return math.sqrt(0.85) * shared + math.sqrt(0.15) * slow(V)


def make_material(folder: Path, groups: np.ndarray, *, runs: int = 1) -> Material:
    folder.mkdir(parents=True, exist_ok=True)
    people = []
    for person, group in enumerate(groups):
        own = []
        for run in range(runs):
            rows = coupled(100 * run + person, tight=bool(group)).T.astype(np.float32)
            path = folder / f"{person}-{run}.windows"
            header = {"key": path.stem, "dtype": "float32", "xyz": None, "shape": [V]}
            header |= {"n_values": V, "n_volumes": len(rows), "background": 0.0}
            write_cached(path, header, np.empty(0, np.int32), rows)
            own.append(open_cached(path))
        people.append(tuple(own))
    return Material(people=tuple(people), recipe=CacheRecipe(contract=make_card().contract))


def make_card() -> Card:
    card = read_card("fmri-lm")
    change = {"n_parcels": V, "window": T, "stride": T, "shortest": 16, "multiple": PATCH}
    contract = card.contract.model_copy(update=change | {"min_volumes": 10})
    return card.model_copy(update={"config": CONFIG, "contract": contract, "dimension": 32})


def make_start(**changes: Any) -> Start:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = LmTokenizer(LmConfig.of(CONFIG))
    given = {"name": "mine", "card": make_card(), "model": tokenizer}
    return Start(**(given | {"sha256": hash_values(tokenizer)} | changes))


def group_of(labels: np.ndarray, *, runs: int = 1) -> Subject:
    values = tuple((float(label),) * runs for label in labels)
    return Subject(name="group", values=values, classes=("loose", "tight"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.write_language(tmp_path_factory.mktemp("llm") / "llm", initializer_range=0.3)


GROUPS = np.arange(10) % 2
HELD = Instructing(validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    return make_material(tmp_path_factory.mktemp("runs"), GROUPS, runs=2)


AMOUNT = Subject(
    name="fc_Cont-Vis",
    values=tuple((float(p), p + 0.5 if p else math.nan) for p in range(10)),
    per_run=True,
)


@pytest.fixture(scope="module")
def ending(folder, material, tmp_path_factory) -> Ending:
    return tune_language(
        material,
        [group_of(GROUPS, runs=2), AMOUNT],
        start=make_start(demo=True),
        language=open_language(folder),
        settings=HELD,
        plan=QUICK,
        out=tmp_path_factory.mktemp("out") / "mine",
        wording=SHORT,
    )


def test_what_was_tuned_is_a_model_of_its_own_without_the_language_model(ending, folder) -> None:
    state = load_file(ending.folder / "weights.safetensors")
    updates = [name for name in state if name.startswith(UPDATES)]
    assert len(updates) == 4
    assert all(".lora_" in name for name in updates)
    assert not any("wte" in name or "lm_head" in name for name in state)
    assert {"encode_transform_layer.0.weight", "pos_embed.weight"} <= state.keys()
    start = make_start().model.encoder.state_dict()
    assert all(torch.equal(state[f"tokenizer.{name}"], value) for name, value in start.items())
    # The second matrix of an update is zero before it learns, and no reading drops it.
    model, questions = open_tuned(ending.card, folder)
    assert [question.name for question in questions] == ["group", "fc_Cont-Vis"]
    for name, value in model.language.named_parameters():
        if ".lora_B" in name:
            assert value.abs().max() > 0
            assert torch.equal(value, state[UPDATES + name])
    embedding = create_model(ending.card).embed(torch.zeros(1, V, T))
    assert embedding.shape == (1, 32)


def test_the_card_says_what_the_weights_are(ending) -> None:
    card = read_card(str(ending.folder))
    assert card == ending.card
    assert (card.architecture, card.label, card.demo) == ("fmri-lm-language", "mine", True)
    assert card.summary.startswith("DEMO WEIGHTS, NOT FOR SCIENCE.")
    said = " ".join(card.limits)
    assert "not calibrated, no finding, and not for diagnosis" in said
    assert "It has seen group, fc_Cont-Vis of the people it was tuned on" in said
    assert "which makes them too good" in said
    assert f"Of {make_card().name}, which makes its tokens: No weights are released" in said
    told = json.loads((ending.folder / "training.json").read_text())
    assert told["language"]["kind"] == "gpt2"
    assert told["split"] == {"train": 6, "validation": 2, "test": 2}
    assert told["settings"]["rank"] == 16
    assert "auroc" in "".join(told["test"])
    assert {"transformers", "peft", "tokenizers"} <= told["versions"].keys()


def test_checkpoints_hold_what_learns_and_nothing_of_the_language_model(ending) -> None:
    checkpoint = find_checkpoint(ending.folder)
    assert checkpoint is not None
    state = load_file(checkpoint / "state.safetensors")
    own = {name for name in state if name.startswith("model/")}
    assert all(".lora_" in n or "encode_transform" in n or "pos_embed" in n for n in own)
    assert len(own) == 4 + 3


def tune(material: Material, subjects: list[Subject], folder: Path, out: Path, **more: Any) -> Any:
    given = {"start": make_start(), "settings": HELD, "plan": QUICK, "out": out}
    return tune_language(material, subjects, language=open_language(folder), **(given | more))


def test_a_tuning_goes_on_and_ends_with_the_same_bits(ending, folder, material, tmp_path) -> None:
    subjects = [group_of(GROUPS, runs=2), AMOUNT]
    cut = {"start": make_start(demo=True), "wording": SHORT}
    weights = ending.folder / "weights.safetensors"
    before = weights.read_bytes()
    tune(material, subjects, folder, ending.folder, **cut)  # it is over
    assert weights.read_bytes() == before
    again = tune(material, subjects, folder, tmp_path / "mine", **cut)
    assert (again.folder / "weights.safetensors").read_bytes() == before
    with pytest.raises(UsageError, match=r"settings\.tags True and False"):
        tune(
            material, subjects, folder, ending.folder,
            settings=replace(HELD, tags=True), **cut,
        )  # fmt: skip


def test_who_tests_teaches_nothing(folder, material, tmp_path) -> None:
    split = split_participants(10, seed=QUICK.seed, validation=0.2, test=0.2)
    sides = (split.train, split.validation, split.test)
    assert sorted(sum(sides, ())) == list(range(10))
    found = []
    for place, sign in (("one", 1.0), ("two", -1.0)):
        signs = [sign if person in split.test else 1.0 for person in range(10)]
        values = tuple((signs[person] * person,) * 2 for person in range(10))
        found.append(tune(material, [Subject(name="age", values=values)], folder, tmp_path / place))
    one, two = ((ending.folder / "weights.safetensors").read_bytes() for ending in found)
    assert one == two
    assert found[0].test != found[1].test
    assert found[0].card.config["questions"][0]["answers"] == ["lower", "average", "higher"]


def test_runs_without_an_answer_are_left_out(folder, material, tmp_path) -> None:
    some = ((0.0, math.nan) if person % 2 else (1.0, 1.0) for person in range(9))
    values = (*some, (math.nan,) * 2)
    subject = Subject(name="group", values=values, classes=("a", "b"))
    found = tune(material, [subject], folder, tmp_path / "out")
    told = json.loads((found.folder / "training.json").read_text())
    assert (told["runs"], told["left_out"]) == (14, 6)
    nothing = Subject(name="group", values=((math.nan,) * 2,) * 10, classes=("a", "b"))
    with pytest.raises(DataError, match="no answer is known of any of 20 runs"):
        tune(material, [nothing], folder, tmp_path / "none")


def test_what_cannot_be_tuned_is_refused(folder, material, tmp_path) -> None:
    group = group_of(GROUPS, runs=2)
    with pytest.raises(UsageError, match="'group' is asked for twice"):
        tune(material, [group, group], folder, tmp_path / "a")
    with pytest.raises(UsageError, match="the wording is of 'age', which is not asked for"):
        tune(material, [group], folder, tmp_path / "a", wording={"age": Wording()})
    other = make_start(model=torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="makes no tokens of fMRI-LM for a language model"):
        tune(material, [group], folder, tmp_path / "a", start=other)
    with pytest.raises(UsageError, match="cannot be tuned with rank of 0"):
        Instructing(rank=0)
    rare = Subject(name="rare", values=((0.0,) * 2, (1.0,) * 2, *((math.nan,) * 2,) * 8))
    with pytest.raises(
        DataError, match=r"participants on one side of the split has an answer|same"
    ):
        tune(material, [group, rare], folder, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_random_encoders_are_told(folder, material, tmp_path) -> None:
    start = make_start(scratch=True)
    found = tune(material, [group_of(GROUPS, runs=2)], folder, tmp_path / "mine", start=start)
    assert "an encoder of random weights" in " ".join(found.card.limits)
    assert not found.card.demo


def test_another_language_model_is_refused(ending, tmp_path) -> None:
    other = tiny.write_language(tmp_path / "llm", seed=4, initializer_range=0.3)
    with pytest.raises(WrongWeightsError, match="was tuned with a gpt2 of the hash"):
        open_tuned(ending.card, other)


def test_cards_that_say_nothing_of_use_are_refused(ending, folder) -> None:
    with pytest.raises(ContractError, match="only 'fmri-lm-language' was tuned to answer"):
        open_tuned(make_card(), folder)
    for change, message in (
        ({"rank": 0}, "its updates are said to be of rank 0"),
        ({"rank": None}, "says rank: None"),
        ({"questions": []}, "tuned for no question"),
    ):
        card = ending.card.model_copy(update={"config": ending.card.config | change})
        with pytest.raises(WrongWeightsError, match=message):
            open_tuned(card, folder)


def test_only_what_was_tuned_for_is_asked(ending, folder, tmp_path) -> None:
    card = ending.card
    asker = load_asker(card, folder, atlas=_atlas(tmp_path))
    assert [question.name for question in asker.find(["fc_Cont-Vis"])] == ["fc_Cont-Vis"]
    assert asker.find([]) == asker.questions
    with pytest.raises(UsageError, match="was not tuned for the question 'sex', and what it"):
        asker.find(["sex"])
    volumes = card.model_copy(update={"contract": read_card("neurostorm-demo").contract})
    with pytest.raises(ContractError, match="takes volume; tokens of fMRI-LM are made of parcels"):
        load_asker(volumes, folder)


def _atlas(folder: Path) -> Path:
    path = folder / "labels.nii.gz"
    path.write_bytes(b"not looked at before a run is")
    return path


def test_certainty_counts_for_the_area_under_the_curve_not_hard_choices() -> None:
    scores, truth = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([0, 0, 1, 1])
    found = measure_classes(scores, truth, 2)  # all are called the second
    assert (found["accuracy"], found["auroc"]) == (0.5, 1.0)


PEOPLE = np.arange(400)
LONG = Plan(
    steps=500, batch=16, rate=5e-3, validate_every=100, checkpoint_every=500, patience=0, seed=1,
    weight_decay=0.0,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [("qwen3", 500), ("gpt2", 700)])
def test_a_group_that_connectivity_alone_tells_is_answered(kind, steps, tmp_path) -> None:
    """120 participants that nothing was chosen by; by chance half of them are answered rightly."""
    found = _planted(PEOPLE % 2, tmp_path, kind=kind, steps=steps)
    print(f"{kind}: {found}")
    assert found["balanced_accuracy"] > 0.75
    assert found["auroc"] > 0.85


@pytest.mark.slow
def test_labels_that_have_nothing_to_do_with_scans_are_not_answered(tmp_path) -> None:
    """Half of each group has each label; a standard error of 120 guesses is 0.046."""
    found = _planted(PEOPLE // 2 % 2, tmp_path, kind="qwen3", steps=500)
    print(f"shuffled: {found}")
    assert abs(found["balanced_accuracy"] - 0.5) < 0.15
    assert abs(found["auroc"] - 0.5) < 0.17


def _planted(labels: np.ndarray, folder: Path, *, kind: str, steps: int) -> Any:
    language = open_language(tiny.write_language(folder / "llm", kind=kind, initializer_range=0.3))
    return tune_language(
        make_material(folder / "runs", PEOPLE % 2),
        [group_of(labels)],
        start=make_start(demo=True),
        language=language,
        settings=Instructing(validation=0.2, test=0.3),
        plan=replace(LONG, steps=steps),
        out=folder / "mine",
        wording=SHORT,
    ).test
