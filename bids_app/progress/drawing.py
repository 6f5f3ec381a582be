"""What is known of a call, drawn: one row a run, as much as the terminal has room for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from neurostorm_app.bids_app.progress.board import Line, Snapshot

__all__ = ["clean", "draw", "duration"]

GIB: Final = 2**30
WIDE: Final = 100
"""Columns from which on speed and time left of each stage are shown."""
MIDDLE: Final = 60
"""Columns from which on bars are shown."""
BAR: Final = 24
FRAME: Final = 4
"""Rows of the terminal that are not for runs."""
CONTROL: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
KEYS: Final = "Ctrl-C ends the call and keeps what is finished; twice: at once"


def clean(text: str) -> str:
    r"""Take out what would move the cursor or change colours.

    Examples
    --------
    >>> clean("\x1b[31mred\x1b[0m\x07")
    'red'
    """
    return CONTROL.sub("", text)


def duration(seconds: float) -> str:
    """Write seconds for the eye.

    Examples
    --------
    >>> duration(7), duration(187), duration(7500)
    ('0:07', '3:07', '2:05:00')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def draw(now: Snapshot, *, memory: int, width: int, height: int) -> RenderableType:
    """Draw what is to be seen of a call.

    Parameters
    ----------
    now : Snapshot
        What is known.
    memory : int
        Bytes that the call and its workers hold; 0 if they are not known.
    width, height : int
        Columns and rows of the terminal.
    """
    room = max(1, height - FRAME)
    # What waits gives way to what works.
    lines = sorted(now.lines, key=lambda line: not line.stage)
    rows = Table.grid(padding=(0, 1), expand=False)
    rows.add_column(no_wrap=True, overflow="ellipsis", max_width=max(12, width // 3))
    rows.add_column(no_wrap=True, overflow="ellipsis", max_width=max(10, width // 4))
    for _ in range(3 if width >= WIDE else 2 if width >= MIDDLE else 1):
        rows.add_column(no_wrap=True, overflow="ellipsis")
    for line in lines[:room]:
        rows.add_row(*_cells(line, width))
    parts: list[RenderableType] = [_head(now, memory, width), rows]
    if len(lines) > room:
        parts.append(Text(f"and {len(lines) - room} more", style="dim"))
    if height > FRAME and width > len(KEYS):
        parts.append(Text(KEYS, style="dim", no_wrap=True))
    return Group(*parts)


def _head(now: Snapshot, memory: int, width: int) -> Text:
    """Say how far the whole is."""
    counts = [f"{now.done + now.reused + now.failed} of {now.total} {now.unit}"] * bool(now.total)
    counts += [f"{now.reused} had their results"] * bool(now.reused)
    counts += [f"{now.failed} failed"] * bool(now.failed)
    time = duration(now.seconds)
    if now.left is not None and now.left >= 1:
        time += f", about {duration(now.left)} left"
    held = f"{memory / GIB:.1f}" if memory else ""
    if held and now.memory:
        held += f" of {now.memory / GIB:.1f}"
    parts = [", ".join(counts) or "looking at the dataset", time]
    parts += [f"{held} GiB"] * bool(held)
    text = Text(" | ".join(parts), style="bold", no_wrap=True, overflow="ellipsis")
    text.truncate(width, overflow="ellipsis")
    return text


def _cells(line: Line, width: int) -> list[RenderableType]:
    """Say how far a run is, in as many columns as fit."""
    stage = line.stage or "waits"
    if line.more:
        stage += f" +{line.more}"
    style = "" if line.stage else "dim"
    words = (clean(line.name), clean(stage))
    cells: list[RenderableType] = [Text(word, style=style) for word in words]
    count = f"{line.done}/{line.total} {line.unit}" if line.total else ""
    if width >= MIDDLE:
        bar = ProgressBar(total=line.total or 1, completed=line.done, width=BAR)
        cells.append(bar if line.total else "")
        cells.append(count)
    else:
        cells.append(f"{100 * line.done // line.total}%" if line.total else "")
    if width >= WIDE:
        speed = f"{line.speed:.3g}/s" if line.speed else ""
        left = duration(line.left) if line.left is not None else ""
        cells.append("  ".join(part for part in (speed, left) if part))
    return cells
