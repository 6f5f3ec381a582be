"""The steps of one BOLD run in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.image import open_image
from neurostorm_app.pipelines.preprocess import methods
from neurostorm_app.pipelines.preprocess.acquired.boldseries import bold_roles
from neurostorm_app.pipelines.preprocess.acquired.slicetiming import read_slice_times
from neurostorm_app.pipelines.preprocess.distortionplan import FIELDS
from neurostorm_app.pipelines.preprocess.field.encoding import find_phase_axis
from neurostorm_app.pipelines.preprocess.part import Part
from neurostorm_app.pipelines.preprocess.steps import (
    boldoutputs,
    boldsteps,
    confoundsteps,
    fieldsteps,
    placesteps,
)
from neurostorm_app.pipelines.preprocess.steps.echosteps import fit_echoes

if TYPE_CHECKING:
    from pathlib import Path

    from niworkflows.engine.workflows import LiterateWorkflow

    from neurostorm_app.pipelines.preprocess.distortionplan import Plan
    from neurostorm_app.pipelines.preprocess.workflow import Files, Options
    from neurostorm_app.pipelines.stage import Run

__all__ = ["add_run"]

TIMING = ("SliceTiming", "SliceEncodingDirection", "VolumeTiming")
"""What the sidecar says of when slices were taken."""
HEAD = {"t1w": "t1w", "t1w_mask": "mask", "gm": "gm", "wm": "wm", "csf": "csf"}
"""What a run needs of the anatomy, and its role there."""


def add_run(  # noqa: PLR0913
    whole: LiterateWorkflow,
    name: str,
    run: Run,
    *,
    options: Options,
    plan: Plan,
    anat: Part | None,
    fieldmap: Part | None,
    fit: Files | None,
    series_dir: Path,
    n_threads: int,
) -> Part:
    """Add the part of a run to the graph.

    Parameters
    ----------
    whole : LiterateWorkflow
        The graph.
    name : str
        Of the part.
    run : Run
        The run.
    options : Options
        Of the call.
    plan : Plan
        How its distortion is corrected.
    anat, fieldmap : Part or None
        What it rests on.
    fit : mapping or None
        What was estimated of it before, by role.
    series_dir : Path
        Where its series are written.
    n_threads : int
        Of its steps.
    """
    echoes = tuple(scan.path for scan in run.echoes) or (run.bold,)
    inputs = dict(zip(bold_roles(len(echoes)), echoes, strict=True))
    if run.sbref is not None and "sbref" not in options.ignore:
        inputs["sbref"] = run.sbref.path
    timed = _has_slice_times(run, options)
    desc = methods.bold(
        run, options, plan, has_t1w=anat is not None, timed=timed, known=fit is not None
    )
    part = Part(whole, name, desc=desc, inputs=inputs, given=fit)
    if anat is not None:
        part.take(anat, HEAD | {role: role for role in anat.roles("to:")})
    loose = {"n_threads": n_threads, "device": options.device}
    bolds = bold_roles(len(echoes))
    _add_facts(part, run, options, plan)
    if plan.way == "given" and "field" not in part:
        known = tuple(role for role in sorted(FIELDS) if role in part)
        part.add(
            "distortion",
            fieldsteps.field_again,
            needs=("hmc_boldref", "fmap_xfm", *known),
            gives=("field",),
        )
    if fit is None:
        _add_estimates(part, options=options, plan=plan, fieldmap=fieldmap, loose=loose)
    field = ("field",) if plan.way != "none" else ()
    series = (*bolds, "hmc_boldref", "hmc_xfm", *field)
    if len(echoes) > 1:
        part.add(
            "t2star",
            fit_echoes,
            needs=(*series, "mask"),
            links=("facts",),
            gives=("t2star", "echo_weights", "qc"),
            values={"fit": options.t2s_fit},
            loose=loose,
            n_threads=n_threads,
            says="echoes",
        )
        series = (*series, "echo_weights")
    _add_outputs(part, run, options, series=series, series_dir=series_dir, loose=loose)
    part.add_qc()
    return part


def _has_slice_times(run: Run, options: Options) -> bool:
    """Tell whether slices will be brought to one moment, for the methods paragraph."""
    if "slicetiming" in options.ignore:
        return False
    try:
        shape = open_image(run.bold).shape[:3]
    except AppError:
        return False  # the first step says what is wrong with the file
    timing, _ = read_slice_times(
        run.metadata, shape=shape, tr=run.tr, path=run.bold, reference=options.slice_time_ref
    )
    return timing is not None


def _add_facts(part: Part, run: Run, options: Options, plan: Plan) -> None:
    """Add the step that checks the run and settles what all others need to know of it."""
    part.add(
        "facts",
        boldsteps.facts,
        needs=bold_roles(len(run.echoes) or 1),
        gives=("facts", "qc"),
        values={
            "name": run.name,
            "tr": run.tr,
            "metadata": {key: run.metadata[key] for key in TIMING if key in run.metadata},
            "dummy_scans": options.dummy_scans,
            "slice_time_ref": None if "slicetiming" in options.ignore else options.slice_time_ref,
            "distortion": plan.facts,
            "echo_times": [float(scan.metadata["EchoTime"]) for scan in run.echoes],
            "notes": list(plan.notes),
            "told": list(run.notes),
        },
        says="facts",
    )


def _add_estimates(
    part: Part,
    *,
    options: Options,
    plan: Plan,
    fieldmap: Part | None,
    loose: dict[str, Any],
) -> None:
    """Add what is estimated once, whatever the output spaces."""
    part.add(
        "reference",
        boldsteps.reference,
        needs=("bold:1", "sbref") if "sbref" in part else ("bold:1",),
        links=("facts",),
        gives=("hmc_boldref", "hmc_mask", "qc"),
        says="reference",
    )
    part.add(
        "motion",
        boldsteps.motion,
        needs=("bold:1", "hmc_boldref", "hmc_mask", *(("sbref",) if "sbref" in part else ())),
        links=("facts",),
        gives=("hmc_xfm", "qc"),
        loose=loose,
        n_threads=loose["n_threads"],
        says="head",
    )
    _add_distortion(part, plan, fieldmap, seed=options.seed)
    flat = ("boldref", "boldref_mask")
    if "t1w" in part:
        part.add(
            "coregister",
            placesteps.coregistration,
            needs=(*flat, "t1w", "t1w_mask", "gm", "wm"),
            gives=("coreg_boldref", "mask", "coreg_xfm", "qc"),
            values={
                "dof": options.bold2anat_dof,
                "init": options.bold2anat_init,
                "seed": options.seed,
            },
            says="coregistration",
        )
    else:
        maps = [f"{way}:{space}" for way in ("to", "from") for space in options.templates]
        part.add(
            "normalize",
            placesteps.straight_to_template,
            needs=flat,
            gives=("coreg_boldref", "mask", *maps, "gm", "wm", "csf", "qc"),
            values={"spaces": list(options.templates), "seed": options.seed},
            says="normalization",
        )


def _add_distortion(part: Part, plan: Plan, fieldmap: Part | None, *, seed: int) -> None:
    """Add what finds the field at the BOLD reference, and name the reference without it."""
    found = ("field", "sdc_boldref", "sdc_mask")
    distorted = ("hmc_boldref", "hmc_mask")
    if plan.way == "map" and fieldmap is not None:
        roles = ("fieldmap", "fmap_reference", "fmap_mask", "fmap_coefficients")
        part.take(fieldmap, {role: role for role in roles})
        part.hear(fieldmap)
        part.add(
            "distortion",
            fieldsteps.place,
            needs=(*roles, *distorted),
            gives=(*found, "fmap_xfm", "qc"),
            links=("facts",),
            values={"seed": seed},
            says="distortion",
        )
    elif plan.way == "anatomy":
        part.add(
            "distortion",
            fieldsteps.field_from_anatomy,
            needs=(*distorted, "t1w", "t1w_mask", "gm", "wm", "csf"),
            gives=(*found, "qc"),
            links=("facts",),
            values={"seed": seed},
            says="distortion",
        )
    flat = "sdc" if plan.way in {"map", "anatomy"} else "hmc"
    part.call("boldref", f"{flat}_boldref")
    part.call("boldref_mask", f"{flat}_mask")


def _add_outputs(
    part: Part,
    run: Run,
    options: Options,
    *,
    series: tuple[str, ...],
    series_dir: Path,
    loose: dict[str, Any],
) -> None:
    """Add what is computed from the estimates, as far as the level asks."""
    if options.level == "minimal":
        return
    full = options.level == "full"
    coreg = ("coreg_xfm",) if "t1w" in part else ()
    if full:
        head = (*coreg, "t1w_mask") if "t1w" in part else ()
        template = next((role.removeprefix("to:") for role in part.roles("to:")), None)
        way = (f"to:{template}",) if template else ()
        part.add(
            "confounds",
            confoundsteps.confounds,
            needs=(*series, "mask", *head, "gm", "wm", "csf", *way),
            links=("facts",),
            gives=("confounds", "confounds_json", "measures", "qc"),
            values={
                "tr": run.tr,
                "thresholds": [options.fd_threshold, options.dvars_threshold],
                "all_components": options.return_all_components,
                "template": template,
                "phase_axis": find_phase_axis(run.metadata),
            },
            loose=loose,
            n_threads=loose["n_threads"],
            says="motion",
        )
        part.add_judgement("quality", confoundsteps.quality)
    for number, space in enumerate(options.spaces):
        still = () if space.name == "native" else (f"boldref:{space.label}", f"mask:{space.label}")
        gives = (*still, *((f"bold:{space.label}",) if full else ()))
        if not gives or (space.name == "T1w" and "t1w" not in part):
            continue
        way = {"native": (), "T1w": ("t1w", *coreg)}.get(space.name, (f"to:{space.name}", *coreg))
        part.add(
            f"resample{number}",
            boldoutputs.to_space,
            needs=(*series, "coreg_boldref", "mask", *way),
            links=("facts",),
            gives=gives,
            values={"name": space.name, "res": space.res, "tr": run.tr, "with_series": full},
            loose={**loose, "series_dir": str(series_dir)},
            n_threads=loose["n_threads"],
        )
