r"""Perturbation of a model's input: what must change for its class token to become another.

A perturbation :math:`\delta` is added to the series of a window and found by gradient descent on

.. math:: \frac{\lVert f(x + \delta) - t \rVert^2}{\lVert f(x) - t \rVert^2}
          + \lambda \, \overline{\delta^2},

where f gives the class token, and t is that of another window or the mean of several. Its size in
each parcel is reported, beside what a random perturbation of the same size does. Steps follow the
gradient itself: optimisers that scale each value's step for itself, such as Adam, move inputs that
hardly matter as far as those that do.

**Limits.** This asks a network about itself. It says which inputs the network's answer hangs on,
within reach of gradients, from one window to one target; not what happens in a brain, not what a
stimulation would do, and not where in the brain two states differ. Among the many perturbations
that reach a target the one that is found depends on the scale of parcels, on the penalty and on
the path; parcels that go together can stand for each other; and a perturbed window need not look
like any recording. A network with random weights gives a map too: show it beside the map, as well
as another window and another target.

References
----------
Ortega Caro et al., bioRxiv 2023.09.12.557460: rest is perturbed towards a task.
Szegedy et al., "Intriguing properties of neural networks", arXiv 1312.6199: small changes of the
input that mean nothing can move the output far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["LIMITS", "Embeds", "HowPerturbed", "Perturbation", "find_perturbation"]

LIMITS = (
    "A property of the network, not of a brain: it shows on which inputs the class token hangs for "
    "one window and one target. It is no effect of stimulation, no cause, and no map of where two "
    "states differ. Compare it with random weights, other windows and other targets."
)
"""What goes with every result."""
N_NOISE = 10
"""Draws of noise that a perturbation is compared with."""


class Embeds(Protocol):
    """A network with a class token of windows."""

    def embed(self, signal: Tensor, xyz: Tensor) -> Tensor:
        """Map (1, V, T) and (1, V, 3) to (1, H), with gradients."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HowPerturbed:
    """How a perturbation is looked for.

    Parameters
    ----------
    n_steps : int
        At most; each is one gradient, and one more look at where it leads.
    rate : float
        Root mean square of the first step over all values, in the unit of the series; a step
        that leads up is not taken, and the next is half as long; else it is a fifth longer.
    penalty : float
        On the mean square of the perturbation; without it parcels that do not matter stay where
        they are, and those that do go further than they need.
    seed : int
        Of the random perturbation that it is compared with.
    """

    n_steps: int = 100
    rate: float = 0.05
    penalty: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """What was added to a window, and what it did.

    Parameters
    ----------
    change : ndarray, shape (V, T)
        Added to the series, in their unit.
    size : ndarray, shape (V,)
        Root mean square of each parcel's change.
    reached : float
        Share of the squared distance to the target that is gone: 1 is all, 0 none.
    random : float
        The same share, the mean of ten draws, for noise of the same size in each parcel.
    """

    change: NDArray[np.float64]
    size: NDArray[np.float64]
    reached: float
    random: float

    def as_dict(self) -> dict[str, Any]:
        """Say the numbers for a JSON file, with their limits."""
        return {
            "ShareReached": round(self.reached, 6),
            "ShareReachedByNoiseOfSameSize": round(self.random, 6),
            "Limits": LIMITS,
        }


def find_perturbation(
    model: Embeds,
    series: NDArray[np.float32],
    xyz: NDArray[np.float32],
    *,
    target: NDArray[np.float32],
    how: HowPerturbed | None = None,
) -> Perturbation:
    """Find a small change of a window that moves its class token towards a target.

    Parameters
    ----------
    model : Embeds
        In evaluation mode.
    series : ndarray, shape (V, T)
        The window, scaled as the card says. Parcels without a value of their own, rows of 0,
        are left as they are: a missing parcel cannot be perturbed.
    xyz : ndarray, shape (V, 3)
        Places of the parcels, MNI mm.
    target : ndarray, shape (H,)
        A class token of the same network.
    how : HowPerturbed, optional
        By default 100 steps.

    Returns
    -------
    Perturbation
        The same for the same input.

    Raises
    ------
    DataError
        If the target has another length, or is where the window already is.
    """
    import torch

    how = how or HowPerturbed()
    signal, places = torch.from_numpy(series.copy())[None], torch.from_numpy(xyz.copy())[None]
    goal, start = _measure_start(model, signal, places, target)
    best = _descend(model, signal, places, goal, how=how, start=start)
    size = best.square().mean(dim=2, keepdim=True).sqrt()
    draws = torch.Generator().manual_seed(how.seed)
    noise = [torch.randn(best.shape, generator=draws) * size for _ in range(N_NOISE)]
    with torch.no_grad():
        left = [float(_distance(model, signal + c, places, goal) / start) for c in (best, *noise)]
    return Perturbation(
        change=best[0].numpy().astype(np.float64),
        size=size[0, :, 0].numpy().astype(np.float64),
        reached=1 - left[0],
        random=1 - float(np.mean(left[1:])),
    )


def _descend(
    model: Embeds, signal: Tensor, places: Tensor, goal: Tensor, *, how: HowPerturbed, start: Tensor
) -> Tensor:
    """Follow the gradient downwards from no change at all: (1, V, T)."""
    import torch

    present = (signal != 0).any(dim=2, keepdim=True)

    def lose(change: Tensor) -> Tensor:
        moved = _distance(model, signal + change, places, goal) / start
        return moved + how.penalty * change.square().mean()

    best, rate = torch.zeros_like(signal), how.rate
    for _ in range(how.n_steps):
        best.requires_grad_()
        here = lose(best)
        (slope,) = torch.autograd.grad(here, best)
        best, slope = best.detach(), slope * present
        length = slope.square().mean().sqrt()
        if not float(length) > 0:
            break
        there = best - rate * slope / length
        with torch.no_grad():
            down = float(lose(there)) < float(here)
        best, rate = (there, rate * 1.2) if down else (best, rate / 2)
    return best


def _measure_start(
    model: Embeds, signal: Tensor, places: Tensor, target: NDArray[np.float32]
) -> tuple[Tensor, Tensor]:
    """Give the target as a tensor, (1, H), and the window's squared distance from it."""
    import torch

    goal = torch.from_numpy(target.copy())[None]
    with torch.no_grad():
        token = model.embed(signal, places)
        if token.shape != goal.shape:
            raise DataError(
                f"the target is a vector of {goal.shape[1:].numel()} numbers; class tokens of this "
                f"network have {token.shape[1]}",
                fix="take a class token of the same network as the target",
            )
        start = (token - goal).square().sum()
    if not float(start) > 0:
        raise DataError(
            "the class token of the window is the target already, or is not a finite number",
            fix="take the class token of another window as the target",
        )
    return goal, start


def _distance(model: Embeds, signal: Tensor, places: Tensor, goal: Tensor) -> Tensor:
    return (model.embed(signal, places) - goal).square().sum()
