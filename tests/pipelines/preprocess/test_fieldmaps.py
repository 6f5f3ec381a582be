"""From sidecars and phases to hertz, and the splines that hold a field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import from_matvec

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import write_volume
from neurostorm_app.pipelines.preprocess.field.encoding import (
    echo_spacing,
    find_phase_axis,
    find_readout,
    read_phase,
    read_readout,
)
from neurostorm_app.pipelines.preprocess.field.fieldmaps import (
    despike,
    phase_difference,
    smooth_field,
    to_hz,
    to_radians,
    unwrap,
)
from neurostorm_app.pipelines.preprocess.field.solving import bending
from neurostorm_app.pipelines.preprocess.field.splinefield import (
    Basis,
    field_at,
    fit_field,
    knots_of,
    read_field,
)

EPI = Path("sub-01_bold.nii.gz")
TURNED = from_matvec([[-3.0, 0.2, 0], [0.2, 3.0, 0.3], [0, -0.3, 3.5]], [40, -50, -30])
GRID = Grid((19, 23, 17), np.asarray(TURNED))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("i", (0, 1)),
        ("i-", (0, -1)),
        ("j", (1, 1)),
        ("j-", (1, -1)),
        ("k", (2, 1)),
        ("k-", (2, -1)),
    ],
)
def test_a_phase_direction_is_a_voxel_axis_and_a_sign(written, expected):
    assert read_phase({"PhaseEncodingDirection": written}, EPI) == expected


@pytest.mark.parametrize(
    ("metadata", "axis"),
    [
        ({"PhaseEncodingDirection": "j-"}, 1),
        ({"PhaseEncodingAxis": "i"}, 0),
        ({"PhaseEncodingDirection": "k", "PhaseEncodingAxis": "i"}, 2),
        ({"PhaseEncodingDirection": "AP"}, None),
        ({}, None),
    ],
)
def test_the_axis_alone_may_be_told(metadata, axis):
    assert find_phase_axis(metadata) == axis


def test_a_missing_phase_direction_says_what_cannot_be_done():
    with pytest.raises(DataError, match=r"no PhaseEncodingDirection; without it the distortion"):
        read_phase({}, EPI)
    with pytest.raises(DataError, match="PhaseEncodingAxis 'j' does not tell the direction"):
        read_phase({"PhaseEncodingAxis": "j"}, EPI)
    with pytest.raises(DataError, match="PhaseEncodingDirection is 'AP'; i, i-, j"):
        read_phase({"PhaseEncodingDirection": "AP"}, EPI)
    with pytest.raises(DataError, match="PhaseEncodingDirection is a list of 1; i, i-, j"):
        read_phase({"PhaseEncodingDirection": ["j"]}, EPI)


@pytest.mark.parametrize(
    ("metadata", "seconds", "source"),
    [
        ({"TotalReadoutTime": 0.031, "EffectiveEchoSpacing": 1.0}, 0.031, "TotalReadoutTime"),
        ({"EffectiveEchoSpacing": 0.0005}, 0.0315, "EffectiveEchoSpacing"),
        ({"EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 81}, 0.04, "EffectiveEchoSpacing"),
        ({"BandwidthPerPixelPhaseEncode": 25.0}, 63 / 64 / 25, "BandwidthPerPixelPhaseEncode"),
        ({"WaterFatShift": 13.0, "MagneticFieldStrength": 3}, 13 / 434.29, "WaterFatShift"),
        (
            {"WaterFatShift": 13.0, "MagneticFieldStrength": 3, "EPIFactor": 39},
            0.975 * 13 / 434.29,
            "WaterFatShift",
        ),
        ({"EstimatedTotalReadoutTime": 0.02}, 0.02, "EstimatedTotalReadoutTime"),
        ({"EstimatedEffectiveEchoSpacing": 5e-4}, 0.0315, "EstimatedEffectiveEchoSpacing"),
        ({}, 0.045, "the fallback that was given"),
    ],
)
def test_the_readout_time_is_told_in_any_of_the_ways_of_bids(metadata, seconds, source):
    found = find_readout(metadata, n_phase=64, path=EPI, fallback=0.045)
    assert found[0] == pytest.approx(seconds, rel=1e-4)
    assert found[1] == source
    assert read_readout(metadata, n_phase=64, path=EPI, fallback=0.045) == found[0]


@pytest.mark.parametrize("seconds", [0, -0.03, 30.0, 31.5, 0.5, float("nan")])
def test_a_readout_time_that_no_scanner_has_is_refused(seconds):
    with pytest.raises(DataError, match=r"a total readout time of .* were expected"):
        read_readout({"TotalReadoutTime": seconds}, n_phase=64, path=EPI)


def test_milliseconds_are_recognised():
    with pytest.raises(DataError, match=r"30 s .*is the sidecar in milliseconds"):
        read_readout({"TotalReadoutTime": 30}, n_phase=64, path=EPI)


def test_a_sidecar_without_any_timing_is_refused():
    with pytest.raises(DataError, match="has neither TotalReadoutTime nor EffectiveEchoSpacing"):
        read_readout({}, n_phase=64, path=EPI)
    with pytest.raises(
        DataError, match=r"TotalReadoutTime is a text of 4 letters; a number was exp"
    ):
        read_readout({"TotalReadoutTime": "0.03"}, n_phase=64, path=EPI)
    with pytest.raises(DataError, match=r"TotalReadoutTime is 1000+; a number was expected"):
        read_readout({"TotalReadoutTime": 10**400}, n_phase=64, path=EPI)


@pytest.mark.parametrize(
    ("low", "high", "zero", "words"),
    [
        (-np.pi, np.pi, 0.0, "radians from -pi"),
        (0.0, 2 * np.pi, 0.0, "radians from 0"),
        (0, 4095, 2048, "0 to 4095"),
        (-4096, 4092, 0, "-4096"),
        (-2048, 2047, 0, "-2048"),
        (-3141, 3141, 0, "thousandths"),
        (-180, 180, 0, "degrees from -180"),
        (0, 360, 0, "degrees from 0"),
    ],
)
def test_phases_are_scaled_by_the_range_they_fill(low, high, zero, words):
    values = np.linspace(low, high, 5 * 6 * 7).reshape(5, 6, 7)
    radians, scale = to_radians(values, path=EPI)
    assert words in scale
    assert np.ptp(radians) == pytest.approx(2 * np.pi, rel=2e-3)
    assert np.interp(zero, values.ravel(), radians.ravel()) == pytest.approx(0, abs=2e-3)  # rad


def test_phases_of_no_usual_range_are_refused():
    values = np.linspace(-1, 1, 60).reshape(3, 4, 5)
    with pytest.raises(DataError, match="phases from -1 to 1; a full turn would be"):
        to_radians(values, path=EPI)
    assert np.array_equal(to_radians(values, path=EPI, units="rad")[0], values)


def test_echo_times_are_read_and_milliseconds_refused():
    both = {"EchoTime1": 0.00492, "EchoTime2": 0.00738}
    assert echo_spacing(both, both, path=EPI) == pytest.approx(0.00246)
    one, two = {"EchoTime": 0.004}, {"EchoTime": 0.006}
    assert echo_spacing(one, two, path=EPI) == pytest.approx(0.002)
    lonely = {"EchoTime1": 0.004}
    milli = {"EchoTime1": 4.92, "EchoTime2": 7.38}
    with pytest.raises(DataError, match=r"4\.92 and 7\.38 s .is the sidecar in milliseconds"):
        echo_spacing(milli, milli, path=EPI)
    with pytest.raises(DataError, match=r"the two echoes were taken at 0\.006 and 0\.004 s"):
        echo_spacing(two, one, path=EPI)
    with pytest.raises(DataError, match="EchoTime1 and EchoTime2 of the two echoes are"):
        echo_spacing(lonely, lonely, path=EPI)


def test_a_phase_of_several_turns_is_unwrapped(rng):
    i, j, k = np.indices((21, 25, 19))
    mask = (i - 10) ** 2 + (j - 12) ** 2 + (k - 9) ** 2 < 80
    truth = 0.9 * (j - 12) + 0.3 * (i - 10) * (k - 9) / 9
    wrapped = np.angle(np.exp(1j * (truth + rng.normal(0, 0.1, truth.shape))))
    wrapped[~mask] = rng.uniform(-np.pi, np.pi, (~mask).sum())
    found = unwrap(wrapped, mask)
    assert np.abs(found - truth)[mask].max() < 0.6  # rad
    assert np.isnan(found[~mask]).all()
    with pytest.raises(DataError, match="the magnitude of the field map shows no brain"):
        unwrap(wrapped, np.zeros_like(mask))


def test_two_phases_differ_modulo_a_turn():
    first, second = np.array([3.0, -3.0, 0.1]), np.array([-3.0, 3.0, 0.4])
    expected = [2 * np.pi - 6, 6 - 2 * np.pi, 0.3]
    np.testing.assert_allclose(phase_difference(first, second), expected, atol=1e-12)  # rad


@pytest.mark.parametrize(
    ("units", "hertz"), [("Hz", 20.0), ("rad/s", 20 / (2 * np.pi)), ("uT", 851.5496)]
)
def test_a_direct_map_becomes_hertz(units, hertz):
    found = to_hz(np.full((2, 3, 4), 20.0), units, path=EPI)
    np.testing.assert_allclose(found, hertz, rtol=1e-6)


def test_units_are_needed_and_have_to_make_sense():
    with pytest.raises(DataError, match="Units of the field map are None; Hz, rad/s or T"):
        to_hz(np.ones((2, 3, 4)), None, path=EPI)
    with pytest.raises(DataError, match="a tenth of the field map is above"):
        to_hz(np.full((2, 3, 4), 20.0), "T", path=EPI)


def test_spikes_are_found(rng):
    field = rng.normal(0, 1, GRID.shape) + np.linspace(0, 40, GRID.shape[1])[:, None]
    mask = np.ones(GRID.shape, dtype=bool)
    field[5, 6, 7] += 200
    good, share = despike(field, mask)
    assert not good[5, 6, 7]
    assert share < 0.02


def smooth_truth(grid):
    x, y, z = np.moveaxis(grid.world(), -1, 0)
    return 30 * np.exp(-((x - 5) ** 2 + (y + 10) ** 2 + z**2) / (2 * 15**2)) + 0.3 * y


def test_a_smooth_field_goes_through_noise(rng):
    truth = smooth_truth(GRID)
    measured = truth + rng.normal(0, 5, GRID.shape)
    good = rng.random(GRID.shape) < 0.8
    coefficients, knots = smooth_field(measured, good, grid=GRID, magnitude=np.ones(GRID.shape))
    away = np.abs(Basis(GRID, knots).field(coefficients) - truth)
    assert np.median(away) < 1.5  # Hz
    assert np.percentile(away, 95) < 4  # Hz


def test_splines_add_up_to_one_everywhere():
    knots = knots_of(GRID, (2.5, 3.0, 4.0))
    basis = Basis(GRID, knots)
    np.testing.assert_allclose(basis.field(np.ones(knots.shape)), 1, atol=1e-12)
    for axis in range(3):
        np.testing.assert_allclose(basis.slope(np.ones(knots.shape), axis), 0, atol=1e-12)


def test_the_slope_is_that_of_the_field(rng):
    knots = knots_of(GRID, (3.0, 3.0, 3.0))
    basis = Basis(GRID, knots)
    coefficients = rng.normal(size=knots.shape)
    moved = Grid(GRID.shape, GRID.affine.copy())
    moved.affine[:3, 3] += 1e-4 * GRID.affine[:3, 1]
    numeric = (Basis(moved, knots).field(coefficients) - basis.field(coefficients)) / 1e-4
    np.testing.assert_allclose(basis.slope(coefficients, 1), numeric, atol=1e-3)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_gathering_is_the_transpose_and_the_diagonal_is_its_own(axis, rng):
    knots = knots_of(GRID, (4.0, 3.0, 5.0))
    basis = Basis(GRID, knots)
    one, other = rng.normal(size=knots.shape), rng.normal(size=GRID.shape)
    there = basis.field(one) if axis is None else basis.slope(one, axis)
    assert np.vdot(there, other) == pytest.approx(np.vdot(one, basis.gather(other, axis)))
    unit = np.zeros(knots.shape)
    unit[3, 4, 2] = 1
    weight = other**2
    column = basis.field(unit) if axis is None else basis.slope(unit, axis)
    assert basis.diagonal(weight, axis)[3, 4, 2] == pytest.approx((weight * column**2).sum())


def test_a_straight_field_does_not_bend():
    shape = (5, 6, 7)
    i, j, k = np.indices(shape)
    straight = (2 * i - j + 3 * k).ravel().astype(float)
    curved = ((i - 2) ** 2).ravel().astype(float)
    matrix = bending(shape)
    assert straight @ matrix @ straight < 0.01 * (curved @ matrix @ curved)
    assert abs(matrix - matrix.T).max() < 1e-12


def test_coefficients_mean_the_tensor_product_of_cubic_splines(tmp_path, rng):
    """The definition of SDCFlows, summed in the plainest way."""
    knots = knots_of(GRID, (5.0, 5.0, 5.0))
    coefficients = rng.normal(0, 10, knots.shape).astype(np.float32)
    write_volume(tmp_path / "a.nii.gz", coefficients, grid=knots)
    write_volume(tmp_path / "b.nii.gz", 2 * coefficients, grid=knots)
    found = read_field([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], GRID)

    def beta(t):
        t = abs(t)
        return (4 - 6 * t**2 + 3 * t**3) / 6 if t < 1 else max(2 - t, 0) ** 3 / 6

    for voxel in [(0, 0, 0), (18, 22, 16), (7, 11, 3)]:
        at = np.linalg.solve(knots.affine, GRID.affine @ [*voxel, 1])[:3]
        total = sum(
            coefficients[i] * beta(at[0] - i[0]) * beta(at[1] - i[1]) * beta(at[2] - i[2])
            for i in np.ndindex(knots.shape)
        )
        assert found[voxel] == pytest.approx(3 * total, abs=1e-3)  # Hz


def test_a_field_fits_and_reads_back_on_another_grid(tmp_path):
    knots = knots_of(GRID, (2.5, 2.5, 2.5))
    coefficients = fit_field(
        smooth_truth(GRID), np.ones(GRID.shape), grid=GRID, knots=knots, roughness=1e-4
    )
    write_volume(tmp_path / "coeff.nii.gz", coefficients, grid=knots)
    finer = Grid((20, 20, 20), from_matvec(np.diag([2.0, 2, 2]), [-15, -20, -15]))
    found = read_field([tmp_path / "coeff.nii.gz"], finer)
    assert np.abs(found - smooth_truth(finer)).max() < 0.5  # Hz
    np.testing.assert_allclose(field_at(coefficients, knots, finer.world()), found, atol=1e-3)


def test_files_that_hold_no_splines_are_refused(tmp_path):
    flat = Grid((3, 9, 9), GRID.affine)
    write_volume(tmp_path / "flat.nii.gz", np.ones(flat.shape), grid=flat)
    with pytest.raises(DataError, match="a cubic spline has four along each axis"):
        read_field([tmp_path / "flat.nii.gz"], GRID)
    with pytest.raises(DataError, match="no file of field coefficients was given"):
        read_field([], GRID)
