"""A raw BIDS dataset of people who do not exist, and beside it the truth about them."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.phantom.anat import render_t1w
from neurostorm_app.pipelines.phantom.bold import (
    Acquisition,
    field_map,
    place_grid,
    render_series,
    slice_times,
)
from neurostorm_app.pipelines.phantom.files import claim_folder, write_image
from neurostorm_app.pipelines.phantom.head import CENTRE, Head, build_head
from neurostorm_app.pipelines.phantom.motion import draw_motion, draw_pose
from neurostorm_app.pipelines.phantom.networks import build_activity, connectivity
from neurostorm_app.pipelines.phantom.people import (
    Anatomy,
    Participant,
    build_anatomy,
    build_participant,
)
from neurostorm_app.pipelines.phantom.scene import Scene, build_scene
from neurostorm_app.pipelines.phantom.settings import (
    SCALES,
    TASK,
    TR,
    Scale,
    ScaleName,
    Settings,
    generator,
)
from neurostorm_app.pipelines.phantom.sidecars import (
    bold_sidecar,
    epi_sidecar,
    t1w_sidecar,
    write_dataset_files,
    write_truth_files,
)
from neurostorm_app.pipelines.phantom.truth import (
    ParticipantTruth,
    PhantomTruthPaths,
    RunTruth,
    write_participant_truth,
    write_run_truth,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = ["make_phantom"]

logger = logging.getLogger(__name__)

_N_POINTS = 4000  # of brain and of grey matter, kept to score with
_N_EPI = 3  # volumes of each of the pair
_FOV_CENTRE = CENTRE + np.array([0.0, 2.0, 2.0])  # of the BOLD slices, mm, template space


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Site:
    """Where everything goes, and what all participants share."""

    out: Path
    truth: Path
    settings: Settings
    scale: Scale
    head: Head


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Subject:
    """One participant on the way to the disk."""

    person: Participant
    anatomy: Anatomy
    scene: Scene
    grid: Grid
    brain_t1w: NDArray[np.float64]

    @property
    def name(self) -> str:
        return f"sub-{self.person.label}"


def make_phantom(  # noqa: PLR0913 - each is an option of the command
    out: Path,
    *,
    participants: int = 4,
    runs: int = 2,
    seed: int = 1,
    n_volumes: int | None = None,
    scale: ScaleName = "full",
    distortion: bool = False,
    truth: Path | None = None,
) -> PhantomTruthPaths:
    """Make a raw BIDS dataset, and write the truth about it beside.

    Parameters
    ----------
    out : Path
        Folder of the dataset; must be empty or not there yet.
    participants, runs : int
        How many people, and resting-state runs of each. A participant does not depend on how
        many there are.
    seed : int
        The same seed makes the same files.
    n_volumes : int, optional
        Volumes of a run, one every 2 s; by default 60, or 24 for the tiny scale.
    scale : {"full", "tiny"}
        Real voxel sizes (T1w 1 mm, BOLD 3 mm), or a dataset for tests made in seconds.
    distortion : bool
        Distort the series by an uneven field, and add an opposite-phase pair.
    truth : Path, optional
        Folder of the truth; by default that of the dataset with ``-truth`` added to its name.

    Returns
    -------
    PhantomTruthPaths
        Where the truth is.

    Raises
    ------
    UsageError
        If a number is too small or the scale has another name.
    CannotCreateError
        If a folder is not empty or cannot be made.
    """
    chosen = Settings(
        participants=participants,
        runs=runs,
        seed=seed,
        n_volumes=SCALES.get(scale, SCALES["full"]).n_volumes if n_volumes is None else n_volumes,
        scale=scale,
        distortion=distortion,
    )
    truth = truth or out.with_name(f"{out.name}-truth")
    for folder in (out, truth):
        claim_folder(folder)
    details = SCALES[scale]
    site = _Site(
        out=out,
        truth=truth,
        settings=chosen,
        scale=details,
        head=build_head(details.template_step),
    )
    people = [build_participant(n + 1, seed=seed) for n in range(participants)]
    write_dataset_files(out, chosen, people)
    paths: dict[str, Path] = {}
    for person in people:
        paths |= _make_participant(site, person)
    return PhantomTruthPaths(
        root=truth,
        settings=write_truth_files(truth, chosen),
        participants={p.label: truth / f"sub-{p.label}" for p in people},
        runs=paths,
    )


def _make_participant(site: _Site, person: Participant) -> dict[str, Path]:
    """Write one participant and the truth about its runs; give back where that is."""
    start = time.perf_counter()
    seed, scale, number = site.settings.seed, site.scale, person.number
    anatomy = build_anatomy(number, seed=seed, head=site.head, scale=scale)
    rng = generator(seed, "points", participant=number)
    brain = anatomy.template_to_t1w(site.head.points(site.head.tissue > 0, n=_N_POINTS, rng=rng))
    centre = anatomy.template_to_t1w(_FOV_CENTRE[None])[0]
    subject = _Subject(
        person=person,
        anatomy=anatomy,
        scene=build_scene(site.head, anatomy, scale=scale),
        grid=place_grid(centre, number=number, seed=seed, scale=scale),
        brain_t1w=brain,
    )
    _write_anatomy(site, subject, rng)
    paths = dict(_write_run(site, subject, run + 1) for run in range(site.settings.runs))
    if site.settings.distortion:
        _write_pair(site, subject, list(paths))
    logger.info("%s of the phantom made in %.1f s", subject.name, time.perf_counter() - start)
    return paths


def _write_anatomy(site: _Site, subject: _Subject, rng: np.random.Generator) -> None:
    seed, number = site.settings.seed, subject.person.number
    t1w = render_t1w(site.head, subject.anatomy, number=number, seed=seed, scale=site.scale)
    stem = site.out / subject.name / "anat" / f"{subject.name}_T1w"
    write_image(stem, t1w.signal, t1w.grid, sidecar=t1w_sidecar())
    folder = site.truth / subject.name
    grey = site.head.points(site.head.grey > 0.6, n=_N_POINTS, rng=rng)
    write_participant_truth(
        folder,
        ParticipantTruth(
            t1w_to_template=subject.anatomy.t1w_to_template,
            template_to_t1w=subject.anatomy.template_to_t1w,
            grey_template=grey,
            grey_t1w=subject.anatomy.template_to_t1w(grey),
            connectivity=connectivity(subject.person, seed=seed),
        ),
    )
    write_image(folder / f"{subject.name}_dseg", t1w.tissue, t1w.grid)


def _write_run(site: _Site, subject: _Subject, run: int) -> tuple[str, Path]:
    """Write one BOLD run and its truth; give back its name and where the truth is."""
    seed, n_volumes, number = site.settings.seed, site.settings.n_volumes, subject.person.number
    acquisition = _acquisition(site, subject, run)
    activity = build_activity(subject.person, run, seed=seed, duration=n_volumes * TR)
    rng = generator(seed, "bold-noise", participant=number, run=run)
    series = render_series(subject.scene, acquisition, activity, rng=rng)
    name = f"{subject.name}_task-{TASK}_run-{run}"
    sidecar = bold_sidecar(
        acquisition.times,
        multiband=site.scale.multiband,
        n_phase=acquisition.grid.shape[1],
        distortion=site.settings.distortion,
    )
    stem = site.out / subject.name / "func" / f"{name}_bold"
    write_image(stem, series, acquisition.grid, sidecar=sidecar)
    truth = RunTruth(
        motion=acquisition.motion,
        t1w_to_bold=acquisition.t1w_to_bold,
        brain_t1w=subject.brain_t1w,
        slice_times=acquisition.times,
        signals=activity.at(TR * np.arange(n_volumes, dtype=np.float64)),
    )
    path = site.truth / subject.name / f"{name}_truth.npz"
    write_run_truth(path, truth)
    if site.settings.distortion:
        hertz = field_map(subject.scene, acquisition)
        write_image(path.with_name(f"{name}_fieldmap"), hertz, acquisition.grid)
    return name, path


def _write_pair(site: _Site, subject: _Subject, runs: list[str]) -> None:
    """Write two short series, phase encoding along and against j, head as in the first run."""
    seed, number = site.settings.seed, subject.person.number
    first = _acquisition(site, subject, run=1)
    still = np.tile(np.eye(4), (_N_EPI, 1, 1))
    activity = build_activity(subject.person, 1, seed=seed, duration=_N_EPI * TR)
    intended_for = [f"bids::{subject.name}/func/{name}_bold.nii.gz" for name in runs]
    for label, direction, sign in (("AP", "j-", -1), ("PA", "j", 1)):
        acquisition = replace(first, motion=still, phase_sign=sign)
        rng = generator(seed, f"epi-{label}", participant=number)
        series = render_series(subject.scene, acquisition, activity, rng=rng)
        stem = site.out / subject.name / "fmap" / f"{subject.name}_dir-{label}_epi"
        sidecar = epi_sidecar(direction, n_phase=series.shape[1], intended_for=intended_for)
        write_image(stem, series, first.grid, sidecar=sidecar)


def _acquisition(site: _Site, subject: _Subject, run: int) -> Acquisition:
    """Lay the head into the scanner for a run."""
    seed, number = site.settings.seed, subject.person.number
    pose = draw_pose(seed=seed, participant=number, run=run)
    centre = pose[:3, :3] @ subject.brain_t1w.mean(axis=0) + pose[:3, 3]
    n_volumes = site.settings.n_volumes
    return Acquisition(
        grid=subject.grid,
        times=slice_times(site.scale),
        motion=draw_motion(n_volumes, seed=seed, participant=number, run=run, centre=centre),
        t1w_to_bold=pose,
        phase_sign=-1 if site.settings.distortion else 0,
    )
