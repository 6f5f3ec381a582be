"""Denoising: the same numbers as nilearn's, noise gone, signal kept, memory bounded."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.signal import clean
from threadpoolctl import threadpool_limits

from neurostorm_app.errors import DataError, NoInputError, UsageError
from neurostorm_app.pipelines import denoise
from neurostorm_app.pipelines.denoise import correlate, denoise_parcels, denoise_volumes, smooth
from neurostorm_app.pipelines.denoise_nuisance import Nuisance, read_nuisance
from neurostorm_app.pipelines.denoise_plan import (
    build_operator,
    count_freedom,
    open_brain,
    plan_denoising,
)
from neurostorm_app.pipelines.denoise_strategies import (
    STRATEGIES,
    Band,
    Censoring,
    choose_strategies,
)
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.parcellate import parcellate
from neurostorm_app.pipelines.series import open_series
from neurostorm_app.pipelines.stage import StandardSeries

TR, N = 2.0, 240
SHAPE = (7, 8, 9)
AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -40], [0, 0, 4, -50], [0, 0, 0, 1]])
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
SUFFIXES = ("", "_derivative1", "_power2", "_derivative1_power2")


def make_table(rng, n=N) -> pd.DataFrame:
    """Make a table as fMRIPrep does, with noise in place of confounds."""
    table = {}
    for name in (*MOTION, "csf", "white_matter", "global_signal"):
        base = rng.normal(size=n).cumsum()
        step = np.r_[np.nan, np.diff(base)]
        for suffix, column in zip(SUFFIXES, (base, step, base**2, step**2), strict=True):
            table[name + suffix] = column
    for mask in "cw":
        table |= {f"{mask}_comp_cor_{i:02d}": rng.normal(size=n) for i in range(7)}
    order = int(2 * n * TR / 128)
    for k in range(order):
        table[f"cosine{k:02d}"] = np.cos(np.pi / n * (np.arange(n) + 0.5) * (k + 1))
    table["framewise_displacement"] = np.r_[np.nan, rng.uniform(0.05, 0.3, n - 1)]
    table["std_dvars"] = np.r_[np.nan, rng.uniform(0.8, 1.2, n - 1)]
    return pd.DataFrame(table)


def write_table(folder, table, name="sub-01_task-rest"):
    path = folder / f"{name}_desc-confounds_timeseries.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    about = {
        name: {"Method": "aCompCor", "Mask": "CSF" if name[0] == "c" else "WM"}
        for name in table
        if "comp_cor" in name
    }
    path.with_name(path.name.replace(".tsv", ".json")).write_text(json.dumps(about))
    return path


@pytest.fixture
def table(rng):
    return make_table(rng)


@pytest.fixture
def run(tmp_path, rng, table):
    """Make a run of noise about a mean image, brain in part of the field of view."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:6, 1:7, 2:8] = 1
    data = rng.uniform(500, 1500, (*SHAPE, 1)) + rng.normal(0, 10, (*SHAPE, N)).cumsum(axis=3)
    stem = "sub-01_task-rest_space-MNI152NLin6Asym_res-2"
    image = nib.Nifti1Image(data.astype(np.float32), AFFINE)
    image.header.set_zooms((3, 3, 4, TR))
    nib.save(image, tmp_path / f"{stem}_desc-preproc_bold.nii.gz")
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / f"{stem}_desc-brain_mask.nii.gz")
    return StandardSeries(
        name="sub-01_task-rest",
        bold=tmp_path / f"{stem}_desc-preproc_bold.nii.gz",
        mask=tmp_path / f"{stem}_desc-brain_mask.nii.gz",
        confounds=write_table(tmp_path, table),
        tr=TR,
        space="MNI152NLin6Asym",
        res="2",
    )


def no_mean():
    raise AssertionError("the table is as long as the series; nobody should ask for its mean")


def read(run, name="simple", n=N, **changes):
    (strategy,) = choose_strategies([name], **changes)
    return read_nuisance(run.confounds, strategy, n_volumes=n, mean_signal=no_mean)


