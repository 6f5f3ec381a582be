"""What a call would do, said run by run before anything is done: ``--dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.participant.pieces_anat import anat_pieces
from neurostorm_app.bids_app.participant.pieces_run import run_pieces
from neurostorm_app.bids_app.participant.units import (
    choose_space,
    embedding_unit,
    ready_from_precomputed,
    ready_from_raw,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from neurostorm_app.bids_app.inputs.dataset import Found, Participant
    from neurostorm_app.bids_app.participant.pieces import RunPieces
    from neurostorm_app.bids_app.participant.units import Call, Ready
    from neurostorm_app.pipelines.resources import Resources

__all__ = ["describe_plan"]

GIB: Final = 2**30


def describe_plan(found: Found, call: Call, resources: Resources) -> Iterator[str]:
    """Say what would be done for each run, and with what; nothing is written.

    Parameters
    ----------
    found : Found
        Runs and errors.
    call : Call
        What all participants share.
    resources : Resources
        What this job may use.

    Yields
    ------
    str
        One line each.
    """
    plan = call.plan
    yield (
        f"dry run: {plan.n_procs} processes of {plan.n_threads} threads "
        f"({resources.cores} cores by {resources.cores_from}), up to {plan.memory / GIB:.1f} GiB "
        f"({resources.memory / GIB:.1f} GiB by {resources.memory_from})"
    )
    for participant in found.participants:
        yield from _describe_participant(participant, call)
    for name, error in sorted({**found.failed, **call.missing}.items()):
        yield f"{name}: would fail: {error.what} [exit code {int(error.exit_code)}]"
    yield f"results would go to {call.root}; nothing was written"


def _describe_participant(participant: Participant, call: Call) -> Iterator[str]:
    label = participant.label
    anat = anat_pieces(participant, call)
    if call.settings.selection.anat_only:
        held = anat is not None and all(piece.held(call) for piece in anat.all)
        yield f"sub-{label}: " + ("anatomy: nothing to do" if held else "make the anatomy")
    for run in participant.raw:
        pieces = run_pieces(run, anat, participant.fits.get(run.name), call)
        models = _models_of_raw(pieces, call)
        if all(piece.held(call) for piece in pieces.all):
            yield f"{run.name}: preprocessed{models}"
            continue
        held = anat is not None and anat.native.held(call)
        anatomy = "reused" if held else f"from {len(participant.t1w)} T1w"
        known = ", estimates reused" if all(p.held(call) for p in pieces.estimates) else ""
        yield f"{run.name}: preprocess (anatomy {anatomy}{known}){models}"
        yield from (f"{run.name}: note: {note}" for note in run.notes)
    for item in participant.precomputed:
        ready = ready_from_precomputed(item, call)
        words = _embeddings({files.card.name: ready for files in call.models}, call)
        yield f"{item.name}: series from {item.tree} ({item.series.space}){words}"


def _models_of_raw(pieces: RunPieces, call: Call) -> str:
    """Say which models would run on a run that is preprocessed here."""
    science = call.settings.science
    if not (call.models and science.has_standard):
        return "; no model"
    if not all(piece.held(call) for piece in pieces.all):
        return "; embed with " + ", ".join(files.card.name for files in call.models)
    ready = {}
    for files in call.models:
        space = choose_space(science.spaces, files.card.contract.space)
        ready[files.card.name] = ready_from_raw(pieces, space, call)
    return _embeddings(ready, call)


def _embeddings(ready: Mapping[str, Ready], call: Call) -> str:
    if not call.models:
        return "; no model"
    names = [
        files.card.name
        for files in call.models
        if not call.ledger.holds(embedding_unit(ready[files.card.name], files, call))
    ]
    return f"; embed with {', '.join(names)}" if names else "; embedded: nothing to do"
