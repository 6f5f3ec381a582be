"""What a row of a cohort is: a participant, a session of one, or a run of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neurostorm_app.bids_app.group.store import Row

__all__ = ["Key", "RowIs", "row_key", "row_name", "rows_are"]

Key: TypeAlias = tuple[str, str | None] | tuple[str, str | None, str]
"""Labels of a participant and of a session, without their prefixes, None for no session; behind
them, where a row is a run, its name."""
RowIs: TypeAlias = Literal["participant", "session", "run"]


def row_key(run: Row, row_is: RowIs) -> Key:
    """Tell which row a run belongs to."""
    if row_is == "run":
        return run.participant, run.session, run.run
    return run.participant, run.session if row_is == "session" else None


def rows_are(keys: Iterable[Key]) -> RowIs:
    """Tell what rows are by their keys.

    Examples
    --------
    >>> rows_are([("01", None)]), rows_are([("01", "2"), ("02", None)])
    ('participant', 'session')
    """
    found: RowIs = "participant"
    for key in keys:
        if len(key) == 3:
            return "run"
        if key[1] is not None:
            found = "session"
    return found


def row_name(key: Key) -> str:
    """Name a row.

    Examples
    --------
    >>> row_name(("01", None)), row_name(("01", "2"))
    ('sub-01', 'sub-01_ses-2')
    >>> row_name(("01", "2", "sub-01_ses-2_task-rest"))
    'sub-01_ses-2_task-rest'
    """
    if len(key) == 3:
        return key[2]
    participant, session = key
    return f"sub-{participant}" + (f"_ses-{session}" if session else "")
