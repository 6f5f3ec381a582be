"""From a standard grid to a model's grid and repetition time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid, standard_grid
from neurostorm_app.pipelines.regrid import (
    find_method,
    onto_grid,
    resample_time,
    sampling_matrix,
    time_positions,
    time_step,
)
from neurostorm_app.pipelines.resample import resample_volume

NEUROSTORM = Grid.from_rows((96, 96, 96), [[-2, 0, 0, 96], [0, 2, 0, -114], [0, 0, 2, -78]])
DEMO = Grid.from_rows((48, 48, 48), [[-4, 0, 0, 95], [0, 4, 0, -113], [0, 0, 4, -77]])


def test_neurostorm_grid_is_reached_without_interpolation(rng):
    source = standard_grid("MNI152NLin6Asym", "2")
    assert find_method(source, NEUROSTORM) == "exact"
    volume = rng.random(source.shape).astype(np.float32)
    out = onto_grid(volume, source, NEUROSTORM)
    # HCP's stored order is LAS: x flipped, 3 + 91 + 2 along x, the middle 96 of 109 along y.
    by_hand = np.pad(volume[::-1, 6:102, :], ((3, 2), (0, 0), (3, 2)))
    np.testing.assert_array_equal(out, by_hand)


def test_both_standard_spaces_share_the_lattice_of_neurostorm():
    assert find_method(standard_grid("MNI152NLin2009cAsym", "2"), NEUROSTORM) == "exact"


def test_demo_voxels_are_means_of_two_by_two_by_two(rng):
    source = standard_grid("MNI152NLin6Asym", "2")
    assert find_method(source, DEMO) == "block-mean"
    series = rng.random((*source.shape, 2)).astype(np.float32)
    out = onto_grid(series, source, DEMO)
    assert out.shape == (48, 48, 48, 2)
    fine = onto_grid(series, source, NEUROSTORM)
    blocks = fine.reshape(48, 2, 48, 2, 48, 2, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(out, blocks, atol=1e-6)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "ASR"])
def test_any_orientation_leads_to_the_same_picture(axes, rng):
    source = Grid((11, 12, 13), from_matvec(np.diag([2.0, 2.5, 3]), [-10, -12, -15]))
    target = Grid((7, 9, 8), from_matvec(np.diag([1.7, 1.9, 2.2]), [-6, -8, -9]))
    volume = rng.random(source.shape).astype(np.float32)
    expected = resample_volume(volume, source=source, target=target, order=1)

    ornt = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    from nibabel.orientations import apply_orientation

    turned = apply_orientation(volume, ornt)
    affine = source.affine @ inv_ornt_aff(ornt, source.shape)
    grid = Grid(turned.shape, affine)
    assert find_method(grid, target) == "linear"
    np.testing.assert_allclose(onto_grid(turned, grid, target), expected, atol=1e-5)


def test_an_oblique_grid_is_interpolated_volume_by_volume(rng):
    affine = from_matvec(euler2mat(0.2, 0.1, 0.3) @ np.diag([2.0, 2.5, 3]), [-10, -12, -15])
    source = Grid((11, 12, 13), affine)
    target = Grid((7, 9, 8), from_matvec(np.diag([1.7, 1.9, 2.2]), [-6, -8, -9]))
    series = rng.random((*source.shape, 2)).astype(np.float32)
    out = onto_grid(series, source, target)
    for number in range(2):
        expected = resample_volume(series[..., number], source=source, target=target, order=1)
        np.testing.assert_allclose(out[..., number], expected, atol=1e-5)


def test_a_constant_stays_constant_on_larger_oblique_voxels():
    affine = from_matvec(euler2mat(0.2, 0.1, 0.3), [-15, -15, -15])
    source = Grid((33, 34, 35), affine)
    target = Grid((4, 5, 3), from_matvec(np.diag([3.0, 3, 3]), [-4, -4, -4]))
    assert find_method(source, target) == "block-mean"
    np.testing.assert_allclose(onto_grid(np.ones(source.shape), source, target), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("n_volumes", "tr_in", "tr_out"), [(40, 2.0, 0.8), (156, 2.0, 2.0), (50, 0.72, 2.0), (3, 1, 9)]
)
def test_time_is_resampled_as_torch_does(n_volumes, tr_in, tr_out, rng):
    series = rng.random((6, n_volumes)).astype(np.float32)
    ours = resample_time(series, tr_in, tr_out)
    size = max(round(n_volumes * tr_in / tr_out), 1)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(series)[None], size=size, mode="linear", align_corners=False
    )
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-5)
    assert time_positions(n_volumes, tr_in, tr_out).shape == (size,)


@pytest.mark.parametrize("tr_in", [0.72, 0.735, 0.8, 2.0, 3.0])
def test_ends_that_stay_are_those_of_the_public_code_of_fmri_lm(tr_in, request):
    folder = request.config.rootpath.parent / "shared" / "golden" / "fmri_lm"
    if not folder.is_dir():
        pytest.skip("the numbers of the public code are not beside the project")
    with np.load(folder / "data_and_descriptors.npz") as golden:
        series, expected = golden["resample_in"], golden[f"resample_out_tr{tr_in}"]
    where = time_positions(series.shape[1], tr_in, 2.0, how="ends")
    old = np.arange(series.shape[1])
    found = np.stack([np.interp(where, old, row) for row in series])
    np.testing.assert_allclose(found, expected, atol=1e-6)  # its tolerance
    as_used = resample_time(series, tr_in, 2.0, how="ends")
    np.testing.assert_allclose(as_used, expected, atol=1e-6)  # signal units, in float32
    centres = resample_time(series, tr_in, 2.0)
    same = centres.shape == expected.shape and np.allclose(centres, expected, atol=1e-6)
    assert same == (tr_in == 2.0)  # the other way is another input


def test_the_first_and_the_last_volume_stay_where_ends_do(rng):
    series = rng.random((3, 50)).astype(np.float32)
    found = resample_time(series, 0.8, 2.0, how="ends")
    assert found.shape == (3, round(49 * 0.8 / 2) + 1)
    np.testing.assert_array_equal(found[:, [0, -1]], series[:, [0, -1]])
    assert time_step(50, 21, 0.8, how="ends") == pytest.approx(49 * 0.8 / 20)
    assert time_positions(1, 0.8, 2.0, how="ends").tolist() == [0]
    assert time_step(1, 1, 0.8, how="ends") == 0.8


def test_a_matrix_of_weights_samples_like_scipy(rng):
    shape = (5, 7, 6)
    volume = rng.normal(size=shape).astype(np.float32)
    points = rng.uniform(-2, 8, (300, 3))
    points[:20] = np.rint(points[:20])
    expected = ndimage.map_coordinates(
        volume.astype(float), points.T, order=1, mode="grid-constant"
    )
    found = sampling_matrix(points, shape) @ volume.ravel(order="F")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_points_on_voxels_take_their_values_as_they_are(rng):
    volume = rng.normal(size=(4, 3, 5)).astype(np.float32)
    points = np.argwhere(np.ones(volume.shape)) + rng.uniform(-5e-5, 5e-5, (60, 3))
    matrix = sampling_matrix(points, volume.shape)
    assert matrix.nnz == 60
    np.testing.assert_array_equal(matrix @ volume.ravel(order="F"), volume.ravel())
