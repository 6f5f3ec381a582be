"""The verbs ``train language`` and ``ask``: from derivatives to answers of a closed set."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from neurostorm_app.bids_app.tools import main, main_inner
from neurostorm_app.bids_app.verbs.train_language import read_wording
from neurostorm_app.errors import AppError, ExitCode, NoInputError, UsageError
from neurostorm_app.models import read_card
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.models.fmri_lm_files import LmConfig
from neurostorm_app.models.lockfile import hash_file

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

V, T, PATCH, PEOPLE, SIZE = 6, 16, 8, 10, 8
AFFINE = np.diag([12.0, 12, 12, 1])
AFFINE[:3, 3] = (-40, -50, -40)
CONFIG: dict[str, Any] = {
    "width": 16, "depth": 1, "heads": 2, "n_parcels": V, "n_volumes": T, "patch": PATCH,
    "n_codes": 16, "code_width": 8,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are not worth a second one, which others may be using."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save(data: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header.set_zooms((12.0, 12.0, 12.0, 2.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def write_runs(root: Path, labels: np.ndarray) -> None:
    """Write derivatives of people, and their table."""
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.10.0"}')
    rows = ["participant_id\tage\tgroup"]
    for person in range(PEOPLE):
        rng = np.random.default_rng(person)
        series = 1000 + 20 * rng.normal(size=(V, 3 * T + (0 if person else -36)))
        data = np.zeros((*labels.shape, series.shape[1]), np.float32)
        data[labels > 0] = series[labels[labels > 0] - 1]
        who = f"sub-{person + 1:02d}"
        stem = f"{who}_task-rest_space-MNI152NLin6Asym_res-2"
        save(data, root / who / "func" / f"{stem}_desc-preproc_bold.nii.gz")
        mask = (labels > 0).astype(np.uint8)
        save(mask, root / who / "func" / f"{stem}_desc-brain_mask.nii.gz")
        rows.append(f"{who}\t{30 + 2 * person}\t{'ab'[person % 2]}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of random weights as a model of a user."""
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = LmTokenizer(LmConfig.of(CONFIG)).state_dict()
    state |= {"quantize.embedding.initted": torch.ones(1)}
    path = folder / "w.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    card = read_card("fmri-lm")
    change = {"n_parcels": V, "window": T, "stride": T, "shortest": T, "multiple": PATCH}
    card = card.model_copy(
        update={
            "name": "tokens",
            "label": "tokens",
            "file": path.name,
            "sha256": hash_file(path),
            "config": CONFIG,
            "dimension": 16,
            "licence": "Apache-2.0",
            "contract": card.contract.model_copy(update=change | {"min_volumes": 10}),
        }
    )
    (folder / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    labels = np.zeros((SIZE,) * 3, np.int16)
    inner = labels[1:-1, 1:-1, 1:-1]
    inner[:] = 1 + np.arange(inner.size).reshape(inner.shape) * V // inner.size
    save(labels, folder / "atlas.nii.gz")
    write_runs(folder / "deriv", labels)
    write_tokenizer(folder / "tokens")
    tiny.write_language(folder / "llm", n_positions=512)
    networks = ("Vis", "Vis", "Vis", "Cont", "Cont", "Cont")
    table = [f"{number}\t{name}" for number, name in enumerate(networks, start=1)]
    (folder / "networks.tsv").write_text("index\tnetwork\n" + "\n".join(table) + "\n")
    (folder / "words.json").write_text(
        '{"group": {"texts": ["Which group?", "Group?"], "answers": {"a": "first"}}}'
    )
    return folder


def train(place: Path, out: Path, *more: object, model: object = None) -> None:
    words = ["train", "language", place / "deriv", "--model", model or place / "tokens"]
    words += ["--llm", place / "llm", "--out", out, "--atlas", place / "atlas.nii.gz"]
    words += ["--cache-dir", place / "cache", "--steps", "4", "--validate-every", "2"]
    main_inner([str(word) for word in (*words, *more)])


@pytest.fixture(scope="module")
def tuned(place) -> Path:
    out = place / "mine"
    more = ["--target", "group", "--target", "age", "--descriptor", "fc_Cont-Vis"]
    more += ["--networks", place / "networks.tsv", "--wording", place / "words.json"]
    train(place, out, *more, "--demo", "--learning-rate", "0.01", "--test", "0.2")
    return out


def ask(place: Path, out: Path, *more: object, model: object) -> None:
    words = ["ask", place / "deriv", "--model", model, "--llm", place / "llm", "--out", out]
    words += ["--atlas", place / "atlas.nii.gz", *more]
    main_inner([str(word) for word in words])


def table_of(out: Path) -> list[dict[str, str]]:
    lines = (out / "desc-mine_answers.tsv").read_text().splitlines()
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]


def test_a_tuning_goes_from_derivatives_to_a_model(tuned, place) -> None:
    card = read_card(str(tuned))
    questions = {one["name"]: one for one in card.config["questions"]}
    assert list(questions) == ["group", "age", "fc_Cont-Vis"]
    assert questions["group"]["answers"] == ["first", "b"]
    assert questions["group"]["texts"] == ["Which group?", "Group?"]
    assert questions["age"]["answers"] == ["lower", "average", "higher"]
    assert "networks Cont and Vis" in questions["fc_Cont-Vis"]["texts"][0]
    told = json.loads((tuned / "training.json").read_text())
    assert told["split"] == {"train": 5, "validation": 2, "test": 2}
    assert told["left_out"] == 1  # too short
    assert "group_balanced_accuracy" in told["test"]
    assert card.summary.startswith("DEMO WEIGHTS, NOT FOR SCIENCE.")
    for path in tuned.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"sub-" not in content, path
            assert str(place).encode() not in content, path


