"""The command line: flags to settings, errors to exit codes, no logic.

`main` catches, `main_inner` raises, so that tests can look at the error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.bids_app.settings import Prediction, build_settings
from neurostorm_app.bids_app.signals import Listening, Stopped, run_apart
from neurostorm_app.bids_app.words.compat import FOREIGN
from neurostorm_app.bids_app.words.invocation import (
    PLACES,
    find_invocation,
    read_config,
    read_invocation,
)
from neurostorm_app.bids_app.words.parser import build_parser
from neurostorm_app.bids_app.words.suggestions import suggest_option
from neurostorm_app.bids_app.words.values import LEVELS
from neurostorm_app.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from neurostorm_app.bids_app.engines import Engines
    from neurostorm_app.bids_app.settings import Settings

__all__ = [
    "Asked",
    "build_parser",
    "main",
    "main_inner",
    "parse",
    "read_call",
]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks for, as it was typed.

    Parameters
    ----------
    bids_dir, output_dir, level : str
        The three arguments.
    options : dict
        By field name.
    notes : list of str
        What to tell the user about options that do nothing here.
    """

    bids_dir: str
    output_dir: str
    level: str
    options: dict[str, Any]
    notes: list[str]

    def settings(self) -> Settings:
        """Check everything."""
        return build_settings(self.bids_dir, self.output_dir, self.level, self.options)


def parse(argv: Sequence[str]) -> tuple[Settings, list[str]]:
    """Bring the command line to settings.

    Returns
    -------
    Settings
        Checked.
    list of str
        What to tell the user about options that do nothing here.

    Raises
    ------
    UsageError
        If an option is unknown, refused, or its value is not allowed.
    """
    asked = read_call(argv)
    return asked.settings(), asked.notes


def read_call(argv: Sequence[str]) -> Asked:
    """Read the command line, or the invocation instead of it, and the configuration file.

    Raises
    ------
    InvocationError
        If an invocation and arguments came together.
    UsageError
        If an option is unknown or refused.
    """
    parser = build_parser()
    invocation = find_invocation(argv)
    if invocation is None:
        known, unknown = parser.parse_known_args(argv)
        values = vars(known)
        if unknown:
            _refuse_unknown(parser, unknown)
    else:
        values = read_invocation(invocation)
        for flag in values.keys() & {"--help", "--version", "--bids-exec-spec"}:
            parser.parse_args([flag])  # prints, and leaves
    notes = _note_foreign(values)
    bids_dir, output_dir, level = (values.pop(name) for name in PLACES.values())
    if (file := values.pop("config_file", None)) is not None:
        values = _configured(Path(str(file)), level, notes) | values
    return Asked(bids_dir, output_dir, level, values, notes)


def _note_foreign(values: dict[str, Any]) -> list[str]:
    """Take out the options of other apps; refuse those that cannot be honoured."""
    notes = []
    for foreign in FOREIGN:
        if values.pop(f"foreign {foreign.flags[0]}", None) is None:
            continue
        if foreign.refused:
            raise UsageError(
                f"{foreign.flags[0]} cannot be honoured: {foreign.why}", fix="leave it out"
            )
        notes.append(f"{foreign.flags[0]} does nothing: {foreign.why}")
    return notes


def _configured(file: Path, level: str, notes: list[str]) -> dict[str, Any]:
    """Read the configuration file; one file may serve both levels."""
    values = read_config(file)
    aside = [name for name in values if name in Prediction.model_fields or name == "shard"]
    if aside and LEVELS.get(level) == "participant":
        notes.append(f"{file}: {', '.join(aside)}: of the group level, and not used at this one")
        values = {name: value for name, value in values.items() if name not in aside}
    return values


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    word = next((word for word in unknown if word.startswith("-")), unknown[0])
    raise UsageError(
        f"no such option: {word!r}" if word.startswith("-") else f"one argument too many: {word!r}",
        fix=suggest_option(word, parser) or "see neurostorm-app --help",
    )


def main_inner(
    argv: Sequence[str] | None = None, *, engines: Engines | None = None, apart: bool = False
) -> ExitCode:
    """Run the app; errors are raised.

    Parameters
    ----------
    argv : sequence of str, optional
        Words of the command line; those of this process by default.
    engines : Engines, optional
        The doors to the pipelines; the real ones by default.
    apart : bool
        Do the work in a process of its own; see `run_apart`.

    Returns
    -------
    ExitCode
        Of the worst run; success if all runs have their results.
    """
    asked = read_call(sys.argv[1:] if argv is None else argv)
    work = partial(_work, asked, engines)
    if apart:
        return ExitCode(run_apart(work, output_dir=Path(asked.output_dir)))
    with Listening():
        return work()


def _work(asked: Asked, engines: Engines | None) -> ExitCode:
    """Do what was asked."""
    settings = asked.settings()

    from neurostorm_app.bids_app.app import run_app
    from neurostorm_app.bids_app.logs import Loudness
    from neurostorm_app.bids_app.progress.view import following

    execution = settings.execution
    with following(execution.loudness) as board:
        try:
            result = run_app(settings, engines=engines, notes=asked.notes, given=asked.options)
        except Stopped as stopped:
            stopped.kept = board.kept()
            raise
    if execution.loudness > Loudness.QUIET or execution.dry_run or result.exit_code:
        print(result.summary())
    return result.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app and turn every error into a message and an exit code."""
    return guarded("neurostorm-app", partial(main_inner, apart=argv is None), argv)


if __name__ == "__main__":
    sys.exit(main())
