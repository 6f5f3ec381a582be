"""BOLD onto T1w: a known shift is found, and doubt is said."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.coregistration import (
    Anatomy,
    coregister,
    find_boundary,
    refine,
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
    depth = radius + 0.06 * np.sin(x / 9 + 1) * np.sin(y / 11) * np.cos(z / 10)
    white = 1 / (1 + np.exp((depth - 0.72) * 40))
    brain = 1 / (1 + np.exp((depth - 0.88) * 40))
    return white, np.clip(brain - white, 0, 1), brain


@pytest.fixture(scope="module")
def anatomy():
    white, grey, brain = (map_.astype(np.float32) for map_ in tissues(T1W.world()))
    t1w = 900 * white + 600 * grey
    return Anatomy(t1w=t1w, gm=grey, wm=white, mask=brain > 0.5, grid=T1W)


def boldref(grid, rng):
    """Grey brighter than white, seen where the truth puts it."""
    fine = [
        TRUTH.inverse()(grid.world() + grid.affine[:3, :3] @ o) for o in ([0.25] * 3, [-0.25] * 3)
    ]
    white, grey, brain = np.mean([tissues(p) for p in fine], axis=0)
    volume = 500 * white + 650 * grey + rng.normal(0, 8, grid.shape) * brain
    return volume.astype(np.float32), brain > 0.5


def far(found, anatomy):
    points = anatomy.grid.world()[anatomy.mask]
    away = apply_affine(found.matrix, points) - TRUTH(points)
    return np.percentile(np.linalg.norm(away, axis=1), 95)


@pytest.mark.parametrize("grid", BOLD.values(), ids=BOLD.keys())
def test_a_known_pose_is_found(grid, anatomy, rng, tmp_path):
    volume, mask = boldref(grid, rng)
    found, qc = coregister(volume, grid, bold_mask=mask, anatomy=anatomy, work_dir=tmp_path)
    assert far(found, anatomy) < 0.6  # mm
    assert qc["verdict"] == "ok"
    assert qc["mask_overlap"] > 0.9
    assert not list(tmp_path.iterdir())


def test_the_boundary_refines_a_pose_that_is_three_millimetres_off(anatomy, rng):
    grid = BOLD["LAS"]
    volume, _ = boldref(grid, rng)
    off = Affine(TRUTH.matrix @ from_matvec(euler2mat(0.02, 0.02, -0.02), [2, -2, 1.5]))
    found = refine(volume, grid, boundary=find_boundary(anatomy), start=off)
    assert far(off, anatomy) > 2.5  # mm
    assert far(found, anatomy) < 0.6  # mm


def test_a_boundary_lies_where_white_matter_ends(anatomy):
    boundary = find_boundary(anatomy)
    white = ndimage.map_coordinates(
        anatomy.wm, apply_affine(np.linalg.inv(T1W.affine), boundary.points).T, order=1
    )
    assert np.abs(white - 0.5).mean() < 0.1
    outwards = (boundary.normals * boundary.points).sum(axis=1) > 0
    assert outwards.mean() > 0.95
    np.testing.assert_allclose(np.linalg.norm(boundary.normals, axis=1), 1, atol=1e-6)


def test_two_unlike_heads_are_not_called_ok(anatomy, rng, tmp_path):
    grid = BOLD["LAS"]
    x, y, z = np.moveaxis(grid.world(), -1, 0)
    ball = np.sqrt(x**2 + y**2 + z**2) < 45
    volume = (ball * (500 + rng.normal(0, 60, grid.shape))).astype(np.float32)
    _, qc = coregister(volume, grid, bold_mask=ball, anatomy=anatomy, work_dir=tmp_path)
    assert qc["verdict"].startswith("look")


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
