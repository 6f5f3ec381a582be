"""Transforms: our maps of points and ITK's agree."""

from __future__ import annotations

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.itk import (
    from_ants,
    read_itk_affines,
    read_itk_composite,
    write_itk_affines,
    write_itk_composite,
)
from neurostorm_app.pipelines.xfm import Affine, Chain, Field

OBLIQUE = from_matvec(euler2mat(0.1, -0.2, 0.3) @ np.diag([3.0, 4, 5]), [-20, -30, -40])
ORIENTATIONS = {
    "RAS": from_matvec(np.diag([3.0, 4, 5]), [-20, -30, -40]),
    "LAS": from_matvec(np.diag([-3.0, 4, 5]), [20, -30, -40]),
    "LPS": from_matvec(np.diag([-3.0, -4, 5]), [20, 30, -40]),
    "oblique": OBLIQUE,
}
in_four_orientations = pytest.mark.parametrize(
    "affine", ORIENTATIONS.values(), ids=ORIENTATIONS.keys()
)


def smooth_field(affine, rng, *, shape=(14, 16, 18), size=3.0):
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal((*shape, 3))
    smooth = np.stack([gaussian_filter(noise[..., a], 3.0) for a in range(3)], axis=-1)
    return Field(Grid(shape, affine), (size * smooth / np.abs(smooth).max()).astype(np.float32))


def inner_points(grid, rng, n=60):
    voxels = rng.uniform(2, np.asarray(grid.shape) - 3, (n, 3))
    return Affine(grid.affine)(voxels)


def itk_points(transform, points):
    flip = np.array([-1.0, -1.0, 1.0])
    return np.array([transform.TransformPoint(tuple(p * flip)) for p in points]) * flip


@in_four_orientations
def test_itk_reads_our_composite_and_sends_points_to_the_same_place(affine, rng, tmp_path):
    field = smooth_field(affine, rng)
    rigid = Affine(from_matvec(euler2mat(0.2, 0.1, -0.1), [4, -5, 6]))
    chain = Chain.of(field, rigid)
    write_itk_composite(tmp_path / "xfm.h5", chain)

    points = inner_points(field.grid, rng)
    theirs = itk_points(SimpleITK.ReadTransform(str(tmp_path / "xfm.h5")), points)
    np.testing.assert_allclose(theirs, chain(points), atol=1e-3)  # mm
    ours = read_itk_composite(tmp_path / "xfm.h5")
    np.testing.assert_allclose(ours(points), chain(points), atol=1e-4)  # mm


def test_a_composite_is_the_same_bytes_whoever_holds_on_to_its_parts(rng, tmp_path, monkeypatch):
    """As the profiler of Dask does, which looks at what other threads are at."""
    field = smooth_field(OBLIQUE, rng, shape=(30, 32, 34))
    chain = Chain.of(Affine(from_matvec(euler2mat(0.2, 0.1, -0.1), [4, -5, 6])), field)
    write_itk_composite(tmp_path / "free.h5", chain)
    create, held = h5py.Group.create_dataset, []

    def hold(*words, **options):
        held.append(create(*words, **options))
        return held[-1]

    monkeypatch.setattr(h5py.Group, "create_dataset", hold)
    write_itk_composite(tmp_path / "held.h5", chain)
    assert held
    assert (tmp_path / "held.h5").read_bytes() == (tmp_path / "free.h5").read_bytes()


@in_four_orientations
def test_we_read_a_composite_that_itk_wrote(affine, rng, tmp_path):
    field = smooth_field(affine, rng)
    chain = Chain.of(Affine(from_matvec(euler2mat(0.2, 0.1, -0.1), [4, -5, 6])), field)
    write_itk_composite(tmp_path / "ours.h5", chain)
    SimpleITK.WriteTransform(
        SimpleITK.ReadTransform(str(tmp_path / "ours.h5")), str(tmp_path / "theirs.h5")
    )
    points = chain.steps[0].inverse()(inner_points(field.grid, rng))
    back = read_itk_composite(tmp_path / "theirs.h5")
    np.testing.assert_allclose(back(points), chain(points), atol=1e-4)  # mm


@in_four_orientations
def test_half_a_voxel_past_the_edge_is_like_itk_and_zero_beyond(affine, rng, tmp_path):
    field = smooth_field(affine, rng)
    write_itk_composite(tmp_path / "xfm.h5", field)
    voxels = np.array([[-0.4, 5, 5], [-0.6, 5, 5], [5, 15.4, 5], [5, 15.6, 5], [5, 5, 17.0]])
    points = Affine(field.grid.affine)(voxels)
    theirs = itk_points(SimpleITK.ReadTransform(str(tmp_path / "xfm.h5")), points)
    np.testing.assert_allclose(field(points), theirs, atol=1e-3)  # mm
    np.testing.assert_array_equal(field(points)[[1, 3]], points[[1, 3]])


