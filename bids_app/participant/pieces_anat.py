"""The pieces of an anatomy: on its own grid, and in each standard space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurostorm_app.bids_app.participant.images import ANAT, anat_in, maps_between
from neurostorm_app.bids_app.participant.pieces import (
    Anatomy,
    Piece,
    given_piece,
    hashes_of,
    new_piece,
    text_of,
)
from neurostorm_app.bids_app.provenance import Unit

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.inputs.given import Given
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.pipelines.stage import OutputSpace

__all__ = ["anat_pieces"]


def anat_pieces(participant: Participant, call: Call) -> Anatomy | None:
    """List the pieces of a participant's anatomy; None where there is no T1w image."""
    label, given = participant.label, participant.anat
    if not participant.t1w and given is None:
        return None
    stem, seed = f"sub-{label}", call.settings.science.random_seed
    unit = Unit(
        name=f"{stem}_anat",
        kind="anat",
        about={"participant": label},
        settings={"given": given.tree} if given else {"seed": seed, **call.masking},
        inputs=hashes_of(_anat_inputs(participant), f"{stem}_anat", call),
    )
    if given:
        native = given_piece(unit, {r: p for r, p in given.files.items() if ":" not in r})
    else:
        native = new_piece(unit, ANAT, stem, call, sources=participant.t1w)
    maps: dict[str, Piece] = {}
    spaces: dict[str, Piece] = {}
    for space in call.settings.science.spaces:
        if space.is_standard:
            if space.name not in maps:
                maps[space.name] = _maps(space, native, given, label, call)
            way = maps[space.name]
            spaces[space.label] = _images(space, native, way, given, label, call)
    return Anatomy(native=native, maps=maps, spaces=spaces)


def _anat_inputs(participant: Participant) -> list[Path]:
    if participant.anat is None:
        return list(participant.t1w)
    return [path for role, path in participant.anat.files.items() if ":" not in role]


def _maps(space: OutputSpace, native: Piece, given: Given | None, label: str, call: Call) -> Piece:
    """Describe the transforms between an anatomy and a template."""
    outputs = maps_between("T1w", space.name, datatype="anat")
    here = {o.role: given.files[o.role] for o in outputs if given and o.role in given.files}
    name = f"sub-{label}_to-{space.name}_xfm"
    unit = Unit(
        name=name,
        kind="normalization",
        about={"participant": label},
        settings={"template": space.name, "seed": call.settings.science.random_seed},
        inputs={"anatomy": native.unit.key, **hashes_of(here.values(), name, call)},
    )
    if len(here) == len(outputs):
        return given_piece(unit, here, space)
    return new_piece(unit, outputs, f"sub-{label}", call, space=space)


def _images(
    space: OutputSpace, native: Piece, way: Piece, given: Given | None, label: str, call: Call
) -> Piece:
    """Describe the images of an anatomy in a standard space."""
    outputs = anat_in(space)
    unit = Unit(
        name=f"sub-{label}{text_of(space)}_anat",
        kind="anat",
        about={"participant": label},
        settings={"space": space.name, "res": space.res, **call.masking},
        inputs={"anatomy": native.unit.key, "template": way.unit.key},
    )
    here = {o.role: given.files[o.role] for o in outputs if given and o.role in given.files}
    if len(here) == len(outputs):
        return given_piece(unit, here, space)
    sources = [*native.sources, way.paths[f"to:{space.name}"]]
    return new_piece(unit, outputs, f"sub-{label}", call, sources=sources, space=space)
