"""How the motion estimator looks at a batch of volumes with torch, on any device.

The same sums as in :mod:`~neurostorm_app.pipelines.preprocess.head.motion_cpu`, in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neurostorm_app.pipelines.kernels.taps import taps_of
from neurostorm_app.pipelines.preprocess.head.motion_levels import CUT, FLOOR, N_MOTION, PAD, SCALE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from neurostorm_app.pipelines.preprocess.head.motion_levels import Template

__all__ = ["TorchSight"]


class TorchSight:
    """Looks at all volumes of a batch at a time.

    Parameters
    ----------
    templates : sequence of Template
        The levels.
    device : str
        ``cuda``, ``cuda:1``, ``cpu``.
    """

    def __init__(self, templates: Sequence[Template], device: str) -> None:
        self._device = torch.device(device)
        self._plans = [_Plan(template, self._device) for template in templates]

    def open(self, volumes: Sequence[NDArray[np.float32]], level: int) -> Tensor:
        """Filter volumes for a level: (B, A, B, C)."""
        stack = np.stack([np.ascontiguousarray(volume, dtype=np.float32) for volume in volumes])
        x, y, z = self._plans[level].filters
        batch = torch.from_numpy(stack).to(self._device) @ z.T
        batch = y @ batch
        return torch.einsum("ax,bxyz->bayz", x, batch).contiguous()

    def normal(
        self,
        opened: Tensor,
        level: int,
        which: NDArray[np.intp],
        matrices: NDArray[np.float64],
        nuisance: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Sum the weighted normal equations of some volumes of a batch; see ``LoopSight``."""
        plan = self._plans[level]
        chosen = opened[torch.as_tensor(which, device=self._device)]
        moves = torch.as_tensor(plan.to_places @ matrices, device=self._device)[:, :3]
        where = moves[:, :, :3] @ plan.points + moves[:, :, 3:]
        inside = ((where > plan.low) & (where < plan.high)).all(dim=1)
        seen = _interpolate(chosen, where)
        weights = inside.to(torch.float32)
        scale = torch.full((len(which),), torch.inf, dtype=torch.float64)
        if nuisance is not None:
            given = torch.as_tensor(nuisance, dtype=torch.float32, device=self._device)
            residuals = seen - given @ plan.columns[N_MOTION:]
            weights, scale = _weigh(residuals, inside, seen)
        # Sums over points in float64: where one rounds, a GPU would round another way.
        weighted = (plan.columns[None] * weights[:, None]).double()
        normal = weighted @ plan.columns.double().T
        right = weighted @ seen.double()[:, :, None]
        return normal.cpu().numpy(), right[..., 0].cpu().numpy(), scale.cpu().numpy()


class _Plan:
    """The arrays of one level, on the device; columns are (K, N) here."""

    def __init__(self, template: Template, device: torch.device) -> None:
        def here(array: NDArray[Any]) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), device=device)

        self.filters = tuple(here(matrix) for matrix in template.filters)
        self.to_places, self.points = template.to_places, here(template.points)
        self.columns = here(template.columns.T)
        self.low, self.high = here(template.low[:, None]), here(template.high[:, None])


def _interpolate(coefficients: Tensor, where: Tensor) -> Tensor:
    """Evaluate cubic splines (B, A, B, C) at places (B, 3, N) between the edges: (B, N)."""
    size = torch.tensor(coefficients.shape[1:], device=where.device)[:, None]
    place = where + (PAD - 1)
    low = torch.minimum(place.floor().long().clamp_min(0), size - 4)
    t = (place - low - 0.5).to(torch.float32)
    table = torch.tensor(taps_of("cubic").polynomial, device=where.device, dtype=torch.float32)
    powers = torch.stack([t**d for d in range(len(table))], dim=-1)
    x, y, z = (powers @ table).unbind(dim=1)  # (B, N, 4) each
    row = int(size[2])
    step = row * int(size[1])
    start = low[:, 0] * step + low[:, 1] * row + low[:, 2]
    flat = coefficients.reshape(len(coefficients), -1)
    line = torch.arange(4, device=where.device)
    total = torch.zeros_like(t[:, 0])
    for i in range(4):
        for j in range(4):
            at = (start + (i * step + j * row))[..., None] + line
            taken = flat.gather(1, at.flatten(1)).view(at.shape)
            total += x[..., i] * y[..., j] * (taken * z).sum(dim=-1)
    return total


def _weigh(residuals: Tensor, inside: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Weigh points (B, N) by their residuals, Tukey's way; give the scale (B,) of these."""
    far = torch.where(inside, residuals.abs(), torch.inf).sort(dim=1).values
    middle = (inside.sum(dim=1, keepdim=True) - 1).clamp_min(0) // 2
    typical = far.gather(1, middle)
    least = FLOOR * seen.abs().amax(dim=1, keepdim=True)
    scale = torch.maximum(SCALE * typical, least)
    rest = (1.0 - (residuals / (CUT * scale)) ** 2).clamp_min(0.0)
    return torch.where(inside, rest * rest, 0.0), scale[:, 0].double()
