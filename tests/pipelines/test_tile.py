"""Windows cover the series, and the last one ends where it ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from neurostorm_app.errors import SeriesTooShortError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.tile import plan_windows, pool_windows, tile_windows, window_starts

CONTRACT = read_card("neurostorm").contract
CASES = [(20, 20, 20), (21, 20, 20), (50, 20, 20), (50, 20, 7), (40, 5, 9), (7, 1, 1), (60, 20, 20)]


@pytest.mark.parametrize(("n_volumes", "window", "stride"), CASES)
def test_the_last_window_ends_at_the_last_volume(n_volumes, window, stride):
    starts = window_starts(n_volumes, window=window, stride=stride)
    assert starts[0] == 0
    assert starts[-1] + window == n_volumes
    assert all(0 < b - a <= stride for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize(("n_volumes", "window", "stride"), CASES)
def test_no_volume_is_left_out_when_windows_touch(n_volumes, window, stride):
    starts = window_starts(n_volumes, window=window, stride=min(stride, window))
    covered = {t for start in starts for t in range(start, start + window)}
    assert covered == set(range(n_volumes))


def test_a_short_series_says_what_to_do():
    with pytest.raises(
        SeriesTooShortError, match=r"has 12.* volumes; one window takes .*20"
    ) as caught:
        window_starts(12, window=20, stride=20)
    assert "at most 12" in caught.value.fix


@pytest.mark.parametrize(("n_volumes", "window", "stride"), CASES)
def test_a_stream_is_cut_like_an_array(rng, n_volumes, window, stride):
    series = rng.normal(size=(3, 4, 5, n_volumes)).astype(np.float32)
    starts = window_starts(n_volumes, window=window, stride=stride)
    windows = list(tile_windows(np.moveaxis(series, -1, 0), starts, window=window))
    assert len(windows) == len(starts)
    for start, cut in zip(starts, windows, strict=True):
        np.testing.assert_array_equal(cut, series[..., start : start + window])


def test_a_stream_is_not_read_ahead_of_the_window(rng):
    seen = []

    def volumes():
        for t in range(50):
            seen.append(t)
            yield rng.normal(size=(2, 3, 4)).astype(np.float32)

    windows = tile_windows(volumes(), [0, 20, 30], window=20)
    next(windows)
    assert len(seen) == 20
    next(windows)
    assert len(seen) == 40


def test_the_run_is_the_mean_of_its_windows(rng):
    windows = rng.normal(size=(3, 7)).astype(np.float32)
    pooled = pool_windows(windows)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, windows.mean(axis=0), atol=1e-6)


def test_windows_can_be_weighted(rng):
    windows = rng.normal(size=(3, 7)).astype(np.float32)
    weighted = pool_windows(windows, np.array([1.0, 0.0, 3.0]))
    np.testing.assert_allclose(weighted, windows[0] / 4 + windows[2] * 3 / 4, atol=1e-6)


@pytest.mark.parametrize(
    ("n_volumes", "expected"), [(20, [0]), (419, [0]), (420, [0, 400]), (1080, [0, 400, 800])]
)
def test_upstreams_evaluation_takes_a_window_every_400_volumes(n_volumes, expected):
    starts = window_starts(n_volumes, window=20, stride=20, policy="upstream-eval")
    assert starts == expected


@pytest.mark.parametrize("policy", ["dense", "upstream-eval"])
def test_a_short_series_is_told_in_volumes_and_seconds(policy):
    with pytest.raises(
        SeriesTooShortError, match=r"has 12 volumes; .* 20: 9\.6 s of 16 s, at .* time of 0\.8 s"
    ):
        plan_windows(12, CONTRACT, policy=policy, tr=0.8)


@pytest.mark.parametrize(
    ("policy", "n_volumes", "unused", "overlap"),
    [
        ("dense", 60, 0, 0),
        ("dense", 50, 0, 10),
        ("dense", 20, 0, 0),
        ("upstream-eval", 50, 30, 0),
        ("upstream-eval", 450, 410, 0),
    ],
)
def test_what_is_in_no_window_or_in_two_is_counted(policy, n_volumes, unused, overlap):
    starts, facts = plan_windows(n_volumes, CONTRACT, policy=policy, tr=0.8)
    assert (facts["n_unused"], facts["n_overlap"]) == (unused, overlap)
    assert facts["n_windows"] == len(starts)
    assert facts["n_windows"] * facts["window"] == n_volumes - unused + overlap
    assert facts["clip_policy"] == policy
    assert (facts["window"], facts["tr"]) == (20, 0.8)
    assert facts["stride"] == (20 if policy == "dense" else 400)
