"""Preprocessing of one participant: T1w images and BOLD runs in, fMRIPrep-like files out.

One nipype graph a participant: an anatomical part, one for each field map, and one for each run
that depends on those alone. A run that fails leaves the others alone, and its error comes back by
name.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.stage import OutputSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neurostorm_app.errors import AppError
    from neurostorm_app.pipelines.stage import Run

__all__ = ["Files", "Options", "Preprocessed", "preprocess_participant"]

Files = Mapping[str, Path]
"""Paths by role."""

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


Level = Literal["minimal", "resampling", "full"]
Ignored = Literal["fieldmaps", "slicetiming", "sbref", "fmap-jacobian"]

SPACES = (
    OutputSpace(name="MNI152NLin6Asym", res="2"),
    OutputSpace(name="MNI152NLin2009cAsym", res="2"),
)
"""Where series go by default: what the models and most downstream tools look for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Choices that change numbers.

    Parameters
    ----------
    spaces : tuple of OutputSpace
        Where references, masks and series are wanted.
    level : {'minimal', 'resampling', 'full'}
        What can be recomputed from elsewhere is left out; references and masks in each space;
        also series and confounds.
    dummy_scans : int or None
        Volumes at the start that are not steady; None looks for them.
    slice_time_ref : float
        Moment that slices are brought to, between the first (0) and the last (1) of a volume.
    ignore : frozenset of str
        What is not used: ``fieldmaps``, ``slicetiming``, ``sbref``, ``fmap-jacobian``.
    bold2anat_dof : int
        Degrees of freedom of BOLD to T1w: 6, 9 or 12.
    bold2anat_init : {'auto', 't1w', 'header'}
        Where that registration starts.
    use_syn_sdc : bool
        Tell distortion from the anatomy where a run has no field map.
    fallback_total_readout_time : float or None
        Seconds, for images whose sidecars do not tell it.
    fd_threshold : float
        Framewise displacement of a motion outlier, mm.
    dvars_threshold : float
        Standardised DVARS of a motion outlier.
    return_all_components : bool
        Keep all components of CompCor, not those of half of the variance.
    t2s_fit : {'loglin', 'curvefit'}
        How T2* is fitted to several echoes.
    seed : int
        Seed of registrations.
    device : str
        Where motion and interpolation are computed: ``cpu`` or ``cuda:N``; the numbers agree to
        rounding.
    """

    spaces: tuple[OutputSpace, ...] = SPACES
    level: Level = "full"
    dummy_scans: int | None = None
    slice_time_ref: float = 0.5
    ignore: frozenset[Ignored] = frozenset()
    bold2anat_dof: Literal[6, 9, 12] = 6
    bold2anat_init: Literal["auto", "t1w", "header"] = "auto"
    use_syn_sdc: bool = False
    fallback_total_readout_time: float | None = None
    fd_threshold: float = 0.5
    dvars_threshold: float = 1.5
    return_all_components: bool = False
    t2s_fit: Literal["loglin", "curvefit"] = "loglin"
    seed: int = 42
    device: str = "cpu"

    @property
    def templates(self) -> tuple[str, ...]:
        """Names of the standard spaces, each once."""
        return tuple(dict.fromkeys(space.name for space in self.spaces if space.is_standard))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessed:
    """What came of a participant. Files go by their roles.

    Of the anatomy: ``t1w``, ``mask``, ``dseg``, ``gm``, ``wm``, ``csf``, ``qc``; ``to:`` and
    ``from:`` each template; and images in each standard space, such as
    ``t1w:MNI152NLin6Asym:res-2``. Of a run: ``hmc_boldref``, ``coreg_boldref``, ``mask``,
    ``hmc_xfm``, ``coreg_xfm``, ``qc``, where there is a field ``field``, ``fmap_xfm``,
    ``fieldmap``, ``fmap_reference``, ``fmap_mask`` and ``fmap_coefficients``, of several echoes
    ``t2star``; from level ``resampling`` on ``boldref:`` and ``mask:`` each output space; and at
    level ``full`` ``bold:`` each output space, ``confounds`` and ``confounds_json``.

    Parameters
    ----------
    anat : dict or None
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

    anat: Files | None
    bold: dict[str, Files] = field(default_factory=dict)
    failed: dict[str, AppError] = field(default_factory=dict)
    methods: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)


def preprocess_participant(  # noqa: PLR0913
    t1w: Sequence[Path],
    runs: Sequence[Run],
    *,
    work_dir: Path,
    series_dir: Path | None = None,
    options: Options,
    n_procs: int,
    anat: Files | None = None,
    fits: Mapping[str, Files] | None = None,
) -> Preprocessed:
    """Preprocess the T1w images and the runs of one participant.

    With more than one process a script that calls this must guard its main part by
    ``if __name__ == "__main__":``, because workers are started afresh.

    Parameters
    ----------
    t1w : sequence of Path
        T1w images as acquired; not looked at when `anat` is given. Without any the runs are
        brought straight to the templates.
    runs : sequence of Run
        BOLD runs of the participant.
    work_dir : Path
        Scratch; a second call with the same folder takes up where the first stopped.
    series_dir : Path, optional
        Where preprocessed series are written, best on the disk of the results, to which the
        caller moves them; by default in `work_dir`.
    options : Options
        Choices that change numbers.
    n_procs : int
        Processes at a time; it does not change the numbers.
    anat : mapping, optional
        Anatomy that is there already, by role.
    fits : mapping, optional
        What was estimated of runs before (the roles of level ``minimal``), by the name of the
        run; of these runs only what `options` asks beyond it is computed.

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
    graph = ParticipantGraph(
        t1w,
        runs,
        options=options,
        n_procs=n_procs,
        series_dir=(series_dir or work_dir / "series").absolute(),
        anat=anat,
        fits=fits or {},
    )
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
