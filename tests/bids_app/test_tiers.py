"""Tiers of compatibility: what our own output holds, and what is missing by name."""

from __future__ import annotations

import json

import pytest

from neurostorm_app.bids_app import tools
from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.tiers import check_tiers
from neurostorm_app.errors import NoInputError

RUN = "sub-01_task-rest_run-1"
MNI = "space-MNI152NLin6Asym_res-2"


@pytest.fixture
def out(settings, fake, tmp_path):
    """Make an output of one participant with one run."""
    run_app(settings(participant_label=["01"], run_label=["1"]), engines=fake.engines())
    return tmp_path / "out"


def lacking(root):
    return {tier.letter: tier.missing for tier in check_tiers(root) if tier.missing}


def test_our_output_holds_every_tier(out, capsys):
    assert lacking(out) == {}
    assert tools.main(["check-compat", str(out), "--require", "ABCDEV"]) == 0
    assert "B  XCP-D: yes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("removed", "tiers"),
    [
        (f"func/{RUN}_desc-confounds_timeseries.json", "ABCD"),
        (f"func/{RUN}_{MNI}_boldref.nii.gz", "B"),
        (f"func/{RUN}_{MNI}_desc-brain_mask.nii.gz", "ABD"),
        ("anat/sub-01_from-MNI152NLin6Asym_to-T1w_mode-image_xfm.h5", "B"),
        ("anat/sub-01_desc-preproc_T1w.nii.gz", "BE"),
        ("anat/sub-01_label-WM_probseg.nii.gz", "E"),
        (f"func/{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt", "E"),
    ],
)
def test_what_is_missing_is_named_where_it_counts(out, removed, tiers):
    (out / "sub-01" / removed).unlink()
    found = lacking(out)
    assert {letter for letter in found if letter != "V"} == set(tiers)
    assert all(f"sub-01/{removed}" in found[letter] for letter in tiers)


def test_a_space_that_is_not_there_fails_who_wants_it(out):
    for path in out.rglob("*MNI152NLin2009cAsym*_bold.nii.gz"):
        path.unlink()
    name = f"sub-01/func/{RUN}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    assert lacking(out)["C"] == (name,)


def test_a_repetition_time_and_one_series_a_space_are_wanted(out):
    func = out / "sub-01" / "func"
    sidecar = func / f"{RUN}_{MNI}_desc-preproc_bold.json"
    sidecar.write_text(json.dumps({"TaskName": "rest"}))
    for path in list(func.glob(f"{RUN}_{MNI}_desc-*_bold*")):
        path.with_name(path.name.replace("res-2", "res-1")).write_bytes(path.read_bytes())
    told = " ".join(lacking(out)["D"])
    assert f"{sidecar.name}: RepetitionTime" in told
    assert f"{RUN}: one series in MNI152NLin6Asym; there are 2" in told


def test_the_parts_of_a_field_map_are_wanted(out):
    func = out / "sub-01" / "func"
    (func / f"{RUN}_from-boldref_to-pe_mode-image_desc-fmap_xfm.txt").touch()
    stem = "sub-01/fmap/sub-01_fmapid-pe_desc"
    parts = tuple(f"{stem}-{desc}_fieldmap.nii.gz" for desc in ("coeff*", "preproc", "epi"))
    assert lacking(out)["E"] == parts
    (func / f"{RUN}_fmapid-pe_desc-boldref_fieldmap.nii.gz").touch()
    assert "E" not in lacking(out)
    (out / "sub-01/fmap").mkdir()
    (out / f"{stem}-magnitude_fieldmap.nii.gz").touch()
    assert lacking(out)["E"] == parts[:2]


def test_a_tier_that_is_required_ends_in_an_error(out, capsys):
    (out / "sub-01" / "anat" / "sub-01_dseg.nii.gz").unlink()
    assert tools.main(["check-compat", str(out), "--require", "E"]) == 65
    assert "does not hold what is required: E lacks sub-01/anat" in capsys.readouterr().err
    assert tools.main(["check-compat", str(out), "--require", "Z"]) == 64
    assert "--require: Z is no tier" in capsys.readouterr().err


def test_a_folder_without_runs_is_no_derivative(tmp_path):
    with pytest.raises(NoInputError, match="holds no BOLD run of a derivative"):
        check_tiers(tmp_path)
