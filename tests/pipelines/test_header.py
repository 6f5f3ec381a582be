"""What a header says, before a voxel is read."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import CorruptImageError, DataError, NoInputError
from neurostorm_app.pipelines.header import (
    check_file,
    check_present,
    check_tr,
    read_series_header,
)
from neurostorm_app.pipelines.header_rules import read_header
from neurostorm_app.pipelines.image import open_image


@pytest.fixture
def write(tmp_path):
    def image(shape=(7, 8, 9, 5), *, tr=0.8, unit="sec"):
        made = nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([3.0, 3, 4, 1]))
        made.header.set_xyzt_units("mm", unit)
        if len(shape) == 4:
            made.header.set_zooms((3, 3, 4, tr))
        path = tmp_path / "x.nii.gz"
        nib.save(made, path)
        return path

    return image


@pytest.mark.parametrize(
    ("tr", "unit", "seconds"),
    [(0.8, "sec", 0.8), (800, "msec", 0.8), (0.8, "unknown", None), (0, "sec", None)],
)
def test_the_repetition_time_is_in_seconds(write, tr, unit, seconds):
    found = read_series_header(write(tr=tr, unit=unit))
    assert found.tr == (None if seconds is None else pytest.approx(seconds, abs=1e-6))  # s
    assert found.shape == (7, 8, 9, 5)
    assert found.zooms == pytest.approx((3, 3, 4), abs=1e-6)  # mm


def test_a_unit_of_space_that_nobody_knows_does_not_hide_that_of_time(write):
    path = write(tr=2.0)
    image = nib.load(path)
    header = image.header.copy()
    header["xyzt_units"] = 8 + 4
    nib.Nifti1Image(np.asarray(image.dataobj), image.affine, header).to_filename(path)
    assert read_series_header(path).tr == 2.0  # s


def test_a_volume_is_refused(write):
    with pytest.raises(CorruptImageError, match="expected a series"):
        read_series_header(write((7, 8, 9)))


def test_a_header_that_places_no_voxel_is_refused(write):
    path = write()
    image = nib.load(path)
    image.header.set_sform(np.diag([3.0, 3, 0, 1]), code=1)
    image.header["vox_offset"] = 352
    raw = path.with_name("y.nii")
    raw.write_bytes(image.header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes())
    with pytest.raises(CorruptImageError, match="cannot be inverted"):
        read_series_header(raw)


def test_a_file_that_is_not_there_is_told_from_a_link_to_nothing(tmp_path):
    with pytest.raises(NoInputError, match="does not exist"):
        check_present(tmp_path / "x")
    (tmp_path / "y").symlink_to("nothing")
    with pytest.raises(NoInputError, match="link to content that is not on this machine") as caught:
        check_present(tmp_path / "y")
    assert "datalad get" in caught.value.fix


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_never_ends_when_it_is_read_is_no_image(tmp_path, make):
    make(tmp_path / "x.nii.gz")
    with pytest.raises(NoInputError, match="is no ordinary file; expected an image"):
        check_file(tmp_path / "x.nii.gz")


@pytest.mark.parametrize("tr", [0.72, 2, 60])
def test_seconds_are_taken(tr, tmp_path):
    assert check_tr(tr, tmp_path) == tr


@pytest.mark.parametrize("tr", [0, -1, 720, float("nan"), "2", None, True])
def test_what_cannot_be_seconds_is_refused(tr, tmp_path):
    with pytest.raises(DataError, match="expected seconds between 0 and 60"):
        check_tr(tr, tmp_path)


def spoil(path, **fields):
    """Change fields of a header on disk; ``dim__4`` is the fourth of ``dim``."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    header = np.frombuffer(content, nib.Nifti1Header.template_dtype, count=1)
    for name, value in fields.items():
        field, _, index = name.partition("__")
        header[field][(0, int(index)) if index else 0] = value
    path.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim__0": 0}, "expected the number of axes, 3 or 4, and of voxels along each"),
        ({"dim__0": 8}, "expected the number of axes, 3 or 4, and of voxels along each"),
        ({"dim__2": -5}, "expected the number of axes, 3 or 4, and of voxels along each"),
        ({"dim": [4, 30000, 30000, 30000, 1000, 1, 1, 1]}, "1000 volumes of 27000000000000 voxels"),
        ({"dim": [4, 512, 512, 9, 5, 1, 1, 1]}, r"announces .* bytes; a gzip file of .* holds"),
        ({"datatype": 32, "bitpix": 64}, "expected whole or real numbers and their number of bits"),
        ({"bitpix": 8}, "datatype 4 of its header is int16, bitpix is 8"),
        ({"vox_offset": 0}, "expected whole bytes between 352 and 16777216"),
        ({"vox_offset": np.nan}, "expected whole bytes between 352 and 16777216"),
        ({"scl_slope": np.inf}, "expected finite numbers, or a slope of 0"),
        ({"pixdim__1": 0}, "pixdim says that voxels are 0 x 3 x 4 mm; expected voxels between"),
        ({"pixdim__3": np.nan}, "pixdim says that voxels are 3 x 3 x nan mm"),
        ({"srow_x": np.nan}, "its affine cannot be inverted"),
        ({"srow_x": [1e30, 0, 0, 0]}, "its affine says that voxels are 1e"),
        ({"srow_y": [0, 3, 0, 1e9]}, r"and the first is at 0 x 1e\+09 x 0 mm"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 9}, "its quaternion is no rotation"),
        ({"magic": b"ni1"}, r"expected b'n\+1' or b'n\+2', header and voxels in one file"),
        ({"sizeof_hdr": 17}, "expected a header of 348 or 540 bytes that begins with this number"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(write, fields, words):
    path = write()
    spoil(path, **fields)
    with pytest.raises(CorruptImageError, match=words) as caught:
        read_header(path)
    assert str(path) in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("slope", [0, np.nan, 1, -2.5])
def test_no_scale_and_finite_scales_are_taken(write, slope):
    path = write()
    spoil(path, scl_slope=slope)
    assert read_header(path).get_data_shape() == (7, 8, 9, 5)


def test_both_versions_and_byte_orders_are_read(tmp_path):
    data = np.arange(7 * 8 * 9, dtype=np.int16).reshape(7, 8, 9)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        nib.save(kind(data, np.diag([3.0, 3, 4, 1])), tmp_path / "x.nii.gz")
        np.testing.assert_array_equal(open_image(tmp_path / "x.nii.gz").get_fdata(), data)
    swapped = nib.Nifti1Image(data.astype(">i2"), np.diag([3.0, 3, 4, 1]))
    swapped = nib.Nifti1Image(data, None, swapped.header.as_byteswapped(">"))
    nib.save(swapped, tmp_path / "x.nii")
    assert (tmp_path / "x.nii").read_bytes()[:4] == b"\0\0\1\x5c"
    np.testing.assert_array_equal(open_image(tmp_path / "x.nii").get_fdata(), data)


def test_a_plain_file_that_is_too_short_is_named_before_it_is_read(write):
    raw = write().with_name("y.nii")
    raw.write_bytes(gzip.decompress(write().read_bytes())[:-1])
    with pytest.raises(CorruptImageError, match="volume 4 of 5 has 1007 bytes of 1008: the file"):
        read_header(raw)


def test_extensions_are_not_read(write):
    path = write()
    image = nib.load(path)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, path)
    assert len(nib.load(path).header.extensions) == 1
    opened = open_image(path)
    assert len(opened.header.extensions) == 0
    np.testing.assert_array_equal(opened.get_fdata(), nib.load(path).get_fdata())


