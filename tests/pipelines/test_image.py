"""NIfTI files: what is written is read, and damage is named."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from neurostorm_app.errors import CorruptImageError, InputOutputError, NoInputError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import (
    iter_volumes,
    open_image,
    read_volume,
    write_series,
    write_volume,
)

GRID = Grid((7, 8, 9), from_matvec(np.diag([-3.0, 3, 4]), [30, -40, -50]))


@pytest.fixture
def series(rng):
    return rng.normal(100, 20, (7, 8, 9, 5)).astype(np.float32)


def write(path, series, n_threads=1):
    volumes = (series[..., t] for t in range(series.shape[3]))
    write_series(path, volumes, grid=GRID, n_volumes=5, tr=0.8, code=4, n_threads=n_threads)


@pytest.mark.parametrize("name", ["bold.nii", "bold.nii.gz"])
def test_nibabel_reads_what_was_streamed(name, series, tmp_path):
    write(tmp_path / name, series)
    image = nib.load(tmp_path / name)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), series)
    np.testing.assert_allclose(image.affine, GRID.affine, atol=1e-5)  # mm
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert image.header.get_zooms()[3] == pytest.approx(0.8)  # s
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (4, 4)


def test_threads_do_not_change_a_byte(series, tmp_path):
    write(tmp_path / "one.nii.gz", series, n_threads=1)
    write(tmp_path / "four.nii.gz", series, n_threads=4)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "four.nii.gz").read_bytes()


def test_volumes_come_back_one_by_one_scaled_as_the_header_says(rng, tmp_path):
    stored = rng.integers(0, 1000, (7, 8, 9, 5)).astype(np.int16)
    image = nib.Nifti1Image(stored, GRID.affine)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "scaled.nii.gz")
    theirs = nib.load(tmp_path / "scaled.nii.gz").get_fdata()
    for number, volume in enumerate(iter_volumes(tmp_path / "scaled.nii.gz")):
        np.testing.assert_allclose(volume, theirs[..., number], rtol=1e-6)


def test_a_mask_keeps_its_type_and_grid(rng, tmp_path):
    mask = rng.random(GRID.shape) > 0.5
    write_volume(tmp_path / "mask.nii.gz", mask, grid=GRID, dtype=np.uint8)
    assert nib.load(tmp_path / "mask.nii.gz").get_data_dtype() == np.uint8
    volume, grid = read_volume(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(volume, mask)
    assert grid == GRID


def test_a_missing_file_is_no_input(tmp_path):
    with pytest.raises(NoInputError, match="there is no such file"):
        open_image(tmp_path / "nothing.nii.gz")


def test_a_file_that_is_no_image_says_so(tmp_path):
    (tmp_path / "text.nii.gz").write_bytes(b"this is not gzip")
    with pytest.raises(CorruptImageError, match="cannot be opened as NIfTI"):
        open_image(tmp_path / "text.nii.gz")


def test_a_truncated_file_names_the_volume(series, tmp_path):
    write(tmp_path / "whole.nii.gz", series)
    content = gzip.decompress((tmp_path / "whole.nii.gz").read_bytes())
    (tmp_path / "short.nii").write_bytes(content[:-1000])
    with pytest.raises(CorruptImageError, match=r"volume 4 of 5 has 1016 bytes of 2016"):
        list(iter_volumes(tmp_path / "short.nii"))


@pytest.fixture
def packed(rng, tmp_path):
    """Pack five volumes, larger than any buffer of a reader; return the path and the bytes."""
    path, grid = tmp_path / "packed.nii.gz", Grid((41, 42, 43), GRID.affine)
    volumes = rng.normal(100, 20, (5, *grid.shape)).astype(np.float32)
    write_series(path, iter(volumes), grid=grid, n_volumes=5)
    return path, path.read_bytes()


@pytest.mark.parametrize("members", [1, 2])
def test_a_truncated_gzip_file_names_the_volume(packed, members):
    path, content = packed
    if members == 2:
        plain = gzip.decompress(content)
        content = b"".join(gzip.compress(part, 1) for part in (plain[:9999], plain[9999:]))
        path.write_bytes(content)
        assert len(list(iter_volumes(path))) == 5  # members one after the other are one file
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        CorruptImageError, match=r"packed.*: volume 2 of 5 cannot be read: .* ended"
    ):
        list(iter_volumes(path))


def test_a_gzip_file_with_wrong_bytes_is_refused(packed):
    path, content = packed
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    # Which of the two comes first, the values or the checksum of the last volume, depends on them.
    with pytest.raises(
        CorruptImageError, match=r"cannot be (read|opened)|are not finite"
    ) as caught:
        list(iter_volumes(path))
    assert "damaged" in caught.value.fix or "anew" in caught.value.fix


@pytest.mark.parametrize("end", [b"\0\0\0\0\0\0\0\0", b""], ids=["wrong", "none"])
def test_the_checksum_of_a_gzip_file_is_looked_at(packed, end):
    path, content = packed
    path.write_bytes(content[:-8] + end)
    with pytest.raises(CorruptImageError, match=r"cannot be (read|opened)"):
        list(iter_volumes(path))


def test_a_series_is_not_a_volume(series, tmp_path):
    write(tmp_path / "bold.nii.gz", series)
    with pytest.raises(CorruptImageError, match="one volume was expected, there are 5"):
        read_volume(tmp_path / "bold.nii.gz")


def test_two_axes_are_no_image(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5)), np.eye(4)), tmp_path / "flat.nii.gz")
    with pytest.raises(CorruptImageError, match="three or four axes was expected"):
        open_image(tmp_path / "flat.nii.gz")


def test_nan_is_named_with_its_volume(series, tmp_path):
    series[3, 4, 5, 2] = np.nan
    nib.save(nib.Nifti1Image(series, GRID.affine), tmp_path / "nan.nii.gz")
    with pytest.raises(CorruptImageError, match=r"volume 2 of 5 has 1.*voxels that are not finite"):
        list(iter_volumes(tmp_path / "nan.nii.gz"))


def test_nan_outside_the_brain_becomes_zero(series, tmp_path):
    brain = np.zeros(series.shape[:3], dtype=bool)
    brain[2:5, 2:6, 2:7] = True
    series[~brain] = np.nan
    nib.save(nib.Nifti1Image(series, GRID.affine), tmp_path / "nan.nii.gz")
    volumes = list(iter_volumes(tmp_path / "nan.nii.gz", brain=brain))
    np.testing.assert_array_equal(np.stack(volumes, axis=-1), np.nan_to_num(series))


def test_nan_in_the_brain_is_counted(series, tmp_path):
    brain = np.ones(series.shape[:3], dtype=bool)
    brain[0] = False
    series[:3, 4, 5, 2] = np.inf
    nib.save(nib.Nifti1Image(series, GRID.affine), tmp_path / "nan.nii.gz")
    found = r"volume 2 of 5 has 2 voxels in the brain mask that are not finite"
    with pytest.raises(CorruptImageError, match=found):
        list(iter_volumes(tmp_path / "nan.nii.gz", brain=brain))


def test_a_scale_that_overflows_is_damage_not_a_warning(rng, tmp_path):
    image = nib.Nifti1Image(rng.integers(1, 9, (7, 8, 9, 2)).astype(np.float32) * 1e30, GRID.affine)
    image.header.set_slope_inter(1e30, 0)
    nib.save(image, tmp_path / "huge.nii.gz")
    content = bytearray(gzip.decompress((tmp_path / "huge.nii.gz").read_bytes()))
    content[112:116] = np.float32(1e38).tobytes()  # scl_slope of the header
    (tmp_path / "huge.nii").write_bytes(content)
    with pytest.raises(CorruptImageError, match=r"volume 0 of 2 has 504 voxels that are not"):
        list(iter_volumes(tmp_path / "huge.nii"))


def test_too_few_volumes_are_noticed(series, tmp_path):
    with pytest.raises(InputOutputError, match=r"4.* volumes were written where .*5"):
        write(tmp_path / "bold.nii.gz", series[..., :4])
