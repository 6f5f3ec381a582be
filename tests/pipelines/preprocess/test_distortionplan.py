"""Which way distortion is corrected, and what is said where it is not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.pipelines.preprocess.distortionplan import plan_distortion
from neurostorm_app.pipelines.preprocess.workflow import Options
from neurostorm_app.pipelines.stage import Fieldmap, Run

EPI = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.03}


@pytest.fixture
def make_run(tmp_path):
    bold = tmp_path / "bold.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 7), np.float32), np.eye(4)), bold)

    def make(kind=None, metadata=EPI):
        fieldmap = None if kind is None else Fieldmap(name="a", kind=kind, scans=())
        return Run(
            name="sub-1", participant="1", bold=bold, tr=2.0, metadata=metadata, fieldmap=fieldmap
        )

    return make


def plan(run, *, has_t1w=True, fit=None, **options):
    return plan_distortion(run, Options(**options), has_t1w=has_t1w, fit=fit)


@pytest.mark.parametrize(
    ("kind", "jacobian"),
    [("pepolar", True), ("phasediff", False), ("phases", False), ("direct", False)],
)
def test_a_field_map_is_used_and_brightness_follows_its_kind(make_run, kind, jacobian):
    found = plan(make_run(kind))
    assert (found.way, found.fieldmap.kind) == ("map", kind)
    assert found.facts == {"phase": [1, -1], "readout": 0.03, "jacobian": jacobian}
    # What was estimated before is continued the same way.
    fit = {"field": Path("f"), "fmap_xfm": Path("x")}
    again = plan(make_run(kind), fit=fit)
    assert (again.way, again.fieldmap, again.facts) == ("given", None, found.facts)


def test_brightness_may_be_left(make_run):
    found = plan(make_run("pepolar"), ignore=frozenset({"fmap-jacobian"}))
    assert found.facts["jacobian"] is False


@pytest.mark.parametrize(("desc", "jacobian"), [("epi", True), ("magnitude", False)])
def test_a_field_of_fmriprep_is_taken_by_what_it_came_from(make_run, desc, jacobian):
    fit = {
        "fmap_xfm": Path("x"),
        "fmap_coefficients": Path("c"),
        "fmap_reference": Path(f"sub-1_fmapid-a_desc-{desc}_fieldmap.nii.gz"),
    }
    found = plan(make_run(), fit=fit)
    assert (found.way, found.facts["jacobian"]) == ("given", jacobian)


def test_without_a_field_map_the_anatomy_is_asked_only_by_choice(make_run):
    assert plan(make_run(), use_syn_sdc=True).way == "anatomy"
    assert plan(make_run(), use_syn_sdc=True, has_t1w=False).way == "none"
    (note,) = plan(make_run()).notes
    assert note == "susceptibility distortion is not corrected: no field map belongs to the run"


@pytest.mark.parametrize(
    ("metadata", "options", "words"),
    [
        ({"TotalReadoutTime": 0.03}, {}, "PhaseEncodingDirection"),
        ({"PhaseEncodingDirection": "j"}, {}, "bold.nii.gz: its sidecar has neither"),
        (EPI, {"ignore": frozenset({"fieldmaps"})}, "by choice"),
    ],
)
def test_what_is_not_corrected_is_told_with_its_reason(make_run, metadata, options, words):
    found = plan(make_run("pepolar", metadata), **options)
    assert (found.way, found.fieldmap, found.facts) == ("none", None, {})
    assert words in found.notes[0]
    assert str(make_run().bold.parent) not in found.notes[0]


@pytest.mark.parametrize(
    ("kind", "metadata", "options"),
    [
        (None, EPI, {}),
        (None, EPI, {"use_syn_sdc": True, "has_t1w": False}),
        ("pepolar", EPI, {"ignore": frozenset({"fieldmaps"})}),
        ("pepolar", {"TotalReadoutTime": 0.03}, {}),
    ],
    ids=["no field map", "no anatomy", "by choice", "no direction"],
)
def test_the_same_is_said_whether_or_not_estimates_were_there_before(
    make_run, kind, metadata, options
):
    run = make_run(kind, metadata)
    assert plan(run, fit={"hmc_xfm": Path("x")}, **options) == plan(run, **options)


@pytest.mark.parametrize(("kind", "options"), [("pepolar", {}), (None, {"use_syn_sdc": True})])
def test_estimates_without_a_field_that_could_be_had_are_told(make_run, kind, options):
    found = plan(make_run(kind), fit={"hmc_xfm": Path("x"), "fmap_xfm": Path("y")}, **options)
    assert (found.way, found.facts) == ("none", {})
    assert found.notes[0].endswith("is not corrected: its estimates hold no field")