def test_text_affines_come_back_and_itk_agrees(rng, tmp_path):
    matrices = [from_matvec(euler2mat(*rng.normal(0, 0.1, 3)), rng.normal(0, 5, 3)) for _ in "abc"]
    write_itk_affines(tmp_path / "xfm.txt", matrices)
    np.testing.assert_allclose(read_itk_affines(tmp_path / "xfm.txt"), matrices, atol=1e-12)
    write_itk_affines(tmp_path / "one.txt", matrices[:1])
    points = rng.uniform(-80, 80, (20, 3))  # mm
    theirs = itk_points(SimpleITK.ReadTransform(str(tmp_path / "one.txt")), points)
    np.testing.assert_allclose(theirs, Affine(matrices[0])(points), atol=1e-6)  # mm


def test_the_centre_of_an_itk_affine_is_honoured(rng, tmp_path):
    theirs = SimpleITK.AffineTransform(3)
    theirs.SetMatrix(euler2mat(0.2, 0.3, 0.1).ravel().tolist())
    theirs.SetCenter((10.0, -20.0, 30.0))
    theirs.SetTranslation((1.0, 2.0, 3.0))
    SimpleITK.WriteTransform(theirs, str(tmp_path / "centre.txt"))
    (matrix,) = read_itk_affines(tmp_path / "centre.txt")
    points = rng.uniform(-80, 80, (20, 3))
    np.testing.assert_allclose(Affine(matrix)(points), itk_points(theirs, points), atol=1e-6)  # mm


@in_four_orientations
def test_a_field_and_its_inverse_lead_back(affine, rng):
    field = smooth_field(affine, rng)
    points = inner_points(field.grid, rng)
    np.testing.assert_allclose(field.inverse()(field(points)), points, atol=0.15)  # mm


def test_a_chain_and_its_inverse_lead_back(rng):
    field = smooth_field(OBLIQUE, rng)
    chain = Chain.of(Affine(from_matvec(euler2mat(0.1, 0.1, -0.1), [1, -2, 3])), field)
    points = chain.steps[0].inverse()(inner_points(field.grid, rng))
    np.testing.assert_allclose(chain.inverse()(chain(points)), points, atol=0.15)  # mm
    np.testing.assert_array_equal(Chain.of(Affine.identity())(points), points)


def test_a_field_that_folds_is_refused():
    grid = Grid((14, 16, 18), np.diag([3.0, 4, 5, 1]))
    folding = 10.0 * np.sin(grid.world() / 3.0)
    with pytest.raises(DataError, match="does not invert") as caught:
        Field(grid, folding.astype(np.float32)).inverse()
    assert "folds" in caught.value.fix


def test_files_of_ants_are_read_in_their_convention(rng, tmp_path):
    field = smooth_field(OBLIQUE, rng)
    vectors = field.displacement * np.array([-1, -1, 1], dtype=np.float32)
    nib.save(nib.Nifti1Image(vectors[:, :, :, None], OBLIQUE), tmp_path / "1Warp.nii.gz")
    points = inner_points(field.grid, rng)
    warp = from_ants(tmp_path / "1Warp.nii.gz")
    np.testing.assert_allclose(warp(points), field(points), atol=1e-4)  # mm

    theirs = SimpleITK.AffineTransform(3)
    theirs.SetMatrix(euler2mat(0.2, 0.3, 0.1).ravel().tolist())
    theirs.SetCenter((10.0, -20.0, 30.0))
    theirs.SetTranslation((1.0, 2.0, 3.0))
    SimpleITK.WriteTransform(theirs, str(tmp_path / "0GenericAffine.mat"))
    linear = from_ants(tmp_path / "0GenericAffine.mat")
    np.testing.assert_allclose(linear(points), itk_points(theirs, points), atol=1e-4)  # mm


def test_a_file_that_is_no_transform_says_so(tmp_path):
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    with pytest.raises(CorruptImageError, match="not an ITK composite"):
        read_itk_composite(tmp_path / "broken.h5")
    (tmp_path / "broken.txt").write_text("#Insight Transform File V1.0\nParameters: 1 2 3\n")
    with pytest.raises(CorruptImageError, match="without twelve parameters"):
        read_itk_affines(tmp_path / "broken.txt")
    spline = SimpleITK.BSplineTransformInitializer(
        SimpleITK.Image((8, 8, 8), SimpleITK.sitkFloat32), (2, 2, 2)
    )
    SimpleITK.WriteTransform(spline, str(tmp_path / "spline.h5"))
    with pytest.raises(
        CorruptImageError, match=r"BSplineTransform.*only affines and displacement fields are read"
    ):
        read_itk_composite(tmp_path / "spline.h5")
