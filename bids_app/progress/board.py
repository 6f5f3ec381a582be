"""What is known of a call while it works: which run is in which stage, and what is finished."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from neurostorm_app.pipelines.progress import Planned

if TYPE_CHECKING:
    from collections.abc import Callable

    from neurostorm_app.pipelines.progress import Event

__all__ = ["Board", "Line", "Snapshot"]

OPEN: Final = 0.95
"""Share of a run that its steps can reach; the rest is for what follows them."""
KNOWN: Final = 0.02
"""Share of the work from which on the time left is said."""
NAMED: Final = 5
"""Runs that are named in a sentence."""


@dataclass(slots=True)
class _Stage:
    """A stage that has begun and not ended."""

    name: str
    began: float
    done: int = 0
    total: int = 0
    unit: str = ""
    counted: float | None = None
    first: int = 0


@dataclass(slots=True)
class _Row:
    """A run, or a participant, that is being worked on."""

    stages: dict[str, _Stage] = field(default_factory=dict)
    steps: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is to be seen of a run that is being worked on.

    Parameters
    ----------
    name : str
        Of the run or the participant.
    stage : str
        The one that began last; empty while it waits for others.
    more : int
        How many more stages of it are open.
    done, total : int
        Units of the stage; of the steps of the run where the stage does not count.
    unit : str
        ``volumes``, ``windows`` or ``steps``.
    speed : float
        Units a second; 0 where it is not known.
    left : float or None
        Seconds to the end of the stage.
    """

    name: str
    stage: str
    more: int = 0
    done: int = 0
    total: int = 0
    unit: str = ""
    speed: float = 0.0
    left: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is to be seen of a call.

    Parameters
    ----------
    lines : tuple of Line
        One for each run that is being worked on.
    done, reused, failed, total : int
        Runs: finished now, finished before, failed, all.
    seconds : float
        Since the beginning.
    left : float or None
        Seconds to the end, where that can be told.
    memory : int
        Bytes to stay under; 0 where they are not known.
    unit : str
        What is counted: ``runs``, or ``steps`` at the group level.
    """

    lines: tuple[Line, ...]
    done: int
    reused: int
    failed: int
    total: int
    seconds: float
    left: float | None
    memory: int
    unit: str = "runs"


class Board:
    """Takes note of what is told, and says what it amounts to; any thread may do either.

    Parameters
    ----------
    clock : callable
        Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begin = clock()
        self._planned: tuple[str, ...] = ()
        self._memory, self._unit = 0, "runs"
        self._rows: dict[str, _Row] = {}
        self._closed: dict[str, str] = {}

    def __call__(self, event: Event | Planned, /) -> None:
        """Take note of something that happened."""
        with self._lock:
            if isinstance(event, Planned):
                self._planned, self._memory = event.names, event.memory
                self._unit = event.unit
            elif event.state == "closed":
                self._rows.pop(event.name, None)
                self._closed[event.name] = event.stage
            else:
                self._note(event)

    def _note(self, event: Event) -> None:
        """Take note of a stage."""
        now, row = self._clock(), self._rows.setdefault(event.name, _Row())
        if event.state in {"ended", "failed"}:
            row.stages.pop(event.stage, None)
        else:
            stage = row.stages.setdefault(event.stage, _Stage(event.stage, now))
            if event.state == "advanced":
                if stage.counted is None:
                    stage.counted, stage.first = now, event.done
                stage.done, stage.total, stage.unit = event.done, event.total, event.unit
        if event.state != "advanced" and event.total:
            row.steps = (event.done, event.total)
        # What is not a run has no end but that of its stages.
        over = not row.stages and (row.steps[0] == row.steps[1] or event.state == "failed")
        if over and event.name not in self._planned:
            del self._rows[event.name]

    def snapshot(self) -> Snapshot:
        """Say what is to be seen now."""
        with self._lock:
            now = self._clock()
            kinds = list(self._closed.values())
            total = len({*self._planned, *self._closed})
            return Snapshot(
                lines=tuple(_line(name, row, now) for name, row in self._rows.items()),
                done=kinds.count("done"),
                reused=kinds.count("reused"),
                failed=kinds.count("failed"),
                total=total,
                seconds=now - self._begin,
                left=self._left(now),
                memory=self._memory,
                unit=self._unit,
            )

    def _left(self, now: float) -> float | None:
        """Estimate the seconds to the end, from what runs that were not finished before took."""
        reused = {name for name, kind in self._closed.items() if kind == "reused"}
        asked = [name for name in self._planned if name not in reused]
        if not asked:
            return None
        shares = [1.0 if n in self._closed else _share(self._rows.get(n)) for n in asked]
        done = sum(shares) / len(shares)
        return None if done < KNOWN else (now - self._begin) * (1 - done) / done

    def kept(self) -> str:
        """Say what is finished and what is not, for somebody who ended the call."""
        with self._lock:
            finished = [name for name, kind in self._closed.items() if kind != "failed"]
            broken = [name for name in self._rows if name in self._planned]
            total, unit = len(self._planned), self._unit
        if not total:
            return ""
        said = f"{len(finished)} of {total} {unit} are finished"
        return f"{said}; under way: {_some(broken)}" if broken else said


def _line(name: str, row: _Row, now: float) -> Line:
    """Say what is to be seen of a row."""
    done, total = row.steps
    if not row.stages:
        return Line(name=name, stage="", done=done, total=total, unit="steps" if total else "")
    stage = list(row.stages.values())[-1]
    more = len(row.stages) - 1
    if not stage.total or stage.counted is None:
        unit = "steps" if total else ""
        return Line(name=name, stage=stage.name, more=more, done=done, total=total, unit=unit)
    seconds, units = now - stage.counted, stage.done - stage.first
    speed = units / seconds if seconds > 0 and units > 0 else 0.0
    return Line(
        name=name,
        stage=stage.name,
        more=more,
        done=stage.done,
        total=stage.total,
        unit=stage.unit,
        speed=speed,
        left=(stage.total - stage.done) / speed if speed else None,
    )


def _share(row: _Row | None) -> float:
    """Say how much of a run that is being worked on is done, 0 to 1."""
    if row is None:
        return 0.0
    done, total = row.steps
    if total:
        return OPEN * done / total
    stage = list(row.stages.values())[-1] if row.stages else None
    return OPEN * stage.done / stage.total if stage and stage.total else 0.0


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
