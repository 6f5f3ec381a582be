"""Tuning: who is seen how often, by which loss, and that a planted class is found."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.adapters import prepare_tuning
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.evaluate.cohort import Target
from neurostorm_app.pipelines.inputs import InputFiles, find_inputs
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.train.batches import Draw
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.material import Material, gather, open_start
from neurostorm_app.pipelines.train.measures import measure_classes, measure_values
from neurostorm_app.pipelines.train.settings import Plan
from neurostorm_app.pipelines.train.supervised import Supervised
from neurostorm_app.pipelines.train.tuning import Tuning, tune

if TYPE_CHECKING:
    from neurostorm_app.models.card import Card

spec = importlib.util.spec_from_file_location(
    "train_cohort", Path(__file__).parents[1] / "train_cohort.py"
)
assert spec is not None
assert spec.loader is not None
cohort: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cohort)

PEOPLE = 10
GROUP = Target(
    name="group",
    kind="classes",
    values=np.arange(PEOPLE) % 2,
    classes=("control", "patient"),
)
AGE = Target(
    name="age", kind="value", values=30.0 + 10 * (np.arange(PEOPLE) % 2) + np.arange(PEOPLE) / 10,
    unit="years",
)  # fmt: skip
PLAN = Plan(steps=10, batch=4, rate=1e-2, checkpoint_every=10, validate_every=5, seed=1)


def series(folder: Path) -> list[tuple[str, StandardSeries]]:
    runs = []
    for bold in sorted(folder.glob("sub-*/func/*_bold.nii.gz")):
        name = bold.name.partition("_space")[0]
        mask = bold.with_name(bold.name.replace("desc-preproc_bold", "desc-brain_mask"))
        run = StandardSeries(
            name=name, bold=bold, mask=mask, confounds=None, tr=2.0,
            space="MNI152NLin6Asym", res="2",
        )  # fmt: skip
        runs.append((name.split("_")[0], run))
    return runs


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    cohort.write_model(folder / "tiny")
    cohort.write_cohort(folder / "deriv", people=PEOPLE, planted=0.2)
    return folder


@pytest.fixture(scope="module")
def card(place) -> Card:
    return read_card(str(place / "tiny"))


@pytest.fixture(scope="module")
def material(place, card) -> Material:
    recipe = CacheRecipe(contract=card.contract)
    participants, found = gather(series(place / "deriv"), recipe, place / "cache", device="cpu")
    assert len(participants) == PEOPLE
    return found


def start_of(card: Card, name: str = "mine", **how: Any):
    return open_start(card, find_inputs(card), name=name, **how)


def task_of(material, card, target=GROUP, **settings) -> Supervised:
    chosen = Tuning(**{"strategy": "full", **settings})
    tuned = prepare_tuning(create_model(card), chosen.strategy, n_outputs=1, prompt_len=4, seed=0)
    return Supervised(tuned, material, target, chosen, seed=1)


def test_a_planted_class_is_found_and_the_model_is_like_any_other(place, card, material, tmp_path):
    settings = Tuning(strategy="full", validation=0.2, test=0.2)
    start = start_of(card, demo=True)
    ending = tune(material, GROUP, start=start, settings=settings, plan=PLAN, out=tmp_path / "out")
    assert ending.outcome.best["balanced_accuracy"] == ending.test["balanced_accuracy"] == 1.0
    again = read_card(str(tmp_path / "out"))
    assert again == ending.card
    assert (again.architecture, again.label, again.demo) == ("neurostorm", "mine", True)
    assert again.limits[0].startswith("DEMO WEIGHTS, NOT FOR SCIENCE")
    assert "which makes it too good" in again.limits[2]
    assert again.limits[3].startswith("It has seen group of the people it was tuned on")
    assert again.output is not None
    assert (again.output.kind, again.output.classes) == ("binary", ("control", "patient"))
    [(_, patient)] = series(place / "deriv")[1:2]
    [(_, control)] = series(place / "deriv")[:1]
    embedder = load_embedder(str(tmp_path / "out"))
    found = [embedder.embed(run).prediction for run in (control, patient)]
    assert [said["predicted"] for said in found if said] == ["control", "patient"]


def test_values_are_told_in_their_unit(card, material, tmp_path):
    settings = Tuning(strategy="full", validation=0.3)
    ending = tune(
        material, AGE, start=start_of(card), settings=settings, plan=PLAN, out=tmp_path / "out"
    )
    output, best = ending.card.output, ending.outcome.best
    assert output is not None
    assert (output.kind, output.unit) == ("value", "years")
    assert 30 < output.mean < 41
    assert best["mae"] < 0.6 * best["mae_mean"]


@pytest.mark.parametrize("strategy", ["linear", "prompt", "prompt+norm", "lora"])
def test_every_strategy_trains_and_is_exported(strategy, card, material, tmp_path):
    settings = Tuning(strategy=strategy, prompt_len=3, rank=2)
    plan = Plan(steps=4, batch=4, rate=0.05, validate_every=2)
    ending = tune(
        material, GROUP, start=start_of(card), settings=settings, plan=plan, out=tmp_path / "out"
    )
    model = create_model(str(tmp_path / "out"))
    assert model.config.prompt_len == (3 if strategy.startswith("prompt") else 0)
    assert model.predict(torch.randn(1, 1, 16, 16, 16, 4)).shape == (1, 1)
    assert np.isfinite(ending.outcome.best["loss"])
    if strategy == "linear":
        x = torch.randn(1, 1, 16, 16, 16, 4)
        assert torch.equal(model.embed(x), create_model(card).embed(x))


def test_a_linear_head_computes_each_vector_once(card, material):
    task = task_of(material, card, strategy="linear")
    calls = []
    embed = task.model.embed
    task.model.embed = lambda *parts: calls.append(1) or embed(*parts)
    for step in range(6):
        draw = Draw(seed=1, step=step, batch=4)
        task(draw, task.load(draw))
    n_windows = sum(len(task._tile(p, 0)) for p in task.split.train)
    assert len(calls) == len(task.vectors) <= n_windows


def test_participants_come_equally_often_however_many_runs(card, material):
    people = (material.people[0] * 5, *material.people[1:])
    from dataclasses import replace

    task = task_of(replace(material, people=people), card)
    seen = [one for step in range(6) for one in task.load(Draw(seed=1, step=step, batch=4))[0]]
    counts = np.bincount([person for person, _, _ in seen], minlength=PEOPLE)
    assert set(counts[list(task.split.train)]) == {3}
    assert counts.sum() == 24


def test_standardisation_is_by_participants_of_the_training_split(card, material):
    task = task_of(material, card, AGE)
    known = np.asarray(AGE.values)[list(task.split.train)]
    assert (task.mean, task.sd) == (pytest.approx(known.mean()), pytest.approx(known.std()))
    held = np.asarray(AGE.values)[list(task.split.validation)]
    assert task.mean != pytest.approx(np.concatenate([known, held]).mean())


def test_losses_are_those_of_upstream_and_classes_weigh_the_same(card, material):
    skewed = Target(
        name="rare", kind="classes", values=np.array([0] * 6 + [1] * 4), classes=("a", "b")
    )
    task = task_of(material, card, skewed)
    counts = np.bincount(np.asarray(skewed.values)[list(task.split.train)])
    assert task.weights is not None
    np.testing.assert_allclose(task.weights * counts, [counts.sum() / 2] * 2, rtol=1e-6)
    logits, truth = torch.tensor([[0.3], [-1.0]]), torch.tensor([1.0, 0.0])
    p = torch.sigmoid(logits[:, 0])
    expected = -(task.weights[1] * p[0].log() + task.weights[0] * (1 - p[1]).log()) / 2
    assert task.loss(logits, truth).item() == pytest.approx(expected.item(), rel=1e-5)
    plain = task_of(material, card, skewed, weighted=False)
    expected = -(p[0].log() + (1 - p[1]).log()) / 2
    assert plain.loss(logits, truth).item() == pytest.approx(expected.item(), rel=1e-5)
    value = task_of(material, card, AGE)
    assert value.loss(logits, truth).item() == pytest.approx((0.7**2 + 1.0) / 2, rel=1e-5)


def test_classes_weigh_the_same_however_small_the_batch(card, material):
    """A weighted mean over a batch of one item would leave no weight at all."""
    three = Target(
        name="site", kind="classes", values=np.array([0] * 5 + [1] * 3 + [2] * 2),
        classes=("a", "b", "c"),
    )  # fmt: skip
    task = task_of(material, card, three)
    assert task.weights is not None
    logits, truth = torch.tensor([[0.3, -1.0, 0.2], [0.1, 0.0, 2.0]]), torch.tensor([0.0, 2.0])
    shares = torch.log_softmax(logits, dim=1)
    for item, label in enumerate((0, 2)):
        expected = -task.weights[label] * shares[item, label]
        one = task.loss(logits[item : item + 1], truth[item : item + 1])
        assert one.item() == pytest.approx(expected.item(), rel=1e-5)
    expected = -(task.weights[0] * shares[0, 0] + task.weights[2] * shares[1, 2]) / 2
    assert task.loss(logits, truth).item() == pytest.approx(expected.item(), rel=1e-5)


def test_logits_are_averaged_over_windows_before_the_loss(card, material):
    task = task_of(material, card)
    task.eval()
    with torch.no_grad():
        starts = task._tile(0, 0)
        each = [task.model(*task._read([(0, 0, int(s))])) for s in starts]
        assert len(each) == 3
        assert torch.allclose(task._predict(0), torch.cat(each).mean(dim=0))


def test_what_cannot_be_learnt_is_said(card, material, tmp_path):
    short = Target(name="age", kind="value", values=np.arange(3.0))
    same = Target(name="site", kind="value", values=np.ones(PEOPLE))
    with pytest.raises(DataError, match="there are runs of"):
        tune(material, short, start=start_of(card), settings=Tuning(), plan=PLAN, out=tmp_path)
    with pytest.raises(DataError, match="in all participants to train on"):
        tune(material, same, start=start_of(card), settings=Tuning(), plan=PLAN, out=tmp_path)
    with pytest.raises(UsageError, match="a run cannot be judged in 0 windows"):
        Tuning(windows=0)
    connectome = read_card("connectome")
    with pytest.raises(UsageError, match="so there is nothing to train"):
        open_start(connectome, InputFiles(), name="mine")


def test_measures_stand_beside_what_a_guess_gets():
    logits = np.array([[3.0, 0, 0], [0, 2, 0], [0, 2, 1], [0, 0, 1]])
    found = measure_classes(logits, np.array([0, 1, 2, 2]), 3)
    assert found == {"accuracy": 0.75, "accuracy_majority": 0.5, "balanced_accuracy": 2.5 / 3}
    ties = measure_classes(np.zeros((4, 1)), np.array([0, 1, 0, 1]), 2)
    assert ties["auroc"] == 0.5
    exact = measure_values(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]), mean=0.0)
    assert (exact["r2"], exact["mae"], exact["mae_mean"]) == (1.0, 0.0, 2.0)
    assert exact["r"] == pytest.approx(1)
    few = measure_values(np.array([1.0, 2]), np.array([1.0, 3]), mean=0.0)
    assert few == {"mae": 0.5, "mae_mean": 2.0}  # of two people there is no share of variance
    assert measure_values(np.full(3, 2.0), np.array([1.0, 2, 3]), mean=2.0)["r2"] == 0.0
