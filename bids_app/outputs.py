"""What is written for a participant and a run: which names, and what the sidecars say.

Names are fMRIPrep's for everything fMRIPrep writes. Of the raw sidecar only a white list of
acquisition parameters is carried over: names, birth dates, addresses and serial numbers of
people and scanners never reach an output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.embed import RunEmbedding

__all__ = [
    "ANAT",
    "BOLD",
    "DEMO",
    "PRIVACY",
    "Output",
    "common_sidecar",
    "embedding_sidecars",
    "image_sidecar",
]

CARRIED: Final = (
    "TaskName",
    "RepetitionTime",
    "EchoTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "Manufacturer",
    "ManufacturersModelName",
    "PhaseEncodingDirection",
    "PulseSequenceType",
    "SliceThickness",
    "TotalReadoutTime",
    "EffectiveEchoSpacing",
    "MultibandAccelerationFactor",
    "ParallelReductionFactorInPlane",
)
"""Keys of a raw sidecar that may stand in an output."""
SCALARS: Final = (str, int, float, bool)
TEXT_MAX: Final = 100
PRIVACY: Final = (
    "Embeddings are personal data: two runs of one person resemble each other, so that a person "
    "can be recognised. Share and store them as you would the scans."
)
DEMO: Final = "DEMO WEIGHTS, NOT FOR SCIENCE. "
RESOLUTION: Final = {"2": "2 mm isotropic, the grid of TemplateFlow's res-2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One file of the preprocessing.

    Parameters
    ----------
    role : str
        Its name among the files that the preprocessing gives back.
    suffix, extension : str
        As in its name.
    entities : mapping
        What its name adds; ``{space}`` stands for the standard space.
    standard : bool
        Whether it lies in the standard space.
    facts : mapping or None
        What its sidecar says; None for a file without one.
    """

    role: str
    suffix: str
    extension: str = ".nii.gz"
    entities: Mapping[str, str] = field(default_factory=dict)
    standard: bool = False
    facts: Mapping[str, Any] | None = None

    def named(self, space: str, res: str) -> dict[str, str]:
        """Entities of the name in a given standard space."""
        entities = {key: value.format(space=space) for key, value in self.entities.items()}
        return {**entities, "space": space, "res": res} if self.standard else entities


def _xfm(role: str, *, source: str, target: str, extension: str, desc: str | None = None) -> Output:
    entities = {"from": source, "to": target, "mode": "image"} | ({"desc": desc} if desc else {})
    return Output(role=role, suffix="xfm", extension=extension, entities=entities)


def _tissue(role: str, label: str, *, standard: bool = False) -> Output:
    facts = {"Type": "Probability", "Label": label}
    return Output(
        role=role, suffix="probseg", entities={"label": label}, standard=standard, facts=facts
    )


_T1W = {"SkullStripped": False}
_BRAIN = {"Type": "Brain"}
_TISSUES = {"Type": "ROI", "LabelMap": {"1": "GM", "2": "WM", "3": "CSF"}}

ANAT: Final = (
    Output(role="t1w", suffix="T1w", entities={"desc": "preproc"}, facts=_T1W),
    Output(role="mask", suffix="mask", entities={"desc": "brain"}, facts=_BRAIN),
    Output(role="dseg", suffix="dseg", facts=_TISSUES),
    _tissue("gm", "GM"),
    _tissue("wm", "WM"),
    _tissue("csf", "CSF"),
    Output(role="t1w_std", suffix="T1w", entities={"desc": "preproc"}, standard=True, facts=_T1W),
    Output(role="mask_std", suffix="mask", entities={"desc": "brain"}, standard=True, facts=_BRAIN),
    Output(role="dseg_std", suffix="dseg", standard=True, facts=_TISSUES),
    _tissue("gm_std", "GM", standard=True),
    _tissue("wm_std", "WM", standard=True),
    _tissue("csf_std", "CSF", standard=True),
    _xfm("to_std_xfm", source="T1w", target="{space}", extension=".h5"),
    _xfm("from_std_xfm", source="{space}", target="T1w", extension=".h5"),
)
BOLD: Final = (
    Output(role="hmc_boldref", suffix="boldref", entities={"desc": "hmc"}, facts=_T1W),
    Output(role="coreg_boldref", suffix="boldref", entities={"desc": "coreg"}, facts=_T1W),
    Output(role="mask", suffix="mask", entities={"desc": "brain"}, facts=_BRAIN),
    _xfm("hmc_xfm", source="orig", target="boldref", extension=".txt", desc="hmc"),
    _xfm("coreg_xfm", source="boldref", target="T1w", extension=".txt", desc="coreg"),
    Output(role="confounds", suffix="timeseries", extension=".tsv", entities={"desc": "confounds"}),
    Output(
        role="confounds_json",
        suffix="timeseries",
        extension=".json",
        entities={"desc": "confounds"},
    ),
    Output(
        role="bold_std",
        suffix="bold",
        entities={"desc": "preproc"},
        standard=True,
        facts={"SkullStripped": False, "SliceTimingCorrected": False},
    ),
    Output(role="boldref_std", suffix="boldref", standard=True, facts=_T1W),
    Output(role="mask_std", suffix="mask", entities={"desc": "brain"}, standard=True, facts=_BRAIN),
)


