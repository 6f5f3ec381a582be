"""Head motion: known rigid motion is found, and written as others write it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.motion import (
    MotionEstimator,
    estimate_motion,
    motion_parameters,
    rms_displacement,
)

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
    (truth,) = known_motion(rng, 1, size=3.0)
    reference = acquire(grid, np.eye(4), rng)
    estimator = MotionEstimator(reference, grid, reference > 300)
    found = estimate_motion([acquire(grid, truth, rng)], estimator)
    millimetres, _ = errors(found, [truth], grid.world()[reference > 300])
    assert millimetres < 0.1  # mm


def test_threads_do_not_change_the_numbers(rng):
    grid = Grid(SHAPE, ORIENTATIONS["LAS"])
    reference = acquire(grid, np.eye(4), rng)
    estimator = MotionEstimator(reference, grid, reference > 300)
    volumes = [acquire(grid, m, rng) for m in known_motion(rng, 3)]
    one = estimate_motion(volumes, estimator, n_threads=1)
    np.testing.assert_array_equal(one, estimate_motion(volumes, estimator, n_threads=3))


@in_four_orientations
def test_parameters_are_those_of_fsl_coordinates(affine, rng):
    from nitransforms.io.fsl import FSLLinearTransformArray

    grid = Grid(SHAPE, affine)
    matrices = np.stack(known_motion(rng, 4))
    centre = np.array([20.0, 25.0, 13.0])
    image = nib.Nifti1Image(np.zeros(SHAPE, np.float32), affine)
    array = FSLLinearTransformArray.from_ras(matrices, reference=image, moving=image)
    fsl = np.stack([np.asarray(xfm["parameters"]) for xfm in array.xforms])
    about = centre * grid.zooms
    ours = motion_parameters(matrices, grid, centre)
    rotations = Rotation.from_matrix(fsl[:, :3, :3].transpose(0, 2, 1)).as_euler("XYZ")
    np.testing.assert_allclose(ours[:, 3:], rotations, atol=1e-9)  # rad
    moved = fsl[:, :3, :3] @ about + fsl[:, :3, 3] - about
    np.testing.assert_allclose(ours[:, :3], moved, atol=1e-6)  # mm


def test_rest_has_no_parameters_and_no_displacement():
    grid = Grid(SHAPE, ORIENTATIONS["oblique"])
    still = motion_parameters(np.eye(4)[None], grid, np.array([20.0, 25, 13]))
    np.testing.assert_allclose(still, 0, atol=1e-9)
    shift = from_matvec(np.eye(3), [3.0, 0, 4])
    assert rms_displacement(shift, np.eye(4), centre=np.zeros(3)) == pytest.approx(5.0)  # mm
