"""Learning in latent space: what is seen and asked, what follows what, and that nothing leaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neurostorm_app.errors import ContractError
from neurostorm_app.models.slim_brain import SlimBrain
from neurostorm_app.models.slim_brain_files import SlimConfig
from neurostorm_app.models.slim_brain_jepa import KINDS, SlimBrainJepa

CONFIG: dict[str, Any] = {
    "img_size": [8, 16, 16, 12],
    "embed_dim": 8,
    "num_heads": 1,
    "stages": [1, 1, 1],
    "patch_kernel": [1, 2, 2, 2],
    "q_pool": 1,
    "q_stride": [2, 2, 2, 2],
    "mask_unit_size": [4, 4, 4, 4],
    "mlp_ratio": 2.0,
    "guess_width": 16,
}
"""3 times x 4 places of mask units."""
TIMES, PLACES = 3, 4


def made(seed: int = 4) -> SlimBrainJepa:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SlimBrainJepa(SlimBrain(SlimConfig.of(CONFIG)), seed=seed)


def windows(n: int = 2) -> torch.Tensor:
    x = torch.randn(n, 1, *CONFIG["img_size"], generator=torch.Generator().manual_seed(1))
    return x.where(x.abs() > 0.01, 0.5)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(4))
def test_three_kinds_of_units_are_asked_for_and_none_is_seen(seed) -> None:
    seen, asked = made().draw_places(windows(), generator=drawing(seed))
    times, places = set((seen // PLACES).tolist()), set((seen % PLACES).tolist())
    assert (len(times), len(places), len(seen)) == (2, 2, 4)
    for kind, differs in zip(KINDS, [(True, False), (False, True), (True, True)], strict=True):
        for number in asked[kind].tolist():
            assert (number // PLACES not in times, number % PLACES not in places) == differs
    everything = [*seen.tolist(), *(n for kind in KINDS for n in asked[kind].tolist())]
    assert sorted(everything) == list(range(TIMES * PLACES))


def test_places_without_brain_are_neither_seen_nor_asked() -> None:
    x = windows()
    x[1, :, :, 8:, 8:] = 0  # the last of four places
    seen, asked = made().draw_places(x, generator=drawing())
    everything = torch.cat([seen, *asked.values()])
    assert len(everything) == 9
    assert 3 not in (everything % PLACES).tolist()
    x[:, :, :, 8:] = 0
    x[:, :, :, :8, 8:] = 0
    with pytest.raises(ContractError, match="two of each are needed, to see one and predict"):
        made().error(x, generator=drawing())


def test_the_prediction_sees_nothing_of_what_it_predicts() -> None:
    model, x = made(), windows(1)
    seen, asked = model.draw_places(x, generator=drawing())
    hidden = asked["both"][:1]
    t, place = divmod(int(hidden), PLACES)
    changed = x.clone()
    part = (..., slice(8 * (place // 2), 8 * (place // 2) + 8),
            slice(8 * (place % 2), 8 * (place % 2) + 8), slice(4 * t, 4 * t + 4))  # fmt: skip
    changed[part] += 3
    with torch.no_grad():
        before, after = (
            model._predict(model.encoder.encode(y, seen[None]), seen, hidden) for y in (x, changed)
        )
        truths = [model._look(y, hidden) for y in (x, changed)]
    assert torch.equal(before, after)
    assert not torch.allclose(*truths, atol=1e-3)


def test_only_the_first_encoder_and_the_predictor_learn() -> None:
    model = made().train()
    model.error(windows(), generator=drawing()).mean().backward()
    learning = {name for name, _ in model.named_parameters()}
    assert not [name for name in learning if name.startswith("target.")]
    without = {name for name, value in model.named_parameters() if value.grad is None}
    assert not without
    held = {name for name in model.state_dict() if name.startswith("target.")}
    assert len(held) == len(model.encoder.state_dict())  # a checkpoint has them


def test_the_second_encoder_follows_once_a_step_and_ever_more_slowly() -> None:
    model = made()
    name = "blocks.0.mlp.fc1.weight"
    ours = model.encoder.state_dict()[name]
    with torch.no_grad():
        ours += 1

    def gap() -> float:
        return float((ours - model.target.state_dict()[name]).mean())

    assert gap() == pytest.approx(1, abs=1e-5)
    model.follow(0, 10)
    assert gap() == pytest.approx(0.99, abs=1e-5)
    model.follow(0, 10)  # a second piece of the same step
    assert gap() == pytest.approx(0.99, abs=1e-5)
    model.follow(5, 10)
    assert gap() == pytest.approx(0.99 * 0.995, abs=1e-5)
    model.follow(10, 10)
    assert gap() == pytest.approx(0.99 * 0.995, abs=1e-5)


def test_a_collapsed_encoder_has_no_spread() -> None:
    model, x = made(), windows()
    assert model.spread(x) > 0.1
    with torch.no_grad():
        for name, value in model.target.state_dict().items():
            if name.startswith(("patch_embed", "pos_embed")):
                value.zero_()
    assert model.spread(x) < 1e-3


def test_half_precision_predicts_too() -> None:
    model, x = made(), windows()
    with torch.no_grad():
        whole = model.error(x, generator=drawing())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model.error(x, generator=drawing())
    torch.testing.assert_close(half.float(), whole, atol=0, rtol=0.05)
