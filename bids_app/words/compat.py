"""Options of fMRIPrep and its family that mean nothing here, or that we refuse.

Scripts written for other apps go on working where that is harmless; where an option would
change results and we cannot honour it, the call ends before any work is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FOREIGN", "Foreign"]


@dataclass(frozen=True, slots=True)
class Foreign:
    """An option of another app.

    Parameters
    ----------
    flags : tuple of str
        Its spellings.
    nargs : int or str
        Number of values, as in argparse.
    why : str
        Why it does nothing, or why it is refused.
    refused : bool
        Whether the call ends.
    """

    flags: tuple[str, ...]
    nargs: int | str
    why: str
    refused: bool = False


FOREIGN: Final = (
    Foreign(("--notrack",), 0, "nothing is ever sent anywhere"),
    Foreign(("--fs-license-file",), 1, "FreeSurfer is not used"),
    Foreign(("--fs-subjects-dir",), 1, "FreeSurfer is not used"),
    Foreign(("--fs-no-reconall", "--no-freesurfer"), 0, "FreeSurfer is not used"),
    Foreign(("--use-plugin", "--nipype-plugin-file"), 1, "--nprocs says how many processes run"),
    Foreign(("--low-mem",), 0, "series are always read in blocks of volumes"),
    Foreign(("--resource-monitor",), 0, "time and peak memory are always recorded"),
    Foreign(("--write-graph",), 0, "the steps and their times stand in OUTPUT_DIR/prov"),
    Foreign(("--debug",), "+", "-v and -vv say more; crashes are always told in OUTPUT_DIR/logs"),
    Foreign(("--track-carbon",), 0, "nothing is tracked; times stand in OUTPUT_DIR/prov"),
    Foreign(("--country-code",), 1, "nothing is tracked; times stand in OUTPUT_DIR/prov"),
    Foreign(("--fs-no-resume",), 0, "FreeSurfer is not used"),
    Foreign(("--submm-recon", "--no-submm-recon"), 0, "FreeSurfer is not used"),
    Foreign(("--medial-surface-nan",), 0, "surfaces are not made", refused=True),
    Foreign(("--project-goodvoxels",), 0, "surfaces are not made", refused=True),
    Foreign(("--md-only-boilerplate",), 0, "the methods are written as Markdown"),
    Foreign(("--cifti-output",), "?", "surfaces and CIFTI are not made", refused=True),
    Foreign(("--msm", "--no-msm"), 0, "surfaces are not made", refused=True),
    Foreign(("--fmap-bspline",), 0, "fields are always fitted by B-splines"),
    Foreign(("--fmap-no-demean",), 0, "a field is taken as it is estimated", refused=True),
    Foreign(("--force",), "+", "what is used is decided by measured verdicts", refused=True),
    Foreign(("--output-layout",), 1, "outputs are always laid out as BIDS", refused=True),
    Foreign(("--boilerplate-only",), 0, "methods are written with the results", refused=True),
    Foreign(("--sloppy",), 0, "there is no low-quality mode, and results are those of any call"),
    Foreign(("--me-output-echos",), 0, "echoes are combined, not written one by one", refused=True),
)
