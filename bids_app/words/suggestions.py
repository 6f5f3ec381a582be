"""What somebody may have meant: suggestions for options, values and labels that are not there."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.words.values import closest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["ASKED", "suggest_label", "suggest_option", "suggest_value"]

ASKED: Final = {
    "session_label": "ses",
    "task_label": "task",
    "run_label": "run",
    "echo_label": "echo",
}
"""Labels that stand in file names, by the option that selects them."""
MOST: Final = 20
"""Participants whose file names are looked at; those of the others are like them."""


def suggest_option(word: str, parser: argparse.ArgumentParser) -> str:
    """Suggest the option that somebody may have meant; an empty string if none is near.

    Parameters
    ----------
    word : str
        As it was typed.
    parser : ArgumentParser
        Its options and those of its verbs are looked at.
    """
    typed = word.partition("=")[0].replace("_", "-")
    return closest(typed, dict.fromkeys(_flags(parser)))


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser and of all parsers in it, in one spelling."""
    for action in parser._actions:  # noqa: SLF001
        yield from (flag for flag in action.option_strings if "_" not in flag)
        if action.nargs == "A..." and isinstance(action.choices, dict):
            for verb in action.choices.values():
                yield from _flags(verb)


def suggest_value(value: object, message: str) -> str:
    r"""Suggest a value that is allowed; an empty string if none is near.

    Parameters
    ----------
    value : object
        What was given.
    message : str
        Why it was refused: it names what is allowed, in quotes or as a pattern.

    Examples
    --------
    >>> suggest_value("fp23", "Input should be 'fp32', 'tf32' or 'bf16'")
    'did you mean fp32?'
    >>> suggest_value("cuad", r"String should match pattern '^(auto|cpu|cuda(:\d+)?)$'")
    'did you mean cuda?'
    """
    if "pattern" in message:
        known = re.findall(r"(?<![\\\[\w-])[a-z]+(?::[a-z]+)?", message.partition("pattern")[2])
    else:
        known = re.findall(r"'([\w.+-]+)'", message)
    return closest(str(value), dict.fromkeys(known))


def suggest_label(
    root: Path, asked: Mapping[str, tuple[str, ...]], *, names: Iterable[str] = ()
) -> str:
    """Suggest labels of sessions, tasks, runs and echoes for those that no file has.

    Parameters
    ----------
    root : Path
        The dataset.
    asked : mapping of str to tuple of str
        Labels by the option that they were given to.
    names : iterable of str
        Further runs that are there, such as those of a derivative.

    Returns
    -------
    str
        Empty if all that was asked is there.
    """
    there = list(names)
    there += [
        path.name
        for folder in islice(sorted(root.glob("sub-*")), MOST)
        for depth in ("func", "ses-*/func")
        for path in folder.glob(f"{depth}/*_bold.nii*")
    ]
    said = []
    for field, key in ASKED.items():
        found = {m[1] for name in there for m in re.finditer(rf"_{key}-([^_.]+)", name)}
        for label in asked.get(field, ()):
            # Runs and echoes are compared as numbers.
            if label.lstrip("0") not in {name.lstrip("0") for name in found}:
                option = "--" + field.replace("_", "-")
                some = ", ".join(sorted(found)[:10]) or "none"
                near = closest(label, sorted(found))
                said.append(f"{option} {label}: {near or f'there are {some}'}")
    return "; ".join(said)
