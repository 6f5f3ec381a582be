"""Where messages go: the only place that configures logging."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

from neurostorm_app.bids_app.privacy import Rules
from neurostorm_app.errors import CannotCreateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["to_file", "to_terminal"]

ROOT: Final = "neurostorm_app"
LEVELS: Final = (logging.INFO, logging.DEBUG)


def to_terminal(verbose: int) -> None:
    """Show messages of the app on standard error; of other packages only when asked twice."""
    handler = _Terminal(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    app = logging.getLogger(ROOT)
    app.handlers = [handler]
    app.setLevel(LEVELS[min(verbose, 1)])
    app.propagate = verbose > 1
    if verbose > 1:
        logging.basicConfig(level=logging.INFO)


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time, which a library's user may have changed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        self.stream = sys.stderr
        super().emit(record)


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
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
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
