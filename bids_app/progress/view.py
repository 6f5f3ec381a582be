"""The live view of a call on a terminal, above which messages scroll by."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from neurostorm_app.bids_app.logs import Loudness, to_terminal
from neurostorm_app.bids_app.progress.board import Board
from neurostorm_app.bids_app.progress.memory import resident_memory
from neurostorm_app.bids_app.progress.stray import Stray
from neurostorm_app.pipelines.progress import listening

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TextIO

    from rich.console import Console

__all__ = ["View", "following", "wants_view"]

log = logging.getLogger(__name__)

PAUSE: Final = 0.5
"""Seconds between two pictures."""
WEIGHED: Final = 2.0
"""Seconds between two looks at the memory, which asks the kernel for each process."""
DUMB: Final = frozenset({"", "dumb", "unknown"})
NO: Final = frozenset({"", "0", "false", "no"})


def wants_view(environ: Mapping[str, str]) -> bool:
    """Tell whether somebody looks at a terminal that can be drawn on.

    Parameters
    ----------
    environ : mapping of str to str
        Of the process. In continuous integration and in jobs of SLURM without a terminal of their
        own (``srun --pty``) nobody looks.
    """
    if not os.isatty(2):
        return False
    if environ.get("TERM", "").lower() in DUMB or environ.get("CI", "").lower() not in NO:
        return False
    return "SLURM_JOB_ID" not in environ or "SLURM_PTY_PORT" in environ


@contextlib.contextmanager
def following(loudness: int, environ: Mapping[str, str] | None = None) -> Iterator[Board]:
    """Show how far the call is until the end of the block: a live view, or lines.

    Parameters
    ----------
    loudness : int
        How much is said, as of `Loudness`.
    environ : mapping of str to str, optional
        Of this process by default.

    Yields
    ------
    Board
        What is known of the call.
    """
    board = Board()
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening(board))
        if loudness > Loudness.QUIET and wants_view(os.environ if environ is None else environ):
            # Whoever logs after the view writes to the terminal as before.
            stack.callback(to_terminal, loudness)
            view = stack.enter_context(View(board))
            to_terminal(loudness, show=view.show)
        else:
            to_terminal(loudness)
        yield board


class View:
    """Draws a board at the foot of the terminal, and keeps everybody else from writing there.

    Parameters
    ----------
    board : Board
        What is known of the call.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._stray = Stray()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw_on, name="view", daemon=True)
        self._memory, self._weighed = 0, 0.0

    def __enter__(self) -> Self:
        from rich.live import Live

        try:
            self._stray.__enter__()
            self._screen = self._stray.screen()
            self._console = _console(self._screen)
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
            self._thread.start()
        except BaseException:  # such as a signal: what is said of it is for the terminal
            self._over.set()
            self._stray.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._over.set()
            self._thread.join()
            self._tell_stray(last=True)
            self._draw()
            with contextlib.suppress(OSError):
                self._live.stop()
        finally:  # a signal may come here too
            self._stray.__exit__()
            self._tell_stray(last=True)
            self._stray.close()
            with contextlib.suppress(OSError):
                self._screen.close()

    def show(self, text: str) -> None:
        """Write a message above the view."""
        from rich.text import Text

        from neurostorm_app.bids_app.progress.drawing import clean

        lines = "\n".join(clean(line) for line in text.split("\n"))
        with contextlib.suppress(OSError):
            self._console.print(Text(lines), soft_wrap=True)

    def _draw_on(self) -> None:
        """Draw until the end; the body of the thread."""
        while not self._over.wait(PAUSE):
            self._tell_stray()
            self._draw()

    def _draw(self) -> None:
        from neurostorm_app.bids_app.progress.drawing import draw

        now = time.monotonic()
        if now - self._weighed > WEIGHED:
            self._memory, self._weighed = resident_memory(os.getpid()), now
        size = self._console.size
        picture = draw(
            self._board.snapshot(), memory=self._memory, width=size.width, height=size.height
        )
        with contextlib.suppress(OSError):  # the terminal may be gone, as after nohup
            self._live.update(picture, refresh=True)

    def _tell_stray(self, *, last: bool = False) -> None:
        """Log what others printed, so that it goes where messages go."""
        for line in self._stray.lines(last=last):
            if line.strip():
                log.info("printed: %s", line, extra={"step": True})


def _console(screen: TextIO) -> Console:
    """Open the terminal for drawing; the cursor stays visible, as a killed call leaves it so."""
    from rich.console import Console

    class Steady(Console):
        """Leaves the cursor alone."""

        def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002
            """Do nothing."""
            return False

    return Steady(file=screen, highlight=False, markup=False, emoji=False)
