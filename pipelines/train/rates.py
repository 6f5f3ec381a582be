"""Learning rates: of one step after another, and of the depths of a network.

References
----------
Clark et al., "ELECTRA", ICLR 2020 (rates that fall with depth); SLIM-Brain's public optimiser,
OneMore1/SLIM-Brain2026 at 1dc91eb, whose groups and rates are met here.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from neurostorm_app.pipelines.train.settings import Plan

__all__ = ["group_parameters", "share_of_depths", "share_of_step", "warm_up_cosine"]

WARM_UP: Final = 0.05
_BLOCK: Final = re.compile(r"(?:^|\.)(?:blocks|layers?)\.(\d+)(?=\.)")


def warm_up_cosine(i: int, steps: int) -> float:
    """Give the learning rate of step i, from 0, as a share of its peak: the usual schedule.

    Examples
    --------
    >>> [round(warm_up_cosine(i, 40), 3) for i in (0, 1, 20, 39)]
    [0.5, 0.998, 0.5, 0.002]
    """
    warm = max(1, round(WARM_UP * steps))
    return min((i + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * i / steps))


def share_of_step(i: int, steps: int, *, warm_up: float | None, least: float) -> float:
    """Give the learning rate of a step as a share of its peak.

    Parameters
    ----------
    i, steps : int
        Which, from 0, and of how many.
    warm_up : float or None
        Share of the steps in which the rate rises from 0; the cosine begins after them. None
        takes `warm_up_cosine`.
    least : float
        Below which it does not fall once it has risen.

    Returns
    -------
    float
        In 0 to 1.

    Examples
    --------
    >>> [share_of_step(i, 50, warm_up=0.2, least=0.01) for i in (0, 5, 10, 30, 49)]
    [0.0, 0.5, 1.0, 0.5, 0.01]
    """
    if warm_up is None:
        return max(least, warm_up_cosine(i, steps))
    warm = round(warm_up * steps)
    if i < warm:
        return i / warm
    return max(least, 0.5 + 0.5 * math.cos(math.pi * (i - warm) / max(1, steps - warm)))


def share_of_depths(names: Iterable[str], decay: float) -> dict[str, float]:
    """Say, of each parameter, which share of the learning rate it has by its depth.

    Parameters
    ----------
    names : iterable of str
        Parameters of a network in the order of its parts, without a new head.
    decay : float
        From one block to the one before it.

    Returns
    -------
    dict of str to float
        The last block has `decay`; what lies in no block, first layer, positions and last norm,
        has the least.

    Examples
    --------
    >>> share_of_depths(["patch.weight", "blocks.0.weight", "blocks.1.weight"], 0.5)
    {'patch.weight': 0.125, 'blocks.0.weight': 0.25, 'blocks.1.weight': 0.5}
    """
    blocks = {name: tuple(_BLOCK.findall(name)) for name in names}
    depths = {
        block: depth for depth, block in enumerate(dict.fromkeys(filter(None, blocks.values())))
    }
    n = len(depths)
    return {name: decay ** (n - depths.get(block, -1)) for name, block in blocks.items()}


def group_parameters(
    parameters: Iterable[tuple[str, nn.Parameter]], plan: Plan, *, head: str = ""
) -> list[dict[str, Any]]:
    """Group the parameters that learn by their peak of the learning rate.

    Parameters
    ----------
    parameters : iterable of (str, Parameter)
        All of a task.
    plan : Plan
        Rate, rate of the head, and how it falls with depth.
    head : str
        How the names of a new head begin; empty if there is none.

    Returns
    -------
    list of dict
        ``params``, ``lr`` and ``peak``, as an optimiser of torch takes them; one group where all
        have one rate.
    """
    named = list(parameters)
    old = [name for name, _ in named if not (head and name.startswith(head))]
    shares = share_of_depths(old, plan.layer_decay)
    new = plan.rate if plan.head_rate is None else plan.head_rate
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            peak = plan.rate * shares[name] if name in shares else new
            groups.setdefault(peak, []).append(parameter)
    return [{"params": params, "lr": peak, "peak": peak} for peak, params in groups.items()]
