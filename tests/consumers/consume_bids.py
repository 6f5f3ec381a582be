"""Tiers D and V: PyBIDS finds what a model asks for, and the validator finds no error."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from bids import BIDSLayout


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
