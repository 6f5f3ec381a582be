"""Tier E: fMRIPrep and sMRIPrep find in our folder what they would not compute again."""

from __future__ import annotations

import re

import ants
import nibabel as nib
import numpy as np
import pytest
from fmriprep.interfaces.resampling import ReconstructFieldmap
from fmriprep.utils.bids import collect_derivatives as collect_bold
from fmriprep.utils.bids import collect_fieldmaps
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


@pytest.fixture(scope="module")
def fieldmap_id(tree, subject):
    found = sorted((tree / f"sub-{subject}").rglob("*_from-boldref_to-*_desc-fmap_xfm.txt"))
    if not found:
        pytest.skip(f"{tree} has no field maps")
    return re.search(r"_to-([a-zA-Z0-9]+)_", found[0].name)[1]


def test_the_field_map_is_found(fieldmap_id, tree, subject, entities):
    found = collect_fieldmaps(tree, {"subject": subject})[fieldmap_id]
    assert {"fieldmap", "coeffs", "magnitude"} <= set(found)
    run = collect_bold(tree, entities, fieldmap_id=fieldmap_id)
    name = f"from-boldref_to-{fieldmap_id}_mode-image_desc-fmap_xfm.txt"
    assert run["transforms"]["boldref2fmap"].endswith(name)


def test_the_field_is_reconstructed_from_our_coefficients(
    fieldmap_id, tree, subject, entities, tmp_path
):
    """FMRIPrep's node, as in its resampling of a series."""
    found = collect_fieldmaps(tree, {"subject": subject})[fieldmap_id]
    run = collect_bold(tree, entities, fieldmap_id=fieldmap_id)
    rebuilt = ReconstructFieldmap(
        in_coeffs=found["coeffs"],
        target_ref_file=run["coreg_boldref"],
        fmap_ref_file=found["magnitude"],
        transforms=[run["transforms"]["boldref2fmap"]],
        inverse=[True],
    ).run(cwd=tmp_path)
    theirs = nib.load(rebuilt.outputs.out_file).get_fdata()
    stem = run["coreg_boldref"].removesuffix("_desc-coreg_boldref.nii.gz")
    ours = nib.load(f"{stem}_fmapid-{fieldmap_id}_desc-boldref_fieldmap.nii.gz").get_fdata()
    brain = nib.load(f"{stem}_desc-brain_mask.nii.gz").get_fdata() > 0
    away = np.abs(ours - theirs)[brain]
    print(f"\nfield of the coefficients: median {np.median(away):.3f}, largest {away.max():.3f} Hz")
    assert np.percentile(away, 99) < 0.02 * np.abs(ours[brain]).max()


def overlap(first, second):
    """Give the Dice overlap of two files of masks."""
    one, other = (ants.image_read(str(m)).numpy() > 0.5 for m in (first, second))
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("space", ["T1w", "MNI152NLin6Asym", "MNI152NLin2009cAsym"])
def test_ants_carries_our_brains_with_our_transforms(space, tree, subject, entities, tmp_path):
    """The way of ``antsApplyTransforms``, BOLD to T1w and T1w to each template."""
    anat = collect_anat(tree, subject, [space] if space != "T1w" else [])
    if space == "T1w":
        run = collect_bold(tree, entities)
        moving = run["coreg_boldref"].replace("_desc-coreg_boldref", "_desc-brain_mask")
        fixed, xfm = anat["t1w_mask"], run["transforms"]["boldref2anat"]
    else:
        found = sorted((tree / f"sub-{subject}").rglob(f"*_space-{space}_*desc-brain_mask.nii.gz"))
        found = [path for path in found if path.parent.name == "anat"]
        if not found:
            pytest.skip(f"{tree} has no brain in {space}")
        moving, fixed, xfm = anat["t1w_mask"], found[0], anat["transforms"][space]["forward"]
    carried = ants.apply_transforms(
        ants.image_read(str(fixed)), ants.image_read(str(moving)), [xfm], interpolator="linear"
    )
    ants.image_write(carried, str(tmp_path / "carried.nii.gz"))
    assert overlap(fixed, tmp_path / "carried.nii.gz") > 0.9
