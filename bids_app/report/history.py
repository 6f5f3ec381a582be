"""The section of provenance: what was computed when, from what, with which versions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.panels import Fact, Notice, attempt
from neurostorm_app.bids_app.report.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["History", "Unit", "read_history"]

_PAGE = "report"
"""A page does not show how it was made itself: it would never be the same twice."""
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


@dataclass(kw_only=True)
class History:
    """All that is recorded of a participant, or of the group."""

    units: list[Unit] = field(default_factory=list)
    versions: list[Fact] = field(default_factory=list)
    made_by: list[Fact] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


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
    history.versions = [Fact(label=k, value=v) for k, v in sorted(versions.items())]
    description = attempt(
        history.notices, lambda: read_json(output_dir / "dataset_description.json")
    )
    history.made_by = list(_generators((description or {}).get("GeneratedBy", [])))
    return history


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
