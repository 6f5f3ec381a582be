"""The standard streams of a process: those that its caller closed, as ``>&-`` does, and others."""

from __future__ import annotations

import io
import os
import sys
from typing import Final

__all__ = ["open_streams"]

MODES: Final = {"stdin": "r", "stdout": "w", "stderr": "w"}


def open_streams() -> None:
    r"""Let standard streams that are closed lead nowhere, and the others take any text.

    Numbers of closed ones are taken too, so that no file of ours gets one and is written to by a
    library. What a stream has no bytes for is written as ``\x..`` or ``\u....``: neither names of
    files nor the terminal need be UTF-8.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(MODES):
        os.set_inheritable(descriptor, True)  # noqa: FBT003  it takes no keyword
    os.close(descriptor)
    for name, mode in MODES.items():
        if getattr(sys, name) is None:  # so Python says it
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115, PTH123  for good
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
