"""The standard brains: what is in the package, and what TemplateFlow's home may replace."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import CorruptImageError, NoInputError
from neurostorm_app.pipelines.grid import STANDARD_GRIDS, Grid
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.templates import (
    DATA,
    SPACES,
    between,
    find_grid,
    load_parcellation_path,
    load_template,
)

MIB = 2**20
PAIRS = [(a, b) for a in SPACES for b in SPACES if a != b]


@pytest.fixture(autouse=True)
def _no_home(monkeypatch):
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)


@pytest.fixture
def brain_points(rng):
    template = load_template("MNI152NLin6Asym")
    inside = template.grid.world()[read_volume(template.mask)[0] > 0]
    return rng.choice(inside, 4000, replace=False)


@pytest.mark.parametrize(("space", "res"), STANDARD_GRIDS)
def test_every_standard_grid_has_its_embedded_brain(space, res):
    template = load_template(space, res)
    assert template.source == "embedded"
    for path in (template.t1w, template.mask, template.gm, template.wm, template.csf):
        image = nib.load(path)
        assert Grid.of(image) == template.grid
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 4


@pytest.mark.parametrize(("space", "res"), STANDARD_GRIDS)
def test_tissues_fill_the_brain_and_nothing_else(space, res):
    template = load_template(space, res)
    mask = read_volume(template.mask)[0] > 0
    total = sum(read_volume(path)[0] for path in (template.gm, template.wm, template.csf))
    np.testing.assert_allclose(total[mask], 1, atol=0.1)  # share
    assert not total[~mask].any()
    litres = mask.sum() * np.prod(template.grid.zooms) / 1e6
    assert 1.6 < litres < 2.0  # litres


def test_the_assets_are_small_and_their_licence_lies_beside_them():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 6 * MIB
    notice = (DATA / "LICENSE-ICBM.txt").read_text(encoding="utf-8")
    assert "Copyright (C) 1993-2004 Louis Collins" in notice


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_there_and_back_is_the_same_place(source, target, brain_points):
    back = between(target, source)(between(source, target)(brain_points))
    astray = np.linalg.norm(back - brain_points, axis=1)
    assert np.percentile(astray, 99.5) < 0.05  # mm


def test_two_spaces_are_not_one(brain_points):
    moved = between("MNI152NLin6Asym", "MNI152NLin2009cAsym")(brain_points) - brain_points
    distance = np.linalg.norm(moved, axis=1)
    assert 1.0 < np.median(distance) < 3.0  # mm
    assert distance.max() < 12.0  # mm


def test_the_map_brings_one_brain_onto_the_other():
    ours, theirs = load_template("MNI152NLin6Asym"), load_template("MNI152NLin2009cAsym")
    thin = (slice(None, None, 3),) * 3
    mask = read_volume(ours.mask)[0][thin] > 0
    expected = read_volume(ours.t1w)[0][thin][mask]
    target = Grid(mask.shape, ours.grid.affine @ np.diag([3, 3, 3, 1]))

    def likeness(xfm):
        moved = resample_volume(
            read_volume(theirs.t1w)[0], source=theirs.grid, target=target, xfm=xfm, order=1
        )
        return np.corrcoef(moved[mask], expected)[0, 1]

    assert likeness(between("MNI152NLin6Asym", "MNI152NLin2009cAsym")) > 0.97
    assert likeness(between("MNI152NLin2009cAsym", "MNI152NLin6Asym")) < 0.9
    assert likeness(None) < 0.9


def test_the_accuracy_of_the_maps_is_stated():
    for path in DATA.glob("*_xfm.json"):
        accuracy = json.loads(path.read_text(encoding="utf-8"))["Accuracy"]
        likeness = accuracy["CorrelationWithinBrain"]
        assert likeness["identity"] < likeness["affine"] < likeness["field"]
        assert accuracy["DisplacementMm"]["p95"] < 5  # mm


def test_one_space_needs_no_map(brain_points):
    same = between("MNI152NLin6Asym", "MNI152NLin6Asym")
    np.testing.assert_array_equal(same(brain_points), brain_points)


def _fill_home(home, space, roles):
    template = load_template(space)
    folder = home / f"tpl-{space}"
    folder.mkdir(parents=True)
    for name, content in roles.items():
        path = folder / f"tpl-{space}_res-02_{name}.nii.gz"
        if content is None:
            path.touch()
        else:
            write_volume(path, content, grid=template.grid)
    return folder


def test_templateflow_is_preferred_when_it_holds_the_brain(tmp_path, monkeypatch):
    one = np.ones(load_template("MNI152NLin6Asym").grid.shape)
    folder = _fill_home(tmp_path, "MNI152NLin6Asym", {"T1w": one, "desc-brain_mask": one})
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    template = load_template("MNI152NLin6Asym")
    assert template.source == "TemplateFlow (tissue maps: embedded)"
    assert template.t1w.parent == template.mask.parent == folder
    assert template.gm.parent == DATA


def test_templateflow_is_taken_whole_when_it_holds_the_tissues(tmp_path, monkeypatch):
    one = np.ones(load_template("MNI152NLin2009cAsym").grid.shape)
    tissues = [f"label-{tissue}_probseg" for tissue in ("GM", "WM", "CSF")]
    roles = dict.fromkeys(("T1w", "desc-brain_T1w", "desc-brain_mask", *tissues), one)
    folder = _fill_home(tmp_path, "MNI152NLin2009cAsym", roles)
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    template = load_template("MNI152NLin2009cAsym")
    assert template.source == "TemplateFlow"
    assert template.t1w.name.endswith("desc-brain_T1w.nii.gz")
    assert {template.gm.parent, template.wm.parent, template.csf.parent} == {folder}


def test_the_empty_files_of_a_skeleton_do_not_count(tmp_path, monkeypatch):
    _fill_home(tmp_path, "MNI152NLin6Asym", {"T1w": None, "desc-brain_mask": None})
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    assert load_template("MNI152NLin6Asym").source == "embedded"


def test_a_template_on_another_grid_does_not_count(tmp_path, monkeypatch):
    folder = _fill_home(tmp_path, "MNI152NLin6Asym", {})
    small = Grid.from_rows((7, 8, 9), [[2, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72]])
    for name in ("T1w", "desc-brain_mask"):
        path = folder / f"tpl-MNI152NLin6Asym_res-02_{name}.nii.gz"
        write_volume(path, np.ones(small.shape), grid=small)
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    assert load_template("MNI152NLin6Asym").source == "embedded"


def test_no_home_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_template("MNI152NLin6Asym").source == "embedded"
    assert not list(tmp_path.iterdir())


def test_an_unknown_template_says_which_there_are():
    with pytest.raises(NoInputError, match="no template Talairach at resolution 2") as caught:
        load_template("Talairach")
    assert "MNI152NLin6Asym res 2" in caught.value.what
    assert "--output-spaces" in caught.value.fix


def test_an_unknown_space_says_which_are_known():
    with pytest.raises(NoInputError, match="no map of Talairach") as caught:
        between("MNI152NLin6Asym", "Talairach")
    assert "MNI152NLin2009cAsym" in caught.value.fix


def test_an_unknown_parcellation_says_which_there_are():
    with pytest.raises(NoInputError, match=r"no parcellation 'Schaefer'.*GreyParcels100") as caught:
        load_parcellation_path("Schaefer")
    assert "--atlas" in caught.value.fix


@pytest.fixture(scope="module")
def parcels():
    path = load_parcellation_path()
    image = nib.load(path)
    about = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text("utf-8"))
    return np.asarray(image.dataobj), Grid.of(image), about


def test_there_are_exactly_a_hundred_parcels(parcels):
    labels, grid, about = parcels
    assert labels.dtype == np.uint8
    assert grid == STANDARD_GRIDS["MNI152NLin6Asym", "2"]
    assert set(np.unique(labels)) == set(range(101))
    counts = np.bincount(labels.ravel())
    assert [row["n_voxels"] for row in about["Labels"]] == counts[1:].tolist()
    assert [row["index"] for row in about["Labels"]] == list(range(1, 101))


def test_parcels_are_compact_and_keep_to_their_hemisphere(parcels):
    labels, grid, about = parcels
    world = grid.world()
    for row in about["Labels"]:
        points = world[labels == row["index"]]
        away = np.linalg.norm(points - row["centroid_mm"], axis=1)
        assert np.percentile(away, 95) < 25  # mm
        side = points[:, 0] < 0
        assert side.all() if row["hemisphere"] == "L" else not side.any()


def test_parcels_hold_the_grey_matter_and_little_else(parcels):
    labels, _, _ = parcels
    grey = read_volume(load_template("MNI152NLin6Asym").gm)[0]
    assert grey[labels > 0].min() > 0.39  # probability
    assert grey[labels > 0].sum() / grey.sum() > 0.8


def test_a_grid_is_found_without_an_image(tmp_path, monkeypatch):
    folder = tmp_path / "tpl-Other"
    folder.mkdir()
    described = {"res": {"03": {"shape": [61, 73, 62], "zooms": [3, 3, 3], "origin": [-9, -8, -7]}}}
    (folder / "template_description.json").write_text(json.dumps(described), encoding="utf-8")
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    expected = Grid.from_rows((61, 73, 62), [[3, 0, 0, -9], [0, 3, 0, -8], [0, 0, 3, -7]])
    assert find_grid("Other", "3") == expected
    with pytest.raises(NoInputError, match="no template Other at resolution 2"):
        find_grid("Other", "2")


def test_a_description_that_makes_no_sense_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "tpl-Other"
    folder.mkdir()
    (folder / "template_description.json").write_text('{"res": {"02": {}}}', encoding="utf-8")
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    with pytest.raises(CorruptImageError, match="the grid of resolution 2 cannot be read"):
        find_grid("Other", "2")


def test_the_fine_grids_are_twice_as_fine():
    assert find_grid("MNI152NLin6Asym", "1").shape == (182, 218, 182)
    assert find_grid("MNI152NLin2009cAsym", "1").shape == (193, 229, 193)
    assert load_template("MNI152NLin6Asym", "1").res == "2"
