"""What our check says of damaged copies, against nilearn, fitlins with PyBIDS, and fMRIPrep."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bids import BIDSLayout
from fitlins.interfaces.bids import BIDSSelect, LoadBIDSModel
from fmriprep.utils import bids as fmriprep
from nilearn.glm.first_level import first_level_from_bids
from nilearn.maskers import NiftiMasker
from smriprep.utils.bids import collect_derivatives as collect_anat
from strategies import do_strategies
from verdicts import SPACES, all_work, names, read_copy, works


@pytest.fixture(params=names(), scope="module")
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


def test_nilearn_does_what_we_say(copy, raw):
    does = do_strategies(copy)
    does |= {"mask": all_work(mask, copy.series())}
    does |= {"first-level": all_work(lambda path: first_level(path, copy, raw), copy.series())}
    copy.compare("nilearn", does, "0.14")


def mask(path):
    """Take the series of the brain mask; what would be resampled is no mask of it."""
    brain = str(path).replace("desc-preproc_bold.nii.gz", "desc-brain_mask.nii.gz")
    assert nib.load(path).shape[:3] == nib.load(brain).shape, "it would be resampled"
    found = NiftiMasker(mask_img=brain, standardize=None).fit_transform(str(path))
    assert found.ndim == 2, "one volume is no series"
    return bool(np.isfinite(found).all())


def first_level(path, copy, raw):
    """Make a first-level model of a series."""
    space = path.name.split("_space-")[1].split("_")[0]
    models, *_ = first_level_from_bids(
        raw, copy.task, space_label=space, sub_labels=[copy.subject], confounds_strategy=None,
        img_filters=[("desc", "preproc"), *resolution(path)], derivatives_folder=str(copy.root),
    )  # fmt: skip
    assert nib.load(path).ndim == 4
    return models[0].t_r is not None


def resolution(path):
    """Choose the resolution of a series by its name."""
    return [("res", path.name.split("_res-")[1].split("_")[0])] if "_res-" in path.name else []


def test_fitlins_does_what_we_say(copy, raw, tmp_path):
    """It is called for each space; PyBIDS indexes once for its command line."""
    database = str(tmp_path / "database")
    indexed = works(BIDSLayout, raw, derivatives=str(copy.root), database_path=database)
    spaces = spaces_of(copy)
    chosen = dict.fromkeys(("select", "mask", "design"), False)
    if indexed:
        here = not any(not path.exists() for path in copy.series())  # PyBIDS lists lost links too
        found = [select(copy, database, space, tmp_path) for space in spaces]
        chosen["select"] = here and all(one is not None for one in found)
        chosen["mask"] = chosen["select"] and all(masks_here(one) for one in found)
        chosen["design"] = all_work(lambda space: design(copy, database, space, tmp_path), spaces)
    copy.compare("fitlins", chosen)


def spaces_of(copy):
    """List the spaces in which there are series, with or without content."""
    found = [space for space in SPACES if copy.func(f"_space-{space}*_desc-preproc_bold.nii*")]
    return found or ["MNI"]


def masks_here(selected):
    """Tell whether there is a mask of each series, with content; nipype gives one as it is."""
    masks = selected.mask_files
    masks = [masks] if isinstance(masks, str) else masks or [None]
    return all(mask is not None and Path(mask).exists() for mask in masks)


def selectors(copy, space):
    entities = {"subject": copy.subject, "task": copy.task}
    if "_run-" in copy.run:
        entities["run"] = int(copy.run.split("_run-")[1].split("_")[0])
    return {"space": space, "suffix": "bold", "extension": ".nii.gz"}, entities


def select(copy, database, space, work):
    """Select series and mask; None where it refuses."""
    chosen, entities = selectors(copy, space)
    node = BIDSSelect(database_path=database, entities=[entities], selectors=chosen)
    kept = []
    works(lambda: kept.append(node.run(cwd=work).outputs) or True)
    return kept[0] if kept else None


def design(copy, database, space, work):
    """Load a model of a task and a confound."""
    wanted = ["trial_type.on", "rot_y"]
    steps = [
        {"Name": "Factor", "Input": ["trial_type"]},
        {"Name": "Convolve", "Input": ["trial_type.on"], "Model": "spm"},
    ]
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
    found = loaded.run(cwd=work).outputs.all_specs["run"][0]["X"]
    return list(found.columns) == wanted


def test_fmriprep_does_what_we_say(copy):
    """It computes what it does not find; of a field map it needs every part or none."""
    spaces = spaces_of(copy)
    chosen, entities = selectors(copy, "")
    kept = []

    def collect():
        kept.append(collect_anat(copy.root, copy.subject, spaces))
        kept.append(fmriprep.collect_derivatives(copy.root, chosen | entities | {"space": None}))
        kept.append(fmriprep.collect_fieldmaps(copy.root, {"subject": copy.subject}))
        return kept

    does = dict.fromkeys(("anatomy", "normalisation", "run", "field map"), False)
    if works(collect):  # it stops where PyBIDS cannot read a JSON file
        anat, bold, fields = map(present, kept)
        pieces = {"t1w_preproc", "t1w_mask", "t1w_dseg", "t1w_tpms"} <= set(anat)
        does["anatomy"] = pieces and len(anat["t1w_tpms"]) == 3
        ways = anat.get("transforms", {})
        both = [set(ways.get(one, ())) >= {"forward", "reverse"} for one in spaces]
        does["normalisation"] = all(both)
        pieces = {"hmc_boldref", "coreg_boldref"} <= set(bold)
        does["run"] = pieces and {"hmc", "boldref2anat"} <= set(bold.get("transforms", ()))
        does["field map"] = all_fields(copy, fields)
    fmriprep._get_layout.cache_clear()  # it would keep each folder in memory
    copy.compare("fmriprep", does)


def present(found):
    """Leave out what is a link to nothing, which PyBIDS lists all the same."""
    if isinstance(found, dict):
        kept = {key: present(value) for key, value in found.items()}
        return {key: value for key, value in kept.items() if value}
    if isinstance(found, list | tuple):
        return [each for each in map(present, found) if each]
    return found if Path(found).exists() else None


def all_fields(copy, fields):
    """Tell whether each field map is whole, or gone where we applied it."""
    ways = copy.func("_from-boldref_to-*_desc-fmap_xfm.txt")
    named = {path.name.split("_to-")[1].split("_")[0] for path in ways}
    parts = {name: len(fields.get(name, ())) for name in {*fields, *named}}
    ours = {name: copy.func(f"_fmapid-{name}_desc-boldref_fieldmap.nii.gz") for name in parts}
    return all(n == 3 or (n == 0 and ours[name]) for name, n in parts.items())
