"""Redundancy dropout: the equations, the draws, and the autoencoder they act in."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from neurostorm_app.errors import UsageError
from neurostorm_app.models.autoencoder import NeuroStormMae
from neurostorm_app.models.neurostorm_files import Config
from neurostorm_app.models.redundancy import (
    drop_probability,
    entry_probability,
    find_neighbours,
    resemble,
)
from neurostorm_app.models.redundancy_dropout import Redundancy, RedundancyDropout

if TYPE_CHECKING:
    from torch import Tensor

    from neurostorm_app.models.blocks import Size

WINDOW: Size = (3, 2, 4, 5)
VARIANTS: list[Any] = ["paper", "upstream"]


@pytest.fixture
def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(7, math.prod(WINDOW), 6, generator=generator, dtype=torch.float64)


def by_hand(h: Tensor, window: Size, *, cube: int, column: int) -> tuple[Tensor, Tensor]:
    """Work out W of one window by loops: of all entries, and of neighbours alone."""
    places = list(torch.cartesian_prod(*(torch.arange(n) for n in window)))
    n = len(places)
    alike = torch.exp(h @ h.T / h.shape[1] ** 0.5)
    alike = alike / alike.sum(dim=1, keepdim=True)
    everywhere, near = torch.zeros(2, n, n, dtype=h.dtype)
    for i in range(n):
        apart = [(places[i] - q).abs().tolist() for q in places]
        space = [j for j in range(n) if j != i and apart[j][3] == 0
                 and max(apart[j][:3]) <= cube // 2]  # fmt: skip
        time = [j for j in range(n) if j != i and max(apart[j][:3]) == 0
                and apart[j][3] <= column // 2]  # fmt: skip
        closest_s, closest_t = alike[i, space].max(), alike[i, time].max()
        for j in range(n):
            one = closest_t * alike[i, j] / (alike[i, space].sum() + 1e-8)
            other = closest_s * alike[i, j] / (alike[i, time].sum() + 1e-8)
            everywhere[i, j] = min(float(one + other) / 2, 1.0)
            near[i, j] = (one * (j in space) + other * (j in time)) / 2
    return everywhere, near


def test_the_probabilities_are_their_equations(tokens: Tensor) -> None:
    near = find_neighbours(WINDOW, space=3, time=3)
    tokens_dropped = drop_probability(tokens, *near)
    entries_dropped = entry_probability(resemble(tokens), *near)
    n_neighbours = (near[0] | near[1]).sum(dim=1)
    for i in range(2):
        everywhere, entries = by_hand(tokens[i], WINDOW, cube=3, column=3)
        expected = (everywhere.sum(dim=1) / n_neighbours).clamp(max=1)
        torch.testing.assert_close(tokens_dropped[i], expected)
        torch.testing.assert_close(entries_dropped[i], entries)


def test_an_entry_is_halved_before_it_is_cut_at_one() -> None:
    """Two places that never change and share nothing: entries within a place are certain."""
    window: Size = (2, 1, 1, 5)
    still = 4 * torch.eye(2, dtype=torch.float64).repeat_interleave(5, dim=0)
    near = find_neighbours(window)
    everywhere, _ = by_hand(still, window, cube=5, column=5)
    assert everywhere.max() == 1.0
    expected = (everywhere.sum(dim=1) / (near[0] | near[1]).sum(dim=1)).clamp(max=1)
    found = drop_probability(still[None], *near)[0]
    torch.testing.assert_close(found, expected)
    assert found.min() == 1.0


def test_twins_in_space_and_in_time_lose_what_they_share(tokens: Tensor) -> None:
    """Where all tokens are one, a fraction of the entries goes; where none is alike, none."""
    near = find_neighbours(WINDOW)
    twins = tokens[:, :1].expand_as(tokens)
    same = entry_probability(resemble(twins), *near).sum(dim=-1)
    torch.testing.assert_close(same, torch.full_like(same, 1 / math.prod(WINDOW)))
    strangers = 30 * torch.eye(math.prod(WINDOW), dtype=torch.float64)[None]
    assert entry_probability(resemble(strangers), *near).max() < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("strength", [1.0, 8.0])
def test_as_much_is_dropped_as_the_probabilities_say(variant: Any, strength: float) -> None:
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(400, math.prod(WINDOW), 6, generator=generator)
    near = find_neighbours(WINDOW)
    drop = RedundancyDropout(Redundancy(variant=variant, strength=strength), seed=2)
    out = drop(h, WINDOW)
    found = drop.measured()
    if variant == "upstream":
        chance = (drop_probability(h, *near) * strength).clamp(max=1)
        n = h.shape[0] * h.shape[1]
        gone = out.abs().amax(dim=-1) == 0
        assert found.share == pytest.approx(gone.float().mean().item())
        assert torch.equal(out[~gone], h[~gone])
        assert found.moved == found.share
    else:
        chance = (entry_probability(resemble(h), *near) * strength).clamp(max=1)
        n = int((near[0] | near[1]).sum()) * len(h)
        changed = (out != h).any(dim=-1)
        assert found.moved == pytest.approx(changed.float().mean().item(), abs=1e-3)
    assert found.n == n
    expected = chance.double().sum().item() / n
    assert found.expected == pytest.approx(expected, rel=1e-5)
    error = (chance * (1 - chance)).double().sum().sqrt().item() / n
    assert expected > 20 * error  # else the next line says nothing
    assert abs(found.share - expected) < 4 * error


def test_an_entry_takes_what_it_mixes_in_and_nothing_else(tokens: Tensor) -> None:
    near = find_neighbours(WINDOW)
    drop = RedundancyDropout(Redundancy(strength=20.0))
    h = tokens[:1].float().requires_grad_()
    out = drop(h, WINDOW)
    n = math.prod(WINDOW)
    slopes = torch.stack(
        [torch.autograd.grad(out[0, i, 0], h, retain_graph=True)[0][0, :, 0] for i in range(n)]
    )  # (N, N): of one channel, as of all
    torch.testing.assert_close(slopes @ h.detach()[0], out.detach()[0])
    lost = -(slopes - torch.eye(n))
    dropped = lost != 0
    assert 20 < dropped.sum() < (near[0] | near[1]).sum()
    assert not dropped[~(near[0] | near[1])].any()
    torch.testing.assert_close(lost[dropped], resemble(h.detach())[0][dropped])


def test_a_token_that_became_zero_gets_no_gradient(tokens: Tensor) -> None:
    drop = RedundancyDropout(Redundancy(variant="upstream", strength=20.0))
    h = tokens.float().requires_grad_()
    out = drop(h, WINDOW)
    out.sum().backward()
    gone = out.detach().abs().amax(dim=-1) == 0
    assert 0.05 < gone.float().mean() < 0.95
    assert h.grad is not None
    assert torch.equal(h.grad, (~gone[..., None]).float().expand_as(h))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_is_taken_up_again_drops_what_it_would_have_dropped(
    variant: Any, tokens: Tensor
) -> None:
    def draw(*, step: int, seed: int = 0, rank: int = 0) -> list[Tensor]:
        drop = RedundancyDropout(Redundancy(variant=variant, strength=5.0), seed=seed)
        drop.begin(step, rank=rank)
        return [drop(tokens, WINDOW) for _ in range(2)]

    first, then = draw(step=3)
    assert torch.equal(draw(step=3)[0], first)
    assert torch.equal(draw(step=3)[1], then)
    others = [then, draw(step=4)[0], draw(step=3, seed=1)[0], draw(step=3, rank=1)[0]]
    assert not any(torch.equal(first, other) for other in others)


def test_a_step_that_begins_forgets_the_counts(tokens: Tensor) -> None:
    drop = RedundancyDropout(Redundancy())
    assert drop.measured().n == 0
    assert math.isnan(drop.measured().share)
    drop(tokens, WINDOW)
    once = drop.measured().n
    drop(tokens, WINDOW)
    assert drop.measured().n == 2 * once > 0
    drop.begin(1)
    assert drop.measured().n == 0


def test_mixed_precision_keeps_its_type(tokens: Tensor) -> None:
    for variant in VARIANTS:
        drop = RedundancyDropout(Redundancy(variant=variant, strength=5.0))
        assert drop(tokens.bfloat16(), WINDOW).dtype == torch.bfloat16


@pytest.fixture
def mae(small: dict[str, Any], filled: Any) -> NeuroStormMae:
    """Make an autoencoder whose last windows are smaller than configured: 1 x 2 x 3 x 3."""
    change = {"window_size": [2, 2, 4, 3], "last_layer_full_MSA": False}
    network = NeuroStormMae(Config.of(small | change))
    network.load_state_dict(filled(network.state_dict()))
    return network


def image(mae: NeuroStormMae) -> Tensor:
    return torch.randn(2, 2, *mae.config.img_size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_acts_in_training_and_never_in_evaluation(mae: NeuroStormMae, variant: Any) -> None:
    x = image(mae)
    mask = mae.draw_mask(x, generator=torch.Generator().manual_seed(1))
    state = list(mae.state_dict())
    with torch.no_grad():
        plain = mae.eval().reconstruct(x, mask)
        mae.drop_redundancy(Redundancy(variant=variant), seed=4)
        assert torch.equal(mae.reconstruct(x, mask).pred, plain.pred)
        assert mae.redundancy is not None
        assert mae.redundancy.measured().n == 0
        mae.train()
        dropped = mae.reconstruct(x, mask)
        mae.redundancy.begin(0)
        again = mae.reconstruct(x, mask)
        found = mae.redundancy.measured()
        mae.drop_redundancy(None)
        off = mae.reconstruct(x, mask)
    assert list(mae.state_dict()) == state
    assert not torch.equal(dropped.pred, plain.pred)
    assert torch.equal(again.pred, dropped.pred)
    torch.testing.assert_close(off.pred, plain.pred)
    assert 0 < found.share < 1
    assert torch.isfinite(dropped.pred).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_encoder_is_trained_through_it(mae: NeuroStormMae, variant: Any) -> None:
    mae.drop_redundancy(Redundancy(variant=variant, strength=3.0), seed=4)
    x = image(mae)
    loss = mae.train().masked_error(x, generator=torch.Generator().manual_seed(1)).mean()
    loss.backward()
    unused = {"mask_token", "atlas_mask_token"}
    for name, parameter in mae.named_parameters():
        assert (parameter.grad is None) == (name in unused), name
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    blocks = [b for stage in mae.layers for b in stage.get_submodule("blocks").children()]
    assert all(b.redundancy is mae.redundancy for b in blocks)
    assert copy.deepcopy(mae).redundancy is not mae.redundancy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "ours"}, "there is no redundancy dropout 'ours'"),
        ({"space": 4}, "span 4 tokens in space and 5 in time"),
        ({"time": 0}, "span 5 tokens in space and 0 in time"),
        ({"strength": 0.0}, "the strength of redundancy dropout is 0.0"),
        ({"strength": math.nan}, "the strength of redundancy dropout is nan"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Redundancy(**change)
