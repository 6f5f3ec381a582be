"""The doors to the layers below: what the shell needs done, as arguments it can be given.

The story in `app` calls these and nothing else of the pipelines, so that it can be tested
with stand-ins, and so that heavy packages are imported only when there is work for them.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from neurostorm_app.pipelines.inputs import InputFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from neurostorm_app.bids_app.settings import Science, Settings
    from neurostorm_app.errors import AppError
    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.embed import RunEmbedding
    from neurostorm_app.pipelines.preprocess.workflow import Options
    from neurostorm_app.pipelines.resources import Plan
    from neurostorm_app.pipelines.stage import OutputSpace, Run, StandardSeries

__all__ = ["Engines", "ModelFiles", "Preprocessed", "Wanted", "real_engines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles(InputFiles):
    """A model and the files it needs on this machine.

    Parameters
    ----------
    card : Card
        What is known of it.
    weights, config, atlas, coordinates, statistics : Path or None
        Files; None where the model takes none.
    """

    card: Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of a participant is to be preprocessed, and what is there already.

    Parameters
    ----------
    t1w : tuple of Path
        T1w images; not looked at where `anat` is given.
    runs : tuple of Run
        Runs in which something is missing.
    spaces : tuple of OutputSpace
        Those in which something is missing.
    level : {'minimal', 'resampling', 'full'}
        Up to where.
    anat : mapping or None
        Anatomy that is there, by role. What it lacks of the spaces is made from it.
    fits : mapping
        By the name of a run, its files that are there, by role: its estimates, and further ones.
    """

    t1w: tuple[Path, ...]
    runs: tuple[Run, ...]
    spaces: tuple[OutputSpace, ...]
    level: Literal["minimal", "resampling", "full"]
    anat: Mapping[str, Path] | None = None
    fits: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessed:
    """Files that the preprocessing of a participant made, by role.

    Parameters
    ----------
    anat : mapping
        Of the participant; what was given among it.
    bold : mapping
        Of each run that succeeded.
    failed : mapping
        Errors of the others.
    methods : str
        What was done, in words for a paper.
    timings : mapping
        Seconds of each step.
    peak_memory : int
        Bytes of the largest process; 0 where it was not measured.
    """

    anat: Mapping[str, Path]
    bold: Mapping[str, Mapping[str, Path]]
    failed: Mapping[str, AppError]
    methods: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int = 0


class Preprocess(Protocol):
    """Preprocess the runs of one participant."""

    def __call__(
        self, wanted: Wanted, *, work_dir: Path, series_dir: Path, settings: Settings, plan: Plan
    ) -> Preprocessed:
        """Make what is wanted in `work_dir`, and series in `series_dir`."""
        ...


class Embed(Protocol):
    """Embed runs with one model, as one stream."""

    def __call__(
        self, runs: Iterable[StandardSeries]
    ) -> Generator[tuple[int, RunEmbedding | Exception]]:
        """Give what came of each run, by its number, as soon as it is there and in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What the story calls.

    Parameters
    ----------
    preprocess : callable
        From raw images to standard space.
    find_model : callable
        A model's card and files, by name.
    load_model : callable
        A model in memory, ready for runs.
    write_subject_page, write_group_page : callable
        Reports from what is in the output folder.
    viewer : {"on", "off"}
        Whether pages of participants hold volumes and a viewer for them.
    """

    preprocess: Preprocess
    find_model: Callable[[str, Science], ModelFiles]
    load_model: Callable[[ModelFiles, Settings, Plan], Embed]
    write_subject_page: Callable[[Path, str], Path]
    write_group_page: Callable[[Path], Path]
    viewer: Literal["on", "off"] = "on"


def real_engines(*, viewer: Literal["on", "off"] = "on", strict: bool = False) -> Engines:
    """Take the real pipelines; each is imported when first called.

    Parameters
    ----------
    viewer : {"on", "off"}
        Whether pages of participants hold volumes and a viewer for them.
    strict : bool
        Whether ``--privacy strict`` was asked for, so that pages follow it too.
    """
    return Engines(
        preprocess=_preprocess,
        find_model=_find_model,
        load_model=_load_model,
        write_subject_page=functools.partial(_write_subject_page, viewer=viewer, strict=strict),
        write_group_page=functools.partial(_write_group_page, strict=strict),
        viewer=viewer,
    )


