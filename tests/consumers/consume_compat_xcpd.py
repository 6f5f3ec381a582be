"""What our check says of damaged copies, against XCP-D, giga_connectome and an older nilearn."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from strategies import do_strategies
from verdicts import names, read_copy, works

# Where giga_connectome finds the grey matter of a template: it is read on import.
os.environ["TEMPLATEFLOW_HOME"] = f"{os.environ.get('NEUROSTORM_DAMAGED', '.')}/templateflow"
pytest.importorskip("xcp_d", reason="XCP-D is not installed")

import yaml
from bids import BIDSLayout
from xcp_d.data import load
from xcp_d.interfaces.censoring import GenerateConfounds, ProcessMotion
from xcp_d.utils import bids as xcpd

NUISANCE = ("24P", "27P", "36P", "acompcor", "acompcor_gsr", "gsr_only")
GIGA = ("simple", "simple+gsr", "scrubbing.5", "scrubbing.5+gsr", "acompcor50")
SPACE = "MNI152NLin2009cAsym"


@pytest.fixture(params=names())
def copy(request):
    return read_copy(request.param)


def collect(copy, out):
    """Collect participant and run as XCP-D's command line and workflow do."""
    xcpd.write_derivative_description(str(copy.root), out, parameters_hash="0")
    config = ["bids", "derivatives", str(load("xcp_d_bids_config2.json"))]
    layout = BIDSLayout(copy.root, validate=False, config=config)
    named = {"bids_filters": {}, "anat_session": None, "func_sessions": []}
    data = xcpd.collect_data(
        layout=layout, input_type="fmriprep", participant_label=copy.subject,
        file_format="nifti", **named,
    )  # fmt: skip
    data = data[1] if isinstance(data, tuple) else data
    bold = next(path for path in data["bold"] if Path(path).name.startswith(f"{copy.run}_"))
    run = xcpd.collect_run_data(layout, bold, "nifti", target_space=None)
    grid = Path(bold).name.split("_desc-")[0]
    for name in ("boldref", "boldmask"):  # what it takes may be of another grid
        taken = Path(run[name]).name
        assert taken.split("_desc-")[0].removesuffix("_boldref.nii.gz") == grid, f"{name}: {taken}"
    assert Path(data["t1w"] or data["t2w"]).exists()  # PyBIDS lists links to lost content too
    for name in ("anat_to_template_xfm", "template_to_anat_xfm"):
        assert Path(data[name]).suffix in (".h5", ".txt")
    assert len(nib.load(bold).shape) == 4
    return layout, bold, run


FILTER = {
    "motion_filter_type": None,
    "motion_filter_order": 4,
    "band_stop_min": None,
    "band_stop_max": None,
}


def move(run, work):
    """Tell how the head moved, as its workflow does for every run."""
    made = ProcessMotion(
        motion_file=run["motion_file"], motion_json=run["motion_json"], TR=2.0, fd_thresh=0.3,
        head_radius=50, **FILTER,
    ).run(cwd=work)  # fmt: skip
    moved = pd.read_table(made.outputs.motion_file)
    np.nanmean(moved["rmsd"].to_numpy())  # interfaces/utils.py: LINCQC, after the regression
    return True


def regress(copy, layout, bold, run, nuisance, work):
    """Make the regressors of a nuisance set."""
    move(run, work)
    spec = yaml.safe_load(Path(str(load(f"nuisance/{nuisance}.yml"))).read_text())
    files = xcpd.collect_confounds(bold, layout, None, spec)
    made = GenerateConfounds(
        in_file=bold, TR=2.0, confounds_config=spec, confounds_files=files,
        dataset_links={"preprocessed": str(copy.root)}, out_dir=str(work), **FILTER,
    ).run(cwd=work)  # fmt: skip
    return Path(made.outputs.confounds_tsv).exists()


def test_xcpd_does_what_we_say(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = []
    works(lambda: kept.append(collect(copy, tmp_path)) or True)
    does = {
        name: bool(kept) and works(regress, copy, *kept[0], name, tmp_path) for name in NUISANCE
    }
    copy.compare("xcp-d", does)


def test_giga_connectome_does_what_we_say(copy, tmp_path):
    """It writes its index into the folder that it reads."""
    giga = pytest.importorskip("giga_connectome", reason="giga_connectome is not installed")
    from giga_connectome import denoise, utils

    folder = tmp_path / "tree"
    shutil.copytree(copy.root, folder, symlinks=True)
    kept = []

    def ready():
        found, _ = utils.get_bids_images([copy.subject], SPACE, folder, True, None)
        mask = giga.mask.generate_group_mask([one.path for one in found["mask"]], SPACE)
        nib.save(mask, tmp_path / "mask.nii.gz")
        kept.extend(one for one in found["bold"] if one.filename.startswith(f"{copy.run}_"))
        return bool(kept)

    def clean(strategy):
        for image in kept:
            preset = denoise.get_denoise_strategy(strategy)
            denoise.denoise_nifti_voxel(preset, tmp_path / "mask.nii.gz", True, 0, image.path)
            assert 1 / image.entities["RepetitionTime"] > 0
        return True

    is_ready = works(ready)
    does = {strategy: is_ready and works(clean, strategy) for strategy in GIGA}
    copy.compare("giga_connectome", does)


def test_an_older_nilearn_does_what_we_say(copy):
    copy.compare("nilearn", do_strategies(copy), "0.12")
