"""The T1w image made ready: checks at the door, orientation, bias, averaging."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.errors import CorruptImageError, NoInputError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.preprocess.anatomy.anatomical import (
    conform,
    correct_bias,
    prepare_t1w,
    with_zooms,
)
from neurostorm_app.pipelines.preprocess.anatomy.averaging import middle_poses, weigh
from neurostorm_app.pipelines.preprocess.anatomy.orientation import describe_header
from neurostorm_app.pipelines.resample import resample_volume

SHAPE = (34, 38, 36)
TURN = Rotation.from_euler("xyz", [8, -5, 12], degrees=True).as_matrix()
ORIENTATIONS = {
    "RAS": np.diag([4.0, 4, 4]),
    "LAS": np.diag([-4.0, 4, 4]),
    "PSR": np.array([[0.0, 0, 4], [-4, 0, 0], [0, 4, 0]]),
    "oblique": TURN @ np.diag([-4.0, 4, 4]),
}


def _grid(linear, shape=SHAPE):
    """Centre a field of view on the origin."""
    affine = from_matvec(linear, -linear @ ((np.asarray(shape) - 1) / 2))
    return Grid(shape, affine)


def _head(grid):
    """Draw a head with a brain and a bright spot on its right, by places in the world."""
    points = grid.world()
    far = np.linalg.norm(points / [60, 72, 62], axis=-1)
    volume = np.select([far < 0.7, far < 0.85, far < 1.0], [800.0, 80.0, 500.0], 0.0)
    volume[np.linalg.norm(points - [20, 10, -6], axis=-1) < 14] = 400.0
    volume[np.linalg.norm(points - [-25, -30, 12], axis=-1) < 9] = 150.0
    return volume.astype(np.float32)


@pytest.mark.parametrize("linear", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_conforming_turns_axes_and_moves_nothing(linear):
    grid = _grid(linear)
    volume, conformed = conform(_head(grid), grid)
    assert nib.aff2axcodes(conformed.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(volume, _head(conformed))


@pytest.mark.parametrize("linear", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_voxels_finer_than_needed_become_one_millimetre(linear):
    grid = _grid(linear * 0.6 / 4, shape=(60, 70, 66))
    slope = np.array([2.0, -3.0, 5.0])
    volume, conformed = conform((grid.world() @ slope + 900).astype(np.float32), grid)
    np.testing.assert_allclose(conformed.zooms, 1.0)
    assert nib.aff2axcodes(conformed.affine) == ("R", "A", "S")
    inner = (slice(4, -4),) * 3
    expected = conformed.world() @ slope + 900
    np.testing.assert_allclose(volume[inner], expected[inner], atol=0.05)  # a.u.; 1 mm is 6


def test_new_voxel_sizes_keep_the_centre():
    grid = _grid(ORIENTATIONS["oblique"])
    finer = with_zooms(grid, 1.5)
    middles = [apply_affine(g.affine, (np.asarray(g.shape) - 1) / 2) for g in (grid, finer)]
    np.testing.assert_allclose(*middles, atol=1e-9)  # mm
    np.testing.assert_allclose(finer.zooms, 1.5)


def test_a_bias_field_is_divided_out(rng):
    grid = _grid(np.diag([2.0, 2, 2]), shape=(64, 72, 68))
    head = _head(grid)
    x, y, z = np.moveaxis(grid.world() / 70, -1, 0)
    field = np.exp(0.25 * x - 0.2 * y * y + 0.15 * z)
    noisy = np.maximum(head * field + rng.normal(0, 8, head.shape), 0).astype(np.float32)
    corrected, spread = correct_bias(noisy, grid)
    tissue = ndimage.binary_erosion(head == 800, iterations=2)

    def unevenness(volume):
        return volume[tissue].std() / volume[tissue].mean()

    assert unevenness(corrected) < 0.5 * unevenness(noisy)
    assert 1.2 < spread < 2.5  # ratio


def test_one_image_is_prepared_in_its_place(tmp_path):
    grid = _grid(ORIENTATIONS["PSR"])
    write_volume(tmp_path / "T1w.nii.gz", _head(grid), grid=grid, dtype=np.int16)
    report = prepare_t1w([tmp_path / "T1w.nii.gz"], tmp_path / "out.nii.gz", work_dir=tmp_path)
    volume, prepared = read_volume(tmp_path / "out.nii.gz")
    assert nib.aff2axcodes(prepared.affine) == ("R", "A", "S")
    assert np.corrcoef(volume.ravel(), _head(prepared).ravel())[0, 1] > 0.98
    assert report["n_images"] == 1
    assert report["acquired_zooms_mm"] == [4.0, 4.0, 4.0]
    assert report["acquired_shape"] == list(SHAPE)


def _two_poses(tmp_path):
    """Write a head and the same head elsewhere in the scanner, twice as bright; give the pose."""
    grid = _grid(ORIENTATIONS["RAS"])
    turn = Rotation.from_euler("xyz", [4, -3, 6], degrees=True).as_matrix()
    pose = from_matvec(turn, [3, -4, 2])
    write_volume(tmp_path / "one.nii.gz", _head(grid), grid=grid)
    write_volume(
        tmp_path / "two.nii.gz", 2 * _head(grid), grid=Grid(grid.shape, pose @ grid.affine)
    )
    return [tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"], pose


def test_two_images_meet_in_the_middle(tmp_path):
    paths, pose = _two_poses(tmp_path)
    report = prepare_t1w(paths, tmp_path / "out.nii.gz", work_dir=tmp_path / "work")
    average, grid = read_volume(tmp_path / "out.nii.gz")
    assert report["n_images"] == 2
    assert report["average"]["weights"] == [0.5, 0.5]
    moved = report["average"]["moved_mm"]
    assert moved[0] == pytest.approx(moved[1], abs=0.3)  # mm
    half = Rotation.from_rotvec(Rotation.from_matrix(pose[:3, :3]).as_rotvec() / 2).as_matrix()
    middle = from_matvec(half, [1.5, -2, 1])
    expected = _head(Grid(grid.shape, np.linalg.inv(middle) @ grid.affine))
    at_first = _head(grid)
    likeness = [np.corrcoef(average.ravel(), v.ravel())[0, 1] for v in (expected, at_first)]
    assert likeness[0] > 0.96
    assert likeness[0] > likeness[1] + 0.02
    assert not list((tmp_path / "work").iterdir())


def test_the_order_of_the_images_does_not_matter(tmp_path):
    paths, _ = _two_poses(tmp_path)
    prepare_t1w(paths, tmp_path / "a.nii.gz", work_dir=tmp_path)
    prepare_t1w(paths[::-1], tmp_path / "b.nii.gz", work_dir=tmp_path)
    (ours, here), (theirs, there) = (read_volume(tmp_path / f"{name}.nii.gz") for name in "ab")
    again = resample_volume(theirs, source=there, target=here, order=1)
    assert np.corrcoef(ours.ravel(), again.ravel())[0, 1] > 0.97


def test_an_average_is_the_same_twice(tmp_path):
    paths, _ = _two_poses(tmp_path)
    for name in "ab":
        prepare_t1w(paths, tmp_path / f"{name}.nii.gz", work_dir=tmp_path)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_an_image_that_is_unlike_the_others_is_left_out_and_named(rng):
    head = _head(_grid(ORIENTATIONS["RAS"]))
    noisy = [np.abs(head + rng.normal(0, 15, head.shape)).astype(np.float32) for _ in range(3)]
    ghost = np.abs(np.roll(head, 6, axis=1) * 0.6 + head * 0.4).astype(np.float32)
    weights, likeness, left_out = weigh([*noisy, ghost])
    assert list(left_out) == [3]
    assert "left out of the average" in left_out[3]
    assert weights[3] == 0
    assert sum(weights) == pytest.approx(1)
    assert likeness[3] < min(likeness[:3]) - 0.05


def test_a_noisier_image_counts_for_less(rng):
    head = _head(_grid(ORIENTATIONS["RAS"]))
    images = [np.abs(head + rng.normal(0, sd, head.shape)).astype(np.float32) for sd in (5, 5, 25)]
    weights, _, left_out = weigh(images)
    assert not left_out
    assert weights[2] < 0.5 * weights[0]
    assert max(weights) / min(weights) <= 4.001


def test_of_two_images_that_are_unlike_the_one_with_ghosts_is_left_out(rng):
    head = _head(_grid(ORIENTATIONS["RAS"]))
    ghost = np.abs(np.roll(head, 9, axis=1) * 0.7 + 0.3 * head).astype(np.float32)
    weights, _, left_out = weigh([ghost, head])
    assert weights == [0, 1]
    assert "two images correlate by" in left_out[0]


def test_the_middle_of_poses_is_no_motion_on_average(rng):
    poses = [
        from_matvec(Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix(), rng.normal(0, 5, 3))
        for _ in range(4)
    ]
    centre = np.array([3.0, -20.0, 8.0])
    moved = middle_poses(poses, centre)
    shifts = [apply_affine(pose, centre) - centre for pose in moved]
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=1e-6)  # mm
    turns = [Rotation.from_matrix(pose[:3, :3]).as_rotvec() for pose in moved]
    np.testing.assert_allclose(np.mean(turns, axis=0), 0, atol=1e-3)  # radians
    # What lies between two images stays: poses map from the common space to each image.
    np.testing.assert_allclose(
        moved[2] @ np.linalg.inv(moved[0]), poses[2] @ np.linalg.inv(poses[0]), atol=1e-9
    )


def _with_forms(path, *, sform=None, qform=None, unit="mm"):
    grid = _grid(ORIENTATIONS["RAS"])
    image = nib.Nifti1Image(_head(grid), None)
    image.header.set_zooms((4, 4, 4))
    image.header.set_xyzt_units(unit)
    image.set_sform(
        grid.affine if sform is None else sform @ grid.affine, 0 if sform is None else 1
    )
    image.set_qform(
        grid.affine if qform is None else qform @ grid.affine, 0 if qform is None else 1
    )
    nib.save(image, path)
    return describe_header(path)


def test_a_mirrored_sform_is_reported(tmp_path):
    flip = np.diag([-1.0, 1, 1, 1])
    header = _with_forms(tmp_path / "flip.nii.gz", sform=flip, qform=np.eye(4))
    assert header["orientation"] == "LAS"
    assert any("mirror images of each other" in reason for reason in header["reasons"])
    report = _prepare(tmp_path / "flip.nii.gz", tmp_path)
    assert report["verdict"] == "look"
    assert report["reasons"][0].startswith("flip.nii.gz: sform and qform")


def test_forms_that_are_apart_are_reported(tmp_path):
    shift = from_matvec(np.eye(3), [0, 0, 7.0])
    header = _with_forms(tmp_path / "apart.nii.gz", sform=np.eye(4), qform=shift)
    assert header["forms_apart_mm"] == pytest.approx(7, abs=0.01)
    assert any("put a corner 7.0 mm apart" in reason for reason in header["reasons"])


def test_a_header_without_orientation_is_reported(tmp_path):
    header = _with_forms(tmp_path / "none.nii.gz")
    assert any("gives no orientation" in reason for reason in header["reasons"])


def test_a_unit_that_is_not_millimetres_is_reported(tmp_path):
    header = _with_forms(tmp_path / "unit.nii.gz", sform=np.eye(4), unit="meter")
    assert any("voxel sizes are in meter" in reason for reason in header["reasons"])


def test_a_good_header_gives_nothing_to_look_at(tmp_path):
    grid = _grid(np.diag([2.0, 2, 2]), shape=(64, 72, 68))
    write_volume(tmp_path / "T1w.nii.gz", _head(grid), grid=grid)
    report = _prepare(tmp_path / "T1w.nii.gz", tmp_path)
    assert (report["verdict"], report["reasons"]) == ("pass", [])
    assert report["images"][0]["forms_apart_mm"] == 0


def test_an_oblique_image_and_thick_slices_are_reported(tmp_path):
    turn = Rotation.from_euler("x", 35, degrees=True).as_matrix()
    grid = _grid(turn @ np.diag([1.0, 1, 5]), shape=(150, 180, 34))
    write_volume(tmp_path / "thick.nii.gz", _head(grid), grid=grid)
    report = _prepare(tmp_path / "thick.nii.gz", tmp_path)
    assert report["images"][0]["oblique_deg"] == pytest.approx(35, abs=0.1)
    assert any("35 degrees off" in reason for reason in report["reasons"])
    assert any("thick slices: voxels of 1 x 1 x 5 mm" in reason for reason in report["reasons"])


def _prepare(path, tmp_path):
    return prepare_t1w([path], tmp_path / "out.nii.gz", work_dir=tmp_path)


def test_no_image_is_an_error(tmp_path):
    with pytest.raises(NoInputError, match="no T1w image"):
        prepare_t1w([], tmp_path / "out.nii.gz", work_dir=tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NoInputError, match=r"absent\.nii\.gz"):
        _prepare(tmp_path / "absent.nii.gz", tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "short.nii.gz"
    grid = _grid(ORIENTATIONS["RAS"])
    write_volume(path, _head(grid), grid=grid)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(CorruptImageError, match=r"short\.nii\.gz"):
        _prepare(path, tmp_path)


def test_a_file_that_is_no_image_is_named(tmp_path):
    path = tmp_path / "text.nii.gz"
    path.write_bytes(gzip.compress(b"no image at all"))
    with pytest.raises(CorruptImageError, match=r"text\.nii\.gz"):
        _prepare(path, tmp_path)


def test_a_constant_image_is_refused(tmp_path):
    grid = _grid(ORIENTATIONS["RAS"])
    write_volume(tmp_path / "flat.nii.gz", np.full(SHAPE, 7.0), grid=grid)
    with pytest.raises(CorruptImageError, match=r"flat\.nii\.gz: all voxels are 7"):
        _prepare(tmp_path / "flat.nii.gz", tmp_path)


def test_values_that_are_not_finite_are_counted(tmp_path):
    grid = _grid(ORIENTATIONS["RAS"])
    head = _head(grid)
    head[3, 4, 5] = np.nan
    head[4, 4, 5] = np.inf
    nib.save(nib.Nifti1Image(head, grid.affine), tmp_path / "nan.nii.gz")
    with pytest.raises(CorruptImageError, match=r"nan\.nii\.gz"):
        _prepare(tmp_path / "nan.nii.gz", tmp_path)


def test_voxel_sizes_in_metres_are_refused(tmp_path):
    grid = _grid(np.diag([0.004, 0.004, 0.004]))
    write_volume(tmp_path / "metres.nii.gz", _head(_grid(ORIENTATIONS["RAS"])), grid=grid)
    with pytest.raises(
        CorruptImageError, match=r"voxels are 0.004 x 0.004 x 0.004 mm; they look like metres"
    ):
        _prepare(tmp_path / "metres.nii.gz", tmp_path)


def test_a_slab_is_refused(tmp_path):
    grid = _grid(np.diag([2.0, 2, 2]), shape=(60, 70, 20))
    write_volume(tmp_path / "slab.nii.gz", _head(grid), grid=grid)
    with pytest.raises(CorruptImageError, match="field of view of 120 x 140 x 40 mm"):
        _prepare(tmp_path / "slab.nii.gz", tmp_path)


def test_a_series_is_refused(tmp_path):
    path = tmp_path / "series.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((7, 8, 9, 5), np.float32), np.eye(4)), path)
    with pytest.raises(CorruptImageError, match=r"series\.nii\.gz"):
        _prepare(path, tmp_path)
