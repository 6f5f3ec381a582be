"""The nipype graph of a participant, and what comes out of running it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import nipype
from niworkflows.engine.workflows import LiterateWorkflow

from neurostorm_app.pipelines.preprocess import methods
from neurostorm_app.pipelines.preprocess.boldpart import add_run
from neurostorm_app.pipelines.preprocess.distortionplan import Plan, plan_distortion
from neurostorm_app.pipelines.preprocess.outcome import forget_errors, forget_moved, gather
from neurostorm_app.pipelines.preprocess.part import Part
from neurostorm_app.pipelines.preprocess.plugin import PoolPlugin, StepLog
from neurostorm_app.pipelines.preprocess.steps import anatsteps
from neurostorm_app.pipelines.preprocess.steps.fieldsteps import field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neurostorm_app.pipelines.preprocess.workflow import Files, Options, Preprocessed
    from neurostorm_app.pipelines.stage import Fieldmap, Run
    from neurostorm_app.pipelines.wire import Wire

__all__ = ["ParticipantGraph", "apply_settings"]

logger = logging.getLogger(__name__)

FIELD = ("fieldmap", "fmap_reference", "fmap_mask", "fmap_coefficients")
"""What is known of a field map, on its own grid."""


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
    series_dir : Path
        Where the series are written.
    anat : mapping, optional
        Anatomy that is there already; then the graph has no anatomical part.
    fits : mapping
        Estimates of runs that are there already, by the name of the run.
    """

    def __init__(  # noqa: PLR0913
        self,
        t1w: Sequence[Path],
        runs: Sequence[Run],
        *,
        options: Options,
        n_procs: int,
        series_dir: Path,
        anat: Files | None = None,
        fits: Mapping[str, Files],
    ) -> None:
        self._options = options
        self._n_procs = n_procs
        self._whole = LiterateWorkflow(name="participant")
        self._names = {f"run{number:03d}": run.name for number, run in enumerate(runs)}
        self._tell = StepLog({"anat": "anatomy"} | self._names)
        self._parts: dict[str, Part] = {}
        self._needs: dict[str, list[str]] = {}
        self._fields: dict[tuple[Path, ...], str] = {}
        n_threads = max(1, n_procs // max(1, len(runs)))
        if anat is not None or t1w:
            self._parts["anat"] = self._anat_part(t1w, anat)
        for name, run in zip(self._names, runs, strict=True):
            fit = fits.get(run.name)
            plan = plan_distortion(run, options, has_t1w="anat" in self._parts, fit=fit)
            needs = [p for p in ("anat", self._field_part(plan)) if p in self._parts]
            self._needs[name] = needs
            self._parts[name] = add_run(
                self._whole,
                name,
                run,
                options=options,
                plan=plan,
                anat=self._parts.get("anat"),
                fieldmap=self._parts.get(needs[-1]) if plan.fieldmap else None,
                fit=fit,
                series_dir=series_dir / run.name,
                n_threads=n_threads,
            )

    @property
    def methods(self) -> str:
        """The methods paragraph, from the parts that are there."""
        text: str = self._whole.visit_desc()
        return text.replace("\n", " ").strip()

    def run(self, work_dir: Path) -> Preprocessed:
        """Run the graph, and gather files, errors and timings.

        Parameters
        ----------
        work_dir : Path
            Scratch of this participant.
        """
        self._whole.base_dir = str(work_dir)
        forget_errors(work_dir)
        forget_moved(work_dir)
        steps = {name: len(part.nodes) for name, part in self._parts.items()}
        with self._tell.following(steps, apart=self._n_procs > 1) as wire:
            crash = self._execute_all(wire)
        return gather(
            work_dir / "participant",
            parts={name: part.nodes for name, part in self._parts.items()},
            names=self._names,
            given={name: part.given for name, part in self._parts.items()},
            needs=self._needs,
            crash=crash,
            methods=self.methods,
        )

    def _execute_all(self, wire: Wire | None) -> Exception | None:
        """Run the graph, and once more, step by step, if a worker died; give what stopped it."""
        pool = PoolPlugin(self._n_procs, self._tell, wire) if self._n_procs > 1 else None
        crash = self._execute(pool)
        if pool is not None and pool.death is not None:
            logger.warning("%s; what is left is tried once more, one step at a time", pool.death)
            crash = self._execute(PoolPlugin(1, self._tell, wire))
        return crash

    def _execute(self, pool: PoolPlugin | None) -> Exception | None:
        """Run what is not done yet, in workers or here; give what stopped it."""
        before = Path.cwd()
        try:
            alone = {"status_callback": self._tell}
            self._whole.run(plugin=pool or "Linear", plugin_args=None if pool else alone)
        except Exception as error:  # noqa: BLE001  a node may raise anything, and fails its run alone
            # nipype raises one error for all; `gather` tells each run its own.
            return (pool.death if pool is not None else None) or error
        finally:
            os.chdir(before)
        return None

    def _anat_part(self, t1w: Sequence[Path], anat: Files | None) -> Part:
        """Make the part of the anatomy, of which some or all may be there."""
        given = self._options
        raw = {f"raw:{number + 1:02d}": path for number, path in enumerate(t1w)}
        desc = methods.anatomy(given.templates, known=anat is not None)
        part = Part(self._whole, "anat", desc=desc, inputs=raw, given=anat)
        part.add("prepare", anatsteps.prepare, needs=tuple(raw), gives=("t1w", "qc"), says="t1w")
        part.add("brain", anatsteps.brain, needs=("t1w",), gives=("mask", "qc"), says="brain")
        head, tissues = ("t1w", "mask"), ("gm", "wm", "csf")
        priors = ("prior_gm", "prior_wm", "prior_csf")
        new = [space for space in given.templates if f"to:{space}" not in part]
        if new or "gm" not in part:
            part.add(
                "normalize",
                anatsteps.normalization,
                needs=head,
                gives=(
                    *(f"{way}:{space}" for way in ("to", "from") for space in new),
                    *priors,
                    "qc",
                ),
                values={"spaces": new, "seed": given.seed},
                says="normalization",
            )
        part.add(
            "segment",
            anatsteps.tissues,
            needs=(*head, *priors),
            gives=("dseg", *tissues, "qc"),
            says="tissues",
        )
        for number, space in enumerate(space for space in given.spaces if space.is_standard):
            part.add(
                f"standard{number}",
                anatsteps.standard,
                needs=(*head, *tissues, f"to:{space.name}"),
                gives=tuple(f"{role}:{space.label}" for role in (*head, "dseg", *tissues)),
                values={"name": space.name, "res": space.res},
            )
        if part.nodes:
            part.add_qc()
        return part

    def _field_part(self, plan: Plan) -> str:
        """Name the part of a run's field map; runs share it."""
        if plan.fieldmap is None:
            return ""
        fieldmap: Fieldmap = plan.fieldmap
        # Sessions may call different field maps by one name.
        scans = tuple(scan.path for scan in fieldmap.scans)
        if scans not in self._fields:
            name = f"fmap{len(self._fields):03d}"
            files = {f"scan:{n + 1:02d}": path for n, path in enumerate(scans)}
            part = Part(self._whole, name, inputs=files, desc=methods.fieldmap(fieldmap.kind))
            part.add(
                "estimate",
                field,
                needs=tuple(files),
                gives=(*FIELD, "qc"),
                values={
                    "name": fieldmap.name,
                    "kind": fieldmap.kind,
                    "metadata": [dict(scan.metadata) for scan in fieldmap.scans],
                    "fallback_readout": self._options.fallback_total_readout_time,
                    "seed": self._options.seed,
                },
                says="fieldmap",
            )
            self._parts[name] = part
            self._fields[scans] = name
        return self._fields[scans]


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
