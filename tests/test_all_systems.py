"""Every system on one real scan, by the command line, with weights that say that they are random.

Nobody's weights are here. Each network is drawn in its released shape and written as its authors'
files are laid out, with a card that says what it is: so must everything that comes of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from neurostorm_app.bids_app.cli import main
from neurostorm_app.models import create_model, read_card

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # four minutes of one core

RUN = "sub-02_task-oneback_run-1"
SPACE = "space-MNI152NLin6Asym_res-2"
N_VOLUMES, TR = 80, 2.0
SAID = "RANDOM WEIGHTS, drawn for a test: they were trained on nothing."
LABELS = {
    "slim-brain": "slimBrainRandom",
    "fmri-lm": "fmriLmRandom",
    "mind-vis": "mindVisRandom",
    "brainlm": "brainlmRandom",
    "neurostorm": "neurostormRandom",
}
WINDOWS = {"slim-brain": 6, "fmri-lm": 2, "brainlm": 2, "neurostorm": 10}
"""Of the whole run, of models that have windows of several volumes."""


def write_weights(name: str, path: Path) -> None:
    """Write a network's random weights as upstream lays its file out."""
    state = create_model(f"{name}-untrained").state_dict()
    config = dict(read_card(name).config or {})
    if name == "slim-brain":
        decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 512)}
        torch.save({"epoch": 39, "model_state_dict": {**state, **decoder}}, path)
    elif name == "neurostorm":
        prefixed = {f"model.{key}": value for key, value in state.items()}
        torch.save({"state_dict": prefixed, "hyper_parameters": config}, path)
    elif name == "mind-vis":
        torch.save({"model": state, "epoch": 499, "optimizer": {"state": {}}}, path)
    elif name == "fmri-lm":
        state["quantize.embedding.initted"].fill_(1)  # a codebook that was never filled is refused
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Make a folder of each model: the weights, and a card that says what they are."""
    root, made = tmp_path_factory.mktemp("models"), {}
    for name, label in LABELS.items():
        card = read_card(name)
        folder = root / name
        folder.mkdir()
        file = folder / str(card.file or f"{name}.pth").rpartition("/")[2]
        write_weights(name, file)
        contract: Any = card.contract
        if name == "fmri-lm":  # 450 blocks of the brain stand for its parcels
            contract = contract.model_copy(update={"atlas": "Blocks450"})
        own = card.model_copy(
            update={
                "name": f"{name}-random", "label": label, "title": f"{card.title} ({SAID})",
                "version": "random", "demo": True, "source": None, "file": file.name,
                "embedded": False, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "size": file.stat().st_size, "licence": "Apache-2.0", "commercial_use": True,
                "output": None, "expected_error": None, "limits": (SAID,), "contract": contract,
            }
        )  # fmt: skip
        (folder / "card.yaml").write_text(yaml.safe_dump(own.model_dump(mode="json")))
        made[name] = folder
    return made


@pytest.fixture(scope="module")
def derivative(shared, tmp_path_factory) -> Path:
    """Play the real scan forwards and backwards: 80 volumes in MNI space, as a derivative."""
    source, root = shared / "data/studyforrest-sub02-mni", tmp_path_factory.mktemp("deriv")
    shutil.copy(source / "dataset_description.json", root)
    func, names = root / "sub-02" / "func", f"{RUN}_{SPACE}_desc"
    func.mkdir(parents=True)
    image = nib.load(source / "sub-02/func" / f"{names}-preproc_bold.nii.gz")
    data = np.asarray(image.dataobj, dtype=np.float32)
    longer = nib.Nifti1Image(np.concatenate([data, data[..., ::-1]], axis=3), image.affine)
    longer.header.set_xyzt_units("mm", "sec")
    longer.header.set_zooms((2.0, 2.0, 2.0, TR))
    nib.save(longer, func / f"{names}-preproc_bold.nii.gz")
    sidecar = source / "sub-02/func" / f"{names}-preproc_bold.json"
    shutil.copy(sidecar, func / sidecar.name)
    mask = f"{names}-brain_mask.nii.gz"
    shutil.copy(source / "sub-02/func" / mask, func / mask)
    return root


@pytest.fixture(scope="module")
def blocks(derivative, tmp_path_factory) -> Path:
    """Cut the brain into 450 blocks: nobody's parcellation, and of the right number."""
    image = nib.load(derivative / f"sub-02/func/{RUN}_{SPACE}_desc-brain_mask.nii.gz")
    brain = np.asarray(image.dataobj) > 0.5
    labels = np.zeros(brain.shape, dtype=np.int16)
    labels[brain] = 1 + np.arange(brain.sum()) * 450 // brain.sum()
    path = tmp_path_factory.mktemp("atlas") / "blocks.nii.gz"
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    return path


