"""Tiers B and C: XCP-D and giga_connectome collect their inputs and clean a series."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

try:
    from xcp_d.utils import bids as xcpd
except ImportError:
    xcpd = None

with_xcpd = pytest.mark.skipif(xcpd is None, reason="XCP-D is not installed")


@pytest.fixture(scope="module")
def layout(tree):
    from bids import BIDSLayout
    from xcp_d.data import load

    config = ["bids", "derivatives", str(load("xcp_d_bids_config2.json"))]
    return BIDSLayout(tree, validate=False, config=config)


@pytest.fixture(scope="module")
def data(layout, subject):
    return xcpd.collect_data(
        layout=layout,
        input_type="fmriprep",
        participant_label=subject,
        bids_filters={},
        file_format="nifti",
        anat_session=None,
        func_sessions=None,
    )


def path_of(found):
    """Take a path or a file object, alone or first in a list."""
    found = found[0] if isinstance(found, list) else found
    return str(getattr(found, "path", found))


@with_xcpd
def test_the_participant_is_collected(data):
    found = data[1] if isinstance(data, tuple) else data
    assert path_of(found["bold"]).endswith("desc-preproc_bold.nii.gz")
    assert "MNI152NLin6Asym" in path_of(found["bold"])
    for name in ("t1w", "anat_brainmask", "anat_to_template_xfm", "template_to_anat_xfm"):
        assert Path(path_of(found[name])).exists(), name


@with_xcpd
@pytest.mark.parametrize("strategy", ["24P", "27P", "36P", "acompcor", "acompcor_gsr"])
def test_the_run_and_its_confounds_are_collected(strategy, layout, data):
    import pandas as pd
    import yaml
    from xcp_d.data import load

    found = data[1] if isinstance(data, tuple) else data
    bold = path_of(found["bold"])
    run = xcpd.collect_run_data(layout, bold, "nifti", target_space=None)
    for name in ("motion_file", "motion_json", "boldref", "boldmask"):
        assert Path(path_of(run[name])).exists(), name
    spec = yaml.safe_load(Path(str(load(f"nuisance/{strategy}.yml"))).read_text())
    confounds = xcpd.collect_confounds(bold, layout, None, spec)
    table = pd.read_csv(confounds["preproc_confounds"]["file"], sep="\t")
    for wanted in spec["confounds"]["preproc_confounds"]["columns"]:
        if wanted.startswith("^"):
            n_volumes = len(table)
            slow = "cosine" in wanted and n_volumes * 2.0 < 128  # too short to hold a slow wave
            assert slow or any(table.columns.str.fullmatch(wanted[1:-1])), wanted
        else:
            assert wanted in table.columns, wanted


@pytest.fixture(scope="module")
def writable(tree, tmp_path_factory):
    """Copy the folder: giga_connectome writes its index into what it reads."""
    folder = tmp_path_factory.mktemp("giga") / "derivatives"
    shutil.copytree(tree, folder)
    return folder


@pytest.mark.parametrize("strategy", ["simple", "scrubbing.5"])
def test_giga_connectome_cleans_a_series(strategy, writable, subject):
    denoise = pytest.importorskip(
        "giga_connectome.denoise", reason="giga_connectome is not installed"
    )
    from giga_connectome import get_denoise_strategy, utils

    found, _ = utils.get_bids_images([subject], "MNI152NLin2009cAsym", writable, True, None)
    if not found["bold"]:
        pytest.skip("the folder has no series in MNI152NLin2009cAsym")
    assert len(found["bold"]) == len(found["mask"])
    mask = path_of(found["mask"])
    bold = path_of(found["bold"])
    sidecar = json.loads(Path(bold.replace(".nii.gz", ".json")).read_text())
    assert sidecar["RepetitionTime"] > 0
    cleaned = denoise.denoise_nifti_voxel(get_denoise_strategy(strategy), mask, True, 0, bold)
    assert cleaned is None or cleaned.shape[:3]
    assert cleaned is not None or strategy != "simple"