def _preprocess(
    wanted: Wanted, *, work_dir: Path, series_dir: Path, settings: Settings, plan: Plan
) -> Preprocessed:
    from neurostorm_app.pipelines.preprocess.workflow import preprocess_participant
    from neurostorm_app.pipelines.resources import find_device

    done = preprocess_participant(
        wanted.t1w,
        wanted.runs,
        work_dir=work_dir,
        series_dir=series_dir,
        options=_options(settings.science, wanted, find_device(settings.execution.device)),
        n_procs=plan.n_procs,
        anat=wanted.anat,
        fits=wanted.fits,
    )
    return Preprocessed(
        anat=done.anat or {},
        bold=done.bold,
        failed=done.failed,
        methods=done.methods,
        timings=done.timings,
        peak_memory=round(max(done.peak_mib.values(), default=0) * 2**20),
    )


def _options(science: Science, wanted: Wanted, device: str) -> Options:
    """Bring the settings to what the preprocessing takes."""
    from neurostorm_app.pipelines.preprocess.workflow import Options

    return Options(
        spaces=wanted.spaces,
        level=wanted.level,
        dummy_scans=science.dummy_scans,
        slice_time_ref=science.slice_time_ref,
        ignore=frozenset(science.ignore),
        bold2anat_dof=science.bold2anat_dof,
        bold2anat_init=science.bold2anat_init,
        use_syn_sdc=science.use_syn_sdc,
        fallback_total_readout_time=science.fallback_total_readout_time,
        fd_threshold=science.fd_spike_threshold,
        dvars_threshold=science.dvars_spike_threshold,
        return_all_components=science.return_all_components,
        t2s_fit=science.me_t2s_fit_method,
        seed=science.random_seed,
        device=device,
    )


def _paths(files: object) -> dict[str, Path]:
    named = {f.name: getattr(files, f.name) for f in dataclasses.fields(files)}  # type: ignore[arg-type]
    return {name: value for name, value in named.items() if isinstance(value, Path)}


def _find_model(name: str, science: Science) -> ModelFiles:
    from neurostorm_app.models import read_card
    from neurostorm_app.pipelines.inputs import find_inputs

    card = read_card(name)
    files = find_inputs(
        card,
        weights=science.weights.get(card.name),
        weights_dir=science.weights_dir,
        atlas=science.atlas.get(card.name),
        statistics=science.parcel_statistics.get(card.name),
    )
    return ModelFiles(card=card, **_paths(files))


def _load_model(files: ModelFiles, settings: Settings, plan: Plan) -> Embed:
    from neurostorm_app.pipelines.embed import load_embedder
    from neurostorm_app.pipelines.resources import find_device
    from neurostorm_app.pipelines.stage import InputOptions

    science, execution = settings.science, settings.execution
    embedder = load_embedder(
        files.card,
        weights=files.weights,
        atlas=files.atlas,
        device=find_device(execution.device),
        precision=science.precision,
        options=InputOptions(
            clip_policy=science.clip_policy,
            parity=science.parity,
            statistics=files.statistics,
            gain=science.input_gain,
            max_windows=science.max_windows,
        ),
    )

    def embed(
        runs: Iterable[StandardSeries],
    ) -> Generator[tuple[int, RunEmbedding | Exception]]:
        return embedder.embed_many(
            runs, batch=execution.batch_size, memory=plan.memory, n_threads=plan.all_threads
        )

    return embed


def _write_subject_page(
    output_dir: Path, participant: str, *, viewer: Literal["on", "off"], strict: bool
) -> Path:
    from neurostorm_app.bids_app.report.subject import write_subject_page

    return write_subject_page(output_dir, participant, viewer=viewer, strict=strict)


def _write_group_page(output_dir: Path, *, strict: bool) -> Path:
    from neurostorm_app.bids_app.report.group import write_group_page

    return write_group_page(output_dir, strict=strict)
