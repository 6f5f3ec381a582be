"""Which images the preprocessing gives, by role: names as fMRIPrep's, and facts of sidecars."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from neurostorm_app.pipelines.stage import OutputSpace

__all__ = [
    "ANAT",
    "CONFOUNDS",
    "SYN",
    "Output",
    "anat_in",
    "maps_between",
    "of_field",
    "of_fieldmap",
    "of_fit",
    "references_in",
    "series_in",
]

SYN: Final = "syn"
"""The ``fmapid`` of a field that was told from the anatomy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One file of the preprocessing.

    Parameters
    ----------
    role : str
        Its name among the files that the preprocessing gives back.
    suffix, extension : str
        As in its name.
    datatype : str
        ``anat``, ``func`` or ``fmap``.
    entities : mapping
        What its name adds to that of its source.
    facts : mapping or None
        What its sidecar says; None for a file without one.
    optional : bool
        Whether a run may lack it.
    """

    role: str
    suffix: str
    extension: str = ".nii.gz"
    datatype: str = "func"
    entities: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] | None = None
    optional: bool = False


_WHOLE: Final = {"SkullStripped": False}
_BRAIN: Final = {"Type": "Brain"}
_TISSUES: Final = {"Type": "ROI", "LabelMap": {"1": "GM", "2": "WM", "3": "CSF"}}
_HERTZ: Final = {"Units": "Hz"}


def _place(space: OutputSpace) -> tuple[dict[str, str], dict[str, str]]:
    """Entities and sidecar of an image in a space."""
    if space.name == "native":
        return {}, {}
    entities = {"space": space.name}
    if space.res is None or space.res == "native":
        return entities, {}
    said = {"2": "2 mm isotropic, the grid of TemplateFlow's res-2", "1": "1 mm isotropic"}
    text = said.get(space.res, f"TemplateFlow's res-{space.res}")
    return {**entities, "res": space.res}, {"Resolution": text}


def _anatomy(mark: str, entities: Mapping[str, str], facts: Mapping[str, str]) -> Iterator[Output]:
    def image(role: str, suffix: str, adds: Mapping[str, str], about: Mapping[str, Any]) -> Output:
        """Name one image."""
        return Output(
            role=role + mark,
            suffix=suffix,
            datatype="anat",
            entities={**entities, **adds},
            facts={**about, **facts},
        )

    yield image("t1w", "T1w", {"desc": "preproc"}, _WHOLE)
    yield image("mask", "mask", {"desc": "brain"}, _BRAIN)
    yield image("dseg", "dseg", {}, _TISSUES)
    for label in ("GM", "WM", "CSF"):
        about = {"Type": "Probability", "Label": label}
        yield image(label.lower(), "probseg", {"label": label}, about)


ANAT: Final = tuple(_anatomy("", {}, {}))
"""The anatomy on its own grid."""
CONFOUNDS: Final = (
    Output(role="confounds", suffix="timeseries", extension=".tsv", entities={"desc": "confounds"}),
    Output(
        role="confounds_json",
        suffix="timeseries",
        extension=".json",
        entities={"desc": "confounds"},
    ),
)


def maps_between(of: str, template: str, *, datatype: str) -> tuple[Output, ...]:
    """List the transforms between ``T1w`` or ``boldref`` and a template, ITK composites."""

    def xfm(role: str, source: str, target: str) -> Output:
        """Name one transform."""
        return Output(
            role=f"{role}:{template}",
            suffix="xfm",
            extension=".h5",
            datatype=datatype,
            entities={"from": source, "to": target, "mode": "image"},
        )

    return xfm("to", of, template), xfm("from", template, of)


def anat_in(space: OutputSpace) -> tuple[Output, ...]:
    """List the images of the anatomy in a standard space."""
    return tuple(_anatomy(f":{space.label}", *_place(space)))


def of_fit() -> tuple[Output, ...]:
    """List what is estimated of a run and is not recomputed for another space."""

    def xfm(role: str, source: str, target: str, *, optional: bool = False) -> Output:
        """Name one transform."""
        return Output(
            role=f"{role}_xfm",
            suffix="xfm",
            extension=".txt",
            entities={"from": source, "to": target, "mode": "image", "desc": role},
            facts={},
            optional=optional,
        )

    t2star = {"Units": "s"}
    # Of a run without a T1w image tissues are the template's, on the run's own grid.
    tissues = (
        Output(
            role=label.lower(),
            suffix="probseg",
            entities={"label": label},
            facts={"Type": "Probability", "Label": label},
            optional=True,
        )
        for label in ("GM", "WM", "CSF")
    )
    return (
        Output(role="hmc_boldref", suffix="boldref", entities={"desc": "hmc"}, facts=_WHOLE),
        Output(role="coreg_boldref", suffix="boldref", entities={"desc": "coreg"}, facts=_WHOLE),
        Output(role="mask", suffix="mask", entities={"desc": "brain"}, facts=_BRAIN),
        xfm("hmc", "orig", "boldref"),
        xfm("coreg", "boldref", "T1w", optional=True),
        Output(role="t2star", suffix="T2starmap", facts=t2star, optional=True),
        *tissues,
    )


def of_field(fmapid: str) -> tuple[Output, ...]:
    """List what a run has of its field: where the field map is, and the field in Hz there."""
    entities = {"from": "boldref", "to": fmapid, "mode": "image", "desc": "fmap"}
    return (
        Output(
            role="fmap_xfm",
            suffix="xfm",
            extension=".txt",
            entities=entities,
            facts={},
            optional=True,
        ),
        Output(
            role="field",
            suffix="fieldmap",
            entities={"fmapid": fmapid, "desc": "boldref"},
            facts=_HERTZ,
            optional=True,
        ),
    )


def of_fieldmap(fmapid: str, kind: str) -> tuple[Output, ...]:
    """List a field map: the field in Hz, its coefficients, its reference and the brain in it."""

    def image(role: str, desc: str, facts: Mapping[str, Any], suffix: str = "fieldmap") -> Output:
        """Name one image."""
        return Output(
            role=role,
            suffix=suffix,
            datatype="fmap",
            entities={"fmapid": fmapid, "desc": desc},
            facts=facts,
            optional=True,
        )

    return (
        image("fieldmap", "preproc", _HERTZ),
        image("fmap_coefficients", "coeff", _HERTZ),
        image("fmap_reference", "epi" if kind == "pepolar" else "magnitude", _WHOLE),
        image("fmap_mask", "brain", _BRAIN, "mask"),
    )


def references_in(space: OutputSpace) -> tuple[Output, ...]:
    """List reference and mask of a run in a space; those on its own grid are of its fit."""
    if space.name == "native":
        return ()
    entities, facts = _place(space)
    mark = f":{space.label}"
    return (
        Output(
            role=f"boldref{mark}", suffix="boldref", entities=entities, facts={**_WHOLE, **facts}
        ),
        Output(
            role=f"mask{mark}",
            suffix="mask",
            entities={**entities, "desc": "brain"},
            facts={**_BRAIN, **facts},
        ),
    )


def series_in(space: OutputSpace) -> tuple[Output, ...]:
    """List the series of a run in a space."""
    entities, facts = _place(space)
    role = f"bold:{space.label}"
    entities = {**entities, "desc": "preproc"}
    return (Output(role=role, suffix="bold", entities=entities, facts={**_WHOLE, **facts}),)
