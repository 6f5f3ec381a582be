"""A raw BIDS dataset of people who do not exist, and beside it the truth about them."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

import numpy as np

from neurostorm_app.pipelines.phantom.acquisition import place_grid
from neurostorm_app.pipelines.phantom.anat import nose_up, render_t1w, t1w_pose
from neurostorm_app.pipelines.phantom.fieldmaps import write_fieldmap
from neurostorm_app.pipelines.phantom.files import claim_folder, write_image
from neurostorm_app.pipelines.phantom.head import CENTRE, build_head
from neurostorm_app.pipelines.phantom.networks import connectivity
from neurostorm_app.pipelines.phantom.people import (
    Participant,
    build_anatomy,
    build_participant,
)
from neurostorm_app.pipelines.phantom.runs import write_run
from neurostorm_app.pipelines.phantom.scene import build_scene
from neurostorm_app.pipelines.phantom.settings import SCALES, Options, Settings, generator
from neurostorm_app.pipelines.phantom.sidecars import (
    t1w_sidecar,
    write_dataset_files,
    write_truth_files,
)
from neurostorm_app.pipelines.phantom.study import Site, Subject, fmap_pose
from neurostorm_app.pipelines.phantom.truth import (
    ParticipantTruth,
    PhantomTruthPaths,
    write_participant_truth,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_phantom"]

logger = logging.getLogger(__name__)

_N_POINTS = 4000  # of brain and of grey matter, kept to score with
_FOV_CENTRE = CENTRE + np.array([0.0, 2.0, 2.0])  # of the BOLD slices, mm, template space


def make_phantom(
    out: Path, *, truth: Path | None = None, **options: Unpack[Options]
) -> PhantomTruthPaths:
    """Make a raw BIDS dataset, and write the truth about it beside.

    Parameters
    ----------
    out : Path
        Folder of the dataset; must be empty or not there yet.
    truth : Path, optional
        Folder of the truth; by default that of the dataset with ``-truth`` added to its name.
    **options : Options
        See :class:`~neurostorm_app.pipelines.phantom.settings.Settings`.

    Returns
    -------
    PhantomTruthPaths
        Where the truth is.

    Raises
    ------
    UsageError
        If a number is too small or large, or a word is none of those that may be asked.
    CannotCreateError
        If a folder is not empty or cannot be made.
    """
    chosen = Settings(**options)
    truth = truth or out.with_name(f"{out.name}-truth")
    for folder in (out, truth):
        claim_folder(folder)
    details = SCALES[chosen.scale]
    site = Site(
        out=out,
        truth=truth,
        settings=chosen,
        scale=details,
        head=build_head(details.template_step),
    )
    people = [build_participant(n + 1, seed=chosen.seed) for n in range(chosen.participants)]
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


def _make_participant(site: Site, person: Participant) -> dict[str, Path]:
    """Write one participant and the truth about its runs; give back where that is."""
    start = time.perf_counter()
    settings, scale, number = site.settings, site.scale, person.number
    anatomy = build_anatomy(number, seed=settings.seed, head=site.head, scale=scale)
    rng = generator(settings.seed, "points", participant=number)
    brain = anatomy.template_to_t1w(site.head.points(site.head.tissue > 0, n=_N_POINTS, rng=rng))
    centre = anatomy.template_to_t1w(_FOV_CENTRE[None])[0]
    scene = build_scene(site.head, anatomy, scale=scale, decaying=settings.is_decaying)
    subject = Subject(
        person=person,
        anatomy=anatomy,
        scene=replace(scene, field=scene.field * np.float32(settings.field)),
        grid=place_grid(centre, number=number, seed=settings.seed, scale=scale),
        brain_t1w=brain,
    )
    _write_anatomy(site, subject, rng)
    paths = dict(write_run(site, subject, run + 1) for run in range(settings.runs))
    if settings.is_distorted:
        write_fieldmap(site, subject)
    logger.info("%s of the phantom made in %.1f s", subject.name, time.perf_counter() - start)
    return paths


def _write_anatomy(site: Site, subject: Subject, rng: np.random.Generator) -> None:
    seed, number, n_images = site.settings.seed, subject.person.number, site.settings.t1w
    folder = site.truth / subject.name
    for image in range(n_images):
        t1w = render_t1w(
            site.head, subject.anatomy, number=number, seed=seed, scale=site.scale, image=image
        )
        name = f"{subject.name}_run-{image + 1}_T1w" if n_images > 1 else f"{subject.name}_T1w"
        stem = site.out / subject.name / "anat" / name
        grid = nose_up(t1w.grid) if number in site.settings.turned else t1w.grid
        write_image(stem, t1w.signal, grid, sidecar=t1w_sidecar())
        if image == 0:
            write_image(folder / f"{subject.name}_dseg", t1w.tissue, t1w.grid)
    grey = site.head.points(site.head.grey > 0.6, n=_N_POINTS, rng=rng)
    poses = [t1w_pose(image, number=number, seed=seed) for image in range(n_images)]
    write_participant_truth(
        folder,
        ParticipantTruth(
            t1w_to_template=subject.anatomy.t1w_to_template,
            template_to_t1w=subject.anatomy.template_to_t1w,
            grey_template=grey,
            grey_t1w=subject.anatomy.template_to_t1w(grey),
            connectivity=connectivity(subject.person, seed=seed),
            t1w_poses=np.stack(poses) if n_images > 1 else None,
            t1w_to_fmap=(
                fmap_pose(seed=seed, participant=number) if site.settings.is_distorted else None
            ),
        ),
    )
