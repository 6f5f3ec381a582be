"""A small tokenizer of fMRI-LM trained on runs made here: what its codes keep, and of whom."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.pipelines.train.batches import Draw
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.cache_file import open_cached, write_cached
from neurostorm_app.pipelines.train.codes import CodeLearning
from neurostorm_app.pipelines.train.masks import Pretraining
from neurostorm_app.pipelines.train.matching import find_hits
from neurostorm_app.pipelines.train.material import Material, draw_start
from neurostorm_app.pipelines.train.pretraining import pretrain
from neurostorm_app.pipelines.train.settings import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.train.export import Ending

N_PARCELS, WINDOW, PATCH, LENGTH = 24, 32, 8, 96
GROUPS, NOISE = 6, 0.5
PEOPLE, NEW = 10, 12
CONFIG: dict[str, Any] = {
    "width": 24, "depth": 1, "heads": 2, "n_parcels": N_PARCELS, "n_volumes": WINDOW,
    "patch": PATCH, "n_codes": 48, "code_width": 8,
}  # fmt: skip
PLAN = Plan(steps=120, batch=4, rate=8e-3, validate_every=60, checkpoint_every=40, seed=3)
FEW = Pretraining(objective="codes", validation=0.2, validation_windows=2)


def planted(person: int, run: int) -> NDArray[np.float32]:
    """Draw a run: which parcels share a signal is the participant's own, (V, T)."""
    own = np.random.default_rng(person).integers(GROUPS, size=N_PARCELS)
    rng = np.random.default_rng((person, run + 1))
    shared = gaussian_filter1d(rng.normal(size=(GROUPS, LENGTH)), 1.5, axis=1)
    shared /= shared.std(axis=1, keepdims=True)
    series = shared[own] + NOISE * rng.normal(size=(N_PARCELS, LENGTH))
    low, middle, high = np.percentile(series, [25, 50, 75], axis=1, keepdims=True)
    return ((series - middle) / (high - low)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Let so small a network not wait for other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def card() -> Card:
    full = read_card("fmri-lm")
    change = {"n_parcels": N_PARCELS, "window": WINDOW, "stride": WINDOW, "shortest": None}
    contract = full.contract.model_copy(update=change)
    return full.model_copy(update={"config": CONFIG, "dimension": 24, "contract": contract})


@pytest.fixture(scope="module")
def material(card, tmp_path_factory) -> Material:
    folder, people = tmp_path_factory.mktemp("cache"), []
    for person in range(PEOPLE):
        runs = []
        for run in range(2):
            path, rows = folder / f"{person}-{run}.windows", planted(person, run).T
            header = {"key": path.stem, "dtype": "float32", "xyz": None, "background": 0.0}
            header |= {"shape": rows.shape[1:], "n_values": N_PARCELS, "n_volumes": LENGTH}
            write_cached(path, header, np.empty(0, dtype=np.int32), rows)
            runs.append(open_cached(path))
        people.append(tuple(runs))
    recipe = CacheRecipe(contract=card.contract, dtype="float32")
    return Material(people=tuple(people), recipe=recipe)


@pytest.fixture(scope="module")
def trained(card, material, tmp_path_factory) -> Ending:
    start = draw_start(card, name="mine", seed=1, demo=True)
    out = tmp_path_factory.mktemp("training") / "mine"
    return pretrain(material, start=start, settings=FEW, plan=PLAN, out=out)


def share_codes(model: LmTokenizer, series: NDArray[np.float32]) -> Tensor:
    """Count how often each two parcels have the same code at the same time, (V * V,)."""
    windows = torch.from_numpy(series).unfold(1, WINDOW, WINDOW).permute(1, 0, 2)
    with torch.no_grad():
        codes = model.quantise(windows).codes.reshape(len(windows), N_PARCELS, -1)
    at = codes.permute(0, 2, 1).flatten(0, 1)
    return (at[:, :, None] == at[:, None]).float().mean(dim=0).flatten()


def test_a_tokenizer_learns_codes_and_becomes_a_model_like_any_other(trained) -> None:
    first, last = trained.outcome.validations
    assert last["loss"] < first["loss"]
    assert trained.outcome.best["explained"] > 0.3
    assert trained.outcome.best["codes"] >= 10
    made = trained.card
    assert (made.architecture, made.dimension, made.demo) == ("fmri-lm", 24, True)
    assert made.config["n_codes"] == 48
    assert any("the first stage of fMRI-LM without its texts" in limit for limit in made.limits)
    assert any("plus the distance from the codebook" in limit for limit in made.limits)
    model = create_model(str(trained.folder))
    assert isinstance(model, LmTokenizer)
    assert bool(model.quantize.embedding.initted.all())
    assert float(model.quantize.cluster_size.sum()) > 0
    rows = model.quantize.embedding.weight
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(48))


