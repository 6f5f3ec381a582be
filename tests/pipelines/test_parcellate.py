"""Parcels follow the world, not the array; what is missing is said."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation
from nibabel.orientations import ornt_transform as between_orientations

from neurostorm_app.errors import ContractError, CorruptImageError, DataError
from neurostorm_app.pipelines.parcellate import parcellate, read_labels

ROUNDING = 1e-3  # signal units; the series is of the order of 1000
SHAPE = (10, 12, 14)
N_VOLUMES = 7
RAS = from_matvec(np.diag([2.0, 2, 2]), [-9, -11, -13])
LABELS = [3, 4, 9, 20]


OBLIQUE_SHAPE = (20, 21, 18)


def oblique():
    """Turn by 30 degrees about the vertical; the middle voxel lies at the origin."""
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = 2.0 * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return from_matvec(turn, -turn @ [9.5, 10, 8.5])


def turned(data, codes):
    """Store an array that is RAS with axes in another order or direction; the world stays."""
    change = between_orientations(io_orientation(RAS), axcodes2ornt(codes))
    return apply_orientation(data, change), RAS @ inv_ornt_aff(change, SHAPE)


@pytest.fixture
def labels():
    """Four boxes; label 20 is the last corner."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[1:4, 2:8, 3:9] = 3
    labels[4:8, 2:8, 3:9] = 4
    labels[1:8, 8:11, 3:12] = 9
    labels[7:10, 1:4, 10:14] = 20
    return labels


@pytest.fixture
def series(rng, labels):
    signal = rng.normal(0, 10, (21, N_VOLUMES))
    return (1000 + signal[labels] + rng.normal(0, 1, (*SHAPE, N_VOLUMES))).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def write(data, affine=RAS, name="image.nii.gz"):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def atlas(save, labels):
    return save(labels, name="atlas.nii.gz")


def means(series, labels):
    return np.stack([series[labels == v].mean(axis=0, dtype=np.float64) for v in LABELS])


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "SRP"])
def test_orientation_on_disk_does_not_matter(save, series, labels, atlas, codes):
    path = save(*turned(series, tuple(codes)), name="bold.nii.gz")
    found = parcellate(path, atlas)
    np.testing.assert_array_equal(found.labels, LABELS)
    np.testing.assert_array_equal(found.coverage, 1)
    np.testing.assert_allclose(found.series, means(series, labels), atol=ROUNDING)
    assert found.missing == []


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "SRP"])
def test_orientation_of_the_atlas_does_not_matter(save, series, labels, codes):
    atlas = save(*turned(labels, tuple(codes)), name="atlas.nii.gz")
    found = parcellate(save(series, name="bold.nii.gz"), atlas)
    np.testing.assert_allclose(found.series, means(series, labels), atol=ROUNDING)


def test_an_oblique_series_is_averaged_where_its_voxels_lie(save, labels, atlas, rng):
    """The series is a function of the world, linear, so its mean over a box is known."""
    affine, slopes = oblique(), rng.normal(size=(3, N_VOLUMES))
    ijk = np.stack(np.meshgrid(*map(np.arange, OBLIQUE_SHAPE), indexing="ij"), axis=-1)
    data = (1000 + apply_affine(affine, ijk) @ slopes).astype(np.float32)
    found = parcellate(save(data, affine, "bold.nii.gz"), atlas)
    assert found.missing == []
    for row, label in zip(found.series, LABELS, strict=True):
        centre = apply_affine(RAS, np.argwhere(labels == label)).mean(axis=0)
        np.testing.assert_allclose(
            row, 1000 + centre @ slopes, atol=1.0
        )  # mm x slope: a third of a voxel


def test_a_finer_atlas_gives_the_same_means(save, series, labels):
    fine = np.kron(labels, np.ones((2, 2, 2), dtype=labels.dtype))
    atlas = save(fine, from_matvec(np.eye(3), RAS[:3, 3] - 0.5), "atlas.nii.gz")
    found = parcellate(save(series, name="bold.nii.gz"), atlas)
    np.testing.assert_allclose(found.series, means(series, labels), atol=ROUNDING)


