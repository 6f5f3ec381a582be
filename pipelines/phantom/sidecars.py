"""The words of a phantom: sidecars, tables and descriptions of the dataset and of its truth."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from neurostorm_app.pipelines.phantom.bold import AMPLITUDE
from neurostorm_app.pipelines.phantom.distortion import READOUT
from neurostorm_app.pipelines.phantom.files import write_json
from neurostorm_app.pipelines.phantom.head import TEMPLATE_SPACE
from neurostorm_app.pipelines.phantom.networks import AGE_SLOPE, BAND, GROUP_FACTOR, REGIONS
from neurostorm_app.pipelines.phantom.settings import ECHO_TIME, SCALES, TASK, TR, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.people import Participant

__all__ = [
    "bold_sidecar",
    "epi_sidecar",
    "gre_sidecar",
    "sbref_sidecar",
    "t1w_sidecar",
    "write_dataset_files",
    "write_truth_files",
]

_SCANNER: dict[str, Any] = {
    "Manufacturer": "simulated",
    "ManufacturersModelName": "neurostorm-app phantom",
    "MagneticFieldStrength": 3,
    "SoftwareVersions": version("neurostorm-app"),
    "InstitutionName": "none",
    "SequenceVariant": "NONE",
    "NonlinearGradientCorrection": False,
    "PulseSequenceDetails": "computed, not acquired",
}
_README = """\
# A phantom

Nobody was scanned. Every head is the brain of the MNI152NLin2009aSym template (as it ships in
nilearn) with a skull-like shell, through a known smooth warp; every BOLD series is computed
from known head motion, known network signals and noise. What is true of each scan is stored
beside this folder, outside the BIDS tree.

Made by `neurostorm-tools phantom`, seed {seed}, scale {scale}: {participants} participants,
{runs} runs of {n_volumes} volumes each. The same seed makes the same files. Patients (every
second participant) are less coupled within the default network, and coupling declines with age.

The anatomy derives from the ICBM 152 nonlinear templates: Copyright (C) 1993-2009 Louis Collins,
McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University. Permission to
use, copy, modify, and distribute this software and its documentation for any purpose and without
fee is hereby granted, provided that the above copyright notice appear in all copies. The authors
and McGill University make no representations about the suitability of this software for any
purpose. It is provided "as is" without express or implied warranty.
"""
_CONVENTIONS = {
    "world": "RAS+, mm",
    "motion": "motion[t] maps a point of the head in its reference pose (that of volume 0), in"
    " the scanner, to where it is at volume t; motion[t] @ inv(motion[r]) maps points of volume r"
    " to points of volume t",
    "t1w_to_bold": "maps points of the T1w to the scanner of the BOLD run, reference pose",
    "mode-points_xfm.h5": "from-A_to-B maps points of A to points of B",
    "fieldmap": "Hz, at the voxels of the BOLD series, undistorted, head in reference pose;"
    " with PhaseEncodingDirection j- signal moves by -field * TotalReadoutTime voxels along j",
    "dseg": "on the T1w: 0 not brain, 1 grey matter, 2 white matter, 3 fluid",
}


def t1w_sidecar() -> dict[str, Any]:
    """Describe a T1w."""
    return {
        **_SCANNER,
        "PulseSequenceType": "simulated MPRAGE",
        "ScanningSequence": ["GR", "IR"],
        "SequenceName": "mprage",
        "MRAcquisitionType": "3D",
        "RepetitionTime": 2.3,
        "EchoTime": 0.003,
        "InversionTime": 0.9,
        "FlipAngle": 9,
    }


def bold_sidecar(
    times: NDArray[np.float64], *, multiband: int, n_phase: int, settings: Settings
) -> dict[str, Any]:
    """Describe a BOLD series: slice times in s, `n_phase` lines along j, read against j."""
    sidecar = {
        "TaskName": TASK,
        "TaskDescription": "Rest",
        "Instructions": "None: nobody was there.",
        "RepetitionTime": TR,
        "SliceTiming": times.tolist(),
        "SliceEncodingDirection": "k",
        "MultibandAccelerationFactor": multiband,
        **_epi("j-", n_phase),
    }
    return {**sidecar, "B0FieldSource": settings.fieldmap} if settings.is_distorted else sidecar


def sbref_sidecar(bold: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the single-band reference of a series."""
    other = {"SliceTiming", "SliceEncodingDirection"}
    return {n: v for n, v in bold.items() if n not in other} | {"MultibandAccelerationFactor": 1}


