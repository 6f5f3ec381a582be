"""Echoes: T2*, S0 and their sum are those of tedana, from sums over volumes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.phantom import make_phantom
from neurostorm_app.pipelines.phantom.acquisition import echo_times
from neurostorm_app.pipelines.preprocess.acquired.echoes import (
    EchoMeans,
    average_echoes,
    combination_weights,
    combine,
    count_good_echoes,
    fit_t2star,
    limit_t2star,
)

TIMES = (0.0145, 0.0385, 0.0625)  # s
REAL = Path(__file__).parents[4] / "shared" / "data" / "bold-small" / "multiecho-tedana"

# What tedana 26.0.3 makes of the twelve voxels below (`make_adaptive_mask`, `fit_decay`,
# `modify_t2s_s0_maps`, `make_optcom`): T2* in ms, S0, and the sum of the echoes at volume 2.
GOOD = [3, 3, 3, 3, 1, 3, 3, 3, 0, 3, 3, 1]
# fmt: off
TEDANA = {
    "loglin": {
        "t2star": [22.349666, 34.679295, 47.96297, 61.098499, 11.471134, 28.283023, 88.538595,
                   40.905135, 0.0, 55.147094, 1.0, 13.315987],
        "s0": [2349.9589, 1814.4047, 3106.8136, 950.43026, 2122.0521, 2679.4034, 1513.849,
               2200.2778, 0.0, 1700.6492, 2881.1511, 4008.3531],
        "sum": [705.42129, 665.9848, 1414.4159, 488.55629, 453.64603, 905.39417, 924.28496,
                886.47331, 0.0, 819.21577, 2902.0, 1144.136],
    },
    "curvefit": {
        "t2star": [21.992538, 34.574485, 48.137922, 60.971705, 11.465507, 28.26606, 88.794124,
                   40.87186, 0.0, 55.070699, 1.0, 25.252743],
        "s0": [2391.0907, 1816.7127, 3097.5669, 949.98984, 2120.1801, 2678.1854, 1510.7713,
               2199.5481, 0.0, 1700.2994, 2881.1511, 2393.9995],
        "sum": [711.37037, 666.54926, 1413.647, 488.6508, 453.74448, 905.60164, 924.17242,
                886.62483, 0.0, 819.34743, 2902.0, 1002.9362],
    },
}
# fmt: on
# Of the real scan, every 4000th voxel of the mask.
REAL_GOOD = [0, 2994, 1309, 31769]
REAL_T2STAR = {
    "loglin": [
        26.84203,
        70.15256,
        45.73984,
        88.77421,
        74.14665,
        31.71148,
        9.667259,
        89.67169,
        74.48441,
        12.28337,
    ],
    "curvefit": [
        19.88214,
        70.63731,
        49.86587,
        89.91015,
        72.26152,
        34.98631,
        9.691239,
        90.64233,
        75.19613,
        12.27049,
    ],
}
REAL_SUM = {
    "loglin": [
        847.428,
        3086.964,
        2379.927,
        4146.356,
        2027.778,
        2277.561,
        1838.888,
        3664.167,
        3424.546,
        1236.762,
    ],
    "curvefit": [
        991.9612,
        3085.484,
        2348.93,
        4144.114,
        2031.186,
        2210.154,
        1837.014,
        3662.503,
        3422.527,
        1237.331,
    ],
}


@pytest.fixture
def voxels():
    """Twelve voxels, three echoes, five volumes (V, E, T): ordinary ones, a fast decay with an
    echo of zeros, one that is too dark, one that rises, one with a negative value."""
    s0 = np.array([2400, 1800, 3100, 950, 2000, 2700, 1500, 2200, 600, 1700, 2900, 2100])
    t2star = np.array([22, 35, 48, 61, 12, 28, 90, 41, 4, 55, 1e4, 33])  # ms
    v, e, t = np.ogrid[:12, :3, :5]
    wobble = (7 * v + 3 * t * (e + 1) + 5 * e) % 11 - 5
    decay = np.exp(-1000 * np.array(TIMES)[None, :, None] / t2star[:, None, None])
    data = np.round(s0[:, None, None] * decay) + 4 * wobble
    data[4, 2] = 0
    data[8, 1:] = np.maximum(data[8, 1:], 0)
    data[11, 1, 3] = -2
    data[10] = data[10][::-1]
    return data


def means_of(data):
    return average_echoes(data[..., t].T for t in range(data.shape[-1]))


def plain(t2star, s0=1000.0, times=TIMES):
    """Make the means of noiseless voxels."""
    signal = s0 * np.exp(-np.array(times) / np.asarray(t2star, dtype=float)[:, None])
    return EchoMeans(signal, np.log(signal + 1), signal)


@pytest.mark.parametrize(("method", "close"), [("loglin", 1e-7), ("curvefit", 2e-4)])
def test_the_numbers_are_those_of_tedana(voxels, method, close):
    expected = TEDANA[method]
    means = means_of(voxels)
    n_good = count_good_echoes(means)
    assert n_good.tolist() == GOOD
    fit = fit_t2star(means, TIMES, n_good, method=method)
    np.testing.assert_allclose(1000 * fit.t2star, expected["t2star"], rtol=close)
    np.testing.assert_allclose(fit.s0, expected["s0"], rtol=close)
    weights = combination_weights(fit.t2star, TIMES, n_good)
    summed = combine(voxels[..., 2].T, weights)
    np.testing.assert_allclose(summed, expected["sum"], rtol=max(close, 3e-7))
    assert summed.dtype == np.float32
    shown = limit_t2star(fit.t2star, n_good)
    assert (shown[np.array(GOOD) < 2] == 0).all()
    assert fit.n_replaced == 1
    assert fit.n_unfit == (method == "curvefit")


@pytest.mark.skipif(not REAL.exists(), reason="the three echoes of tedana's tests are not here")
@pytest.mark.parametrize(("method", "close"), [("loglin", 1e-6), ("curvefit", 2e-4)])
def test_on_a_real_scan_the_numbers_are_those_of_tedana(method, close):
    series = np.stack([nib.load(REAL / f"echo{n}.nii.gz").get_fdata() for n in (1, 2, 3)])
    first = series[0].mean(axis=-1)
    mask = first > 0.2 * np.percentile(first, 98)
    means = average_echoes(series[:, mask, t] for t in range(series.shape[-1]))
    n_good = count_good_echoes(means)
    assert np.bincount(n_good).tolist() == REAL_GOOD
    fit = fit_t2star(means, TIMES, n_good, method=method)
    np.testing.assert_allclose(1000 * fit.t2star[::4000], REAL_T2STAR[method], rtol=close)
    summed = combine(series[:, mask, 2], combination_weights(fit.t2star, TIMES, n_good))
    np.testing.assert_allclose(summed[::4000], REAL_SUM[method], rtol=close)


@pytest.mark.parametrize("method", ["loglin", "curvefit"])
def test_a_noiseless_decay_is_found(method):
    true = np.array([0.012, 0.03, 0.045, 0.11, 0.4])
    means = plain(true, s0=1e6)
    fit = fit_t2star(means, TIMES, np.full(5, 3), method=method)
    np.testing.assert_allclose(fit.t2star, true, rtol=1e-4)
    np.testing.assert_allclose(fit.s0, 1e6, rtol=1e-3)


def test_the_curve_leaves_less_than_any_curve_beside_it(rng):
    data = np.abs(plain(rng.uniform(0.02, 0.09, 60)).mean + rng.normal(0, 30, (60, 3)))
    means = EchoMeans(data, np.log(data + 1), data)
    fit = fit_t2star(means, TIMES, np.full(60, 3))

    def left(t2star, s0):
        curve = s0[:, None] * np.exp(-np.array(TIMES) / t2star[:, None])
        return ((data - curve) ** 2).sum(axis=1)

    least = left(fit.t2star, fit.s0)
    for more in (0.99, 1.01):
        assert (left(fit.t2star * more, fit.s0) >= least - 1e-9).all()
        assert (left(fit.t2star, fit.s0 * more) >= least - 1e-9).all()


def test_sums_over_volumes_do_for_all_volumes(rng):
    data = plain([0.03, 0.05]).mean[..., None] + rng.normal(0, 20, (2, 3, 40))
    means = means_of(data)
    np.testing.assert_allclose(means.mean, data.mean(axis=-1))
    np.testing.assert_allclose(means.log_mean, np.log(np.abs(data) + 1).mean(axis=-1))
    np.testing.assert_array_equal(means.least, data.min(axis=-1))
    line = np.polyfit(np.repeat(TIMES, 40), np.log(data[0].ravel() + 1), 1)
    fit = fit_t2star(means, TIMES, np.full(2, 3), method="loglin")
    assert fit.t2star[0] == pytest.approx(-1 / line[0], rel=1e-9)


def test_weights_are_largest_where_the_echo_time_is_t2star():
    times = np.arange(0.005, 0.1, 0.001)
    weights = combination_weights(np.array([0.02, 0.05]), times, np.full(2, len(times)))
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(times[weights.argmax(axis=1)], [0.02, 0.05], atol=1e-9)


def test_bad_echoes_have_no_weight_and_may_hold_anything():
    weights = combination_weights(np.array([0.03, 0.03, 0.03, 0.0]), TIMES, np.array([3, 2, 1, 0]))
    assert (weights > 0).tolist() == [
        [True] * 3,
        [True, True, False],
        [True, True, False],
        [False] * 3,
    ]
    echoes = np.array([[9.0, 9, 9, 9], [6, 6, 6, 6], [3, np.nan, -3, np.nan]])
    summed = combine(echoes, weights)
    assert np.isfinite(summed).all()
    assert summed[1] == summed[2]
    assert summed[3] == 0


def test_an_echo_with_a_zero_or_a_nan_spoils_the_later_ones():
    signal = np.tile(plain([0.05] * 4).mean[..., None], 6)
    signal[1, 2, 3], signal[2, 1, 0], signal[3, 0, 5] = np.nan, 0, -1
    with np.errstate(invalid="ignore"):
        assert count_good_echoes(means_of(signal)).tolist() == [3, 2, 1, 0]


def test_without_any_signal_no_echo_is_good():
    means = means_of(np.zeros((5, 3, 4)))
    n_good = count_good_echoes(means)
    assert n_good.tolist() == [0] * 5
    fit = fit_t2star(means, TIMES, n_good)
    assert not fit.t2star.any()
    assert not limit_t2star(fit.t2star, n_good).any()


def test_voxels_that_do_not_decay_get_bounds_and_are_counted():
    flat, rising = np.full((1, 3), 500.0), np.array([[400.0, 500, 600]])
    sudden = np.array([[5000.0, 1e-3, 1e-3]])
    data = np.concatenate([flat, rising, sudden])
    means = EchoMeans(data, np.log(data + 1), data)
    fit = fit_t2star(means, TIMES, np.array([3, 3, 2]), method="loglin")
    assert fit.t2star[:2].tolist() == [0.5, 0.001]  # s
    assert 0 < fit.t2star[2] < 0.005
    assert fit.n_replaced == 2
    curve = fit_t2star(means, TIMES, np.array([3, 3, 2]))
    assert curve.t2star[1] == 0.001
    assert curve.n_unfit == 2
    assert np.isfinite(curve.s0).all()


def test_a_giant_is_not_shown():
    t2star = np.append(np.full(999, 0.05), 40.0)
    shown = limit_t2star(t2star, np.full(1000, 3))
    assert shown.max() == 0.05
    assert t2star.max() == 40.0


def test_the_true_t2star_of_a_phantom_is_found(tmp_path):
    asked = {"participants": 1, "runs": 1, "n_volumes": 10, "seed": 8, "scale": "tiny"}
    truth = make_phantom(tmp_path / "out", echoes=3, motion=0.0, **asked)
    paths = sorted((tmp_path / "out" / "sub-01" / "func").glob("*_echo-*_bold.nii.gz"))
    series = np.stack([nib.load(path).get_fdata() for path in paths])
    mask = series[0].mean(axis=-1) > 400
    means = average_echoes(series[:, mask, t] for t in range(10))
    n_good = count_good_echoes(means)
    fit = fit_t2star(means, echo_times(3), n_good)
    name = "sub-01_task-rest_run-1_T2starmap.nii.gz"
    true = nib.load(truth.root / "sub-01" / name).get_fdata()[mask]
    good = n_good == 3
    assert good.mean() > 0.8
    error = np.abs(fit.t2star / true - 1)[good]
    assert np.median(error) < 0.01
    assert np.percentile(error, 95) < 0.05
    weights = combination_weights(fit.t2star, echo_times(3), n_good)
    summed = np.stack([combine(series[:, mask, t], weights) for t in range(10)], axis=-1)
    noise = [s[good].std(axis=-1) / s[good].mean(axis=-1) for s in (series[1][mask], summed)]
    assert np.median(noise[1]) < np.median(noise[0])


def test_echo_times_must_fit_the_echoes():
    means = plain([0.03])
    for times in ([0.01, 0.02], [0.01, 0.03, 0.03], [0.0, 0.01, 0.02]):
        with pytest.raises(DataError, match="two or more were expected"):
            fit_t2star(means, times, np.array([3]))
    with pytest.raises(DataError, match="1 echoes came with echo times"):
        combination_weights(np.array([0.03]), [0.03], np.array([1]))


def test_no_volume_is_told():
    with pytest.raises(DataError, match="the echoes have no volumes"):
        average_echoes([])
