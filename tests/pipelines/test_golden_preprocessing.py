"""What upstream's own preprocessing makes of synthetic scans; tolerances of the fixtures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neurostorm_app.pipelines.parity import (
    crop_middle,
    fit_window,
    interpolate,
    measure_upstream,
    new_shape,
    pad_window,
    resample_as_upstream,
)
from neurostorm_app.pipelines.tile import window_starts

CASES = ["hcp_like_2mm_tr0.72", "abcd_like_3mm_tr2.0_mask", "crop_axis_gt96"]


@pytest.fixture(scope="module")
def golden(shared):
    """The fixture's facts and arrays."""
    safetensors = pytest.importorskip("safetensors.numpy")
    path = shared / "golden" / "neurostorm" / "preprocessing.json"
    return json.loads(path.read_text()), safetensors.load_file(path.with_suffix(".safetensors"))


def prepared(golden, case):
    """Volumes as upstream resamples them, the mask, and the scale."""
    about, arrays = golden[0]["cases"][case], golden[1]
    bold, zooms = arrays[f"{case}/bold"], about["zooms"]
    space, _ = new_shape(bold.shape, zooms)
    mask = arrays.get(f"{case}/mask")
    if mask is not None:
        mask = crop_middle(interpolate(mask.astype(np.float32), space)) != 0
    volumes = list(resample_as_upstream(np.moveaxis(bold, -1, 0), bold.shape, zooms))
    return volumes, mask, measure_upstream(volumes, mask)


@pytest.mark.parametrize("case", CASES)
def test_the_stored_levels_are_upstreams(golden, case):
    about, arrays = golden[0]["cases"][case], golden[1]
    volumes, mask, scale = prepared(golden, case)
    assert [len(volumes), *volumes[0].shape] == about["out_frames"]
    np.testing.assert_allclose(scale.step, about["scale"], rtol=1e-6)
    levels = np.stack([scale.to_levels(scale.apply(v, mask)) for v in volumes]).astype(int)
    apart = np.abs(levels - arrays[f"{case}/frames_int8"])
    assert apart.max() <= 1
    # one level apart only where a value falls between two
    for t, x, y, z in np.argwhere(apart):
        exact = scale.apply(volumes[t], mask)[x, y, z] / scale.step
        np.testing.assert_allclose(exact % 1, 0.5, atol=1e-3)  # levels
    assert apart.mean() < 1e-4


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("crop")])
def test_the_frames_of_2025_are_upstreams(golden, case):
    volumes, mask, scale = prepared(golden, case)
    frames = np.stack([scale.apply(v, mask) for v in volumes], axis=-1).astype(np.float16)
    expected = golden[1][f"{case}/frames_fp16_hwdt"]
    assert frames.shape == expected.shape
    # near 0 a step of float16 is less than float32 knows of a difference of large numbers
    tolerance = np.spacing(np.abs(expected)).astype(float) + 1e-6  # standard deviations
    assert (np.abs(frames.astype(float) - expected) <= tolerance).all()
    assert (frames == expected).mean() > 0.99


def test_levels_read_back_are_the_clip_of_the_loader(golden):
    arrays = golden[1]
    _, _, scale = prepared(golden, CASES[0])
    levels = np.moveaxis(arrays[f"{CASES[0]}/frames_int8"], 0, -1)
    clip = scale.of_levels(levels)[..., 3:23]
    np.testing.assert_allclose(clip, arrays["resize/clip_in"][0], atol=1e-5)  # standard deviations


def test_a_clip_is_padded_with_its_corner(golden):
    about, clip = golden[0]["pad_to_96"], golden[1]["resize/clip_in"][0]
    padded = pad_window(clip)
    assert [1, *padded.shape] == about["out"]
    first = np.ravel(about["offset_of_data"])
    inside = tuple(slice(s, s + n) for s, n in zip(first, clip.shape[:3], strict=True))
    np.testing.assert_array_equal(padded[inside], clip)
    padded[inside] = clip[0, 0, 0, 0]
    assert (padded == clip[0, 0, 0, 0]).all()


def test_a_clip_is_stretched_for_other_networks(golden):
    fitted = fit_window(golden[1]["resize/clip_in"][0], (24, 24, 48))
    expected = golden[1]["resize/out_24_24_48"][0]
    np.testing.assert_allclose(fitted, expected, atol=1e-5)  # standard deviations


def test_windows_start_where_upstreams_do(golden):
    """Upstream's tables: with its stride of 20 windows, and where windows touch."""
    seen = 0
    for name, facts in golden[0]["clip_enumeration"].items():
        n, window, between, within = (float(part.split("=")[1]) for part in name.split(" "))
        if within != 1 or between == 0.5:
            continue
        seen += 1
        n, window = int(n), int(window)
        if n < window:
            assert facts["starts"] == []
            continue
        if between == 20:
            found = window_starts(n, window=window, stride=window, policy="upstream-eval")
        else:  # ours adds a last window for the tail that upstream drops
            found = window_starts(n, window=window, stride=window)
            found = found[:-1] if n % window else found
        assert found == facts["starts"]
    assert seen >= 15
