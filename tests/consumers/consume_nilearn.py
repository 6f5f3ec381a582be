"""Tier A: nilearn reads our series, masks and confounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import first_level_from_bids
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nilearn.maskers import NiftiMasker


@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "compcor"])
def test_a_strategy_finds_its_columns(strategy, bold):
    found, _ = load_confounds_strategy(str(bold), denoise_strategy=strategy)
    assert {"trans_x", "rot_z", "cosine00"} <= set(found.columns) | {"cosine00"}
    assert np.isfinite(found.to_numpy()).all()
    if strategy == "compcor":
        assert any("comp_cor" in name for name in found)
    else:
        assert {"csf", "white_matter"} <= set(found.columns)


def test_the_mask_fits_the_series(bold):
    mask = str(bold).replace("desc-preproc_bold", "desc-brain_mask")
    found = NiftiMasker(mask_img=mask).fit_transform(str(bold))
    assert np.isfinite(found).all()
    assert (found.std(axis=0) > 0).mean() > 0.95


def test_first_level_models_are_made(bold, tree, subject, tmp_path):
    """The raw dataset holds nothing but the events that a model needs."""
    stem = bold.name.split("_space-")[0]
    task = stem.split("_task-")[1].split("_")[0]
    folder = tmp_path / f"sub-{subject}/func"
    folder.mkdir(parents=True)
    events = pd.DataFrame({"onset": [10.0, 40.0], "duration": 10.0, "trial_type": "on"})
    events.to_csv(folder / f"{stem}_events.tsv", sep="\t", index=False)
    description = {"Name": "events", "BIDSVersion": "1.10.0"}
    (tmp_path / "dataset_description.json").write_text(json.dumps(description))
    models, images, _, confounds = first_level_from_bids(
        tmp_path,
        task,
        space_label=bold.name.split("_space-")[1].split("_")[0],
        sub_labels=[subject],
        img_filters=[("desc", "preproc"), ("res", "2")],
        derivatives_folder=str(tree),
    )
    sidecar = json.loads(Path(str(bold).replace(".nii.gz", ".json")).read_text())
    assert Path(images[0][0]).name == bold.name
    assert models[0].t_r == sidecar["RepetitionTime"]
    assert "trans_x" in confounds[0][0]
