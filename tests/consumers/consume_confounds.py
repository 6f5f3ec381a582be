"""Our confounds beside those of fMRIPrep's, niworkflows' and nipype's own interfaces.

The chain is fMRIPrep's ``init_bold_confs_wf`` node by node, on the same files. Its two calls of
``antsApplyTransforms`` go through antspyx, which wraps the same program.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import ants
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from fmriprep.interfaces.confounds import (
    FilterDropped,
    FramewiseDisplacement,
    FSLMotionParams,
    FSLRMSDeviation,
    GatherConfounds,
    RenameACompCor,
    aCompCorMasks,
)
from nipype.algorithms.confounds import ComputeDVARS
from niworkflows.interfaces.confounds import ExpandModel, SpikeRegressors
from niworkflows.interfaces.images import SignalExtraction
from niworkflows.interfaces.morphology import BinaryDilation, BinarySubtraction
from niworkflows.interfaces.nibabel import ApplyMask, Binarize
from niworkflows.interfaces.patches import RobustACompCor, RobustTCompCor
from niworkflows.interfaces.utility import TSV2JSON, AddTSVHeader

CASES = Path(os.environ["NEUROSTORM_CASES"])
NAMES = sorted(path.name for path in CASES.iterdir() if path.is_dir())
LABELS = ["global_signal", "csf", "white_matter", "csf_wm", "tcompcor"]
COMPONENT = re.compile(r"(._comp_cor_|edge_comp_)\d+$")
TOLERANCE = 1e-4


def run(interface, folder, **inputs):
    """Run an interface with its files in a folder of its own."""
    here = folder / interface.__name__
    number = 0
    while here.exists():
        number += 1
        here = folder / f"{interface.__name__}-{number}"
    here.mkdir()
    before = Path.cwd()
    os.chdir(here)
    try:
        return interface(**inputs).run(cwd=str(here)).outputs
    finally:
        os.chdir(before)


def carry(case, name, interpolator, out):
    """Bring an image from the T1w grid to the BOLD grid, as ``antsApplyTransforms`` does."""
    placed = ants.apply_transforms(
        ants.image_read(str(case / "mask.nii.gz")),
        ants.image_read(str(name)),
        [str(case / "bold_to_t1w.txt")],
        interpolator=interpolator,
    )
    reference = nib.load(case / "mask.nii.gz")
    nib.save(nib.Nifti1Image(placed.numpy(), reference.affine), out)
    return str(out)


def acompcor_masks(case, folder):
    """Make the masks of aCompCor on the BOLD grid."""
    zooms = tuple(float(zoom) for zoom in nib.load(case / "bold.nii.gz").header.get_zooms()[:3])
    tissues = [str(case / f"{name}.nii.gz") for name in ("gm", "wm", "csf")]
    masks = run(aCompCorMasks, folder, in_vfs=tissues, bold_zooms=zooms).out_masks
    binary = []
    for number, mask in enumerate(masks):
        placed = carry(case, mask, "gaussian", folder / f"acc{number}.nii.gz")
        inside = run(ApplyMask, folder, in_file=placed, in_mask=str(case / "mask.nii.gz")).out_file
        binary.append(run(Binarize, folder, in_file=inside, thresh_low=0.99).out_file)
    return binary


def crown_mask(case, folder):
    """Make the mask of the crown."""
    carried = carry(case, case / "t1w_mask.nii.gz", "multiLabel", folder / "t1w_mask.nii.gz")
    mask = nib.load(case / "mask.nii.gz")
    union = (mask.get_fdata() > 0) | (nib.load(carried).get_fdata() > 0)
    path = folder / "union.nii.gz"
    nib.save(nib.Nifti1Image(union.astype(np.uint8), mask.affine), path)
    dilated = run(BinaryDilation, folder, in_mask=str(path)).out_mask
    return run(BinarySubtraction, folder, in_base=dilated, in_subtract=str(path)).out_mask


def decompose(case, folder, facts):
    """Run the three kinds of CompCor."""
    shared = {
        "realigned_file": str(case / "bold.nii.gz"),
        "ignore_initial_volumes": facts["n_skipped"],
        "repetition_time": facts["tr"],
        "pre_filter": "cosine",
        "save_pre_filter": True,
        "save_metadata": True,
        "failure_mode": "NaN",
    }
    kept = {"num_components": "all"} if facts["all"] else {"variance_threshold": 0.5}
    masks, crown = acompcor_masks(case, folder), crown_mask(case, folder)
    acompcor = run(
        RobustACompCor,
        folder,
        mask_files=masks,
        header_prefix="a_comp_cor_",
        mask_names=["CSF", "WM", "combined"],
        merge_method="none",
        **shared,
        **kept,
    )
    edge = run(
        RobustACompCor,
        folder,
        mask_files=[crown],
        header_prefix="edge_comp_",
        mask_names=["Edge"],
        merge_method="none",
        num_components=24,
        **shared,
    )
    tcompcor = run(
        RobustTCompCor,
        folder,
        mask_files=[str(case / "mask.nii.gz")],
        header_prefix="t_comp_cor_",
        percentile_threshold=0.02,
        **shared,
        **kept,
    )
    return SimpleNamespace(masks=masks, crown=crown, a=acompcor, edge=edge, t=tcompcor)


def describe(folder, renamed, found):
    """Make the sidecar of the components."""

    def words(path, method, **more):
        return run(
            TSV2JSON,
            folder,
            in_file=path,
            index_column="component",
            output=None,
            additional_metadata={"Method": method},
            enforce_case=True,
            **more,
        ).output

    temporal = run(FilterDropped, folder, in_file=found.t.metadata_file).out_file
    anatomical = run(FilterDropped, folder, in_file=renamed.metadata_file).out_file
    return (
        words(temporal, "tCompCor", drop_columns=["mask"])
        | words(anatomical, "aCompCor")
        | words(found.edge.metadata_file, "EdgeRegressor")
    )


def fmriprep_confounds(case, folder):
    """Make the table and the sidecar of fMRIPrep."""
    facts = json.loads((case / "facts.json").read_text())
    bold, mask = str(case / "bold.nii.gz"), str(case / "mask.nii.gz")
    found = decompose(case, folder, facts)
    renamed = run(
        RenameACompCor,
        folder,
        components_file=found.a.components_file,
        metadata_file=found.a.metadata_file,
    )
    moved = {"xfm_file": str(case / "hmc.txt"), "boldref_file": str(case / "boldref.nii.gz")}
    motion = run(FSLMotionParams, folder, **moved).out_file
    changes = run(
        ComputeDVARS,
        folder,
        in_file=bold,
        in_mask=mask,
        save_nstd=True,
        save_std=True,
        remove_zerovariance=True,
    )
    regions = [mask, *found.masks, *as_list(found.t.high_variance_masks)]
    gathered = run(
        GatherConfounds,
        folder,
        signals=run(
            SignalExtraction, folder, in_file=bold, label_files=regions, class_labels=LABELS
        ).out_file,
        dvars=run(AddTSVHeader, folder, in_file=changes.out_nstd, columns=["dvars"]).out_file,
        std_dvars=run(
            AddTSVHeader, folder, in_file=changes.out_std, columns=["std_dvars"]
        ).out_file,
        fd=run(FramewiseDisplacement, folder, in_file=motion).out_file,
        rmsd=run(FSLRMSDeviation, folder, **moved).out_file,
        tcompcor=found.t.components_file,
        acompcor=renamed.components_file,
        crowncompcor=found.edge.components_file,
        cos_basis=found.t.pre_filter_file,
        motion=motion,
    ).confounds_file
    formula = "(dd1(rps + wm + csf + gsr))^^2 + others"
    expanded = run(ExpandModel, folder, confounds_file=gathered, model_formula=formula)
    spikes = run(
        SpikeRegressors,
        folder,
        confounds_file=expanded.confounds_file,
        fd_thresh=0.5,
        dvars_thresh=1.5,
    )
    table = pd.read_csv(spikes.confounds_file, sep="\t", na_values="n/a")
    return SimpleNamespace(table=table, json=describe(folder, renamed, found), found=found)


def as_list(value):
    """Take one file or several."""
    return [value] if isinstance(value, str) else list(value)


@pytest.fixture(scope="module", params=NAMES)
def both(request, tmp_path_factory):
    """Give ours and theirs of one case."""
    case = CASES / request.param
    theirs = fmriprep_confounds(case, tmp_path_factory.mktemp(request.param))
    ours = SimpleNamespace(
        table=pd.read_csv(case / "ours.tsv", sep="\t", na_values="n/a"),
        json=json.loads((case / "ours.json").read_text()),
    )
    return SimpleNamespace(case=case, ours=ours, theirs=theirs)


def without_order_of_expansion(names):
    """Sort the expansions after each column: fMRIPrep's order of them is by chance."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(_derivative1|_power2)+$", "", name), []).append(name)
    return [(parent, sorted(group)) for parent, group in groups.items()]


