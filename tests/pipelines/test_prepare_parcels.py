"""A run becomes windows of scaled parcels: in the right order of steps, and all of it is told."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import ContractError, SeriesTooShortError, UsageError
from neurostorm_app.models.card import Cleaning, ParcelContract
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.pipelines.clean import clean_parcels
from neurostorm_app.pipelines.cohort import measure_cohort
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.parcellate import parcellate
from neurostorm_app.pipelines.prepare_parcels import plan_windows, prepare_parcels
from neurostorm_app.pipelines.regrid import resample_time
from neurostorm_app.pipelines.scale_parcels import measure_statistics, scale_series
from neurostorm_app.pipelines.stage import InputOptions, StandardSeries
from neurostorm_app.pipelines.statistics_file import describe_cohort, format_cohort

GRID = Grid.from_rows((15, 18, 15), [[-12, 0, 0, 84], [0, 12, 0, -120], [0, 0, 12, -66]])
TR, N_VOLUMES = 1.1, 71
ROUNDING = 1e-4  # no unit; scaled values are of the order of 1
CONTRACT = ParcelContract(
    space="MNI152NLin6Asym",
    atlas="toy",
    n_parcels=6,
    tr=0.735,
    window=40,
    stride=40,
    shortest=20,
    multiple=10,
    scaling="robust",
    coordinates=True,
    cleaning=Cleaning(high_pass=0.01, detrend=False),
)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """Six boxes in the middle of the brain."""
    labels = np.zeros(GRID.shape, dtype=np.int16)
    for n, i in enumerate((3, 6, 9)):
        labels[i : i + 3, 5:9, 5:9] = 2 * n + 1
        labels[i : i + 3, 9:13, 5:9] = 2 * n + 2
    path = tmp_path_factory.mktemp("atlas") / "toy.nii.gz"
    nib.save(nib.Nifti1Image(labels, GRID.affine), path)
    return path


@pytest.fixture
def make_run(tmp_path, rng, atlas):
    labels = np.asarray(nib.load(atlas).dataobj)

    def make(name="run", *, n_volumes=N_VOLUMES, mask=None, scale=1.0):
        signal = 1000 + rng.normal(0, 9, (7, n_volumes)) + 0.3 * np.arange(n_volumes)
        noise = rng.normal(0, 2, (*GRID.shape, n_volumes))
        data = scale * (signal[labels] + noise)
        brain = np.ones(GRID.shape) if mask is None else mask
        bold, path = tmp_path / f"{name}_bold.nii.gz", tmp_path / f"{name}_mask.nii.gz"
        nib.save(nib.Nifti1Image(data.astype(np.float32), GRID.affine), bold)
        nib.save(nib.Nifti1Image(brain.astype(np.uint8), GRID.affine), path)
        return StandardSeries(
            name=name,
            bold=bold,
            mask=path,
            confounds=None,
            tr=TR,
            space="MNI152NLin6Asym",
            res="2",
        )

    return make


def prepare(run, atlas, contract=CONTRACT, **options):
    prepared = prepare_parcels(run, contract, atlas, InputOptions(**options))
    return prepared, list(prepared.windows)


def change(**facts):
    return CONTRACT.model_copy(update=facts)


def test_the_steps_are_clean_then_resample_then_scale_then_cut(make_run, atlas):
    run = make_run()
    prepared, windows = prepare(run, atlas)
    parcels, _ = clean_parcels(parcellate(run.bold, atlas), None, tr=TR, cleaning=CONTRACT.cleaning)
    series = resample_time(parcels.series, TR, 0.735).astype(np.float64)
    series -= series.mean(axis=1, keepdims=True)
    scaled, _ = scale_series(series, measure_statistics(series, parcels.labels), scaling="robust")
    assert series.shape == (6, 106)
    assert prepared.starts == [0, 40, 66]
    for start, window in zip(prepared.starts, windows, strict=True):
        assert window.dtype == np.float32
        np.testing.assert_allclose(window, scaled[:, start : start + 40], atol=ROUNDING)
    assert prepared.step == pytest.approx(N_VOLUMES * TR / 106)
    np.testing.assert_allclose(prepared.parcels.series, series, atol=1e-3)  # signal units


def test_ends_stay_where_the_contract_says_so_and_the_sidecar_tells(make_run, atlas):
    prepared, _ = prepare(make_run(), atlas, change(time_positions="ends"))
    told, n = prepared.findings.facts, round((N_VOLUMES - 1) * TR / 0.735) + 1
    assert (told["time_interpolation"], told["time_positions"]) == ("linear", "ends")
    assert told["n_volumes_used"] == prepared.parcels.series.shape[1] == n == 106
    assert prepared.step == pytest.approx((N_VOLUMES - 1) * TR / 105)
    centres, _ = prepare(make_run(), atlas)
    assert centres.findings.facts["time_positions"] == "centres"
    assert np.abs(centres.parcels.series - prepared.parcels.series).max() > 1  # signal units


def test_the_sidecar_tells_all_of_it(make_run, atlas):
    told = prepare(make_run(), atlas)[0].findings.as_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["tr_in"], told["tr"], told["time_interpolation"]) == (1.1, 0.735, "linear")
    assert (told["n_volumes_in"], told["n_volumes_used"]) == (71, 106)
    assert (told["window"], told["stride"], told["n_windows"]) == (40, 40, 3)
    assert told["tail"] == "the last window ends at the last volume"
    assert (told["n_unused"], told["n_overlap"]) == (0, 14)
    assert told["parcel_coverage"] == {str(label): 1.0 for label in range(1, 7)}
    assert (told["missing_parcels"], told["lowest_parcel_coverage"]) == ([], 1.0)
    assert told["scaling"]["statistics"] == "run"
    assert told["clip_policy"] == "dense"
    assert told["coordinates"] == {"source": "centroids"}


def test_places_are_given_to_a_network_that_wants_them(make_run, atlas):
    run = make_run()
    places = prepare(run, atlas)[0].xyz
    np.testing.assert_allclose(places[0], [84 - 12 * 4, -120 + 12 * 6.5, -66 + 12 * 6.5])  # mm
    assert prepare(run, atlas, change(coordinates=False))[0].xyz is None


def test_a_missing_parcel_is_0_and_its_coverage_is_told(make_run, atlas):
    mask = np.ones(GRID.shape)
    mask[3:5] = 0  # two thirds of the parcels 1 and 2
    prepared, windows = prepare(make_run(mask=mask), atlas)
    assert all((window[:2] == 0).all() for window in windows)
    assert all(window[2:].std() > 0.3 for window in windows)
    told = prepared.findings.as_dict()
    assert told["missing_parcels"] == [1, 2]
    assert told["parcel_coverage"]["1"] == pytest.approx(1 / 3, abs=1e-3)
    missing = "are missing and count as 0: 2 covered by less than one half, 0 that do not vary"
    assert f"2 of 6 parcels {missing}" in told["reasons"]


def test_the_tail_is_in_a_window_that_ends_with_the_run():
    findings = Findings()
    assert plan_windows(95, CONTRACT, tr=0.735, findings=findings) == ([0, 40, 55], 40)
    assert findings.facts["n_overlap"] == 25
    assert findings.reasons == []
    assert plan_windows(80, CONTRACT, tr=0.735, findings=findings) == ([0, 40], 40)
    assert findings.facts["n_overlap"] == 0


def test_windows_of_a_contract_may_lie_apart():
    findings = Findings()
    contract = change(window=10, stride=30)
    assert plan_windows(75, contract, tr=0.735, findings=findings) == ([0, 30, 60, 65], 10)
    assert (findings.facts["stride"], findings.facts["n_unused"]) == (30, 40)


def test_a_short_run_gets_windows_of_whole_patches_and_breaks_the_contract():
    findings = Findings()
    assert plan_windows(37, CONTRACT, tr=0.735, findings=findings) == ([0, 7], 30)
    assert findings.deviations["window"] == pytest.approx(np.log2(4 / 3))
    assert findings.reasons == [
        "the run has 37 volumes of 0.735 s; its windows were shortened from 40 to 30"
    ]
    assert (findings.facts["window"], findings.facts["window_asked"]) == (30, 40)


@pytest.mark.parametrize(("shortest", "n_volumes"), [(20, 19), (15, 19), (None, 39)])
def test_a_run_shorter_than_the_shortest_window_is_refused(shortest, n_volumes):
    contract = change(shortest=shortest)
    words = f"the run has {n_volumes} volumes of 0.735 s, .* in all; the shortest"
    with pytest.raises(SeriesTooShortError, match=words) as caught:
        plan_windows(n_volumes, contract, tr=0.735, findings=Findings())
    assert "connectome" in caught.value.fix


def test_a_short_run_is_refused_by_name_before_its_voxels_are_read(make_run, atlas):
    run = make_run(n_volumes=9)
    run.bold.write_bytes(run.bold.read_bytes()[:3000])  # the header is whole
    contract = change(min_volumes=5)
    with pytest.raises(SeriesTooShortError, match=r"run_bold.nii.gz: the run has 13 volumes"):
        prepare_parcels(run, contract, atlas, InputOptions())


def test_without_a_window_the_run_is_one(make_run, atlas):
    contract = change(window=None, stride=None, shortest=None)
    prepared, (window,) = prepare(make_run(), atlas, contract)
    assert (prepared.starts, prepared.window, window.shape) == ([0], 106, (6, 106))
    assert "clip_policy" not in prepared.findings.facts


def test_what_has_no_meaning_for_parcels_is_told_and_changes_nothing(make_run, atlas):
    run = make_run()
    _, windows = prepare(run, atlas)
    prepared, same = prepare(run, atlas, clip_policy="upstream-eval", parity="upstream")
    np.testing.assert_array_equal(windows, same)
    assert prepared.findings.facts["clip_policy"] == "dense"
    told = prepared.findings.facts["without_meaning_for_parcels"]
    assert told == {"clip_policy": "upstream-eval", "parity": "upstream"}
    _, not_scaled = prepare(run, atlas, change(scaling="none"))
    prepared, same = prepare(run, atlas, change(scaling="none"), gain=3.0)
    np.testing.assert_array_equal(not_scaled, same)
    assert prepared.findings.facts["without_meaning_for_parcels"] == {"gain": 3.0}


def test_only_salient_windows_of_parcels_are_made_if_few_are_wanted(make_run, atlas):
    run = make_run()
    whole, windows = prepare(run, atlas)
    few, chosen = prepare(run, atlas, max_windows=1)
    told = few.findings.as_dict()
    assert json.loads(json.dumps(told)) == told
    scores = told["salience"]["scores"]
    (best,) = told["salience"]["chosen"]
    assert best == int(np.argmax(scores))
    assert few.starts == [whole.starts[best]]
    np.testing.assert_array_equal(chosen, [windows[best]])
    assert told["salience"]["starts_of_all"] == whole.starts
    assert told["salience"]["saved"] == pytest.approx(2 / 3, abs=1e-4)
    assert (told["n_windows"], few.n_unused, told["n_overlap"]) == (1, 66, 0)
    assert "salience" not in whole.findings.facts


def test_a_run_that_is_one_window_has_nothing_to_choose_from(make_run, atlas):
    contract = change(window=None, stride=None, shortest=None)
    prepared, (window,) = prepare(make_run(), atlas, contract, max_windows=1)
    assert window.shape == (6, 106)
    assert prepared.findings.facts["without_meaning_for_parcels"] == {"max_windows": 1}


def test_statistics_of_a_cohort_of_the_run_alone_are_those_of_the_run(make_run, atlas, tmp_path):
    """Up to the width of a bin; the unit of the scanner does not matter."""
    run = make_run(scale=0.02)
    cohort = measure_cohort([("01", run)], CONTRACT, atlas)
    table = tmp_path / "cohort.tsv"
    table.write_text(format_cohort(cohort))
    about = describe_cohort(cohort, CONTRACT, atlas_sha256=hash_file(atlas), version="1")
    table.with_suffix(".json").write_text(json.dumps(about))
    _, own = prepare(run, atlas)
    prepared, by_cohort = prepare(run, atlas, statistics=table)
    np.testing.assert_allclose(own, by_cohort, atol=0.01)
    told = prepared.findings.facts["scaling"]
    assert (told["statistics"], told["n_runs"]) == ("cohort", 1)
    assert told["statistics_sha256"] == hash_file(table)
    assert told["spread_over_cohort"] == pytest.approx(1, abs=0.01)
    with pytest.raises(UsageError, match="does not scale parcels; statistics have no meaning"):
        prepare(run, atlas, change(scaling="none"), statistics=table)


def test_another_parcellation_is_refused_with_both_numbers(make_run, atlas):
    with pytest.raises(ContractError, match="has 6 parcels; the model takes 424"):
        prepare(make_run(), atlas, change(n_parcels=424))


def test_the_runs_own_repetition_time_is_kept_where_the_contract_has_none(make_run, atlas):
    prepared, windows = prepare(make_run(), atlas, change(tr=None))
    assert prepared.findings.facts["time_interpolation"] == "none"
    assert (prepared.step, prepared.starts) == (TR, [0, 31])
    assert windows[0].shape == (6, 40)


def test_a_run_at_the_contracts_repetition_time_is_not_interpolated(make_run, atlas):
    run = replace(make_run(), tr=0.735)
    prepared, _ = prepare(run, atlas)
    told = prepared.findings.facts
    assert (told["time_interpolation"], told["n_volumes_used"]) == ("none", N_VOLUMES)
