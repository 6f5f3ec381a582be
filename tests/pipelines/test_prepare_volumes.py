"""From a run to windows: what is refused, what is said, and how often the file is read."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from neurostorm_app.errors import ContractError, CorruptImageError, SeriesTooShortError
from neurostorm_app.models.card import GridSpec, VolumeContract
from neurostorm_app.pipelines import series as series_module
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.normalize import normalize_volume
from neurostorm_app.pipelines.prepare_volumes import prepare_volumes
from neurostorm_app.pipelines.regrid import onto_grid, resample_time
from neurostorm_app.pipelines.stage import InputOptions, StandardSeries
from neurostorm_app.pipelines.templates import load_template

SPACE = "MNI152NLin6Asym"
ROWS = ((-12.0, 0.0, 0.0, 90.0), (0.0, 12.0, 0.0, -126.0), (0.0, 0.0, 12.0, -72.0))
CONTRACT = VolumeContract(
    space=SPACE, grid=GridSpec(shape=(16, 19, 16), affine=ROWS), tr=0.8, window=5, stride=5
)
GRIDS = {
    "exact": (Grid.from_rows((16, 19, 16), ROWS), SPACE),
    "resampled": (Grid((31, 37, 31), from_matvec(np.diag([6.0, 6, 6]), [-90, -126, -72])), SPACE),
    "other space": (
        Grid((31, 37, 31), from_matvec(np.diag([6.0, 6, 6]), [-90, -126, -72])),
        "MNI152NLin2009cAsym",
    ),
}
N_VOLUMES = 13
ROUNDING = 1e-5  # standard deviations


@pytest.fixture(params=GRIDS)
def place(request):
    """Grid and space of a run: as the contract's, interpolated, and carried over."""
    return GRIDS[request.param]


@pytest.fixture
def brain():
    """A function: the template's brain on a grid."""
    mask, grid = read_volume(load_template(SPACE, "2").mask)
    return lambda target: onto_grid(mask, grid, target) > 0.5


@pytest.fixture
def make_run(tmp_path):
    def make(data, place, mask=None, **facts):
        grid, space = place
        nib.save(nib.Nifti1Image(data.astype(np.float32), grid.affine), tmp_path / "bold.nii.gz")
        if mask is not None:
            path = tmp_path / "mask.nii.gz"
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), grid.affine), path)
        run = StandardSeries(
            name="sub-01",
            bold=tmp_path / "bold.nii.gz",
            mask=None if mask is None else tmp_path / "mask.nii.gz",
            confounds=None,
            tr=0.8,
            space=space,
            res="2",
        )
        return replace(run, **facts)

    return make


@pytest.fixture
def bold(rng):
    """A function: a positive series in a brain, with anatomy; 0 outside."""

    def make(mask, n_volumes=N_VOLUMES):
        anatomy = rng.uniform(300, 900, (*mask.shape, 1))
        series = anatomy * (1 + rng.normal(0, 0.02, (*mask.shape, n_volumes)))
        return series * mask[..., np.newaxis]

    return make


def spoil(series, mask, how):
    """Take the mean off, as programs do that clean a series."""
    mean = series.mean(axis=3, keepdims=True)
    fluctuation = series - mean
    with np.errstate(invalid="ignore", divide="ignore"):
        spoilt = {
            "demeaned": fluctuation,
            "z-scored": fluctuation / series.std(axis=3, keepdims=True),
            "percent signal change": 100 * fluctuation / mean,
        }[how]
    return np.where(mask[..., np.newaxis], spoilt, 0)


@pytest.mark.parametrize("masked", [True, False], ids=["mask given", "mask computed"])
@pytest.mark.parametrize("how", ["demeaned", "z-scored", "percent signal change"])
def test_a_series_without_its_mean_is_refused_wherever_it_lies(
    make_run, bold, brain, place, how, masked
):
    mask = brain(place[0])
    series = spoil(bold(mask), mask, how)
    run = make_run(series, place, mask if masked else None)
    with pytest.raises(ContractError, match="of the brain's values are negative") as caught:
        prepare_volumes(run, CONTRACT, InputOptions())
    assert "desc-preproc_bold" in caught.value.fix
    assert str(run.bold) in caught.value.what


def test_a_denoised_series_that_kept_its_mean_passes(make_run, bold, brain, place):
    mask = brain(place[0])
    series = bold(mask)
    denoised = series - spoil(series, mask, "demeaned") * 0.5
    prepared = prepare_volumes(make_run(denoised, place, mask), CONTRACT, InputOptions())
    assert prepared.findings.facts["negatives"] < 1e-3
    assert not any("negative" in reason for reason in prepared.findings.reasons)


