"""The nipype graph of a participant, and what comes out of running it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nipype
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.preprocess import interfaces, interfaces_anat
from neurostorm_app.pipelines.preprocess.nodes import WriteQc
from neurostorm_app.pipelines.preprocess.outcome import forget_errors, gather
from neurostorm_app.pipelines.preprocess.plugin import PoolPlugin, StepLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neurostorm_app.pipelines.preprocess.workflow import AnatFiles, Options, Preprocessed
    from neurostorm_app.pipelines.stage import Run

__all__ = ["ParticipantGraph", "apply_settings"]

logger = logging.getLogger(__name__)

ANAT_METHODS = """\
T1-weighted images were corrected for intensity non-uniformity (N4, SimpleITK), skull-stripped
(deepbet), registered to {space} (affine and SyN, ANTs) and segmented into grey matter, white
matter and cerebrospinal fluid. """
BOLD_METHODS = """\
For each BOLD run a reference was made as the median of realigned volumes. Head motion was
estimated by Gauss-Newton minimisation of squared differences to it (rigid, two levels of
smoothing). The reference was registered to the T1-weighted image by mutual information (ANTs)
and then by the contrast across the grey-white boundary (six degrees of freedom). Confounds were
computed on the motion-corrected series as fMRIPrep defines them: framewise displacement, DVARS,
mean signals, aCompCor and tCompCor components, cosines of 128 s, and motion outliers (framewise
displacement above {fd_threshold} mm or standardised DVARS above {dvars_threshold}). Head motion,
coregistration and normalisation were joined, and each volume was interpolated once, by cubic
B-splines, onto {space} at resolution {res}. Slice timing and susceptibility distortion were not
corrected."""


class ParticipantGraph:
    """The steps of one participant as a nipype graph.

    Parameters
    ----------
    t1w : sequence of Path
        T1w images as acquired.
    runs : sequence of Run
        BOLD runs.
    options : Options
        Choices that change numbers.
    n_procs : int
        Processes at a time.
    anat : AnatFiles, optional
        Anatomy that is there already; then the graph has no anatomical part.
    """

    def __init__(
        self,
        t1w: Sequence[Path],
        runs: Sequence[Run],
        *,
        options: Options,
        n_procs: int,
        anat: AnatFiles | None = None,
    ) -> None:
        self._options = options
        self._n_procs = n_procs
        self._anat = anat
        self._parts = {f"run{number:03d}": run for number, run in enumerate(runs)}
        names = {name: run.name for name, run in self._parts.items()}
        self._tell = StepLog({"anat": "anatomy"} | names)
        self._threads = max(1, n_procs // max(1, len(runs)))
        self._whole = LiterateWorkflow(name="participant")
        anat_part = None if anat is not None else self._anat_part(t1w)
        if anat_part is not None:
            self._whole.add_nodes([anat_part])
        for name, run in self._parts.items():
            part = self._bold_part(name, run)
            self._whole.add_nodes([part])
            self._join(anat_part, part)

    @property
    def methods(self) -> str:
        """The methods paragraph, from the parts that are there."""
        numbers = {name: getattr(self._options, name) for name in self._options.__slots__}
        text: str = self._whole.visit_desc()
        return text.format(**numbers).replace("\n", " ").strip()

    def run(self, work_dir: Path) -> Preprocessed:
        """Run the graph, and gather files, errors and timings.

        Parameters
        ----------
        work_dir : Path
            Scratch of this participant.
        """
        self._whole.base_dir = str(work_dir)
        forget_errors(work_dir)
        pool = PoolPlugin(self._n_procs, self._tell) if self._n_procs > 1 else None
        crash = self._execute(pool)
        if pool is not None and pool.death is not None:
            logger.warning("%s; what is left is tried once more, one step at a time", pool.death)
            pool = PoolPlugin(1, self._tell)
            crash = self._execute(pool)
        return gather(
            work_dir / "participant",
            parts={name: run.name for name, run in self._parts.items()},
            anat=self._anat,
            place=(self._options.space, self._options.res),
            crash=crash,
            methods=self.methods,
        )

    def _execute(self, pool: PoolPlugin | None) -> Exception | None:
        """Run what is not done yet, in workers or here; give what stopped it."""
        before = Path.cwd()
        try:
            alone = {"status_callback": self._tell}
            self._whole.run(plugin=pool or "Linear", plugin_args=None if pool else alone)
        except (RuntimeError, OSError, AppError, ValueError) as error:
            # nipype raises one error for all; the nodes have told their own stories.
            return (pool.death if pool is not None else None) or error
        finally:
            os.chdir(before)
        return None

    def _anat_part(self, t1w: Sequence[Path]) -> Any:
        given = self._options
        part: Any = LiterateWorkflow(name="anat")
        part.__desc__ = ANAT_METHODS
        place = {"space": given.space, "res": given.res}
        prepare = _node("prepare", interfaces_anat.PrepareT1w(t1w=[str(path) for path in t1w]))
        brain = _node("brain", interfaces_anat.ExtractBrain())
        norm = _node("normalize", interfaces_anat.Normalize(seed=given.seed, **place))
        tissue = _node("segment", interfaces_anat.Segment())
        standard = _node("standard", interfaces_anat.ToStandard(**place))
        slots = {"one": "t1w", "two": "brain", "three": "normalization", "four": "tissues"}
        qc = _node("qc", WriteQc(parts=slots))
        masked = [("mask", "mask")]
        part.connect(
            [
                (prepare, brain, [("t1w", "t1w")]),
                (prepare, norm, [("t1w", "t1w")]),
                (prepare, tissue, [("t1w", "t1w")]),
                (prepare, standard, [("t1w", "t1w")]),
                (brain, norm, masked),
                (brain, tissue, masked),
                (brain, standard, masked),
                (norm, tissue, [("priors", "priors")]),
                (norm, standard, [("to_std_xfm", "to_std_xfm")]),
                (tissue, standard, [("probsegs", "probsegs")]),
                (prepare, qc, [("qc", "one")]),
                (brain, qc, [("qc", "two")]),
                (norm, qc, [("qc", "three")]),
                (tissue, qc, [("qc", "four")]),
            ]
        )
        return part

    def _bold_part(self, name: str, run: Run) -> Any:
        given = self._options
        part: Any = LiterateWorkflow(name=name)
        part.__desc__ = BOLD_METHODS
        common = {"bold": str(run.bold.absolute()), "n_threads": self._threads}
        reference = _node(
            "reference",
            interfaces.Reference(bold=common["bold"], tr=run.tr, dummy_scans=given.dummy_scans),
        )
        motion = _node("motion", interfaces.Motion(**common), self._threads)
        coreg = _node("coregister", interfaces.Coregister(dof=given.bold2anat_dof, seed=given.seed))
        confounds = _node(
            "confounds",
            interfaces.Confounds(
                tr=run.tr,
                fd_threshold=given.fd_threshold,
                dvars_threshold=given.dvars_threshold,
                **common,
            ),
            self._threads,
        )
        resample = _node(
            "resample",
            interfaces.ResampleBold(space=given.space, res=given.res, tr=run.tr, **common),
            self._threads,
        )
        slots = {"one": "reference", "two": "coregistration", "three": "motion"}
        qc = _node("qc", WriteQc(parts=slots))
        seen = [("boldref", "boldref"), ("mask", "mask")]
        part.connect(
            [
                (reference, motion, seen),
                (reference, coreg, seen),
                (reference, confounds, [("boldref", "boldref"), ("n_skipped", "n_skipped")]),
                (motion, confounds, [("hmc_xfm", "hmc_xfm")]),
                (motion, resample, [("hmc_xfm", "hmc_xfm")]),
                (coreg, confounds, [("mask", "mask"), ("coreg_xfm", "coreg_xfm")]),
                (
                    coreg,
                    resample,
                    [("coreg_boldref", "boldref"), ("mask", "mask"), ("coreg_xfm", "coreg_xfm")],
                ),
                (reference, qc, [("qc", "one")]),
                (coreg, qc, [("qc", "two")]),
                (confounds, qc, [("qc", "three")]),
            ]
        )
        return part

    def _join(self, anat_part: Any, part: Any) -> None:
        """Give a run its anatomy, from the graph or from files."""
        roles = {
            "coregister": {"t1w": "t1w", "t1w_mask": "mask", "gm": "gm", "wm": "wm"},
            "confounds": {"gm": "gm", "wm": "wm", "csf": "csf"},
            "resample": {"to_std_xfm": "to_std_xfm"},
        }
        makers = {"t1w": "prepare", "mask": "brain", "to_std_xfm": "normalize"}
        for node, wanted in roles.items():
            for target, role in wanted.items():
                if self._anat is not None:
                    setattr(part.get_node(node).inputs, target, str(getattr(self._anat, role)))
                else:
                    source = f"{makers.get(role, 'segment')}.{role}"
                    self._whole.connect(anat_part, source, part, f"{node}.{target}")


def apply_settings(work_dir: Path) -> None:
    """Tell nipype where to write, before a graph is built: graphs keep what they found then.

    Parameters
    ----------
    work_dir : Path
        Scratch of the participant, with ``nipype/nipype.cfg``. A nipype that somebody imported
        before us, or that ran another participant, has other settings.
    """
    nipype.config._config.read(work_dir / "nipype" / "nipype.cfg")  # noqa: SLF001
    nipype.logging.update_logging(nipype.config)


def _node(name: str, interface: Any, n_threads: int = 1) -> Any:
    return pe.Node(interface, name=name, n_procs=n_threads, mem_gb=0.5)
