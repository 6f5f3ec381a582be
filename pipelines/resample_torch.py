"""The maths of the resampler in torch, for batches of volumes on a GPU."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from neurostorm_app.pipelines.kernels.spline import POLE
from neurostorm_app.pipelines.kernels.taps import taps_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from neurostorm_app.pipelines.kernels.taps import Method

__all__ = ["TorchSampler"]

PART = 2**18
"""Points at a time: with eight volumes their places and sums take about 200 MB."""


class TorchSampler:
    """Interpolates volumes at points that move with the head.

    Parameters
    ----------
    points : ndarray, shape (3, N), float64
        In mm, RAS+.
    method : {'cubic', 'lanczos', 'linear', 'nearest'}
        Of interpolation.
    device : str
        Of torch.
    axis : int
        Which voxel coordinate the shift is added to.
    shift, scale : ndarray of float32, shape (N,), or None
        Voxels, and factor of the values.
    """

    def __init__(
        self,
        points: NDArray[np.float64],
        *,
        method: Method,
        device: str,
        axis: int = 0,
        shift: NDArray[np.float32] | None = None,
        scale: NDArray[np.float32] | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._taps, self._axis = taps_of(method), axis
        self._table = torch.tensor(np.array(self._taps.polynomial), device=self._device)
        self._spline = method == "cubic"
        self._points = torch.as_tensor(points, device=self._device)
        self._shift, self._scale = (
            None if x is None else torch.as_tensor(x, device=self._device) for x in (shift, scale)
        )

    @torch.inference_mode()
    def __call__(
        self, volumes: NDArray[np.float32], matrices: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Interpolate volumes.

        Parameters
        ----------
        volumes : ndarray, shape (B, X, Y, Z), float32
            A batch.
        matrices : ndarray, shape (B, 3, 4), float64
            Points (mm) to voxels, one for each.

        Returns
        -------
        ndarray, shape (B, N), float32
            Zero a voxel and more outside.
        """
        shape = volumes.shape[1:]
        padded = self._pad(torch.as_tensor(volumes, device=self._device)).flatten(1)
        maps = torch.as_tensor(matrices, device=self._device)
        values = np.empty((len(volumes), self._points.shape[1]), dtype=np.float32)
        for first in range(0, values.shape[1], PART):
            part = slice(first, first + PART)
            values[:, part] = self._values(padded, shape, maps, part).cpu().numpy()
        return values

    def _pad(self, volumes: Tensor) -> Tensor:
        """Put a margin around volumes, of zeros or of coefficients."""
        if not self._spline:
            return torch.nn.functional.pad(volumes, [self._taps.pad] * 6)
        found = volumes.double()  # so that no device rounds the products to fewer bits
        for axis in (1, 2, 3):
            filters = torch.as_tensor(_filters(found.shape[axis]), device=self._device)
            found = (found.movedim(axis, -1) @ filters.T).movedim(-1, axis)
        return found.float()

    def _values(self, padded: Tensor, shape: tuple[int, ...], maps: Tensor, part: slice) -> Tensor:
        where = maps[:, :, :3] @ self._points[:, part] + maps[:, :, 3:]
        if self._shift is not None:
            where[:, self._axis] += self._shift[part]
        size = torch.tensor(shape, device=self._device)
        inside = ((where > -1) & (where < size[:, None])).all(dim=1)
        where += self._taps.lift
        lowest = where.floor()
        weights = self._weights((where - lowest - 0.5).float())
        _, Y, Z = (size + 2 * self._taps.pad).tolist()
        i, j, k = lowest.long().unbind(1)
        start = torch.where(inside, (i * Y + j) * Z + k, 0)
        total = torch.zeros_like(weights[0][:, 0])
        for a, wx in enumerate(weights):
            plane = torch.zeros_like(total)
            for b, wy in enumerate(weights):
                line = torch.zeros_like(total)
                for c, wz in enumerate(weights):
                    line += padded.gather(1, start + ((a * Y + b) * Z + c)) * wz[:, 2]
                plane += line * wy[:, 1]
            total += plane * wx[:, 0]
        if self._scale is not None:
            total *= self._scale[part]
        return torch.where(inside, total, 0)

    def _weights(self, t: Tensor) -> list[Tensor]:
        """Evaluate the polynomials: for each voxel, its weights (B, 3, n) along the axes."""
        found = []
        for tap in range(self._table.shape[1]):
            weight = self._table[-1, tap].expand_as(t)
            for row in self._table[:-1, tap].flip(0):
                weight = weight * t + row
            found.append(weight)
        return found


@cache
def _filters(n: int) -> NDArray[np.float64]:
    """Give the weights of n samples in each of n + 4 coefficients of the cubic spline.

    For a signal without end they are 6 z / (z^2 - 1) z^|k|, k samples away.

    References
    ----------
    Unser, Aldroubi and Eden 1993, IEEE Trans. Signal Processing 41:821, equation 2.11.
    """
    away = np.abs(np.arange(n + 4)[:, None] - 2 - np.arange(n))
    return np.asarray(6.0 * POLE / (POLE**2 - 1.0) * POLE**away)
