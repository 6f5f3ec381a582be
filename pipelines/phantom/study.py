"""What the parts of a phantom share: the place on disk, a participant, how the head lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine

from neurostorm_app.pipelines.phantom.acquisition import Acquisition, slice_times
from neurostorm_app.pipelines.phantom.motion import draw_motion, draw_pose
from neurostorm_app.pipelines.phantom.people import rigid
from neurostorm_app.pipelines.phantom.settings import RESTLESS, TASK, generator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.phantom.head import Head
    from neurostorm_app.pipelines.phantom.people import Anatomy, Participant
    from neurostorm_app.pipelines.phantom.scene import Scene
    from neurostorm_app.pipelines.phantom.settings import Scale, Settings

__all__ = ["Site", "Subject", "acquire", "fmap_pose", "run_name", "sbref_pose"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Site:
    """Where everything goes, and what all participants share.

    Parameters
    ----------
    out, truth : Path
        Folders of the dataset and of the truth.
    settings : Settings
        What is asked.
    scale : Scale
        How fine.
    head : Head
        In template space.
    """

    out: Path
    truth: Path
    settings: Settings
    scale: Scale
    head: Head


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Subject:
    """One participant on the way to the disk.

    Parameters
    ----------
    person : Participant
        Who it is.
    anatomy : Anatomy
        The head.
    scene : Scene
        What a BOLD scan sees of it.
    grid : Grid
        Voxels of the BOLD scans, mm RAS.
    brain_t1w : ndarray, shape (N, 3)
        Points of the brain in the T1w, mm.
    """

    person: Participant
    anatomy: Anatomy
    scene: Scene
    grid: Grid
    brain_t1w: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Its label with ``sub-``."""
        return f"sub-{self.person.label}"


def run_name(subject: Subject, run: int) -> str:
    """Name a run, such as ``sub-01_task-rest_run-1``."""
    return f"{subject.name}_task-{TASK}_run-{run}"


def acquire(site: Site, subject: Subject, run: int) -> Acquisition:
    """Lay the head into the scanner for a run."""
    seed, number = site.settings.seed, subject.person.number
    pose = draw_pose(seed=seed, participant=number, run=run)
    centre = pose[:3, :3] @ subject.brain_t1w.mean(axis=0) + pose[:3, 3]
    motion = draw_motion(
        site.settings.length,
        seed=seed,
        participant=number,
        run=run,
        centre=centre,
        points=apply_affine(pose, subject.brain_t1w),
        largest=RESTLESS if number in site.settings.restless else site.settings.motion,
    )
    return Acquisition(
        grid=subject.grid,
        times=slice_times(site.scale),
        motion=motion,
        t1w_to_bold=pose,
        phase_sign=-1 if site.settings.is_distorted else 0,
    )


def fmap_pose(*, seed: int, participant: int) -> NDArray[np.float64]:
    """Draw how the head lay in the scans of the field: points of the T1w to them, (4, 4), mm.

    Since the first run it moved by some millimetres.
    """
    rng = generator(seed, "fmap-pose", participant=participant)
    moved = rigid(rng.uniform(-2, 2, 3), rng.uniform(-2, 2, 3), centre=np.zeros(3))
    return moved @ draw_pose(seed=seed, participant=participant, run=1)


def sbref_pose(*, seed: int, participant: int, run: int) -> NDArray[np.float64]:
    """Draw how the head lay in a single-band reference: points of the reference pose to it."""
    rng = generator(seed, "sbref-pose", participant=participant, run=run)
    return rigid(rng.uniform(-0.4, 0.4, 3), rng.uniform(-0.5, 0.5, 3), centre=np.zeros(3))
