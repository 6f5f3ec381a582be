"""How far the work is: what stages tell whoever listens.

A stage says that it begins, advances and ends; it does not know who listens, or whether anybody
does. Without a listener this costs next to nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "Event",
    "Listener",
    "Planned",
    "advance",
    "counted",
    "inside",
    "listen_from_now",
    "listening",
    "renaming",
    "stage",
    "tell",
]

Item = TypeVar("Item")
State = Literal["began", "advanced", "ended", "failed", "closed"]

PAUSE: Final = 0.2
"""Seconds between two words on how far a stage is; a screen shows no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened to a stage.

    Parameters
    ----------
    name : str
        Of what it works on: the label of a run, or of a participant.
    stage : str
        Such as ``motion`` or ``embed connectome``; of what is closed, how it ended: ``done``,
        ``reused`` or ``failed``.
    state : {'began', 'advanced', 'ended', 'failed', 'closed'}
        ``closed`` is the last that is told of a run.
    done, total : int
        ``advanced``: units of this stage. ``began``, ``ended``: of the steps that the run goes
        through, those that have ended, and all; 0 where that is not known.
    unit : str
        ``volumes`` or ``windows``.
    """

    name: str
    stage: str
    state: State
    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a call is going to do.

    Parameters
    ----------
    names : tuple of str
        Of the runs, or of whatever else it goes through.
    memory : int
        Bytes to stay under; 0 where they are not known.
    unit : str
        What the names are of, in the plural.
    """

    names: tuple[str, ...]
    memory: int
    unit: str = "runs"


class Listener(Protocol):
    """Takes what is told; called in the thread that tells it, and must be quick."""

    def __call__(self, event: Event | Planned, /) -> None:
        """Take note."""
        ...


@dataclass(slots=True)
class _Current:
    """The stage that this thread works on, and when it last told how far it is."""

    name: str
    stage: str
    told: float = 0.0


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_CURRENT: ContextVar[_Current | None] = ContextVar("current", default=None)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[Listener | None]:
    """Tell a listener what happens in this thread until the end of the block.

    Yields
    ------
    Listener or None
        Who listened before, and hears nothing meanwhile but what the new one passes on.
    """
    before = _LISTENER.get()
    token = _LISTENER.set(listener)
    try:
        yield before
    finally:
        _LISTENER.reset(token)


def listen_from_now(listener: Listener) -> None:
    """Tell a listener what happens in this thread, for good: of a worker process."""
    _LISTENER.set(listener)


@contextlib.contextmanager
def renaming(rename: Callable[[str], str]) -> Iterator[None]:
    """Pass on what is told until the end of the block, under other names."""

    def passing_on(event: Event | Planned, /) -> None:
        """Change the name of an event."""
        if before is not None:
            if isinstance(event, Event):
                event = dataclasses.replace(event, name=rename(event.name))
            before(event)

    with listening(passing_on) as before:
        yield


def tell(event: Event | Planned) -> None:
    """Tell what happened to whoever listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(event)


@contextlib.contextmanager
def stage(name: str, what: str) -> Iterator[None]:
    """Tell that a stage begins and how it ends; what is inside can tell how far it is.

    Parameters
    ----------
    name : str
        Of the run or participant.
    what : str
        Of the stage.
    """
    tell(Event(name=name, stage=what, state="began"))
    try:
        with inside(name, what):
            yield
    except BaseException:
        tell(Event(name=name, stage=what, state="failed"))
        raise
    tell(Event(name=name, stage=what, state="ended"))


@contextlib.contextmanager
def inside(name: str, what: str) -> Iterator[None]:
    """Let `advance` know which stage it is in, where somebody else tells its begin and end."""
    token = _CURRENT.set(_Current(name, what))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def advance(done: int, total: int, unit: str) -> None:
    """Tell how far the stage around this is, at most a few times a second.

    Parameters
    ----------
    done, total : int
        Units that are done, and all of them.
    unit : str
        In the plural.
    """
    current = _CURRENT.get()
    if current is None or _LISTENER.get() is None:
        return
    now = time.monotonic()
    if now - current.told < PAUSE and done < total:
        return
    current.told = now
    event = Event(
        name=current.name,
        stage=current.stage,
        state="advanced",
        done=done,
        total=total,
        unit=unit,
    )
    tell(event)


def counted(items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """Give items on, and tell how many have been taken.

    Parameters
    ----------
    items : iterable
        Such as the volumes of a series.
    total : int
        How many will come; nothing is told if it is 0.
    unit : str
        In the plural.
    """
    for number, item in enumerate(items):
        yield item
        if total:
            advance(number + 1, total, unit)
