"""A small MinD-Vis trained on runs made here: what it learns, and what the model of it says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import torch

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models import create_model, read_card
from neurostorm_app.models.card import VoxelContract
from neurostorm_app.models.mind_vis import MindVis
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.train.batches import Draw
from neurostorm_app.pipelines.train.cache import CacheRecipe
from neurostorm_app.pipelines.train.masks import Pretraining
from neurostorm_app.pipelines.train.material import Material, Start, draw_start, gather
from neurostorm_app.pipelines.train.pretraining import MaskedGuess, pretrain
from neurostorm_app.pipelines.train.settings import Plan

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.models.card import Card

SIDE, STEP, TR, N = 14, 12.0, 2.0, 24
PEOPLE, VOXELS = 6, 128
AFFINE = np.array([[STEP, 0, 0, -80], [0, STEP, 0, -110], [0, 0, STEP, -70], [0, 0, 0, 1.0]])
CONTRACT = VoxelContract(space="MNI152NLin6Asym", atlas="some", labels=(1, 2), n_voxels=VOXELS)
CONFIG: dict[str, Any] = {
    "num_voxels": VOXELS, "embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 12,
    "decoder_depth": 1, "decoder_num_heads": 2, "mask_ratio": 0.5,
}  # fmt: skip
PLAN = Plan(steps=60, batch=4, rate=1e-2, validate_every=20, seed=3)
FEW = {"validation": 0.34, "validation_windows": 2}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory) -> Path:
    image = np.zeros((SIDE,) * 3, dtype=np.int16)
    image[4:8, 2:6, 4:8] = 1
    image[8:12, 2:6, 4:8] = 2
    path = tmp_path_factory.mktemp("atlas") / "atlas.nii.gz"
    nib.save(nib.Nifti1Image(image, AFFINE), path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[tuple[str, StandardSeries]]:
    """Plant a smooth map of each person, of which their two runs are noisy copies."""
    folder, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(1)
    i, j, k = np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij")
    found = []
    for person in range(PEOPLE):
        waves = rng.uniform(0.3, 0.9, 3), rng.uniform(0, 6, 2)
        own = np.sin(waves[0][0] * i + waves[1][0]) * np.cos(waves[0][1] * j + waves[1][1])
        own += np.sin(waves[0][2] * k)
        for number in range(2):
            noise = rng.normal(0, 60, (*own.shape, N))
            data = (1000 + 100 * own[..., None] + noise).astype(np.float32)
            name = f"sub-{person}_run-{number}"
            bold, mask = folder / f"{name}.nii.gz", folder / f"{name}_mask.nii.gz"
            nib.save(nib.Nifti1Image(data, AFFINE), bold)
            nib.save(nib.Nifti1Image(np.ones(own.shape, dtype=np.uint8), AFFINE), mask)
            run = StandardSeries(
                name=name, bold=bold, mask=mask, confounds=None, tr=TR, space="MNI152NLin6Asym",
                res="2",
            )  # fmt: skip
            found.append((f"sub-{person}", run))
    return found


@pytest.fixture(scope="module")
def card() -> Card:
    full = read_card("mind-vis")
    return full.model_copy(update={"contract": CONTRACT, "config": CONFIG, "dimension": 16})


@pytest.fixture(scope="module")
def material(runs, atlas, tmp_path_factory) -> Material:
    recipe = CacheRecipe(contract=CONTRACT, atlas=atlas, dtype="float32")
    return gather(runs, recipe, tmp_path_factory.mktemp("cache"), device="cpu")[1]


def test_blocks_are_kept_as_they_are_embedded(material) -> None:
    run = material.people[0][0]
    assert material.recipe.window == 1
    assert run.window(0, 6).shape == (VOXELS, 6)  # blocks of four volumes
    assert run.window(0, 6).std() == pytest.approx(1, abs=1e-3)


def count_hits(vectors: torch.Tensor) -> int:
    """Count whose second run is the nearest of all second runs to the first."""
    nearest = torch.cdist(vectors[0::2], vectors[1::2]).argmin(dim=1)
    return int((nearest == torch.arange(PEOPLE)).sum())


def test_a_small_model_learns_and_knows_people_as_rows_and_random_weights_do(
    card, material, runs, atlas, tmp_path
) -> None:
    start = draw_start(card, name="mine", seed=1, demo=True)
    assert isinstance(start.model, MindVis)
    out = tmp_path / "mine"
    ending = pretrain(material, start=start, settings=Pretraining(**FEW), plan=PLAN, out=out)
    losses = [row["loss"] for row in ending.outcome.validations]
    assert min(losses) < 0.9  # a guess of 0 has an error of 1
    made = ending.card
    assert (made.architecture, made.dimension, made.demo) == ("mind-vis", 16, True)
    assert any("Experimental: a masked autoencoder of voxels" in limit for limit in made.limits)
    embedder = load_embedder(str(out), atlas=atlas)
    vectors = torch.from_numpy(np.stack([embedder.embed(run).pooled for _, run in runs]))
    assert count_hits(vectors) >= 4  # by chance one of six
    # Rows of voxels and random weights know them too: this shows no learning, the error does.
    rows = [one.window(0, 6).mean(axis=1) for person in material.people for one in person]
    assert count_hits(torch.from_numpy(np.stack(rows))) >= 4
    twin = load_embedder(read_card(f"{out}-untrained"), atlas=atlas)
    drawn = torch.from_numpy(np.stack([twin.embed(run).pooled for _, run in runs]))
    assert count_hits(drawn) >= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_mask": "tube"}, "MinD-Vis hides single tokens; it knows no spatial_mask"),
        ({"redundancy": "paper"}, "redundancy dropout acts on NeuroSTORM's blocks; MindVis has"),
        ({"objective": "contrastive"}, "the contrastive objective is for NeuroSTORM; mind-vis"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(card, material, tmp_path, change, message) -> None:
    start = draw_start(card, name="mine", seed=1)
    settings = Pretraining(**FEW, **change)
    with pytest.raises(UsageError, match=message):
        pretrain(material, start=start, settings=settings, plan=PLAN, out=tmp_path / "out")


def test_rows_are_mixed_while_it_learns_and_not_while_it_is_judged(
    card, material, tmp_path
) -> None:
    start = draw_start(card, name="mixed", seed=1)
    same, mixed = (
        MaskedGuess(start.model, material, Pretraining(mix=share, **FEW), seed=3)
        for share in (0.0, 0.3)
    )
    draw = Draw(seed=3, step=1, batch=6)
    losses = [float(task(draw, task.load(draw)).detach()) for task in (same, mixed)]
    assert losses[0] != losses[1]
    assert same.validate() == mixed.validate()
    with pytest.raises(UsageError, match="rows of voxels cannot be mixed by a share of 1"):
        Pretraining(mix=1.0)
    brainlm = read_card("brainlm-demo")
    network = create_model(brainlm)
    with pytest.raises(UsageError, match="rows of voxels are mixed; BrainLmNative takes none"):
        MaskedGuess(network, material, Pretraining(mix=0.3, **FEW), seed=3)


def test_an_encoder_alone_has_nothing_to_learn_by(card, material, runs, atlas, tmp_path) -> None:
    whole = draw_start(card, name="mine", seed=1)
    model = MindVis(whole.model.config.without_decoder())
    start = Start(name="mine", card=card, model=model, sha256="0" * 64)
    with pytest.raises(UsageError, match="mind-vis has no decoder, so it cannot guess"):
        pretrain(material, start=start, settings=Pretraining(**FEW), plan=PLAN, out=tmp_path / "o")
    path = tmp_path / "fmri_encoder.pth"
    torch.save({"model": model.state_dict()}, path)
    found = load_embedder(card, weights=path, atlas=atlas).embed(runs[0][1])
    assert found.conformance["reconstruction_error"] is None


def test_voxels_need_a_label_image(runs, tmp_path) -> None:
    recipe = CacheRecipe(contract=CONTRACT)
    with pytest.raises(DataError, match="no parcellation was given to make its parcels from"):
        gather(runs[:1], recipe, tmp_path / "cache", device="cpu")
    whole = replace(recipe, contract=CONTRACT.model_copy(update={"n_voxels": None}))
    assert whole.window == 1
