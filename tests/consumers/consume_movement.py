"""The movement columns of the folder beside fMRIPrep's, from the matrices that lie with them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fmriprep.interfaces.confounds import FramewiseDisplacement, FSLMotionParams, FSLRMSDeviation

MOTION = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]


@pytest.fixture
def run_stem(tree, subject):
    found = min((tree / f"sub-{subject}").rglob("*_desc-confounds_timeseries.tsv"))
    return str(found).removesuffix("_desc-confounds_timeseries.tsv")


def test_movement_is_that_of_the_matrices(run_stem, tmp_path):
    ours = pd.read_csv(f"{run_stem}_desc-confounds_timeseries.tsv", sep="\t", na_values="n/a")
    files = {
        "xfm_file": f"{run_stem}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        "boldref_file": f"{run_stem}_desc-hmc_boldref.nii.gz",
    }
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        motion = FSLMotionParams(**files).run().outputs.out_file
        shifts = FramewiseDisplacement(in_file=motion).run().outputs.out_file
        theirs = pd.read_csv(motion, sep="\t")
        rms = FSLRMSDeviation(**files).run().outputs.out_file  # takes the name of the first
        tables = [pd.read_csv(name, sep="\t") for name in (shifts, rms)]
    finally:
        os.chdir(before)
    np.testing.assert_allclose(ours[MOTION], theirs[MOTION], atol=1e-4)  # mm, rad
    columns = ("framewise_displacement", "rmsd")
    for name, table in zip(columns, tables, strict=True):
        np.testing.assert_allclose(ours[name][1:], table.iloc[1:, -1], atol=1e-4)  # mm
