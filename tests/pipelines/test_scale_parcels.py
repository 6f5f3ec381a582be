"""The unit of a network is that of its training; what cannot be scaled is 0 and is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurostorm_app.errors import ContractError
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.parcellate import Parcels
from neurostorm_app.pipelines.scale_parcels import (
    Statistics,
    measure_statistics,
    scale_parcels,
    scale_series,
    to_grand_mean,
)
from neurostorm_app.pipelines.stage import InputOptions

EXACT = 1e-12  # no unit
RUN = Path("bold.nii.gz")
SPREADS = np.array([[3.0], [40.0], [0.5]])  # signal units
LABELS = np.array([2, 5, 7])
ROBUST = ParcelContract(space="MNI152NLin6Asym", atlas="toy", scaling="robust")


@pytest.fixture
def series(rng):
    """Three parcels of unequal spread, skewed, without their means."""
    values = SPREADS * rng.gamma(4, size=(3, 331))
    return values - values.mean(axis=1, keepdims=True)


def make_parcels(series, grand_mean=1000.0):
    n = len(series)
    return Parcels(series=series, labels=LABELS[:n], coverage=np.ones(n), grand_mean=grand_mean)


def scale(parcels, contract=ROBUST, cohort=None, **options):
    findings = Findings(deviations={"parcels": 0.0})
    scaled = scale_parcels(
        parcels, contract, InputOptions(**options), cohort=cohort, path=RUN, findings=findings
    )
    return scaled, findings


def as_cohort(statistics, n_runs=20):
    kept = {name: getattr(statistics, name) for name in ("labels", "median", "iqr", "low", "high")}
    return Statistics(**kept, sd=statistics.sd, n_runs=n_runs, n_participants=9, sha256="f" * 64)


def test_robust_units_are_the_median_the_quartiles_and_the_outer_percentiles(series):
    scaled, clipped = scale_series(series, measure_statistics(series, LABELS), scaling="robust")
    first, lower, median, upper, last = np.percentile(series, [1, 25, 50, 75, 99], axis=1)
    free = (series - median[:, None]) / (upper - lower)[:, None]
    np.testing.assert_allclose(np.median(scaled, axis=1), 0, atol=EXACT)
    np.testing.assert_allclose(scaled.max(axis=1), (last - median) / (upper - lower), rtol=EXACT)
    np.testing.assert_allclose(scaled.min(axis=1), (first - median) / (upper - lower), rtol=EXACT)
    inside = (scaled > scaled.min(1, keepdims=True)) & (scaled < scaled.max(1, keepdims=True))
    np.testing.assert_allclose(scaled[inside], free[inside], rtol=EXACT)
    assert clipped == pytest.approx(1 - inside.mean())
    assert 0.01 < clipped < 0.03


def test_the_unit_of_the_scanner_does_not_matter_to_the_runs_own_statistics(series):
    one, _ = scale(make_parcels(series))
    other, _ = scale(make_parcels(7.5 * series))
    np.testing.assert_allclose(one, other, atol=EXACT)


def test_values_that_are_exactly_0_are_left_out_of_the_quartiles_only():
    values = np.array([[-4.0, -2, 0, 0, 0, 0, 0, 2, 4]])
    found = measure_statistics(values, LABELS[:1])
    assert found.median[0] == 0
    assert found.iqr[0] == 5  # of -4, -2, 2, 4: the quartiles are -2.5 and 2.5
    assert found.high[0] == pytest.approx(np.percentile(values, 99) / 5)


def test_one_standard_deviation_of_all_parcels_together(series):
    found = measure_statistics(series, LABELS)
    assert found.sd == pytest.approx(series.std())
    scaled, clipped = scale_series(series, found, scaling="sd")
    np.testing.assert_allclose(scaled, series / series.std(), rtol=1e-9)
    assert clipped == 0


def test_a_missing_parcel_is_0_and_does_not_touch_the_others(series):
    with_hole = series.copy()
    with_hole[1] = np.nan
    for method in ("robust", "sd"):
        contract = ROBUST.model_copy(update={"scaling": method})
        scaled, findings = scale(make_parcels(with_hole), contract)
        assert (scaled[1] == 0).all()
        assert findings.reasons == []
    whole, _ = scale(make_parcels(series))
    holed, _ = scale(make_parcels(with_hole))
    np.testing.assert_array_equal(holed[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("spike", [0.0, 9.0], ids=["flat", "one spike"])
def test_a_parcel_without_a_range_becomes_0_and_is_named(series, spike):
    flat = series.copy()
    flat[2] = 0
    flat[2, 7] = spike
    flat[2] += 1e-12 * series[0]
    scaled, findings = scale(make_parcels(flat))
    assert (scaled[2] == 0).all()
    assert findings.facts["scaling"]["unscaled_parcels"] == [7]
    assert findings.deviations["parcels"] == pytest.approx(1 / 3)
    assert any("range of 1 parcels is 0 or not known" in reason for reason in findings.reasons)


def test_a_parcel_that_no_run_of_the_cohort_has_becomes_0(series):
    statistics = measure_statistics(series * [[1], [np.nan], [1]], LABELS)
    scaled, findings = scale(make_parcels(series, 1e4), cohort=as_cohort(statistics))
    assert (scaled[1] == 0).all()
    assert findings.facts["scaling"]["unscaled_parcels"] == [5]


def test_the_runs_own_statistics_are_told_and_are_within_the_contract(series):
    _, findings = scale(make_parcels(series))
    about = findings.facts["scaling"]
    assert (about["method"], about["statistics"], about["gain"]) == ("robust", "run", 1.0)
    assert about["clipped_share"] == pytest.approx(8 / 331, abs=1e-6)  # 4 at either end
    assert findings.reasons == []


def test_a_cohort_is_compared_in_the_unit_of_a_grand_mean_of_10000(series):
    statistics = measure_statistics(series * 10, LABELS)  # the run's mean is 1000
    scaled, findings = scale(make_parcels(series), cohort=as_cohort(statistics))
    np.testing.assert_allclose(scaled, scale(make_parcels(series))[0], atol=1e-9)
    about = findings.facts["scaling"]
    assert (about["statistics"], about["n_runs"], about["n_participants"]) == ("cohort", 20, 9)
    assert about["statistics_sha256"] == "f" * 64
    assert (about["spread_over_cohort"], about["grand_mean_in"]) == (1, 1000)
    assert findings.reasons == []


def test_a_run_with_another_spread_than_its_cohort_is_told(series):
    statistics = measure_statistics(series * 10 / 3, LABELS)
    _, findings = scale(make_parcels(series), cohort=as_cohort(statistics))
    assert findings.deviations["spread"] == pytest.approx(np.log2(3))
    assert findings.reasons == [
        "the signal of the run varies 3 times as much as that of the cohort"
    ]


def test_a_small_cohort_is_told(series):
    statistics = measure_statistics(series * 10, LABELS)
    _, findings = scale(make_parcels(series), cohort=as_cohort(statistics, n_runs=3))
    assert findings.reasons == ["the cohort's statistics are of 3 runs; at least 10 were expected"]


def test_the_gain_multiplies_what_is_scaled_and_is_told(series):
    one, _ = scale(make_parcels(series))
    seven, findings = scale(make_parcels(series), gain=7.0)
    np.testing.assert_allclose(seven, 7 * one, rtol=EXACT)
    assert findings.facts["scaling"]["gain"] == 7
    assert findings.deviations["gain"] == pytest.approx(np.log2(7))
    assert findings.reasons == ["the scaled series was multiplied by 7"]


def test_a_contract_without_scaling_keeps_the_unit(series):
    contract = ROBUST.model_copy(update={"scaling": "none"})
    series[1] = np.nan
    scaled, findings = scale(make_parcels(series), contract, gain=7.0)
    np.testing.assert_array_equal(scaled, np.nan_to_num(series))
    assert "scaling" not in findings.facts


@pytest.mark.parametrize("mean", [0.0, -200.0, np.nan, 30.0])
def test_a_demeaned_run_cannot_be_compared_with_a_cohort(series, mean):
    parcels = make_parcels(series, grand_mean=mean)
    with pytest.raises(ContractError, match="the mean was taken off before") as caught:
        to_grand_mean(parcels, RUN)
    assert "those of the run are then used" in caught.value.fix
