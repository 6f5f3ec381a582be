"""One interpolation: the numbers are scipy's, and places in the world are kept."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.resample import resample_series, resample_volume
from neurostorm_app.pipelines.xfm import Affine

SHAPE = (21, 23, 19)
ROTATED = euler2mat(0.2, -0.1, 0.3) @ np.diag([3.0, 3, 4])
ORIENTATIONS = {
    "RAS": from_matvec(np.diag([3.0, 3, 4]), [-30, -33, -36]),
    "LAS": from_matvec(np.diag([-3.0, 3, 4]), [30, -33, -36]),
    "LPS": from_matvec(np.diag([-3.0, -3, 4]), [30, 33, -36]),
    "oblique": from_matvec(ROTATED, -ROTATED @ [10, 11, 9]),
}
in_four_orientations = pytest.mark.parametrize(
    "affine", ORIENTATIONS.values(), ids=ORIENTATIONS.keys()
)
TARGET = Grid((25, 24, 26), from_matvec(np.diag([2.0, 2, 2]), [-24, -24, -25]))


def blob(points):
    """Draw a smooth, lopsided picture as a function of the world (mm)."""
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    return 100 * np.exp(-((x - 4) ** 2 / 300 + (y + 5) ** 2 / 400 + (z - 2) ** 2 / 350))


@in_four_orientations
def test_a_picture_keeps_its_place_in_the_world(affine):
    source = Grid(SHAPE, affine)
    out = resample_volume(blob(source.world()), source=source, target=TARGET)
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(out[inner], blob(TARGET.world())[inner], atol=0.3)  # of 100


@in_four_orientations
def test_a_moved_head_is_brought_back_by_its_motion(affine, tmp_path):
    source = Grid(SHAPE, affine)
    motion = [
        np.eye(4),
        from_matvec(euler2mat(0.03, -0.02, 0.05), [1.5, -2, 1]),
        from_matvec(euler2mat(-0.04, 0.02, 0.01), [-1, 0.5, 2]),
    ]
    # A voxel of volume t shows the place of the head that motion[t] sends there.
    moved = [blob(Affine(m).inverse()(source.world())) for m in motion]
    nib.save(nib.Nifti1Image(np.stack(moved, -1).astype("f4"), affine), tmp_path / "bold.nii.gz")
    inner = (slice(4, -4),) * 3
    volumes = resample_series(tmp_path / "bold.nii.gz", source=source, target=TARGET, motion=motion)
    for volume in volumes:
        np.testing.assert_allclose(volume[inner], blob(TARGET.world())[inner], atol=0.4)  # of 100


@in_four_orientations
def test_the_numbers_are_those_of_scipy_and_zero_outside(affine, rng, tmp_path):
    source = Grid(SHAPE, affine)
    series = rng.normal(100, 30, (*SHAPE, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(series, affine), tmp_path / "bold.nii.gz")
    to_bold = Affine(from_matvec(euler2mat(0.1, 0.05, -0.1), [2, -14, 21]))
    motion = [from_matvec(euler2mat(*rng.normal(0, 0.02, 3)), rng.normal(0, 1, 3)) for _ in "abc"]
    volumes = resample_series(
        tmp_path / "bold.nii.gz", source=source, target=TARGET, to_bold=to_bold, motion=motion
    )
    for number, volume in enumerate(volumes):
        points = Affine(motion[number])(to_bold(TARGET.world()))
        where = np.moveaxis(apply_affine(np.linalg.inv(affine), points), -1, 0)
        theirs = ndimage.map_coordinates(
            series[..., number], where, order=3, mode="grid-constant", output=np.float64
        )
        size = np.reshape(SHAPE, (3, 1, 1, 1))
        inside = ((where > -1) & (where < size)).all(axis=0)
        assert 0.2 < inside.mean() < 1
        np.testing.assert_allclose(volume[inside], theirs[inside], atol=1e-3)  # of 100
        assert not volume[~inside].any()


def test_threads_do_not_change_the_numbers(rng, tmp_path):
    source = Grid(SHAPE, ORIENTATIONS["oblique"])
    series = rng.normal(100, 30, (*SHAPE, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(series, source.affine), tmp_path / "bold.nii.gz")
    motion = [from_matvec(np.eye(3), [t, 0, -t]) for t in range(5)]
    one, four = (
        np.stack(
            [
                *resample_series(
                    tmp_path / "bold.nii.gz",
                    source=source,
                    target=TARGET,
                    motion=motion,
                    n_threads=n_threads,
                )
            ]
        )
        for n_threads in (1, 4)
    )
    np.testing.assert_array_equal(one, four)


def test_labels_stay_labels():
    source = Grid(SHAPE, ORIENTATIONS["oblique"])
    labels = (blob(source.world()) > 50) * 7
    out = resample_volume(labels, source=source, target=TARGET, order=0)
    assert set(np.unique(out)) == {0, 7}
