"""BOLD onto T1w: a known shift is found, and doubt is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.placing.boundary import (
    Anatomy,
    EdgeCost,
    find_boundary,
    pose,
    refine,
)
from neurostorm_app.pipelines.preprocess.placing.coregistration import (
    coregister,
    judge_coregistration,
)
from neurostorm_app.pipelines.xfm import Affine

T1W = Grid((74, 88, 70), from_matvec(np.diag([2.0, 2, 2]), [-74, -88, -70]))
TURNED = euler2mat(0.15, 0.05, -0.1) @ np.diag([-3.5, 3.5, 4])
BOLD = {
    "LAS": Grid((44, 52, 34), from_matvec(np.diag([-3.5, 3.5, 4]), [75, -90, -66])),
    "oblique": Grid((46, 54, 38), from_matvec(TURNED, -TURNED @ [22.5, 26.5, 18.5])),
}
TRUTH = Affine(from_matvec(euler2mat(0.06, -0.05, 0.08), [5.0, -4, 6]))


def tissues(points):
    """White matter with broad folds, a ribbon of grey matter around it, as functions of mm."""
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    radius = np.sqrt((x / 62) ** 2 + (y / 76) ** 2 + (z / 58) ** 2)
    depth = radius + 0.09 * np.sin(x / 5 + 1) * np.sin(y / 6) * np.cos(z / 5.5 + 0.5)
    white = 1 / (1 + np.exp((depth - 0.72) * 60))
    brain = 1 / (1 + np.exp((depth - 0.88) * 60))
    return white, np.clip(brain - white, 0, 1), brain


@pytest.fixture(scope="module")
def anatomy():
    white, grey, brain = (map_.astype(np.float32) for map_ in tissues(T1W.world()))
    t1w = 900 * white + 600 * grey
    return Anatomy(t1w=t1w, gm=grey, wm=white, mask=brain > 0.5, grid=T1W)


def boldref(grid, rng, *, truth=TRUTH, contrast=150):
    """Grey brighter than white, seen where the truth puts it."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * 0.5 - 0.25
    fine = [truth.inverse()(grid.world() + grid.affine[:3, :3] @ o) for o in corners]
    white, grey, brain = np.mean([tissues(p) for p in fine], axis=0)
    volume = 500 * white + (500 + contrast) * grey + rng.normal(0, 8, grid.shape) * brain
    return volume.astype(np.float32), brain > 0.5


def far(found, anatomy):
    points = anatomy.grid.world()[anatomy.mask]
    away = apply_affine(found.matrix, points) - TRUTH(points)
    return np.percentile(np.linalg.norm(away, axis=1), 95)


def middle(found, anatomy, truth=TRUTH):
    points = anatomy.grid.world()[anatomy.mask]
    return np.median(np.linalg.norm(apply_affine(found.matrix, points) - truth(points), axis=1))


@pytest.mark.parametrize("grid", BOLD.values(), ids=BOLD.keys())
def test_a_known_pose_is_found(grid, anatomy, rng, tmp_path):
    volume, mask = boldref(grid, rng)
    found, qc = coregister(volume, grid, bold_mask=mask, anatomy=anatomy, work_dir=tmp_path)
    assert middle(found, anatomy) < 0.5  # mm
    assert qc["verdict"] == "pass"
    assert qc["reasons"] == []
    assert qc["mask_overlap"] > 0.9
    assert qc["cost"] < qc["cost_start"]
    assert not list(tmp_path.iterdir())
    json.dumps(qc, allow_nan=False)


HARD = {
    "6 mm slices": ({"affine": np.diag([-3.5, 3.5, 6]), "shape": (44, 52, 23)}, {}),
    "a slab": ({"affine": np.diag([-3.0, 3, 3]), "shape": (52, 60, 14)}, {}),
    "low contrast": ({"affine": np.diag([-3.5, 3.5, 4]), "shape": (44, 52, 34)}, {"contrast": 30}),
}


@pytest.mark.parametrize(("given", "changes"), HARD.values(), ids=HARD.keys())
def test_a_pose_is_found_in_poor_images(given, changes, anatomy, rng, tmp_path):
    extent = given["affine"] @ (np.array(given["shape"]) / 2)
    grid = Grid(given["shape"], from_matvec(given["affine"], -extent))
    volume, mask = boldref(grid, rng, **changes)
    found, qc = coregister(
        volume, grid, bold_mask=mask, anatomy=anatomy, work_dir=tmp_path, init="header"
    )
    assert middle(found, anatomy) < 0.5  # mm
    assert qc["verdict"] in {"pass", "look"}
    assert qc["cost"] < qc["cost_mirrored"] - 0.1


@pytest.mark.parametrize("dof", [9, 12])
def test_a_stretched_head_is_found_with_more_freedom(dof, anatomy, rng, tmp_path):
    grid = BOLD["LAS"]
    numbers = np.array([3.0, -2, 2, 2, -1, 2, 3, -2, 2, 2, -1, 1])[:dof]
    truth = Affine(pose(numbers, np.zeros(3)))
    volume, mask = boldref(grid, rng, truth=truth)
    given = {"bold_mask": mask, "anatomy": anatomy, "work_dir": tmp_path, "init": "header"}
    rigid, _ = coregister(volume, grid, **given)
    free, qc = coregister(volume, grid, dof=dof, **given)
    assert middle(free, anatomy, truth) < 0.5  # mm
    assert middle(free, anatomy, truth) < 0.6 * middle(rigid, anatomy, truth)
    assert qc["dof"] == dof


