"""The way to a contract: where voxels lie, when volumes lie, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from neurostorm_app.errors import ContractError, DataError
from neurostorm_app.models.card import GridSpec, VolumeContract
from neurostorm_app.pipelines.conform import conform_series
from neurostorm_app.pipelines.conformance import Findings, measure_coverage, place_volumes
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.regrid import onto_grid, resample_time
from neurostorm_app.pipelines.series import find_brain, open_series
from neurostorm_app.pipelines.stage import StandardSeries
from neurostorm_app.pipelines.templates import load_template

SPACE = "MNI152NLin6Asym"
ROWS = ((-12.0, 0.0, 0.0, 90.0), (0.0, 12.0, 0.0, -126.0), (0.0, 0.0, 12.0, -72.0))
CONTRACT = VolumeContract(
    space=SPACE, grid=GridSpec(shape=(16, 18, 15), affine=ROWS), tr=0.8, window=5, stride=5
)
SIX_MM = Grid((31, 37, 30), from_matvec(np.diag([6.0, 6, 6]), [-90, -126, -72]))
N_VOLUMES = 7


def image_of_the_world(grid, rng, n_volumes=N_VOLUMES):
    """A series whose value is a smooth function of the place, another one in each volume."""
    waves = rng.uniform(0.01, 0.03, (3, n_volumes))
    return (800 + 90 * np.sin(grid.world() @ waves)).astype(np.float32)


@pytest.fixture
def make_run(tmp_path):
    def make(series, grid=SIX_MM, mask=None, **facts):
        nib.save(nib.Nifti1Image(series, grid.affine), tmp_path / "bold.nii.gz")
        if mask is not None:
            mask_image = nib.Nifti1Image(mask.astype(np.uint8), grid.affine)
            nib.save(mask_image, tmp_path / "mask.nii.gz")
        run = StandardSeries(
            name="sub-01",
            bold=tmp_path / "bold.nii.gz",
            mask=None if mask is None else tmp_path / "mask.nii.gz",
            confounds=None,
            tr=0.8,
            space=SPACE,
            res="2",
        )
        return replace(run, **facts)

    return make


def conformed(run, contract=CONTRACT):
    series = open_series(run.bold)
    brain, _ = find_brain(series, run.mask)
    return conform_series(series, run, contract, brain=brain)


def put_back(values, stream):
    """Give a volume back from the voxels of its brain; 0 elsewhere."""
    volume = np.zeros(stream.target.shape, dtype=np.float32)
    volume[stream.mask] = values
    return volume


def whole(stream):
    return np.stack([put_back(values, stream) for values in stream.values()], axis=-1)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_orientation_on_disk_does_not_matter(make_run, rng, signs):
    data = image_of_the_world(SIX_MM, rng)
    flip = tuple(slice(None, None, sign) for sign in signs)
    far_end = [(n - 1 if sign < 0 else 0) for n, sign in zip(SIX_MM.shape, signs, strict=True)]
    affine = SIX_MM.affine @ from_matvec(np.diag(np.array(signs, dtype=float)), far_end)
    stream, _ = conformed(make_run(data[flip], Grid(SIX_MM.shape, affine), data[flip][..., 0] > 0))
    expected = onto_grid(data, SIX_MM, stream.target)
    np.testing.assert_allclose(whole(stream), expected, atol=1e-3)  # of about 800


@pytest.mark.parametrize("tr", [0.72, 0.8, 1.5, 2.0, 0.4])
def test_streaming_in_time_gives_the_numbers_of_the_whole_series(make_run, rng, tr):
    data = image_of_the_world(SIX_MM, rng)
    stream, findings = conformed(make_run(data, tr=tr, mask=data[..., 0] > 0))
    expected = resample_time(onto_grid(data, SIX_MM, stream.target), tr, CONTRACT.tr)
    assert stream.n_volumes == expected.shape[3]
    np.testing.assert_allclose(whole(stream), expected, atol=1e-3)  # of about 800
    assert findings.facts["n_volumes_used"] == expected.shape[3]
    assert findings.facts["time_interpolation"] == ("none" if tr == CONTRACT.tr else "linear")


def test_a_series_on_the_contracts_grid_is_taken_as_it_is(make_run, rng):
    target = Grid.from_rows(CONTRACT.grid.shape, CONTRACT.grid.affine)
    data = image_of_the_world(target, rng)
    stream, findings = conformed(make_run(data, target, mask=data[..., 0] > 0))
    np.testing.assert_allclose(whole(stream), data, atol=1e-3)
    assert findings.facts["space_interpolation"] == "exact"
    assert findings.deviations["space"] == 0


def test_larger_voxels_are_said_to_be_block_means(make_run, rng):
    data = image_of_the_world(SIX_MM, rng)
    _, findings = conformed(make_run(data, mask=data[..., 0] > 0))
    assert findings.facts["space_interpolation"] == "block-mean"


def test_a_series_in_another_space_is_carried_over_and_that_is_said(make_run):
    """The 2009c brain, carried over, lies where the 6Asym brain lies."""
    there = load_template("MNI152NLin2009cAsym", "2")
    brain, grid = read_volume(there.mask)
    data = np.repeat(brain[..., np.newaxis] * 500 + 50, N_VOLUMES, axis=3)
    run = make_run(data, grid, mask=brain > 0.5, space="MNI152NLin2009cAsym")
    stream, findings = conformed(run)
    mask, mask_grid = read_volume(load_template(SPACE, "2").mask)
    expected = onto_grid(mask, mask_grid, stream.target) > 0.5
    found = put_back(next(stream.values()), stream) > 300
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.9  # Dice
    assert findings.facts["brain_coverage"] > 0.95
    assert any("carried over from MNI152NLin2009cAsym" in reason for reason in findings.reasons)
    assert findings.as_dict()["distance"] >= 1


def test_points_of_the_contracts_space_are_mapped_to_the_runs(make_run, monkeypatch):
    """The run's space lies 40 mm further to the right than the contract's."""
    shift = {("MNI152NLin2009cAsym", SPACE): -40.0, (SPACE, "MNI152NLin2009cAsym"): 40.0}

    def between(source, target):
        return lambda points: np.add(points, [shift[source, target], 0, 0])

    monkeypatch.setattr("neurostorm_app.pipelines.templates.between", between)
    data = np.repeat(1000 + SIX_MM.world()[..., :1], N_VOLUMES, axis=3).astype(np.float32)
    run = make_run(data, mask=data[..., 0] > 0, space="MNI152NLin2009cAsym")
    stream, _ = conformed(run)
    found = put_back(next(stream.values()), stream)
    inside = found > 900
    assert inside.sum() > 500
    expected = 1040 + stream.target.world()[..., 0]
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.01)  # mm


def test_a_space_without_a_way_to_the_contract_is_refused(make_run, rng):
    run = make_run(image_of_the_world(SIX_MM, rng), space="MNIInfant")
    with pytest.raises(
        ContractError, match=r"MNIInfant.*; the model takes .*6Asym, and no map from"
    ):
        conformed(run)


def test_a_repetition_time_in_milliseconds_is_refused(make_run, rng):
    run = make_run(image_of_the_world(SIX_MM, rng), tr=2000.0)
    with pytest.raises(DataError, match="2000"):
        conformed(run)


@pytest.mark.parametrize(("tr", "far"), [(0.72, False), (0.8, False), (2.0, True), (0.4, True)])
def test_a_far_repetition_time_is_a_reason(make_run, rng, tr, far):
    run = make_run(image_of_the_world(SIX_MM, rng, 1), tr=tr)
    findings = Findings()
    place_volumes(100, run, 0.8, findings)
    assert bool(findings.reasons) == far
    np.testing.assert_allclose(findings.deviations["tr"], abs(np.log2(tr / 0.8)))


def test_coverage_is_the_share_of_the_template_brain_in_the_mask():
    mask, grid = read_volume(load_template(SPACE, "2").mask)
    whole_brain, upper_half = mask > 0.5, mask > 0.5
    upper_half = upper_half & (grid.world()[..., 2] > 10)
    for brain, met in ((whole_brain, True), (upper_half, False)):
        findings = Findings()
        measure_coverage(brain, grid, space=SPACE, findings=findings)
        share = brain.sum() / whole_brain.sum()
        np.testing.assert_allclose(findings.facts["brain_coverage"], share, atol=1e-4)
        assert findings.as_dict()["met"] is met
    assert "of the template brain is covered" in findings.reasons[0]


def test_a_mask_of_larger_voxels_covers_as_much():
    mask, grid = read_volume(load_template(SPACE, "2").mask)
    coarse = onto_grid(mask, grid, SIX_MM) > 0.5
    findings = Findings()
    measure_coverage(coarse, SIX_MM, space=SPACE, findings=findings)
    assert findings.facts["brain_coverage"] > 0.93
