"""What work will take, told from headers alone: memory, seconds, scratch and room for results.

A step takes something fixed (packages, weights, a template) and something for each voxel. Both
were measured by ``benchmarks/bench_plan.py``, but where a line says that they are rough: one step
at a time in one thread, by the process's own CPU seconds and peak memory, on one core of an AMD
EPYC of 2023: a phantom of 4 mm T1w and 6 mm BOLD (24 volumes), one of 1 and 3 mm (40 volumes), a
person's scans (T1w of 137 x 192 x 192, BOLD of 80 x 80 x 35, 40 volumes), and 1,200 volumes of
91 x 109 x 91 at 2 mm. Seconds are those of one such core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from neurostorm_app.pipelines.need import Need, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Shape = tuple[int, int, int]

__all__ = [
    "RunFacts",
    "count_t1w",
    "estimate_anatomy",
    "estimate_embedding",
    "estimate_outputs",
    "estimate_run",
]

MIB: Final = 2**20
LITRES: Final = 1.7
"""Brain, and what the mask takes with it, of a large head."""
CROWN: Final = 0.35
"""Voxels of the rim around the brain whose noise is looked at too, for each voxel of the brain."""
PACKED: Final = 0.75
"""Bytes on disk for each byte of a series in a standard space: packed, zero around the view."""
PACKED_VIEW: Final = 0.95
"""The same on grids that hold nothing but the view."""
PACKED_STILL: Final = 0.45
"""The same of single images, smooth or masked."""
XFM: Final = 8 * MIB
"""One transform to or from a template."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step takes.

    Parameters
    ----------
    mib : float
        Memory of its process, whatever the size of images.
    bytes_each : float
        Memory for each unit beyond.
    seconds : float
        Of one core, whatever the size.
    nanoseconds_each : float
        For each unit beyond.
    t1w_bytes, t1w_nanoseconds : float
        Memory and time for each voxel of the T1w image, where that is looked at too.
    """

    mib: float
    bytes_each: float
    seconds: float
    nanoseconds_each: float
    t1w_bytes: float = 0.0
    t1w_nanoseconds: float = 0.0


COSTS: Final[dict[str, Cost]] = {
    # For each voxel of the T1w images.
    "prepare": Cost(330, 20, 1.4, 470),
    "brain": Cost(1430, 6, 9.5, 70),
    "normalize": Cost(1110, 75, 60, 1200),
    "segment": Cost(985, 30, 0.1, 650),
    "standard": Cost(1015, 7, 1.0, 60),
    # For each voxel of a volume.
    "estimate": Cost(990, 300, 12, 20000),  # rough, from records of earlier work
    "reference": Cost(870, 60, 2.0, 5000),
    "coregister": Cost(945, 0, 3.6, 10800, 80, 230),
    "distortion": Cost(990, 300, 15, 10000),  # rough, as above
    "straight": Cost(1000, 200, 70, 10000),  # rough, as above
    # For each voxel of all volumes.
    "motion": Cost(985, 0, 0.2, 70),
    "t2star": Cost(990, 0, 0.3, 100),  # rough, as above
    # For each voxel of the brain of all volumes.
    "confounds": Cost(965, 7.5, 0.9, 270, 62, 480),
    # For each voxel of all volumes of the new series.
    "resample": Cost(1000, 0, 1.5, 100),
}
"""By step; what the unit is stands above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the header of a run says, and the sidecars beside it.

    Parameters
    ----------
    shape : tuple of int
        Voxels of a volume.
    zooms : tuple of float
        Their edges, mm.
    n_volumes : int
        Volumes of an echo.
    n_echoes : int
        Echoes.
    t1w : int
        Voxels that the anatomy is worked on with; 0 without one.
    has_fieldmap : bool
        Whether there is something to tell the distortion from.
    """

    shape: Shape
    zooms: tuple[float, float, float]
    n_volumes: int
    n_echoes: int = 1
    t1w: int = 0
    has_fieldmap: bool = False

    @property
    def voxels(self) -> int:
        """Of a volume."""
        return math.prod(self.shape)

    @property
    def brain(self) -> int:
        """Voxels of a brain on this grid, at most all of them."""
        return min(self.voxels, round(LITRES * 1e6 / math.prod(self.zooms)))


def count_t1w(shape: Sequence[int], zooms: Sequence[float]) -> int:
    """Count the voxels that a T1w image is worked on with: those of 1 mm at the finest.

    Examples
    --------
    >>> count_t1w((274, 384, 384), (0.7, 0.667, 0.667))
    12582378
    """
    return round(math.prod(n * min(zoom, 1.0) for n, zoom in zip(shape, zooms, strict=True)))


def estimate_anatomy(t1w: Sequence[int], *, n_templates: int, standard: Sequence[int]) -> Need:
    """Tell what the anatomy of a participant takes.

    Parameters
    ----------
    t1w : sequence of int
        Voxels of each T1w image, see `count_t1w`.
    n_templates : int
        Templates it is brought to.
    standard : sequence of int
        Voxels of each grid it is written on.
    """
    voxels, each = sum(t1w), max(t1w, default=0)
    images = PACKED_STILL * 4 * 5 * (each + sum(standard))
    maps = 2 * XFM * n_templates
    return Need(
        steps=(
            _step("prepare", voxels),
            _step("brain", each),
            *[_step("normalize", each)] * (n_templates > 0),
            _step("segment", each),
            *[_step("standard", each)] * len(standard),
        ),
        scratch=round(images) + maps,
        output=round(images) + maps,
    )


def estimate_run(
    facts: RunFacts,
    *,
    fit: bool,
    confounds: bool,
    series: Mapping[str, int],
    references: Mapping[str, int],
) -> Need:
    """Tell what the preprocessing of a run takes.

    Parameters
    ----------
    facts : RunFacts
        Of its header.
    fit, confounds : bool
        Whether what is estimated once, and the confounds, are to be made.
    series, references : mapping of str to int
        Voxels of each grid on which the series, and reference and mask, are to be made, by the
        label of its space.
    """
    all_voxels = facts.voxels * facts.n_volumes * facts.n_echoes
    brain = facts.brain * (1 + CROWN) * facts.n_volumes
    steps: list[Step] = []
    if fit:
        steps += [_step("reference", facts.voxels), _step("motion", all_voxels)]
        steps += [_step("estimate", facts.voxels), _step("distortion", facts.voxels)] * (
            facts.has_fieldmap
        )
        steps.append(_step("coregister" if facts.t1w else "straight", facts.voxels, facts.t1w))
    if facts.n_echoes > 1:
        steps.append(_step("t2star", all_voxels))
    if confounds:
        one, each = (_step("confounds", brain * n, facts.t1w) for n in (1, facts.n_echoes))
        steps.append(Step("confounds", one.memory, each.seconds))  # of their sum
    for label in {**references, **series}:
        n_volumes = facts.n_volumes * facts.n_echoes if label in series else 1
        steps.append(_step("resample", {**references, **series}[label] * n_volumes))
    still = PACKED_STILL * 4 * (facts.voxels * 4 * fit + 2 * sum(references.values()))
    return Need(
        steps=tuple(steps),
        scratch=round(still),
        output=round(still) + estimate_outputs(facts, series),
    )


def estimate_outputs(facts: RunFacts, series: Mapping[str, int]) -> int:
    """Tell the bytes of the series of a run on disk.

    Parameters
    ----------
    facts : RunFacts
        Of its header.
    series : mapping of str to int
        Voxels of each grid, by the label of its space.
    """
    shares = {"native": PACKED_VIEW}
    n = 4 * facts.n_volumes
    return round(sum(n * size * shares.get(label, PACKED) for label, size in series.items()))


def estimate_embedding(
    architecture: str, *, n_windows: int, window: int, read: int, kept: int, weights: int = 0
) -> Step:
    """Tell what a model takes for a run, in memory and time.

    Parameters
    ----------
    architecture : str
        Of the network.
    n_windows : int
        Windows of the run.
    window : int
        Bytes of one.
    read : int
        Voxels of all volumes of the series, which are unpacked.
    kept : int
        Bytes of the run that stay in memory.
    weights : int
        Bytes of the file of the weights.

    Raises
    ------
    KeyError
        If nobody has said what the architecture takes.
    """
    cost = NETWORKS[architecture]
    memory = EMBEDDING + weights + round(window * (cost.memory + AT_ONCE)) + kept
    seconds = cost.seconds * n_windows * window / 1e8 + read * READING
    return Step(f"embed {architecture}", memory, seconds)


class Network(NamedTuple):
    """Seconds for 100 MB of windows, bytes of memory for each byte of one."""

    seconds: float
    memory: float


NETWORKS: Final = {
    "connectome": Network(0.5, 4.0),
    "neurostorm": Network(1.2, 6.0),
    "neurostorm-mae": Network(1.6, 8.0),
    "brainlm": Network(640.0, 400.0),
    "mind-vis": Network(7800.0, 600.0),  # by ``bench_models.py``
    "slim-brain": Network(20.0, 3.0),  # by ``bench_slim_brain.py``
    "slim-brain-mae": Network(23.0, 6.0),  # 26 s a window, 9 s the masked error of one of four
    "fmri-lm": Network(1900.0, 400.0),  # by ``bench_models.py``
}
"""Of the released configurations on a CPU, by ``benchmarks/bench_run.py`` and ``bench_brainlm.py``
where a line says nothing else."""
EMBEDDING: Final = 720 * MIB
"""Of the process: packages, and the series as it is read and cleaned."""
AT_ONCE: Final = 4
"""Windows beside the one that is computed."""
READING: Final = 12e-9
"""Seconds to unpack and scale a voxel of a volume, twice."""


def _step(name: str, units: float, t1w: int = 0) -> Step:
    cost = COSTS[name]
    return Step(
        name,
        round(cost.mib * MIB + cost.bytes_each * units + cost.t1w_bytes * t1w),
        cost.seconds + 1e-9 * (cost.nanoseconds_each * units + cost.t1w_nanoseconds * t1w),
    )