def test_a_start_by_mutual_information_finds_a_head_that_lies_far_off(anatomy, rng, tmp_path):
    truth = Affine(from_matvec(euler2mat(0.2, -0.1, 0.1), [18.0, -22, 12]))
    grid = Grid((56, 60, 50), from_matvec(np.diag([-3.5, 3.5, 4]), [98, -105, -100]))
    volume, mask = boldref(grid, rng, truth=truth)
    found, qc = coregister(
        volume, grid, bold_mask=mask, anatomy=anatomy, work_dir=tmp_path, init="t1w"
    )
    assert qc["start"] == "t1w"
    assert middle(found, anatomy, truth) < 0.5  # mm
    assert qc["verdict"] == "pass"


def test_the_slope_of_the_cost_is_its_derivative(anatomy, rng):
    grid = BOLD["oblique"]
    volume, _ = boldref(grid, rng)
    cost = EdgeCost(volume, grid, find_boundary(anatomy))
    value, slope = cost.slope(TRUTH.matrix)
    assert value == pytest.approx(cost.at(TRUTH.matrix), abs=1e-12)
    for row, column in np.ndindex(3, 4):
        step = np.zeros((4, 4))
        step[row, column] = 1e-6
        rise = (cost.at(TRUTH.matrix + step) - cost.at(TRUTH.matrix - step)) / 2e-6
        assert slope[row, column] == pytest.approx(rise, rel=1e-2, abs=1e-3)


def test_the_boundary_refines_a_pose_that_is_three_millimetres_off(anatomy, rng):
    grid = BOLD["LAS"]
    volume, _ = boldref(grid, rng)
    off = TRUTH.matrix @ from_matvec(euler2mat(0.02, 0.02, -0.02), [2, -2, 1.5])
    found = refine(EdgeCost(volume, grid, find_boundary(anatomy)), off)
    assert far(Affine(off), anatomy) > 2.5  # mm
    assert far(Affine(found), anatomy) < 0.6  # mm


def test_a_boundary_lies_where_white_matter_ends(anatomy):
    boundary = find_boundary(anatomy)
    white = ndimage.map_coordinates(
        anatomy.wm, apply_affine(np.linalg.inv(T1W.affine), boundary.points).T, order=1
    )
    assert np.abs(white - 0.5).mean() < 0.1
    outwards = (boundary.normals * boundary.points).sum(axis=1) > 0
    assert outwards.mean() > 0.95
    np.testing.assert_allclose(np.linalg.norm(boundary.normals, axis=1), 1, atol=1e-6)


def test_a_swapped_header_fails(anatomy, rng, tmp_path):
    grid = BOLD["LAS"]
    volume, mask = boldref(grid, rng)
    _, qc = coregister(
        volume[::-1].copy(), grid, bold_mask=mask[::-1].copy(), anatomy=anatomy, work_dir=tmp_path
    )
    assert qc["verdict"] == "fail"
    assert "left and right are swapped" in qc["reasons"][0]


def test_a_ball_is_not_this_head(anatomy, rng, tmp_path):
    grid = BOLD["LAS"]
    x, y, z = np.moveaxis(grid.world(), -1, 0)
    ball = np.sqrt(x**2 + y**2 + z**2) < 45
    volume = (ball * (500 + rng.normal(0, 60, grid.shape))).astype(np.float32)
    _, qc = coregister(volume, grid, bold_mask=ball, anatomy=anatomy, work_dir=tmp_path)
    assert qc["verdict"] == "fail"
    assert "another head" in qc["reasons"][0]


NUMBERS = {
    "method": "boundary",
    "cost": 0.5,
    "cost_mirrored": 0.9,
    "refinement_mm": 1.0,
    "second_start_mm": 0.1,
    "mask_overlap": 0.95,
    "seen_share": 1.0,
}
DOUBTS = {
    "as it should be": ({}, "pass", None),
    "mirrored as well": ({"cost_mirrored": 0.55}, "look", "nearly as well"),
    "mirrored better": ({"cost_mirrored": 0.3}, "fail", "swapped"),
    "another head": ({"cost": 0.9}, "fail", "another head"),
    "far": ({"method": "start", "refinement_mm": 20.0}, "look", "20.0 mm off"),
    "two ends": ({"second_start_mm": 3.0}, "look", "3.0 mm away"),
    "masks": ({"mask_overlap": 0.5}, "look", "overlap by 0.5"),
    "little seen": ({"seen_share": 0.3}, "look", "0.3 of the boundary"),
}


@pytest.mark.parametrize(("changes", "verdict", "words"), DOUBTS.values(), ids=DOUBTS.keys())
def test_doubt_has_a_reason(changes, verdict, words):
    found = judge_coregistration(NUMBERS | changes)
    assert found["verdict"] == verdict
    assert words is None or words in found["reasons"][0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dof": 7}, "7 degrees of freedom for BOLD to T1w"),
        ({"init": "t2w"}, "is 't2w'; auto, t1w"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(given, words, anatomy, rng, tmp_path):
    volume, mask = boldref(BOLD["LAS"], rng)
    with pytest.raises(UsageError, match=words):
        coregister(volume, BOLD["LAS"], bold_mask=mask, anatomy=anatomy, work_dir=tmp_path, **given)


def test_a_t1w_image_without_a_boundary_is_refused(anatomy):
    flat = Anatomy(
        t1w=anatomy.t1w,
        gm=np.zeros_like(anatomy.gm),
        wm=anatomy.wm,
        mask=anatomy.mask,
        grid=anatomy.grid,
    )
    with pytest.raises(DataError, match="at least 500 are needed to place the BOLD reference"):
        find_boundary(flat)
