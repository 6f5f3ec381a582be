"""A series is opened, its volumes are streamed, its brain is found."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import CorruptImageError, DataError, NoInputError, SeriesTooShortError
from neurostorm_app.pipelines.series import find_brain, open_series

SHAPE = (17, 18, 19, 5)
AFFINE = np.diag([-3.0, 3, 3, 1])


@pytest.fixture
def save(tmp_path):
    """Write an array as NIfTI and give its path."""

    def write(data, name="bold.nii.gz", affine=AFFINE):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def ball():
    distance = np.linalg.norm(np.indices(SHAPE[:3]).T - [8, 9, 9], axis=-1).T
    return distance < 6


@pytest.fixture
def series(rng, ball):
    background = rng.uniform(0.1, 20, SHAPE)
    return np.where(ball[..., np.newaxis], 600 + background, background).astype(np.float32)


def test_volumes_come_one_by_one_as_they_are(save, series):
    found = open_series(save(series))
    assert (found.grid.shape, found.n_volumes) == (SHAPE[:3], 5)
    for t, volume in enumerate(found.volumes()):
        np.testing.assert_array_equal(volume, series[..., t])


def test_nothing_but_a_series_is_opened(save, series):
    with pytest.raises(DataError, match="a series has four axes"):
        open_series(save(series[..., 0]))


def test_a_short_series_is_refused_by_name(save, series):
    path = save(series)
    with pytest.raises(
        SeriesTooShortError, match=r"the series has 5.* volumes; at least .*20 are needed"
    ) as caught:
        open_series(path, min_volumes=20)
    assert str(path) in str(caught.value)


def test_a_missing_series_is_refused(tmp_path):
    with pytest.raises(NoInputError, match=r"bold\.nii\.gz"):
        open_series(tmp_path / "bold.nii.gz")


def test_a_truncated_series_is_refused_by_name(save, series):
    path = save(series)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = open_series(path)
    with pytest.raises(CorruptImageError, match=r"bold\.nii\.gz"):
        list(found.volumes())


def test_a_series_that_ends_early_inside_its_archive_is_refused(save, series, tmp_path):
    whole = gzip.decompress(save(series).read_bytes())
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(gzip.compress(whole[: len(whole) * 2 // 3]))
    with pytest.raises(CorruptImageError, match=r"cut\.nii\.gz"):
        list(open_series(path).volumes())


def test_a_mask_on_another_grid_lies_where_it_lay(save, series, ball):
    shifted = nib.affines.from_matvec(np.diag([3.0, 3, 3]), [-48, 0, 0])  # x runs the other way
    mask = save(ball[::-1].astype(np.uint8), "mask.nii.gz", shifted)
    brain, source = find_brain(open_series(save(series)), mask)
    assert source == "given"
    np.testing.assert_array_equal(brain, ball)


def test_a_series_that_was_masked_is_its_own_mask(save, series, ball):
    series[~ball] = 0
    brain, source = find_brain(open_series(save(series)), None)
    assert source == "nonzero"
    np.testing.assert_array_equal(brain, ball)


def test_a_brain_stands_out_from_its_background(save, series, ball):
    brain, source = find_brain(open_series(save(series)), None)
    assert source == "computed"
    assert 2 * (brain & ball).sum() / (brain.sum() + ball.sum()) > 0.95  # Dice


def test_an_empty_mask_is_refused(save, series):
    mask = save(np.zeros(SHAPE[:3], dtype=np.uint8), "mask.nii.gz")
    with pytest.raises(DataError, match="the brain mask is empty on the grid of the series"):
        find_brain(open_series(save(series)), mask)


def test_nan_around_a_brain_is_background(save, series, ball):
    series[~ball] = np.nan
    path = save(series)
    with pytest.raises(CorruptImageError, match="that are not finite numbers"):
        list(open_series(path).volumes())
    brain, source = find_brain(open_series(path), None)
    assert source == "nonzero"
    np.testing.assert_array_equal(brain, ball)
    read = np.stack(list(open_series(path).within(brain).volumes()), axis=-1)
    np.testing.assert_array_equal(read, np.where(ball[..., np.newaxis], series, 0))
