"""The truth is true: of anatomy, motion and field."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom import read_participant_truth, read_run_truth
from neurostorm_app.pipelines.phantom.acquisition import Acquisition, place_grid, slice_times
from neurostorm_app.pipelines.phantom.bold import Conditions, render_series
from neurostorm_app.pipelines.phantom.distortion import READOUT, field_map
from neurostorm_app.pipelines.phantom.head import CENTRE, build_head
from neurostorm_app.pipelines.phantom.motion import MOST, draw_motion, draw_pose
from neurostorm_app.pipelines.phantom.networks import REGIONS, Activity
from neurostorm_app.pipelines.phantom.people import build_anatomy, check_diffeomorphic
from neurostorm_app.pipelines.phantom.scene import build_scene
from neurostorm_app.pipelines.phantom.settings import SCALES
from neurostorm_app.pipelines.xfm import Field

SILENCE = Activity(np.array([0.05]), np.zeros((len(REGIONS), 1)), np.zeros((len(REGIONS), 1)))
FINE = replace(SCALES["tiny"], bold_zoom=3.5, bold_shape=(54, 61, 44))


@pytest.fixture(scope="module")
def still():
    """Make a noiseless scan of a head that moves, without distortion."""
    anatomy = build_anatomy(1, seed=5, head=build_head(2), scale=FINE)
    scene = build_scene(build_head(2), anatomy, scale=FINE)
    centre = anatomy.template_to_t1w(CENTRE[None])[0]
    return scene, Acquisition(
        grid=place_grid(centre, number=1, seed=5, scale=FINE),
        times=slice_times(FINE),
        motion=draw_motion(30, seed=5, participant=1, run=1, centre=centre)[[0, 12, 29]],
        t1w_to_bold=draw_pose(seed=5, participant=1, run=1),
        phase_sign=0,
    )


def render(scene, acquisition):
    quiet = np.random.default_rng(0)
    series = render_series(scene, acquisition, SILENCE, rng=quiet, conditions=Conditions(noise=0))
    return series.astype(float)


def look_up(volume, affine, points):
    voxels = np.moveaxis(apply_affine(np.linalg.inv(affine), points), -1, 0)
    return ndimage.map_coordinates(volume, voxels, order=3)


@pytest.mark.parametrize("label", ["01", "02"])
def test_the_two_warps_undo_each_other(made, label):
    truth = read_participant_truth(made.truth.participants[label])
    there = truth.t1w_to_template(truth.grey_t1w)
    away = np.linalg.norm(there - truth.grey_template, axis=-1)
    assert away.max() < 0.1  # mm
    back = np.linalg.norm(truth.template_to_t1w(there) - truth.grey_t1w, axis=-1)
    assert back.max() < 0.1  # mm
    moved = np.linalg.norm(truth.grey_t1w - truth.grey_template, axis=-1)
    assert 1 < np.median(moved) < 30  # mm: it is not the identity


@pytest.mark.parametrize("scale", ["tiny", "full"])
def test_no_warp_folds(scale):
    anatomy = build_anatomy(2, seed=7, head=build_head(2), scale=SCALES[scale])
    field = anatomy.t1w_to_template.steps[1]
    assert isinstance(field, Field)
    assert 0.2 < check_diffeomorphic(field) < 1
    size = np.linalg.norm(field.displacement, axis=-1)
    assert 1 < np.median(size[size > 0.1]) < 4  # mm
    there = build_head(2).grid.world()[10:-10:7, 10:-10:7, 20:-10:7]
    away = anatomy.t1w_to_template(anatomy.template_to_t1w(there)) - there
    assert np.abs(away).max() < 0.1  # mm


def test_a_field_that_folds_is_refused():
    grid = Grid((7, 8, 9), np.diag([2.0, 2, 2, 1]))
    displacement = np.zeros((7, 8, 9, 3), dtype=np.float32)
    displacement[..., 0] = -3.0 * np.arange(7)[:, None, None]
    with pytest.raises(DataError, match="a participant's field folds"):
        check_diffeomorphic(Field(grid, displacement))


@pytest.mark.parametrize("label", ["01", "02"])
def test_the_t1w_shows_the_template_where_the_warp_says(made, label):
    truth = read_participant_truth(made.truth.participants[label])
    image = nib.load(made.bids / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz")
    head = build_head(2)
    points = head.grid.world()[head.tissue > 0][::29]
    expected = head.sample(ndimage.gaussian_filter(head.t1w, 1.0), points)
    volume = image.get_fdata()
    found = look_up(volume, image.affine, truth.template_to_t1w(points))
    match = np.corrcoef(expected, found)[0, 1]
    assert match > 0.8
    for shift in ([8.0, 0, 0], [0, 8.0, 0], [0, 0, 8.0]):  # mm
        elsewhere = look_up(volume, image.affine, truth.template_to_t1w(points + shift))
        assert np.corrcoef(expected, elsewhere)[0, 1] < match - 0.2


def test_the_bold_shows_the_t1w_where_the_pose_says(made):
    truth = read_participant_truth(made.truth.participants["02"])
    run = read_run_truth(made.truth.runs["sub-02_task-rest_run-2"])
    path = made.bids / "sub-02" / "func" / "sub-02_task-rest_run-2_bold.nii.gz"
    image = nib.load(path)
    head = build_head(2)
    points = head.grid.world()[10:-10:3, 10:-10:3, 30:-10:3]
    points = points[head.tissue[10:-10:3, 10:-10:3, 30:-10:3] > 0]
    expected = head.sample(ndimage.gaussian_filter(head.epi, 1.3), points)
    volume = image.get_fdata()[..., 11]

    def match(shift):
        there = apply_affine(run.t1w_to_bold, truth.template_to_t1w(points))
        found = look_up(volume, image.affine, apply_affine(run.motion[11], there) + shift)
        return np.corrcoef(expected, found)[0, 1]

    right = match([0, 0, 0])
    assert right > 0.75
    assert all(match(shift) < right - 0.05 for shift in ([9.0, 0, 0], [-9.0, 0, 0], [0, 0, 9.0]))


def test_motion_starts_at_the_reference_and_stays_within_its_bound():
    centre = np.array([3.0, -20.0, 12.0])
    motion = draw_motion(200, seed=2, participant=4, run=1, centre=centre)
    np.testing.assert_allclose(motion[0], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(motion[:, :3, :3]), 1, atol=1e-9)
    shift = motion[:, :3, :3] @ centre + motion[:, :3, 3] - centre
    assert 0.2 < np.abs(shift).max() <= MOST + 1e-9  # mm
    jump = np.abs(np.diff(shift, axis=0)).max(axis=1)
    assert jump.max() > 5 * np.median(jump)  # some jerks


def test_resampling_by_the_true_motion_brings_a_volume_onto_the_reference(still):
    scene, acquisition = still
    series, affine = render(scene, acquisition), acquisition.grid.affine
    reference = 1
    voxels = np.argwhere(series[..., reference] > 300)
    inner = (voxels > 2).all(axis=1) & (voxels < np.array(acquisition.grid.shape) - 3).all(axis=1)
    points = apply_affine(affine, voxels[inner])
    expected = look_up(series[..., reference], affine, points)
    for t in (0, 2):
        xfm = acquisition.motion[t] @ np.linalg.inv(acquisition.motion[reference])
        found = look_up(series[..., t], affine, apply_affine(xfm, points))
        left = look_up(series[..., t], affine, points)
        error, before = (np.sqrt(np.mean((v - expected) ** 2)) for v in (found, left))
        assert error < 6  # a.u., of 600 in grey matter
        assert error < before / 3


@pytest.mark.parametrize("sign", [-1, 1])
def test_undoing_the_field_brings_the_signal_back(still, sign):
    scene, acquisition = still
    acquisition = replace(acquisition, motion=np.eye(4)[None])
    straight = render(scene, acquisition)[..., 0]
    bent = render(scene, replace(acquisition, phase_sign=sign))[..., 0]
    hertz = field_map(scene, acquisition)
    assert hertz.max() > 40  # Hz
    voxels = np.indices(hertz.shape).astype(float)

    def undone(direction):
        shift = direction * READOUT * hertz
        where = voxels + np.stack([np.zeros_like(shift), shift, np.zeros_like(shift)])
        return ndimage.map_coordinates(bent, where, order=3) * (1 + np.gradient(shift, axis=1))

    bright = (straight > 200) & (np.abs(hertz) > 15)
    bright[:, :6] = bright[:, -6:] = False
    error, before, wrong = (
        np.sqrt(np.mean((v - straight)[bright] ** 2)) for v in (undone(sign), bent, undone(-sign))
    )
    assert error < before / 3
    assert wrong > before


def test_voxels_are_as_large_as_the_scale_says(made):
    image = nib.load(made.bids / "sub-01" / "func" / "sub-01_task-rest_run-1_bold.nii.gz")
    np.testing.assert_allclose(voxel_sizes(image.affine), 6.0, atol=1e-4)  # mm
