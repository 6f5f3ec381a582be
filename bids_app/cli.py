"""The command line: flags to settings, errors to exit codes, no logic.

The parser is built from the fields of `settings`, so that flag, setting and help cannot
drift apart. `main` catches, `main_inner` raises, so that tests can look at the error.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, get_args, get_origin

from neurostorm_app.bids_app.compat import FOREIGN
from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.settings import GROUPS, Flag, build_settings
from neurostorm_app.bids_app.values import closest
from neurostorm_app.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo

    from neurostorm_app.bids_app.engines import Engines
    from neurostorm_app.bids_app.settings import Settings

__all__ = ["Parser", "build_parser", "guarded", "main", "main_inner", "parse"]

DESCRIPTION: Final = (
    "Foundation-model embeddings of fMRI: from raw scans or fMRIPrep derivatives to BIDS "
    "derivatives, an index of runs and reports. Offline; the input is never written to."
)
EPILOG: Final = """examples:
  neurostorm-app /data/bids /data/out participant --models connectome
  neurostorm-app /data/bids /data/out participant -d fmriprep=/data/fmriprep
  neurostorm-app /data/bids /data/out group

exit codes: 0 done, 16 invalid BIDS, 17 unknown level, 18 nothing selected, 64 wrong command
line, 65 unusable data, 66 no input, 73 cannot write, 74 input/output error, 75 try again,
1 anything else. Models, phantoms and searching: neurostorm-tools --help"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise our error instead of leaving with argparse's code."""
        hint = ""
        if "required: BIDS_DIR" in message or "required: OUTPUT_DIR" in message:
            hint = "write BIDS_DIR OUTPUT_DIR LEVEL first, options after them"
        if choice := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message):
            hint = closest(choice[1], re.findall(r"[\w-]+", choice[2]))
        raise UsageError(message, fix=hint or f"see {self.prog} --help")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help without the underscore spellings, and with what a list takes said once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=96)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = [flag for flag in action.option_strings if "_" not in flag]
        if not shown:
            return super()._format_action_invocation(action)
        values = "" if action.nargs == 0 else " " + self._format_args(action, "X")
        return ", ".join(shown) + values


class _Version(argparse.Action):
    """Print the version; it is looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from neurostorm_app import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Build the parser from the fields of the settings."""
    parser = Parser(
        prog="neurostorm-app",
        usage="%(prog)s BIDS_DIR OUTPUT_DIR {participant,group} [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", metavar="BIDS_DIR", help="the dataset; it is only read")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="folder of the results")
    parser.add_argument(
        "level", metavar="LEVEL", help="participant (subject, session, run) or group (dataset)"
    )
    version: dict[str, Any] = {"nargs": 0, "dest": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    parser.add_argument("--version", action=_Version, help="print the version", **version)
    for model in GROUPS.values():
        group = parser.add_argument_group(textwrap.shorten(str(model.__doc__), 60).rstrip("."))
        for name, field in model.model_fields.items():
            _add_field(group, name, field)
    group = parser.add_argument_group("options of other BIDS apps that do nothing here")
    for foreign in FOREIGN:
        options: dict[str, Any] = {"action": "store_true"}
        if foreign.nargs:
            options = {"nargs": foreign.nargs, "metavar": "X", "const": True}
        if foreign.nargs != "?":
            options.pop("const", None)
        group.add_argument(
            *_spellings(foreign.flags),
            dest=f"foreign {foreign.flags[0]}",
            default=None,
            help=argparse.SUPPRESS if foreign.refused else foreign.why,
            **options,
        )
    return parser


def _spellings(flags: Sequence[str]) -> list[str]:
    """Add the underscore spelling, as fMRIPrep's users type it, to each long flag."""
    both = [s for flag in flags for s in (flag, "--" + flag.removeprefix("--").replace("-", "_"))]
    return list(dict.fromkeys(s for s in both if not s.startswith("--_")))


def _add_field(group: Any, name: str, field: FieldInfo) -> None:
    flag = next((m for m in field.metadata if isinstance(m, Flag)), Flag())
    flags = ["--" + name.replace("_", "-"), *flag.aliases]
    short = [f for f in flags if not f.startswith("--")]
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
    options["help"] = " ".join((field.description or "").split()).replace("%", "%%")
    if field.annotation is bool:
        options["action"] = "store_true"
    elif name == "verbose":
        options["action"] = "count"
    else:
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        options["metavar"] = flag.metavar or "|".join(choices)
        if get_origin(field.annotation) in {tuple, Mapping}:
            options["nargs"] = "+"
        if field.default not in (None, (), {}):
            default = field.default
            shown = " ".join(default) if isinstance(default, tuple) else default
            options["help"] += f" Default: {shown}."
    group.add_argument(*short, *_spellings([f for f in flags if f not in short]), **options)


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
    parser = build_parser()
    known, unknown = parser.parse_known_args(argv)
    values = vars(known)
    if unknown:
        _refuse_unknown(parser, unknown)
    notes = []
    for foreign in FOREIGN:
        if values.pop(f"foreign {foreign.flags[0]}") is None:
            continue
        if foreign.refused:
            raise UsageError(
                f"{foreign.flags[0]} cannot be honoured: {foreign.why}", fix="leave it out"
            )
        notes.append(f"{foreign.flags[0]} does nothing: {foreign.why}")
    bids_dir, output_dir, level = (values.pop(n) for n in ("bids_dir", "output_dir", "level"))
    return build_settings(bids_dir, output_dir, level, values), notes


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    word = next((word for word in unknown if word.startswith("-")), unknown[0])
    flags = [s for action in parser._actions for s in action.option_strings]  # noqa: SLF001
    raise UsageError(
        f"no such option: {word!r}" if word.startswith("-") else f"one argument too many: {word!r}",
        fix=closest(word.partition("=")[0], flags) or "see neurostorm-app --help",
    )


def main_inner(argv: Sequence[str] | None = None, *, engines: Engines | None = None) -> ExitCode:
    """Run the app; errors are raised.

    Parameters
    ----------
    argv : sequence of str, optional
        Words of the command line; those of this process by default.
    engines : Engines, optional
        The doors to the pipelines; the real ones by default.

    Returns
    -------
    ExitCode
        Of the worst run; success if all runs have their results.
    """
    settings, notes = parse(sys.argv[1:] if argv is None else argv)

    from neurostorm_app.bids_app.app import run_app
    from neurostorm_app.bids_app.logs import to_terminal

    to_terminal(settings.execution.verbose)
    result = run_app(settings, engines=engines, notes=notes)
    print(result.summary())
    return result.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app and turn every error into a message and an exit code."""
    return guarded("neurostorm-app", main_inner, argv)


def guarded(prog: str, inner: Any, argv: Sequence[str] | None) -> int:
    """Call the inner function of a command; the one handler of all errors."""
    try:
        return int(inner(argv))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the one handler
        failure = as_app_error(error)
        print(f"{prog}: {failure.what}\n  what to do: {failure.fix}", file=sys.stderr)
        return int(failure.exit_code)


if __name__ == "__main__":
    sys.exit(main())
