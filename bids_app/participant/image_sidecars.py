"""What the sidecars of preprocessed images say.

Of the raw sidecar only a white list of acquisition parameters is carried over: names, birth
dates, addresses and serial numbers of people and scanners never reach an output.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.participant.images import SYN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neurostorm_app.bids_app.participant.images import Output
    from neurostorm_app.pipelines.stage import Fieldmap

__all__ = ["carried", "image_sidecar", "said", "series_facts"]

NUMBERS: Final = (
    "RepetitionTime",
    "EchoTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "SliceThickness",
    "TotalReadoutTime",
    "EffectiveEchoSpacing",
    "MultibandAccelerationFactor",
    "ParallelReductionFactorInPlane",
)
"""Keys of a raw sidecar whose value may stand in an output if it is a number."""
WORDS: Final = (
    "TaskName",
    "Manufacturer",
    "ManufacturersModelName",
    "PhaseEncodingDirection",
    "PulseSequenceType",
)
"""Keys of a raw sidecar whose value may stand in an output if it is a short text."""
SCALARS: Final = (str, int, float, bool)
TEXT_MAX: Final = 100


def carried(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a raw sidecar what may stand in an output: known keys, numbers and short texts."""
    numbers = {key: value for key in NUMBERS if _is_number(value := metadata.get(key))}
    words = {
        key: value
        for key in WORDS
        if isinstance(value := metadata.get(key), str)
        and len(value) <= TEXT_MAX
        and value.isprintable()
    }
    return {**words, **numbers}


def _is_number(value: object) -> bool:
    """Tell a finite number; JSON takes whole ones that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def series_facts(
    metadata: Mapping[str, Any], qc: Mapping[str, Any], fieldmap: Fieldmap | None = None
) -> dict[str, Any]:
    """Say of a series how it was acquired, and what was corrected and how.

    Parameters
    ----------
    metadata : mapping
        The raw sidecar.
    qc : mapping
        What the steps said of their work: ``slice_timing`` (None, or ``reference_s`` in seconds),
        ``distortion`` and ``notes``. What they did not say is not made up.
    fieldmap : Fieldmap, optional
        Of the run; without one a distortion was told from the anatomy.
    """
    facts = carried(metadata)
    known, timing = said(qc, "slice_timing")
    if known:
        facts["SliceTimingCorrected"] = timing is not None
        if timing is not None:
            facts["StartTime"] = timing["reference_s"]
        elif isinstance(times := metadata.get("SliceTiming"), list) and all(map(_is_number, times)):
            facts["SliceTiming"] = times
    _, distortion = said(qc, "distortion")
    if isinstance(distortion, dict):
        plain = {k: v for k, v in distortion.items() if v is None or isinstance(v, SCALARS)}
        method = {"Method": fieldmap.kind if fieldmap else "anatomy"}
        name = {"FieldMap": fieldmap.name if fieldmap else SYN}
        facts["DistortionCorrection"] = {**method, **name, **plain}
    _, notes = said(qc, "notes")
    return facts | ({"Notes": list(notes)} if notes else {})


def said(qc: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Find what the steps said of something: whether any did, and what."""
    for part in (qc, *(value for value in qc.values() if isinstance(value, dict))):
        if key in part:
            return True, part[key]
    return False, None


def image_sidecar(
    output: Output,
    *,
    sources: Sequence[str],
    reference: str | None = None,
    about: Mapping[str, Any] | None = None,
    masked: bool = False,
) -> dict[str, Any]:
    """Make the sidecar of a preprocessed image.

    Parameters
    ----------
    output : Output
        Which image.
    sources : sequence of str
        BIDS URIs.
    reference : str, optional
        BIDS URI of the image whose space it is in; BIDS asks it of T1w space.
    about : mapping, optional
        What is to be said of a series.
    masked : bool
        Whether what lies outside of the brain was taken off.
    """
    sidecar: dict[str, Any] = dict(output.facts or {})
    if output.suffix == "bold":
        sidecar |= dict(about or {})
    if masked:
        sidecar["SkullStripped"] = True
    if output.entities.get("space") == "T1w" and reference:
        sidecar["SpatialReference"] = reference
    return {**sidecar, "Sources": list(sources)}
