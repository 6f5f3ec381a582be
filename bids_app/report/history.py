"""The section of provenance: what was computed when, from what, with which versions."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.panels import Fact, Notice, attempt
from neurostorm_app.bids_app.report.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["History", "Unit", "read_history"]

_PAGE = "report"
"""A page does not show how it was made itself: it would never be the same twice."""
_WORTH = 0.05
"""Seconds below which a step is not listed."""
_HOME = re.compile(r"(?:file://)?/(?:[^\s\"',:]+/)+")
"""Folders, which may hold a person's name; the file's own name stays."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One unit of work."""

    name: str
    started: str
    seconds: float | None
    memory: float | None
    key: str
    inputs: list[Fact]
    outputs: int
    settings: str
    energy: float | None = None
    together: int = 1
    """Units that one piece of work made, whose time this is."""


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
        pieces = {(unit.started, unit.seconds) for unit in self.units if unit.seconds is not None}
        return sum(seconds for _, seconds in pieces if seconds is not None) if pieces else None

    @property
    def joules(self) -> float | None:
        """Energy that was measured, each piece of work once; None where none was."""
        pieces = {(unit.started, unit.energy) for unit in self.units if unit.energy is not None}
        return sum(energy for _, energy in pieces if energy is not None) if pieces else None


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
    stages: dict[str, float] = {}
    for path in sorted((output_dir / "prov").rglob("*.json")):
        if not _belongs(str(path.relative_to(output_dir)), participant):
            continue
        record = attempt(history.notices, lambda path=path: read_json(path))  # type: ignore[misc]
        if record and record.get("kind") != _PAGE:
            history.units.append(_unit(path.stem, record))
            stages |= _stages(record)
            found = record.get("versions")
            versions |= (
                {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
            )
    history.units = _count_together(history.units)
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


def _stages(record: Mapping[str, Any]) -> dict[str, float]:
    """Name the steps of a record by what they are of; embeddings are one step each."""
    found = record.get("stages")
    if not isinstance(found, dict):
        seconds, model = _number(record, "seconds"), record.get("model")
        if seconds is None or not model:
            return {}
        run = re.sub(r"^sub-[^_]+_", "", str(record.get("run", ""))).replace("_", " ")
        return {f"{run}: embed {model}".removeprefix(": "): seconds}
    words = {
        re.sub(r"^run0*(\d+)\.", lambda m: f"run {int(m[1]) + 1}: ", str(name)): value
        for name, value in found.items()
    }
    words = {
        re.sub(r"^fmap0*(\d+)\.", lambda m: f"field map {int(m[1]) + 1}: ", name): value
        for name, value in words.items()
    }
    return {
        name.replace("anat.", "anatomy: "): float(value)
        for name, value in words.items()
        if isinstance(value, int | float)
    }


def _count_together(units: list[Unit]) -> list[Unit]:
    """Note which units one piece of work made: they have its start and its time."""
    pieces = Counter((unit.started, unit.seconds) for unit in units)
    return [replace(u, together=pieces.get((u.started, u.seconds), 1)) for u in units]


def _belongs(name: str, participant: str | None) -> bool:
    if participant is None:
        return "sub-" not in name
    return re.search(rf"sub-{re.escape(participant)}(?![0-9A-Za-z+])", name) is not None


def _generators(entries: Any) -> Iterable[Fact]:
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            yield Fact(label=str(entry.get("Name", "?")), value=str(entry.get("Version", "?")))


def _unit(name: str, record: Mapping[str, Any]) -> Unit:
    inputs = record.get("inputs")
    outputs = record.get("outputs")
    settings = record.get("settings") or {}
    return Unit(
        name=name,
        started=str(record.get("started") or ""),
        seconds=_number(record, "seconds"),
        memory=_number(record, "peak_memory", "peak_memory_bytes", "memory"),
        key=str(record.get("key") or ""),
        inputs=[
            Fact(label=_HOME.sub("", str(role)), value=_HOME.sub("", _digest(value)))
            for role, value in (inputs.items() if isinstance(inputs, dict) else ())
        ],
        energy=_number(record, "energy_joules"),
        outputs=len(outputs) if isinstance(outputs, dict | list) else 0,
        settings=_HOME.sub("", json.dumps(settings, indent=2, sort_keys=True, default=str)),
    )


def _digest(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("sha256") or value.get("SHA-256") or json.dumps(value, default=str))
    return str(value)


def _number(record: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        value = record.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None
