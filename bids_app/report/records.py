"""Numbers and verdicts of runs as a small file, so that the group page need not read images.

``logs/sub-<label>_measures.json`` is written with the page of a participant. Where it is not
there, the group page takes what the tables say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.derivatives import write_json
from neurostorm_app.bids_app.report.embeddings import conformance, is_control, is_demo
from neurostorm_app.bids_app.report.measuring import gather, measure, take_registration
from neurostorm_app.bids_app.report.panels import Notice, anchor, attempt
from neurostorm_app.bids_app.report.reading import expecting, finite, read_json
from neurostorm_app.bids_app.report.tree import RunFiles, read_participant
from neurostorm_app.bids_app.report.verdict import Level, Measures, Reason, Verdict, judge
from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "ModelRecord",
    "RunRecord",
    "contracts_of",
    "make_record",
    "read_records",
    "write_records",
]


_KINDS: dict[str, type] = {"coverage_of": str, "error": dict}
"""Kinds of measures that are no numbers."""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """How one model took a run."""

    met: bool | None
    distance: float | None
    demo: bool


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as the group page shows it."""

    name: str
    participant: str
    title: str
    status: str
    measures: Measures
    verdict: Verdict
    models: dict[str, ModelRecord] = field(default_factory=dict)
    errors: tuple[dict[str, str], ...] = ()

    @property
    def link(self) -> str:
        """Address of the run in the page of its participant."""
        return f"sub-{self.participant}.html#run-{anchor(self.name)}"


def make_record(run: RunFiles, measures: Measures, verdict: Verdict) -> RunRecord:
    """Make the record of a run from its files, numbers and verdict."""
    return RunRecord(
        name=run.name,
        participant=run.entities["sub"],
        title=run.title,
        status=run.state,
        measures=measures,
        verdict=verdict,
        models={
            label: ModelRecord(
                met=conformance(files.sidecar).get("met"),
                distance=conformance(files.sidecar).get("distance"),
                demo=is_demo(files.sidecar),
            )
            for label, files in run.embeddings.items()
        },
        errors=run.errors,
    )


def _path(output_dir: Path, participant: str) -> Path:
    return output_dir / "logs" / f"sub-{participant}_measures.json"


def write_records(output_dir: Path, participant: str, records: Iterable[RunRecord]) -> None:
    """Write the records of a participant's runs."""
    content = {record.name: asdict(record) for record in records}
    write_json(_path(output_dir, participant), content, root=output_dir)


def read_records(output_dir: Path, participant: str, notices: list[Notice]) -> list[RunRecord]:
    """Read the records of a participant's runs; those without one are made from tables alone.

    Parameters
    ----------
    output_dir : Path
        The output tree.
    participant : str
        Label without ``sub-``.
    notices : list of Notice
        Gets one for each damaged file, and for each record that this version cannot read.
    """
    found = read_participant(output_dir, participant)
    notices += [Notice(what=problem.what, fix=problem.fix) for problem in found.problems]
    path = _path(output_dir, participant)
    stored = attempt(notices, lambda: read_json(path)) or {}
    records = []
    for run in found.runs:
        known = attempt(notices, lambda run=run: _restore(stored, run.name, path))  # type: ignore[misc]
        if known is not None:
            measures, verdict = known
        else:
            measures = measure(gather(run, None, notices, images=False), notices, images=False)
            take_registration(measures, {**found.qc, **run.qc})
            verdict = judge(measures, qc={**found.qc, **run.qc}, contracts=contracts_of(run))
        records.append(make_record(run, measures, verdict))
    return records


def contracts_of(run: RunFiles) -> dict[str, dict[str, Any]]:
    """Take how far a run met the contract of each model; controls with random weights have none."""
    return {
        label: conformance(files.sidecar)
        for label, files in run.embeddings.items()
        if not is_control(label)
    }


def _restore(stored: Mapping[str, Any], name: str, path: Path) -> tuple[Measures, Verdict] | None:
    """Take measures and verdict of a run from its record; None if there is no record of it."""
    if name not in stored:
        return None
    with expecting(f"record of {name}", path):
        measures, verdict = Measures(**stored[name]["measures"]), stored[name]["verdict"]
        for key, value in vars(measures).items():
            kind = _KINDS.get(key, int | float | None)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise DataError(
                    f"{path}: {key} of {name} is a {type(value).__name__}, no such measure",
                    fix="run the participant level again: it writes the file anew",
                )
            if key not in _KINDS:
                setattr(measures, key, finite(value))
        reasons = tuple(
            Reason(level=Level(reason["level"]), topic=reason["topic"], text=reason["text"])
            for reason in verdict["reasons"]
        )
        return measures, Verdict(level=Level(verdict["level"]), reasons=reasons)