def voxels_of(run):
    """Series (T, n) of the brain's voxels, read by nibabel."""
    brain = np.asarray(nib.load(run.mask).dataobj) > 0
    return np.asarray(nib.load(run.bold).dataobj)[brain].T.astype(np.float64), brain


def denoised(run, name="simple", **options):
    series, _ = open_brain(run)
    plan = plan_denoising(run, series, choose_strategies([name])[0])
    return np.stack(list(denoise_volumes(series, plan.operator, **options)), axis=3), plan


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_each_strategy_gives_what_nilearn_gives(run, table, name):
    table.loc[[40, 41, 90], "framewise_displacement"] = 0.7
    write_table(run.confounds.parent, table)
    strategy = STRATEGIES[name]
    ours, plan = denoised(run, name)
    series, brain = voxels_of(run)
    columns = kept = None
    if strategy.arguments()["strategy"]:
        columns, kept = load_confounds(str(run.bold), demean=False, **strategy.arguments())
    band = strategy.band
    theirs = clean(
        series,
        confounds=columns,
        sample_mask=kept,
        t_r=TR,
        high_pass=band.high_pass,
        low_pass=band.low_pass,
        butterworth__order=band.order,
        standardize=None,
    )
    assert ours.shape[3] == len(theirs) == (N - 3 if strategy.censoring else N)
    spread = theirs.std()
    assert np.abs(ours[brain].T - theirs).max() < 2e-5 * spread
    assert not ours[~brain].any()
    assert plan.freedom.censored == (3 if strategy.censoring else 0)


def test_a_filled_volume_is_filled_though_its_mirror_place_is_censored_too(rng):
    """What a censored volume holds must not matter; nilearn 0.14.1 alone lets it."""
    kept = np.ones(N, dtype=bool)
    kept[[0, 1, 30, N - 31, N - 1]] = False
    nuisance = Nuisance(columns=pd.DataFrame(rng.normal(size=(N, 3))), kept=kept)
    operator = build_operator(nuisance, tr=TR, band=Band(high_pass=0.01, low_pass=0.08))
    assert operator.shape == (N - 5, N)
    assert np.abs(operator[:, ~kept]).max() == 0
    assert np.abs(operator.sum(axis=1)).max() < 1e-12


def test_noise_goes_and_a_planted_signal_stays(rng, table):
    nuisance = Nuisance(columns=table[[*MOTION, "white_matter", "csf"]], kept=np.ones(N, bool))
    operator = build_operator(nuisance, tr=TR, band=Band(high_pass=0.01, low_pass=0.1))
    times = np.arange(N) * TR
    signal = np.sin(2 * np.pi * 0.04 * times)
    noise = nuisance.columns.to_numpy() @ rng.normal(0, 5, nuisance.columns.shape[1])
    breath = 3 * np.sin(2 * np.pi * 0.2 * times)
    cleaned = operator @ (1000 + 0.1 * times + signal + noise + breath)
    assert np.corrcoef(1000 + signal + noise + breath, signal)[0, 1] < 0.2
    assert np.corrcoef(cleaned, signal)[0, 1] > 0.9
    assert np.std(operator @ noise) < 1e-6 * np.std(noise)
    inside = slice(20, -20)  # the filter swings at the ends
    assert np.std((operator @ breath)[inside]) < 0.05 * np.std(breath)


def test_blocks_give_what_the_whole_array_gives(run):
    whole, plan = denoised(run, "36P")
    parts, _ = denoised(run, "36P", memory=7 * 4 * 180)
    series, brain = voxels_of(run)
    exact = plan.operator @ series
    scale = exact.std()
    assert np.abs(whole[brain].T - exact).max() < 2e-5 * scale
    assert np.abs(parts[brain].T - exact).max() < 2e-5 * scale


