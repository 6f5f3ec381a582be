"""What the work on a participant takes: its pieces that are missing, priced by their headers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.participant.units import choose_space
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.estimate import (
    RunFacts,
    count_t1w,
    estimate_anatomy,
    estimate_embedding,
    estimate_run,
)
from neurostorm_app.pipelines.header import read_series_header
from neurostorm_app.pipelines.image import open_image
from neurostorm_app.pipelines.need import Need
from neurostorm_app.pipelines.regrid import time_positions
from neurostorm_app.pipelines.resources import plan_room
from neurostorm_app.pipelines.templates import find_grid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from neurostorm_app.bids_app.engines import ModelFiles
    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.participant.pieces import Anatomy, Piece, RunPieces
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.pipelines.stage import OutputSpace, Run, StandardSeries

__all__ = [
    "facts_of",
    "memory_of_run",
    "need_of_anatomy",
    "need_of_embedding",
    "need_of_run",
]

LABEL_BYTES: Final = 2**14
"""Sidecars and records of the embedding of a run by a model."""
HEAD: Final = 9_000_000
"""Voxels of a head at 1 mm, where the image cannot tell."""


@dataclass(frozen=True, slots=True)
class _Series:
    """A series that models look at.

    Parameters
    ----------
    voxels, brain : int
        Of a volume, and those of a brain on its grid.
    n_volumes : int
        Volumes.
    tr : float
        Repetition time in seconds.
    """

    voxels: int
    brain: int
    n_volumes: int
    tr: float


def need_of_anatomy(participant: Participant, anat: Anatomy | None, call: Call) -> Need:
    """Tell what the anatomy of a participant takes, as far as it is not there.

    Parameters
    ----------
    participant : Participant
        Whose T1w images are looked at.
    anat : Anatomy or None
        Its pieces.
    call : Call
        What all participants share.
    """
    if anat is None:
        return Need()
    missing = [piece for piece in anat.all if not piece.held(call)]
    if not missing:
        return Need()
    whole = estimate_anatomy(
        [_t1w_voxels(path) for path in participant.t1w],
        n_templates=len(anat.maps),
        standard=[_target(piece.space) for piece in anat.spaces.values()],
    )
    if anat.native in missing:
        return whole
    names = {"normalize"} if any(p in missing for p in anat.maps.values()) else set()
    names |= {"standard"}
    steps = tuple(step for step in whole.steps if step.name in names)
    return Need(steps=steps, scratch=whole.scratch // 2, output=whole.output // 2)


def need_of_run(participant: Participant, pieces: RunPieces, call: Call) -> Need:
    """Tell what a run takes that is preprocessed here: what is missing of it, and its models.

    Parameters
    ----------
    participant : Participant
        Whose T1w images are looked at.
    pieces : RunPieces
        Of the run.
    call : Call
        What all participants share.

    Raises
    ------
    CorruptImageError, NoInputError
        If the header cannot be read.
    """
    facts = facts_of(pieces.run, participant)
    series = _missing(pieces.series.values(), facts, call)
    need = estimate_run(
        facts,
        fit=not all(piece.held(call) for piece in pieces.estimates),
        confounds=pieces.confounds is not None and not pieces.confounds.held(call),
        series=series,
        references=_missing(pieces.references.values(), facts, call),
    )
    if all(piece.held(call) for piece in pieces.all):
        need = Need()
    science = call.settings.science
    if science.denoise:
        need += Need(output=4 * facts.brain * facts.n_volumes * len(science.strategies))
    return need + _models_of(facts, pieces.run, call) if pieces.series else need


def _models_of(facts: RunFacts, run: Run, call: Call) -> Need:
    """Tell what all models take for a run that is preprocessed here."""
    science, need = call.settings.science, Need()
    for files in call.models if science.has_standard else ():
        space = choose_space(science.spaces, files.card.contract.space)
        grid = _target(space, facts)
        spot = _spot(space, facts)
        brain = min(grid, round(facts.brain * math.prod(facts.zooms) / spot))
        need += _embedding(files, _Series(grid, brain, facts.n_volumes, run.tr), call)
    return need


def memory_of_run(participant: Participant, run: Run, call: Call) -> Need:
    """Tell what a run takes of which nothing is there, for its memory alone.

    Parameters
    ----------
    participant : Participant
        Whose T1w images are looked at.
    run : Run
        The run.
    call : Call
        What all participants share.

    Raises
    ------
    CorruptImageError, NoInputError
        If the header cannot be read.
    """
    facts, full = facts_of(run, participant), call.settings.runs_models
    spaces = call.settings.science.spaces if full else ()
    need = estimate_run(
        facts,
        fit=run.name not in participant.fits,
        confounds=full,
        series={space.label: _target(space, facts) for space in spaces},
        references={},
    )
    if participant.anat is None and participant.t1w:
        need += estimate_anatomy([facts.t1w], n_templates=1, standard=[])
    return need + _models_of(facts, run, call) if full else need


def need_of_embedding(series: StandardSeries, models: Iterable[ModelFiles], call: Call) -> Need:
    """Tell what the models take for a run that is preprocessed.

    Parameters
    ----------
    series : StandardSeries
        The run.
    models : iterable of ModelFiles
        Those that have no result of it.
    call : Call
        What all participants share.
    """
    header = read_series_header(series.bold)
    facts = RunFacts(shape=header.shape[:3], zooms=header.zooms, n_volumes=header.shape[3])
    shown = _Series(facts.voxels, facts.brain, facts.n_volumes, series.tr)
    need = Need()
    for files in models:
        need += _embedding(files, shown, call)
    return need


def facts_of(run: Run, participant: Participant) -> RunFacts:
    """Read the headers of a run and of its anatomy.

    Raises
    ------
    CorruptImageError, NoInputError
        If one of them cannot be read.
    """
    header = read_series_header(run.bold)
    return RunFacts(
        shape=header.shape[:3],
        zooms=header.zooms,
        n_volumes=header.shape[3],
        n_echoes=len(run.echoes) or 1,
        t1w=max(map(_t1w_voxels, participant.t1w), default=0),
        has_fieldmap=run.fieldmap is not None,
    )


def _t1w_voxels(path: Path) -> int:
    try:
        image = open_image(path)
    except AppError:  # it is told by the step that reads it, if there is one
        return HEAD
    return count_t1w(image.shape[:3], [float(zoom) for zoom in image.header.get_zooms()[:3]])


def _missing(pieces: Iterable[Piece], facts: RunFacts, call: Call) -> dict[str, int]:
    """Voxels of the grids of those pieces that are not there, by the label of their space."""
    return {
        piece.space.label: _target(piece.space, facts)
        for piece in pieces
        if piece.space is not None and not piece.held(call)
    }


def _target(space: OutputSpace | None, facts: RunFacts | None = None) -> int:
    """Count the voxels of a volume in a space; what has no grid of its own has that of the run."""
    if space is None or not space.is_standard:
        return facts.voxels * (2 if space and space.name == "T1w" else 1) if facts else 0
    if space.res == "native":
        fine = find_grid(space.name, "1").shape
        return round(math.prod(fine) / math.prod(facts.zooms)) if facts else math.prod(fine)
    try:
        return math.prod(find_grid(space.name, space.res or "1").shape)
    except AppError:  # it is told where the space is made
        return math.prod(find_grid("MNI152NLin2009cAsym", "2").shape)


def _spot(space: OutputSpace, facts: RunFacts) -> float:
    """Cubic millimetres of a voxel in a standard space."""
    if space.res == "native":
        return math.prod(facts.zooms)
    return math.prod(find_grid(space.name, space.res or "1").zooms)


def _embedding(files: ModelFiles, series: _Series, call: Call) -> Need:
    """Tell what one model takes for a series."""
    contract = files.card.contract
    how = contract.time_positions if contract.kind == "parcels" else "centres"
    n_volumes = len(time_positions(series.n_volumes, series.tr, contract.tr or series.tr, how=how))
    if contract.kind == "voxels":
        window = stride = contract.block(series.tr)
    else:
        window = min(contract.window or n_volumes, n_volumes)
        stride = contract.stride or window
    n_windows = 1 + max(0, math.ceil((n_volumes - window) / stride))
    most = call.settings.science.max_windows
    if most is not None and contract.window is not None:
        n_windows = min(n_windows, most)
    if contract.kind == "volume":
        each = 4 * math.prod(contract.grid.shape) * window
        kept = 4 * series.brain * series.n_volumes
        room = plan_room(each, cost=8, memory=call.plan.memory, batch=1)
        kept = kept if kept <= room else 0
    elif contract.kind == "voxels":
        each, kept = 4 * contract.padded(contract.n_voxels or 10_000), 0
    else:
        each, kept = 4 * (contract.n_parcels or 100) * window, 0
    step = estimate_embedding(
        files.card.architecture,
        n_windows=n_windows,
        window=each,
        read=series.voxels * series.n_volumes,
        kept=kept,
        weights=files.weights.stat().st_size if files.weights is not None else 0,
    )
    size = 12 * (files.card.dimension or 1000) * (n_windows + 1)
    return Need(models=(step,), output=size + LABEL_BYTES)