def carried(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a raw sidecar what may stand in an output: known keys, short values."""
    return {
        key: value
        for key in CARRIED
        if isinstance(value := metadata.get(key), SCALARS)
        and not (isinstance(value, str) and len(value) > TEXT_MAX)
    }


def image_sidecar(
    output: Output, *, sources: Sequence[str], res: str, metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make the sidecar of a preprocessed image.

    Parameters
    ----------
    output : Output
        Which image.
    sources : sequence of str
        BIDS URIs.
    res : str
        Resolution index of the standard space.
    metadata : mapping, optional
        The raw sidecar, for a series.
    """
    sidecar: dict[str, Any] = dict(output.facts or {})
    if output.standard:
        sidecar["Resolution"] = RESOLUTION.get(res, f"index {res}")
    if output.suffix == "bold" and metadata is not None:
        sidecar |= carried(metadata)
    return {**sidecar, "Sources": list(sources)}


def embedding_sidecars(
    card: Card, embedding: RunEmbedding, *, sources: Sequence[str], notes: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the sidecars of the embeddings of a run and of its windows.

    Parameters
    ----------
    card : Card
        Of the model.
    embedding : RunEmbedding
        What the model gave.
    sources : sequence of str
        BIDS URIs of series, mask and confounds.
    notes : sequence of str
        What is to be known of the series.

    Returns
    -------
    dict
        Of the run.
    dict
        Of the windows.
    """
    n, dimension = embedding.windows.shape
    common = common_sidecar(card, embedding, sources=sources, notes=notes)
    demo = DEMO if card.demo else ""
    run = {"Description": f"{demo}Embedding of the run: {card.title}.", "Shape": [1, dimension]}
    windows = {
        "Description": f"{demo}Embeddings of windows of the run: {card.title}.",
        "Shape": [n, dimension],
        "onset": {"Description": "Start of the window after the first volume", "Units": "s"},
        "duration": {"Description": "Length of the window", "Units": "s"},
    }
    return {**run, **common}, {**windows, **common}


def common_sidecar(
    card: Card, embedding: RunEmbedding, *, sources: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    """Say what is true of every table that a model gives of a run.

    Parameters
    ----------
    card : Card
        Of the model.
    embedding : RunEmbedding
        What the model gave.
    sources : sequence of str
        BIDS URIs of series, mask and confounds.
    notes : sequence of str
        What is to be known of the series.
    """
    record = {
        k: v
        for k, v in embedding.record.items()
        if k not in _MEASURED and not k.startswith("seconds")
    }
    return {
        "Sources": list(sources),
        "Demo": card.demo,
        "Model": {
            "Name": card.name,
            "Label": card.label,
            "Title": card.title,
            "Version": card.version,
            "Architecture": card.architecture,
            "WeightsSHA256": record.get("weights_sha256"),
            "License": card.licence,
            "CommercialUse": card.commercial_use,
            "Limits": list(card.limits),
            "References": list(card.references),
        },
        "InputConformance": embedding.conformance,
        "Contract": card.contract.model_dump(mode="json"),
        "Pooling": card.pooling,
        "Precision": record.get("precision"),
        "Device": record.get("device"),
        "Computation": record,
        "EmbeddingDimension": embedding.windows.shape[1],
        "Notes": list(notes),
        "Privacy": PRIVACY,
    }


_MEASURED: Final = frozenset({"batch", "n_threads"})
