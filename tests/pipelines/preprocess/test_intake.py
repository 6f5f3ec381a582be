"""What no scanner writes is counted, and refused where it matters."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from neurostorm_app.errors import CorruptImageError, DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import iter_volumes
from neurostorm_app.pipelines.preprocess.head.intake import survey_series

GRID = Grid((24, 26, 18), from_matvec(np.diag([6.0, 6, 6]), [-69, -75, -51]))
MIDDLE, CORNER = (12, 13, 9), (0, 1, 0)


@pytest.fixture
def series(rng):
    """Seven volumes of a ball."""
    ball = 1000.0 * (np.linalg.norm(GRID.world(), axis=-1) < 45)
    return (ball[..., None] + np.abs(rng.normal(0, 10, (*GRID.shape, 7)))).astype(np.float32)


def write(path, series):
    nib.save(nib.Nifti1Image(series, GRID.affine), path)
    return path


def test_a_sound_series_has_nothing_to_tell(series, tmp_path):
    found = survey_series(write(tmp_path / "bold.nii.gz", series))
    assert found.head is None
    assert found.qc() == {
        "empty_volumes": [], "n_voxels_not_finite": 0, "volumes_not_finite": []
    }  # fmt: skip
    np.testing.assert_allclose(found.means, series.mean(axis=(0, 1, 2)), rtol=1e-5)


def test_what_is_not_finite_outside_the_head_is_counted_and_taken_for_zero(series, tmp_path):
    series[CORNER][[2, 5]] = np.nan, np.inf
    bold = write(tmp_path / "bold.nii.gz", series)
    found = survey_series(bold)
    assert found.not_finite == {2: 1, 5: 1}
    assert found.qc()["n_voxels_not_finite"] == 2
    volumes = list(iter_volumes(bold, brain=found.head))
    assert volumes[2][CORNER] == volumes[5][CORNER] == 0


def test_what_is_not_finite_in_the_head_is_refused(series, tmp_path):
    series[MIDDLE][3] = np.nan
    series[CORNER] = np.nan
    bold = write(tmp_path / "bold.nii.gz", series)
    with pytest.raises(CorruptImageError, match="1 voxels of the head are not finite") as caught:
        survey_series(bold)
    assert "1 in volume 0" in str(caught.value)
    assert "2 more" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.float64(3e38)], ids=["NaN", "beyond float32"])
def test_a_series_without_one_finite_voxel_is_named(tmp_path, value):
    image = nib.Nifti1Image(np.full((*GRID.shape, 3), 10 * value), GRID.affine)
    nib.save(image, tmp_path / "bold.nii.gz")
    with pytest.raises(CorruptImageError, match=r"bold\.nii\.gz: volume 0 of 3.* not finite"):
        survey_series(tmp_path / "bold.nii.gz")


def test_a_damaged_file_is_told_as_such(series, tmp_path):
    bold = write(tmp_path / "bold.nii", series)
    bold.write_bytes(bold.read_bytes()[:-1000])
    with pytest.raises(CorruptImageError, match="ends early"):
        survey_series(bold)


def test_empty_volumes_are_listed_and_a_series_of_them_is_refused(series, tmp_path):
    series[..., [1, 4]] = 0, 9
    assert survey_series(write(tmp_path / "bold.nii.gz", series)).empty == (1, 4)
    with pytest.raises(DataError, match="all 7 volumes are empty"):
        survey_series(write(tmp_path / "none.nii.gz", 0 * series + 3))
