"""What a verdict is made of: a level, and reasons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["RANK", "Level", "Reason", "Verdict"]


class Level(StrEnum):
    """How far a scan can be trusted, from best to worst."""

    GOOD = "good"
    UNKNOWN = "unknown"
    CHECK = "check"
    BAD = "bad"
    FAILED = "failed"


RANK = {level: i for i, level in enumerate(Level)}
_HEADLINES = {
    Level.GOOD: "Looks sound",
    Level.UNKNOWN: "Not everything is known",
    Level.CHECK: "Look before you use it",
    Level.BAD: "Do not use as it is",
    Level.FAILED: "Not finished",
}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One thing that speaks for or against a scan."""

    level: Level
    topic: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A level and what led to it, worst first."""

    level: Level
    reasons: tuple[Reason, ...]

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        return _HEADLINES[self.level]
