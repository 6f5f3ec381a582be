"""Confounds, trends and slow waves are gone; the signal stays; what is missing is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from neurostorm_app.errors import DataError, NoInputError
from neurostorm_app.models.card import Cleaning
from neurostorm_app.pipelines.clean import clean_parcels, degrees_of_freedom, read_confounds
from neurostorm_app.pipelines.parcellate import Parcels

TR = 2.0  # s
SIGNAL = np.zeros(150)
BAND = Cleaning(confounds=("trans_x", "csf"), high_pass=0.008, low_pass=0.1)


def make_parcels(series):
    n = len(series)
    return Parcels(series=np.asarray(series), labels=np.arange(1, n + 1), coverage=np.ones(n))


@pytest.fixture
def table(rng, tmp_path):
    """Write a table of 150 volumes as fMRIPrep does."""
    frame = pd.DataFrame(rng.normal(size=(150, 3)), columns=["trans_x", "csf", "dvars"])
    frame.loc[0, "dvars"] = np.nan
    path = tmp_path / "desc-confounds_timeseries.tsv"
    frame.to_csv(path, sep="\t", index=False, na_rep="n/a")
    return path


@pytest.fixture
def wave():
    """A wave in the middle of the band, 0.04 Hz."""
    return np.sin(2 * np.pi * 0.04 * TR * np.arange(150))


def correlation(a, b):
    return abs(np.corrcoef(a, b)[0, 1])


def test_confounds_are_gone_and_the_signal_stays(table, wave):
    confounds, missing, _ = read_confounds(table, BAND.confounds, signal=SIGNAL)
    assert missing == []
    nuisance = confounds.to_numpy()
    series = [1000 + 5 * wave + 30 * nuisance[:, 0], 800 + 5 * wave - 20 * nuisance[:, 1]]
    cleaned, notes = clean_parcels(make_parcels(series), confounds, tr=TR, cleaning=BAND)
    assert notes == []
    assert correlation(*cleaned.series) > 0.95
    assert correlation(*series) < 0.3
    np.testing.assert_allclose(cleaned.series.mean(axis=1), 0, atol=1e-9)  # signal units


def test_drift_and_fast_waves_are_gone(wave):
    t = np.arange(150)
    drift, fast = 0.5 * t, np.sin(2 * np.pi * 0.2 * TR * t)
    cleaned, _ = clean_parcels(make_parcels([wave + drift + fast]), None, tr=TR, cleaning=BAND)
    middle = slice(15, -15)
    assert correlation(cleaned.series[0][middle], wave[middle]) > 0.98


def test_a_high_pass_alone_takes_slow_cosines_off(wave):
    slow = 50 * np.cos(np.pi * np.arange(150) / 150)
    cleaning = Cleaning(high_pass=0.008)
    cleaned, _ = clean_parcels(make_parcels([wave + slow]), None, tr=TR, cleaning=cleaning)
    assert correlation(cleaned.series[0], wave) > 0.98


def test_a_card_that_asks_for_nothing_has_only_the_means_taken_off(rng):
    series = rng.normal(1000, 9, (2, 40)) + np.arange(40)
    cleaned, notes = clean_parcels(
        make_parcels(series), None, tr=0.735, cleaning=Cleaning(detrend=False)
    )
    wanted = series - series.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(cleaned.series, wanted, atol=1e-9)  # signal units
    assert notes == []


@pytest.mark.parametrize("tr", [0.5, 2.0])
def test_the_high_pass_is_in_hertz_whatever_the_repetition_time(tr):
    t = tr * np.arange(round(300 / tr))
    slow, fast = np.sin(2 * np.pi * 0.004 * t), np.sin(2 * np.pi * 0.03 * t)
    cleaning = Cleaning(high_pass=0.01, detrend=False)
    cleaned, _ = clean_parcels(make_parcels([5 * slow + fast]), None, tr=tr, cleaning=cleaning)
    assert correlation(cleaned.series[0], fast) > 0.9
    assert correlation(cleaned.series[0], slow) < 0.05


def test_missing_parcels_stay_missing(wave):
    parcels = make_parcels([wave, np.full(150, np.nan), wave[::-1]])
    cleaned, _ = clean_parcels(parcels, None, tr=TR, cleaning=BAND)
    assert cleaned.missing == [2]
    assert np.isfinite(cleaned.series[[0, 2]]).all()


def test_a_column_the_table_lacks_is_recorded(table):
    confounds, missing, _ = read_confounds(table, ("trans_x", "white_matter"), signal=SIGNAL)
    assert missing == ["white_matter"]
    assert list(confounds) == ["trans_x"]


def test_the_first_row_of_a_derivative_takes_the_value_that_follows(table):
    confounds, missing, _ = read_confounds(table, ("dvars",), signal=SIGNAL)
    assert missing == []
    assert confounds["dvars"][0] == confounds["dvars"][1]


def test_a_column_with_holes_counts_as_missing(table):
    frame = pd.read_csv(table, sep="\t")
    frame.loc[70, "csf"] = np.nan
    frame.to_csv(table, sep="\t", index=False, na_rep="n/a")
    confounds, missing, _ = read_confounds(table, BAND.confounds, signal=SIGNAL)
    assert missing == ["csf"]
    assert list(confounds) == ["trans_x"]


@pytest.mark.parametrize("columns", [(), ("trans_x", "csf")])
def test_a_run_without_a_table_lacks_all_columns(columns):
    assert read_confounds(None, columns, signal=SIGNAL) == (None, list(columns), 0)


@pytest.mark.parametrize("n_volumes", [156, 40])
def test_a_table_of_another_run_is_refused_with_both_numbers(table, rng, n_volumes):
    signal = rng.normal(size=n_volumes)
    with pytest.raises(DataError, match=f"table has 150 rows; the series has {n_volumes} volumes"):
        read_confounds(table, BAND.confounds, signal=signal)
    with_signal = pd.read_csv(table, sep="\t").assign(global_signal=rng.normal(size=150))
    with_signal.to_csv(table, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(DataError, match=f"table has 150 rows; the series has {n_volumes} volumes"):
        read_confounds(table, BAND.confounds, signal=signal)


@pytest.mark.parametrize("first", [0, 4, 110])
def test_the_rows_of_a_cut_series_are_found_by_its_global_signal(table, rng, first):
    frame = pd.read_csv(table, sep="\t").assign(global_signal=rng.normal(900, 5, 150))
    frame.to_csv(table, sep="\t", index=False, na_rep="n/a")
    signal = 0.9 * frame["global_signal"][first : first + 40] + rng.normal(0, 1, 40)
    confounds, missing, row = read_confounds(table, BAND.confounds, signal=signal.to_numpy())
    assert (row, missing) == (first, [])
    np.testing.assert_array_equal(confounds["csf"], frame["csf"][first : first + 40])


def test_a_table_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(NoInputError, match="the confounds table is not there"):
        read_confounds(tmp_path / "gone.tsv", BAND.confounds, signal=SIGNAL)


def test_a_table_too_large_for_confounds_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "wide.tsv"
    path.write_text("\t".join(f"c{i:06d}" for i in range(10**6)) + "\n")
    with pytest.raises(DataError, match="is too large for a table of confounds: 8000000 bytes"):
        read_confounds(path, BAND.confounds, signal=SIGNAL)
    path.write_text("csf\n1\n")
    with path.open("r+b") as file:
        file.truncate(2**27 + 1)  # zeros that take no room on the disk
    with pytest.raises(DataError, match="is too large for a table of confounds: 134217729 bytes"):
        read_confounds(path, BAND.confounds, signal=SIGNAL)


def test_a_binary_file_is_not_a_table(tmp_path):
    (tmp_path / "bad.tsv").write_bytes(b"\x80\x81\xff")
    with pytest.raises(DataError, match="cannot be read as a confounds table"):
        read_confounds(tmp_path / "bad.tsv", BAND.confounds, signal=SIGNAL)


def test_words_in_a_column_are_an_error(table):
    frame = pd.read_csv(table, sep="\t").astype({"csf": object})
    frame.loc[9, "csf"] = "high"
    frame.to_csv(table, sep="\t", index=False)
    with pytest.raises(DataError, match="column 'csf' holds something that is not a number"):
        read_confounds(table, BAND.confounds, signal=SIGNAL)


@pytest.mark.parametrize("value", ["inf", "-inf", "1e400"])
def test_an_infinite_number_in_a_column_is_an_error(table, value):
    frame = pd.read_csv(table, sep="\t").astype({"csf": object})
    frame.loc[9, "csf"] = value
    frame.to_csv(table, sep="\t", index=False)
    with pytest.raises(DataError, match="'csf' holds an infinite number, which no regression"):
        read_confounds(table, BAND.confounds, signal=SIGNAL)


def test_a_band_that_the_repetition_time_cannot_hold_is_noted(wave):
    _, notes = clean_parcels(make_parcels([wave]), None, tr=6.0, cleaning=BAND)
    assert any("no low-pass at 0.1 Hz" in note for note in notes)


@pytest.mark.parametrize("n_volumes", [20, 33, 34, 50])
def test_a_short_run_is_cleaned_and_its_shortness_noted(rng, n_volumes):
    series = rng.normal(1000, 9, (3, n_volumes))
    cleaned, notes = clean_parcels(make_parcels(series), None, tr=TR, cleaning=BAND)
    assert np.isfinite(cleaned.series).all()
    assert any("shorter than one wave of the high-pass" in note for note in notes)
    assert any("degrees of freedom" in note for note in notes) == (n_volumes < 36)


def test_each_confound_costs_a_degree_of_freedom(table):
    confounds, _, _ = read_confounds(table, BAND.confounds, signal=SIGNAL)
    with_two = degrees_of_freedom(150, TR, band=(0.008, 0.1), confounds=confounds)
    assert degrees_of_freedom(150, TR, band=(0.008, 0.1), confounds=None) - with_two == 2
