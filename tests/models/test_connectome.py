from __future__ import annotations

import numpy as np
import pytest
import torch

from neurostorm_app.errors import ContractError
from neurostorm_app.models import create_model


@pytest.fixture
def series() -> torch.Tensor:
    return torch.rand(2, 7, 31, generator=torch.Generator().manual_seed(5))


def test_it_is_numpys_correlation_row_by_row(series: torch.Tensor) -> None:
    found = create_model("connectome").embed(series)
    assert found.shape == (2, 21)
    for row, run in zip(found.numpy(), series.numpy(), strict=True):
        expected = np.arctanh(np.corrcoef(run)[np.triu_indices(7, 1)])
        np.testing.assert_allclose(row, expected, atol=1e-6)  # Fisher's z


def test_gain_and_offset_of_a_parcel_do_not_matter(series: torch.Tensor) -> None:
    model = create_model("connectome")
    scaled = series * torch.arange(1.0, 8).reshape(1, 7, 1) + 100
    torch.testing.assert_close(model.embed(scaled), model.embed(series), atol=1e-4, rtol=0)


def test_equal_parcels_stay_finite(series: torch.Tensor) -> None:
    series[0, 3] = series[0, 1]
    series[0, 4] = -series[0, 1]
    z = create_model("connectome")(series)
    assert torch.isfinite(z).all()
    assert z.abs().max() == pytest.approx(np.arctanh(0.999999), abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 1234.5678])
def test_a_constant_parcel_correlates_zero_with_all(series: torch.Tensor, value: float) -> None:
    model = create_model("connectome")
    before = model.embed(series)[0]
    series[0, 2] = value
    found = model.embed(series)[0]
    touched = np.array([2 in pair for pair in zip(*np.triu_indices(7, 1), strict=True)])
    assert (found[touched] == 0).all()
    assert torch.equal(found[~touched], before[~touched])


def test_values_that_are_not_finite_are_refused(series: torch.Tensor) -> None:
    series[1, 4, 3] = torch.nan
    with pytest.raises(
        ContractError, match=r"1 .*parcels hold values that are not finite.*number 4"
    ):
        create_model("connectome").embed(series)


@pytest.mark.parametrize("shape", [(7, 31), (2, 1, 31), (2, 7, 2)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match="expected \\(batch, at least 2 parcels"):
        create_model("connectome").embed(torch.rand(*shape))
