"""What some steps take together: memory of one process or several, time, and room on disks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Need", "Step"]

MIB: Final = 2**20
WAITING: Final = 350 * MIB
"""What the process takes that waits for the others: packages and the graph."""
LIGHTER: Final = 300 * MIB
"""What one process of several takes less than one that has done all steps before. A person's scans
in two processes took 2.20 GiB in all, the largest 1.58 GiB; 2.7 are planned."""
ANATOMY: Final = frozenset({"prepare", "brain", "normalize", "segment", "standard"})
EARLY: Final = frozenset({"reference", "motion", "estimate"})
"""What needs no anatomy."""
PLACES: Final = frozenset({"coregister", "distortion", "straight"})
OUTPUTS: Final = frozenset({"confounds", "resample", "t2star"})
"""What comes last, and side by side."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is to be done.

    Parameters
    ----------
    name : str
        What it is.
    memory : int
        Peak bytes of the process that does it.
    seconds : float
        Of one core.
    """

    name: str
    memory: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What some steps take together.

    Parameters
    ----------
    steps : tuple of Step
        Of the preprocessing, which processes share.
    models : tuple of Step
        Of the models, in one process, one after the other.
    scratch, output : int
        Bytes in the scratch folder and among the results.
    """

    steps: tuple[Step, ...] = ()
    models: tuple[Step, ...] = ()
    scratch: int = 0
    output: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(
            steps=self.steps + other.steps,
            models=self.models + other.models,
            scratch=self.scratch + other.scratch,
            output=self.output + other.output,
        )

    @property
    def seconds(self) -> float:
        """Of one core."""
        return sum(step.seconds for step in (*self.steps, *self.models))

    def memory(self, n_procs: int) -> int:
        """Tell the peak of so many processes together, in bytes.

        One process does all steps itself, one after the other. Several are started by one that
        waits; steps that rest on each other never run at the same time.
        """
        models = [step.memory for step in self.models]
        if n_procs == 1 or not self.steps:
            return max((*models, *(step.memory for step in self.steps)), default=0)
        places, outputs = self._largest(PLACES), self._largest(OUTPUTS)
        names = [step.name for step in self.steps]
        placed = names.count("coregister") + names.count("straight")  # once a run
        several = max(placed, names.count("confounds")) > 1
        late = sorted([*places, *outputs], reverse=True)
        sets = (
            [*self._largest(ANATOMY)[:1], *self._largest(EARLY)[: n_procs - 1]],
            self._largest(frozenset({"standard"}))[:n_procs],  # one a grid, side by side
            *([late[:n_procs]] if several else [places[:1], outputs[:n_procs]]),
        )
        together = max(sum(size - LIGHTER for size in sizes) for sizes in sets)
        return max(WAITING + together, *models, 0)

    def _largest(self, names: frozenset[str]) -> list[int]:
        """Memory of the steps of these names, the largest first."""
        return sorted((step.memory for step in self.steps if step.name in names), reverse=True)

    def processes(self, most: int, memory: int) -> int:
        """Tell how many processes, up to `most`, stay under so many bytes; 0 if not even one."""
        return next((n for n in range(most, 0, -1) if self.memory(n) <= memory), 0)
