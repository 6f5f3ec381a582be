"""Values of options that are more than a number or a word: labels, pairs, sizes, spaces.

Everything typed here may end in a file name, so it is checked before anything is opened.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from neurostorm_app.errors import AnalysisLevelError, NoInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from neurostorm_app.pipelines.stage import OutputSpace

__all__ = [
    "Level",
    "check_label",
    "check_paths",
    "closest",
    "expand_labels",
    "named_paths",
    "parse_level",
    "parse_memory",
    "parse_moment",
    "parse_spaces",
    "parse_whole",
]

Level = Literal["participant", "group"]
LEVELS: Final[dict[str, Level]] = {
    "participant": "participant",
    "subject": "participant",
    "session": "participant",
    "run": "participant",
    "group": "group",
    "dataset": "group",
}
"""Names of BIDS Apps 1.0 and 2.0; the second are other words for the first."""
LABEL: Final = re.compile(r"[0-9A-Za-z+]+")
NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")
SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
PREFIXES: Final = {
    "participant_label": "sub-",
    "session_label": "ses-",
    "task_label": "task-",
    "run_label": "run-",
    "echo_label": "echo-",
}
NATIVE: Final = frozenset({"native", "func", "run", "bold", "boldref", "sbref"})
ANATOMICAL: Final = frozenset({"T1w", "anat"})
SURFACES: Final = ("fsaverage", "fsLR", "fsnative", "onavg")
SPACE: Final = re.compile(r"(?P<name>\w+)(?::cohort-(?P<cohort>\w+))?(?::res-(?P<res>\w+))?")
MOMENTS: Final = {"start": 0.0, "middle": 0.5}


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


def parse_level(level: str) -> Level:
    """Bring the analysis level to one of ours.

    Raises
    ------
    AnalysisLevelError
        If it is not one that is known.
    """
    if level not in LEVELS:
        raise AnalysisLevelError(
            f"the analysis level is {level!r}; expected one of {', '.join(LEVELS)}",
            fix=closest(level, LEVELS) or "write participant or group",
        )
    return LEVELS[level]


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


def parse_whole(value: object) -> object:
    """Bring a whole number typed as text to a number; anything else is left for the check."""
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


def parse_moment(value: object) -> object:
    """Bring ``start`` and ``middle`` to the part of a volume's time that they stand for.

    Examples
    --------
    >>> parse_moment("middle"), parse_moment("0.3")
    (0.5, '0.3')
    """
    return MOMENTS.get(value, value) if isinstance(value, str) else value


def parse_spaces(asked: Iterable[str]) -> tuple[OutputSpace, ...]:
    """Bring ``--output-spaces`` to spaces, each once and in the order given.

    Parameters
    ----------
    asked : iterable of str
        ``SPACE[:cohort-N][:res-N]`` as fMRIPrep writes it. ``native``, ``func``, ``run``,
        ``bold``, ``boldref`` and ``sbref`` are one; ``anat`` is ``T1w``. A standard space without
        ``res`` has the voxels of the series, as ``res-native`` says.

    Returns
    -------
    tuple of OutputSpace
        At least one.

    Raises
    ------
    UsageError
        If one is a surface, or not a space that is known.

    Examples
    --------
    >>> [space.label for space in parse_spaces(["MNI152NLin6Asym:res-02", "anat", "func"])]
    ['MNI152NLin6Asym:res-2', 'T1w', 'native']
    """
    return tuple(dict.fromkeys(_parse_space(word) for word in asked))


def _parse_space(word: str) -> OutputSpace:
    from neurostorm_app.pipelines.stage import OutputSpace

    match = SPACE.fullmatch(word)
    name = match["name"] if match else word.partition(":")[0]
    if name.startswith(SURFACES) or ":den-" in word:
        raise _unknown_space(word, "is a surface, and surfaces are not made")
    if match is None:
        raise _unknown_space(word, "is not written as SPACE[:cohort-N][:res-N]")
    cohort, res = match["cohort"], match["res"]
    if name in NATIVE | ANATOMICAL:
        if cohort or (res and res != "native"):
            raise _unknown_space(word, "has the voxels of the scan, and neither cohort nor res")
        return OutputSpace(name="native" if name in NATIVE else "T1w")
    index = (res or "native").lstrip("0")
    known = _known_spaces()
    if name not in known:
        raise _unknown_space(word, "is not a space we make")
    if cohort:
        raise _unknown_space(word, f"names a cohort, and {name} has none")
    if index not in known[name]:
        raise _unknown_space(word, f"has a resolution that {name} does not have here")
    return OutputSpace(name=name, res=index)


def _known_spaces() -> dict[str, list[str]]:
    """Resolutions of each standard space."""
    from neurostorm_app.pipelines.grid import STANDARD_GRIDS

    known: dict[str, list[str]] = {}
    for name, res in STANDARD_GRIDS:
        known.setdefault(name, ["native"]).append(res)
    return known


def _unknown_space(word: str, why: str) -> UsageError:
    spaces = [f"{name}:res-{r}" for name, many in _known_spaces().items() for r in many]
    return UsageError(
        f"--output-spaces: {word!r} {why}",
        fix=closest(word, spaces) or f"write native, T1w, {', '.join(spaces)}",
    )
