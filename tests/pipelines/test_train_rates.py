"""Learning rates by step and by depth: SLIM-Brain's public optimiser, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neurostorm_app.errors import UsageError
from neurostorm_app.models import create_model
from neurostorm_app.models.adapters import prepare_tuning
from neurostorm_app.pipelines.train.rates import (
    group_parameters,
    share_of_depths,
    share_of_step,
    warm_up_cosine,
)
from neurostorm_app.pipelines.train.settings import Plan

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden" / "slim_brain"


@pytest.fixture(scope="module")
def golden():
    if not (GOLDEN / "optim.json").exists():
        pytest.skip("needs ../shared/golden/slim_brain")
    return json.loads((GOLDEN / "optim.json").read_text()), np.load(GOLDEN / "optim.npz")["lr"]


def test_the_groups_are_slim_brains(golden) -> None:
    said, _ = golden
    asked = said["config_training"]
    wanted = {name: group["lr"] for group in said["groups"] for name in group["params"]}
    # Upstream forgets the positions; here they learn as slowly as the first layer.
    names = [*said["never_optimised"], *wanted]
    parameters = [(name, nn.Parameter(torch.zeros(1))) for name in names]
    plan = Plan(
        rate=asked["learning_rate"],
        head_rate=asked["head_lr"],
        layer_decay=asked["layer_decay"],
        weight_decay=asked["weight_decay"],
    )
    groups = group_parameters(parameters, plan, head="head.")
    place = {id(parameter): name for name, parameter in parameters}
    found = {place[id(p)]: group["lr"] for group in groups for p in group["params"]}
    wanted |= dict.fromkeys(said["never_optimised"], wanted["patch_embed.proj.weight"])
    assert found.keys() == wanted.keys()
    for name, rate in wanted.items():
        assert found[name] == pytest.approx(rate, abs=1e-12), name
    assert len(groups) == len(said["groups"])


def test_the_schedule_is_slim_brains_and_past_its_end_too(golden) -> None:
    said, rates = golden
    epochs, each = said["schedule"]["epochs"], said["schedule"]["steps_per_epoch"]
    asked = said["config_training"]
    shares = [
        share_of_step(
            i,
            epochs * each,
            warm_up=said["schedule"]["warmup_epochs"] / epochs,
            least=asked["min_lr"] / asked["learning_rate"],
        )
        for i in range(len(rates))
    ]
    peaks = [group["lr"] for group in said["groups"]]
    np.testing.assert_allclose(np.outer(shares, peaks), rates, atol=1e-12, rtol=0)


def test_what_is_not_asked_is_as_it_was() -> None:
    shares = [share_of_step(i, 40, warm_up=None, least=0.0) for i in range(40)]
    assert shares == [warm_up_cosine(i, 40) for i in range(40)]
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    (group,) = group_parameters(model.named_parameters(), Plan(rate=0.1))
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert group["lr"] == group["peak"] == 0.1
    assert Plan().identity().keys() & {"head_rate", "layer_decay", "warm_up", "least_rate"} == set()
    assert Plan(layer_decay=0.5).identity()["layer_decay"] == 0.5


@pytest.mark.parametrize(("name", "n_blocks"), [("neurostorm-demo", 5), ("brainlm-demo", 2)])
def test_rates_of_networks_never_fall_from_one_block_to_the_next(name, n_blocks) -> None:
    network = prepare_tuning(create_model(name), "full", n_outputs=1, seed=0).network
    shares = share_of_depths([n for n, p in network.named_parameters() if p.requires_grad], 0.5)
    levels = sorted(set(shares.values()))
    assert levels == [0.5**n for n in range(len(levels), 0, -1)]
    assert len(levels) >= n_blocks - 1
    blocks = [share for name, share in shares.items() if share > levels[0]]
    assert blocks == sorted(blocks)
    first = next(iter(shares))
    assert shares[first] == levels[0]


def test_a_head_keeps_its_rate_when_a_training_is_taken_up_again() -> None:
    head = nn.Parameter(torch.zeros(2))
    plan = Plan(rate=0.1, head_rate=0.3)
    groups = group_parameters(
        [("a", nn.Parameter(torch.zeros(2))), ("head.b", head)], plan, head="h"
    )
    adam = torch.optim.AdamW(groups, lr=plan.rate)
    assert [group["lr"] for group in adam.param_groups] == [0.1, 0.3]
    again = torch.optim.AdamW(groups, lr=plan.rate)
    again.load_state_dict(adam.state_dict())
    assert [group["peak"] for group in again.param_groups] == [0.1, 0.3]


@pytest.mark.parametrize(
    "given",
    [{"head_rate": 0.0}, {"layer_decay": 0.0}, {"layer_decay": 1.1}, {"warm_up": 1.0},
     {"warm_up": -0.1}, {"least_rate": 1.0}],
)  # fmt: skip
def test_shares_that_are_none_are_refused(given) -> None:
    (name,) = given
    with pytest.raises(UsageError, match=f"cannot run with {name}"):
        Plan(**given)
