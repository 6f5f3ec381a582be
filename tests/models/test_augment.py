"""Augmented windows: moved as far as asked, volumes alike, and the same for the same seed."""

from __future__ import annotations

import math

import pytest
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models import augment
from neurostorm_app.models.augment import Augmentation, augment_windows

STILL = Augmentation(rotation=0, scale=0, noise_chance=0, blur_chance=0)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def ball(shape: tuple[int, ...], centre: tuple[float, ...]) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    apart = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
    return torch.exp(-torch.as_tensor(apart) / 8)


def middle(volume: torch.Tensor) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.arange(n).to(volume) for n in volume.shape), indexing="ij")
    return torch.stack([(a * volume).sum() / volume.sum() for a in axes])


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 2, 12, 16, 10, 5, generator=seeded(9))


def test_nothing_is_changed_where_nothing_is_asked(x: torch.Tensor) -> None:
    made = augment_windows(x, generator=seeded(), settings=STILL)
    torch.testing.assert_close(made, x, atol=1e-4, rtol=0)  # of linear interpolation, float32


def test_the_same_seed_makes_the_same_windows(x: torch.Tensor) -> None:
    first, again, other = (augment_windows(x, generator=seeded(s)) for s in (1, 1, 2))
    assert first.shape == x.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_voxel_moves_as_its_matrix_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides are unequal, so a turn that mixed up axes or forgot their lengths would show."""
    shape, place = (31, 41, 25), torch.tensor([18.0, 24.0, 10.0], dtype=torch.float64)
    x = ball(shape, tuple(place.tolist()))[None, None, ..., None].expand(1, 1, *shape, 2)
    settings = Augmentation(noise_chance=0, blur_chance=0)
    matrices: list[torch.Tensor] = []
    draw = augment._draw_affine
    monkeypatch.setattr(
        augment, "_draw_affine", lambda *a: matrices.append(draw(*a)) or matrices[-1]
    )
    half = torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64)
    for seed in range(4):
        made = augment_windows(x, generator=seeded(seed), settings=settings)
        assert torch.equal(made[..., 0], made[..., 1])  # all volumes alike
        expected = torch.linalg.solve(matrices[-1], place - half) + half
        moved = (expected - place).norm()
        assert moved > 0.3  # voxels
        assert (middle(made[0, 0, ..., 0]) - expected).norm() < 0.05  # voxels


def test_turns_and_sizes_stay_within_their_bounds() -> None:
    generator = seeded(3)
    found = [augment._draw_affine(generator, Augmentation()) for _ in range(300)]
    sizes = torch.stack([m.norm(dim=0) for m in found])  # of the columns: a turn keeps them
    assert 0.9 <= sizes.min() < 0.91
    assert 1.09 < sizes.max() <= 1.1
    turns = torch.stack([m / m.norm(dim=0) for m in found])
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).double().expand(300, 3, 3))
    angles = torch.rad2deg(torch.arccos((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2))
    assert 10 < angles.max() < 10 * math.sqrt(3) + 0.2  # degrees; three turns of 10


def test_a_blur_spreads_by_its_width_and_keeps_the_sum() -> None:
    item = torch.zeros(1, 21, 21, 21, dtype=torch.float64)
    item[0, 10, 10, 10] = 1
    blurred = augment._blur(item, [1.5, 0.0, 0.6])
    assert blurred.sum().item() == pytest.approx(1)
    places = torch.arange(21) - 10.0
    spread = [((blurred.sum(dim=d)[0] * places.double() ** 2).sum()).item()
              for d in ((2, 3), (1, 3), (1, 2))]  # fmt: skip
    assert spread == pytest.approx([1.5**2, 0, 0.6**2], rel=0.06)


def test_noise_has_its_size_and_comes_as_often_as_it_should() -> None:
    x = torch.zeros(200, 1, 6, 6, 6, 4)
    settings = Augmentation(rotation=0, scale=0, noise=0.2, noise_chance=0.3, blur_chance=0)
    made = augment_windows(x, generator=seeded(4), settings=settings).flatten(1)
    noisy = made.std(dim=1) > 0
    assert 0.2 < noisy.float().mean() < 0.4
    assert made[noisy].std().item() == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("wrong", [{"noise": -1.0}, {"scale": 1.5}, {"blur_chance": 2.0}])
def test_bounds_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="windows cannot be augmented by"):
        Augmentation(**wrong)