def test_its_untrained_twin_has_its_shape_and_other_values(trained) -> None:
    twin = read_card(f"{trained.folder}-untrained")
    assert (twin.name, twin.control) == ("mine-untrained", True)
    network, model = create_model(twin), create_model(str(trained.folder))
    assert isinstance(network, LmTokenizer)
    assert not bool(network.quantize.embedding.initted.any())
    assert network.state_dict().keys() == model.state_dict().keys()
    window = torch.from_numpy(planted(0, 0)[None, :, :WINDOW])
    assert (network.embed(window) - model.embed(window)).abs().max() > 1e-2


def test_tokens_of_a_participant_are_closer_than_those_of_others(trained) -> None:
    """The new participants were never seen; by chance the nearest run is theirs 1 time in 23."""
    model = create_model(str(trained.folder))
    assert isinstance(model, LmTokenizer)
    runs = [(person, run) for person in range(500, 500 + NEW) for run in range(2)]
    shares = torch.stack([share_codes(model, planted(*one)) for one in runs])
    people = [person for person, _ in runs]
    assert find_hits(shares.numpy(), people).mean() > 0.9
    apart = torch.cdist(shares, shares).numpy()
    own = np.equal.outer(people, people)
    np.fill_diagonal(apart, np.nan)
    assert np.nanmean(apart[own]) < 0.7 * np.nanmean(apart[~own])


def test_a_training_that_breaks_off_goes_on_to_the_same_codebook(
    trained, card, material, tmp_path, monkeypatch
) -> None:
    forward = CodeLearning.forward

    def break_off(self: CodeLearning, draw: Draw, loaded: list[Tensor]) -> Tensor:
        loss = forward(self, draw, loaded)
        return loss * float("nan") if draw.step == 70 else loss

    out = tmp_path / "mine"
    with monkeypatch.context() as patch:
        patch.setattr(CodeLearning, "forward", break_off)
        start = draw_start(card, name="mine", seed=1, demo=True)
        with pytest.raises(DataError, match="which is no number to go on from"):
            pretrain(material, start=start, settings=FEW, plan=PLAN, out=out)
    start = draw_start(card, name="mine", seed=1, demo=True)
    pretrain(material, start=start, settings=FEW, plan=PLAN, out=out)
    weights = "weights.safetensors"
    assert (out / weights).read_bytes() == (trained.folder / weights).read_bytes()


def test_codes_are_learnt_in_half_the_bits_too(card, material, tmp_path) -> None:
    plan = replace(PLAN, steps=20, validate_every=10, precision="bf16")
    start = draw_start(card, name="mine", seed=1, demo=True)
    ending = pretrain(material, start=start, settings=FEW, plan=plan, out=tmp_path / "mine")
    first, last = ending.outcome.validations
    assert last["loss"] < first["loss"]
    assert last["codes"] >= 5


def test_validation_changes_nothing(card, material) -> None:
    start = draw_start(card, name="mine", seed=1)
    task = CodeLearning(start, material, FEW, PLAN)
    draw = Draw(seed=1, step=0, batch=2)
    task.train()
    task(draw, task.load(draw))
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task.eval()
    assert task.validate() == task.validate()
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "mae"}, "tells whole windows by codes; nothing is hidden from it"),
        ({"objective": "contrastive"}, "the contrastive objective is for NeuroSTORM; fmri-lm"),
        ({"mask_ratio": 0.5}, "the objective codes hides nothing: it takes no masks"),
        ({"redundancy": "paper"}, "redundancy dropout acts on NeuroSTORM's blocks; LmTokenizer"),
    ],
)
def test_what_a_tokenizer_cannot_be_asked_is_refused(
    card, material, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    start = draw_start(card, name="mine", seed=1)
    settings = replace(FEW, **change)
    with pytest.raises(UsageError, match=message):
        pretrain(material, start=start, settings=settings, plan=PLAN, out=tmp_path / "out")


def test_codes_are_for_tokenizers_of_the_windows_of_their_contract(
    card, material, tmp_path: Path
) -> None:
    other = draw_start(read_card("brainlm-demo"), name="mine", seed=1)
    with pytest.raises(UsageError, match="the objective codes is for fMRI-LM's tokenizer; brainlm"):
        pretrain(material, start=other, settings=FEW, plan=PLAN, out=tmp_path / "out")
    for wrong in ({"n_parcels": 100}, {"n_volumes": 64}):
        with pytest.raises(UsageError, match="the contract of fmri-lm makes windows of"):
            draw_start(card, name="mine", seed=1, config=wrong)
