"""The scans from which the unevenness of the field can be told, as a Siemens scanner gives them.

The head lies in another pose than in the series. A pair of EPIs of opposite phase encoding is
as distorted as those; gradient echoes are not distorted, have a field of view of their own, and
their phase is whole numbers from 0 to 4095 for -pi to pi.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom.bold import GREY, render_series
from neurostorm_app.pipelines.phantom.distortion import field_map
from neurostorm_app.pipelines.phantom.files import write_image
from neurostorm_app.pipelines.phantom.head import CENTRE
from neurostorm_app.pipelines.phantom.networks import build_activity
from neurostorm_app.pipelines.phantom.people import rigid
from neurostorm_app.pipelines.phantom.runs import bold_names
from neurostorm_app.pipelines.phantom.settings import TR, generator
from neurostorm_app.pipelines.phantom.sidecars import epi_sidecar, gre_sidecar
from neurostorm_app.pipelines.phantom.study import Site, Subject, acquire, fmap_pose

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.phantom.acquisition import Acquisition

__all__ = ["GRE_ECHO_TIMES", "render_phases", "to_siemens", "write_fieldmap"]

GRE_ECHO_TIMES = (0.00492, 0.01476)
"""Echo times of the gradient echoes, s: 9.84 ms between them, so that 75 Hz wrap."""

_N_EPI = 3  # volumes of each of the pair
_NOISE = 0.012  # thermal, of grey matter, in each of real and imaginary part
_COIL = 1.5  # rad, phase of the coils from the middle to the edge


@dataclass(frozen=True, slots=True, eq=False)
class _Scans:
    """Where the scans go, who lies in the scanner, and the words that all sidecars share."""

    stem: Path
    subject: Subject
    acquisition: Acquisition
    source: dict[str, Any]

    def write(self, suffix: str, voxels: NDArray[np.generic], sidecar: dict[str, Any]) -> None:
        stem = self.stem.with_name(f"{self.stem.name}_{suffix}")
        write_image(stem, voxels, self.acquisition.grid, sidecar=sidecar)


def write_fieldmap(site: Site, subject: Subject) -> None:
    """Write the scans of the kind that is asked, and the true field (Hz) at their voxels."""
    settings, number = site.settings, subject.person.number
    pose = fmap_pose(seed=settings.seed, participant=number)
    posed = replace(acquire(site, subject, run=1), t1w_to_bold=pose, motion=np.eye(4)[None])
    if settings.fieldmap != "pepolar":
        posed = replace(posed, grid=_gre_grid(site, subject, pose), phase_sign=0)
    names = bold_names(subject, settings)
    source = {
        "B0FieldIdentifier": settings.fieldmap,
        "IntendedFor": [f"bids::{subject.name}/func/{name}_bold.nii.gz" for name in names],
    }
    stem = site.out / subject.name / "fmap" / subject.name
    scans = _Scans(stem, subject, posed, source)
    if settings.fieldmap == "pepolar":
        _write_pair(scans, settings.seed)
    else:
        _write_gradient_echoes(scans, settings.fieldmap, settings.seed)
    true = site.truth / subject.name / f"{subject.name}_fmap_fieldmap"
    write_image(true, field_map(subject.scene, posed), posed.grid)


def render_phases(
    subject: Subject, acquisition: Acquisition, *, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Render two gradient echoes (2, X, Y, Z), a.u.: decay, field, phase of the coils, noise."""
    scene, grid = subject.scene, acquisition.grid
    there = np.linalg.solve(acquisition.t1w_to_bold @ scene.grid.affine, grid.affine)
    voxels = np.moveaxis(apply_affine(there, np.indices(grid.shape).T), -1, 0).swapaxes(1, 3)
    still = ndimage.map_coordinates(scene.spline, voxels, order=3, prefilter=False)
    still = np.maximum(still, 0)
    turn = 2 * np.pi * field_map(scene, acquisition)
    coils = _coil_phase(grid.shape, rng)
    echoes = np.empty((2, *grid.shape), dtype=np.complex64)
    for n, echo_time in enumerate(GRE_ECHO_TIMES):
        signal = still * scene.decay(voxels, echo_time)
        noise = rng.standard_normal((2, *grid.shape)) * _NOISE
        phased = signal * np.exp(1j * (coils + turn * echo_time))
        echoes[n] = phased + noise[0] + 1j * noise[1]
    return echoes


