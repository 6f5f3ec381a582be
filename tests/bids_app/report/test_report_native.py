"""Figures on the run's own grid: the correction of distortion, the field, the masks of noise."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app.report.native import (
    Tissues,
    draw_distortion,
    draw_field,
    draw_noise,
)
from neurostorm_app.bids_app.report.native_files import NativeAnatomy
from neurostorm_app.bids_app.report.tree import read_participant

if TYPE_CHECKING:
    from neurostorm_app.bids_app.report.panels import Notice

NAME = "sub-01_task-rest"


def read(tree):
    found = read_participant(tree.root, "01")
    return found.runs[0], Tissues(found.native)


def test_the_reference_is_shown_before_and_after_its_correction(tree):
    tree.native(NAME)
    panel = draw_distortion(*read(tree))
    assert panel is not None
    assert panel.pictures == [("before", "before"), ("after", "after")]
    assert panel.mosaic is not None
    assert panel.mosaic.images["before"] != panel.mosaic.images["after"]
    assert panel.contours == [("wm", "white matter")]


def test_a_run_that_was_not_corrected_has_no_such_figure(tree):
    tree.native(NAME, shift=0.0)
    assert draw_distortion(*read(tree)) is None


def test_the_white_matter_goes_along_with_the_run(tree):
    """A transform that moves points of the run by 24 mm moves the line the other way."""
    tree.native(NAME)
    run, tissues = read(tree)
    panel = draw_distortion(run, tissues)
    text = run.native.to_t1w.read_text()
    run.native.to_t1w.write_text(text.replace("0 0 0\nFixed", "0 -24 0\nFixed"))
    moved = draw_distortion(run, tissues)

    def first(one):
        return one.mosaic.overlay.split('contour wm"')[1]

    assert panel is not None
    assert moved is not None
    starts = [np.array(re.findall(r"M(\d+) (\d+)", first(one)), float) for one in (panel, moved)]
    axial = [rows[rows[:, 1] < 2 * 160] for rows in starts]  # half millimetres
    assert abs(axial[0][:, 1].mean() - axial[1][:, 1].mean()) == pytest.approx(48, abs=20)


def test_the_field_is_drawn_with_its_scale_in_hertz(tree):
    tree.native(NAME)
    panel = draw_field(read(tree)[0])
    assert panel is not None
    assert (panel.scale["low"], panel.scale["high"]) == ("-40 Hz", "+40 Hz")


def test_the_masks_of_noise_are_those_that_were_used_or_a_notice_says_it(tree):
    tree.native(NAME)
    notices: list[Notice] = []
    run, tissues = read(tree)
    panel = draw_noise(run, tissues, notices)
    assert panel is not None
    sizes = {w: int(n) for n, w in re.findall(r"(\d+) of (white matter|CSF)", panel.caption)}
    assert [key for key, _ in panel.contours] == ["mask", *["noise-w", "noise-c"][: len(sizes)]]
    assert sizes["white matter"] > 20
    assert notices == []
    run.qc["motion"] = {"noise_mask_voxels": {"w": sizes["white matter"] + 1}}
    draw_noise(run, tissues, notices)
    assert len(notices) == 1
    assert f"{sizes['white matter'] + 1} were used" in notices[0].what


def test_tissues_that_are_cut_to_the_head_stay_in_their_place(tree):
    tree.native(NAME)
    _, tissues = read(tree)
    assert tissues.maps is not None
    maps, grid = tissues.maps
    whole = nib.load(tissues.files.wm)
    voxel = np.argwhere(maps["wm"] > 0)[7]
    where = np.linalg.inv(whole.affine) @ grid.affine @ [*voxel, 1]
    assert np.asarray(whole.dataobj)[tuple(np.round(where[:3]).astype(int))] == 1
    assert maps["wm"].sum() == np.asarray(whole.dataobj).sum()


def test_without_native_files_nothing_is_drawn(tree):
    tree.series(NAME)
    run, _ = read(tree)
    tissues = Tissues(NativeAnatomy())
    assert draw_distortion(run, tissues) is None
    assert draw_field(run) is None
    assert draw_noise(run, tissues, []) is None


def test_the_method_of_the_correction_is_told(tree):
    tree.native(NAME)
    run, tissues = read(tree)
    run.sidecar |= json.loads('{"DistortionCorrection": {"Method": "pepolar"}}')
    panel = draw_distortion(run, tissues)
    assert panel is not None
    assert "Corrected by: pepolar." in panel.caption


def test_a_field_without_a_brain_has_no_picture(tree):
    tree.native(NAME)
    run, _ = read(tree)
    image = nib.load(run.native.mask)
    nib.save(nib.Nifti1Image(np.zeros(tree.shape, dtype=np.uint8), image.affine), run.native.mask)
    assert draw_field(run) is None
