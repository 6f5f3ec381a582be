"""A call of the command whose engines tell their stages and do nothing else, for a terminal.

    python staged_call.py BIDS_DIR OUTPUT_DIR LEVEL [options]

A step takes as long as the live view needs to show it. ``BROKEN`` says which run fails; of the
participant ``HOLD`` the work comes to a halt, and with ``STUBBORN`` a library computes and does not
stop, and what signals come is written into the file of that name.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest import Fake

from neurostorm_app.bids_app import signals
from neurostorm_app.bids_app.cli import main_inner
from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.bids_app.progress import view
from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.progress import Event, advance, stage, tell

PATIENCE = 120
log = logging.getLogger("neurostorm_app.pipelines.staged")


class Watched(view.View):
    """Counts its pictures."""

    pictures = 0
    shown = False

    def __enter__(self):
        Watched.shown = True
        return super().__enter__()

    def __exit__(self, *error):
        Watched.shown = False
        super().__exit__(*error)

    def _draw(self):
        super()._draw()
        Watched.pictures += 1


def take_time() -> None:
    """Wait until a picture was begun and ended, if any are drawn."""
    end, until = Watched.pictures + 2, time.monotonic() + PATIENCE
    while Watched.shown and Watched.pictures < end and time.monotonic() < until:
        time.sleep(0.005)


class Staged(Fake):
    """Tells of steps with volumes and of windows; others print meanwhile."""

    def preprocess(self, wanted, **given):
        with stage("anatomy", "brain"):
            take_time()
        for number in range(10):
            for run in wanted.runs:
                steps = {"done": number // 5, "total": 2}
                name = ("motion", "resample")[number // 5]
                if not number % 5:
                    tell(Event(name=run.name, stage=name, state="began", **steps))
                done = {"done": 8 * (number % 5 + 1), "total": 40, "unit": "volumes"}
                tell(Event(name=run.name, stage=name, state="advanced", **done))
                if number % 5 == 4:
                    steps["done"] += 1
                    tell(Event(name=run.name, stage=name, state="ended", **steps))
            self._noise(number)
            take_time()
            if number == 7 and wanted.runs[0].name.startswith(os.environ.get("HOLD", "nobody")):
                log.warning("%s: holds", os.environ["HOLD"])
                time.sleep(600)
            if number == 7 and "STUBBORN" in os.environ:
                told = os.environ["STUBBORN"]
                signal.set_wakeup_fd(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK))
                log.warning("sub-01: a library computes")
                sum(itertools.repeat(0, 10**14))  # lets no Python run, signals neither
        return super().preprocess(wanted, **given)

    def _noise(self, number: int) -> None:
        """Print in all the ways that libraries do."""
        if number == 2:
            print("a library prints")
            os.write(1, b"C writes to standard output\n")
            os.write(2, b"C writes half a line")
            subprocess.run(["sh", "-c", "echo a child prints; echo and errs >&2"], check=True)
            warnings.warn("a library warns", UserWarning, stacklevel=1)
            log.warning("sub-01: a message that is to be \x1b[31mread\x1b[0m")
            log.info("sub-01: a line a stage", extra={"step": True})

    def _embed(self, name, series, device):
        with stage(series.name, f"embed {name}"):
            for done in range(3):
                take_time()
                advance(done + 1, 3, "windows")
            return super()._embed(name, series, device)


def main() -> int:
    fake = Staged()
    broken = os.environ.get("BROKEN")
    if broken:
        fake.broken[broken] = DataError(f"{broken}: there is nothing in it", fix="look at it")
    view.View, view.PAUSE = Watched, 0.02
    # Whoever is slow because others compute is not killed, and a second Ctrl-C is one at once.
    signals.GRACE, signals.TWICE = 600, 0.0
    work = partial(main_inner, engines=fake.engines(), apart=True)
    return guarded("staged", work, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
