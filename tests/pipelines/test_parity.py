"""Upstream's arithmetic: recomputed here on whole arrays, and its report of what it did not do."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, from_matvec

from neurostorm_app.errors import CorruptImageError, DataError, SeriesTooShortError
from neurostorm_app.models import read_card
from neurostorm_app.models.card import GridSpec, VolumeContract
from neurostorm_app.pipelines.grid import STANDARD_GRIDS, Grid
from neurostorm_app.pipelines.parity import (
    crop_middle,
    fit_window,
    interpolate,
    measure_upstream,
    new_shape,
    pad_window,
    resample_as_upstream,
)
from neurostorm_app.pipelines.prepare_upstream import place_as_upstream
from neurostorm_app.pipelines.prepare_volumes import prepare_volumes
from neurostorm_app.pipelines.stage import InputOptions, StandardSeries

ROUNDING = 1e-5  # standard deviations, float32
SPACE = "MNI152NLin6Asym"
UPSTREAM = InputOptions(parity="upstream")
SHAPE, ZOOMS = (17, 13, 11, 9), (3.0, 2.0, 4.0, 2.0)
ROWS = ((-8.0, 0.0, 0.0, 90.0), (0.0, 8.0, 0.0, -126.0), (0.0, 0.0, 8.0, -72.0))
CONTRACT = VolumeContract(
    space=SPACE, grid=GridSpec(shape=(24, 24, 24), affine=ROWS), tr=0.8, window=5, stride=5
)


@pytest.fixture
def series(rng):
    """A positive series with zeros around, a few inside, and a little ringing."""
    data = np.zeros(SHAPE, dtype=np.float32)
    inside = (slice(3, 14), slice(2, 11), slice(1, 9))
    data[inside] = rng.uniform(200, 900, data[inside].shape)
    data[5, 5, 5] = 0
    data[6, 6, 6, 2] = -40
    return data


@pytest.fixture
def make_run(tmp_path):
    def make(data, *, zooms=ZOOMS, affine=None, mask=None, **facts):
        affine = np.diag([*zooms[:3], 1]) if affine is None else affine
        image = nib.Nifti1Image(data, affine)
        image.header.set_zooms(zooms)
        nib.save(image, tmp_path / "bold.nii.gz")
        if mask is not None:
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), tmp_path / "mask.nii.gz")
        run = StandardSeries(
            name="sub-01",
            bold=tmp_path / "bold.nii.gz",
            mask=None if mask is None else tmp_path / "mask.nii.gz",
            confounds=None,
            tr=zooms[3],
            space="unknown",
            res="2",
        )
        return replace(run, **facts)

    return make


def whole_way(data, zooms, mask=None):
    """Recompute on the whole array, with torch alone: levels of 8 bits (X, Y, Z, T) and step."""
    space = [round(n * z / 2) for n, z in zip(data.shape, zooms[:3], strict=False)]
    stretch = torch.nn.functional.interpolate
    x = torch.from_numpy(data.astype(np.float32)).permute(3, 0, 1, 2)[:, None]
    x = stretch(x, size=space, mode="trilinear", align_corners=False)[:, 0]
    n = max(round(len(x) * zooms[3] / 0.8), 1)
    x = stretch(x.flatten(1).T[None], size=n, mode="linear", align_corners=False)[0].T
    x = x.reshape(n, *space)
    foreground = x != 0
    if mask is not None:
        share = torch.from_numpy(mask.astype(np.float32))[None, None]
        share = stretch(share, size=space, mode="trilinear", align_corners=False)[0, 0]
        foreground = (share != 0).expand_as(x)
    x = torch.where(foreground, x, 0).clamp(min=0)
    values = x[foreground]
    z = (x - values.mean()) / values.std()
    z = torch.where(foreground, z, z[foreground].min())
    step = float(z.abs().max()) / 127
    return np.moveaxis(torch.round(z / step).numpy(), 0, -1), step


@pytest.mark.parametrize("masked", [False, True], ids=["zeros", "mask"])
def test_windows_are_those_of_upstreams_whole_arrays(make_run, series, masked):
    mask = np.zeros(SHAPE[:3], dtype=bool)
    mask[4:12, 3:10, 2:8] = True
    run = make_run(series, mask=mask if masked else None)
    prepared = prepare_volumes(run, CONTRACT, UPSTREAM)
    levels, step = whole_way(series, ZOOMS, mask if masked else None)
    assert prepared.findings.facts["scaling"]["step"] == pytest.approx(step, rel=1e-5)
    windows = list(prepared.windows)
    assert len(windows) == len(prepared.starts) == 5  # 22 volumes, and the tail
    for start, window in zip(prepared.starts, windows, strict=True):
        assert window.shape == (1, 24, 24, 24, 5)
        clip = (levels[..., start : start + 5] * step).astype(np.float32)
        expected = fit_window(clip, (24, 24, 24))
        # a value between two levels may go to either
        assert np.abs(window[0] - expected).max() <= step + ROUNDING
        assert (np.abs(window[0] - expected) < 1e-4).mean() > 0.999


@pytest.mark.parametrize("tr", [0.4, 0.72, 0.8, 2.0])
def test_a_stream_is_resampled_like_the_whole_array(rng, tr):
    data = rng.uniform(100, 200, (5, 6, 7, 13)).astype(np.float32)
    zooms = (2.0, 3.0, 1.0, tr)
    space, n = new_shape(data.shape, zooms)
    found = np.stack(list(resample_as_upstream(np.moveaxis(data, -1, 0), data.shape, zooms)))
    assert found.shape == (n, *space) == (max(round(13 * tr / 0.8), 1), 5, 9, 4)
    stretch = torch.nn.functional.interpolate
    x = torch.from_numpy(data).permute(3, 0, 1, 2)[:, None]
    x = stretch(x, size=space, mode="trilinear", align_corners=False).flatten(1)
    x = stretch(x.T[None], size=n, mode="linear", align_corners=False)[0].T
    np.testing.assert_allclose(found, x.reshape(n, *space), rtol=1e-6)


def test_long_axes_lose_their_ends_and_short_ones_are_padded(rng):
    volume = rng.normal(size=(101, 20, 96)).astype(np.float32)
    cropped = crop_middle(volume)
    np.testing.assert_array_equal(cropped, volume[2:98])
    window = np.repeat(cropped[..., np.newaxis], 2, axis=3)
    padded = pad_window(window)
    assert padded.shape == (96, 96, 96, 2)
    np.testing.assert_array_equal(padded[:, 38:58], window)
    assert (padded[:, :38] == window[0, 0, 0, 0]).all()
    odd = pad_window(window[:91])
    np.testing.assert_array_equal(odd[3:94, 38:58], window[:91])  # 3 in front, 2 behind


def test_a_volume_of_the_same_shape_is_left_alone(rng):
    volume = rng.normal(size=(5, 6, 7)).astype(np.float32)
    assert interpolate(volume, (5, 6, 7)) is volume


def test_the_scale_is_that_of_all_foreground(rng):
    data = rng.uniform(-1, 9, (4, 5, 6, 7)).astype(np.float32)
    data[0] = 0
    scale = measure_upstream(np.moveaxis(data, -1, 0), None)
    values = np.maximum(data[data != 0], 0).astype(float)
    assert scale.mean == pytest.approx(values.mean(), rel=1e-9)
    assert scale.sd == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert scale.negatives == pytest.approx((data < 0).sum() / (data != 0).sum())
    scaled = scale.apply(data[..., 3], None)
    assert (scaled[0] == np.float32(scale.lowest)).all()
    back = scale.of_levels(scale.to_levels(scaled))
    np.testing.assert_allclose(back, scaled, atol=scale.step / 2 + ROUNDING)


def test_voxels_of_hcp_lie_where_the_released_contract_has_them():
    contract = read_card("neurostorm").contract
    ours = STANDARD_GRIDS[SPACE, "2"]
    flip = from_matvec(np.diag([-1.0, 1, 1]), [90, 0, 0])
    stored = Grid(ours.shape, ours.affine @ flip)  # x runs to the left, as HCP stores it
    target = Grid.from_rows(contract.grid.shape, contract.grid.affine)
    np.testing.assert_allclose(place_as_upstream(stored, (96, 96, 96)), target.affine, atol=1e-9)


@pytest.mark.parametrize("edge", [96, 48, 24])
def test_a_voxel_is_placed_where_its_value_comes_from(edge, rng):
    """The value is a linear function of the place, so interpolation keeps it."""
    grid = Grid((70, 60, 34), from_matvec(np.diag([2.0, 3, 4]), [-70, -90, -50]))
    volume = (grid.world() @ [1.0, 0.7, 0.3] + 1000).astype(np.float32)
    space, _ = new_shape((*grid.shape, 1), (*grid.zooms, 1))
    fitted = fit_window(interpolate(volume, space)[..., np.newaxis], (edge,) * 3)[..., 0]
    affine = place_as_upstream(grid, (edge,) * 3)
    middle = rng.integers(edge * 3 // 8, edge * 5 // 8, (40, 3))
    expected = apply_affine(affine, middle) @ [1.0, 0.7, 0.3] + 1000
    np.testing.assert_allclose(fitted[tuple(middle.T)], expected, atol=0.01)  # of about 1000


def test_the_affine_is_not_looked_at_and_that_is_said(make_run, series):
    windows, reasons = [], []
    for sign in (1, -1):
        affine = np.diag([sign * 3.0, 2, 4, 1])
        prepared = prepare_volumes(make_run(series, affine=affine), CONTRACT, UPSTREAM)
        windows.append(np.stack(list(prepared.windows)))
        reasons.append(" ".join(prepared.findings.reasons))
    np.testing.assert_array_equal(*windows)
    assert all("mm from where the model takes them" in text for text in reasons)
    assert prepared.findings.deviations["place"] == 1


def test_the_repetition_time_is_the_headers(make_run, series):
    prepared = prepare_volumes(make_run(series, tr=0.8), CONTRACT, UPSTREAM)
    facts, reasons = prepared.findings.facts, prepared.findings.reasons
    assert (facts["tr_in"], facts["tr"], facts["n_volumes_used"]) == (2.0, 0.8, 22)
    assert any("takes a repetition time of 2 s; the sidecar says 0.8 s" in r for r in reasons)
    assert prepared.step == pytest.approx(9 * 2 / 22)
    assert facts["parity"].startswith("upstream")


def test_a_header_in_milliseconds_is_refused(make_run, series):
    run = make_run(series, zooms=(*ZOOMS[:3], 2000.0), tr=2.0)
    with pytest.raises(DataError, match="RepetitionTime is 2000"):
        prepare_volumes(run, CONTRACT, UPSTREAM)


def test_negatives_become_0_as_upstream_does_and_that_is_said(make_run, series):
    demeaned = np.where(series != 0, series - 550, 0).astype(np.float32)
    prepared = prepare_volumes(make_run(demeaned), CONTRACT, UPSTREAM)
    assert prepared.findings.facts["negatives"] > 0.4
    assert any("became 0, as upstream does" in reason for reason in prepared.findings.reasons)
    assert not prepared.findings.as_dict()["met"]


def test_the_clip_policy_holds_here_too(make_run, series):
    options = replace(UPSTREAM, clip_policy="upstream-eval")
    prepared = prepare_volumes(make_run(series), CONTRACT, options)
    assert prepared.starts == [0]
    assert len(list(prepared.windows)) == 1
    assert prepared.n_unused == prepared.findings.facts["n_unused"] == 17


def test_a_run_too_short_is_refused_by_name(make_run, series):
    run = make_run(series[..., :1])
    with pytest.raises(SeriesTooShortError, match="the series has 2 volumes; one window takes 5"):
        prepare_volumes(run, CONTRACT, UPSTREAM)


def test_a_mask_of_another_shape_is_refused(make_run, series, tmp_path):
    run = make_run(series, mask=series[..., 0] > 0)
    nib.save(nib.Nifti1Image(np.ones((9, 8, 7), dtype=np.uint8), np.diag([6, 4, 6, 1])), run.mask)
    with pytest.raises(DataError, match=r"the mask has shape \(9, 8, 7\), the series"):
        prepare_volumes(run, CONTRACT, UPSTREAM)


def test_what_is_no_number_counts_as_0_outside_of_the_brain(make_run, series):
    mask = series[..., 0] > 0
    expected = np.stack(
        list(prepare_volumes(make_run(series, mask=mask), CONTRACT, UPSTREAM).windows)
    )
    series[0] = np.nan
    run = make_run(series, mask=mask)
    found = np.stack(list(prepare_volumes(run, CONTRACT, UPSTREAM).windows))
    np.testing.assert_array_equal(found, expected)
    series[7, 7, 7, 3] = np.nan
    with pytest.raises(CorruptImageError, match="1 voxels in the brain mask"):
        prepare_volumes(make_run(series, mask=mask), CONTRACT, UPSTREAM)
