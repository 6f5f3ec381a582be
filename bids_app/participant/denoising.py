"""Denoise runs by each strategy that was asked for, where that is not done yet.

The first strategy gets the names that XCP-D gives; those of each further one carry its name.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.derivatives import move_aside, write_json, write_text
from neurostorm_app.bids_app.participant.denoised_files import DenoisedPaths, said_of, tables
from neurostorm_app.bids_app.provenance import Unit, now
from neurostorm_app.bids_app.results import StageTime, contained
from neurostorm_app.errors import ContractError
from neurostorm_app.pipelines.denoise import denoise_parcels, denoise_volumes, smooth
from neurostorm_app.pipelines.denoise_plan import open_brain, plan_denoising
from neurostorm_app.pipelines.image import MNI, iter_volumes, write_series
from neurostorm_app.pipelines.parcellate import parcellate
from neurostorm_app.pipelines.progress import stage
from neurostorm_app.pipelines.resources import peak_memory
from neurostorm_app.pipelines.spacemaps import SPACES, between
from neurostorm_app.pipelines.templates import load_parcellation_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.participant.units import Call, Ready
    from neurostorm_app.bids_app.results import Progress
    from neurostorm_app.pipelines.denoise_plan import Denoising
    from neurostorm_app.pipelines.denoise_strategies import Strategy
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.series import SeriesFile

__all__ = ["Atlas", "denoise_runs", "find_atlases"]

log = logging.getLogger(__name__)

SPACE: Final = "MNI152NLin6Asym"
"""Where the parcellation of the package lies."""
DEFAULT: Final = "GreyParcels100"


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """A label image.

    Parameters
    ----------
    label : str
        In ``atlas-<label>``.
    path : Path
        The file.
    space : str
        The standard space it lies in.
    """

    label: str
    path: Path
    space: str


def find_atlases(call: Call) -> tuple[Atlas, ...]:
    """Take the parcellations of the models of a call; that of the package if they have none."""
    found: dict[Path, Atlas] = {}
    for files in call.models:
        contract = files.card.contract
        if contract.kind == "parcels" and files.atlas is not None:
            own = files.card.name not in call.settings.science.atlas
            label = contract.atlas if own else _label_of(files.atlas)
            found[files.atlas] = Atlas(label=label, path=files.atlas, space=contract.space)
    atlases = tuple(found.values())
    labels = [atlas.label for atlas in atlases]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ContractError(
            f"two label images would both be atlas-{twice[0]}: "
            + ", ".join(str(atlas.path) for atlas in atlases if atlas.label == twice[0]),
            fix="give one of them another name",
        )
    return atlases or (Atlas(label=DEFAULT, path=load_parcellation_path(DEFAULT), space=SPACE),)


def _label_of(path: Path) -> str:
    """Name a label image of the user by its ``atlas-`` or ``seg-``, else by its file name."""
    stem = path.name.partition(".")[0]
    pairs = dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
    named = pairs.get("atlas") or pairs.get("seg") or stem
    return "".join(letter for letter in named if letter.isascii() and letter.isalnum()) or "given"


def denoise_runs(
    makers: Mapping[str, Callable[[str], Ready]],
    progress: Mapping[str, Progress],
    call: Call,
    strategies: Sequence[Strategy],
    *,
    smoothing: float = 0.0,
) -> None:
    """Denoise runs by each strategy, where that is not done yet.

    Parameters
    ----------
    makers : mapping of str to callable
        By the name of a run: makes it ready in the space that is nearest to one that is wanted.
    progress : mapping of str to Progress
        Is told what came of each run.
    call : Call
        What all participants share.
    strategies : sequence of Strategy
        Of ``choose_strategies``.
    smoothing : float
        Width of a Gaussian in mm; a further series is smoothed by it, nothing else is. 0 for none.
    """
    if not strategies:
        return
    for name, make in makers.items():
        with contained(progress[name]):
            atlases = find_atlases(call)
            ready = make(atlases[0].space)
            job = _Job(ready=ready, atlases=atlases, smoothing=smoothing, call=call)
            for number, strategy in enumerate(strategies):
                with contained(progress[name]):
                    job.take_or_make(strategy, progress[name], first=number == 0)
        if call.stops and any(run.errors for run in progress.values()):
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """The denoising of a run; what all strategies need of it is read once."""

    ready: Ready
    atlases: tuple[Atlas, ...]
    smoothing: float
    call: Call
    _opened: dict[str, tuple[SeriesFile, str]] = field(default_factory=dict)
    _means: dict[str, Parcels] = field(default_factory=dict)

    def take_or_make(self, strategy: Strategy, progress: Progress, *, first: bool) -> None:
        """Take the files of a strategy if they are there; else make them."""
        call, begin = self.call, time.monotonic()
        label = "" if first else strategy.name
        paths = DenoisedPaths(series=self.ready.series, root=call.root, strategy=label)
        unit = self._unit(strategy, paths)
        if not call.ledger.holds(unit):
            started, before = now(), call.ledger.output_hashes(unit.name)
            with stage(progress.name, f"denoise {strategy.name}"):
                written = self._make(strategy, paths)
            self._remove_stale(before, written)
            seconds = time.monotonic() - begin
            measured = {
                "started": started,
                "seconds": round(seconds, 2),
                "peak_memory": peak_memory(),
            }
            stamps = {call.uri(path): path for path in self._inputs()}
            call.ledger.write(unit, written, stamps=stamps, measured=measured)
            progress.stages.append(StageTime(f"denoise {strategy.name}", seconds))
            told = (progress.name, strategy.name, seconds)
            log.info("%s: denoised by %s in %.1f s", *told, extra={"step": True})
        progress.outputs += call.ledger.output_hashes(unit.name)

    def _remove_stale(self, before: Iterable[str], written: Iterable[Path]) -> None:
        """Remove what an earlier call wrote under these names and this one does not."""
        kept = set(written)
        for path in (self.call.root / name for name in before):
            if path not in kept and path.name.startswith(f"{self.ready.series.name}_"):
                path.unlink(missing_ok=True)

    def _inputs(self) -> list[Path]:
        """List the files that a result depends on, but for the atlases."""
        files = list(self.ready.files.values())
        about = self._about_confounds()
        return [*files, about] if about is not None else files

    def _about_confounds(self) -> Path | None:
        table = self.ready.series.confounds
        about = None if table is None else table.with_suffix(".json")
        return about if about is not None and about.is_file() else None

    def _unit(self, strategy: Strategy, paths: DenoisedPaths) -> Unit:
        call, ready = self.call, self.ready
        name = paths.bold().name.partition(".")[0]
        inputs = {call.uri(path): ready.hashes[role] for role, path in ready.files.items()}
        if (about := self._about_confounds()) is not None:
            inputs[call.uri(about)] = call.ledger.hash_input(about, name, call.uri(about))
        for atlas in self.atlases:
            inputs[f"atlas-{atlas.label}"] = call.hash_file(atlas.path) or ""
        return Unit(
            name=name,
            kind="denoised",
            about={
                "participant": ready.participant,
                "run": ready.series.name,
                "strategy": strategy.name,
            },
            settings={
                "strategy": strategy.as_dict(),
                "smoothing": self.smoothing,
                "tr": ready.series.tr,
                "notes": list(ready.notes),
            },
            inputs=inputs,
        )

    def _make(self, strategy: Strategy, paths: DenoisedPaths) -> dict[Path, str]:
        """Denoise the series and its parcels; return hashes by path."""
        call, run = self.call, self.ready.series
        series, source = self._open()
        plan = plan_denoising(run, series, strategy)
        notes = [*self.ready.notes, *plan.nuisance.notes]
        if source != "given":
            notes.append(f"no brain mask was given; it was {source}")
        cleaned = {a: denoise_parcels(self._parcellate(a), plan.operator) for a in self.atlases}
        written = self._write_series(plan, series, paths)
        sources = [call.uri(path) for path in self._inputs()]
        content = tables(paths, plan, {a.label: (a.path, p) for a, p in cleaned.items()})
        written |= {path: write_text(path, text, root=call.root) for path, text in content.items()}
        for path in list(written):
            about = said_of(path, plan, run, sources=sources, notes=notes, fwhm=self.smoothing)
            sidecar = path.with_name(path.name.partition(".")[0] + ".json")
            written[sidecar] = write_json(sidecar, about, root=call.root)
        return written

    def _open(self) -> tuple[SeriesFile, str]:
        if "series" not in self._opened:
            self._opened["series"] = open_brain(self.ready.series)
        return self._opened["series"]

    def _parcellate(self, atlas: Atlas) -> Parcels:
        """Average the series as it was over the parcels, once for all strategies."""
        if atlas.label not in self._means:
            series, _ = self._open()
            run = self.ready.series
            to_run = to_atlas = None
            if run.space != atlas.space:
                if run.space not in SPACES or atlas.space not in SPACES:
                    raise ContractError(
                        f"{run.bold}: is in {run.space}, the atlas {atlas.label} in {atlas.space}; "
                        "no map from the one to the other is known",
                        fix=f"ask for the series in {atlas.space} too, with --output-spaces",
                    )
                to_run, to_atlas = between(atlas.space, run.space), between(run.space, atlas.space)
            self._means[atlas.label] = parcellate(
                series, atlas.path, mask=series.brain, to_atlas=to_atlas, from_atlas=to_run
            )
        return self._means[atlas.label]

    def _write_series(
        self, plan: Denoising, series: SeriesFile, paths: DenoisedPaths
    ) -> dict[Path, str]:
        """Write the series aside, and rename it when it is whole."""
        folder = self.call.series_dir / f"denoise-{self.ready.series.name}"
        folder.mkdir(parents=True, exist_ok=True)
        write = partial(
            write_series,
            grid=series.grid,
            n_volumes=len(plan.operator),
            tr=self.ready.series.tr,
            code=MNI,
            n_threads=self.call.plan.all_threads,
        )
        whole, smoothed = folder / "denoised.nii.gz", folder / "smoothed.nii.gz"
        aside = {paths.bold(): whole}
        try:
            write(whole, denoise_volumes(series, plan.operator))
            if self.smoothing > 0:
                volumes = iter_volumes(whole)
                write(smoothed, (smooth(v, series.grid, fwhm=self.smoothing) for v in volumes))
                aside[paths.bold(smoothed=True)] = smoothed
            return {
                path: move_aside(file, path, root=self.call.root) for path, file in aside.items()
            }
        finally:
            shutil.rmtree(folder, ignore_errors=True)