def epi_sidecar(direction: str, *, n_phase: int, source: Mapping[str, Any]) -> dict[str, Any]:
    """Describe one of the pair that shows the field; `direction` is ``j`` or ``j-``."""
    return {**_epi(direction, n_phase), **source}


def gre_sidecar(source: Mapping[str, Any], **more: object) -> dict[str, Any]:
    """Describe one of the images of a gradient-echo field map."""
    return {
        **_SCANNER,
        "PulseSequenceType": "simulated double-echo gradient echo",
        "ScanningSequence": "GR",
        "SequenceName": "fm2d2r",
        "MRAcquisitionType": "2D",
        "RepetitionTime": 0.4,
        "FlipAngle": 60,
        **more,
        **source,
    }


def write_dataset_files(out: Path, settings: Settings, participants: Sequence[Participant]) -> None:
    """Write what stands at the top of the dataset."""
    write_json(
        out / "dataset_description.json",
        {
            "Name": "neurostorm-app phantom",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "License": "ICBM template licence; see README.md",
            "Authors": ["Nobody Scanned", "neurostorm-app"],
            "GeneratedBy": [{"Name": "neurostorm-app", "Version": version("neurostorm-app")}],
        },
    )
    (out / "README.md").write_text(_README.format(**settings.told()), encoding="utf-8")
    rows = [f"sub-{p.label}\t{p.age}\t{p.sex}\t{p.group}" for p in participants]
    table = "\n".join(["participant_id\tage\tsex\tgroup", *rows]) + "\n"
    (out / "participants.tsv").write_text(table, encoding="utf-8")
    write_json(
        out / "participants.json",
        {
            "participant_id": {"Description": "Participant"},
            "age": {"Description": "Age, drawn between 20 and 80", "Units": "year"},
            "sex": {"Description": "Sex, drawn", "Levels": {"F": "female", "M": "male"}},
            "group": {
                "Description": "Planted group",
                "Levels": {
                    "control": "nothing planted",
                    "patient": "less coupling within the default network",
                },
            },
        },
    )


def write_truth_files(root: Path, settings: Settings) -> Path:
    """Write what was asked and planted, and what the numbers mean; give back where."""
    regions = [
        {"network": r.network, "hemisphere": r.hemisphere, "seed_mm": list(r.seed)} for r in REGIONS
    ]
    path = root / "phantom.json"
    write_json(
        path,
        {
            "Version": version("neurostorm-app"),
            "Settings": settings.told(),
            "Scale": asdict(SCALES[settings.scale]),
            "Template": TEMPLATE_SPACE,
            "Conventions": _CONVENTIONS,
            "BoldAmplitude": AMPLITUDE,
            "BandHz": list(BAND),
            "TotalReadoutTime": READOUT,
            "Planted": {
                "age": "coupling within default and frontoparietal network, relative change a"
                f" year from 50: {AGE_SLOPE}",
                "group": f"coupling within the default network of patients: {GROUP_FACTOR} of"
                " controls'",
            },
            "Regions": regions,
        },
    )
    return path


def _epi(direction: str, n_phase: int) -> dict[str, Any]:
    return {
        **_SCANNER,
        "PulseSequenceType": "simulated gradient-echo EPI",
        "ScanningSequence": "EP",
        "SequenceName": "epi",
        "MRAcquisitionType": "2D",
        "FlipAngle": 75,
        "EchoTime": ECHO_TIME,
        "PhaseEncodingDirection": direction,
        "EffectiveEchoSpacing": round(READOUT / (n_phase - 1), 8),
        "TotalReadoutTime": READOUT,
    }
