"""Describe runs by the networks of each parcellation of a call, where that is not done yet."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.derivatives import write_json, write_text
from neurostorm_app.bids_app.participant.descriptor_files import (
    descriptor_paths,
    descriptor_sidecar,
    descriptor_table,
)
from neurostorm_app.bids_app.participant.parcellations import find_components
from neurostorm_app.bids_app.provenance import Unit, now
from neurostorm_app.bids_app.results import StageTime, contained
from neurostorm_app.pipelines.describe_run import VERSION, describe_run, recipe
from neurostorm_app.pipelines.progress import stage
from neurostorm_app.pipelines.resources import peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.participant.parcellations import Parcellation
    from neurostorm_app.bids_app.participant.units import Call, Ready
    from neurostorm_app.bids_app.results import Progress

__all__ = ["describe_runs"]

log = logging.getLogger(__name__)


def describe_runs(
    makers: Mapping[str, Callable[[str], Ready]],
    progress: Mapping[str, Progress],
    call: Call,
    parcellations: Iterable[Parcellation],
) -> None:
    """Describe runs by each parcellation, where that is not done yet.

    Parameters
    ----------
    makers : mapping of str to callable
        By the name of a run: makes it ready in the space that is nearest to one that is wanted.
    progress : mapping of str to Progress
        Is told what came of each run.
    call : Call
        What all participants share.
    parcellations : iterable of Parcellation
        Of `find_parcellations`.
    """
    for name, make in makers.items():
        for one in parcellations:
            with contained(progress[name]):
                _Job(make(one.space), one, call).take_or_make(progress[name])
        if call.stops and any(run.errors for run in progress.values()):
            return


@dataclass(frozen=True, slots=True)
class _Job:
    """The description of a run by one parcellation."""

    ready: Ready
    parcellation: Parcellation
    call: Call

    def take_or_make(self, progress: Progress) -> None:
        """Take the files if they are there; else make them."""
        call, begin = self.call, time.monotonic()
        folder = call.settings.science.components
        courses = find_components(folder, self.ready.series.name) if folder else None
        paths = descriptor_paths(self.ready.series, self.parcellation.label, call.root)
        unit = self._unit(paths["sidecar"].stem, courses)
        if not call.ledger.holds(unit):
            started = now()
            with stage(progress.name, "describe"):
                written = self._make(paths, courses)
            seconds = time.monotonic() - begin
            measured = {
                "started": started,
                "seconds": round(seconds, 2),
                "peak_memory": peak_memory(),
            }
            stamps = {call.uri(path): path for path in self._sources(courses)}
            call.ledger.write(unit, written, stamps=stamps, measured=measured)
            progress.stages.append(StageTime("describe", seconds))
            told = (progress.name, self.parcellation.label, seconds)
            log.info("%s: described by %s in %.1f s", *told, extra={"step": True})
        progress.outputs += call.ledger.output_hashes(unit.name)

    def _sources(self, courses: Path | None) -> list[Path]:
        return [*self.ready.files.values(), *([courses] if courses else [])]

    def _unit(self, name: str, courses: Path | None) -> Unit:
        call, ready = self.call, self.ready
        inputs = {call.uri(path): ready.hashes[role] for role, path in ready.files.items()}
        if courses is not None:
            uri = call.uri(courses)
            inputs[uri] = call.ledger.hash_input(courses, name, uri)
        for role, path in self.parcellation.files.items():
            inputs[role] = call.hash_file(path) or ""
        return Unit(
            name=name,
            kind="descriptors",
            about={
                "participant": ready.participant,
                "run": ready.series.name,
                "atlas": self.parcellation.label,
            },
            settings={
                "version": VERSION,
                "cleaning": recipe().cleaning.model_dump(mode="json"),
                "components": call.settings.science.components is not None,
                "tr": ready.series.tr,
                "notes": list(ready.notes),
            },
            inputs=inputs,
        )

    def _make(self, paths: Mapping[str, Path], courses: Path | None) -> dict[Path, str]:
        """Describe the run and write what came of it; return hashes by path."""
        call, one = self.call, self.parcellation
        found = describe_run(
            self.ready.series,
            label=one.label,
            networks=one.networks,
            atlas=one.path,
            components=courses,
            reference=one.reference,
        )
        notes = list(self.ready.notes)
        if call.settings.science.components is not None and courses is None:
            notes.append("no time courses of components were found for this run")
        atlas: dict[str, Any] = {"Label": one.label, "SHA256": call.hash_file(one.path)}
        if one.networks.path is not None:
            table = one.networks.path
            atlas["Networks"] = {"Name": table.name, "SHA256": call.hash_file(table)}
        sidecar = descriptor_sidecar(
            found,
            sources=[call.uri(path) for path in self._sources(courses)],
            atlas=atlas,
            notes=notes,
        )
        return {
            paths["table"]: write_text(
                paths["table"], descriptor_table(found.description), root=call.root
            ),
            paths["text"]: write_text(paths["text"], found.description.as_text(), root=call.root),
            paths["sidecar"]: write_json(
                paths["sidecar"], call.rules.record(sidecar), root=call.root
            ),
        }
