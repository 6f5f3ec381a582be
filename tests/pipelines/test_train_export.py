"""What a training leaves: a model like any other, that names nobody and no place."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.adapters import export_head, prepare_tuning
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.pipelines.inputs import InputFiles, find_inputs
from neurostorm_app.pipelines.train.export import HEAD, WEIGHTS, export_model, name_model
from neurostorm_app.pipelines.train.material import Start, open_start
from neurostorm_app.pipelines.train.task import Outcome

OUTCOME = Outcome(
    steps=20,
    best_step=10,
    validations=({"step": 10, "loss": 0.25, "accuracy": 0.75}, {"step": 20, "loss": 0.5}),
    seconds=12.34,
    world=1,
    is_main=True,
)
FACTS = {
    "what": "pretrain",
    "measured": "masked reconstruction",
    "settings": {"objective": "mae"},
    "plan": {"steps": 20},
    "split": {"train": 8, "validation": 2},
    "runs": 10,
    "left_out": 1,
}


def start_of(model: str, name: str = "mine") -> Start:
    card = read_card(model)
    return open_start(card, find_inputs(card), name=name)


def test_weights_card_and_record_belong_together(tmp_path):
    start = start_of("neurostorm-demo")
    ending = export_model(tmp_path, start.model, start=start, outcome=OUTCOME, facts=FACTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.yaml", "training.json", WEIGHTS]
    card = read_card(str(tmp_path))
    assert (card.sha256, card.size) == (
        hash_file(tmp_path / WEIGHTS),
        (tmp_path / WEIGHTS).stat().st_size,
    )
    assert ending.card == card
    assert card.contract == start.card.contract
    assert (card.licence, card.demo, card.source, card.embedded) == (
        "Apache-2.0",
        True,
        None,
        False,
    )
    assert card.limits[0].startswith("DEMO WEIGHTS")
    assert "2 participants by whom the best step was chosen" in card.limits[2]
    assert "loss 0.25, accuracy 0.75" in card.limits[2]
    origin = "Of neurostorm-demo, from which it started: "
    assert card.limits[3:] == tuple(origin + limit for limit in start.card.limits)
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        assert json.loads(file.metadata()["config"])["embed_dim"] == 12
        assert all(name.startswith("model.") for name in file.keys())  # noqa: SIM118
    x = torch.randn(1, 1, 48, 48, 48, 4)
    assert torch.equal(create_model(str(tmp_path)).embed(x), start.model.embed(x))
    said = json.loads((tmp_path / "training.json").read_text())
    assert said["start"] == {
        "model": "neurostorm-demo", "values": start.sha256, "scratch": False,
    }  # fmt: skip
    assert said["split"] == {"train": 8, "validation": 2}
    assert said["versions"]["torch"] == torch.__version__
    assert said["validations"][0]["accuracy"] == 0.75


def test_the_same_training_leaves_the_same_bytes(tmp_path):
    start = start_of("neurostorm-demo")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export_model(tmp_path / name, start.model, start=start, outcome=OUTCOME, facts=FACTS)
    for name in (WEIGHTS, "card.yaml", "training.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_head_that_weights_have_no_place_for_lies_beside_them(tmp_path):
    start = start_of("brainlm-demo")
    tuned = prepare_tuning(start.model, "lora", n_outputs=1, rank=2, seed=1)
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if value.requires_grad and "head" not in name:
                value.add_(0.01 * torch.ones_like(value))
    facts = FACTS | {"what": "tune", "target": "age", "settings": {"strategy": "lora"}}
    ending = export_model(tmp_path, tuned, start=start, outcome=OUTCOME, facts=facts)
    assert ending.card.output is None
    assert any("the app does not apply it" in limit for limit in ending.card.limits)
    head = load_file(tmp_path / HEAD)
    assert all(torch.equal(value, head[name]) for name, value in export_head(tuned).items())
    model = create_model(str(tmp_path))
    signal, xyz = torch.randn(1, 100, 60), torch.randn(1, 100, 3)
    tuned.eval()
    np.testing.assert_allclose(
        model.embed(signal, xyz).detach(), tuned.embed(signal, xyz).detach(), atol=1e-5
    )
    assert not torch.equal(model.embed(signal, xyz), start.model.embed(signal, xyz))


def test_only_the_first_process_writes(tmp_path):
    from dataclasses import replace

    start = start_of("neurostorm-demo")
    other = replace(OUTCOME, is_main=False)
    export_model(tmp_path, start.model, start=start, outcome=other, facts=FACTS)
    assert list(tmp_path.iterdir()) == []


def test_a_test_set_is_told_apart_from_validation(tmp_path):
    start = start_of("neurostorm-demo")
    facts = FACTS | {"test": {"loss": 0.3}, "split": {"train": 8, "validation": 2, "test": 3}}
    ending = export_model(tmp_path, start.model, start=start, outcome=OUTCOME, facts=facts)
    assert "Of 3 participants that nothing was chosen by: loss 0.3" in ending.card.limits[2]
    assert ending.test == {"loss": 0.3}


def test_the_column_of_a_user_keeps_its_case(tmp_path):
    start = start_of("neurostorm-demo")
    facts = FACTS | {"measured": "CogTotalComp, means over participants"}
    ending = export_model(tmp_path, start.model, start=start, outcome=OUTCOME, facts=facts)
    assert ending.card.limits[2].startswith("CogTotalComp, means over participants, of 2")


def test_names_that_no_model_can_have_are_refused_before_the_training():
    assert name_model("my-lab_age.v2") == "myLabAgeV2"
    for name in ("neurostorm-demo", "neurostormDemo", "a b", "", "-x", "mine-untrained", "x" * 200):
        with pytest.raises(UsageError, match="a model cannot be called"):
            name_model(name)
    card = read_card("neurostorm-demo")
    with pytest.raises(UsageError, match="a model cannot be called"):
        open_start(card, InputFiles(), name="brainlm")
