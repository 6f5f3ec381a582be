"""Embed runs with each model, where that is not done yet, and write what came of each at once.

Runs go through a model as one stream: while the network works on one, the next is hashed, looked
up in the records, read and prepared, in another thread.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.bids_app.derivatives import embedding_table, write_json, write_text
from neurostorm_app.bids_app.energy import Meter
from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.participant.admission import check_memory
from neurostorm_app.bids_app.participant.needs import need_of_embedding
from neurostorm_app.bids_app.participant.outputs import embedding_sidecars
from neurostorm_app.bids_app.participant.predictions import prediction_sidecar, prediction_table
from neurostorm_app.bids_app.participant.units import embedding_paths, embedding_unit
from neurostorm_app.bids_app.provenance import Unit, now
from neurostorm_app.bids_app.results import Progress, StageTime, contained
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.embed_series import ParcelTable
from neurostorm_app.pipelines.progress import Event, stage, tell
from neurostorm_app.pipelines.resources import peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.engines import Embed, ModelFiles
    from neurostorm_app.bids_app.participant.units import Call, Ready
    from neurostorm_app.pipelines.embed import RunEmbedding
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["embed_runs"]

log = logging.getLogger(__name__)


def embed_runs(
    makers: Mapping[str, Callable[[str], Ready]], progress: Mapping[str, Progress], call: Call
) -> None:
    """Embed runs with each model, where that is not done yet.

    Parameters
    ----------
    makers : mapping of str to callable
        By the name of a run: makes it ready for models of a space. Called when its turn has come,
        in another thread.
    progress : mapping of str to Progress
        Is told what came of each run.
    call : Call
        What all participants share.
    """
    todo = {name: _Task(progress[name], make) for name, make in makers.items()}
    for task in todo.values():
        task.progress.errors += call.missing.values()
    for files in call.models:
        _embed_with(files, list(todo.values()), call)
        if call.stops and any(run.errors for run in progress.values()):
            return


@dataclass(slots=True)
class _Task:
    """A run that is made ready once for all models of a space."""

    progress: Progress
    make: Callable[[str], Ready]
    failed: bool = False
    made: dict[str, Ready] = field(default_factory=dict)

    def ready(self, space: str) -> Ready | None:
        """Make the run ready, or remember that it cannot be."""
        if space not in self.made and not self.failed:
            self.failed = True
            with contained(self.progress):
                self.made[space] = self.make(space)
                self.failed = False
        return self.made.get(space)


@dataclass(frozen=True, slots=True)
class _Work:
    """A run that a model has to embed."""

    progress: Progress
    ready: Ready
    unit: Unit


def _embed_with(files: ModelFiles, tasks: list[_Task], call: Call) -> None:
    """Send the runs that lack a result through one model."""
    sent: list[_Work] = []
    missing = _find_missing(files, tasks, sent, call)
    first = next(missing, None)
    if first is None:
        return
    model = _load(files, call)
    if isinstance(model, AppError):
        for _ in itertools.chain([first], missing):
            log.warning("%s failed: %s", sent[-1].progress.name, model.what)
            sent[-1].progress.errors.append(model)
        return
    begin = time.monotonic()
    outcomes = model(itertools.chain([first], missing))
    with Meter() as meter, contextlib.closing(outcomes):
        for index, outcome in outcomes:
            work, seconds = sent[index], round(time.monotonic() - begin, 2)
            cost = {"seconds": seconds, "energy": meter.take()}
            with contained(work.progress):
                if isinstance(outcome, Exception):
                    raise as_app_error(outcome) from outcome
                _keep(work, outcome, files, call, cost)
            tell(Event(name=work.progress.name, stage=f"embed {files.card.name}", state="ended"))
            if call.stops and work.progress.errors:
                return
            begin = time.monotonic()


def _find_missing(
    files: ModelFiles, tasks: list[_Task], sent: list[_Work], call: Call
) -> Iterator[StandardSeries]:
    """Yield the series that lack a result, and note them; take the results of the others."""
    for task in tasks:
        ready = task.ready(files.card.contract.space)
        if ready is None:
            continue
        progress = task.progress
        with contained(progress):
            unit = embedding_unit(ready, files, call)
            held = call.ledger.holds(unit)
            if held:
                _take(progress, unit, files, call)
            else:
                if not isinstance(ready.series, ParcelTable):  # a table takes next to nothing
                    need = need_of_embedding(ready.series, [files], call)
                    check_memory(progress.name, need, call.plan.memory)
                sent.append(_Work(progress, ready, unit))
        if sent and sent[-1].progress is progress:
            yield ready.series


def _take(progress: Progress, unit: Unit, files: ModelFiles, call: Call) -> None:
    progress.models.append(files.card.name)
    progress.outputs += call.ledger.output_hashes(unit.name)


def _keep(
    work: _Work, embedding: RunEmbedding, files: ModelFiles, call: Call, cost: dict[str, Any]
) -> None:
    """Write the result of a run and its record."""
    written = _write(work.ready, embedding, files, call)
    measured = {
        "started": now(),
        **cost,
        "peak_memory": peak_memory(),
        "computation": dict(embedding.record),
    }
    stamps = {call.uri(path): path for path in work.ready.files.values()}
    call.ledger.write(work.unit, written, stamps=stamps, measured=measured)
    _take(work.progress, work.unit, files, call)
    name, seconds = files.card.name, cost["seconds"]
    work.progress.stages.append(StageTime(f"embed {name}", seconds))
    shape = "x".join(map(str, embedding.windows.shape))
    met = "" if embedding.conformance.get("met") else ", contract not met (see the sidecar)"
    run = work.progress.name
    speed = f", {len(embedding.windows) / seconds:.3g} a second" if seconds > 1 else ""
    told = (run, name, shape, seconds, speed, met)
    log.info("%s: %s: windows %s in %.1f s%s%s", *told, extra={"step": True})


def _write(ready: Ready, embedding: RunEmbedding, files: ModelFiles, call: Call) -> dict[Path, str]:
    """Write the tables and sidecars of a run; return hashes by path."""
    said: dict[str, Any] = {
        "sources": [call.uri(path) for path in ready.files.values()],
        "notes": ready.notes,
    }
    leading = {
        "onset": np.asarray(embedding.onsets, dtype=np.float64),
        "duration": np.asarray(embedding.durations, dtype=np.float64),
    }
    run, windows = embedding_sidecars(files.card, embedding, **said)
    content = {
        "run": (embedding_table(embedding.pooled[np.newaxis]), run),
        "windows": (embedding_table(embedding.windows, leading), windows),
    }
    if embedding.prediction is not None:
        sidecar = prediction_sidecar(files.card, embedding, **said)
        content["prediction"] = (prediction_table(embedding.prediction), sidecar)
    paths = embedding_paths(ready.series, files.card.label, call.root)
    written: dict[Path, str] = {}
    for key, (table, sidecar) in content.items():
        table_path, json_path = paths[key], paths[f"{key}_json"]
        written[table_path] = write_text(table_path, table, root=call.root)
        written[json_path] = write_json(json_path, sidecar, root=call.root)
    if embedding.example is not None:
        path = call.root / "logs" / f"{paths['run'].stem.rpartition('_')[0]}_reconstruction.json"
        written[path] = write_json(path, embedding.example, root=call.root)
    return written


def _load(files: ModelFiles, call: Call) -> Embed | AppError:
    """Load a model once a call; a model that cannot be loaded is not tried again."""
    name = files.card.name
    if name not in call.loaded:
        try:
            with stage("models", f"load {name}"):
                call.loaded[name] = call.engines.load_model(files, call.settings, call.plan)
        except AppError as error:
            call.loaded[name] = error
    return call.loaded[name]
