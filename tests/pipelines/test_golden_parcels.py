"""The numbers of upstream's own toolkit: parcels of a series, and their units."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import load_file

from neurostorm_app.models.atlases import find_coordinates, read_atlas_card
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.pipelines.cohort import Sketch
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.parcel_places import place_parcels
from neurostorm_app.pipelines.parcellate import parcellate
from neurostorm_app.pipelines.scale_parcels import (
    Statistics,
    as_statistics,
    measure_statistics,
    scale_series,
)

EXACT = 1e-9  # signal units; both sides add in float64
SINGLE = 1e-6  # relative: the stored columns are float32
SHAPE, N_VOLUMES = (91, 109, 91), 6
LABELS = np.arange(1, 425)
N_SEEN = 200  # volumes of a run of which upstream took its statistics
SEED, STEP = np.uint64(4242 << 32), np.uint64(0x9E3779B97F4A7C15)


@pytest.fixture(scope="module")
def golden(request):
    folder = request.config.rootpath.parent / "shared" / "golden" / "brainlm"
    if not folder.is_dir():
        pytest.skip("upstream's numbers are not beside the project (../shared/golden/brainlm)")
    return folder


def uniform(n):
    """Upstream's input by the rule of the README: numbers from -1 to 1, none of them random."""
    with np.errstate(over="ignore"):
        z = np.arange(n, dtype=np.uint64) + SEED + STEP
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1


@pytest.fixture(scope="module")
def volumes():
    u = uniform(int(np.prod(SHAPE)) * N_VOLUMES).reshape(*SHAPE, N_VOLUMES)
    return (10000 + 200 * u).astype(np.float32)


@pytest.mark.parametrize("turned", [False, True], ids=["as stored", "the other way round"])
def test_parcels_of_a_series_are_upstreams(golden, volumes, tmp_path, turned):
    """Upstream leaves out voxels that are not a number; ours are outside of the mask as well."""
    atlas = golden / "atlas" / "A424+2mm.nii.gz"
    affine = nib.load(atlas).affine
    inside = np.ones(SHAPE, dtype=bool)
    inside[:12] = False
    series = np.where(inside[..., np.newaxis], volumes, np.float32(np.nan))
    if turned:
        series, inside = series[::-1], inside[::-1]
        affine = affine @ np.array([[-1, 0, 0, SHAPE[0] - 1], *np.eye(4)[1:]])
    nib.save(nib.Nifti1Image(series, affine), tmp_path / "bold.nii")
    found = parcellate(tmp_path / "bold.nii", atlas, mask=inside)
    expected = load_file(golden / "toolkit_parcellation.out.safetensors")["timeseries"]
    np.testing.assert_allclose(found.series.T, expected, atol=EXACT)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.missing == []
    assert (found.coverage < 1).sum() == 17


@pytest.fixture(scope="module")
def columns(golden):
    return load_file(golden / "toolkit_normalisation.safetensors")


@pytest.fixture(scope="module")
def demeaned(columns):
    """All runs, (10, 424, 230), each parcel without its mean."""
    raw = np.moveaxis(columns["raw_all"].astype(np.float64), 1, 2)
    return raw - raw.mean(axis=2, keepdims=True)


def column(columns, group, name):
    return columns[f"{group}/{name}_Normalized_Recording"]


def test_series_over_one_standard_deviation_are_upstreams(columns, demeaned):
    own = column(columns, "ukb_train0", "Subtract_Mean").T.astype(np.float64)
    np.testing.assert_allclose(demeaned[0], own, atol=1e-3)  # signal units; upstream's float32
    divided = column(columns, "ukb_train0", "Subtract_Mean_Divide_Global_STD").T
    large = np.abs(own) > 1
    sd = float(np.mean(own[large] / divided[large]))
    points = np.zeros((len(LABELS), 5))
    scaled, _ = scale_series(demeaned[0], as_statistics(points, LABELS, sd=sd), scaling="sd")
    np.testing.assert_allclose(scaled, divided, atol=3e-5)  # 1e-3 over the deviation


def test_the_populations_median_and_range_are_those_of_the_recipe(columns, demeaned):
    seen = np.concatenate(list(demeaned[:, :, :N_SEEN]), axis=1)
    found = measure_statistics(seen, LABELS)
    np.testing.assert_allclose(found.median, columns["pop_median"], atol=EXACT)
    np.testing.assert_allclose(found.iqr, columns["pop_iqr"], atol=EXACT)


def test_counted_in_bins_they_are_the_same_to_two_in_a_thousand(columns, demeaned):
    sketch = Sketch(LABELS)
    for run in demeaned:
        sketch.add(run[:, :N_SEEN])
    found = sketch.statistics()
    np.testing.assert_allclose(found.iqr, columns["pop_iqr"], rtol=2e-3)
    np.testing.assert_allclose(
        found.median, columns["pop_median"], atol=2e-3 * columns["pop_iqr"].min()
    )


def test_robust_units_are_those_of_the_recipe(columns, demeaned):
    """The recipe's own numbers are not clipped; ours are, so the bounds are put far away."""
    far = np.full(len(LABELS), 1e9)
    statistics = Statistics(
        labels=LABELS,
        median=columns["pop_median"],
        iqr=columns["pop_iqr"],
        low=-far,
        high=far,
        sd=1.0,
    )
    scaled, clipped = scale_series(demeaned[0], statistics, scaling="robust")
    expected = columns["intended0/Voxelwise_RobustScaler"]
    np.testing.assert_allclose(scaled.T, expected, atol=SINGLE)
    assert clipped == 0


def test_clipping_touches_two_values_in_a_hundred(demeaned):
    seen = np.concatenate(list(demeaned), axis=1)
    scaled, clipped = scale_series(seen, measure_statistics(seen, LABELS), scaling="robust")
    assert clipped == pytest.approx(0.02, abs=0.002)
    assert np.abs(scaled).max() < 5


def test_the_published_points_of_the_atlas_are_read(golden):
    atlas = golden / "atlas" / "A424+2mm.nii.gz"
    file = find_coordinates(atlas, read_atlas_card("A424"))
    assert file is not None
    contract = ParcelContract(space="MNI152NLin6Asym", atlas="A424", coordinates=True)
    findings = Findings()
    places = place_parcels(atlas, contract, findings)
    np.testing.assert_array_equal(places[[0, 1, 423]], [[14, -78, 4], [44, -64, 4], [22, -38, -46]])
    assert findings.facts["coordinates"]["source"] == "A424_Coordinates.dat"
    centroids = place_parcels(atlas, contract.model_copy(update={"atlas": "other"}), Findings())
    apart = np.linalg.norm(centroids - places, axis=1)
    assert 2 < np.median(apart) < 4  # mm
