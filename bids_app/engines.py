"""The doors to the layers below: what the shell needs done, as arguments it can be given.

The story in `app` calls these and nothing else of the pipelines, so that it can be tested
with stand-ins, and so that heavy packages are imported only when there is work for them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from neurostorm_app.pipelines.inputs import InputFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from neurostorm_app.bids_app.settings import Science, Settings
    from neurostorm_app.errors import AppError
    from neurostorm_app.models.card import Card
    from neurostorm_app.pipelines.embed import RunEmbedding
    from neurostorm_app.pipelines.resources import Plan
    from neurostorm_app.pipelines.stage import Run, StandardSeries

__all__ = ["Engines", "ModelFiles", "Preprocessed", "real_engines"]


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
class Preprocessed:
    """Files that the preprocessing of a participant made, by role.

    Parameters
    ----------
    anat : mapping
        Of the participant; as given if it was given.
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
        self,
        t1w: Sequence[Path],
        runs: Sequence[Run],
        *,
        work_dir: Path,
        science: Science,
        plan: Plan,
        anat: Mapping[str, Path] | None,
    ) -> Preprocessed:
        """Make the files of `anat` (unless given) and of each run in `work_dir`."""
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
    """

    preprocess: Preprocess
    find_model: Callable[[str, Science], ModelFiles]
    load_model: Callable[[ModelFiles, Settings, Plan], Embed]
    write_subject_page: Callable[[Path, str], Path]
    write_group_page: Callable[[Path], Path]


def real_engines() -> Engines:
    """Take the real pipelines; each is imported when first called."""
    return Engines(
        preprocess=_preprocess,
        find_model=_find_model,
        load_model=_load_model,
        write_subject_page=_write_subject_page,
        write_group_page=_write_group_page,
    )


def _preprocess(
    t1w: Sequence[Path],
    runs: Sequence[Run],
    *,
    work_dir: Path,
    science: Science,
    plan: Plan,
    anat: Mapping[str, Path] | None,
) -> Preprocessed:
    from neurostorm_app.pipelines.preprocess.workflow import (
        AnatFiles,
        Options,
        preprocess_participant,
    )

    space, res = science.space
    done = preprocess_participant(
        t1w,
        runs,
        work_dir=work_dir,
        options=Options(
            space=space,
            res=res,
            dummy_scans=science.dummy_scans,
            bold2anat_dof=science.bold2anat_dof,
            fd_threshold=science.fd_spike_threshold,
            dvars_threshold=science.dvars_spike_threshold,
            seed=science.random_seed,
        ),
        n_procs=plan.n_procs,
        anat=AnatFiles(**anat) if anat else None,
    )
    return Preprocessed(
        anat=_paths(done.anat) if done.anat else {},
        bold={name: _paths(files) for name, files in done.bold.items()},
        failed=done.failed,
        methods=done.methods,
        timings=done.timings,
        peak_memory=round(max(done.peak_mib.values(), default=0) * 2**20),
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
        weights=science.weights.get(name),
        weights_dir=science.weights_dir,
        atlas=science.atlas.get(name),
        statistics=science.parcel_statistics.get(name),
    )
    return ModelFiles(card=card, **_paths(files))


def _load_model(files: ModelFiles, settings: Settings, plan: Plan) -> Embed:
    from neurostorm_app.pipelines.embed import load_embedder
    from neurostorm_app.pipelines.resources import find_device
    from neurostorm_app.pipelines.stage import InputOptions

    science, execution = settings.science, settings.execution
    embedder = load_embedder(
        files.card.name,
        weights=files.weights,
        atlas=files.atlas,
        device=find_device(execution.device),
        precision=science.precision,
        options=InputOptions(
            clip_policy=science.clip_policy,
            parity=science.parity,
            statistics=files.statistics,
            gain=science.input_gain,
        ),
    )

    def embed(
        runs: Iterable[StandardSeries],
    ) -> Generator[tuple[int, RunEmbedding | Exception]]:
        return embedder.embed_many(
            runs, batch=execution.batch_size, memory=plan.memory, n_threads=plan.n_threads
        )

    return embed


def _write_subject_page(output_dir: Path, participant: str) -> Path:
    from neurostorm_app.bids_app.report.subject import write_subject_page

    return write_subject_page(output_dir, participant)


def _write_group_page(output_dir: Path) -> Path:
    from neurostorm_app.bids_app.report.group import write_group_page

    return write_group_page(output_dir)
