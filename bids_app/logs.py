"""Where messages go: the only place that configures logging."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

from neurostorm_app.bids_app.privacy import Rules
from neurostorm_app.errors import CannotCreateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Loudness", "to_file", "to_terminal"]

ROOT: Final = "neurostorm_app"


class Loudness(enum.IntEnum):
    """How much is said."""

    QUIET = -1
    """Warnings and failures."""
    NORMAL = 0
    """How far each run is: a line a stage, or a live view."""
    MORE = 1
    """Also what is of use where something is looked for."""
    EVERYTHING = 2
    """Also messages of other packages."""


def to_terminal(loudness: int, show: Callable[[str], None] | None = None) -> None:
    """Show messages of the app on standard error; of other packages only when asked twice.

    Parameters
    ----------
    loudness : int
        As of `Loudness`; what is above the last is the last.
    show : callable, optional
        Takes each message instead of standard error, such as a live view. As that shows the stages
        itself, lines on them come only when more was asked for.
    """
    handler = _Terminal(sys.stderr) if show is None else _Shown(show, loudness)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.setLevel(logging.WARNING if loudness < Loudness.NORMAL else logging.NOTSET)
    app = logging.getLogger(ROOT)
    # Others, such as the log file of the call, go on.
    ours = (_Terminal, _Shown)
    app.handlers = [handler, *(other for other in app.handlers if not isinstance(other, ours))]
    app.setLevel(logging.DEBUG if loudness > Loudness.NORMAL else logging.INFO)
    app.propagate = False
    if loudness > Loudness.MORE:
        logging.basicConfig(level=logging.INFO)


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time, which a library's user may have changed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        self.stream = sys.stderr
        super().emit(record)


class _Shown(logging.Handler):
    """Hands messages to a live view; what the view shows itself only when more was asked for."""

    def __init__(self, show: Callable[[str], None], loudness: int) -> None:
        super().__init__()
        self._show = show
        self._steps = loudness > Loudness.NORMAL

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one message on."""
        if self._steps or not getattr(record, "step", False):
            self._show(self.format(record))


class _Hiding(logging.Formatter):
    """Writes a message, and the traceback under it, by the rules of what an output may say."""

    def __init__(self, rules: Rules) -> None:
        moment = "%(seconds)7.1f s" if rules.strict else "%(asctime)s"
        super().__init__(f"{moment} %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.rules = rules
        self.begin = time.time()

    def format(self, record: logging.LogRecord) -> str:
        """Bring one record to text."""
        record.seconds = record.created - self.begin
        if not self.rules.strict:
            moment, space, rest = super().format(record).partition(" ")
            return moment + space + self.rules.text(rest)
        return self.rules.text(super().format(record))


@contextlib.contextmanager
def to_file(folder: Path, rules: Rules | None = None) -> Iterator[Path]:
    """Keep all messages of one call in a file of its own.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    rules : Rules, optional
        What is hidden; by default only the home folder.

    Raises
    ------
    CannotCreateError
        If the folder is a link to another place.
    """
    rules = rules or Rules()
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve().parent != folder.parent.resolve():
        raise CannotCreateError(
            f"{folder} would leave the output folder {folder.parent}",
            fix="remove the link that leads out of the output folder",
        )
    path = _new_log(folder, rules)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setFormatter(_Hiding(rules))
    app = logging.getLogger(ROOT)
    level = app.level
    app.addHandler(handler)
    if not app.isEnabledFor(logging.INFO):
        app.setLevel(logging.INFO)
    try:
        yield path
    finally:
        app.removeHandler(handler)
        handler.close()
        app.setLevel(level)


def _new_log(folder: Path, rules: Rules) -> Path:
    """Name a file that no other call writes to: by moment and process, or if strict by number."""
    if not rules.strict:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        return folder / f"{stamp}_{os.getpid()}.log"
    number = 1
    while (path := folder / f"call-{number:04d}.log").exists():
        number += 1
    try:
        path.touch(exist_ok=False)
    except FileExistsError:  # another call was quicker
        return _new_log(folder, rules)
    return path