def test_answers_are_shares_of_a_closed_set_with_a_label(tuned, place, tmp_path, capsys) -> None:
    ask(place, tmp_path, model=tuned)
    assert "not for diagnosis" in capsys.readouterr().out
    rows = table_of(tmp_path)
    assert len(rows) == 9 * (2 + 3 + 3)
    assert list(rows[0]) == ["run", "question", "answer", "log_likelihood", "share", "likeliest"]
    for run in {row["run"] for row in rows}:
        for name in ("group", "age", "fc_Cont-Vis"):
            own = [row for row in rows if (row["run"], row["question"]) == (run, name)]
            shares = np.array([float(row["share"]) for row in own])
            scores = np.array([float(row["log_likelihood"]) for row in own])
            assert shares.sum() == pytest.approx(1, abs=1e-4)
            assert (scores < 0).all()
            expected = np.exp(scores - scores.max())
            np.testing.assert_allclose(shares, expected / expected.sum(), atol=1e-3)
            assert [int(row["likeliest"]) for row in own] == (shares == shares.max()).tolist()
    about = json.loads((tmp_path / "desc-mine_answers.json").read_text())
    assert about["Description"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE.")
    assert about["NotForDiagnosis"] is True
    assert about["Demo"] is True
    assert "Not calibrated" in about["Columns"]["share"]
    assert about["LanguageModel"]["Kind"] == "gpt2"
    assert about["Model"]["language_sha256"] == about["LanguageModel"]["SHA256"]
    assert about["RunsLeftOut"] == {"sub-01_task-rest": "SeriesTooShortError"}
    assert set(about["Windows"].values()) == {3}
    assert str(place) not in json.dumps(about)


def test_one_question_about_one_participant(tuned, place, tmp_path) -> None:
    more = ["--question", "group", "--participant-label", "sub-03", "--task-label", "rest"]
    ask(place, tmp_path, *more, model=tuned)
    rows = table_of(tmp_path)
    assert {row["run"] for row in rows} == {"sub-03_task-rest"}
    assert [row["answer"] for row in rows] == ["first", "b"]
    again = tmp_path / "again"
    ask(place, again, *more, model=tuned)
    assert table_of(again) == rows  # nothing is drawn


def test_what_was_not_tuned_for_is_not_answered(tuned, place, tmp_path) -> None:
    with pytest.raises(UsageError, match="was not tuned for the question 'diagnosis'"):
        ask(place, tmp_path / "out", "--question", "diagnosis", model=tuned)
    with pytest.raises(AppError, match="the shortest window of the model has 16"):
        ask(place, tmp_path / "out", "--participant-label", "01", model=tuned)
    with pytest.raises(AppError, match="was tuned to answer questions"):
        ask(place, tmp_path / "out", model=place / "tokens")
    assert not (tmp_path / "out").exists()


def test_a_missing_language_model_has_an_exit_code(tuned, place, tmp_path, capsys) -> None:
    words = ["ask", place / "deriv", "--model", tuned, "--llm", tmp_path / "none"]
    words += ["--out", tmp_path / "out", "--atlas", place / "atlas.nii.gz"]
    assert main([str(word) for word in words]) == ExitCode.NO_INPUT
    assert "there is no such folder of a language model" in capsys.readouterr().err


def test_a_control_of_random_tokens_is_told(place, tmp_path) -> None:
    train(place, tmp_path / "mine", "--target", "group", model=f"{place / 'tokens'}-untrained")
    card = read_card(str(tmp_path / "mine"))
    assert card.demo
    assert "Its tokens are made by an encoder of random weights" in " ".join(card.limits)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "nothing is asked for, so there is nothing to learn"),
        (("--descriptor", "modularity"), "takes the network of each parcel, and no --networks"),
        (("--target", "nobody"), "'nobody' is no column of"),
        (("--target", "age", "--rank", "0"), "cannot be tuned with rank of 0"),
    ],
)
def test_questions_that_cannot_be_made_are_refused(more, message, place, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        train(place, tmp_path / "mine", *more)
    assert not (tmp_path / "mine").exists()


def test_only_a_tokenizer_makes_tokens(place, tmp_path) -> None:
    words = ["train", "language", place / "deriv", "--model", "brainlm-demo", "--target", "age"]
    words += ["--llm", place / "llm", "--out", tmp_path / "mine"]
    with pytest.raises(UsageError, match="brainlm-demo makes no tokens of fMRI-LM"):
        main_inner([str(word) for word in words])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "a list says nothing about the wording of questions"),
        ('{"a": 1}', "expected a list texts and names of answers"),
        ('{"a": {"text": []}}', "expected a list texts and names of answers"),
        ('{"a": {"texts": "no"}}', "expected a list texts and names of answers"),
        ('{"a": {"texts": [1]}}', "a text or an answer is no text"),
        ('{"a": {"answers": {"b": 2}}}', "a text or an answer is no text"),
    ],
)
def test_wordings_that_cannot_be_read_are_refused(text, message, tmp_path) -> None:
    path = tmp_path / "words.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_wording(path)
    with pytest.raises(NoInputError, match="there is no such file of wordings"):
        read_wording(tmp_path / "none")
    assert read_wording(None) == {}
