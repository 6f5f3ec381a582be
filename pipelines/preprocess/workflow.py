"""Preprocessing of one participant: T1w images and BOLD runs in, fMRIPrep-like files out.

One nipype graph a participant: an anatomical part, and a part for each run that depends on it
alone. A run that fails leaves the others alone, and its error comes back by name.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from neurostorm_app.errors import AppError
    from neurostorm_app.pipelines.stage import Run

__all__ = ["AnatFiles", "BoldFiles", "Options", "Preprocessed", "preprocess_participant"]

logger = logging.getLogger(__name__)

NIPYPE_SETTINGS = """[logging]
workflow_level = CRITICAL
utils_level = CRITICAL
interface_level = CRITICAL
log_directory = {folder}
[execution]
crashdump_dir = {folder}/crash
crashfile_format = txt
check_version = false
hash_method = timestamp
poll_sleep_duration = 0.5
remove_unnecessary_outputs = false
stop_on_first_crash = false
create_report = false
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnatFiles:
    """The anatomy of a participant.

    Parameters
    ----------
    t1w, mask, dseg, gm, wm, csf : Path
        Prepared T1w image, brain mask, labels (GM 1, WM 2, CSF 3) and probabilities, on the
        grid of the prepared T1w image.
    t1w_std, mask_std, dseg_std, gm_std, wm_std, csf_std : Path
        The same on the standard grid.
    to_std_xfm, from_std_xfm : Path
        ``from-T1w_to-<space>`` and back, ITK composites.
    qc : Path
        What the steps said about their work, JSON.
    """

    t1w: Path
    mask: Path
    dseg: Path
    gm: Path
    wm: Path
    csf: Path
    t1w_std: Path
    mask_std: Path
    dseg_std: Path
    gm_std: Path
    wm_std: Path
    csf_std: Path
    to_std_xfm: Path
    from_std_xfm: Path
    qc: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BoldFiles:
    """A preprocessed run.

    Parameters
    ----------
    hmc_boldref, coreg_boldref, mask : Path
        Reference, the same without its bias field, and the brain in it, native grid.
    hmc_xfm : Path
        ``from-orig_to-boldref``: an affine a volume, ITK text.
    coreg_xfm : Path
        ``from-boldref_to-T1w``: one affine, ITK text.
    confounds, confounds_json : Path
        fMRIPrep's table and its sidecar.
    bold_std, boldref_std, mask_std : Path
        Series, reference and mask on the standard grid.
    qc : Path
        What the steps said about their work, JSON.
    """

    hmc_boldref: Path
    coreg_boldref: Path
    mask: Path
    hmc_xfm: Path
    coreg_xfm: Path
    confounds: Path
    confounds_json: Path
    bold_std: Path
    boldref_std: Path
    mask_std: Path
    qc: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Choices that change numbers.

    Parameters
    ----------
    space, res : str
        Output space by its TemplateFlow name, and resolution index.
    dummy_scans : int or None
        Volumes at the start that are not steady; None looks for them.
    bold2anat_dof : int
        Degrees of freedom of BOLD to T1w; 6.
    fd_threshold : float
        Framewise displacement of a motion outlier, mm.
    dvars_threshold : float
        Standardised DVARS of a motion outlier.
    seed : int
        Seed of registrations.
    """

    space: str = "MNI152NLin6Asym"
    res: str = "2"
    dummy_scans: int | None = None
    bold2anat_dof: int = 6
    fd_threshold: float = 0.5
    dvars_threshold: float = 1.5
    seed: int = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessed:
    """What came of a participant.

    Parameters
    ----------
    anat : AnatFiles or None
        None if the anatomy failed; then every run failed with its error.
    bold : dict
        Files of each run that was done, by the name of the run.
    failed : dict
        The error of each run that was not.
    methods : str
        Paragraph for the methods section, Markdown.
    timings : dict
        Seconds a node, by ``<part>.<node>``.
    peak_mib : dict
        Peak memory of the process that ran it, by the same names.
    """

    anat: AnatFiles | None
    bold: dict[str, BoldFiles] = field(default_factory=dict)
    failed: dict[str, AppError] = field(default_factory=dict)
    methods: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)


def preprocess_participant(
    t1w: Sequence[Path],
    runs: Sequence[Run],
    *,
    work_dir: Path,
    options: Options,
    n_procs: int,
    anat: AnatFiles | None = None,
) -> Preprocessed:
    """Preprocess the T1w images and the runs of one participant.

    With more than one process a script that calls this must guard its main part by
    ``if __name__ == "__main__":``, because workers are started afresh.

    Parameters
    ----------
    t1w : sequence of Path
        T1w images as acquired; not looked at when `anat` is given.
    runs : sequence of Run
        BOLD runs of the participant.
    work_dir : Path
        Scratch; a second call with the same folder takes up where the first stopped.
    options : Options
        Choices that change numbers.
    n_procs : int
        Processes at a time; it does not change the numbers.
    anat : AnatFiles, optional
        Anatomy that is there already.

    Returns
    -------
    Preprocessed
        Files in `work_dir`, and the errors of runs that failed.

    Raises
    ------
    UsageError
        In a worker whose script has no guard.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(
            "preprocessing was called again while one of its workers was starting",
            fix='put `if __name__ == "__main__":` around the main part of the script',
        )
    work_dir = work_dir.absolute()
    _settle_nipype(work_dir / "nipype")
    from neurostorm_app.pipelines.preprocess.graph import ParticipantGraph, apply_settings

    apply_settings(work_dir)
    graph = ParticipantGraph(t1w, runs, options=options, n_procs=n_procs, anat=anat)
    done = graph.run(work_dir)
    for name, error in done.failed.items():
        logger.error("%s: preprocessing failed: %s", name, error.what)
    return done


def _settle_nipype(folder: Path) -> None:
    """Keep nipype and what it imports out of the home folder and off the network."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = NIPYPE_SETTINGS.format(folder=folder)
    (folder / "nipype.cfg").write_text(settings, encoding="utf-8")
    os.environ["NIPYPE_CONFIG_DIR"] = str(folder)
    os.environ["NO_ET"] = "1"
    # ANTs imports matplotlib, which keeps a list of fonts.
    os.environ.setdefault("MPLCONFIGDIR", str(folder))
