"""Where messages go: the only place that configures logging."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

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


@contextlib.contextmanager
def to_file(folder: Path) -> Iterator[Path]:
    """Keep all messages of one call in a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    path = folder / f"{stamp}_{os.getpid()}.log"
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
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
