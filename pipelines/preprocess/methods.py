"""What was done, in sentences for the methods section of a paper; free to copy (CC0)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neurostorm_app.pipelines.preprocess.distortionplan import Plan
    from neurostorm_app.pipelines.preprocess.workflow import Options
    from neurostorm_app.pipelines.stage import Run

__all__ = ["anatomy", "bold", "fieldmap"]

KINDS = {
    "pepolar": "two or more echo-planar images with different phase encoding",
    "phasediff": "a map of phase differences",
    "phases": "two phase images",
    "direct": "a field map as acquired",
}


def anatomy(templates: Sequence[str], *, known: bool) -> str:
    """Say what was done with the T1w images, or which templates were added to what is known."""
    if known:
        return f"The anatomical images were brought to {' and '.join(templates)} too. "
    return (
        "T1-weighted images were corrected for intensity non-uniformity (N4, SimpleITK),"
        f" skull-stripped (deepbet), registered to {' and '.join(templates)} (affine and SyN, ANTs)"
        " and segmented into grey matter, white matter and cerebrospinal fluid. "
    )


def fieldmap(kind: str) -> str:
    """Say how the field was estimated."""
    return f"The unevenness of the magnetic field was estimated from {KINDS[kind]}. "


def bold(run: Run, options: Options, plan: Plan, *, has_t1w: bool, timed: bool, known: bool) -> str:
    """Say what was done with a run.

    Parameters
    ----------
    run : Run
        The run.
    options : Options
        Of the call.
    plan : Plan
        How its distortion is corrected.
    has_t1w : bool
        Whether it was registered to a T1w image.
    timed : bool
        Whether its slices are brought to one moment.
    known : bool
        Whether its estimates were there before.
    """
    rest = [_timing(options) if timed else "Slice timing was not corrected.", _distortion(plan)]
    full = [_confounds(options), _interpolation(run, options)] if options.level == "full" else []
    if known:
        taken = "Estimates of head motion and of registrations were taken as they were."
        return " ".join([taken, *rest, *full]) + " "
    single = run.sbref is not None and "sbref" not in options.ignore
    source = "the single-band reference" if single else "the median of realigned volumes"
    motion = (
        f"The reference of the BOLD run was {source}. Head motion was estimated against it by"
        " Gauss-Newton minimisation of robustly weighted squared differences (rigid, several"
        " levels of smoothing)."
    )
    return " ".join([motion, *rest, _place(options, has_t1w=has_t1w), *full]) + " "


def _timing(options: Options) -> str:
    return (
        "Slices were brought to one moment of the volume by interpolation in time, before any"
        f" in space (at {options.slice_time_ref:g} between the first and the last slice)."
    )


def _distortion(plan: Plan) -> str:
    if plan.way == "none":
        return "Susceptibility distortion was not corrected."
    how = "comparison with the anatomy" if plan.way == "anatomy" else "the field"
    with_jacobian = " and the change of intensity" if plan.facts["jacobian"] else ""
    return f"Susceptibility distortion{with_jacobian} was corrected by {how}."


def _place(options: Options, *, has_t1w: bool) -> str:
    if not has_t1w:
        return (
            "There was no T1-weighted image: the reference was registered straight to"
            f" {' and '.join(options.templates)} (affine and SyN, ANTs)."
        )
    return (
        "The reference was registered to the T1-weighted image by mutual information (ANTs) and"
        " then by the contrast across the grey-white boundary"
        f" ({options.bold2anat_dof} degrees of freedom)."
    )


def _confounds(options: Options) -> str:
    return (
        "Confounds were computed on the native grid, after these corrections, as fMRIPrep defines"
        " them: framewise displacement, DVARS, mean signals, aCompCor, tCompCor and crown"
        " components, cosines of 128 s, and motion outliers (framewise displacement above"
        f" {options.fd_threshold:g} mm or standardised DVARS above {options.dvars_threshold:g})."
    )


def _interpolation(run: Run, options: Options) -> str:
    echoes = (
        " Echoes were combined by weights from their T2* after it." if len(run.echoes) > 1 else ""
    )
    places = ", ".join(space.label for space in options.spaces)
    return (
        "All maps were joined, and each volume was interpolated once, by cubic B-splines, onto"
        f" {places}.{echoes}"
    )
