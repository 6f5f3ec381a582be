"""Values of options that are more than a number or a word: labels, pairs, sizes, spaces.

Everything typed here may end in a file name, so it is checked before anything is opened.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import NoInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "SPACES",
    "check_label",
    "check_paths",
    "closest",
    "expand_labels",
    "named_paths",
    "parse_memory",
    "parse_space",
]

LABEL: Final = re.compile(r"[0-9A-Za-z+]+")
NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")
SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
PREFIXES: Final = {
    "participant_label": "sub-",
    "session_label": "ses-",
    "task_label": "task-",
    "run_label": "run-",
}
SPACES: Final = ("MNI152NLin6Asym:res-2", "MNI152NLin2009cAsym:res-2")
SURFACES: Final = ("fsaverage", "fsLR", "fsnative", "onavg")


def closest(word: str, among: Iterable[str]) -> str:
    """Suggest the nearest of some words; an empty string if none is near."""
    near = difflib.get_close_matches(word, list(among), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""


def check_label(label: str, where: str) -> str:
    """Return a BIDS label if it is one.

    Parameters
    ----------
    label : str
        What was given.
    where : str
        Where it was given, for the message.

    Raises
    ------
    UsageError
        If it holds anything but letters, digits and ``+``.
    """
    if not LABEL.fullmatch(label):
        raise UsageError(
            f"{where}: {label!r} is not a BIDS label; expected letters, digits and +",
            fix="give the label alone, such as 01 or rest, or a file with one label a line",
        )
    return label


def expand_labels(field: str, values: Iterable[str | Path]) -> tuple[str, ...]:
    """Bring a list of labels, or of files with one label a line, to a tuple of labels.

    Raises
    ------
    UsageError
        If a value is neither a label nor a file of labels.
    """
    option = "--" + field.replace("_", "-")
    prefix = PREFIXES[field]
    labels: list[str] = []
    for value in map(str, values):
        bare = value.removeprefix(prefix)
        if LABEL.fullmatch(bare):
            labels.append(bare)
        elif Path(value).is_file():
            lines = Path(value).read_text(encoding="utf-8-sig").split()
            labels += [check_label(line.removeprefix(prefix), value) for line in lines]
        else:
            check_label(bare, option)
    return tuple(dict.fromkeys(labels))


def named_paths(field: str, values: Iterable[str]) -> dict[str, Path]:
    """Split ``NAME=PATH``; for derivatives the name may be left out.

    Raises
    ------
    UsageError
        If a name is missing, not usable or given twice.
    """
    option = "--" + field.replace("_", "-")
    pairs: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals and field == "derivatives":
            name, path = Path(value).resolve().name, value
        elif not equals or not path:
            raise UsageError(
                f"{option}: got {value!r}; expected NAME=PATH",
                fix=f"write for example {option} neurostorm=/data/file",
            )
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{option}: {name!r} is not a name; expected letters, digits, '.', '_' and '-'",
                fix=f"write {option} NAME=PATH with such a name",
            )
        if name == "raw":
            raise UsageError(
                f"{option}: the name 'raw' stands for BIDS_DIR", fix="choose another name"
            )
        if name in pairs:
            raise UsageError(
                f"{option}: {name!r} is given twice: {pairs[name]} and {path}",
                fix="give each name once",
            )
        pairs[name] = Path(path).resolve()
    return pairs


def check_paths(field: str, pairs: Mapping[str, Path]) -> dict[str, Path]:
    """Refuse paths that do not exist.

    Raises
    ------
    NoInputError
        If one does not exist.
    """
    for name, path in pairs.items():
        if not Path(path).exists():
            raise NoInputError(
                f"--{field} {name}: {path} does not exist", fix="check the path; is it mounted?"
            )
        if field == "derivatives" and not Path(path).is_dir():
            raise NoInputError(
                f"--{field} {name}: {path} is a file; expected the folder of a derivative",
                fix="give the top folder, the one with the sub- folders in it",
            )
    return {name: Path(path).resolve() for name, path in pairs.items()}


def parse_memory(mem: str | None, mem_gb: float | None) -> int | None:
    """Bring ``--mem`` or ``--mem-gb`` to bytes.

    Examples
    --------
    >>> parse_memory("8G", None), parse_memory("8000", None), parse_memory(None, 0.5)
    (8589934592, 8388608000, 536870912)
    """
    if mem is None:
        return None if mem_gb is None else round(mem_gb * 2**30)
    match = SIZE.fullmatch(mem.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(
            f"--mem: {mem!r} is not a size", fix="write a number of MB, or for example 8G"
        )
    if mem_gb is not None:
        raise UsageError(
            f"--mem {mem} and --mem-gb {mem_gb:g} were both given", fix="give one of them"
        )
    unit = {"": 2, "K": 1, "M": 2, "G": 3, "T": 4}[match[2].upper()]
    return int(float(match[1]) * 1024.0**unit)


def parse_space(spaces: tuple[str, ...]) -> tuple[str, str]:
    """Bring ``--output-spaces`` to the space and the resolution index.

    Raises
    ------
    UsageError
        If it is not exactly one of ``SPACES``.
    """
    if len(spaces) != 1:
        raise UsageError(
            f"--output-spaces: got {' '.join(spaces)}; one space a call is made",
            fix="call once for each space; what they share is reused",
        )
    asked = spaces[0]
    if asked not in SPACES:
        surface = asked.partition(":")[0] in SURFACES
        raise UsageError(
            f"--output-spaces: {asked!r} is "
            + ("a surface, and surfaces are not made" if surface else "not a space we make"),
            fix=f"write {' or '.join(SPACES)}",
        )
    space, _, res = asked.partition(":res-")
    return space, res
