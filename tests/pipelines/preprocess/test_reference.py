"""The BOLD reference: what counts, and the brain in it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from nipype.algorithms.confounds import is_outlier

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.head.reference import (
    check_series,
    count_nonsteady,
    find_brain,
    make_reference,
    rough_head,
)
from neurostorm_app.pipelines.preprocess.head.sbref import read_sbref

GRID = Grid((40, 44, 28), from_matvec(np.diag([4.0, 4, 4.5]), [-78, -86, -60]))


def head(shift=(0, 0, 0)):
    """Draw a brain of 1000 in a dim scalp, with a gap between."""
    x, y, z = np.moveaxis(GRID.world() - np.asarray(shift), -1, 0)
    radius = np.sqrt((x / 62) ** 2 + (y / 76) ** 2 + (z / 54) ** 2)
    folds = 1 + 0.2 * np.sin(x / 7) * np.sin(y / 8) * np.cos(z / 9)
    return (1000 * (radius < 0.85) * folds + 250 * ((radius > 1.0) & (radius < 1.1))).astype("f4")


def write(path, volumes):
    nib.save(nib.Nifti1Image(np.stack(volumes, -1).astype(np.float32), GRID.affine), path)
    return path


@pytest.mark.parametrize("n", [0, 1, 3])
def test_bright_volumes_at_the_start_are_counted_as_nipype_does(n, rng):
    signal = 100 + rng.normal(0, 0.2, 40)
    signal[:n] += np.array([30, 12, 6])[:n]
    assert count_nonsteady(signal) == n
    assert count_nonsteady(signal) == is_outlier(signal)


def test_a_constant_signal_has_no_unsteady_volumes():
    assert count_nonsteady(np.full(20, 7.0)) == 0


def test_an_unsteady_volume_after_a_steady_one_does_not_count(rng):
    signal = 100 + rng.normal(0, 0.2, 40)
    signal[5] += 30
    assert count_nonsteady(signal) == is_outlier(signal) == 0


def test_the_reference_is_sharp_and_leaves_out_unsteady_volumes(rng, tmp_path):
    shifts = [(0.4 * t, -0.3 * t, 0.2 * t) for t in range(-3, 4)]
    volumes = [head(s) + rng.normal(0, 20, GRID.shape) for s in shifts]
    bold = write(tmp_path / "bold.nii.gz", [3 * volumes[0], *volumes])
    reference, qc = make_reference(bold, GRID, n_skipped=1)
    assert qc["n_averaged"] == 7
    best = min(np.abs(reference - head(s)).mean() for s in shifts)
    assert best < np.abs(np.mean(volumes, axis=0) - head()).mean()
    assert reference.max() < 1.5 * 1200


def test_the_brain_is_found_without_its_scalp(rng):
    bias = 1 + 0.4 * np.tanh(GRID.world()[..., 1] / 60)
    volume = (head() * bias + np.abs(rng.normal(0, 12, GRID.shape))).astype(np.float32)
    truth = head() > 500
    found = find_brain(volume, GRID)
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.95


def test_a_short_series_says_what_is_needed(tmp_path):
    bold = write(tmp_path / "bold.nii.gz", [head()] * 4)
    with pytest.raises(DataError, match="4 volumes; head motion and confounds take at least 5"):
        check_series(bold, 2.0)
    nib.save(nib.Nifti1Image(head(), GRID.affine), tmp_path / "one.nii.gz")
    with pytest.raises(DataError, match="1 volumes; head motion"):
        check_series(tmp_path / "one.nii.gz", 2.0)


def test_a_repetition_time_in_milliseconds_is_refused(tmp_path):
    bold = write(tmp_path / "bold.nii.gz", [head()] * 6)
    assert check_series(bold, 2.0) == 6
    with pytest.raises(DataError, match="a repetition time of 2000 s"):
        check_series(bold, 2000.0)


def test_a_series_without_contrast_is_refused():
    with pytest.raises(DataError, match="have no contrast"):
        rough_head(np.full(GRID.shape, 3.0, np.float32))


def test_no_brain_is_an_error(rng):
    specks = (rng.random(GRID.shape) > 0.995) * 1000
    with pytest.raises(DataError, match="no brain was found in the BOLD reference"):
        find_brain(specks.astype(np.float32), GRID)


def test_the_single_band_reference_is_taken_as_it_is(rng, tmp_path):
    bold = write(tmp_path / "bold.nii.gz", [head() + rng.normal(0, 20, GRID.shape)] * 6)
    bright = (1.5 * head((4.0, 0, 0)) ** 1.1 + rng.normal(0, 5, GRID.shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(bright, GRID.affine), tmp_path / "sbref.nii.gz")
    reference, qc = make_reference(bold, GRID, n_skipped=0, sbref=tmp_path / "sbref.nii.gz")
    np.testing.assert_array_equal(reference, bright)
    assert qc["reference"] == "single-band reference"
    assert qc["sbref_moved_mm"] == pytest.approx(4.0, abs=0.3)  # mm


def test_a_single_band_reference_on_another_grid_is_brought_to_that_of_the_series(tmp_path):
    other = Grid((50, 54, 38), from_matvec(np.diag([4.0, 4, 4.5]), [-98, -106, -82]))
    larger = np.zeros(other.shape, np.float32)
    larger[5:45, 5:49, 5:33] = head()  # the corner of the one lies at another's voxel
    shift = other.affine[:3, 3] + [20, 20, 22.5] - GRID.affine[:3, 3]
    nib.save(nib.Nifti1Image(larger, other.affine), tmp_path / "sbref.nii.gz")
    there = read_sbref(tmp_path / "sbref.nii.gz", GRID, head() > 500)
    assert there.shape == GRID.shape
    expected = head(tuple(shift))
    assert np.corrcoef(there.ravel(), expected.ravel())[0, 1] > 0.97


def test_a_single_band_reference_that_does_not_cover_the_head_is_refused(tmp_path):
    affine = GRID.affine @ from_matvec(np.eye(3), [0, 0, 14])
    nib.save(nib.Nifti1Image(head()[:, :, 14:], affine), tmp_path / "sbref.nii.gz")
    with pytest.raises(DataError, match=r"the single-band reference covers 4\d% of the head"):
        read_sbref(tmp_path / "sbref.nii.gz", GRID, head() > 500)


def test_a_single_band_reference_of_something_else_is_refused(rng, tmp_path):
    bold = write(tmp_path / "bold.nii.gz", [head() + rng.normal(0, 20, GRID.shape)] * 6)
    noise = np.abs(rng.normal(0, 100, GRID.shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, GRID.affine), tmp_path / "sbref.nii.gz")
    with pytest.raises(DataError, match="is not found in its single-band reference"):
        make_reference(bold, GRID, n_skipped=0, sbref=tmp_path / "sbref.nii.gz")


def test_empty_volumes_do_not_enter_the_reference(rng, tmp_path):
    still = [head() + rng.normal(0, 20, GRID.shape) for _ in range(5)]
    bold = write(tmp_path / "bold.nii.gz", [still[0], 0 * head(), *still[1:], 0 * head() + 7])
    _, qc = make_reference(bold, GRID, n_skipped=0)
    assert qc == {"reference": "median of steady volumes at rest", "n_averaged": 5}
    nothing = write(tmp_path / "empty.nii.gz", [0 * head()] * 5)
    with pytest.raises(DataError, match="the BOLD volumes have no contrast: each has one"):
        make_reference(nothing, GRID, n_skipped=0)


@pytest.mark.parametrize("n_slices", [4, 6, 10])
def test_a_brain_is_found_in_few_thick_slices(n_slices, rng):
    tilt = euler2mat(0.3, 0.1, 0.2) @ np.diag([4.0, 4, 6])
    grid = Grid((40, 44, n_slices), from_matvec(tilt, -tilt @ [19.5, 21.5, (n_slices - 1) / 2]))
    x, y, z = np.moveaxis(grid.world(), -1, 0)
    radius = np.sqrt((x / 62) ** 2 + (y / 76) ** 2 + (z / 54) ** 2)
    volume = 1000 * (radius < 0.85) + np.abs(rng.normal(0, 12, grid.shape))
    found = find_brain(volume.astype(np.float32), grid)
    truth = radius < 0.85
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95
