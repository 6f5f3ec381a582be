"""The optimiser of the demo weights."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import torch
from torch import nn

from neurostorm_app.pipelines.train.rates import warm_up_cosine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["fit"]

logger = logging.getLogger(__name__)

MAX_GRADIENT, TELL_EVERY = 1.0, 20


def fit(
    groups: Sequence[tuple[Sequence[nn.Parameter], float]],
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    weight_decay: float,
) -> None:
    """Train.

    Parameters
    ----------
    groups : sequence of (parameters, float)
        What is trained, and the peak of its learning rate.
    loss_of : callable
        Computes the loss of step i, from 0.
    steps : int
        How many.
    weight_decay : float
        Of all parameters.
    """
    optimiser = torch.optim.AdamW(
        [{"params": list(parameters), "lr": rate} for parameters, rate in groups],
        weight_decay=weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: warm_up_cosine(i, steps))
    every = [parameter for parameters, _ in groups for parameter in parameters]
    started, smooth = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        loss = loss_of(step - 1)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(every, MAX_GRADIENT)
        optimiser.step()
        schedule.step()
        smooth += (loss.item() - smooth) / min(step, TELL_EVERY)
        if step % TELL_EVERY == 0 or step == steps:
            seconds = time.monotonic() - started
            logger.info("step %d of %d: loss %.4f, %.0f s", step, steps, smooth, seconds)
