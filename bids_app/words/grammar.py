"""A parser of words whose errors are ours, for both commands.

It stands apart from the options, whose checks take longer to import than a help takes to print.
"""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from neurostorm_app.bids_app.words.suggestions import suggest_option
from neurostorm_app.bids_app.words.values import closest
from neurostorm_app.errors import UsageError

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise our error instead of leaving with argparse's code."""
        hint = ""
        if "required: BIDS_DIR" in message or "required: OUTPUT_DIR" in message:
            hint = "write BIDS_DIR OUTPUT_DIR LEVEL first, options after them"
        if unknown := re.search(r"unrecognized arguments: .*?(--?\w\S*)", message):
            hint = suggest_option(unknown[1], self)
        if choice := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message):
            hint = closest(choice[1], re.findall(r"[\w-]+", choice[2]))
        raise UsageError(message, fix=hint or f"see {self.prog} --help")
