"""The standard streams of a process whose caller closed them, as ``>&-`` of a shell does."""

from __future__ import annotations

import os
import sys
from typing import Final

__all__ = ["open_streams"]

MODES: Final = {"stdin": "r", "stdout": "w", "stderr": "w"}


def open_streams() -> None:
    """Let standard streams that are closed lead nowhere.

    Their numbers are taken too, so that no file of ours gets one and is written to by a library.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(MODES):
        os.set_inheritable(descriptor, True)  # noqa: FBT003  it takes no keyword
    os.close(descriptor)
    for name, mode in MODES.items():
        if getattr(sys, name) is None:  # so Python says it
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115, PTH123  for good
            setattr(sys, name, stream)
