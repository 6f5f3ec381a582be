"""Tiers D and V: PyBIDS and fitlins find what a model asks for; the validator finds no error."""

from __future__ import annotations

import json
import shutil
import subprocess

import pandas as pd
import pytest
from bids import BIDSLayout
from fitlins.interfaces.bids import BIDSSelect, LoadBIDSModel


@pytest.fixture(scope="module")
def layout(tree):
    return BIDSLayout(tree, validate=False, config=["bids", "derivatives"])


def test_one_series_and_one_mask_answer_a_query(layout, bold, subject):
    entities = layout.get_file(bold).get_entities()
    query = {key: entities[key] for key in ("task", "space", "run", "session") if key in entities}
    for desc, suffix in (("preproc", "bold"), ("brain", "mask")):
        found = layout.get(
            subject=subject,
            desc=desc,
            suffix=suffix,
            datatype="func",
            extension=".nii.gz",
            **query,
        )
        assert len(found) == 1, (desc, suffix)


def test_the_repetition_time_is_in_the_metadata(layout, bold):
    assert layout.get_metadata(str(bold))["RepetitionTime"] > 0


def test_confounds_are_found_by_their_suffix(layout, bold, subject):
    task = layout.get_file(bold).get_entities()["task"]
    found = layout.get(
        subject=subject, task=task, suffix=["timeseries", "regressors"], extension=".tsv"
    )
    assert any("desc-confounds" in each.filename for each in found)


def write_events(folder, stem, subject):
    """Make a raw dataset of nothing but the events of a run."""
    func = folder / f"sub-{subject}/func"
    func.mkdir(parents=True)
    events = pd.DataFrame({"onset": [10.0, 40.0], "duration": 10.0, "trial_type": "on"})
    events.to_csv(func / f"{stem}_events.tsv", sep="\t", index=False)
    description = {"Name": "events", "BIDSVersion": "1.10.0"}
    (folder / "dataset_description.json").write_text(json.dumps(description))


def test_fitlins_selects_a_series_and_loads_a_model(bold, tree, subject, tmp_path):
    stem, rest = bold.name.split("_space-")
    given = dict(part.split("-") for part in stem.split("_"))
    write_events(tmp_path / "raw", stem, subject)
    database = str(tmp_path / "database")
    BIDSLayout(tmp_path / "raw", derivatives=tree, database_path=database, validate=False)
    selectors = {"space": rest.split("_")[0], "suffix": "bold", "extension": ".nii.gz"}
    entities = {"subject": subject, "task": given["task"]}
    if "run" in given:
        entities["run"] = int(given["run"])
    found = BIDSSelect(database_path=database, entities=[entities], selectors=selectors)
    found = found.run(cwd=tmp_path).outputs
    assert found.bold_files == str(bold)
    assert found.mask_files == str(bold).replace("desc-preproc_bold", "desc-brain_mask")
    wanted = ["trial_type.on", "trans_x", "rot_z", "a_comp_cor_00", "framewise_displacement"]
    steps = [
        {"Name": "Factor", "Input": ["trial_type"]},
        {"Name": "Convolve", "Input": ["trial_type.on"], "Model": "spm"},
    ]
    contrast = {"Name": "on", "ConditionList": ["trial_type.on"], "Weights": [1], "Test": "t"}
    node = {
        "Level": "Run",
        "Name": "run",
        "GroupBy": ["run", "subject"],
        "Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": steps},
        "Model": {"X": wanted, "Type": "glm"},
        "Contrasts": [contrast],
    }
    task = {"task": [given["task"]], "space": [selectors["space"]]}
    model = {"Name": "m", "BIDSModelVersion": "1.0.0", "Input": task, "Nodes": [node]}
    selectors |= {"desc": "preproc"}
    loaded = LoadBIDSModel(database_path=database, model=model, selectors=selectors)
    loaded = loaded.run(cwd=tmp_path).outputs
    design = loaded.all_specs["run"][0]["X"]
    assert list(design.columns) == wanted
    assert design.notna().all(axis=None)


def test_the_validator_finds_no_error(tree):
    program = shutil.which("bids-validator-deno")
    assert program, "bids-validator-deno is not on the path"
    done = subprocess.run(
        [program, str(tree), "--format", "json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = {issue["code"] for issue in issues if issue["severity"] == "error"}
    assert not errors
    assert done.returncode == 0