def test_masks_are_the_same_voxels(both):
    for letter, path in zip("cwa", both.theirs.found.masks, strict=True):
        theirs = nib.load(path).get_fdata() > 0
        ours = nib.load(both.case / f"noise-{letter}.nii.gz").get_fdata() > 0
        assert theirs.sum() > 20
        assert (theirs != ours).sum() == 0, letter
    crown = nib.load(both.case / "crown.nii.gz").get_fdata() > 0
    assert (crown != (nib.load(both.theirs.found.crown).get_fdata() > 0)).sum() == 0


def test_columns_are_the_same_in_the_same_order(both):
    ours = without_order_of_expansion(both.ours.table.columns)
    assert ours == without_order_of_expansion(both.theirs.table.columns)
    assert sum(name.startswith("motion_outlier") for name in both.ours.table) >= 2


def test_every_column_is_the_same(both):
    worst = {}
    n_steady = len(both.ours.table) - sum("non_steady" in name for name in both.ours.table)
    rank = n_steady - 1 - sum(name.startswith("cosine") for name in both.ours.table)
    for name in both.theirs.table.columns:
        ours, theirs = both.ours.table[name], both.theirs.table[name]
        assert list(ours.isna()) == list(theirs.isna()), name
        ours, theirs = ours.dropna().to_numpy(float), theirs.dropna().to_numpy(float)
        if COMPONENT.match(name):
            if int(name[-2:]) >= rank:  # of no variance: any direction will do
                continue
            ours = ours * np.sign(ours @ theirs)
        scale = max(np.abs(theirs).max(initial=0.0), 1e-9)
        family = re.sub(r"\d+$", "", name)
        worst[family] = max(worst.get(family, 0.0), np.abs(ours - theirs).max(initial=0) / scale)
    print(f"\n{both.case.name}: largest difference as a share of the largest value")
    for family, difference in worst.items():
        print(f"  {family:35s} {difference:.1e}")
    assert {name: d for name, d in worst.items() if d > TOLERANCE} == {}


def test_the_sidecar_says_the_same_of_components(both):
    for name, theirs in both.theirs.json.items():
        ours = both.ours.json[name]
        assert set(ours) == set(theirs), name
        for key, value in theirs.items():
            if isinstance(value, float):
                largest = max(both.theirs.json[n][key] for n in both.theirs.json)
                assert abs(ours[key] - value) <= TOLERANCE * largest, (name, key)
            else:
                assert ours[key] == value, (name, key)
    means = {name for name, words in both.ours.json.items() if words.get("Method") == "Mean"}
    assert means == set(LABELS)