@pytest.fixture(scope="module")
def out(shared, models, derivative, blocks, tmp_path_factory) -> Path:
    """Call the app once, with all models."""
    out = tmp_path_factory.mktemp("out")
    a424 = shared / "golden/brainlm/atlas/A424+2mm.nii.gz"
    words = [shared / "data/studyforrest-sub02", out, "participant", "--skip-bids-validation"]
    words += ["-d", f"mine={derivative}", "--max-windows", 1, "--models", *models.values()]
    words += ["--atlas", f"fmri-lm-random={blocks}", f"brainlm-random={a424}"]
    assert main([str(word) for word in words]) == 0
    return out


def read(out: Path, name: str) -> dict[str, Any]:
    path = out / f"sub-02/func/{RUN}_{SPACE}_desc-{LABELS[name]}_embedding.json"
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("name", LABELS)
def test_each_output_says_what_the_weights_are(out, models, name):
    sidecar, folder = read(out, name), models[name]
    file = next(path for path in folder.iterdir() if path.name != "card.yaml")
    assert sidecar["Model"]["WeightsSHA256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert sidecar["Demo"] is True
    assert sidecar["Description"].startswith("DEMO")
    assert SAID in sidecar["Description"]
    assert sidecar["Model"]["Limits"] == [SAID]
    vector = np.loadtxt(
        out / f"sub-02/func/{RUN}_{SPACE}_desc-{LABELS[name]}_embedding.tsv", skiprows=1
    )
    assert len(vector) == sidecar["EmbeddingDimension"] == read_card(name).dimension
    assert np.isfinite(vector).all()
    assert vector.std() > 1e-3


@pytest.mark.parametrize(("name", "n"), WINDOWS.items())
def test_the_most_salient_window_alone_was_embedded(out, name, n):
    sidecar = read(out, name)
    computation, told = sidecar["Computation"], sidecar["InputConformance"]["salience"]
    assert (computation["n_windows"], computation["max_windows"]) == (1, 1)
    assert len(told["scores"]) == n
    # Forwards and backwards, the first window and the last tell the same: either may be taken.
    # Two windows that overlap have nothing to be judged by.
    judged = [score for score in told["scores"] if score is not None]
    assert told["scores"][told["chosen"][0]] == max(judged, default=None)
    assert len(told["chosen"]) == 1
    assert computation["starts"] == [told["starts_of_all"][told["chosen"][0]]]
    assert told["saved"] == pytest.approx(1 - 1 / n, abs=1e-4)
    assert told["selector"].startswith("ours, no training")


def test_voxels_have_no_windows_to_choose_from(out):
    sidecar = read(out, "mind-vis")
    assert sidecar["InputConformance"]["without_meaning_for_voxels"] == {"max_windows": 1}
    assert sidecar["Computation"]["n_windows"] == N_VOLUMES * TR / 8


def test_the_page_of_the_participant_names_all_of_them(out):
    page = (out / "sub-02.html").read_text()
    for name, label in LABELS.items():
        assert label in page, name
    assert SAID in page
    assert "1 of 6, those that tell most of the others" in page
