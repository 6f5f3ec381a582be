"""Embed a run with each model, where that is not done yet, and write what came of it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.bids_app.derivatives import embedding_table, write_json, write_text
from neurostorm_app.bids_app.outputs import embedding_sidecars
from neurostorm_app.bids_app.provenance import Unit, now
from neurostorm_app.bids_app.results import Progress, StageTime, contained
from neurostorm_app.bids_app.units import embedding_paths, embedding_unit
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.resources import peak_memory

if TYPE_CHECKING:
    from neurostorm_app.bids_app.engines import Embed, ModelFiles
    from neurostorm_app.bids_app.units import Call, Ready

__all__ = ["embed_run"]

log = logging.getLogger(__name__)


def embed_run(ready: Ready, progress: Progress, call: Call) -> None:
    """Embed one run with each model, where that is not done yet."""
    progress.errors += call.missing.values()
    for files in call.models:
        with contained(progress):
            unit = embedding_unit(ready, files, call)
            if not call.ledger.holds(unit):
                _embed_with(files, ready, unit, progress, call)
            progress.models.append(files.card.name)
            progress.outputs += call.ledger.output_hashes(unit.name)


def _embed_with(
    files: ModelFiles, ready: Ready, unit: Unit, progress: Progress, call: Call
) -> None:
    name, card = ready.series.name, files.card
    model = _load(files, call)
    started, begin = now(), time.monotonic()
    embedding = model(ready.series)
    seconds = time.monotonic() - begin
    sources = [call.uri(path) for path in ready.files.values()]
    run, windows = embedding_sidecars(card, embedding, sources=sources, notes=ready.notes)
    paths = embedding_paths(ready.series, card.label, call.root)
    leading = {
        "onset": np.asarray(embedding.onsets, dtype=np.float64),
        "duration": np.asarray(embedding.durations, dtype=np.float64),
    }
    texts = {
        "run": embedding_table(embedding.pooled[np.newaxis]),
        "windows": embedding_table(embedding.windows, leading),
    }
    written = {paths[key]: write_text(paths[key], t, root=call.root) for key, t in texts.items()}
    for key, sidecar in (("run_json", run), ("windows_json", windows)):
        written[paths[key]] = write_json(paths[key], sidecar, root=call.root)
    measured = {
        "started": started,
        "seconds": round(seconds, 2),
        "peak_memory": peak_memory(),
        "computation": dict(embedding.record),
    }
    stamps = {call.uri(path): path for path in ready.files.values()}
    call.ledger.write(unit, written, stamps=stamps, measured=measured)
    progress.stages.append(StageTime(f"embed {card.name}", seconds))
    shape = "x".join(map(str, embedding.windows.shape))
    met = "" if embedding.conformance.get("met") else ", contract not met (see the sidecar)"
    log.info("%s: %s: windows %s in %.1f s%s", name, card.name, shape, seconds, met)


def _load(files: ModelFiles, call: Call) -> Embed:
    """Load a model once a call; a model that cannot be loaded is not tried again."""
    name = files.card.name
    if name not in call.loaded:
        try:
            device = call.settings.execution.device
            call.loaded[name] = call.engines.load_model(files, device, call.plan)
        except AppError as error:
            call.loaded[name] = error
    model = call.loaded[name]
    if isinstance(model, AppError):
        raise model
    return model
