"""Which way the distortion of a run is corrected, decided from its sidecars before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.image import open_image
from neurostorm_app.pipelines.preprocess.field.encoding import read_phase, read_readout

if TYPE_CHECKING:
    from neurostorm_app.pipelines.preprocess.workflow import Files, Options
    from neurostorm_app.pipelines.stage import Fieldmap, Run

__all__ = ["FIELDS", "Plan", "plan_distortion"]

FIELDS = {"fmap_coefficients", "fieldmap"}
"""Roles from which a field can be brought to the BOLD reference again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the distortion of a run is corrected.

    Parameters
    ----------
    way : {'map', 'anatomy', 'given', 'none'}
        By a field map, by comparison with the anatomy, by a field that is there already, or not.
    fieldmap : Fieldmap or None
        The field map, if it is used.
    facts : dict
        ``phase`` (axis and sign), ``readout`` (s) and ``jacobian``; empty if not corrected.
    notes : tuple of str
        What is not corrected, and why.
    """

    way: Literal["map", "anatomy", "given", "none"]
    fieldmap: Fieldmap | None = None
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()


def plan_distortion(run: Run, options: Options, *, has_t1w: bool, fit: Files | None) -> Plan:
    """Decide how the distortion of a run is corrected.

    Parameters
    ----------
    run : Run
        The run and its field map.
    options : Options
        Of the call.
    has_t1w : bool
        Whether the participant has an anatomy.
    fit : mapping or None
        What was estimated before.

    Returns
    -------
    Plan
        What is missing for a correction is told in its notes.
    """
    ignored = "fieldmaps" in options.ignore
    way: Literal["map", "anatomy", "given", "none"]
    if fit is not None:
        if "field" not in fit and not ("fmap_xfm" in fit and FIELDS & set(fit)):
            # What is said of a run is the same whether or not its estimates were there before.
            anew = plan_distortion(run, options, has_t1w=has_t1w, fit=None)
            return anew if anew.way == "none" else _uncorrected("its estimates hold no field")
        way = "given"
    elif run.fieldmap is not None and not ignored:
        way = "map"
    else:
        way = "anatomy" if options.use_syn_sdc and has_t1w else "none"
    if way == "none":
        return _uncorrected("by choice" if ignored else "no field map belongs to the run")
    try:
        axis, sign = read_phase(run.metadata, run.bold)
        readout = read_readout(
            run.metadata,
            n_phase=open_image(run.bold).shape[axis],
            path=run.bold,
            fallback=options.fallback_total_readout_time,
        )
    except AppError as error:
        # Notes stand in outputs, where folders of this machine do not belong.
        return _uncorrected(error.what.replace(str(run.bold), run.bold.name))
    jacobian = "fmap-jacobian" not in options.ignore and _squeezes(run, way, fit or {})
    return Plan(
        way=way,
        fieldmap=run.fieldmap if way == "map" else None,
        facts={"phase": [axis, sign], "readout": readout, "jacobian": jacobian},
    )


def _squeezes(run: Run, way: str, fit: Files) -> bool:
    """Tell whether brightness is corrected too: as fMRIPrep does, of EPIs, not of measured maps.

    A field told from the anatomy was found that way.
    """
    if way == "anatomy" or (way == "given" and "fmap_xfm" not in fit):
        return True
    if run.fieldmap is not None:
        return run.fieldmap.kind == "pepolar"
    return "fmap_reference" in fit and "_desc-epi_" in fit["fmap_reference"].name


def _uncorrected(why: str) -> Plan:
    note = f"susceptibility distortion is not corrected: {why}"
    return Plan(way="none", facts={}, notes=(note,))
