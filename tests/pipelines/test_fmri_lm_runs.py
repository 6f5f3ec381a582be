"""fMRI-LM's tokenizer on runs: from a file of weights and a label image to vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neurostorm_app.errors import MissingWeightsError, SeriesTooShortError
from neurostorm_app.models import read_card
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.models.fmri_lm_files import LmConfig
from neurostorm_app.pipelines.embed import load_embedder
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.regrid import onto_grid
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.templates import load_template

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.collect import RunEmbedding

SPACE = "MNI152NLin6Asym"
GRID = Grid.from_rows((16, 19, 16), [[-12, 0, 0, 90], [0, 12, 0, -126], [0, 0, 12, -72]])
N_PARCELS, WINDOW, PATCH, TR = 6, 32, 8, 2.0
CONFIG: dict[str, Any] = {
    "width": 16,
    "depth": 1,
    "heads": 2,
    "n_parcels": N_PARCELS,
    "n_volumes": WINDOW,
    "patch": PATCH,
    "n_codes": 32,
    "code_width": 8,
}


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    mask, grid = read_volume(load_template(SPACE, "2").mask)
    return onto_grid(mask, grid, GRID) > 0.5


@pytest.fixture(scope="module")
def labels(brain) -> np.ndarray:
    """Cut the brain from left to right, as many voxels each."""
    found = np.zeros(GRID.shape, np.int16)
    numbers = np.arange(brain.sum()) * N_PARCELS // brain.sum()
    found[brain] = 1 + numbers
    return found


@pytest.fixture(scope="module")
def atlas(labels, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("atlas") / "six.nii.gz"
    nib.save(nib.Nifti1Image(labels, GRID.affine), path)
    return path


@pytest.fixture
def card() -> Card:
    card = read_card("fmri-lm")
    change = {
        "n_parcels": N_PARCELS,
        "window": WINDOW,
        "stride": WINDOW,
        "shortest": 2 * PATCH,
        "multiple": PATCH,
        "min_volumes": 10,
    }
    return card.model_copy(
        update={
            "config": CONFIG,
            "dimension": 16,
            "contract": card.contract.model_copy(update=change),
        }
    )


@pytest.fixture
def embed(card, atlas, labels, brain, tmp_path):
    """Write a run of the given parcel series, and embed it with weights of a file."""
    torch.manual_seed(3)
    state = LmTokenizer(LmConfig.of(CONFIG)).state_dict()
    state |= {"quantize.embedding.initted": torch.ones(1)}
    save_file(
        {name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors"
    )
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), GRID.affine), tmp_path / "mask.nii.gz")
    embedder = load_embedder(card, weights=tmp_path / "w.safetensors", atlas=atlas)

    def make(series: np.ndarray) -> RunEmbedding:
        data = np.zeros((*GRID.shape, series.shape[1]), np.float32)
        data[brain] = series[labels[brain] - 1]
        nib.save(nib.Nifti1Image(data, GRID.affine), tmp_path / "bold.nii.gz")
        run = StandardSeries(
            name="sub-01",
            bold=tmp_path / "bold.nii.gz",
            mask=tmp_path / "mask.nii.gz",
            confounds=None,
            tr=TR,
            space=SPACE,
            res="2",
        )
        return embedder.embed(run)

    make.model = embedder.model  # type: ignore[attr-defined]
    return make


def drawn(n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1000 + 50 * rng.normal(size=(N_PARCELS, 1)) + 8 * rng.normal(size=(N_PARCELS, n))


def test_the_vector_of_a_run_is_that_of_its_scaled_series(embed) -> None:
    series = drawn(2 * WINDOW)
    found = embed(series)
    lower, middle, upper = np.percentile(series, [25, 50, 75], axis=1, keepdims=True)
    scaled = torch.from_numpy((series - middle) / (upper - lower)).float()
    with torch.no_grad():
        windows = torch.stack([scaled[:, :WINDOW], scaled[:, WINDOW:]])
        expected = embed.model.embed(windows).mean(dim=0).numpy()
    np.testing.assert_allclose(found.pooled, expected, atol=1e-4)
    # Neither the unit of the scanner nor the mean of a parcel counts.
    again = embed(3 * series + 500)
    np.testing.assert_allclose(again.pooled, found.pooled, atol=1e-3)
    assert np.abs(embed(drawn(2 * WINDOW, seed=9)).pooled - found.pooled).max() > 1e-2


def test_a_shorter_run_gets_a_shorter_window_and_a_much_shorter_one_none(embed) -> None:
    found = embed(drawn(30))
    assert found.pooled.shape == (16,)
    with pytest.raises(SeriesTooShortError, match="the shortest window of the model has 16"):
        embed(drawn(14))


def test_without_weights_there_is_none_but_a_control(card, atlas) -> None:
    with pytest.raises(MissingWeightsError, match="the weights of fmri-lm are not on this machine"):
        load_embedder(card, atlas=atlas)
    control = read_card("fmri-lm-untrained").model_copy(update={"config": CONFIG})
    assert "random_weights_sha256" in load_embedder(control, atlas=atlas).hashes