def test_memory_is_bounded(tmp_path, monkeypatch, rng):
    shape, n = (30, 31, 32), 120
    volume = rng.normal(size=(*shape, 1)).astype(np.float32)
    data = volume * np.linspace(1, 2, n, dtype=np.float32)
    nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "series.nii.gz")
    series = open_series(tmp_path / "series.nii.gz").within(np.ones(shape, dtype=bool))
    operator = np.eye(n) - 1 / n
    per_volume = 4 * int(np.prod(shape))
    monkeypatch.setattr(denoise, "TAKEN", 8)
    next(iter(denoise_volumes(series, operator)))  # what is imported is not counted
    tracemalloc.start()
    for _ in denoise_volumes(series, operator, memory=10 * per_volume):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (10 + 8 + 8) * per_volume + 2**20


def test_what_the_first_volume_holds_far_from_zero_costs_no_digits(run, tmp_path):
    _, brain = voxels_of(run)
    image = nib.load(run.bold)
    data = np.asarray(image.dataobj) + np.float32(30000)
    nib.save(nib.Nifti1Image(data, AFFINE, image.header), tmp_path / "high.nii.gz")
    ours, plan = denoised(replace(run, bold=tmp_path / "high.nii.gz"))
    exact = plan.operator @ data[brain].T.astype(np.float64)
    assert np.abs(ours[brain].T - exact).max() < 1e-4 * exact.std()


def test_censoring_leaves_out_what_exceeds_a_threshold_and_says_why(run, table):
    table.loc[[50], "framewise_displacement"] = 0.6
    table.loc[[54], "std_dvars"] = 1.6
    table["non_steady_state_outlier00"] = np.r_[1, np.zeros(N - 1)]
    write_table(run.confounds.parent, table)
    nuisance = read(run, "scrubbing")
    gone = {name: np.flatnonzero(flags).tolist() for name, flags in nuisance.outliers.items()}
    assert gone == {
        "framewise_displacement": [50],
        "std_dvars": [54],
        "non_steady_state": [0],
        "short_segment": [51, 52, 53],
    }
    assert np.flatnonzero(~nuisance.kept).tolist() == [0, 50, 51, 52, 53, 54]
    nuisance = read(run, "36P+scrub", fd=0.7)
    assert np.flatnonzero(~nuisance.kept).tolist() == [0, 54]
    nuisance = read(run, "none")
    assert np.flatnonzero(~nuisance.kept).tolist() == [0]


def test_dvars_need_not_be_looked_at(run, table):
    table.loc[[54], "std_dvars"] = 9
    table.loc[[60], "framewise_displacement"] = 9
    path = write_table(run.confounds.parent, table)
    strategy = replace(STRATEGIES["36P"], censoring=Censoring(std_dvars=None))
    nuisance = read_nuisance(path, strategy, n_volumes=N, mean_signal=no_mean)
    assert np.flatnonzero(~nuisance.kept).tolist() == [60]


def test_a_missing_column_is_an_error(run, table):
    write_table(run.confounds.parent, table.drop(columns="csf"))
    with pytest.raises(DataError, match="does not hold what the strategy simple takes") as caught:
        read(run)
    assert "csf" in caught.value.what
    write_table(run.confounds.parent, table.drop(columns="framewise_displacement"))
    with pytest.raises(DataError, match=r"columns that the table lacks.*framewise_displacement"):
        read(run, "scrubbing")


def test_a_gap_in_a_column_is_an_error(run, table):
    table.loc[70, "trans_x"] = np.nan
    write_table(run.confounds.parent, table)
    with pytest.raises(DataError, match="in which later rows are n/a: trans_x"):
        read(run)


def test_components_without_their_json_are_an_error(run):
    run.confounds.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="strategy acompcor takes: Could not find"):
        read(run, "acompcor")


def test_fewer_components_than_asked_are_noted(run, table):
    few = [f"{mask}_comp_cor_{i:02d}" for mask in "cw" for i in range(3, 7)]
    write_table(run.confounds.parent, table.drop(columns=few))
    assert any(
        "6 components of CompCor instead of 10" in note for note in read(run, "acompcor").notes
    )


