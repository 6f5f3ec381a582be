"""The parser of the command line, built from the fields of the settings.

So flag, setting and help cannot drift apart.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, get_args, get_origin

from neurostorm_app.bids_app.settings import GROUPS, Flag
from neurostorm_app.bids_app.words.boutiques import ASKED, SUMMARY, descriptor_text
from neurostorm_app.bids_app.words.compat import FOREIGN
from neurostorm_app.bids_app.words.grammar import Parser
from neurostorm_app.bids_app.words.helps import read_helps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo

__all__ = ["build_parser"]

EPILOG: Final = """examples:
  neurostorm-app /data/bids /data/out participant --models connectome
  neurostorm-app /data/bids /data/out participant -d fmriprep=/data/fmriprep
  neurostorm-app /data/bids /data/out group

exit codes: 0 done, 16 invalid BIDS, 17 unknown level, 18 nothing selected, 19 invocation and
arguments, 64 wrong command line, 65 unusable data, 66 no input, 73 cannot write, 74 input/output
error, 75 try again (also after a signal), 1 anything else.

Models, phantoms and searching: neurostorm-tools --help"""


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

        sys.stdout.write(f"{parser.prog} {__version__}\n")
        parser.exit()


class _Descriptor(argparse.Action):
    """Print the descriptor."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        sys.stdout.write(descriptor_text())
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Build the parser from the fields of the settings."""
    parser = Parser(
        prog="neurostorm-app",
        usage="%(prog)s BIDS_DIR OUTPUT_DIR {participant,group} [options]",
        description=SUMMARY,
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
    _add_sources(parser)
    for model in GROUPS.values():
        group = parser.add_argument_group(textwrap.shorten(str(model.__doc__), 60).rstrip("."))
        helps = read_helps(model)
        for name, field in model.model_fields.items():
            _add_field(group, name, field, helps[name])
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


def _add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that are about the call itself."""
    nothing: dict[str, Any] = {"default": argparse.SUPPRESS}
    flags = _spellings(["--config-file"])
    parser.add_argument(*flags, metavar="FILE", help=ASKED["--config-file"], **nothing)
    text = "JSON of a whole call, by the ids of the descriptor; instead of all other arguments."
    parser.add_argument("--invocation", metavar="FILE", help=text, **nothing)
    nothing |= {"dest": argparse.SUPPRESS, "nargs": 0, "help": ASKED["--bids-exec-spec"]}
    parser.add_argument(*_spellings(["--bids-exec-spec"]), action=_Descriptor, **nothing)


def _spellings(flags: Sequence[str]) -> list[str]:
    """Add the underscore spelling, as fMRIPrep's users type it, to each long flag."""
    both = [s for flag in flags for s in (flag, "--" + flag.removeprefix("--").replace("-", "_"))]
    return list(dict.fromkeys(s for s in both if not s.startswith("--_")))


def _add_field(group: Any, name: str, field: FieldInfo, about: str) -> None:
    flag = next((m for m in field.metadata if isinstance(m, Flag)), Flag())
    flags = ["--" + name.replace("_", "-"), *flag.aliases]
    short = [f for f in flags if not f.startswith("--")]
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
    options["help"] = about.replace("%", "%%")
    if field.annotation is bool:
        options["action"] = (
            argparse.BooleanOptionalAction if field.default is True else "store_true"
        )
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
