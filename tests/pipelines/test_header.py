"""What a header says, before a voxel is read."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import CorruptImageError, DataError, NoInputError
from neurostorm_app.pipelines.header import check_present, check_tr, read_series_header


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


def test_a_volume_is_refused(write):
    with pytest.raises(CorruptImageError, match="expected a series"):
        read_series_header(write((7, 8, 9)))


def test_a_header_that_places_no_voxel_is_refused(write):
    path = write()
    image = nib.load(path)
    image.header.set_sform(np.diag([3.0, 3, 0, 1]), code=1)
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


@pytest.mark.parametrize("tr", [0.72, 2, 60])
def test_seconds_are_taken(tr, tmp_path):
    assert check_tr(tr, tmp_path) == tr


@pytest.mark.parametrize("tr", [0, -1, 720, float("nan"), "2", None, True])
def test_what_cannot_be_seconds_is_refused(tr, tmp_path):
    with pytest.raises(DataError, match="expected seconds between 0 and 60"):
        check_tr(tr, tmp_path)
