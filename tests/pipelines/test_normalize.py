"""One mean and one standard deviation over brain and time, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from neurostorm_app.errors import ContractError, DataError
from neurostorm_app.models.card import GridSpec, VolumeContract
from neurostorm_app.pipelines.normalize import (
    MAX_NEGATIVES,
    apply_scale,
    measure_scale,
    normalize_volume,
)
from neurostorm_app.pipelines.regrid import resample_time

ROUNDING = 1e-5  # standard deviations, float32
SHAPE = (7, 8, 9)
CONTRACT = VolumeContract(
    space="MNI152NLin6Asym",
    grid=GridSpec(shape=SHAPE, affine=((2, 0, 0, 0), (0, 2, 0, 0), (0, 0, 2, 0))),
    tr=0.8,
    window=5,
    stride=5,
)


@pytest.fixture
def mask():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:6, 1:7, 3:8] = True
    return mask


@pytest.fixture
def series(rng, mask):
    """A positive series, unmasked: there is signal outside the brain too."""
    return (rng.uniform(200, 900, (*SHAPE, 1)) + rng.normal(0, 9, (*SHAPE, 11))).astype(np.float32)


def test_the_brain_of_all_volumes_gets_mean_0_and_standard_deviation_1(series, mask):
    scaled, scale = normalize_volume(series, mask, CONTRACT)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[mask].mean(dtype=np.float64), 0, atol=ROUNDING)
    np.testing.assert_allclose(scaled[mask].std(dtype=np.float64, ddof=1), 1, atol=ROUNDING)
    assert scale.n_values == mask.sum() * series.shape[3]
    np.testing.assert_allclose(scale.mean, series[mask].mean(dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(scale.sd, series[mask].std(dtype=np.float64, ddof=1), rtol=1e-9)


def test_the_background_is_the_minimum_of_the_brain(series, mask):
    scaled, scale = normalize_volume(series, mask, CONTRACT)
    np.testing.assert_allclose(scaled[~mask], scaled[mask].min(), atol=ROUNDING)
    np.testing.assert_allclose(scale.background, scaled[mask].min(), atol=ROUNDING)


def test_a_voxel_of_exactly_0_is_background_in_that_volume_only(series, mask):
    series[3, 4, 5, 2] = 0
    scaled, scale = normalize_volume(series, mask, CONTRACT)
    assert scale.lowest > 0
    np.testing.assert_allclose(scaled[3, 4, 5, 2], scale.background, atol=ROUNDING)
    assert scaled[3, 4, 5, 3] > scale.background


def test_the_unit_of_the_series_does_not_matter(series, mask):
    ours, _ = normalize_volume(series, mask, CONTRACT)
    theirs, _ = normalize_volume(series * np.float32(13), mask, CONTRACT)
    np.testing.assert_allclose(ours, theirs, atol=ROUNDING)


def test_the_order_of_volumes_does_not_matter(series, mask):
    forward = measure_scale(np.moveaxis(series, -1, 0), mask)
    backward = measure_scale(np.moveaxis(series[..., ::-1], -1, 0), mask)
    np.testing.assert_allclose(forward.sd, backward.sd, rtol=1e-12)


def test_a_little_ringing_becomes_0_and_is_counted(series, mask):
    inside = np.argwhere(mask)
    series[(*inside[0], 4)] = -3.0
    scaled, scale = normalize_volume(series, mask, CONTRACT)
    assert 0 < scale.negatives < MAX_NEGATIVES
    np.testing.assert_allclose(scale.negatives, 1 / scale.n_values, rtol=1e-12)
    assert scale.lowest == 0
    np.testing.assert_allclose(scaled[(*inside[0], 4)], scale.background, atol=ROUNDING)


@pytest.mark.parametrize("spoil", ["demeaned", "z-scored"])
def test_a_series_without_its_mean_is_refused_with_advice(series, mask, spoil):
    series -= series.mean(axis=3, keepdims=True)
    if spoil == "z-scored":
        series /= series.std(axis=3, keepdims=True)
    with pytest.raises(ContractError, match="of the brain's values are negative") as caught:
        normalize_volume(series, mask, CONTRACT)
    assert "desc-preproc_bold" in caught.value.fix


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_brain_without_contrast_is_refused(mask, value):
    with pytest.raises(DataError, match="there is nothing to scale"):
        normalize_volume(np.full((*SHAPE, 4), value), mask, CONTRACT)


def test_an_unknown_scaling_is_refused(series, mask):
    contract = CONTRACT.model_copy(update={"scaling": "per-voxel"})
    with pytest.raises(ContractError, match=r"the scaling .*per-voxel.* with background"):
        normalize_volume(series, mask, contract)


def test_one_volume_scaled_alone_is_the_same_as_in_the_series(series, mask):
    scaled, scale = normalize_volume(series, mask, CONTRACT)
    np.testing.assert_array_equal(apply_scale(series[..., 6], mask, scale), scaled[..., 6])


@pytest.mark.parametrize(
    ("case", "tr", "crop"),
    [("hcp_like_2mm_tr0.72", 0.72, slice(None)), ("crop_axis_gt96", 0.8, slice(2, 98))],
)
def test_upstream_stores_the_same_numbers(shared, case, tr, crop):
    """Upstream's preprocessing of the same scan; background is where the series is exactly 0."""
    safetensors = pytest.importorskip("safetensors.numpy")
    golden = safetensors.load_file(shared / "golden" / "neurostorm" / "preprocessing.safetensors")
    bold = golden[f"{case}/bold"]
    if tr != CONTRACT.tr:
        bold = resample_time(bold, tr, CONTRACT.tr)
    z = crop if crop == slice(None) else slice(1, 97)
    bold = bold[crop, :, z]
    scaled, _ = normalize_volume(bold, np.ones(bold.shape[:3], dtype=bool), CONTRACT)
    step = float(golden[f"{case}/scale"][0])  # standard deviations in a step of int8
    theirs = np.moveaxis(golden[f"{case}/frames_int8"], 0, -1) * step
    np.testing.assert_allclose(scaled, theirs, atol=0.51 * step)