def test_a_mask_leaves_voxels_out_and_coverage_says_how_many(save, series, labels, atlas):
    mask = np.ones(SHAPE, dtype=bool)
    mask[:, 2:4] = False  # a third of labels 3 and 4
    found = parcellate(save(series, name="bold.nii.gz"), atlas, mask=mask)
    np.testing.assert_allclose(found.coverage[:2], 2 / 3)
    np.testing.assert_allclose(found.series[:3], means(series, labels * mask)[:3], atol=ROUNDING)


def test_a_parcel_covered_by_less_than_half_is_missing(save, series, atlas):
    mask = np.ones(SHAPE, dtype=bool)
    mask[7:, :, 11:] = False
    found = parcellate(save(series, name="bold.nii.gz"), atlas, mask=mask)
    assert found.missing == [20]
    np.testing.assert_allclose(found.coverage[3], 1 / 4)
    assert np.isnan(found.series[3]).all()
    assert np.isfinite(found.series[:3]).all()


def test_a_field_of_view_that_cuts_a_parcel_counts_as_not_covered(save, series, labels, atlas):
    found = parcellate(save(series[..., :12, :], name="bold.nii.gz"), atlas)
    np.testing.assert_allclose(found.coverage, [1, 1, 1, 0.5])
    np.testing.assert_allclose(found.series[0], means(series, labels)[0], atol=ROUNDING)


def test_a_parcel_that_does_not_vary_is_missing(save, series, labels, atlas):
    series[labels == 9] = 512
    assert parcellate(save(series, name="bold.nii.gz"), atlas).missing == [9]


def test_what_is_not_a_number_outside_of_the_mask_does_not_count(save, series, labels, atlas):
    mask = np.ones(SHAPE, dtype=bool)
    mask[:, 2:4] = False
    spoilt = np.where(mask[..., np.newaxis], series, np.float32(np.nan))
    found = parcellate(save(spoilt, name="bold.nii.gz"), atlas, mask=mask)
    np.testing.assert_allclose(found.series[:3], means(series, labels * mask)[:3], atol=ROUNDING)
    assert np.isfinite(found.grand_mean)
    with pytest.raises(CorruptImageError, match="are not finite numbers"):
        parcellate(save(spoilt, name="bold.nii.gz"), atlas)


@pytest.mark.parametrize("codes", ["RAS", "LPS"])
def test_the_grand_mean_is_that_of_the_mask_over_all_volumes(save, series, atlas, codes):
    mask = np.zeros(SHAPE, dtype=np.int16)
    mask[2:7, 3:, 1:12] = 1
    series[mask == 0] = -5000
    path = save(*turned(series, tuple(codes)), name="bold.nii.gz")
    found = parcellate(path, atlas, mask=turned(mask, tuple(codes))[0] > 0)
    assert found.grand_mean == pytest.approx(series[mask > 0].mean(dtype=np.float64), abs=ROUNDING)


def test_a_series_in_which_nothing_varies_is_refused(save, atlas):
    path = save(np.full((*SHAPE, 7), 900, dtype=np.float32), name="bold.nii.gz")
    with pytest.raises(DataError, match="no parcel varies over its 7 volumes"):
        parcellate(path, atlas)


def test_maps_of_points_carry_the_atlas_to_another_space(save, series, labels, atlas):
    """The series lies 40 mm further left; the maps say so."""
    moved = RAS.copy()
    moved[0, 3] -= 40
    shift = np.array([40.0, 0, 0])
    found = parcellate(
        save(series, moved, "bold.nii.gz"),
        atlas,
        to_atlas=lambda points: points + shift,
        from_atlas=lambda points: points - shift,
    )
    np.testing.assert_array_equal(found.coverage, 1)
    np.testing.assert_allclose(found.series, means(series, labels), atol=ROUNDING)


def test_an_atlas_somewhere_else_is_refused(save, series, atlas):
    moved = RAS.copy()
    moved[0, 3] -= 400
    with pytest.raises(ContractError, match="is covered by its brain mask"):
        parcellate(save(series, moved, "bold.nii.gz"), atlas)


@pytest.mark.parametrize("value", [0.5, -1.0, 0.0], ids=["fraction", "negative", "all 0"])
def test_a_probability_map_is_not_a_label_image(save, value):
    with pytest.raises(ContractError, match="is not a label image"):
        read_labels(save(np.full(SHAPE, value, dtype=np.float32)))
