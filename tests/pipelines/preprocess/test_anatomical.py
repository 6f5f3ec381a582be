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
from neurostorm_app.pipelines.preprocess.anatomical import (
    conform,
    correct_bias,
    prepare_t1w,
    with_zooms,
)

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


def test_a_second_image_is_moved_onto_the_first(tmp_path):
    grid = _grid(ORIENTATIONS["RAS"])
    turn = Rotation.from_euler("xyz", [4, -3, 6], degrees=True).as_matrix()
    moved = Grid(grid.shape, from_matvec(turn, [3, -4, 2]) @ grid.affine)
    write_volume(tmp_path / "one.nii.gz", _head(grid), grid=grid)
    # The same head, elsewhere in the scanner, and twice as bright.
    write_volume(tmp_path / "two.nii.gz", 2 * _head(grid), grid=moved)
    paths = [tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"]
    report = prepare_t1w(paths, tmp_path / "out.nii.gz", work_dir=tmp_path / "work")
    alone = prepare_t1w(paths[:1], tmp_path / "alone.nii.gz", work_dir=tmp_path / "work")
    average, _ = read_volume(tmp_path / "out.nii.gz")
    single, _ = read_volume(tmp_path / "alone.nii.gz")
    assert (report["n_images"], alone["n_images"]) == (2, 1)
    assert np.corrcoef(average.ravel(), single.ravel())[0, 1] > 0.985
    assert 0.9 < average[single > 600].mean() / single[single > 600].mean() < 1.1
    assert not list((tmp_path / "work").iterdir())


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
    with pytest.raises(CorruptImageError, match=r"voxels of 0.004 x 0.004 x 0.004 mm") as caught:
        _prepare(tmp_path / "metres.nii.gz", tmp_path)
    assert "millimetres" in caught.value.fix


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
