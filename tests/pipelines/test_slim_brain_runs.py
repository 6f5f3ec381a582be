"""Runs through SLIM-Brain: what its contract makes of them, and weights that are made here."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from neurostorm_app.errors import DataError, MissingWeightsError, UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.card import GridSpec
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_files import SlimConfig
from neurostorm_app.models.slim_brain_jepa import SlimBrainJepa
from neurostorm_app.models.slim_brain_mae import SlimBrainMae
from neurostorm_app.models.untrained import untrained
from neurostorm_app.pipelines.conformance import Findings, place_volumes
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.normalize import normalize_volume
from neurostorm_app.pipelines.prepare_volumes import prepare_volumes
from neurostorm_app.pipelines.stage import InputOptions, StandardSeries
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.latent import LatentGuess
from neurostorm_app.pipelines.train.masks import Pretraining, with_masks
from neurostorm_app.pipelines.train.material import Material, Start, draw_start, gather
from neurostorm_app.pipelines.train.pretraining import pretrain
from neurostorm_app.pipelines.train.settings import Plan

if TYPE_CHECKING:
    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.train.batches import Draw

spec = importlib.util.spec_from_file_location(
    "train_cohort", Path(__file__).parents[1] / "train_cohort.py"
)
assert spec is not None
assert spec.loader is not None
cohort: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cohort)

WINDOW = 8
CONFIG: dict[str, Any] = {
    "img_size": [cohort.SIZE] * 3 + [WINDOW],
    "embed_dim": 8,
    "num_heads": 1,
    "stages": [1, 1, 1],
    "patch_kernel": [1, 2, 2, 2],
    "q_pool": 1,
    "q_stride": [2, 2, 2, 2],
    "mask_unit_size": [4, 4, 4, 4],
    "mlp_ratio": 2.0,
    "guess_width": 16,
}
"""16 mask units."""
ROUNDING = 1e-5
PLAN = Plan(steps=12, batch=2, rate=5e-3, validate_every=6, seed=3)
FEW = {"validation": 0.34, "validation_windows": 1}


@pytest.fixture(scope="module")
def card() -> Card:
    """A card of the package on a grid of 12 mm."""
    full = read_card("slim-brain")
    rows = tuple(map(tuple, cohort.AFFINE[:3].tolist()))
    contract = full.contract.model_copy(
        update={
            "grid": GridSpec(shape=(cohort.SIZE,) * 3, affine=rows),
            "tr": 1.9,
            "tr_range": (1.8, 2.1),
            "window": WINDOW,
            "stride": WINDOW,
        }
    )
    return full.model_copy(update={"contract": contract, "config": CONFIG})


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[tuple[str, StandardSeries]]:
    root = tmp_path_factory.mktemp("slim") / "deriv"
    cohort.write_cohort(root, people=6, volumes=18)
    found = []
    for bold in sorted(root.glob("sub-*/func/*_bold.nii.gz")):
        mask = bold.with_name(bold.name.replace("desc-preproc_bold", "desc-brain_mask"))
        run = StandardSeries(
            name=bold.name.partition("_space")[0], bold=bold, mask=mask, confounds=None,
            tr=cohort.TR, space="MNI152NLin6Asym", res="2",
        )  # fmt: skip
        found.append((bold.name.split("_")[0], run))
    return found


@pytest.fixture(scope="module")
def material(runs, card, tmp_path_factory) -> Material:
    recipe = CacheRecipe(contract=card.contract)
    return gather(runs, recipe, tmp_path_factory.mktemp("cache"), device="cpu")[1]


def weights_of(network: SlimBrain, path: Path) -> Path:
    torch.save({"epoch": 39, "model_state_dict": network.state_dict()}, path)
    return path


def drawn(seed: int = 5) -> SlimBrain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SlimBrain(SlimConfig.of(CONFIG)).eval()


def test_a_file_of_weights_embeds_a_run(card, runs, tmp_path) -> None:
    network = drawn()
    path = weights_of(network, tmp_path / "best_model.pth")
    found = load_embedder(card, weights=path).embed(runs[0][1])
    assert found.windows.shape == (3, 32)  # 8, 8 and the last 8 of 18 volumes
    assert found.record["starts"] == [0, 8, 10]
    assert found.record["weights_sha256"]
    assert found.conformance["tr"] == cohort.TR
    prepared = prepare_volumes(runs[0][1], card.contract, InputOptions())
    x = torch.from_numpy(np.stack(list(prepared.windows)))
    with torch.no_grad():
        expected = network.embed(x).numpy()
    np.testing.assert_allclose(found.windows, expected, atol=ROUNDING)
    np.testing.assert_allclose(found.pooled, expected.mean(axis=0), atol=ROUNDING)


def test_without_weights_there_is_no_embedding_but_a_control_has_one(card, runs) -> None:
    with pytest.raises(MissingWeightsError, match="the weights of slim-brain are not on this"):
        load_embedder(card)
    found = load_embedder(untrained(card)).embed(runs[0][1])
    assert found.record["random_weights_sha256"]
    assert np.isfinite(found.pooled).all()


def test_around_the_brain_is_0_and_inside_one_mean_and_deviation(card, runs) -> None:
    prepared = prepare_volumes(runs[0][1], card.contract, InputOptions())
    windows = np.stack(list(prepared.windows))
    inside = windows[:, 0] != 0
    assert 0.05 < inside.mean() < 0.5
    assert (inside == inside[..., :1]).all()
    whole = np.concatenate([windows[0], windows[1], windows[2][..., 6:]], axis=-1)[0]
    values = whole[inside[0][..., 0]]
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(1, abs=1e-4)
    assert prepared.findings.facts["scaling"]["background"] == 0


def test_a_series_in_memory_gets_the_background_of_its_contract(card, rng) -> None:
    series = rng.normal(100, 10, (6, 5, 4, 7))
    mask = series.mean(axis=3) > 100
    scaled, scale = normalize_volume(series, mask, card.contract)
    assert scale.background == 0
    assert (scaled[~mask] == 0).all()
    lowest, _ = normalize_volume(series, mask, read_card("neurostorm").contract)
    np.testing.assert_array_equal(scaled[mask], lowest[mask])


@pytest.mark.parametrize(
    ("tr", "kept"), [(0.7, True), (0.8, True), (0.72, True), (0.69, False), (2.0, False)]
)
def test_repetition_times_in_a_range_are_kept_and_others_resampled(runs, tr, kept) -> None:
    contract, findings = read_card("slim-brain").contract, Findings()
    run = replace(runs[0][1], tr=tr)
    positions = place_volumes(100, run, contract.tr, findings, keep=contract.tr_range)
    assert findings.facts["tr"] == (tr if kept else 0.72)
    assert (findings.facts["time_interpolation"] == "none") == kept
    assert len(positions) == (100 if kept else round(100 * tr / 0.72))
    assert (findings.deviations["tr"] == 0) == kept


def test_a_resampled_run_has_windows_at_the_contracts_repetition_time(card, runs) -> None:
    prepared = prepare_volumes(replace(runs[0][1], tr=3.8), card.contract, InputOptions())
    assert prepared.findings.facts["n_volumes_used"] == 36
    assert prepared.step == pytest.approx(1.9)


def test_upstreams_arithmetic_of_another_model_is_refused(card, runs) -> None:
    with pytest.raises(UsageError, match="upstream's own arithmetic is known for NeuroSTORM alone"):
        prepare_volumes(runs[0][1], card.contract, InputOptions(parity="upstream"))


def test_the_loss_of_pre_training_falls_and_the_model_says_what_it_is(
    card, material, runs, tmp_path
) -> None:
    start = draw_start(card, name="mine", seed=1, demo=True)
    assert isinstance(start.model, SlimBrainMae)
    settings = Pretraining(mask_ratio=0.7, **FEW)
    ending = pretrain(material, start=start, settings=settings, plan=PLAN, out=tmp_path / "mine")
    losses = [row["loss"] for row in ending.outcome.validations]
    assert losses[-1] < losses[0]
    made = ending.card
    assert (made.architecture, made.dimension, made.demo) == ("slim-brain-mae", 32, True)
    assert made.licence == "Apache-2.0"
    assert any("It is no SLIM-Brain of the paper" in limit for limit in made.limits)
    assert made.config["mask_ratio"] == 0.7
    found = load_embedder(str(tmp_path / "mine")).embed(runs[0][1])
    assert found.windows.shape == (3, 32)
    assert 0 < found.conformance["reconstruction_error"] < 3
    assert found.example is not None
    assert found.example["HiddenShare"] == pytest.approx(0.7, abs=0.06)


def test_an_encoder_is_trained_on_with_a_fresh_decoder(card, material, tmp_path) -> None:
    network = drawn()
    start = Start(name="mine", card=card, model=network, sha256="0" * 64)
    made = with_masks(start, Pretraining(mask_ratio=0.5), seed=2)
    assert isinstance(made, SlimBrainMae)
    assert made.config.mask_ratio == 0.5
    assert torch.equal(made.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)
    settings = Pretraining(**FEW)
    ending = pretrain(material, start=start, settings=settings, plan=PLAN, out=tmp_path / "mine")
    assert ending.card.licence == card.licence
    assert any("No licence is stated anywhere" in limit for limit in ending.card.limits)
    model = create_model(str(tmp_path / "mine"))
    assert not torch.equal(model.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spatial_mask": "window"}, "SLIM-Brain hides whole mask units; it knows no"),
        ({"redundancy": "paper"}, "redundancy dropout acts on NeuroSTORM's blocks; SlimBrainMae"),
        ({"objective": "contrastive"}, "the contrastive objective is for NeuroSTORM; slim-brain"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(card, material, tmp_path, settings, message) -> None:
    start = draw_start(card, name="mine", seed=1)
    with pytest.raises(UsageError, match=message):
        pretrain(
            material, start=start, settings=Pretraining(**FEW, **settings), plan=PLAN,
            out=tmp_path / "out",
        )  # fmt: skip


def test_learning_in_latent_space_makes_an_encoder(card, material, tmp_path) -> None:
    start = draw_start(card, name="mine", seed=1)
    plan = replace(PLAN, steps=30, validate_every=10)
    ending = pretrain(
        material, start=start, settings=Pretraining(objective="jepa", **FEW), plan=plan,
        out=tmp_path / "mine",
    )  # fmt: skip
    losses = [row["loss"] for row in ending.outcome.validations]
    assert losses[-1] < losses[0]
    assert ending.outcome.validations[-1]["spread"] > 0.05  # it has not collapsed
    assert ending.card.architecture == "slim-brain"
    assert any("It is no SLIM-Brain of the" in limit for limit in ending.card.limits)
    model = create_model(str(tmp_path / "mine"))
    assert type(model) is SlimBrain
    assert not torch.equal(model.blocks[0].attn.qkv.weight, start.model.blocks[0].attn.qkv.weight)


def collapse(monkeypatch, *, after: int) -> None:
    """Let the second encoder see one and the same in everything, from some step on."""
    follow = SlimBrainJepa.follow

    def collapsing(self: SlimBrainJepa, step: int, steps: int) -> None:
        follow(self, step, steps)
        if step >= after:
            last = self.target.blocks[-1].mlp.fc2
            last.weight.zero_()
            last.bias.copy_(1e3 * torch.linspace(-1, 1, len(last.bias)))

    monkeypatch.setattr(SlimBrainJepa, "follow", collapsing)


JEPA = Pretraining(objective="jepa", **FEW)
LONGER = replace(PLAN, steps=30, validate_every=10, checkpoint_every=10)


def test_a_step_at_which_the_encoder_has_collapsed_is_never_the_best(
    card, material, tmp_path, monkeypatch
) -> None:
    collapse(monkeypatch, after=10)
    start = draw_start(card, name="mine", seed=1, demo=True)
    ending = pretrain(material, start=start, settings=JEPA, plan=LONGER, out=tmp_path / "mine")
    first, second, last = ending.outcome.validations
    assert last["loss"] < first["loss"]  # the lowest loss is the most collapsed
    assert last["spread"] < 0.05 * first["spread"]
    assert [row["collapsed"] for row in (first, second, last)] == [0, 1, 1]
    assert (ending.outcome.best_step, ending.outcome.best["collapsed"]) == (10, 0)
    assert any("until its encoder had collapsed" in limit for limit in ending.card.limits)


def test_a_collapse_that_was_overcome_is_not_told_of_the_weights(
    card, material, tmp_path, monkeypatch
) -> None:
    start = draw_start(card, name="mine", seed=1, demo=True)
    checked = LatentGuess.validate
    rows = iter([{"collapsed": 1.0}, {}, {}])

    def overcome(self, *args):
        return {**checked(self, *args), "collapsed": 0.0, **next(rows)}

    monkeypatch.setattr(LatentGuess, "validate", overcome)
    ending = pretrain(material, start=start, settings=JEPA, plan=LONGER, out=tmp_path / "mine")
    assert [row["collapsed"] for row in ending.outcome.validations] == [1, 0, 0]
    assert ending.outcome.best_step > 10
    assert not any("until its encoder had collapsed" in limit for limit in ending.card.limits)


def test_an_encoder_that_has_always_collapsed_becomes_no_model(
    card, material, tmp_path, monkeypatch
) -> None:
    collapse(monkeypatch, after=1)
    for _ in range(2):  # nor does the next call make one of it
        start = draw_start(card, name="mine", seed=1, demo=True)
        with pytest.raises(DataError, match="had collapsed at all 3 validations, and nothing of"):
            pretrain(material, start=start, settings=JEPA, plan=LONGER, out=tmp_path / "mine")
    assert not (tmp_path / "mine" / "card.yaml").exists()


def test_learning_in_latent_space_goes_on_to_the_same_bits(
    card, material, tmp_path, monkeypatch
) -> None:
    plan = replace(LONGER, steps=8, validate_every=4, checkpoint_every=3)
    forward = LatentGuess.forward

    def break_off(self: LatentGuess, draw: Draw, loaded: list[torch.Tensor]) -> torch.Tensor:
        loss = forward(self, draw, loaded)
        return loss * float("nan") if draw.step == 5 else loss

    def go(folder: str) -> bytes:
        start = draw_start(card, name="mine", seed=1, demo=True)
        pretrain(material, start=start, settings=JEPA, plan=plan, out=tmp_path / folder)
        training = json.loads((tmp_path / folder / "training.json").read_text())
        assert training["validations"][-1]["spread_at_start"] > 0
        kept = tmp_path / folder / "checkpoints" / "step-000000008" / "state.safetensors"
        return kept.read_bytes()

    whole = go("whole")
    with monkeypatch.context() as patch:
        patch.setattr(LatentGuess, "forward", break_off)
        with pytest.raises(DataError, match="which is no number to go on from"):
            go("broken")
    assert go("broken") == whole


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("slim-brain", {"mask_ratio": 0.5}, "the objective jepa chooses itself what is seen"),
        ("neurostorm-demo", {}, "the objective jepa is for SLIM-Brain; neurostorm-demo is none"),
    ],
)
def test_latent_space_is_for_slim_brain_alone(
    card, material, tmp_path, name, settings, message
) -> None:
    start = draw_start(card if name == "slim-brain" else read_card(name), name="mine", seed=1)
    asked = Pretraining(objective="jepa", **FEW, **settings)
    with pytest.raises(UsageError, match=message):
        pretrain(material, start=start, settings=asked, plan=PLAN, out=tmp_path / "out")
