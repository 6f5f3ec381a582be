"""Tier E: fMRIPrep and sMRIPrep find in our folder what they would not compute again."""

from __future__ import annotations

import re

import pytest
from fmriprep.utils.bids import collect_derivatives as collect_bold
from smriprep.utils.bids import collect_derivatives as collect_anat


@pytest.fixture(scope="module")
def entities(tree, subject):
    name = min((tree / f"sub-{subject}").rglob("*_desc-hmc_boldref.nii.gz")).name
    found = dict(re.findall(r"(ses|task|acq|dir|run)-([a-zA-Z0-9]+)", name))
    long = {"ses": "session", "acq": "acquisition", "dir": "direction"}
    named = {long.get(key, key): value for key, value in found.items()}
    if "run" in named:
        named["run"] = int(named["run"])
    return {"subject": subject, "suffix": "bold", "extension": ".nii.gz"} | named


def test_the_fit_of_a_run_is_found(tree, entities):
    found = collect_bold(tree, entities)
    assert found["hmc_boldref"].endswith("desc-hmc_boldref.nii.gz")
    assert found["coreg_boldref"].endswith("desc-coreg_boldref.nii.gz")
    assert found["transforms"]["hmc"].endswith("desc-hmc_xfm.txt")
    assert found["transforms"]["boldref2anat"].endswith("desc-coreg_xfm.txt")


@pytest.mark.parametrize("space", ["MNI152NLin6Asym", "MNI152NLin2009cAsym"])
def test_the_anatomy_is_found(space, tree, subject):
    if not list((tree / f"sub-{subject}").rglob(f"*_from-T1w_to-{space}_*xfm.h5")):
        pytest.skip(f"{tree} has no transforms to {space}")
    found = collect_anat(tree, subject, [space])
    assert {"t1w_preproc", "t1w_mask", "t1w_dseg", "t1w_tpms"} <= set(found)
    assert len(found["t1w_tpms"]) == 3
    assert set(found["transforms"][space]) >= {"forward", "reverse"}
