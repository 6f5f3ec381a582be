"""The statistics of a cohort: near the exact ones, whatever the order, in bounded memory."""

from __future__ import annotations

import logging
import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import DataError
from neurostorm_app.models.card import Cleaning, ParcelContract
from neurostorm_app.pipelines.cohort import Sketch, measure_cohort
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.scale_parcels import GRAND_MEAN, measure_statistics
from neurostorm_app.pipelines.stage import StandardSeries

LABELS = np.array([1, 2, 5])
BIN = 0.002  # of a percentile's size: a bin
CONTRACT = ParcelContract(
    space="MNI152NLin6Asym",
    atlas="toy",
    scaling="robust",
    tr=1.5,
    cleaning=Cleaning(high_pass=0.01, detrend=False),
)
GRID = Grid.from_rows((15, 18, 15), [[12, 0, 0, -84], [0, 12, 0, -120], [0, 0, 12, -66]])


@pytest.fixture
def runs(rng):
    """Twelve runs of unequal length and spread; parcels of unequal spread and shape."""
    runs = []
    for n_volumes in rng.integers(60, 300, 12):
        values = rng.gamma(2, size=(3, n_volumes)) * [[20], [150], [3]] * rng.uniform(0.5, 2)
        runs.append(values - values.mean(axis=1, keepdims=True))
    return runs


def sketch_of(runs):
    sketch = Sketch(LABELS)
    for run in runs:
        sketch.add(run)
    return sketch


def compare(found, exact):
    """Each percentile is right to a bin of its own size."""
    unit = exact.iqr
    reach = BIN * np.maximum(np.abs(exact.high), np.abs(exact.low)) * unit
    np.testing.assert_allclose(found.iqr, exact.iqr, rtol=2 * BIN)
    assert (np.abs(found.median - exact.median) < BIN * unit).all()
    assert (np.abs(found.low - exact.low) * unit < 3 * reach).all()
    assert (np.abs(found.high - exact.high) * unit < 3 * reach).all()
    np.testing.assert_allclose(found.sd, exact.sd, rtol=1e-9)


def test_counts_give_the_exact_percentiles_to_a_bin(runs):
    exact = measure_statistics(np.concatenate(runs, axis=1), LABELS)
    compare(sketch_of(runs).statistics(), exact)


def test_the_order_of_the_runs_does_not_matter(runs):
    one, other = sketch_of(runs).statistics(), sketch_of(runs[::-1]).statistics()
    for name in ("median", "iqr", "low", "high"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_whole_numbers_with_many_zeros_are_counted_right(rng):
    values = np.rint(rng.normal(0, 2, (3, 4001)))
    exact = measure_statistics(values, LABELS)
    found = sketch_of([values]).statistics()
    np.testing.assert_allclose(found.iqr, exact.iqr, rtol=2 * BIN)
    np.testing.assert_allclose(found.median, 0, atol=1e-2)  # the width of the bin of 0
    assert (exact.iqr > np.subtract(*np.percentile(values, [75, 25], axis=1))).all()


def test_a_parcel_that_is_missing_in_some_runs_is_counted_in_the_others(runs):
    holed = [run.copy() for run in runs]
    for run in holed[:5]:
        run[1] = np.nan
    for run in holed:
        run[2] = np.nan
    sketch = sketch_of(holed)
    found = sketch.statistics()
    assert sketch.n_runs.tolist() == [12, 7, 0]
    assert sketch.n_values.tolist()[1] == sum(run.shape[1] for run in runs[5:])
    exact = measure_statistics(np.concatenate([run[:2] for run in runs[5:]], axis=1), LABELS[:2])
    np.testing.assert_allclose(found.iqr[1], exact.iqr[1], rtol=2 * BIN)
    assert np.isnan([found.iqr[2], found.median[2], found.low[2], sketch.sd[2]]).all()
    assert found.usable.tolist() == [True, True, False]


def test_values_beyond_the_outer_bins_are_kept_in_them():
    found = sketch_of([np.tile([-1e9, -1e-9, 1e-9, 1e9], (3, 5))]).statistics()
    assert np.isfinite([found.iqr, found.low, found.high]).all()


def test_memory_does_not_grow_with_the_runs(rng):
    sketch = Sketch(np.arange(1, 101))
    sketch.add(rng.normal(0, 50, (100, 300)))
    tracemalloc.start()
    for _ in range(20):
        sketch.add(rng.normal(0, 50, (100, 300)))
    _, peak = tracemalloc.get_traced_memory()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2**20  # bytes
    assert peak < 32 * 2**20


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """Three boxes in the middle of the brain."""
    labels = np.zeros(GRID.shape, dtype=np.int16)
    labels[3:6, 5:9, 5:9] = 1
    labels[6:9, 5:9, 5:9] = 2
    labels[9:12, 5:9, 5:9] = 5
    path = tmp_path_factory.mktemp("atlas") / "toy.nii.gz"
    nib.save(nib.Nifti1Image(labels, GRID.affine), path)
    return path


@pytest.fixture
def make_run(tmp_path, rng, atlas):
    labels = np.asarray(nib.load(atlas).dataobj)

    def make(name, *, mean=1000.0, spread=10.0, n_volumes=64):
        signal = rng.normal(0, spread, (6, n_volumes))
        data = (mean + signal[labels]) * (1 + 0 * labels[..., np.newaxis])
        path, mask = tmp_path / f"{name}_bold.nii.gz", tmp_path / f"{name}_mask.nii.gz"
        nib.save(nib.Nifti1Image(data.astype(np.float32), GRID.affine), path)
        nib.save(nib.Nifti1Image(np.ones(GRID.shape, np.uint8), GRID.affine), mask)
        return StandardSeries(
            name=name,
            bold=path,
            mask=mask,
            confounds=None,
            tr=2.0,
            space="MNI152NLin6Asym",
            res="2",
        )

    return make


def test_runs_of_another_unit_count_the_same(make_run, atlas):
    """A run of mean 100 and spread 1 is one of mean 1000 and spread 10 in another unit."""
    runs = [
        ("a", make_run("one")),
        ("a", make_run("two")),
        ("b", make_run("3", mean=100, spread=1)),
    ]
    found = measure_cohort(runs, CONTRACT, atlas)
    assert (found.statistics.n_runs, found.statistics.n_participants) == (3, 2)
    assert found.n_runs.tolist() == [3, 3, 3]
    assert found.n_values.tolist() == [3 * 85] * 3  # 128 s at 1.5 s
    assert found.left_out == {}
    np.testing.assert_allclose(found.sd, GRAND_MEAN * 0.01, rtol=0.3)  # less by interpolation


def test_a_run_that_cannot_be_used_is_left_out_and_told(make_run, atlas, caplog):
    good, bad = make_run("good"), make_run("bad", mean=0.0)
    with caplog.at_level(logging.WARNING):
        found = measure_cohort([("a", bad), ("b", good)], CONTRACT, atlas)
    assert list(found.left_out) == ["bad"]
    assert found.statistics.n_participants == 1
    assert "bad: left out" in caplog.text


def test_a_cohort_without_a_run_is_an_error_that_says_the_first_reason(make_run, atlas):
    bad = replace(make_run("bad"), tr=-1.0)
    with pytest.raises(DataError, match="none of 1 runs can be used for statistics; the first: "):
        measure_cohort([("a", bad)], CONTRACT, atlas)