def to_siemens(phase: NDArray[np.floating]) -> NDArray[np.int16]:
    """Store a phase (rad, any turn) in whole numbers: -pi is 0, pi would be 4096."""
    steps = np.floor((phase + np.pi) / (2 * np.pi) * 4096)
    return np.asarray(steps.astype(np.int64) % 4096, dtype=np.int16)


def _write_pair(scans: _Scans, seed: int) -> None:
    """Write two short series, phase encoding along and against j."""
    person = scans.subject.person
    still = scans.acquisition.posed(np.tile(np.eye(4), (_N_EPI, 1, 1)))
    activity = build_activity(person, 1, seed=seed, duration=_N_EPI * TR)
    for label, direction, sign in (("AP", "j-", -1), ("PA", "j", 1)):
        rng = generator(seed, f"epi-{label}", participant=person.number)
        acquisition = replace(still, phase_sign=sign)
        series = render_series(scans.subject.scene, acquisition, activity, rng=rng)
        sidecar = epi_sidecar(direction, n_phase=series.shape[1], source=scans.source)
        scans.write(f"dir-{label}_epi", series, sidecar)


def _write_gradient_echoes(scans: _Scans, kind: str, seed: int) -> None:
    rng = generator(seed, "gre-noise", participant=scans.subject.person.number)
    echoes = render_phases(scans.subject, scans.acquisition, rng=rng)
    magnitudes = np.round(GREY * np.abs(echoes)).astype(np.int16)
    first, second = GRE_ECHO_TIMES
    difference = echoes[1] * np.conj(echoes[0])
    if kind == "direct":
        scans.write("fieldmap", _hertz(scans, difference), gre_sidecar(scans.source, Units="Hz"))
        scans.write("magnitude", magnitudes[0], gre_sidecar(scans.source, EchoTime=first))
        return
    for n, (echo, echo_time) in enumerate(zip(echoes, GRE_ECHO_TIMES, strict=True)):
        sidecar = gre_sidecar(scans.source, EchoTime=echo_time)
        scans.write(f"magnitude{n + 1}", magnitudes[n], sidecar)
        if kind == "phases":
            scans.write(f"phase{n + 1}", to_siemens(np.angle(echo)), sidecar)
    if kind == "phasediff":
        sidecar = gre_sidecar(scans.source, EchoTime1=first, EchoTime2=second)
        scans.write("phasediff", to_siemens(np.angle(difference)), sidecar)


def _hertz(scans: _Scans, difference: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Measure the field without wraps: the true one, and what noise adds, Hz."""
    true = field_map(scans.subject.scene, scans.acquisition)
    turns = 2 * np.pi * (GRE_ECHO_TIMES[1] - GRE_ECHO_TIMES[0])
    return np.asarray(true + np.angle(difference * np.exp(-1j * turns * true)) / turns, np.float32)


def _gre_grid(site: Site, subject: Subject, pose: NDArray[np.float64]) -> Grid:
    """Lay a field of view (i to L, j to A, k to S), hardly tilted, about the head."""
    rng = generator(site.settings.seed, "gre-grid", participant=subject.person.number)
    zoom = site.scale.bold_zoom
    i, j, k = site.scale.bold_shape
    shape = (i, j, k + round(24 / zoom))
    turned = rigid(rng.uniform(-2, 2, 3), np.zeros(3), centre=np.zeros(3))[:3, :3]
    axes = turned @ np.diag([-zoom, zoom, zoom])
    centre = subject.anatomy.template_to_t1w((CENTRE + np.array([0.0, 2.0, 2.0]))[None])[0]
    there = apply_affine(pose, centre)
    return Grid(shape, from_matvec(axes, there - axes @ ((np.asarray(shape) - 1) / 2)))


def _coil_phase(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the smooth phase that both echoes share, rad."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    terms = (np.ones((1, 1, 1)), x, y, z, x * y, y * z, x * x, y * y)
    return np.asarray(sum(rng.uniform(-_COIL, _COIL) * term for term in terms))
