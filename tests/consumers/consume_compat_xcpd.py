"""What our check says of damaged copies, against XCP-D, giga_connectome and an older nilearn."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import pytest
from strategies import STRATEGIES, load_and_clean
from verdicts import names, read_copy, works

pytest.importorskip("xcp_d", reason="XCP-D is not installed")

import yaml
from bids import BIDSLayout
from xcp_d.data import load
from xcp_d.interfaces.censoring import GenerateConfounds
from xcp_d.utils import bids as xcpd

NUISANCE = ("24P", "27P", "36P", "acompcor", "acompcor_gsr", "gsr_only")


@pytest.fixture(params=names(), scope="module")
def copy(request):
    return read_copy(request.param)


@pytest.fixture(scope="module")
def collected(copy, tmp_path_factory):
    """Collect participant and run as XCP-D's command line and workflow do; None if they refuse."""
    out = tmp_path_factory.mktemp("xcpd")

    def collect():
        xcpd.write_derivative_description(str(copy.root), out, parameters_hash="0")
        config = ["bids", "derivatives", str(load("xcp_d_bids_config2.json"))]
        layout = BIDSLayout(copy.root, validate=False, config=config)
        named = {"bids_filters": {}, "anat_session": None, "func_sessions": []}
        data = xcpd.collect_data(
            layout=layout, input_type="fmriprep", participant_label=copy.subject,
            file_format="nifti", **named,
        )  # fmt: skip
        data = data[1] if isinstance(data, tuple) else data
        bold = next(path for path in data["bold"] if Path(path).name.startswith(copy.run))
        run = xcpd.collect_run_data(layout, bold, "nifti", target_space=None)
        grid = nib.load(bold).shape[:3]
        for name in ("boldref", "boldmask"):  # what it takes may be of another grid
            assert (
                Path(run[name])
                .name.split("_desc-")[0]
                .startswith(Path(bold).name.split("_desc-")[0])
            ), f"{name} is {run[name]}"
        for name in ("anat_to_template_xfm", "template_to_anat_xfm"):
            assert Path(data[name]).suffix in (".h5", ".txt")
        assert len(grid) == 3
        return layout, bold

    kept = []
    works(lambda: kept.append(collect()) or True)
    return kept[0] if kept else None


@pytest.mark.parametrize("nuisance", NUISANCE)
def test_a_nuisance_set_is_open_where_we_say_so(nuisance, copy, collected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = yaml.safe_load(Path(str(load(f"nuisance/{nuisance}.yml"))).read_text())

    def regress():
        layout, bold = collected
        files = xcpd.collect_confounds(bold, layout, None, spec)
        made = GenerateConfounds(
            in_file=bold, TR=2.0, confounds_config=spec, confounds_files=files,
            dataset_links={"preprocessed": str(copy.root)}, out_dir=str(tmp_path),
            motion_filter_type=None, motion_filter_order=4, band_stop_min=None, band_stop_max=None,
        ).run(cwd=tmp_path)  # fmt: skip
        return Path(made.outputs.confounds_tsv).exists()

    does = collected is not None and works(regress)
    assert copy.accepted("xcp-d")[nuisance] == does


@pytest.fixture(scope="module")
def indexed(copy, tmp_path_factory):
    """Index the copy as giga_connectome does, which writes into what it reads."""
    utils = pytest.importorskip("giga_connectome.utils", reason="giga_connectome is not installed")
    folder = tmp_path_factory.mktemp("giga") / "tree"
    shutil.copytree(copy.root, folder, symlinks=True)

    def collect():
        found, _ = utils.get_bids_images([copy.subject], "MNI152NLin2009cAsym", folder, True, None)
        assert found["bold"]
        assert found["mask"]
        assert all(1 / image.entities["RepetitionTime"] > 0 for image in found["bold"])
        return found

    kept = []
    works(lambda: kept.append(collect()) or True)
    return kept[0] if kept else None


@pytest.mark.parametrize(
    "strategy", ["simple", "simple+gsr", "scrubbing.5", "scrubbing.5+gsr", "acompcor50"]
)
def test_giga_connectome_cleans_where_we_say_so(strategy, copy, indexed):
    denoise = pytest.importorskip("giga_connectome.denoise", reason="giga_connectome is missing")

    def clean():
        mask = indexed["mask"][0].path
        for image in indexed["bold"]:
            preset = denoise.get_denoise_strategy(strategy)
            denoise.denoise_nifti_voxel(preset, mask, True, 0, image.path)
        return True

    does = indexed is not None and works(clean)
    assert copy.accepted("giga_connectome")[strategy] == does


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_of_an_older_nilearn_is_open_where_we_say_so(strategy, copy):
    series = copy.series() + copy.func("*_desc-preproc_bold.nii")
    if strategy == "ica_aroma":
        series = copy.func("*_desc-smoothAROMAnonaggr_bold.nii.gz")
    does = bool(series) and all(works(load_and_clean, path, strategy) for path in series)
    assert copy.accepted("nilearn")[strategy] == does
