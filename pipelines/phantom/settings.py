"""What is asked of a phantom, what its two sizes mean, and where its chance comes from."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from neurostorm_app.errors import UsageError

__all__ = ["SCALES", "TASK", "TR", "Scale", "ScaleName", "Settings", "generator"]

ScaleName = Literal["full", "tiny"]
TASK = "rest"
TR = 2.0
"""Repetition time of every run, s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How fine everything is.

    Parameters
    ----------
    template_step : int
        Voxel size of the head in template space, mm.
    field_step : float
        Voxel size of the participants' displacement fields, mm.
    t1w_zoom, bold_zoom : float
        Voxel sizes, mm.
    t1w_shape, bold_shape : tuple of int, length 3
        Number of voxels.
    multiband : int
        Slices excited at the same time.
    n_volumes : int
        Volumes of a run, unless asked otherwise.
    """

    template_step: int
    field_step: float
    t1w_zoom: float
    t1w_shape: tuple[int, int, int]
    bold_zoom: float
    bold_shape: tuple[int, int, int]
    multiband: int
    n_volumes: int


SCALES: dict[ScaleName, Scale] = {
    "full": Scale(
        template_step=1,
        field_step=3.0,
        t1w_zoom=1.0,
        t1w_shape=(184, 232, 212),
        bold_zoom=3.0,
        bold_shape=(64, 70, 52),
        multiband=2,
        n_volumes=60,
    ),
    "tiny": Scale(
        template_step=2,
        field_step=4.0,
        t1w_zoom=4.0,
        t1w_shape=(46, 58, 53),
        bold_zoom=6.0,
        bold_shape=(32, 35, 26),
        multiband=2,
        n_volumes=24,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is asked of a phantom.

    Parameters
    ----------
    participants, runs, seed, n_volumes : int
        How many, and the seed of everything that is drawn.
    scale : {"full", "tiny"}
        Real voxel sizes, or about a thousandth of the work.
    distortion : bool
        Whether the BOLD series is distorted by an uneven field, with a pair to see it.

    Raises
    ------
    UsageError
        If a number is too small or the scale has another name.
    """

    participants: int
    runs: int
    seed: int
    n_volumes: int
    scale: ScaleName
    distortion: bool

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(
                f"a phantom of scale {self.scale!r} was asked for; there are {', '.join(SCALES)}",
                fix="choose full for real voxel sizes, tiny for a test of seconds",
            )
        least = {"participants": 1, "runs": 1, "seed": 0, "n_volumes": 4}
        for name, value in least.items():
            found = getattr(self, name)
            if found < value:
                raise UsageError(
                    f"a phantom with {name}={found} cannot be made; at least {value} is needed",
                    fix=f"give {name} a value of {value} or more",
                )


def generator(seed: int, stream: str, *, participant: int = 0, run: int = 0) -> np.random.Generator:
    """Make the generator of one thing of one participant's run.

    It depends on nothing else, so that a participant is the same person in a phantom of two
    and in one of two hundred.
    """
    return np.random.default_rng([seed, participant, run, zlib.crc32(stream.encode())])
