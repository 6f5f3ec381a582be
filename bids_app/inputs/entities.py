"""BIDS names taken apart and filtered: pure strings, before any disk is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.words.values import LABEL, closest
from neurostorm_app.errors import DataError, NoInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from neurostorm_app.bids_app.settings import Selection

__all__ = ["Filters", "check_clashes", "check_length", "matches", "parse_name", "read_filters"]

LONG: Final = {
    "acquisition": "acq",
    "ceagent": "ce",
    "density": "den",
    "description": "desc",
    "direction": "dir",
    "echo": "echo",
    "part": "part",
    "reconstruction": "rec",
    "resolution": "res",
    "run": "run",
    "session": "ses",
    "space": "space",
    "subject": "sub",
    "task": "task",
}
"""Names of entities as PyBIDS and filter files write them, and as file names do."""
KEYS: Final = {**LONG, **{short: short for short in LONG.values()}}
IGNORED: Final = frozenset({"datatype", "suffix", "extension", "scope"})
NUMBERS: Final = frozenset({"run", "echo"})
STEM: Final = re.compile(r"(?:[a-z]+-[0-9A-Za-z+]+_)+[0-9A-Za-z]+")
FOLDER: Final = re.compile(r"(sub|ses)-([0-9A-Za-z+]+)")
ADDED: Final = frozenset({"space", "res", "den", "desc", "atlas", "label", "from", "to", "mode"})
"""Entities that a derivative adds to the name of its source."""
SOURCE_MAX: Final = 140
"""Letters of the name of a source; those of its outputs must stay under 255."""
FILTER_MAX: Final = 2**20

Filters = Mapping[str, Any]
"""Entity to the value or values it must have; None for no such entity, ``*`` for any."""


def parse_name(path: Path) -> dict[str, str]:
    """Take a BIDS file name apart.

    Returns
    -------
    dict
        Entities by their short names in the order of the name, then ``suffix``.

    Raises
    ------
    DataError
        If the name is not made of ``key-label`` pairs; such a name never reaches an output.

    Examples
    --------
    >>> from pathlib import Path
    >>> parse_name(Path("sub-01_task-rest_bold.nii.gz"))
    {'sub': '01', 'task': 'rest', 'suffix': 'bold'}
    """
    stem = path.name.partition(".")[0]
    if not STEM.fullmatch(stem):
        raise DataError(
            f"{path.name!r} is not a BIDS name; expected key-label pairs of letters, digits and +",
            fix="rename the file as BIDS says, or leave it out",
        )
    *pairs, suffix = stem.split("_")
    entities = dict(pair.split("-", 1) for pair in pairs)
    if len(entities) < len(pairs):
        raise DataError(f"{path.name!r} names an entity twice", fix="rename the file as BIDS says")
    _check_folder(path, entities)
    check_length(path, [pair for pair in pairs if pair.split("-")[0] not in ADDED])
    return {**entities, "suffix": suffix}


def check_length(path: Path, pairs: Iterable[str]) -> None:
    """Refuse an image whose results would have names that no disk takes.

    Parameters
    ----------
    path : Path
        The image.
    pairs : iterable of str
        Those parts of its name that names of results begin with.

    Raises
    ------
    DataError
        If they are too long.
    """
    length = sum(len(pair) + 1 for pair in pairs)
    if length > SOURCE_MAX:
        raise DataError(
            f"{path.name!r} has {length} letters before its suffix; expected {SOURCE_MAX} at most, "
            "since names of results are longer and no disk takes more than 255",
            fix="shorten its labels",
        )


def _check_folder(path: Path, entities: Mapping[str, str]) -> None:
    """Refuse an image in the folder of another participant or session."""
    for folder in reversed(path.parts[:-1]):
        match = FOLDER.fullmatch(folder)
        if match and entities.get(match[1], match[2]) != match[2]:
            raise DataError(
                f"{path.name!r} lies in the folder {folder}; expected one label in both",
                fix="move or rename the file: its results would go to another participant",
            )
        if match and match[1] == "sub":
            return


def check_clashes(paths: Iterable[Path]) -> dict[Path, DataError]:
    """Find images that would give one name to the results of two.

    Parameters
    ----------
    paths : iterable of Path
        Images of one suffix.

    Returns
    -------
    dict
        An error for each image that another one equals but for upper and lower case, leading
        zeros of its run or echo, or its extension.
    """
    alike: dict[tuple[tuple[str, str], ...], list[Path]] = {}
    for path in paths:
        pairs = ((k, _canonical(k, v).casefold()) for k, v in parse_name(path).items())
        alike.setdefault(tuple(sorted(pairs)), []).append(path)
    return {
        path: DataError(
            f"{path.name!r} and {other.name!r} are one name to a disk or to BIDS: upper and lower "
            "case, leading zeros and extensions tell no two runs apart",
            fix="leave one of them out, or rename it",
        )
        for group in alike.values()
        for path, other in zip(group, [*group[1:], group[0]], strict=True)
        if len(group) > 1
    }


def matches(entities: Mapping[str, str], filters: Filters) -> bool:
    """Tell whether a name passes all filters; runs and echoes compare as numbers."""
    return all(_passes(key, entities.get(key), wanted) for key, wanted in filters.items())


def _passes(key: str, value: str | None, wanted: Any) -> bool:
    if wanted is None:
        return value is None
    if wanted == "*":
        return value is not None
    options = wanted if isinstance(wanted, list | tuple) else [wanted]
    if None in options and value is None:
        return True
    if value is None:
        return False
    same = {_canonical(key, str(option)) for option in options if option is not None}
    return "*" in same or _canonical(key, value) in same


def _canonical(key: str, value: str) -> str:
    return str(int(value)) if key in NUMBERS and value.isdigit() else value


def read_filters(selection: Selection) -> dict[str, dict[str, Any]]:
    """Bring the selection options and the filter file to filters.

    Returns
    -------
    dict
        Filters of ``bold``, ``t1w``, ``sbref`` and ``fmap`` files. Labels given as options hold
        for BOLD files;
        a file without the entity stays only where the option names a run.

    Raises
    ------
    NoInputError, UsageError
        If the filter file is not there or not usable.
    """
    queries = _read_filter_file(selection.bids_filter_file)
    bold = dict(queries.get("bold", {}))
    given = {
        "ses": selection.session_label,
        "task": selection.task_label,
        "run": selection.run_label,
        "echo": selection.echo_label,
    }
    for key, labels in given.items():
        if labels and key in bold:
            raise UsageError(
                f"{key} is selected by an option and by {selection.bids_filter_file}",
                fix="say it in one place",
            )
        if labels:
            # BIDS Apps 2.0: a file that lacks the run entity stays selected.
            bold[key] = [*labels, None] if key == "run" else list(labels)
    others = {name: dict(queries.get(name, {})) for name in ("t1w", "sbref", "fmap")}
    return {"bold": bold, **others}


def _read_filter_file(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None:
        return {}
    if not path.is_file():
        raise NoInputError(f"--bids-filter-file: {path} does not exist", fix="check the path")
    if path.stat().st_size > FILTER_MAX:
        raise UsageError(f"{path} is larger than 1 MiB: no filter file is", fix="check the path")
    try:
        queries = json.loads(path.read_text(encoding="utf-8-sig"))
    except PermissionError as error:
        raise NoInputError(
            f"{path}: this user may not read the filter file", fix="ask for the permission"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", fix="repair the file") from error
    if not isinstance(queries, dict) or not all(isinstance(q, dict) for q in queries.values()):
        raise UsageError(
            f"{path}: expected an object of queries, each an object of entities",
            fix='write for example {"bold": {"task": "rest"}}',
        )
    return {name: _checked_query(path, name, query) for name, query in queries.items()}


def _checked_query(path: Path, name: str, query: Mapping[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for key, wanted in query.items():
        if key in IGNORED:
            continue
        if key not in KEYS:
            raise UsageError(
                f"{path}: {name}: {key!r} is not an entity",
                fix=closest(key, KEYS) or f"use one of {', '.join(sorted(LONG))}",
            )
        for value in wanted if isinstance(wanted, list) else [wanted]:
            allowed = value is None or value == "*" or LABEL.fullmatch(str(value))
            if isinstance(value, bool) or not allowed:
                raise UsageError(
                    f"{path}: {name}: {key}: {value!r} is not a BIDS label",
                    fix='expected letters, digits and +, or null or "*"',
                )
        checked[KEYS[key]] = wanted
    return checked
