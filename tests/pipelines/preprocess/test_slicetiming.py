"""Slice timing: what is known of time comes back, and what is not is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.phantom.acquisition import Acquisition, place_grid, slice_times
from neurostorm_app.pipelines.phantom.bold import Conditions, render_series
from neurostorm_app.pipelines.phantom.head import CENTRE, build_head
from neurostorm_app.pipelines.phantom.motion import draw_motion
from neurostorm_app.pipelines.phantom.networks import build_activity
from neurostorm_app.pipelines.phantom.people import build_anatomy, build_participant
from neurostorm_app.pipelines.phantom.scene import build_scene
from neurostorm_app.pipelines.phantom.settings import SCALES
from neurostorm_app.pipelines.preprocess.acquired.slicetiming import (
    SliceTimes,
    align_slices,
    delay_weights,
    read_slice_times,
)

PATH = Path("sub-01_task-rest_bold.nii.gz")
SHAPE = (5, 4, 6, 50)
TR = 1.7
BANDS = np.array([1.0, 0.0, 0.85, 1.0, 0.0, 0.85])  # two slices at a time, s


def series_of(course, timing, shape):
    """Take the course f(t), t in s, voxel by voxel at the time of the slice: (X, Y, Z, T)."""
    n = shape[3]
    times = timing.times.reshape([-1 if a == timing.axis else 1 for a in range(3)] + [1])
    when = timing.tr * np.arange(n) + times
    return np.broadcast_to(course(when), shape).astype(np.float32)


def aligned(series, timing, **how):
    volumes = (series[..., t] for t in range(series.shape[-1]))
    return np.stack(list(align_slices(volumes, timing, **how)), axis=-1)


def read(given, **more):
    metadata = {"RepetitionTime": TR, "SliceTiming": given, **more}
    return read_slice_times(metadata, shape=SHAPE, tr=TR, path=PATH)


def timing_of(times, axis=2, reference=0.5):
    times = np.asarray(times, dtype=float)
    return SliceTimes(axis, times, times.min() + reference * np.ptp(times), TR)


@pytest.mark.parametrize(
    ("share", "most"),
    [
        (0.05, 5e-4),
        (0.1, 5e-4),
        (0.2, 5e-4),
        (0.4, 1.5e-3),
        (0.6, 1.5e-3),
        (0.7, 2e-3),
        (0.8, 0.013),
    ],
)
@pytest.mark.parametrize("reference", [0.0, 0.5, 1.0])
def test_a_sine_is_shifted_in_time(share, most, reference):
    timing = timing_of(TR * np.array([0.0, 0.2, 0.4, 0.5, 0.8, 0.97]), reference=reference)
    error = 0.0
    for start in (0.0, 0.9):
        wave = lambda t, s=start: np.sin(np.pi * share * t / TR + s)  # noqa: E731
        found = aligned(series_of(wave, timing, SHAPE), timing)
        true = wave(TR * np.arange(SHAPE[3]) + timing.reference)
        error = max(error, float(np.abs(found - true)[..., 10:-10].max()))
    assert error < most  # of an amplitude of 1


@pytest.mark.parametrize(("share", "most"), [(0.05, 0.01), (0.1, 0.03), (0.2, 0.12), (0.4, 0.45)])
def test_at_the_ends_a_sine_is_not_far_off(share, most):
    timing = timing_of(TR * np.array([0.0, 0.2, 0.4, 0.5, 0.8, 0.97]))
    ends, next_to = 0.0, 0.0
    for start in np.linspace(0, np.pi, 7):
        wave = lambda t, s=start: np.sin(np.pi * share * t / TR + s)  # noqa: E731
        true = wave(TR * np.arange(SHAPE[3]) + timing.reference)
        error = np.abs(aligned(series_of(wave, timing, SHAPE), timing) - true)
        ends = max(ends, float(error[..., [0, -1]].max()))
        next_to = max(next_to, float(error[..., [1, -2]].max()))
    assert ends < most
    assert next_to < most / 5


def test_constants_and_straight_lines_are_kept():
    timing = timing_of(BANDS)
    for course in (lambda t: 700 + 0 * t, lambda t: 900 - 3.0 * t):
        found = aligned(series_of(course, timing, SHAPE), timing)
        true = course(TR * np.arange(SHAPE[3]) + timing.reference)
        np.testing.assert_allclose(found, np.broadcast_to(true, SHAPE), rtol=2e-6)


def test_slices_at_the_reference_are_untouched(rng):
    timing = SliceTimes(2, BANDS, 0.85, TR)
    series = rng.normal(500, 50, SHAPE).astype(np.float32)
    found = aligned(series, timing)
    np.testing.assert_array_equal(found[:, :, [2, 5]], series[:, :, [2, 5]])
    assert np.abs(found - series)[:, :, [0, 1, 3, 4]].min(axis=(0, 1, 3)).max() > 0
    assert found.dtype == np.float32


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_may_lie_along_any_axis(axis):
    shape = (*tuple(np.roll((6, 5, 4), axis)), 40)
    timing = timing_of(BANDS, axis=axis)
    wave = lambda t: np.cos(np.pi * 0.3 * t / TR)  # noqa: E731
    found = aligned(series_of(wave, timing, shape), timing)
    true = wave(TR * np.arange(40) + timing.reference)
    assert found.shape == shape
    np.testing.assert_allclose(found[..., 9:-9], np.broadcast_to(true, shape)[..., 9:-9], atol=1e-3)


def by_matrix(series, timing):
    """Align a whole array: its odd reflection, then one product of matrices a slice."""
    n, pad = series.shape[-1], 8
    longer = np.pad(series, [(0, 0)] * 3 + [(pad, pad)], mode="reflect", reflect_type="odd")
    found = np.empty(series.shape)
    for z, delay in enumerate(timing.delays):
        rows = [np.pad(delay_weights(delay), (t, n - 1 - t)) for t in range(n)]
        found[:, :, z] = longer[:, :, z] @ np.transpose(rows)
    return found


@pytest.mark.parametrize("n_volumes", [1, 2, 3, 7, 9, 16, 17, 18, 33])
def test_streaming_equals_the_whole_array(rng, n_volumes):
    timing = timing_of(BANDS, reference=0.3)
    series = rng.normal(100, 10, (*SHAPE[:3], n_volumes)).astype(np.float32)
    found = aligned(series, timing)
    if n_volumes == 1:
        np.testing.assert_allclose(found, series, rtol=1e-6)
    else:
        np.testing.assert_allclose(found, by_matrix(series.astype(float), timing), atol=2e-4)


def test_no_more_than_seventeen_volumes_are_waited_for(rng):
    timing = timing_of(BANDS)
    taken = 0

    def volumes():
        nonlocal taken
        for _ in range(40):
            taken += 1
            yield rng.normal(size=SHAPE[:3])

    for given, _ in enumerate(align_slices(volumes(), timing)):
        assert taken <= given + 9


def test_volumes_before_the_steady_state_are_left_alone(rng):
    timing = timing_of(BANDS)
    series = rng.normal(500, 5, SHAPE).astype(np.float32)
    series[..., :3] *= 3
    found = aligned(series, timing, n_skipped=3)
    np.testing.assert_array_equal(found[..., :3], series[..., :3])
    np.testing.assert_array_equal(found[..., 3:], aligned(series[..., 3:], timing))
    assert found[..., 3:].max() < 550


def test_the_result_is_that_of_a_fourier_shift_away_from_the_ends():
    """Compare with the definition by phases (as ``3dTshift -Fourier`` has it) on a band below
    0.7 of Nyquist that is periodic in the run, where that definition is exact."""
    n = 64
    draw = np.random.default_rng(3)
    phases, sizes = draw.uniform(0, 2 * np.pi, 22), draw.uniform(0, 1, 22)
    waves = lambda t: sum(  # noqa: E731
        a * np.cos(2 * np.pi * k * t / (n * TR) + p)
        for k, (a, p) in enumerate(zip(sizes, phases, strict=True), start=1)
    )
    timing = timing_of(BANDS)
    series = series_of(waves, timing, (*SHAPE[:3], n))
    turn = np.exp(2j * np.pi * np.fft.rfftfreq(n) * timing.delays[:, None])
    fourier = np.fft.irfft(np.fft.rfft(series, axis=-1) * turn, n, axis=-1)
    found = aligned(series, timing)
    middle = slice(12, -12)
    spread = series.std()
    assert np.abs(found - fourier)[..., middle].max() < 0.003 * spread


def test_the_signal_of_a_moving_head_is_brought_to_one_time():
    scale, head, n = SCALES["tiny"], build_head(2), 40
    anatomy = build_anatomy(1, seed=2, head=head, scale=scale)
    scene, centre = build_scene(head, anatomy, scale=scale), anatomy.template_to_t1w(CENTRE[None])
    times = slice_times(scale)
    timing = SliceTimes(2, times, float(times.max() / 2), 2.0)
    activity = build_activity(build_participant(1, seed=2), 1, seed=2, duration=2.0 * n)
    taken = Acquisition(
        grid=place_grid(centre[0], number=1, seed=2, scale=scale),
        times=times,
        motion=draw_motion(n, seed=2, participant=1, run=1, centre=centre[0]),
        t1w_to_bold=np.eye(4),
        phase_sign=0,
    )
    at_once = replace(taken, times=np.full_like(times, timing.reference))
    series, true = (
        render_series(
            scene, how, activity, rng=np.random.default_rng(0), conditions=Conditions(noise=0)
        ).astype(np.float32)
        for how in (taken, at_once)
    )
    bright = true.mean(axis=-1) > 300
    left, right = (
        np.sqrt(np.mean((found - true)[bright] ** 2)) for found in (series, aligned(series, timing))
    )
    signal = true[bright].std(axis=-1).mean()
    assert right < 0.9 * left
    assert right < 0.25 * signal


def test_slice_times_are_read_with_their_axis_and_their_order():
    timing, reason = read([0.0, 0.5, 1.0, 0.25, 0.75, 1.25])
    assert reason is None
    assert timing.axis == 2
    assert timing.reference == 0.625
    timing, _ = read([0.0, 0.5, 1.0, 0.25, 0.75, 1.25], SliceEncodingDirection="k-")
    np.testing.assert_array_equal(timing.times, [1.25, 0.75, 0.25, 1.0, 0.5, 0.0])
    timing, _ = read([0.1, 0.5, 1.0, 0.25, 0.75], SliceEncodingDirection="i")
    assert timing.axis == 0
    metadata = {"SliceTiming": [0.1, 0.3, 0.5, 0.7], "SliceEncodingDirection": "j-"}
    timing, _ = read_slice_times(metadata, shape=SHAPE, tr=TR, path=PATH, reference=0)
    assert (timing.axis, timing.reference) == (1, 0.1)


def test_slices_of_several_bands_have_equal_delays():
    timing, _ = read(BANDS.tolist())
    np.testing.assert_allclose(timing.delays, (0.5 - BANDS) / TR)
    assert len(np.unique(timing.delays)) == 3


@pytest.mark.parametrize(
    ("given", "more", "words"),
    [
        (None, {}, "no SliceTiming"),
        ("interleaved", {}, "SliceTiming is a text of 11 letters, not a number for each"),
        ([], {}, "SliceTiming is a list of 0, not a number for each"),
        ([0.0, None, 0.1, 0.2, 0.3, 0.4], {}, "SliceTiming is a list of 6, not a number for each"),
        (["Jane^Doe"] * 6, {}, "SliceTiming is a list of 6, not a number for each"),
        ([10**400] * 6, {}, "SliceTiming is a list of 6, not a number for each"),
        ([0.0, 0.5, 1.0], {}, "SliceTiming has 3 times for 6 slices"),
        ([0.0, 0.5, -1.0, 0.1, 0.2, 0.3], {}, "a time of -1 s; from 0 on"),
        ([0.0, float("nan"), 1.0, 0.1, 0.2, 0.3], {}, "a time of nan s"),
        ([0.0, 0.5, 1.9, 0.1, 0.2, 0.3], {}, "goes to 1.9 s, the repetition time is 1.7 s"),
        ([0, 500, 1500, 100, 200, 300], {}, "it seems to be in ms"),
        ([0.3] * 6, {}, "nothing to correct"),
        ([0.0] * 6, {"SliceEncodingDirection": "z"}, "SliceEncodingDirection is 'z'"),
        ([0.0] * 6, {"SliceEncodingDirection": "Jane"}, "SliceEncodingDirection is a text of 4"),
        ([0.0] * 6, {"SliceEncodingDirection": 2}, "SliceEncodingDirection is 2"),
    ],
)
def test_times_that_cannot_be_corrected_are_told(given, more, words):
    timing, reason = read(given, **more)
    assert timing is None
    assert reason.startswith(PATH.name)
    assert words in reason


def test_volumes_that_do_not_follow_evenly_are_not_corrected():
    metadata = {"VolumeTiming": [0, 2, 5], "SliceTiming": [0.0, 0.5, 1.0, 0.25, 0.75, 1.25]}
    timing, reason = read_slice_times(metadata, shape=SHAPE, tr=TR, path=PATH)
    assert timing is None
    assert "volumes do not follow evenly" in reason


def test_a_reference_outside_the_slices_is_refused():
    with pytest.raises(UsageError, match="given as the reference of slice timing"):
        read_slice_times({}, shape=SHAPE, tr=TR, path=PATH, reference=1.2)
