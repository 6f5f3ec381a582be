"""What worker processes tell: events and messages, as short lines in a pipe.

None of them ever waits for the pipe or for another worker, and one that is killed spoils nobody's
line.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from neurostorm_app.pipelines.progress import PAUSE, Event, listen_from_now

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from neurostorm_app.pipelines.progress import Listener, Planned

__all__ = ["Wire", "tell_parent"]

LONGEST: Final = 4096
"""Bytes that are written into a pipe in one piece (``PIPE_BUF`` of Linux)."""
SAID: Final = 600
"""Letters of a message that fit into it, however they are written."""
ROOT: Final = "neurostorm_app"
"""The logger of all of ours."""


class Wire:
    """A pipe from worker processes to a listener in this one.

    Parameters
    ----------
    listener : callable
        Called in a thread of its own. Messages that workers log are logged in it too.

    Attributes
    ----------
    end : Connection
        What `tell_parent` takes in a worker.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._mouth, self.end = multiprocessing.Pipe(duplex=False)
        os.set_blocking(self.end.fileno(), False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._mouth.close()
        self.end.close()

    def _listen(self) -> None:
        """Pass on what is written until the block ends; workers may outlive it."""
        rest = b""
        while not self._over.is_set() or self._mouth.poll(0):
            if not self._mouth.poll(PAUSE):
                continue
            read = os.read(self._mouth.fileno(), 16 * LONGEST)
            if not read:
                return
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                self._pass_on(json.loads(line))

    def _pass_on(self, told: dict[str, Any]) -> None:
        """Tell an event to the listener, and log a message here."""
        if "message" in told:
            log = logging.getLogger(told["logger"])
            log.log(told["level"], "%s", told["message"])
        else:
            self._listener(Event(**told))


@dataclass(frozen=True, slots=True)
class _Teller:
    """Writes what is told into a pipe; what does not fit is left out."""

    end: Connection

    def __call__(self, event: Event | Planned, /) -> None:
        """Write an event."""
        self.write(dataclasses.asdict(event))

    def write(self, told: dict[str, Any]) -> bool:
        """Write one line in one piece; say whether there was room for it."""
        line = json.dumps(told).encode() + b"\n"
        if len(line) > LONGEST:
            return False
        try:
            os.write(self.end.fileno(), line)
        except (BlockingIOError, BrokenPipeError):
            return False
        return True


class _Messages(logging.Handler):
    """Sends messages of a worker to its parent, where they are logged like all others."""

    def __init__(self, teller: _Teller) -> None:
        super().__init__()
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message; where that cannot be, it goes to standard error."""
        message = self.format(record)
        told = {"logger": record.name, "level": record.levelno, "message": message[:SAID]}
        if not self._teller.write(told):
            sys.stderr.write(f"{message}\n")


def tell_parent(end: Connection) -> None:
    """Let this worker process tell its parent what happens, from now on and for good."""
    teller = _Teller(end)
    listen_from_now(teller)
    app = logging.getLogger(ROOT)
    app.handlers = [_Messages(teller)]
    app.setLevel(logging.INFO)
    app.propagate = False