def test_a_series_in_percent_of_its_mean_is_said_to_lack_anatomy(make_run, bold, brain):
    place = GRIDS["exact"]
    mask = brain(place[0])
    percent = np.where(
        mask[..., np.newaxis], 100 + spoil(bold(mask), mask, "percent signal change"), 0
    )
    findings = prepare_volumes(make_run(percent, place, mask), CONTRACT, InputOptions()).findings
    assert any("divided by its own mean, voxel by voxel" in reason for reason in findings.reasons)
    assert findings.facts["contrast"] < 0.05
    assert 0 < findings.deviations["contrast"] <= 1
    whole = prepare_volumes(make_run(bold(mask), place, mask), CONTRACT, InputOptions()).findings
    assert "contrast" not in whole.deviations


def test_windows_are_those_of_the_whole_series_in_memory(make_run, bold, brain):
    grid, space = GRIDS["resampled"]
    mask = brain(grid)
    run = make_run(bold(mask), (grid, space), mask, tr=1.1)
    prepared = prepare_volumes(run, CONTRACT, InputOptions())
    target = Grid.from_rows(CONTRACT.grid.shape, CONTRACT.grid.affine)
    stored = np.asarray(nib.load(run.bold).dataobj)
    moved = resample_time(onto_grid(stored, grid, target), 1.1, CONTRACT.tr)
    inside = onto_grid(mask.astype(np.float32), grid, target) > 1e-6
    scaled, _ = normalize_volume(moved, inside, CONTRACT)
    windows = list(prepared.windows)
    assert len(windows) == len(prepared.starts) == 4  # 18 volumes
    for start, window in zip(prepared.starts, windows, strict=True):
        assert window.dtype == np.float32
        np.testing.assert_allclose(window[0], scaled[..., start : start + 5], atol=ROUNDING)


@pytest.mark.parametrize("mark", [np.nan, np.inf])
def test_what_is_no_number_outside_of_the_brain_is_background(make_run, bold, brain, place, mark):
    """Statistical packages write NaN outside of their mask."""
    mask = brain(place[0])
    series = bold(mask)
    expected = np.stack(
        list(prepare_volumes(make_run(series, place, mask), CONTRACT, InputOptions()).windows)
    )
    marked = np.where(mask[..., np.newaxis], series, mark)
    for given in (mask, None):
        run = make_run(marked, place, given)
        found = np.stack(list(prepare_volumes(run, CONTRACT, InputOptions()).windows))
        np.testing.assert_allclose(found, expected, atol=ROUNDING)


def test_what_is_no_number_in_the_brain_is_refused_and_counted(make_run, bold, brain, place):
    mask = brain(place[0])
    series = bold(mask)
    for i, j, k in np.argwhere(mask)[50:53]:
        series[i, j, k, 4] = np.nan
    run = make_run(series, place, mask)
    with pytest.raises(CorruptImageError, match="volume 4 of 13 has 3 voxels in the brain mask"):
        prepare_volumes(run, CONTRACT, InputOptions())


@pytest.mark.parametrize(("room", "reads"), [(0, 2), (10**9, 1), (1000, 2)])
def test_with_room_for_the_brain_the_file_is_read_once(
    make_run, bold, brain, monkeypatch, room, reads
):
    mask = brain(GRIDS["resampled"][0])
    run = make_run(bold(mask), GRIDS["resampled"], mask, tr=1.1)
    expected = np.stack(list(prepare_volumes(run, CONTRACT, InputOptions()).windows))
    seen = []
    original = series_module.iter_volumes

    def counted(path, **how):
        seen.append(path)
        return original(path, **how)

    monkeypatch.setattr(series_module, "iter_volumes", counted)
    prepared = prepare_volumes(run, CONTRACT, InputOptions(), room=room)
    np.testing.assert_array_equal(np.stack(list(prepared.windows)), expected)
    assert len(seen) == reads


@pytest.mark.parametrize(
    ("policy", "starts", "unused"),
    [("dense", [0, 5, 10, 15, 20, 24], 0), ("upstream-eval", [0], 24)],
)
def test_the_windows_are_told(make_run, bold, brain, policy, starts, unused):
    mask = brain(GRIDS["exact"][0])
    run = make_run(bold(mask, 29), GRIDS["exact"], mask)
    prepared = prepare_volumes(run, CONTRACT, InputOptions(clip_policy=policy))
    facts = prepared.findings.facts
    assert prepared.starts == starts
    assert len(list(prepared.windows)) == facts["n_windows"] == len(starts)
    assert prepared.n_unused == facts["n_unused"] == unused
    assert facts["n_overlap"] == (1 if policy == "dense" else 0)
    assert (facts["clip_policy"], facts["tr"]) == (policy, 0.8)
    assert facts["stride"] == (5 if policy == "dense" else 100)


def test_a_run_too_short_is_told_in_volumes_and_seconds(make_run, bold, brain):
    mask = brain(GRIDS["exact"][0])
    run = make_run(bold(mask, 3), GRIDS["exact"], mask, tr=1.0)
    with pytest.raises(SeriesTooShortError, match=r"has 4 volumes; .* 5: 3\.2 s of 4 s") as caught:
        prepare_volumes(run, CONTRACT, InputOptions())
    assert str(run.bold) in caught.value.what