def test_a_volume_of_a_series_has_a_bound(write, monkeypatch):
    monkeypatch.setattr("neurostorm_app.pipelines.header.SERIES_VOXELS_MAX", 500)
    with pytest.raises(CorruptImageError, match="volumes of 504 voxels; a series has 500 at most"):
        read_series_header(write())


def test_a_header_that_this_user_may_not_read_is_no_input(write, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = write()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NoInputError, match="this user may not read it"):
        read_header(path)


BOMBS = """
import resource, sys
from pathlib import Path
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.image import iter_volumes, open_image, read_volume

# In MiB; ru_maxrss would have in it what the parent took.
used = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 300 * 2**20,) * 2)
before = used()
for name in sys.argv[1:]:
    try:
        open_image(Path(name))
        for volume in iter_volumes(Path(name)):
            pass
        print("read")
    except AppError as error:
        print(type(error).__name__)
print(used() - before)
"""


def test_bombs_are_refused_in_little_memory(write, tmp_path):
    """A header that claims terabytes, one whose extension does, zeros behind and alone."""
    good = gzip.decompress(write().read_bytes())
    claims = write()
    spoil(claims, dim=[4, 30000, 30000, 30000, 1000, 1, 1, 1])
    claims = claims.rename(tmp_path / "claims.nii.gz")
    packer = zlib.compressobj(9, wbits=31)
    zeros = b"".join(packer.compress(bytes(2**24)) for _ in range(16)) + packer.flush()  # 256 MiB
    extension = good[:348] + b"\1\0\0\0" + np.int32([-1, 6]).tobytes() + good[352:]
    (tmp_path / "extension.nii.gz").write_bytes(gzip.compress(extension) + zeros)
    (tmp_path / "behind.nii.gz").write_bytes(gzip.compress(good) + zeros)
    (tmp_path / "zeros.nii.gz").write_bytes(zeros)
    names = ["claims", "extension", "behind", "zeros"]
    command = [sys.executable, "-c", BOMBS, *(str(tmp_path / f"{n}.nii.gz") for n in names)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    *ends, grown = done.stdout.split()
    assert ends == ["CorruptImageError", "read", "read", "CorruptImageError"]
    assert int(grown) < 64  # MiB