def test_no_cosines_no_high_pass_is_noted(run, table):
    write_table(run.confounds.parent, table[[c for c in table if "cosine" not in c]])
    assert any("has no cosines" in note for note in read(run).notes)


def test_a_high_pass_stands_for_cosines(run):
    assert not any("cosine" in name for name in read(run, "acompcor", high_pass=0.01).names)
    assert sum("cosine" in name for name in read(run, "acompcor", high_pass=0.005).names) == 7


def test_a_run_without_a_table_can_be_filtered_but_not_regressed():
    nuisance = read_nuisance(None, STRATEGIES["none"], n_volumes=N, mean_signal=no_mean)
    assert nuisance.kept.all()
    assert nuisance.names == []
    with pytest.raises(NoInputError, match="has no table of confounds; the strategy 24P"):
        read_nuisance(None, STRATEGIES["24P"], n_volumes=N, mean_signal=no_mean)


def test_a_table_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(NoInputError, match="the confounds table is not there"):
        read_nuisance(tmp_path / "x.tsv", STRATEGIES["24P"], n_volumes=N, mean_signal=no_mean)


def test_a_longer_table_is_used_where_its_rows_can_be_told(run, table, rng):
    series, _ = voxels_of(run)
    longer = make_table(rng, N + 10)
    longer.loc[7 : N + 6, "global_signal"] = series.mean(axis=1)
    longer.loc[[3, 27], "framewise_displacement"] = 0.9
    write_table(run.confounds.parent, longer)
    _, plan = denoised(run, "36P+scrub")
    assert plan.nuisance.first_row == 7
    assert np.flatnonzero(~plan.nuisance.kept).tolist() == [20]
    np.testing.assert_allclose(plan.nuisance.columns["csf"], longer["csf"][7 : N + 7])


def test_a_shorter_table_is_an_error(run, table):
    write_table(run.confounds.parent, table.iloc[:90])
    with pytest.raises(DataError, match="has 90 rows; the series has 240"):
        denoised(run)


def test_too_few_volumes_are_refused_with_the_sum(run, table):
    table.loc[10:210, "framewise_displacement"] = 2.0
    write_table(run.confounds.parent, table)
    with pytest.raises(DataError, match="would leave about 0 degrees of freedom of 240") as caught:
        denoised(run, "36P+scrub")
    assert "201 are censored, 36 go to confounds" in caught.value.what


def test_a_run_of_which_nothing_is_kept_is_refused(run, table):
    table["framewise_displacement"] = 2.0
    write_table(run.confounds.parent, table)
    with pytest.raises(DataError, match="240 are censored"):
        denoised(run, "scrubbing")


def test_degrees_of_freedom_are_counted(run):
    nuisance = read(run, "24P")
    freedom = count_freedom(nuisance, tr=TR, band=Band(high_pass=0.01, low_pass=0.08))
    assert (freedom.volumes, freedom.censored, freedom.confounds) == (N, 0, 24)
    assert freedom.filtered == pytest.approx(N * (1 - 0.07 / 0.25))
    assert freedom.left == pytest.approx(N * 0.07 / 0.25 - 25)


def test_a_band_that_the_repetition_time_cannot_hold_is_refused(run):
    series, _ = open_brain(run)
    with pytest.raises(DataError, match=r"ends at 0\.0625 Hz, below the low-pass at 0\.08"):
        plan_denoising(replace(run, tr=8.0), series, STRATEGIES["36P"])


@pytest.mark.parametrize("n", [30, 33, 40])
def test_a_short_run_can_be_filtered(n):
    nuisance = Nuisance(columns=None, kept=np.ones(n, dtype=bool))
    operator = build_operator(nuisance, tr=TR, band=Band(high_pass=0.01, low_pass=0.1, order=5))
    assert np.isfinite(operator).all()


