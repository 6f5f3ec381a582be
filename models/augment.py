"""Augmented windows for contrastive learning: the same brain, turned, scaled, blurred and noisy.

All volumes of a window are moved and blurred alike; noise is drawn for each voxel. Affine bounds
are those of the published recipe. How strong noise and blur are, and how often they come, is our
choice.

References
----------
Kim et al., "SwiFT", arXiv 2307.05916 (the recipe NeuroSTORM took over).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as fn

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Augmentation", "augment_windows", "mix_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far windows are changed; each amount is drawn evenly up to its bound.

    Parameters
    ----------
    rotation : float
        Bound of the turn about each axis, degrees.
    scale : float
        Bound of the change of size along each axis, as a share.
    noise : float
        Standard deviation of the noise, in the unit of the window.
    noise_chance : float
        How often there is noise.
    blur : float
        Bound of the standard deviation of a Gaussian along each axis, voxels.
    blur_chance : float
        How often windows are blurred.

    Raises
    ------
    UsageError
        If one is negative, or one of the last a chance above 1.
    """

    rotation: float = 10.0
    scale: float = 0.1
    noise: float = 0.1
    noise_chance: float = 0.3
    blur: float = 0.5
    blur_chance: float = 0.3

    def __post_init__(self) -> None:
        amounts = (self.rotation, self.noise, self.blur)
        shares = (self.scale, self.noise_chance, self.blur_chance)
        if not (all(a >= 0 for a in amounts) and all(0 <= s <= 1 for s in shares)):
            raise UsageError(
                f"windows cannot be augmented by {self}",
                fix="give no negative number, and shares and chances of at most 1",
            )


def augment_windows(
    x: Tensor, *, generator: torch.Generator, settings: Augmentation | None = None
) -> Tensor:
    """Turn, scale, blur and disturb windows, each in its own way.

    Parameters
    ----------
    x : Tensor, shape (B, C, X, Y, Z, T)
        Scaled series; voxels as long on all sides.
    generator : torch.Generator
        Source of randomness, on the CPU.
    settings : Augmentation, optional
        Bounds.

    Returns
    -------
    Tensor, shape (B, C, X, Y, Z, T)
        What lies outside of the window is as the nearest voxel of its border.
    """
    settings = settings or Augmentation()
    b, c, *space, t = x.shape
    volumes = x.movedim(-1, 2).reshape(b, c * t, *space)
    moves = torch.stack([_draw_affine(generator, settings) for _ in range(b)])
    volumes = _move(volumes, moves.to(x))
    sigmas = settings.blur * torch.rand(b, 3, generator=generator)
    blurred = torch.rand(b, generator=generator) < settings.blur_chance
    volumes = torch.stack(
        [
            _blur(item, sigma.tolist()) if chosen else item
            for item, sigma, chosen in zip(volumes, sigmas, blurred.tolist(), strict=True)
        ]
    )
    noisy = torch.rand(b, 1, 1, 1, 1, generator=generator) < settings.noise_chance
    if noisy.any():
        noise = torch.randn(volumes.shape, generator=generator) * noisy * settings.noise
        volumes = volumes + noise.to(x)
    return volumes.reshape(b, c, t, *space).movedim(2, -1)


def mix_rows(x: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Mix each row of a batch with another, as MinD-Vis makes further rows of voxels.

    Parameters
    ----------
    x : Tensor, shape (B, ...)
        Rows of voxels.
    share : float
        Of the other row, from 0 to 1.
    generator : torch.Generator
        Draws which row goes with which, on the CPU.

    Returns
    -------
    Tensor, shape (B, ...)
        ``(1 - share) * row + share * other``; a row may be drawn to go with itself.
    """
    others = torch.randperm(len(x), generator=generator).to(x.device)
    return x.lerp(x[others], share)


def _draw_affine(generator: torch.Generator, settings: Augmentation) -> Tensor:
    """Draw a matrix, (3, 3), that maps places of the result to places of the window, voxels."""
    angles, sizes = 2 * torch.rand(2, 3, generator=generator, dtype=torch.float64) - 1
    turn = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate((angles * math.radians(settings.rotation)).tolist()):
        i, j = [k for k in range(3) if k != axis]
        one = torch.eye(3, dtype=torch.float64)
        one[i, i] = one[j, j] = math.cos(angle)
        one[i, j], one[j, i] = -math.sin(angle), math.sin(angle)
        turn = turn @ one
    return turn @ torch.diag(1 + settings.scale * sizes)


def _move(volumes: Tensor, moves: Tensor) -> Tensor:
    """Resample (B, n, X, Y, Z), linearly, about the middle."""
    b, n, *space = volumes.shape
    half = torch.tensor([(s - 1) / 2 for s in space]).to(volumes).clamp(min=0.5)
    # torch counts from -1 to 1 along each axis, and the last axis first
    scaled = moves * half / half[:, None]
    theta = torch.cat([scaled.flip(1, 2), volumes.new_zeros(b, 3, 1)], dim=2)
    places = fn.affine_grid(theta, [b, n, *space], align_corners=True)
    return fn.grid_sample(volumes, places, padding_mode="border", align_corners=True)


def _blur(item: Tensor, sigmas: list[float]) -> Tensor:
    """Blur (n, X, Y, Z) along each axis by Gaussians, voxels."""
    for axis, sigma in enumerate(sigmas, start=1):
        reach = min(math.ceil(3 * sigma), item.shape[axis] - 1)
        if reach == 0:
            continue
        steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
        taps = torch.exp(-0.5 * (steps / sigma) ** 2)
        rows = item.movedim(axis, -1)
        padded = fn.pad(rows.reshape(-1, 1, rows.shape[-1]), (reach, reach), mode="replicate")
        blurred = fn.conv1d(padded, (taps / taps.sum()).to(item)[None, None])
        item = blurred.reshape(rows.shape).movedim(-1, axis)
    return item
