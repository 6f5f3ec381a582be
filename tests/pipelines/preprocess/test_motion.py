"""Head motion: known rigid motion is found."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.head.motion import (
    MotionEstimator,
    estimate_motion,
    rms_displacement,
)
from neurostorm_app.pipelines.preprocess.head.motion_slices import SliceGains

SHAPE = (44, 48, 30)
ZOOMS = np.diag([4.0, 4, 4.5])
TURNED = euler2mat(0.1, -0.05, 0.2) @ ZOOMS
MIRROR = np.diag([-1.0, 1, 1])
ORIENTATIONS = {
    "RAS": from_matvec(ZOOMS, -ZOOMS @ [21.5, 23.5, 14.5]),
    "LAS": from_matvec(MIRROR @ ZOOMS, -MIRROR @ ZOOMS @ [21.5, 23.5, 14.5]),
    "LPS": from_matvec(np.diag([-4.0, -4, 4.5]), [86, 94, -65.25]),
    "oblique": from_matvec(TURNED, -TURNED @ [21.5, 23.5, 14.5]),
}
in_four_orientations = pytest.mark.parametrize(
    "affine", ORIENTATIONS.values(), ids=ORIENTATIONS.keys()
)


def head(points):
    """Draw a head as a function of the world: an ellipsoid with folds, cut by nothing."""
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    radius = np.sqrt((x / 66) ** 2 + (y / 80) ** 2 + ((z + 4) / 60) ** 2)
    folds = np.sin(x / 7.0 + 0.3) * np.sin(y / 8.0) * np.cos(z / 9.0)
    return 1000.0 / (1 + np.exp((radius - 0.8) * 30)) * (1 + 0.25 * folds)


def acquire(grid, matrix, rng, noise=15.0):
    """Take a volume of the moved head: each voxel is the mean over eight points inside it."""
    world = grid.world()
    offsets = np.stack(np.meshgrid(*[(-0.25, 0.25)] * 3), axis=-1).reshape(-1, 3)
    inverse = np.linalg.inv(matrix)
    points = [apply_affine(inverse, world + grid.affine[:3, :3] @ o) for o in offsets]
    volume = np.mean([head(p) for p in points], axis=0)
    return (volume + rng.normal(0, noise, grid.shape)).astype(np.float32)


def known_motion(rng, n, size=1.0):
    return [
        from_matvec(euler2mat(*rng.normal(0, 0.01 * size, 3)), rng.normal(0, 0.6 * size, 3))
        for _ in range(n)
    ]


def errors(found, truth, brain):
    """95th percentile of the displacement over the brain (mm) and the rotation (degrees)."""
    millimetres, degrees = [], []
    for one, other in zip(found, truth, strict=True):
        rest = one @ np.linalg.inv(other)
        millimetres.append(np.linalg.norm(apply_affine(rest, brain) - brain, axis=1))
        degrees.append(np.degrees(Rotation.from_matrix(rest[:3, :3]).magnitude()))
    return np.percentile(millimetres, 95), np.percentile(degrees, 95)


@in_four_orientations
def test_known_motion_is_found_to_a_tenth_of_a_millimetre(affine, rng):
    grid = Grid(SHAPE, affine)
    truth = [*known_motion(rng, 3), *known_motion(rng, 1, size=6.0)]
    reference = acquire(grid, np.eye(4), rng)
    mask = head(grid.world()) > 300
    estimator = MotionEstimator(reference, grid, ndimage.binary_dilation(mask, iterations=2))
    found = estimate_motion([acquire(grid, m, rng) for m in truth], estimator)
    millimetres, degrees = errors(found, truth, grid.world()[mask])
    assert millimetres < 0.1  # mm
    assert degrees < 0.1  # degrees


def test_brightness_that_drifts_is_not_motion(rng):
    grid = Grid(SHAPE, ORIENTATIONS["RAS"])
    reference = acquire(grid, np.eye(4), rng, noise=0.0)
    estimator = MotionEstimator(reference, grid, reference > 300)
    np.testing.assert_allclose(estimator(reference * 1.3 + 40), np.eye(4), atol=1e-3)  # mm, rad


def test_a_head_cut_by_the_field_of_view_is_measured_by_what_is_seen(rng):
    whole = Grid(SHAPE, ORIENTATIONS["RAS"])
    low = apply_affine(whole.affine, [0, 0, 9])
    grid = Grid((44, 48, 14), from_matvec(ZOOMS, low))
    truth = known_motion(rng, 6, size=3.0)
    reference = acquire(grid, np.eye(4), rng, noise=15.0 / np.sqrt(25))  # as a median of volumes
    estimator = MotionEstimator(reference, grid, reference > 300)
    found = estimate_motion([acquire(grid, m, rng) for m in truth], estimator)
    millimetres, _ = errors(found, truth, grid.world()[reference > 300])
    assert millimetres < 0.1  # mm; 14 slices of noisy voxels


def test_threads_do_not_change_the_numbers(rng):
    grid = Grid(SHAPE, ORIENTATIONS["LAS"])
    reference = acquire(grid, np.eye(4), rng)
    estimator = MotionEstimator(reference, grid, reference > 300)
    volumes = [acquire(grid, m, rng) for m in known_motion(rng, 3)]
    one = estimate_motion(volumes, estimator, n_threads=1)
    np.testing.assert_array_equal(one, estimate_motion(volumes, estimator, n_threads=3))


def test_displacement_is_that_of_a_ball():
    shift = from_matvec(np.eye(3), [3.0, 0, 4])
    assert rms_displacement(shift, np.eye(4), centre=np.zeros(3)) == pytest.approx(5.0)  # mm


def test_three_slices_are_refused_and_a_mask_at_the_edge_too(rng):
    thin = Grid((44, 48, 3), ORIENTATIONS["RAS"])
    volume = acquire(thin, np.eye(4), rng)
    with pytest.raises(DataError, match="at least 4 slices are needed"):
        MotionEstimator(volume, thin, volume > 300)
    grid = Grid(SHAPE, ORIENTATIONS["RAS"])
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, :, 0] = mask[20, 20, 10] = True
    with pytest.raises(DataError, match="was to be measured on 1 voxels"):
        MotionEstimator(acquire(grid, np.eye(4), rng), grid, mask)


def test_a_series_without_a_head_is_refused(rng):
    grid = Grid(SHAPE, ORIENTATIONS["RAS"])
    reference = acquire(grid, np.eye(4), rng)
    estimator = MotionEstimator(reference, grid, reference > 300)
    with pytest.raises(DataError, match="in none of 3 volumes is there anything like"):
        estimate_motion([0 * reference] * 3, estimator)


def test_slices_that_stand_out_are_evened_and_others_left_alone(rng):
    grid = Grid(SHAPE, ORIENTATIONS["RAS"])
    reference = acquire(grid, np.eye(4), rng)
    gains = SliceGains(reference, reference > 300)
    assert gains.even(reference) is reference
    factors = np.ones(SHAPE[2], np.float32)
    factors[[8, 9, 15]] = 0.6, 1.4, 0.3
    even = gains.even(reference * factors)
    np.testing.assert_allclose(even, reference, rtol=1e-3, atol=1e-3)
