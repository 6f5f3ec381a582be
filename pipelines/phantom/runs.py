"""The BOLD runs of a participant on disk: every echo, the single-band reference, the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.phantom.acquisition import echo_times, to_scene
from neurostorm_app.pipelines.phantom.bold import (
    Conditions,
    draw_spikes,
    render_sbref,
    render_series,
)
from neurostorm_app.pipelines.phantom.distortion import field_map
from neurostorm_app.pipelines.phantom.files import write_image
from neurostorm_app.pipelines.phantom.networks import build_activity
from neurostorm_app.pipelines.phantom.settings import TR, generator
from neurostorm_app.pipelines.phantom.sidecars import bold_sidecar, sbref_sidecar
from neurostorm_app.pipelines.phantom.study import Site, Subject, acquire, run_name, sbref_pose
from neurostorm_app.pipelines.phantom.truth import RunTruth, write_run_truth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.acquisition import Acquisition
    from neurostorm_app.pipelines.phantom.scene import Scene
    from neurostorm_app.pipelines.phantom.settings import Settings

__all__ = ["bold_names", "write_run"]


def bold_names(subject: Subject, settings: Settings) -> list[str]:
    """Name all series of a participant, without suffix."""
    return [
        f"{run_name(subject, run + 1)}{echo}"
        for run in range(settings.runs)
        for echo, _ in _echoes(settings)
    ]


def write_run(site: Site, subject: Subject, run: int) -> tuple[str, Path]:
    """Write one BOLD run and its truth; give back its name and where the truth is."""
    settings, number = site.settings, subject.person.number
    acquisition = acquire(site, subject, run)
    duration = settings.length * TR
    activity = build_activity(subject.person, run, seed=settings.seed, duration=duration)
    conditions = _conditions(settings, number, run, n_slices=acquisition.grid.shape[2])
    for n, (_, echo_time) in enumerate(_echoes(settings)):
        rng = generator(settings.seed, "bold-noise", participant=number, run=run)
        thermal = generator(settings.seed, f"bold-noise-{n}", participant=number, run=run)
        series = render_series(
            subject.scene,
            acquisition,
            activity,
            rng=rng,
            conditions=conditions,
            echo_time=echo_time,
            thermal=thermal if n else None,
        )
        stem, sidecar = _bold(site, subject, acquisition, run=run, echo=n)
        write_image(stem, series, acquisition.grid, sidecar=sidecar)
    sbref = _write_sbrefs(site, subject, acquisition, run) if settings.sbref else None
    truth = RunTruth(
        motion=acquisition.motion,
        t1w_to_bold=acquisition.t1w_to_bold,
        brain_t1w=subject.brain_t1w,
        slice_times=acquisition.times,
        signals=activity.at(TR * np.arange(settings.length, dtype=np.float64)),
        sbref=sbref,
        spikes=conditions.spikes,
    )
    name = run_name(subject, run)
    path = site.truth / subject.name / f"{name}_truth.npz"
    write_run_truth(path, truth)
    _write_true_maps(path.with_name(name), subject.scene, acquisition, settings)
    return name, path


def _echoes(settings: Settings) -> Iterator[tuple[str, float | None]]:
    """List the entity and the time (s) of each echo; nothing of either for a single one."""
    if settings.echoes == 1:
        yield "", None
        return
    for n, echo_time in enumerate(echo_times(settings.echoes)):
        yield f"_echo-{n + 1}", echo_time


def _conditions(settings: Settings, number: int, run: int, *, n_slices: int) -> Conditions:
    spikes = None
    if settings.spikes:
        rng = generator(settings.seed, "spikes", participant=number, run=run)
        spikes = draw_spikes(settings.spikes, n_volumes=settings.length, n_slices=n_slices, rng=rng)
    return Conditions(activation=settings.activation, drift=settings.drift, spikes=spikes)


def _bold(
    site: Site, subject: Subject, acquisition: Acquisition, *, run: int, echo: int
) -> tuple[Path, dict[str, object]]:
    """Name the file of an echo, without extension, and describe it."""
    sidecar = bold_sidecar(
        acquisition.times,
        multiband=site.scale.multiband,
        n_phase=acquisition.grid.shape[1],
        settings=site.settings,
    )
    entity, echo_time = list(_echoes(site.settings))[echo]
    if echo_time is not None:
        sidecar["EchoTime"] = echo_time
    name = f"{run_name(subject, run)}{entity}_bold"
    return site.out / subject.name / "func" / name, sidecar


def _write_sbrefs(
    site: Site, subject: Subject, acquisition: Acquisition, run: int
) -> NDArray[np.float64]:
    """Write the single-band reference of each echo; give back the pose of the head."""
    seed, number = site.settings.seed, subject.person.number
    pose = sbref_pose(seed=seed, participant=number, run=run)
    still = acquisition.posed(pose[None])
    for n, (_, echo_time) in enumerate(_echoes(site.settings)):
        rng = generator(seed, f"sbref-noise-{n}", participant=number, run=run)
        volume = render_sbref(subject.scene, still, rng=rng, echo_time=echo_time)
        stem, sidecar = _bold(site, subject, acquisition, run=run, echo=n)
        stem = stem.with_name(stem.name.replace("_bold", "_sbref"))
        write_image(stem, volume, acquisition.grid, sidecar=sbref_sidecar(sidecar))
    return pose


def _write_true_maps(
    stem: Path, scene: Scene, acquisition: Acquisition, settings: Settings
) -> None:
    """Write the field (Hz) and T2* (s) at the voxels of the series, undistorted, first pose."""
    if settings.is_distorted:
        hertz = field_map(scene, acquisition)
        write_image(stem.with_name(f"{stem.name}_fieldmap"), hertz, acquisition.grid)
    if settings.echoes > 1 and scene.rates is not None:
        there = to_scene(scene, acquisition, np.eye(4))
        shape = acquisition.grid.shape
        rates = ndimage.affine_transform(
            scene.rates, there, output_shape=shape, order=1, mode="nearest"
        )
        t2star = (1 / rates).astype(np.float32)
        write_image(stem.with_name(f"{stem.name}_T2starmap"), t2star, acquisition.grid)
