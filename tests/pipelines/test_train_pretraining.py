"""Pre-training: each way to hide trains, the loss falls, and redundancy dropout is counted."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.pipelines.inputs import find_inputs
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.train.batches import Draw
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.contrastive import Contrastive
from neurostorm_app.pipelines.train.masks import Pretraining, make_atlas_map, with_masks
from neurostorm_app.pipelines.train.material import Material, draw_start, gather, open_start
from neurostorm_app.pipelines.train.pretraining import MaskedGuess, pretrain
from neurostorm_app.pipelines.train.settings import Plan

if TYPE_CHECKING:
    from neurostorm_app.models.card import Card

spec = importlib.util.spec_from_file_location(
    "train_cohort", Path(__file__).parents[1] / "train_cohort.py"
)
assert spec is not None
assert spec.loader is not None
cohort: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cohort)

PLAN = Plan(steps=8, batch=2, rate=5e-3, validate_every=4, seed=3)
FEW = {"validation": 0.34, "validation_windows": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    cohort.write_model(folder / "tiny")
    cohort.write_cohort(folder / "deriv", people=6, runs=2)
    return folder


@pytest.fixture(scope="module")
def card(place) -> Card:
    return read_card(str(place / "tiny"))


@pytest.fixture(scope="module")
def material(place, card) -> Material:
    runs = []
    for bold in sorted((place / "deriv").glob("sub-*/func/*_bold.nii.gz")):
        mask = bold.with_name(bold.name.replace("desc-preproc_bold", "desc-brain_mask"))
        name = bold.name.partition("_space")[0]
        run = StandardSeries(
            name=name, bold=bold, mask=mask, confounds=None, tr=2.0,
            space="MNI152NLin6Asym", res="2",
        )  # fmt: skip
        runs.append((name.split("_")[0], run))
    return gather(runs, CacheRecipe(contract=card.contract), place / "cache", device="cpu")[1]


def start_of(card: Card):
    return open_start(card, find_inputs(card), name="mine")


@pytest.fixture
def atlas(place, tmp_path) -> Path:
    import nibabel as nib

    mask = nib.load(next((place / "deriv").glob("sub-*/func/*_mask.nii.gz")))
    grid = np.indices(mask.shape)
    path = tmp_path / "atlas.nii.gz"
    labels = (1 + (grid[0] > 7) + 2 * (grid[1] > 7)) * (mask.get_fdata() > 0)
    nib.save(nib.Nifti1Image(labels.astype(np.int16), mask.affine), path)
    return path


def test_the_loss_falls_and_the_model_is_like_any_other(card, material, tmp_path):
    ending = pretrain(
        material, start=start_of(card), settings=Pretraining(**FEW), plan=PLAN, out=tmp_path / "out"
    )
    first, last = (row["loss"] for row in ending.outcome.validations)
    assert last < first
    model = create_model(str(tmp_path / "out"))
    assert isinstance(model, NeuroStormMae)
    again = read_card(str(tmp_path / "out"))
    assert (again.architecture, again.layout, again.demo) == ("neurostorm-mae", "2026-05", False)
    assert "by its user on their own data, from tiny" in again.summary


@pytest.mark.parametrize(
    ("space", "time"),
    [
        ("window", "random"),
        ("window", "tube"),
        ("random", "random"),
        ("random", "tube"),
        ("atlas", "random"),
    ],
)
def test_each_of_the_five_schemes_has_a_loss_and_gradients(space, time, card, material, atlas):
    settings = Pretraining(spatial_mask=space, time_mask=time, mask_ratio=0.5, **FEW)
    model = with_masks(start_of(card), settings, atlas if space == "atlas" else None)
    task = MaskedGuess(model, material, settings, seed=1)
    draw = Draw(seed=1, step=0, batch=2)
    loss = task(draw, task.load(draw))
    loss.backward()
    token = getattr(model, model.scheme.token_name)
    assert torch.isfinite(loss)
    assert token.grad is not None
    assert token.grad.abs().sum() > 0
    assert task(draw, task.load(draw)).item() == loss.item()


def test_an_atlas_is_laid_on_the_patches(card, atlas):
    import nibabel as nib

    model = create_model(card)
    assert isinstance(model, NeuroStormMae)
    regions = make_atlas_map(atlas, card.contract, model.config)
    assert regions.shape == (8, 8, 8)
    assert set(regions.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert regions[2, 2, 4] == 1.0
    assert regions[5, 2, 4] == 2.0
    assert regions[5, 5, 4] == 4.0
    image = nib.load(atlas)
    labels = np.asarray(image.dataobj).copy()
    labels[4:6, 4:6, 8:10] = [[[9, 7], [7, 9]], [[9, 7], [7, 7]]]  # most voxels of the patch are 7
    nib.save(nib.Nifti1Image(labels, image.affine), atlas)
    assert make_atlas_map(atlas, card.contract, model.config)[2, 2, 4] == 7.0
    with pytest.raises(UsageError, match="neither the weights nor an atlas say where"):
        with_masks(start_of(card), Pretraining(spatial_mask="atlas"))


def test_a_training_goes_on_only_with_the_atlas_it_began_with(card, material, atlas, tmp_path):
    import nibabel as nib

    settings = Pretraining(spatial_mask="atlas", mask_ratio=0.5, **FEW)
    plan = Plan(steps=1, batch=2, validate_every=1)
    how = {"settings": settings, "plan": plan, "out": tmp_path / "out", "atlas": atlas}
    pretrain(material, start=start_of(card), **how)
    image = nib.load(atlas)
    turned = np.asarray(image.dataobj)[:, :, ::-1].copy()
    turned[turned == 1] = 2
    nib.save(nib.Nifti1Image(turned, image.affine), atlas)
    with pytest.raises(UsageError, match=r"other settings began there.*atlas"):
        pretrain(material, start=start_of(card), **how)


def test_an_atlas_that_misses_the_brain_is_refused(card, atlas, tmp_path):
    import nibabel as nib

    image = nib.load(atlas)
    affine = image.affine.copy()
    affine[:3, 3] += 5000
    nib.save(nib.Nifti1Image(image.get_fdata().astype(np.int16), affine), tmp_path / "far.nii.gz")
    model = create_model(card)
    assert isinstance(model, NeuroStormMae)
    with pytest.raises(DataError, match="0 regions lie in the windows of the network"):
        make_atlas_map(tmp_path / "far.nii.gz", card.contract, model.config)


@pytest.mark.parametrize("variant", ["paper", "upstream"])
def test_redundancy_dropout_acts_in_training_alone_and_is_told(variant, card, material):
    settings = Pretraining(redundancy=variant, strength=20.0, **FEW)
    task = MaskedGuess(with_masks(start_of(card), settings), material, settings, seed=1)
    plain = MaskedGuess(
        with_masks(start_of(card), Pretraining(**FEW)), material, Pretraining(**FEW), seed=1
    )
    draw = Draw(seed=1, step=0, batch=2)
    task.train()
    plain.train()
    loaded = task.load(draw)
    losses = [task(draw, loaded).item(), task(draw, loaded).item(), plain(draw, loaded).item()]
    assert losses[0] == losses[1] != losses[2]
    assert "% dropped" in task.said
    assert task.said == plain.said == ""
    task.eval()
    plain.eval()
    assert task.validate() == plain.validate()


@pytest.mark.parametrize("kind", [1, 2])
def test_contrastive_training_learns_and_leaves_an_encoder(kind, card, material, tmp_path):
    settings = Pretraining(objective="contrastive", kind=kind, validation=0.34)
    plan = Plan(steps=6, batch=4, rate=5e-3, validate_every=3)
    ending = pretrain(
        material, start=start_of(card), settings=settings, plan=plan, out=tmp_path / "out"
    )
    assert np.isfinite(ending.outcome.best["loss"])
    assert ending.card.architecture == "neurostorm"
    model = create_model(str(tmp_path / "out"))
    assert not isinstance(model, NeuroStormMae)
    assert model.embed(torch.randn(1, 1, 16, 16, 16, 4)).shape == (1, 32)


def test_the_two_windows_are_of_two_runs_of_different_people(card, material):
    settings = Pretraining(objective="contrastive", validation=0.34)
    model = create_model(card)
    task = Contrastive(model, material, settings, Plan(batch=4))
    draw = Draw(seed=1, step=0, batch=4)
    first, second = task.load(draw)
    assert first.shape == second.shape == (4, 1, 16, 16, 16, 4)
    assert not any(torch.equal(one, other) for one in first for other in second)
    with pytest.raises(UsageError, match="tells participants apart"):
        Contrastive(model, material, settings, Plan(batch=1))
    with pytest.raises(UsageError, match="two participants or more to validate by"):
        Contrastive(model, material, Pretraining(validation=0.1), Plan(batch=2))


def test_from_scratch_takes_the_shape_that_is_asked_for(card, material, tmp_path):
    start = draw_start(card, name="mine", seed=1, config={"embed_dim": 8})
    assert torch.equal(
        next(start.model.parameters()),
        next(draw_start(card, name="x", seed=1, config={"embed_dim": 8}).model.parameters()),
    )
    plan = Plan(steps=2, batch=2, validate_every=2)
    ending = pretrain(
        material, start=start, settings=Pretraining(**FEW), plan=plan, out=tmp_path / "out"
    )
    assert ending.card.dimension == 64
    assert ending.card.licence == "Apache-2.0"
    assert "from scratch" in ending.card.summary
    with pytest.raises(UsageError, match="makes windows of"):
        draw_start(card, name="mine", seed=1, config={"img_size": [32, 32, 32, 4]})
    vit = read_card("brainlm-111m")
    with pytest.raises(UsageError, match="cannot be trained from scratch here"):
        draw_start(vit, name="mine", seed=1)


def test_brainlm_guesses_through_its_own_way(tmp_path):
    brainlm = read_card("brainlm-demo")
    start = open_start(brainlm, find_inputs(brainlm), name="mine")
    rng = np.random.default_rng(0)

    class Run:
        key, n_volumes, xyz = "k", 120, rng.normal(0, 30, (100, 3)).astype(np.float32)

        def window(self, start, length):
            del start
            return np.random.default_rng(1).normal(size=(100, length)).astype(np.float32)

    material = Material(people=((Run(),),) * 4, recipe=CacheRecipe(contract=brainlm.contract))  # type: ignore[arg-type]
    settings = Pretraining(validation=0.25, validation_windows=1, mask_ratio=0.3)
    plan = Plan(steps=2, batch=2, validate_every=2)
    ending = pretrain(material, start=start, settings=settings, plan=plan, out=tmp_path / "out")
    assert ending.card.demo
    assert ending.card.architecture == "brainlm"
    assert create_model(str(tmp_path / "out")).config.mask_ratio == 0.3
    wrong = Pretraining(spatial_mask="window")
    with pytest.raises(UsageError, match="it knows no spatial_mask"):
        with_masks(start, wrong)
    with pytest.raises(UsageError, match="acts on NeuroSTORM's blocks"):
        MaskedGuess(start.model, material, Pretraining(redundancy="paper"), seed=1)
    with pytest.raises(UsageError, match="the contrastive objective is for NeuroSTORM"):
        pretrain(
            material, start=start, settings=Pretraining(objective="contrastive"), plan=plan,
            out=tmp_path,
        )  # fmt: skip


def test_what_cannot_be_hidden_or_guessed_is_said(card, material, tmp_path):
    with pytest.raises(UsageError, match="the mask ratio is 1"):
        Pretraining(mask_ratio=1.0)
    with pytest.raises(UsageError, match="nobody can be validated by 0 windows"):
        Pretraining(validation_windows=0)
    contrast = Pretraining(objective="contrastive", validation=0.34)
    plan = Plan(steps=1, batch=2, validate_every=1)
    pretrain(material, start=start_of(card), settings=contrast, plan=plan, out=tmp_path / "enc")
    encoder = read_card(str(tmp_path / "enc"))
    start = open_start(encoder, find_inputs(encoder), name="other")
    with pytest.raises(UsageError, match="has no decoder, so it cannot guess"):
        with_masks(start, Pretraining())


def test_runs_that_cannot_be_used_are_counted(card, place):
    recipe = CacheRecipe(contract=card.contract)
    gone = StandardSeries(
        name="sub-x", bold=place / "none.nii.gz", mask=None, confounds=None, tr=2.0,
        space="MNI152NLin6Asym", res="2",
    )  # fmt: skip
    with pytest.raises(DataError, match="none of 1 runs can be trained on; the first"):
        gather([("x", gone)], recipe, place / "cache", device="cpu")
