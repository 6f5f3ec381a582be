"""The pieces of a run: its field map, what is estimated once, and what each space asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.participant.image_sidecars import carried
from neurostorm_app.bids_app.participant.images import (
    CONFOUNDS,
    SYN,
    maps_between,
    of_field,
    of_fieldmap,
    of_fit,
    references_in,
    series_in,
)
from neurostorm_app.bids_app.participant.pieces import (
    Piece,
    RunPieces,
    given_piece,
    hashes_of,
    new_piece,
    text_of,
)
from neurostorm_app.bids_app.provenance import Unit, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.given import Given
    from neurostorm_app.bids_app.participant.pieces import Anatomy
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.pipelines.stage import OutputSpace, Run

__all__ = ["run_pieces"]

EPI_KEYS: Final = (
    "B0FieldSource",
    "EchoSpacing",
    "EchoTime",
    "EchoTime1",
    "EchoTime2",
    "EffectiveEchoSpacing",
    "EstimatedEffectiveEchoSpacing",
    "EstimatedTotalReadoutTime",
    "ImagingFrequency",
    "MagneticFieldStrength",
    "ParallelReductionFactorInPlane",
    "PhaseEncodingDirection",
    "TotalReadoutTime",
    "Units",
    "WaterFatShift",
)
"""Metadata on which distortion and T2* depend."""
SLICE_KEYS: Final = ("SliceTiming", "SliceEncodingDirection")


def run_pieces(run: Run, anat: Anatomy | None, given: Given | None, call: Call) -> RunPieces:
    """List the pieces of a run that the level asks for."""
    science = call.settings.science
    fieldmap = None if given else _fieldmap_piece(run, call)
    fit = _fit_piece(run, anat, fieldmap, given, call)
    templates = {} if anat else dict(_template_pieces(run, fit, given, call))
    spaces = science.spaces
    if science.output_level == "minimal":
        return RunPieces(run=run, fieldmap=fieldmap, fit=fit, templates=templates)
    ways = {space.label: _way(space, anat, templates) for space in spaces}
    references = {
        space.label: _in_space(run, space, "boldref", fit, ways[space.label], call)
        for space in spaces
        if references_in(space)
    }
    found = RunPieces(
        run=run, fieldmap=fieldmap, fit=fit, templates=templates, references=references
    )
    if science.output_level == "resampling":
        return found
    series = {
        space.label: _in_space(run, space, "bold", fit, ways[space.label], call) for space in spaces
    }
    return replace(found, series=series, confounds=_confounds_piece(run, fit, call))


def _scans(run: Run) -> list[Path]:
    return [scan.path for scan in run.echoes] or [run.bold]


def _about(run: Run) -> dict[str, str]:
    return {"participant": run.participant, "run": run.name}


def _of(scan: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: scan[key] for key in keys if key in scan}


def _fieldmap_piece(run: Run, call: Call) -> Piece | None:
    fieldmap, science = run.fieldmap, call.settings.science
    if fieldmap is None:
        return None
    entities = parse_name(fieldmap.scans[0].path)
    stem = "_".join(f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities)
    name = f"{stem}_fmapid-{fieldmap.name}_fieldmap"
    paths = [scan.path for scan in fieldmap.scans]
    unit = Unit(
        name=name,
        kind="fieldmap",
        about={"participant": run.participant},
        settings={
            # The names of its files, and of those of the runs that use it, tell it; its number
            # changes where a field map is added.
            "name": fieldmap.name,
            "kind": fieldmap.kind,
            "seed": science.random_seed,
            "fallback_total_readout_time": science.fallback_total_readout_time,
            "metadata": key_of([_of(scan.metadata, EPI_KEYS) for scan in fieldmap.scans]),
            **call.masking,
        },
        inputs=hashes_of(paths, name, call),
    )
    return new_piece(unit, of_fieldmap(fieldmap.name, fieldmap.kind), stem, call, sources=paths)


def _fit_settings(run: Run, call: Call, *, has_t1w: bool) -> dict[str, Any]:
    """Take of the settings those that change the estimates of a run."""
    science = call.settings.science
    settings: dict[str, Any] = {
        "tr": run.tr,
        "dummy_scans": science.dummy_scans,
        "seed": science.random_seed,
        "metadata": key_of([_of(m, EPI_KEYS) for m in _metadata(run)]),
    }
    if has_t1w:
        settings["bold2anat_dof"] = science.bold2anat_dof
        settings["bold2anat_init"] = science.bold2anat_init
    if run.fieldmap is None:
        settings["use_syn_sdc"] = science.use_syn_sdc
    if run.fieldmap is not None or science.use_syn_sdc:
        settings["jacobian"] = "fmap-jacobian" not in science.ignore
        settings["fallback_total_readout_time"] = science.fallback_total_readout_time
    if run.echoes:
        settings["me_t2s_fit_method"] = science.me_t2s_fit_method
    return settings


def _metadata(run: Run) -> list[Mapping[str, Any]]:
    return [run.metadata, *(scan.metadata for scan in run.echoes)]


def _fit_piece(
    run: Run, anat: Anatomy | None, fieldmap: Piece | None, given: Given | None, call: Call
) -> Piece:
    name = f"{run.name}_fit"
    if given is not None:
        files = {r: p for r, p in given.files.items() if not r.startswith(("to:", "from:"))}
        paths = [*_scans(run), *files.values()]
        settings: dict[str, Any] = {"given": given.tree, "tr": run.tr}
        settings["metadata"] = key_of(_of(run.metadata, EPI_KEYS))
    else:
        files = {}
        paths = [*_scans(run), *((run.sbref.path,) if run.sbref else ())]
        settings = _fit_settings(run, call, has_t1w=anat is not None)
    inputs = hashes_of(paths, name, call)
    inputs |= {"anatomy": anat.native.unit.key} if anat else {}
    inputs |= {"fieldmap": fieldmap.unit.key} if fieldmap else {}
    unit = Unit(name=name, kind="fit", about=_about(run), settings=settings, inputs=inputs)
    if given is not None:
        return given_piece(unit, files)
    outputs = (*of_fit(), *of_field(run.fieldmap.name if run.fieldmap else SYN))
    return new_piece(unit, outputs, run.name, call, sources=paths)


def _template_pieces(
    run: Run, fit: Piece, given: Given | None, call: Call
) -> Iterator[tuple[str, Piece]]:
    """Describe the ways of a run without a T1w image to the templates."""
    for space in call.settings.science.spaces:
        if not space.is_standard:
            continue
        template = space.name
        outputs = maps_between("boldref", template, datatype="func")
        unit = Unit(
            name=f"{run.name}_to-{template}_xfm",
            kind="normalization",
            about=_about(run),
            settings={"template": template, "seed": call.settings.science.random_seed},
            inputs={"fit": fit.unit.key},
        )
        here = given.files if given else {}
        roles = [output.role for output in outputs]
        if all(role in here for role in roles):
            yield template, given_piece(unit, {role: here[role] for role in roles}, space)
        else:
            yield template, new_piece(unit, outputs, run.name, call, space=space)


def _way(space: OutputSpace, anat: Anatomy | None, templates: Mapping[str, Piece]) -> Piece | None:
    """Find the piece that leads to a standard space."""
    if not space.is_standard:
        return None
    return anat.maps[space.name] if anat else templates[space.name]


def _sources(run: Run, fit: Piece, way: Piece | None, space: OutputSpace) -> list[Path]:
    """List what a series is made from: the scans and all transforms on the way."""
    roles = ["hmc_xfm", "fmap_xfm", "field"]
    if space.name != "native":
        roles.append("coreg_xfm")
    paths = [fit.paths[role] for role in roles if role in fit.paths]
    maps = [p for r, p in way.paths.items() if r.startswith("to:")] if way else []
    return [*_scans(run), *paths, *maps]


def _in_space(
    run: Run, space: OutputSpace, what: str, fit: Piece, way: Piece | None, call: Call
) -> Piece:
    """Describe the references (``boldref``) or the series (``bold``) of a run in a space."""
    name = f"{run.name}{text_of(space)}_{what}"
    inputs = {"fit": fit.unit.key} | ({"space": way.unit.key} if way else {})
    settings: dict[str, Any] = {"space": space.name, "res": space.res}
    outputs, kind = references_in(space), "reference"
    if what == "bold":
        outputs, kind = series_in(space), "bold"
        inputs = hashes_of(_scans(run), name, call) | inputs
        settings |= _timing(run, call)
        settings["metadata"] = key_of(carried(run.metadata))
    unit = Unit(name=name, kind=kind, about=_about(run), settings=settings, inputs=inputs)
    sources = _sources(run, fit, way, space)
    return new_piece(unit, outputs, run.name, call, sources=sources, space=space)


def _timing(run: Run, call: Call) -> dict[str, Any]:
    """Take of settings and sidecar what changes a series after its estimates."""
    science = call.settings.science
    settings: dict[str, Any] = {"jacobian": "fmap-jacobian" not in science.ignore}
    if "slicetiming" in science.ignore:
        return {**settings, "slice_time_ref": None}
    times = key_of(_of(run.metadata, SLICE_KEYS))
    return {**settings, "slice_time_ref": science.slice_time_ref, "slice_times": times}


def _confounds_piece(run: Run, fit: Piece, call: Call) -> Piece:
    science, name = call.settings.science, f"{run.name}_confounds"
    unit = Unit(
        name=name,
        kind="confounds",
        about=_about(run),
        settings={
            "fd_spike_threshold": science.fd_spike_threshold,
            "dvars_spike_threshold": science.dvars_spike_threshold,
            "return_all_components": science.return_all_components,
            **_timing(run, call),
        },
        inputs={"fit": fit.unit.key},
    )
    return new_piece(unit, CONFOUNDS, run.name, call, sources=fit.sources)
