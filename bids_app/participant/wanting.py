"""What of a participant the preprocessing is asked for: what no record holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from neurostorm_app.bids_app.engines import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.participant.pieces import Anatomy, Piece, RunPieces
    from neurostorm_app.bids_app.participant.units import Call

__all__ = ["want"]


def want(
    participant: Participant, anat: Anatomy | None, stale: Mapping[str, RunPieces], call: Call
) -> Wanted:
    """Work out what is missing, and hand over what is there.

    Parameters
    ----------
    participant : Participant
        Of the runs.
    anat : Anatomy or None
        Pieces of its anatomy.
    stale : mapping of str to RunPieces
        Runs in which something is missing.
    call : Call
        What all participants share.
    """
    whole = call.settings.science.spaces
    pieces = [p for run in stale.values() for p in run.all] + list(anat.all if anat else ())
    missing = [piece for piece in pieces if not piece.held(call)]
    anew = anat is not None and not anat.native.held(call)
    # A new anatomy, or a run without one, is led by the templates, whatever else is missing.
    if anew or any(run.templates for run in stale.values()):
        spaces = whole
    else:
        names = {piece.space.label for piece in missing if piece.space}
        spaces = tuple(space for space in whole if space.label in names)
    kinds = {piece.unit.kind for piece in missing}
    level: Literal["minimal", "resampling", "full"] = "minimal"
    if kinds & {"bold", "confounds"}:
        level = "full"
    elif "reference" in kinds:
        level = "resampling"
    fits = {
        name: _there(run.all, call, call.root / "logs" / f"{name}_qc.json")
        for name, run in stale.items()
        if all(piece.held(call) for piece in (*run.estimates, *run.templates.values()))
    }
    qc = call.root / "logs" / f"sub-{participant.label}_qc.json"
    known = None if anat is None or anew else _there(anat.all, call, qc)
    return Wanted(
        t1w=participant.t1w,
        runs=tuple(run.run for run in stale.values()),
        spaces=spaces,
        level=level,
        anat=known,
        fits=fits,
    )


def _there(pieces: Iterable[Piece], call: Call, qc: Path) -> dict[str, Path]:
    """Gather the files of the pieces that are held, by role."""
    files = {"qc": qc} if qc.is_file() else {}
    for piece in pieces:
        if piece.held(call):
            files |= piece.files(call)
    return files
