"""What the public code of fMRI-LM makes of series, and what is made of them here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from neurostorm_app.models import read_card
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.prepare_parcels import plan_windows
from neurostorm_app.pipelines.scale_parcels import measure_statistics, scale_series

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FILE = Path(__file__).parents[2] / ".." / "shared/golden/fmri_lm/data_and_descriptors.npz"
TOLERANCE = 1e-6
WHOLE = {"robust": (101.5, 8.25), "std": (100.0, 9.0)}
"""Location and spread of a data set, one number each, that the stored numbers were made with."""


@pytest.fixture(scope="module")
def golden() -> Mapping[str, NDArray[np.float64]]:
    if not FILE.is_file():
        pytest.skip("the numbers of the public code are not beside the project")
    return np.load(FILE)


def windows_of(series: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    contract = read_card("fmri-lm").contract
    assert isinstance(contract, ParcelContract)
    starts, length = plan_windows(series.shape[1], contract, tr=2.0, findings=Findings())
    return [series[:, start : start + length] for start in starts]


def test_a_long_run_is_cut_off_there_and_tiled_here(golden) -> None:
    series = golden["ds_in_long"]
    first, last = windows_of(series)
    np.testing.assert_array_equal(first, golden["ds_None_long"])
    np.testing.assert_array_equal(last, series[:, -160:])


def test_a_short_run_is_stretched_there_and_its_window_shortened_here(golden) -> None:
    series = golden["ds_in_short"]
    n = series.shape[1]
    np.testing.assert_array_equal(series[:, np.arange(160) * n // 160], golden["ds_None_short"])
    first, last = windows_of(series)
    np.testing.assert_array_equal(first, series[:, :64])
    np.testing.assert_array_equal(last, series[:, -64:])


@pytest.mark.parametrize("kind", list(WHOLE))
@pytest.mark.parametrize("length", ["long", "short"])
def test_one_scale_is_for_all_parcels_there_and_for_each_here(golden, kind, length) -> None:
    series = golden[f"ds_None_{length}"].astype(np.float64)
    theirs, (location, spread) = golden[f"ds_{kind}_{length}"], WHOLE[kind]
    np.testing.assert_allclose((series - location) / spread, theirs, atol=TOLERANCE)
    demeaned = series - series.mean(axis=1, keepdims=True)
    labels = np.arange(1, len(series) + 1)
    ours, _ = scale_series(demeaned, measure_statistics(demeaned, labels), scaling="median")
    lower, middle, upper = np.percentile(series, [25, 50, 75], axis=1, keepdims=True)
    # Nothing but an offset and a gain of each parcel lies between the two.
    moved = (theirs * spread + location - middle) / (upper - lower)
    np.testing.assert_allclose(ours, moved, atol=TOLERANCE)
    assert np.abs(ours - theirs).max() > 0.1
