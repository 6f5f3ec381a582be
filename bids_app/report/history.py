"""The section of provenance: what was computed when, from what, with which versions."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.panels import Fact, Notice, attempt
from neurostorm_app.bids_app.report.reading import finite, read_json

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["History", "Unit", "read_history"]

_PAGE = "report"
"""A page does not show how it was made itself: it would never be the same twice."""
_WORTH = 0.05
"""Seconds below which a step is not listed."""
_HOME = re.compile(r"(?<![\w>])(?:file://)?/(?:[^\s\"',:]+/)+")
"""Folders of a machine inside a text, which may hold a person's name; the file's own name stays,
and so do the folders of a dataset: no slash stands before them."""
_WHOLE = re.compile(r"(?:file://)?/.*")
"""A text that is an absolute path, whatever stands in its folders."""
_RUN = re.compile(r"^run0*(\d+)\.")
_FIELD = re.compile(r"^fmap0*(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One unit of work."""

    name: str
    started: str
    seconds: float | None
    memory: float | None
    key: str
    inputs: list[Fact]
    outputs: list[Fact]
    """Path of each file in the output tree, and its SHA-256."""
    settings: str
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds of each step of the piece of work, by its name in the record."""
    run: str = ""
    model: str = ""
    energy: dict[str, float] = field(default_factory=dict)
    """Joules by the counter that told them; none where nothing was measured."""
    together: int = 1
    """Units that one piece of work made, whose time this is."""

    @property
    def piece(self) -> Hashable:
        """What units of one piece of work have in common: its start, its time and its steps.

        Where moments are hidden, steps alone can tell; a unit without them is a piece of its own.
        """
        if not self.started and not self.steps:
            return self.name
        return self.started, self.seconds, tuple(sorted(self.steps.items()))


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """A step of the work, and its share of the longest one."""

    name: str
    seconds: float
    share: float


@dataclass(kw_only=True)
class History:
    """All that is recorded of a participant, or of the group."""

    units: list[Unit] = field(default_factory=list)
    stages: list[StageTime] = field(default_factory=list)
    versions: list[Fact] = field(default_factory=list)
    made_by: list[Fact] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    @property
    def peak(self) -> float | None:
        """Bytes of the largest process of all units; None where none was measured."""
        return max((unit.memory for unit in self.units if unit.memory), default=None)

    @property
    def seconds(self) -> float | None:
        """Time of all pieces of work, each once; None where none was measured."""
        pieces = {unit.piece: unit.seconds for unit in self.units if unit.seconds is not None}
        return sum(pieces.values()) if pieces else None

    @property
    def energy(self) -> str:
        """Energy of all pieces of work, each once, and which counters tell it."""
        timed = {unit.piece for unit in self.units if unit.seconds}
        pieces = {unit.piece: unit.energy for unit in self.units if unit.energy}
        if not pieces:
            return "not measured: no counter of the machine could be read"
        hours = sum(sum(joules.values()) for joules in pieces.values()) / 3600
        names = ", ".join(sorted({name for joules in pieces.values() for name in joules}))
        told = f"{hours:.3g} Wh, all that the machine took meanwhile ({names})"
        lacking = len(timed - pieces.keys())
        return told + (f"; not measured for {lacking} of {len(timed)}" if lacking else "")


def read_history(output_dir: Path, participant: str | None = None) -> History:
    """Read the records of the output tree.

    Parameters
    ----------
    output_dir : Path
        The output tree.
    participant : str or None
        Whose records, without ``sub-``; None takes those that name no participant.
    """
    history = History()
    versions: dict[str, str] = {}
    for path in sorted((output_dir / "prov").rglob("*.json")):
        if not _belongs(str(path.relative_to(output_dir)), participant):
            continue
        record = attempt(history.notices, lambda path=path: read_json(path))  # type: ignore[misc]
        if record and record.get("kind") != _PAGE:
            history.units.append(_unit(path.stem, record))
            found = record.get("versions")
            versions |= (
                {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
            )
    history.units = _count_together(history.units)
    stages = _stages(history.units)
    longest = max(stages.values(), default=0.0)
    history.stages = [
        StageTime(name=name, seconds=seconds, share=seconds / longest)
        for name, seconds in sorted(stages.items(), key=lambda pair: -pair[1])
        if seconds >= _WORTH
    ]
    history.versions = [Fact(label=k, value=v) for k, v in sorted(versions.items())]
    description = attempt(
        history.notices, lambda: read_json(output_dir / "dataset_description.json")
    )
    history.made_by = list(_generators((description or {}).get("GeneratedBy", [])))
    return history


def _stages(units: Iterable[Unit]) -> dict[str, float]:
    """Add up the seconds of the steps of all pieces of work, each piece once, by what they do."""
    pieces: dict[Hashable, list[Unit]] = {}
    for unit in units:
        pieces.setdefault(unit.piece, []).append(unit)
    total: dict[str, float] = {}
    for name, seconds in (step for made in pieces.values() for step in _of_piece(made)):
        total[name] = total.get(name, 0.0) + seconds
    return total


def _of_piece(units: Sequence[Unit]) -> Iterable[tuple[str, float]]:
    """Name the steps of a piece of work; embeddings are one step each.

    A piece counts its runs from 0. Where it had one run alone, that run's name is known.
    """
    unit = units[0]
    runs = sorted({_short(unit.run) for unit in units if unit.run})
    if not unit.steps and unit.seconds is not None and unit.model:
        yield "".join([*(f"{run}: " for run in runs), f"embed {unit.model}"]), unit.seconds
    alone = len(runs) == 1 and len({n for name in unit.steps for n in _RUN.findall(name)}) == 1
    for name, seconds in unit.steps.items():
        words = _RUN.sub(lambda m: f"{runs[0] if alone else f'run {int(m[1]) + 1}'}: ", name)
        words = _FIELD.sub(lambda m: f"field map {int(m[1]) + 1}: ", words)
        yield words.replace("anat.", "anatomy: "), seconds


def _short(run: str) -> str:
    """Take the participant off the name of a run."""
    return re.sub(r"^sub-[^_]+_", "", run).replace("_", " ")


def _numbers(found: Any) -> dict[str, float]:
    """Take the numbers of a record by their names; none if it holds none."""
    named = found if isinstance(found, dict) else {}
    numbers = {str(name): finite(value) for name, value in named.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _count_together(units: list[Unit]) -> list[Unit]:
    """Note which units one piece of work made: they have its start and its time."""
    pieces = Counter(unit.piece for unit in units)
    return [replace(unit, together=pieces[unit.piece]) for unit in units]


def _belongs(name: str, participant: str | None) -> bool:
    if participant is None:
        return "sub-" not in name
    return re.search(rf"sub-{re.escape(participant)}(?![0-9A-Za-z+])", name) is not None


def _generators(entries: Any) -> Iterable[Fact]:
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            yield Fact(label=str(entry.get("Name", "?")), value=str(entry.get("Version", "?")))


def _unit(name: str, record: Mapping[str, Any]) -> Unit:
    settings = record.get("settings") or {}
    return Unit(
        name=name,
        started=str(record.get("started") or ""),
        seconds=_number(record, "seconds"),
        memory=_number(record, "peak_memory", "peak_memory_bytes", "memory"),
        key=str(record.get("key") or ""),
        inputs=_hashes(record.get("inputs")),
        outputs=_hashes(record.get("outputs")),
        steps=_numbers(record.get("stages")),
        energy=_numbers(record.get("energy")),
        run=str(record.get("run") or ""),
        model=str(record.get("model") or ""),
        settings=json.dumps(_homeless(settings), indent=2, sort_keys=True, default=str),
    )


def _homeless(said: Any) -> Any:
    """Take the folders of a machine out of all texts of what JSON can hold.

    Examples
    --------
    >>> _homeless(["/mnt/Lab Drive/jane/a.nii", "of /home/jane/a.nii", "bids:raw:sub-01/a.nii"])
    ['a.nii', 'of a.nii', 'bids:raw:sub-01/a.nii']
    """
    if isinstance(said, dict):
        return {_homeless(key): _homeless(value) for key, value in said.items()}
    if isinstance(said, list):
        return [_homeless(value) for value in said]
    if not isinstance(said, str):
        return said
    return PurePosixPath(said).name if _WHOLE.fullmatch(said) else _HOME.sub("", said)


def _hashes(found: Any) -> list[Fact]:
    """List files with their hashes; none if the record holds none."""
    return [
        Fact(label=_homeless(str(role)), value=_homeless(_digest(value)))
        for role, value in (found.items() if isinstance(found, dict) else ())
    ]


def _digest(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("sha256") or value.get("SHA-256") or json.dumps(value, default=str))
    return str(value)


def _number(record: Mapping[str, Any], *names: str) -> float | None:
    known = (finite(record.get(name)) for name in names)
    return next((number for number in known if number is not None), None)
