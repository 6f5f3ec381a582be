from __future__ import annotations

import pytest
import torch

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models.masking import MaskScheme, name_regions

GRID = (4, 6, 8, 9)
WINDOW = (2, 3, 4, 3)
UNITS = {
    ("window", "random"): (2, 2, 2, 3),
    ("window", "tube"): (2, 2, 2, 1),
    ("random", "random"): GRID,
    ("random", "tube"): (4, 6, 8, 3),
    ("atlas", "random"): GRID,
}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize(("names", "counts"), UNITS.items(), ids=str)
def test_a_hidden_unit_hides_its_own_tokens_and_no_others(
    names: tuple[str, str], counts: tuple[int, ...]
) -> None:
    scheme = MaskScheme.of(*names, WINDOW)
    assert scheme.counts(GRID) == counts
    mask = torch.zeros(2, *counts, dtype=torch.bool)
    place = tuple(n - 1 for n in counts)
    mask[1][place] = True
    hidden = scheme.spread(mask.flatten(1), GRID)
    assert hidden.shape == (2, *GRID)
    unit = [n // c for n, c in zip(GRID, counts, strict=True)]
    expected = torch.zeros(2, *GRID, dtype=torch.bool)
    expected[(1, *(slice(n - u, n) for n, u in zip(GRID, unit, strict=True)))] = True
    assert torch.equal(hidden, expected)


@pytest.mark.parametrize("names", [n for n in UNITS if n[0] != "atlas"], ids="-".join)
def test_each_item_hides_as_many_units_as_the_ratio_says(
    names: tuple[str, str], generator: torch.Generator
) -> None:
    scheme = MaskScheme.of(*names, WINDOW)
    mask = scheme.draw(5, grid=GRID, ratio=0.3, generator=generator)
    assert mask.sum(dim=1).tolist() == [int(mask.shape[1] * 0.3)] * 5
    assert not torch.equal(mask[0], mask[1])


def test_the_same_seed_hides_the_same(generator: torch.Generator) -> None:
    scheme = MaskScheme.of("random", "random", WINDOW)
    again = torch.Generator().manual_seed(7)
    first = scheme.draw(2, grid=GRID, ratio=0.5, generator=generator)
    assert torch.equal(scheme.draw(2, grid=GRID, ratio=0.5, generator=again), first)


def test_an_atlas_hides_whole_regions_at_all_times(generator: torch.Generator) -> None:
    scheme = MaskScheme.of("atlas", "random", WINDOW)
    atlas = torch.arange(4 * 6 * 8).reshape(4, 6, 8) % 11  # regions 1 to 10, and none
    mask = scheme.draw(3, grid=GRID, ratio=0.4, generator=generator, atlas=atlas)
    for hidden in scheme.spread(mask, GRID):
        assert torch.equal(hidden.all(dim=-1), hidden.any(dim=-1))
        regions = torch.unique(atlas[hidden[..., 0]])
        assert len(regions) == 4
        assert torch.equal(hidden[..., 0], torch.isin(atlas, regions))
        assert 0 not in regions


def test_an_atlas_scheme_without_an_atlas_says_so(generator: torch.Generator) -> None:
    scheme = MaskScheme.of("atlas", "tube", WINDOW)
    with pytest.raises(ContractError, match="the weights hold no atlas_map"):
        scheme.draw(1, grid=GRID, ratio=0.5, generator=generator)


@pytest.mark.parametrize("shape", [(2, 23), (24,), (2, 24, 1)])
def test_a_mask_for_another_grid_is_refused(shape: tuple[int, ...]) -> None:
    scheme = MaskScheme.of("window", "random", WINDOW)
    with pytest.raises(ContractError, match=r"expected torch.bool of shape \(batch, 24\)"):
        scheme.spread(torch.zeros(shape, dtype=torch.bool), GRID)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32, torch.float64])
def test_zeros_and_ones_are_a_mask_too(dtype: torch.dtype) -> None:
    scheme = MaskScheme.of("window", "random", WINDOW)
    mask = torch.arange(24).remainder(2)[None].to(dtype)
    assert torch.equal(scheme.spread(mask, GRID), scheme.spread(mask.bool(), GRID))


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, float("nan")])
def test_a_mask_of_other_numbers_is_refused(value: float) -> None:
    scheme = MaskScheme.of("window", "random", WINDOW)
    with pytest.raises(ContractError, match="the mask holds other values than 0 and 1"):
        scheme.spread(torch.full((2, 24), value), GRID)


def test_a_grid_that_windows_do_not_tile_cannot_be_masked() -> None:
    scheme = MaskScheme.of("window", "random", WINDOW)
    with pytest.raises(ContractError, match="not a whole number of mask units"):
        scheme.counts((4, 6, 8, 10))


@pytest.mark.parametrize(
    ("space", "time", "message"),
    [
        ("stripes", "random", "spatial_mask is 'stripes'.*; known are .*window"),
        ("window", "never", "time_mask is 'never'.*; known are .*random"),
    ],
)
def test_an_unknown_scheme_is_named(space: str, time: str, message: str) -> None:
    with pytest.raises(WrongWeightsError, match=message):
        MaskScheme.of(space, time, WINDOW)


def test_a_token_is_of_the_region_most_of_its_voxels_lie_in() -> None:
    labels = torch.zeros(4, 6, 8, dtype=torch.int16)
    labels[:2, :3, :4] = 7  # a whole patch
    labels[2, 3:, 4:] = 5  # half of a patch, and the other half is of another, larger number
    labels[3, 3:, 4:] = 6
    labels[0, 0, 4] = 9  # one voxel of a patch that is of no region else
    expected = torch.zeros(2, 2, 2)
    expected[0, 0, 0], expected[1, 1, 1], expected[0, 0, 1] = 7, 5, 9
    assert torch.equal(name_regions(labels, (2, 3, 4, 1)), expected)


def test_an_atlas_on_another_grid_is_refused() -> None:
    with pytest.raises(ContractError, match="an atlas of 4 x 6 x 8 voxels is not a whole number"):
        name_regions(torch.ones(4, 6, 8), (2, 4, 4))
