"""Head motion relative to a reference of the same contrast, and of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import open_image, read_volume
from neurostorm_app.pipelines.phantom import make_phantom, read_run_truth, score_motion
from neurostorm_app.pipelines.preprocess.head.headmotion import measure_head
from neurostorm_app.pipelines.preprocess.head.reference import find_brain, make_reference
from neurostorm_app.pipelines.preprocess.head.sbref import match_contrast

if TYPE_CHECKING:
    from neurostorm_app.pipelines.phantom.truth import RunTruth


class Scan(NamedTuple):
    """A series, what it looks like at rest, a single-band reference, and the truth."""

    bold: object
    grid: Grid
    median: np.ndarray
    mask: np.ndarray
    sbref: np.ndarray
    sbref_mask: np.ndarray
    truth: RunTruth


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Scan:
    folder = tmp_path_factory.mktemp("phantom") / "bids"
    made = make_phantom(
        folder, participants=1, runs=1, seed=3, n_volumes=10, scale="tiny", sbref=True, motion=2.0
    )
    bold, single = (next(folder.rglob(f"*_run-1_{kind}.nii.gz")) for kind in ("bold", "sbref"))
    grid = Grid.of(open_image(bold), bold)
    median, _ = make_reference(bold, grid, n_skipped=0)
    truth = read_run_truth(next(iter(made.runs.values())))
    sbref, _ = read_volume(single)
    return Scan(bold, grid, median, rim(median, grid), sbref, rim(sbref, grid), truth)


def rim(volume, grid):
    return ndimage.binary_dilation(find_brain(volume, grid), iterations=2)


def measure(scan, reference, mask, **options):
    return measure_head(scan.bold, scan.grid, reference, mask, n_skipped=0, **options)


CONTRASTS = {
    "as it is": lambda v: v,
    "flat": lambda v: 600 * (v / 600) ** 0.5,
    "steep": lambda v: 600 * (v / 600) ** 1.5,
    "white matter darker than grey": lambda v: np.where(v > 300, 1500 - v, v),
}


@pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=CONTRASTS.keys())
def test_a_reference_of_another_contrast_does_no_harm(contrast, scan):
    track, qc = measure(scan, scan.median, scan.mask, sbref_given=False)
    assert qc["motion_template"] == "the BOLD reference"
    alone = score_motion(scan.truth, track.matrices)
    other = contrast(scan.sbref).astype(np.float32)
    track, qc = measure(scan, other, scan.sbref_mask, sbref_given=True)
    score = score_motion(scan.truth, track.matrices)
    assert qc["motion_template"].startswith("median of steady volumes")
    assert qc["unseen_volumes"] == []
    assert score["p95_mm"] < alone["p95_mm"] + 0.01  # mm
    assert score["p95_deg"] < alone["p95_deg"] + 0.01  # degrees
    brain = apply_affine(scan.truth.t1w_to_bold, scan.truth.brain_t1w)
    there = apply_affine(scan.truth.sbref, brain)
    away = [
        np.linalg.norm(apply_affine(found, there) - apply_affine(pose, brain), axis=1)
        for found, pose in zip(track.matrices, scan.truth.motion, strict=True)
    ]
    assert np.percentile(away, 95) < 0.12  # mm; voxels of 6 mm
    assert qc["median_moved_mm"] == pytest.approx(1.3, abs=0.1)  # mm; it is so by any contrast


def test_a_single_band_reference_of_something_else_is_refused(scan, rng):
    noise = np.abs(rng.normal(0, 100, scan.grid.shape)).astype(np.float32)
    with pytest.raises(DataError, match="is not found in its single-band reference"):
        measure(scan, noise, noise > -1, sbref_given=True)


def test_voxels_that_are_not_numbers_outside_the_head_count_as_nothing(scan, tmp_path):
    image = nib.load(scan.bold)
    series = image.get_fdata(dtype=np.float32)
    head = ndimage.binary_dilation(scan.median > 200, iterations=4)
    series[~head] = np.nan
    bold = tmp_path / "bold.nii"
    nib.save(nib.Nifti1Image(series, image.affine), bold)
    reference, _ = make_reference(bold, scan.grid, n_skipped=0, head=head)
    cut = scan._replace(bold=bold)
    for sbref_given in (False, True):
        track, _ = measure(cut, reference, scan.mask, sbref_given=sbref_given, head=head)
        assert score_motion(scan.truth, track.matrices)["p95_mm"] < 0.2  # mm; voxels of 6 mm


def test_contrast_is_matched_whatever_a_few_voxels_show(rng):
    one = rng.uniform(0, 1000, (20, 20, 20)).astype(np.float32)
    expected = 900 - 0.6 * one + 2e-4 * one**2
    other = expected + rng.normal(0, 5, one.shape)
    other[:2] = 5000.0
    found = match_contrast(one, other.astype(np.float32), np.ones(one.shape, dtype=bool))
    inner = (one > 10) & (one < 990)
    assert np.abs(found - expected)[inner].max() < 3.0
