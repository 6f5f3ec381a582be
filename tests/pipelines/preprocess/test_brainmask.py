"""The brain mask: stripped input, whole heads, and two methods compared."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.preprocess.anatomy import brainmask
from neurostorm_app.pipelines.preprocess.anatomy.brainmask import (
    compare_masks,
    extract_brain,
    read_mask,
)
from neurostorm_app.pipelines.preprocess.anatomy.roughbrain import find_rough_brain
from neurostorm_app.pipelines.templates import load_template

GRID = Grid.from_rows((43, 50, 47), [[4, 0, 0, -84], [0, 4, 0, -98], [0, 0, 4, -92]])


def _ball(litres):
    radius = (litres * 1e6 * 3 / (4 * np.pi)) ** (1 / 3)
    return np.linalg.norm(GRID.world(), axis=-1) < radius


def _stripped():
    template = load_template("MNI152NLin6Asym")
    volume, grid = read_volume(template.t1w)
    return volume, read_volume(template.mask)[0] > 0, grid


def test_a_brain_without_skull_is_taken_as_it_is(tmp_path, monkeypatch):
    def never(*_):
        pytest.fail("the network was asked")

    monkeypatch.setattr(brainmask, "_deepbet", never)
    volume, expected, grid = _stripped()
    write_volume(tmp_path / "T1w.nii.gz", volume, grid=grid)
    report = extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    mask = read_mask(tmp_path / "mask.nii.gz", grid)
    dice = 2 * np.sum(mask & expected) / (mask.sum() + expected.sum())
    assert dice > 0.99
    assert report["method"] == "skull-stripped input"
    assert (report["verdict"], report["reasons"]) == ("pass", [])


def test_a_head_goes_to_the_network(tmp_path, monkeypatch):
    head = np.where(_ball(4.0), 300, 0) + np.where(_ball(1.4), 500, 0)
    write_volume(tmp_path / "T1w.nii.gz", head, grid=GRID)
    monkeypatch.setattr(brainmask, "_deepbet", lambda *_: _ball(1.4))
    report = extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    assert report["method"] == "deepbet"
    assert report["volume_litres"] == pytest.approx(1.4, abs=0.02)  # litres


def test_a_brain_inside_a_skull_with_a_gap_is_not_stripped(tmp_path, monkeypatch):
    head = (_ball(1.4) | (_ball(3.6) & ~_ball(2.0))) * 500
    write_volume(tmp_path / "T1w.nii.gz", head, grid=GRID)
    monkeypatch.setattr(brainmask, "_deepbet", lambda *_: _ball(1.4))
    report = extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    assert report["method"] == "deepbet"


def test_an_unusual_volume_gets_a_look(tmp_path, monkeypatch):
    write_volume(tmp_path / "T1w.nii.gz", _ball(4.0) * 300, grid=GRID)
    monkeypatch.setattr(brainmask, "_deepbet", lambda *_: _ball(0.7))
    report = extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    assert report["verdict"] == "look"
    assert report["reasons"][0].startswith("0.70 litres")


def test_an_impossible_volume_stops_the_work(tmp_path, monkeypatch):
    write_volume(tmp_path / "T1w.nii.gz", _ball(4.0) * 300, grid=GRID)
    monkeypatch.setattr(brainmask, "_deepbet", lambda *_: _ball(0.1))
    with pytest.raises(DataError, match=r"T1w\.nii\.gz: brain extraction found 0.10 litres"):
        extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    assert not (tmp_path / "mask.nii.gz").exists()


def test_two_masks_that_agree(tmp_path):
    write_volume(tmp_path / "a.nii.gz", _ball(1.4), grid=GRID, dtype=np.uint8)
    write_volume(tmp_path / "b.nii.gz", _ball(1.45), grid=GRID, dtype=np.uint8)
    report = compare_masks(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    assert report["dice"] > 0.97
    assert report["verdict"] == "pass"
    assert report["second_volume_litres"] > report["volume_litres"]


def test_two_masks_that_disagree_get_a_look(tmp_path):
    write_volume(tmp_path / "a.nii.gz", _ball(1.4), grid=GRID, dtype=np.uint8)
    write_volume(tmp_path / "b.nii.gz", np.roll(_ball(1.4), 5, axis=0), grid=GRID, dtype=np.uint8)
    report = compare_masks(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    assert report["verdict"] == "look"
    assert report["reasons"][0].startswith("two methods agree by a Dice of")


def test_a_mask_of_another_grid_is_refused(tmp_path):
    write_volume(tmp_path / "mask.nii.gz", _ball(1.4), grid=GRID, dtype=np.uint8)
    other = Grid(GRID.shape, GRID.affine + np.diag([0, 0, 0.1, 0]))
    with pytest.raises(CorruptImageError, match=r"mask\.nii\.gz: the mask's grid"):
        read_mask(tmp_path / "mask.nii.gz", other)


def test_an_empty_mask_is_refused(tmp_path):
    write_volume(tmp_path / "mask.nii.gz", np.zeros(GRID.shape), grid=GRID, dtype=np.uint8)
    with pytest.raises(CorruptImageError, match=r"mask\.nii\.gz: the mask is empty"):
        read_mask(tmp_path / "mask.nii.gz", GRID)


def test_a_network_that_finds_nothing_is_explained(tmp_path, monkeypatch):
    class Blind:
        def __init__(self, **_):
            pass

        def run(self, _):
            raise AssertionError("Not enough foreground to calculate bounding box")

    monkeypatch.setattr("deepbet.BrainExtraction", Blind)
    write_volume(tmp_path / "T1w.nii.gz", _ball(4.0) * 300, grid=GRID)
    with pytest.raises(DataError, match=r"found no brain .Not enough foreground") as caught:
        extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    assert "whole head" in caught.value.fix


def _head_with_brain(shift=0.0):
    """Draw scalp, dark bone and a brain; the brain can be anywhere in the field of view."""
    points = GRID.world() - [0, shift, 0]
    far = np.linalg.norm(points / [76, 92, 80], axis=-1)
    head = np.select([far < 0.78, far < 0.97, far < 1.08], [600.0, 60.0, 500.0], 5.0)
    return head.astype(np.float32), far < 0.78


def test_the_second_method_finds_the_brain_by_its_shape():
    head, brain = _head_with_brain()
    found = find_rough_brain(head, GRID)
    assert 2 * np.sum(found & brain) / (found.sum() + brain.sum()) > 0.93


def test_the_second_method_finds_nothing_in_noise(rng):
    assert find_rough_brain(rng.uniform(0, 100, GRID.shape).astype(np.float32), GRID) is None


def test_the_second_method_stands_in_where_the_network_finds_nothing(tmp_path, monkeypatch):
    head, brain = _head_with_brain()

    def blind(*_):
        raise DataError("brain extraction found no brain", fix="look")

    monkeypatch.setattr(brainmask, "_deepbet", blind)
    write_volume(tmp_path / "T1w.nii.gz", head, grid=GRID)
    report = extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    mask = read_mask(tmp_path / "mask.nii.gz", GRID)
    assert 2 * np.sum(mask & brain) / (mask.sum() + brain.sum()) > 0.93
    assert report["method"] == report["second_method"] == "a mask by brightness and shape"
    assert report["verdict"] == "look"
    assert "stands in" in report["reasons"][0]


def test_methods_that_disagree_get_a_look(tmp_path, monkeypatch):
    head, brain = _head_with_brain()
    monkeypatch.setattr(brainmask, "_deepbet", lambda *_: np.roll(brain, 5, axis=1))
    write_volume(tmp_path / "T1w.nii.gz", head, grid=GRID)
    report = extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    assert report["second_dice"] < 0.88
    assert any("agrees by a Dice of" in reason for reason in report["reasons"])


def test_a_brain_that_is_cut_by_the_field_of_view_gets_a_look(tmp_path, monkeypatch):
    head, brain = _head_with_brain(shift=60.0)
    monkeypatch.setattr(brainmask, "_deepbet", lambda *_: brain)
    write_volume(tmp_path / "T1w.nii.gz", head, grid=GRID)
    report = extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    assert "the brain mask reaches a side of the field of view" in report["reasons"]


def test_a_hole_in_the_networks_mask_is_filled(tmp_path, monkeypatch):
    """A lesion inside the brain is brain."""
    head, brain = _head_with_brain()
    lesion = np.linalg.norm(GRID.world() - [20, 10, 8], axis=-1) < 14
    monkeypatch.setattr(brainmask, "_deepbet", lambda *_: brain & ~lesion)
    write_volume(tmp_path / "T1w.nii.gz", np.where(lesion, 70, head), grid=GRID)
    extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    assert read_mask(tmp_path / "mask.nii.gz", GRID)[lesion].all()


@pytest.mark.slow
def test_a_ball_is_no_head(tmp_path):
    write_volume(tmp_path / "T1w.nii.gz", _ball(3.0) * 300, grid=GRID)
    try:
        report = extract_brain(tmp_path / "T1w.nii.gz", tmp_path / "mask.nii.gz")
    except DataError:
        return
    assert report["verdict"] == "look"


@pytest.mark.slow
def test_the_network_finds_the_brain_of_a_real_head_and_writes_nothing_else(
    shared, tmp_path, monkeypatch
):
    scan = shared / "data/studyforrest-sub02-small/sub-02/anat/sub-02_T1w.nii.gz"
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    report = extract_brain(scan, tmp_path / "mask.nii.gz")
    assert 1.6 < report["volume_litres"] < 2.0  # litres
    assert report["second_dice"] > 0.9
    assert (report["verdict"], report["reasons"]) == ("pass", [])
    assert not list(home.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "mask.nii.gz"]