def test_parcels_are_the_means_of_the_denoised_series(run, tmp_path):
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[1:4, 1:4, 2:6], labels[4:6, 1:7, 2:8] = 3, 7
    labels[0, :, :], labels[5, 6, 7:] = 9, 11
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "atlas.nii.gz")
    series, _ = open_brain(run)
    ours, plan = denoised(run, "24P")
    raw = parcellate(series, tmp_path / "atlas.nii.gz", mask=series.brain)
    parcels = denoise_parcels(raw, plan.operator)
    assert parcels.missing == [9]
    assert parcels.coverage.tolist() == [1, 1, 0, 0.5]
    for label, row in zip(parcels.labels, parcels.series, strict=True):
        if label != 9:
            inside = (labels == label) & (series.brain)
            np.testing.assert_allclose(row, ours[inside].mean(axis=0), atol=1e-3)
    matrix = correlate(parcels.series)
    assert np.isnan(matrix[2]).all()
    assert np.isnan(matrix[:, 2]).all()
    good = [0, 1, 3]
    np.testing.assert_allclose(matrix[np.ix_(good, good)], np.corrcoef(parcels.series[good]))


def test_threads_do_not_change_a_bit(rng):
    kept = np.ones(400, dtype=bool)
    kept[[50, 60]] = False
    nuisance = Nuisance(columns=pd.DataFrame(rng.normal(size=(400, 36))), kept=kept)
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            found.append(build_operator(nuisance, tr=TR, band=Band(high_pass=0.01, low_pass=0.1)))
    assert np.array_equal(*found)


def test_nothing_is_said_of_parcels_that_hold_rounding(rng):
    series = rng.normal(size=(3, 50))
    series[1] *= 1e-9
    assert np.isnan(correlate(series)[1]).all()
    assert np.isnan(correlate(np.full((2, 9), np.nan))).all()


def test_smoothing_has_the_width_that_was_asked():
    volume = np.zeros((31, 31, 31), dtype=np.float32)
    volume[15, 15, 15] = 1
    grid = Grid(volume.shape, np.diag([2.0, 2, 2, 1]))
    line = smooth(volume, grid, fwhm=6.0)[:, 15, 15]
    assert line[15 + 3] / line[15] == pytest.approx(2 ** -(6**2 * 4 / 6**2), rel=0.05)


def test_an_unknown_strategy_is_refused_with_a_guess():
    with pytest.raises(
        UsageError, match="there is no strategy 'acompcorr' to denoise by"
    ) as caught:
        choose_strategies(["acompcorr"])
    assert "did you mean acompcor" in caught.value.fix
    assert "36P" in caught.value.fix


def test_a_band_that_is_empty_is_refused():
    with pytest.raises(UsageError, match="no frequency passes both"):
        choose_strategies(["24P"], low_pass=0.005)
    assert choose_strategies(["24P"], high_pass=0, low_pass=0)[0].band == Band()


def test_a_name_that_stands_twice_counts_once():
    assert [s.name for s in choose_strategies(["24P", "none", "24P"])] == ["24P", "none"]


def test_no_warning_of_nilearn_is_hidden_but_one(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in STRATEGIES:
            denoised(run, name)


@pytest.mark.parametrize("stem", ["test-v21", "test", "no_nonsteady"])
def test_real_tables_of_fmriprep_are_read(shared, tmp_path, stem):
    folder = shared / "data/fmriprep/confounds"
    for source in folder.glob(f"{stem}_desc-confounds_*"):
        kind = source.name.partition("_desc-")[2]
        (tmp_path / f"sub-01_task-rest_desc-{kind}").write_bytes(source.read_bytes())
    (path,) = tmp_path.glob("*.tsv")
    n = len(pd.read_csv(path, sep="\t"))
    names = ["24P", "36P", "36P+scrub", "simple+gsr", "scrubbing", "none"]
    for name in [*names, *(["acompcor"] if path.with_suffix(".json").is_file() else [])]:
        strategy = STRATEGIES[name]
        nuisance = read_nuisance(path, strategy, n_volumes=n, mean_signal=no_mean)
        assert nuisance.columns is None or np.isfinite(nuisance.columns.to_numpy()).all()
        assert len(nuisance.kept) == n
        if name == "acompcor":
            assert sum("_comp_cor_" in column for column in nuisance.names) >= 2
