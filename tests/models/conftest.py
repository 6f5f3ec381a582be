"""Filled parameters and inputs, and a small configuration with four unequal sides."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Filled = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
Wave = Callable[[str, tuple[int, ...]], torch.Tensor]

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden" / "neurostorm"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of upstream's own numbers."""
    if not GOLDEN.is_dir():
        pytest.skip("upstream's numbers are not beside the project (../shared/golden/neurostorm)")
    return GOLDEN


def phase(name: str) -> float:
    return 2 * math.pi * (zlib.crc32(name.encode()) % 100003) / 100003


def fill(name: str, like: torch.Tensor) -> torch.Tensor:
    """Fill a parameter by its name: a rule instead of a random generator."""
    if not like.is_floating_point():
        return like
    step = 0.7390851 * (1 + (zlib.crc32(name.encode()) % 97) / 97)
    w = np.sin(step * np.arange(like.numel()) + phase(name)).reshape(like.shape)
    last = name.rsplit(".", maxsplit=1)[-1]
    if last == "A_log":
        w = np.log(np.arange(like.shape[1]) + 1.0) + 0.05 * w
    elif last == "D" or (("norm" in name or "bn1" in name) and last == "weight"):
        w = 1 + 0.1 * w
    elif name.endswith("dt_proj.bias"):
        w = -4 + 0.5 * w
    elif last in {"running_var", "running_mean"}:
        w = 1 + 0.2 * w if last == "running_var" else 0.1 * w
    elif like.ndim > 1 and last == "weight":
        w = math.sqrt(2 / math.prod(like.shape[1:])) * w
    else:
        w = 0.05 * w
    return torch.from_numpy(w.astype(np.float32))


@pytest.fixture(scope="session")
def filled() -> Filled:
    """Fill all parameters of a state dict by the rule."""
    return lambda state: {name: fill(name, like) for name, like in state.items()}


@pytest.fixture(scope="session")
def wave() -> Wave:
    """Make a smooth series that drifts, with a little texture; (B, C, X, Y, Z, T)."""
    return make_wave


def make_wave(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    batch, channels, *size = shape
    x, y, z, t = np.meshgrid(*map(np.arange, size), indexing="ij", sparse=True)
    k = np.arange(math.prod(size)).reshape(size)
    out = np.empty(shape, dtype=np.float32)
    for b in range(batch):
        for c in range(channels):
            p = phase(f"{name}/{b}/{c}")
            out[b, c] = (
                np.sin(0.21 * x + p) * np.cos(0.17 * y - 0.5 * p)
                + 0.5 * np.sin(0.13 * z + 0.279 * t + p)
                + 0.3 * np.cos(0.035 * x + 0.11 * y + 0.07 * z - 0.4 * t)
                + 0.25 * np.sin(12.9898 * k + p)
            )
    return torch.from_numpy(out)


@pytest.fixture
def small() -> dict[str, Any]:
    """A configuration whose lengths all differ; its grids are 8 x 16 x 24 to 1 x 2 x 3 tokens."""
    return {
        "img_size": [16, 32, 48, 6],
        "in_chans": 2,
        "embed_dim": 4,
        "window_size": [2, 3, 4, 3],
        "first_window_size": [2, 2, 3, 2],
        "patch_size": [2, 2, 2, 1],
        "depths": [2, 1, 2, 1],
        "c_multiplier": 2,
        "last_layer_full_MSA": True,
    }
