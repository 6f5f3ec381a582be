"""Where options come from besides the command line: a configuration file or an invocation.

A configuration file holds some of the options, in TOML; the command line wins over it. An
invocation holds a whole call, in JSON, by the ids of the descriptor that ``--bids-exec-spec``
prints.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.settings import GROUPS
from neurostorm_app.bids_app.words.compat import FOREIGN
from neurostorm_app.bids_app.words.values import closest
from neurostorm_app.errors import InvocationError, NoInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "IDS",
    "PLACES",
    "find_invocation",
    "input_id",
    "read_config",
    "read_invocation",
]

PLACES: Final = {
    "InputDataset": "bids_dir",
    "OutputLocation": "output_dir",
    "AnalysisLevel": "level",
}
"""Ids of BIDS Apps 2.0, and what they are called here."""
IDS: Final = {
    "participant_label": "ParticipantLabel",
    "session_label": "SessionLabel",
    "task_label": "TaskLabel",
    "run_label": "RunLabel",
}
"""Ids that BIDS Apps 2.0 reserves for filters; the others are the names of the options."""
FIELDS: Final = {field: group for group, model in GROUPS.items() for field in model.model_fields}
"""The group of each option."""


def input_id(flag: str) -> str:
    """Make the id of an option in the descriptor and in invocations.

    Examples
    --------
    >>> input_id("--participant-label"), input_id("--random-seed")
    ('ParticipantLabel', 'random_seed')
    """
    name = flag.lstrip("-").replace("-", "_")
    return IDS.get(name, name)


def find_invocation(words: Sequence[str]) -> Path | None:
    """Find the invocation file that replaces the command line.

    Parameters
    ----------
    words : sequence of str
        Of the command line.

    Raises
    ------
    InvocationError
        If there is anything beside it.
    UsageError
        If the file is not named.
    """
    named = [n for n, word in enumerate(words) if word.partition("=")[0] == "--invocation"]
    if not named:
        return None
    _, equals, name = words[named[0]].partition("=")
    own = 1 if equals else 2
    if len(words) > own:
        others = [word for n, word in enumerate(words) if not named[0] <= n < named[0] + own]
        raise InvocationError(
            f"--invocation came together with other arguments: {' '.join(others)}",
            fix="write them into the file, or call without --invocation",
        )
    name = name if equals else "".join(words[1:])
    if not name:
        raise UsageError("--invocation names no file", fix="write --invocation FILE")
    return Path(name)


def read_invocation(path: Path) -> dict[str, Any]:
    """Read an invocation: the JSON of argument values, as for Boutiques.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        ``bids_dir``, ``output_dir``, ``level`` and options by field name; options of other apps by
        ``foreign FLAG``; and ``--help`` and the like, by the flag, where the file asks for that.

    Raises
    ------
    NoInputError
        If there is no such file.
    UsageError
        If it is not such JSON, or an id is not known.
    """
    try:
        content = json.loads(_read(path, "--invocation").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--invocation: {path} is not JSON: {error}", fix="write one object of ids and values"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(
            f"--invocation: {path} holds a {type(content).__name__}; expected an object",
            fix='write {"InputDataset": ["/data/bids"], "OutputLocation": ...}',
        )
    known = _known_ids()
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in known:
            raise UsageError(
                f"--invocation: {path} has the id {name!r}, which is not one of ours",
                fix=closest(name, known) or "neurostorm-app --bids-exec-spec shows all ids",
            )
        target = known[name]
        if value is None or (value is False and target not in FIELDS):
            continue
        if target in values:
            raise UsageError(
                f"--invocation: {path} gives {target!r} a second time, as {name!r}",
                fix="keep one of them",
            )
        values[target] = value
    if not {"--help", "--version", "--bids-exec-spec"} & values.keys():
        _check_places(values, path)
    return values


def _known_ids() -> dict[str, str]:
    """Tell what each id stands for; options may also be called by the name of their field."""
    known = {**PLACES, "Help": "--help", "ToolVersion": "--version"}
    known |= {"bids_exec_spec": "--bids-exec-spec", "config_file": "config_file"}
    known |= {name: name for name in PLACES.values()}
    known |= {name: name for name in FIELDS}
    known |= {label: name for name, label in IDS.items()}
    return known | {
        input_id(flag): f"foreign {foreign.flags[0]}"
        for foreign in FOREIGN
        for flag in foreign.flags
    }


def _check_places(values: dict[str, Any], path: Path) -> None:
    """Bring the three arguments that every call has to one word each."""
    for name, field in PLACES.items():
        given = values.get(field)
        given = given[0] if isinstance(given, list) and len(given) == 1 else given
        if not isinstance(given, str) or not given:
            raise UsageError(
                f"--invocation: {path}: {name} is {given!r}; expected one path or word",
                fix="give InputDataset, OutputLocation and AnalysisLevel, one value each",
            )
        values[field] = given


def read_config(path: Path) -> dict[str, Any]:
    """Read options from a TOML file: by their names, with dashes or underscores.

    Parameters
    ----------
    path : Path
        The file. Sections are optional: ``[selection]``, ``[science]``, ``[prediction]``,
        ``[execution]``.

    Returns
    -------
    dict
        By field name.

    Raises
    ------
    NoInputError
        If there is no such file.
    UsageError
        If it is not TOML, an option is not known, stands twice or in a wrong section.
    """
    try:
        content = tomllib.loads(_read(path, "--config-file").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--config-file: {path} is not TOML: {error}",
            fix='write one option a line, such as random-seed = 7 or models = ["connectome"]',
        ) from error
    values: dict[str, Any] = {}
    for section, key, value in _lines(content):
        field = key.replace("-", "_")
        place = f"[{section}] {key}" if section else key
        if field not in FIELDS:
            raise UsageError(
                f"--config-file: {path}: there is no option {place!r}",
                fix=closest(field, [*FIELDS, *GROUPS]) or "docs/options.md lists them",
            )
        if section and FIELDS[field] != section:
            raise UsageError(
                f"--config-file: {path}: {place} stands in the wrong section",
                fix=f"put it below [{FIELDS[field]}], or above all sections",
            )
        if field in values:
            raise UsageError(
                f"--config-file: {path}: {place} is there a second time", fix="keep one of them"
            )
        values[field] = value
    return values


def _lines(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield section, key and value; the section is empty for what stands above all."""
    for key, value in content.items():
        if key in GROUPS and isinstance(value, dict):
            yield from ((key, name, inner) for name, inner in value.items())
        else:
            yield "", key, value


def _read(path: Path, option: str) -> bytes:
    if not path.is_file():
        raise NoInputError(f"{option}: {path} is no file", fix="check the path; is it mounted?")
    return path.read_bytes()
