"""What is asked of a phantom, what its two sizes mean, and where its chance comes from."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypedDict, get_args

import numpy as np

from neurostorm_app.errors import UsageError

__all__ = [
    "ECHO_TIME",
    "RESTLESS",
    "SCALES",
    "TASK",
    "TR",
    "FieldmapKind",
    "Options",
    "Scale",
    "ScaleName",
    "Settings",
    "generator",
]

ScaleName = Literal["full", "small", "tiny"]
FieldmapKind = Literal["none", "pepolar", "phasediff", "phases", "direct"]
ECHO_TIME = 0.030
"""Echo time of a series of one echo, s."""
TASK = "rest"
TR = 2.0
"""Repetition time of every run, s."""
RESTLESS = 14.0
"""Largest displacement in the brain of somebody who cannot lie still, mm: a mean framewise
displacement of about 1 mm."""


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
    "small": Scale(
        template_step=2,
        field_step=4.0,
        t1w_zoom=2.0,
        t1w_shape=(92, 116, 106),
        bold_zoom=4.0,
        bold_shape=(48, 53, 40),
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


class Options(TypedDict, total=False):
    """What may be asked of a phantom; see :class:`Settings`."""

    participants: int
    runs: int
    seed: int
    n_volumes: int | None
    scale: ScaleName
    fieldmap: FieldmapKind
    field: float
    echoes: int
    motion: float | None
    t1w: int
    sbref: bool
    activation: float
    drift: float
    spikes: int
    restless: tuple[int, ...]
    turned: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is asked of a phantom.

    Parameters
    ----------
    participants, runs : int
        How many people, and resting-state runs of each. A participant does not depend on how
        many there are.
    seed : int
        The same seed makes the same files.
    n_volumes : int, optional
        Volumes of a run, one every 2 s; by default 60, or 24 for the tiny scale.
    scale : {"full", "small", "tiny"}
        Real voxel sizes (T1w 1 mm, BOLD 3 mm); coarse ones that still show the folds (2 and 4
        mm); or a dataset for tests made in seconds (4 and 6 mm).
    fieldmap : {"none", "pepolar", "phasediff", "phases", "direct"}
        All but ``none`` distort the series by an uneven field, and add scans that show it, with
        the head in another pose: an opposite-phase pair; a difference of phases; two phases; a
        map in Hz.
    field : float
        Factor of the unevenness of the field: 1 moves signal by two voxels at most, and by half
        a voxel at the 95th percentile of the brain.
    echoes : int
        Echoes of each series; one has an echo time of 30 ms, several of 12, 28, 44 ms and so on.
    motion : float, optional
        Largest displacement in the brain from the reference pose, mm; by default what is drawn,
        one or two.
    t1w : int
        T1w images of each participant, each with the head in another pose.
    sbref : bool
        Whether each series has a single-band reference.
    activation, drift : float
        Factors of the networks' signals and of the slow drifts.
    spikes : int
        Volumes of a run in which some slices are too bright or too dark.
    restless : tuple of int
        Participants, from 1 on, who move by 14 mm in every run, whatever `motion` says.
    turned : tuple of int
        Participants, from 1 on, the header of whose T1w images is wrong: it says that the nose
        points up. The truth stays that of the right header.

    Raises
    ------
    UsageError
        If a number is too small or large, or a word is none of those.
    """

    participants: int = 4
    runs: int = 2
    seed: int = 1
    n_volumes: int | None = None
    scale: ScaleName = "full"
    fieldmap: FieldmapKind = "none"
    field: float = 1.0
    echoes: int = 1
    motion: float | None = None
    t1w: int = 1
    sbref: bool = False
    activation: float = 1.0
    drift: float = 1.0
    spikes: int = 0
    restless: tuple[int, ...] = ()
    turned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(
                f"a phantom of scale {self.scale!r} was asked for; there are {', '.join(SCALES)}",
                fix="choose full for real voxel sizes, small or tiny for tests",
            )
        if self.fieldmap not in get_args(FieldmapKind):
            raise UsageError(
                f"a phantom with a field map of kind {self.fieldmap!r} was asked for; there are"
                f" {', '.join(get_args(FieldmapKind))}",
                fix="choose one of those",
            )
        for name, value in _LEAST.items():
            found = getattr(self, name)
            if found is not None and not found >= value:
                raise UsageError(
                    f"a phantom with {name}={found} cannot be made; at least {value} is needed",
                    fix=f"give {name} a value of {value} or more",
                )
        for name, value in {**_MOST, "spikes": self.length}.items():
            found = getattr(self, name)
            if found is not None and found > value:
                raise UsageError(
                    f"a phantom with {name}={found} cannot be made; at most {value} is possible",
                    fix=f"give {name} a value of {value} or less",
                )
        for name in ("restless", "turned"):
            if nobody := set(getattr(self, name)) - set(range(1, self.participants + 1)):
                raise UsageError(
                    f"{name} names participant {min(nobody)} of a phantom of {self.participants}",
                    fix=f"give numbers from 1 to {self.participants}",
                )

    @property
    def length(self) -> int:
        """Volumes of a run."""
        return SCALES[self.scale].n_volumes if self.n_volumes is None else self.n_volumes

    @property
    def is_distorted(self) -> bool:
        """Whether the series are distorted by the field."""
        return self.fieldmap != "none"

    @property
    def is_decaying(self) -> bool:
        """Whether some scan is taken at another echo time than a series of one echo."""
        return self.echoes > 1 or self.fieldmap in {"phasediff", "phases", "direct"}

    def told(self) -> dict[str, Any]:
        """List what is asked: the main settings, and those of the others that are not usual."""
        asked = {**asdict(self), "n_volumes": self.length}
        main = {name: asked[name] for name in _MAIN} | {"distortion": self.is_distorted}
        usual = {field.name: field.default for field in fields(self)}
        return main | {n: v for n, v in asked.items() if n not in main and v != usual[n]}


_MAIN = ("participants", "runs", "seed", "n_volumes", "scale")
_LEAST = {
    "participants": 1,
    "runs": 1,
    "seed": 0,
    "n_volumes": 4,
    "field": 0,
    "echoes": 1,
    "motion": 0,
    "t1w": 1,
    "activation": 0,
    "drift": 0,
    "spikes": 0,
}
_MOST = {"field": 5, "echoes": 5, "motion": 30}


def generator(seed: int, stream: str, *, participant: int = 0, run: int = 0) -> np.random.Generator:
    """Make the generator of one thing of one participant's run.

    It depends on nothing else, so that a participant is the same person in a phantom of two
    and in one of two hundred.
    """
    return np.random.default_rng([seed, participant, run, zlib.crc32(stream.encode())])
