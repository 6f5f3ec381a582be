"""Contrastive losses and the dropout of redundant tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models.augment import augment_windows
from neurostorm_app.models.heads import EmbeddingHead
from neurostorm_app.models.losses import contrastive_loss, local_global_loss, nt_xent
from neurostorm_app.models.neurostorm import NeuroStorm
from neurostorm_app.models.neurostorm_files import Config
from neurostorm_app.models.redundancy import drop_probability, find_neighbours

WINDOW = (3, 2, 4, 5)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_views_that_agree_cost_less_than_views_that_do_not(generator: torch.Generator) -> None:
    first = torch.randn(6, 11, generator=generator)
    other = torch.randn(6, 11, generator=generator)
    assert nt_xent(first, 3 * first) < nt_xent(first, other)
    torch.testing.assert_close(nt_xent(first, other), nt_xent(other, first))


def test_the_loss_of_pairs_is_its_formula(generator: torch.Generator) -> None:
    views = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    rows = [v / v.norm() for v in views.flatten(0, 1)]
    total = 0.0
    for i, row in enumerate(rows):
        others = {j: math.exp(float(row @ rows[j]) / 0.2) for j in range(6) if j != i}
        total -= math.log(others[(i + 3) % 6] / sum(others.values()))
    assert nt_xent(*views, temperature=0.2).item() == pytest.approx(total / 6, rel=1e-12)


def test_slices_in_their_order_cost_less(generator: torch.Generator) -> None:
    clips = torch.nn.functional.normalize(torch.randn(2, 3, 7, generator=generator), dim=-1)
    assert local_global_loss(clips, clips) < local_global_loss(clips, clips.flip(1))


def test_the_loss_of_slices_does_not_grow_with_the_batch(generator: torch.Generator) -> None:
    local, whole = torch.randn(2, 3, 4, 7, generator=generator)
    twice = local_global_loss(local.repeat(2, 1, 1), whole.repeat(2, 1, 1))
    torch.testing.assert_close(local_global_loss(local, whole), twice)
    even = torch.zeros(2, 4, 7)
    assert local_global_loss(even, even).item() == pytest.approx(4 * math.log(4))


def test_neighbours_are_near_in_space_or_in_time_and_never_oneself() -> None:
    in_space, in_time = find_neighbours(WINDOW, space=3, time=3)
    assert not in_space.diagonal().any()
    assert not in_time.diagonal().any()
    assert torch.equal(in_space, in_space.T)
    assert not (in_space & in_time).any()
    middle = ((1 * 2 + 0) * 4 + 1) * 5 + 2
    assert in_space[middle].sum() == 3 * 2 * 3 - 1
    assert in_time[middle].nonzero().flatten().tolist() == [middle - 1, middle + 1]


def test_a_token_like_its_neighbours_is_dropped_more_often(generator: torch.Generator) -> None:
    neighbours = find_neighbours(WINDOW)
    tokens = torch.randn(2, 120, 6, generator=generator)
    chance = drop_probability(tokens, *neighbours)
    assert chance.shape == (2, 120)
    assert 0 <= chance.min() <= chance.max() <= 1
    alike = tokens.clone()
    alike[:] = tokens[:, :1]
    uniform = drop_probability(alike, *neighbours)
    in_space, in_time = (n.sum(dim=1) for n in neighbours)
    expected = (1 / in_space + 1 / in_time) * 120 / 120 / 2 / (in_space + in_time)
    torch.testing.assert_close(uniform, expected.expand(2, -1))


def test_a_window_of_one_volume_has_no_neighbours_in_time() -> None:
    in_space, in_time = find_neighbours((2, 2, 2, 1))
    assert not in_time.any()
    chance = drop_probability(torch.ones(1, 8, 3), in_space, in_time)
    assert torch.isfinite(chance).all()


@pytest.fixture
def contrast(small: dict[str, Any], filled: Any) -> tuple[NeuroStorm, EmbeddingHead]:
    network = NeuroStorm(Config.of(small))
    network.load_state_dict(filled(network.state_dict()))
    head = EmbeddingHead(32, 8)
    head.load_state_dict(filled(head.state_dict()))
    return network, head


def windows(generator: torch.Generator, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.randn(2, n, 2, 16, 32, 48, 4, generator=generator)
    return first, second


def test_two_windows_of_one_participant_are_told_from_others(
    contrast: tuple[NeuroStorm, EmbeddingHead], generator: torch.Generator
) -> None:
    network, head = contrast
    first, second = windows(generator)
    head.eval()
    with torch.no_grad():
        found = contrastive_loss(network, head, first, second)
        views = [head(network.features(x)) for x in (first, second)]
        same = contrastive_loss(network, head, first, first)
    torch.testing.assert_close(found, nt_xent(*views))
    assert same < found


def test_two_augmentations_of_one_window_are_told_from_others(
    contrast: tuple[NeuroStorm, EmbeddingHead], generator: torch.Generator
) -> None:
    network, head = contrast
    first, second = windows(generator)
    head.eval()
    seen: list[torch.Tensor] = []

    def view(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x + 0.1 * len(seen)

    with torch.no_grad():
        found = contrastive_loss(network, head, first, second, kind="augmentations", augment=view)
        made = [head(network.features(x + 0.1 * (i + 1))) for i, x in enumerate(seen)]
    assert [id(x) for x in seen] == [id(first)] * 2 + [id(second)] * 2
    expected = (nt_xent(*made[:2]) + nt_xent(*made[2:])) / 2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["windows", "augmentations"])
def test_contrastive_learning_learns(
    contrast: tuple[NeuroStorm, EmbeddingHead], generator: torch.Generator, kind: Any
) -> None:
    network, head = contrast
    first, second = windows(generator)

    def loss() -> torch.Tensor:
        seed = torch.Generator().manual_seed(5)
        return contrastive_loss(
            network, head, first, second, kind=kind,
            augment=lambda x: augment_windows(x, generator=seed),
        )  # fmt: skip

    parameters = [*network.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=3e-3)
    values = []
    for _ in range(5):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        assert all(p.grad is not None for p in parameters)
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]


def test_one_participant_cannot_be_told_from_others(
    contrast: tuple[NeuroStorm, EmbeddingHead], generator: torch.Generator
) -> None:
    with pytest.raises(UsageError, match="got windows of 1 participants; it tells them apart"):
        contrastive_loss(*contrast, *windows(generator, n=1))


def test_augmentations_are_compared_only_where_there_is_one(
    contrast: tuple[NeuroStorm, EmbeddingHead], generator: torch.Generator
) -> None:
    with pytest.raises(UsageError, match="no augmentation was given"):
        contrastive_loss(*contrast, *windows(generator), kind="augmentations")
