"""The one handler of all errors: whatever a command raises becomes a message and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.signals import Stopped
from neurostorm_app.bids_app.streams import open_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["guarded"]


def guarded(prog: str, inner: Any, argv: Sequence[str] | None) -> int:
    """Call the inner function of a command; the one handler of all errors."""
    open_streams()
    try:
        return int(inner(argv))
    except (Exception, KeyboardInterrupt, Stopped) as error:  # noqa: BLE001  the one handler
        failure = as_app_error(error)
        print(f"{prog}: {failure.what}\n  what to do: {failure.fix}", file=sys.stderr)
        return int(failure.exit_code)
