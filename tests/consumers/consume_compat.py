"""What our check says of damaged copies, against nilearn, fitlins with PyBIDS, and fMRIPrep."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bids import BIDSLayout
from fitlins.interfaces.bids import BIDSSelect, LoadBIDSModel
from fmriprep.utils.bids import collect_derivatives as collect_bold
from nilearn.glm.first_level import first_level_from_bids
from nilearn.maskers import NiftiMasker
from smriprep.utils.bids import collect_derivatives as collect_anat
from strategies import STRATEGIES, load_and_clean
from verdicts import SPACES, names, read_copy, works


@pytest.fixture(params=names())
def copy(request):
    return read_copy(request.param)


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Make a raw dataset of nothing but the events of the run."""
    root, copy = tmp_path_factory.mktemp("raw"), read_copy("none")
    func = root / f"sub-{copy.subject}/func"
    func.mkdir(parents=True)
    events = pd.DataFrame({"onset": [10.0, 40.0], "duration": 10.0, "trial_type": "on"})
    events.to_csv(func / f"{copy.run}_events.tsv", sep="\t", index=False)
    description = {"Name": "events", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def all_work(call, many) -> bool:
    """Tell whether a call works for each of many, and there are any."""
    return bool(many) and all(works(call, each) for each in many)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_of_nilearn_is_open_where_we_say_so(strategy, copy):
    series = copy.series() + copy.func("*_desc-preproc_bold.nii")
    if strategy == "ica_aroma":
        series = copy.func("*_desc-smoothAROMAnonaggr_bold.nii.gz")
    does = all_work(lambda path: load_and_clean(path, strategy), series)
    assert copy.accepted("nilearn")[strategy] == does


def test_a_mask_fits_where_we_say_so(copy):
    def mask(path):
        brain = str(path).replace("desc-preproc_bold.nii.gz", "desc-brain_mask.nii.gz")
        assert nib.load(path).shape[:3] == nib.load(brain).shape, "it would be resampled"
        found = NiftiMasker(mask_img=brain, standardize=None).fit_transform(str(path))
        assert found.ndim == 2, "one volume is no series"
        return np.isfinite(found).all()

    assert copy.accepted("nilearn")["mask"] == all_work(mask, copy.series())


def test_a_first_level_is_made_where_we_say_so(copy, raw):
    def make(path):
        space = path.name.split("_space-")[1].split("_")[0]
        models, *_ = first_level_from_bids(
            raw, copy.task, space_label=space, sub_labels=[copy.subject], confounds_strategy=None,
            img_filters=[("desc", "preproc"), *resolution(path)], derivatives_folder=str(copy.root),
        )  # fmt: skip
        assert nib.load(path).ndim == 4
        return models[0].t_r is not None

    assert copy.accepted("nilearn")["first-level"] == all_work(make, copy.series())


def resolution(path):
    """Choose the resolution of a series by its name."""
    return [("res", path.name.split("_res-")[1].split("_")[0])] if "_res-" in path.name else []


@pytest.fixture
def index(copy, raw, tmp_path):
    """Index raw dataset and copy as fitlins' command line does."""

    def make(name):
        database = tmp_path / name
        BIDSLayout(raw, derivatives=str(copy.root), database_path=database)
        return str(database)

    return make


def spaces_of(copy):
    """List the spaces in which there are series, with or without content."""
    return [space for space in SPACES if copy.func(f"_space-{space}*_desc-preproc_bold.nii*")]


def selectors(copy, space):
    entities = {"subject": copy.subject, "task": copy.task}
    if "_run-" in copy.run:
        entities["run"] = int(copy.run.split("_run-")[1].split("_")[0])
    return {"space": space, "suffix": "bold", "extension": ".nii.gz"}, entities


def test_fitlins_selects_where_we_say_so(copy, index, tmp_path):
    database = index("database") if works(index, "tried") else None

    def select(space):
        assert database, "PyBIDS refuses the folder"
        chosen, entities = selectors(copy, space)
        found = BIDSSelect(database_path=database, entities=[entities], selectors=chosen)
        return found.run(cwd=tmp_path).outputs

    spaces = spaces_of(copy) or ["MNI"]
    said = copy.accepted("fitlins")
    assert said["select"] == (all_work(select, spaces) and not lost(copy))
    does = all_work(lambda space: select(space).mask_files not in (None, [None]), spaces)
    assert said["mask"] == (does and not lost(copy))


def lost(copy):
    """Tell whether a series is a link to nothing; PyBIDS lists it all the same."""
    return any(not path.exists() for path in copy.series())


def test_fitlins_designs_where_we_say_so(copy, index, tmp_path):
    database = index("database") if works(index, "tried") else None
    steps = [
        {"Name": "Factor", "Input": ["trial_type"]},
        {"Name": "Convolve", "Input": ["trial_type.on"], "Model": "spm"},
    ]
    wanted = ["trial_type.on", "rot_y"]

    def design(space):
        assert database, "PyBIDS refuses the folder"
        node = {
            "Level": "Run",
            "Name": "run",
            "GroupBy": ["run", "subject"],
            "Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": steps},
            "Model": {"X": wanted, "Type": "glm"},
        }
        chosen = selectors(copy, space)[0] | {"desc": "preproc"}
        inputs = {"task": [copy.task], "space": [space]}
        model = {"Name": "m", "BIDSModelVersion": "1.0.0", "Input": inputs, "Nodes": [node]}
        loaded = LoadBIDSModel(database_path=database, model=model, selectors=chosen)
        design = loaded.run(cwd=tmp_path).outputs.all_specs["run"][0]["X"]
        return list(design.columns) == wanted

    assert copy.accepted("fitlins")["design"] == all_work(design, spaces_of(copy) or ["MNI"])


def test_fmriprep_finds_what_we_say_it_does(copy):
    spaces = spaces_of(copy) or ["MNI"]
    chosen, entities = selectors(copy, "")
    kept = []

    def collect():
        kept.append(collect_anat(copy.root, copy.subject, spaces))
        kept.append(collect_bold(copy.root, chosen | entities | {"space": None}))
        return kept

    does = dict.fromkeys(("anatomy", "normalisation", "run"), False)
    if works(collect):  # it stops where PyBIDS cannot read a JSON file
        anat, bold = kept
        pieces = {"t1w_preproc", "t1w_mask", "t1w_dseg", "t1w_tpms"} <= set(anat)
        does["anatomy"] = pieces and len(anat["t1w_tpms"]) == 3
        both = [set(anat["transforms"].get(one, ())) >= {"forward", "reverse"} for one in spaces]
        does["normalisation"] = all(both)
        pieces = {"hmc_boldref", "coreg_boldref"} <= set(bold)
        does["run"] = pieces and {"hmc", "boldref2anat"} <= set(bold["transforms"])
    said = copy.accepted("fmriprep")
    assert {use: said[use] for use in does} == does
