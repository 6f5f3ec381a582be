"""The files of a phantom."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import CannotCreateError, UsageError
from neurostorm_app.pipelines.phantom import make_phantom

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.skipif(not VALIDATOR.exists(), reason="bids-validator-deno is not installed")
def test_the_official_validator_finds_no_error(made):
    done = subprocess.run(
        [VALIDATOR, made.bids, "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    recommended = {"JSON_KEY_RECOMMENDED", "SIDECAR_KEY_RECOMMENDED"}
    assert {issue["code"] for issue in issues} <= recommended
    assert done.returncode == 0


def test_the_same_seed_makes_the_same_person_however_many_there_are(tmp_path):
    for name, people in (("one", 1), ("two", 2)):
        make_phantom(
            tmp_path / name, participants=people, runs=1, n_volumes=5, seed=9, scale="tiny"
        )
    for tree in ("", "-truth"):
        one = digests(tmp_path / f"one{tree}" / "sub-01")
        assert one
        assert one == digests(tmp_path / f"two{tree}" / "sub-01")
    rows = (tmp_path / "two" / "participants.tsv").read_text().splitlines()
    assert (tmp_path / "one" / "participants.tsv").read_text().splitlines() == rows[:2]


def test_another_seed_makes_another_person(made, tmp_path):
    make_phantom(tmp_path / "other", participants=1, runs=1, n_volumes=5, seed=4, scale="tiny")
    name = "sub-01/anat/sub-01_T1w.nii.gz"
    assert digests(made.bids)[name] != digests(tmp_path / "other")[name]


def test_headers_say_what_sidecars_say(made):
    for path in sorted(made.bids.rglob("*_bold.nii.gz")):
        image = nib.load(path)
        sidecar = json.loads(Path(str(path).replace(".nii.gz", ".json")).read_text())
        assert image.shape == (32, 35, 26, 24)
        assert image.header.get_zooms()[3] == sidecar["RepetitionTime"] == 2.0
        assert image.header.get_xyzt_units() == ("mm", "sec")
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
        assert len(sidecar["SliceTiming"]) == image.shape[2]
        assert max(sidecar["SliceTiming"]) < sidecar["RepetitionTime"]
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
        assert sidecar["PhaseEncodingDirection"] == "j-"
        assert image.get_data_dtype() == np.int16


def test_the_pair_is_read_in_opposite_directions_and_says_what_it_is_for(made):
    folder = made.bids / "sub-02" / "fmap"
    against, along = (
        json.loads((folder / f"sub-02_dir-{name}_epi.json").read_text()) for name in ("AP", "PA")
    )
    assert against["PhaseEncodingDirection"] == "j-"
    assert along["PhaseEncodingDirection"] == "j"
    assert against["TotalReadoutTime"] == along["TotalReadoutTime"] > 0
    assert len(against["IntendedFor"]) == 2
    for uri in against["IntendedFor"]:
        bold = made.bids / uri.removeprefix("bids::")
        source = json.loads(Path(str(bold).replace(".nii.gz", ".json")).read_text())
        assert bold.exists()
        assert source["B0FieldSource"] == against["B0FieldIdentifier"]


def test_everybody_has_an_age_a_sex_and_a_group(made):
    with (made.bids / "participants.tsv").open() as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    assert [row["participant_id"] for row in rows] == ["sub-01", "sub-02"]
    assert [row["group"] for row in rows] == ["control", "patient"]
    assert all(20 <= int(row["age"]) <= 80 and row["sex"] in {"F", "M"} for row in rows)
    described = json.loads((made.bids / "participants.json").read_text())
    assert set(described) == set(rows[0])


def test_the_truth_stands_outside_the_dataset(made):
    assert made.truth.root == made.bids.with_name("people-truth")
    assert made.truth.settings.exists()
    assert json.loads(made.truth.settings.read_text())["Settings"]["seed"] == 3
    assert sorted(made.truth.participants) == ["01", "02"]
    assert len(made.truth.runs) == 4
    assert all(path.exists() for path in made.truth.runs.values())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(CannotCreateError, match="a phantom needs an empty folder"):
        make_phantom(tmp_path, scale="tiny")


def test_a_place_that_is_no_folder_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError, match="the folder of a phantom cannot be made"):
        make_phantom(tmp_path / "file" / "out", scale="tiny")


def test_an_unknown_scale_names_those_there_are(tmp_path):
    with pytest.raises(UsageError, match=" was asked for; there are "):
        make_phantom(tmp_path / "out", scale="huge")


@pytest.mark.parametrize(
    ("name", "value"),
    [("participants", 0), ("runs", 0), ("seed", -1), ("n_volumes", 3), ("motion", float("nan"))],
)
def test_too_small_a_number_says_how_many_are_needed(tmp_path, name, value):
    with pytest.raises(UsageError, match=f"{name}={value} cannot be made; at least"):
        make_phantom(tmp_path / "out", scale="tiny", **{name: value})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("echoes", 6), ("motion", 31.0), ("spikes", 25)])
def test_too_large_a_number_says_how_many_are_possible(tmp_path, name, value):
    with pytest.raises(UsageError, match="cannot be made; at most"):
        make_phantom(tmp_path / "out", scale="tiny", **{name: value})


def test_an_unknown_field_map_names_the_kinds_there_are(tmp_path):
    with pytest.raises(UsageError, match="a phantom with a field map of kind 'spiral'"):
        make_phantom(tmp_path / "out", scale="tiny", fieldmap="spiral")
