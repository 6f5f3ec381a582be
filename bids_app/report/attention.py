"""The runs that should not be used as they are: what the first screen of the group page names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.report.verdict import Level

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neurostorm_app.bids_app.report.records import RunRecord
    from neurostorm_app.bids_app.report.verdict import Reason

__all__ = ["Warned", "find_warned"]

TOLD = 2
"""Reasons that are told of a run; its own page has all."""
_ORDER = (Level.FAILED, Level.BAD)


@dataclass(frozen=True, kw_only=True)
class Warned:
    """Runs of one participant that should not be used, for the same reasons.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    level : Level
        How bad it is.
    runs : list of RunRecord
        At least one.
    reasons : list of Reason
        The first of them.
    more : int
        How many reasons there are besides.
    """

    participant: str
    level: Level
    runs: list[RunRecord]
    reasons: list[Reason]
    more: int


def find_warned(records: Iterable[RunRecord]) -> list[Warned]:
    """List the runs that failed or should not be used, what failed first.

    Parameters
    ----------
    records : iterable of RunRecord
        All runs.

    Returns
    -------
    list of Warned
        Runs of a participant are together where all of their reasons are the same.
    """
    found: dict[tuple[int, str, tuple[Reason, ...]], list[RunRecord]] = {}
    for record in records:
        level = record.verdict.level
        if level in _ORDER:
            reasons = tuple(r for r in record.verdict.reasons if r.level in _ORDER)
            key = (_ORDER.index(level), record.participant, reasons)
            found.setdefault(key, []).append(record)
    return [
        Warned(
            participant=participant,
            level=_ORDER[rank],
            runs=sorted(runs, key=lambda run: run.name),
            reasons=list(reasons[:TOLD]),
            more=max(0, len(reasons) - TOLD),
        )
        for (rank, participant, reasons), runs in sorted(
            found.items(), key=lambda pair: (pair[0][0], pair[1][0].name)
        )
    ]
