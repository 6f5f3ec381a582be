"""The BOLD reference: what counts, and the brain in it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nipype.algorithms.confounds import is_outlier

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.reference import (
    check_series,
    count_nonsteady,
    find_brain,
    make_reference,
    rough_head,
)

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
    reference = make_reference(bold, GRID, n_skipped=1)
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
