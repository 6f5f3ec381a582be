r"""The field that makes distorted images agree: Gauss-Newton on cubic B-splines, coarse to fine.

In image n a field f (Hz) moves signal along the phase axis a_n by :math:`d_n = s_n f` voxels,
where :math:`s_n` is the readout time with the sign of the phase encoding. What lies at x was
seen at :math:`x + d_n e_{a_n}`, thinned where the shifts grow, so that the image without
distortion is

.. math:: U_n(x) = I_n(x + d_n e_{a_n}) \, (1 + \partial_{a_n} d_n).

The field is the one that makes fixed combinations :math:`\sum_n K_{rn} U_n - t_r` small: their
difference, for a pair, or that between one image and what is expected of it. A step is linear,
:math:`\delta U_n = I_n' (1 + \partial d_n) s_n \delta f + I_n s_n \partial \delta f`, and its
normal equations are solved by conjugate gradients without ever being written down.

References
----------
Andersson J. et al. 2003, NeuroImage 20:870, "How to correct susceptibility distortions in
spin-echo echo-planar images" (model, splines, two images). Ruthotto L. et al. 2012, Phys. Med.
Biol. 57:5715 (mass-preserving pairs, Gauss-Newton). Chang H., Fitzpatrick J. 1992, IEEE Trans.
Med. Imaging 11:319.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.field.solving import bending, conjugate_gradients
from neurostorm_app.pipelines.preprocess.field.splinefield import Basis, fit_field, knots_of
from neurostorm_app.pipelines.preprocess.field.unwarp import Distorted, PhaseSampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Volume = NDArray[np.float64]

__all__ = ["LEVELS", "FitLevel", "Problem", "fit_level"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Problem:
    """What the field has to bring together.

    Parameters
    ----------
    images : sequence of Distorted
        N of them, of about the same brightness.
    contrasts : ndarray, shape (R, N)
        Combinations of the unwarped images.
    targets : ndarray, shape (R, X, Y, Z) or None
        What they should be; None means 0.
    weight : ndarray, shape (X, Y, Z) or None
        How much a voxel of the undistorted space counts; None means 1.
    """

    images: Sequence[Distorted]
    contrasts: NDArray[np.float64]
    targets: NDArray[np.floating] | None = None
    weight: NDArray[np.floating] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitLevel:
    """How one level of the pyramid looks at the images.

    Parameters
    ----------
    every : int
        Voxels per voxel of this level.
    fwhm : float
        Smoothing of the images, voxels.
    knots : float
        Distance between knots, voxels.
    stiffness : float
        Weight of the field's curvature, in voxels of shift, beside the images' mean square.
    n_steps : int
        Gauss-Newton steps at most.
    """

    every: int
    fwhm: float
    knots: float
    stiffness: float
    n_steps: int


LEVELS = (
    FitLevel(every=2, fwhm=6.0, knots=8.0, stiffness=0.1, n_steps=8),
    FitLevel(every=2, fwhm=4.0, knots=4.0, stiffness=0.03, n_steps=8),
    FitLevel(every=1, fwhm=2.0, knots=3.0, stiffness=0.01, n_steps=6),
    FitLevel(every=1, fwhm=1.0, knots=2.0, stiffness=0.005, n_steps=5),
)
SMALL_GAIN = 0.01
"""A step that lowers the energy by less than this share ends a level."""
SOLVED, N_SOLVING = 0.1, 30
"""Conjugate gradients end when the residual has fallen to this share, or after so many."""


class _Level:
    """One level: smoothed images, splines, and the energy with its derivatives."""

    def __init__(self, problem: Problem, grid: Grid, level: FitLevel) -> None:
        self.knots = knots_of(grid, [level.knots] * 3)
        coarse = _every(grid, level.every)
        self.basis = Basis(coarse, self.knots)
        self.contrasts = problem.contrasts
        images = [_shrink(image, level) for image in problem.images]
        self.samplers = [PhaseSampler(image) for image in images]
        self.unit = max(abs(image.per_hz) for image in images)
        self.targets = (
            None
            if problem.targets is None
            else np.stack([_smooth(target, level) for target in problem.targets])
        )
        self.weight = (
            np.ones(coarse.shape)
            if problem.weight is None
            else np.asarray(_thin(problem.weight, level.every), dtype=np.float64)
        )
        square = np.mean([np.mean(image.volume**2) for image in images])
        n_voxels = np.prod(coarse.shape)
        self.scale = 1.0 / float(square * n_voxels)
        # Curvature per (level's voxels)^2 at the knots: made that of the full voxels.
        per_knot = (self.unit * level.every) ** 2 / (level.knots**4 / 16.0)
        self.stiff = (
            level.stiffness * per_knot / np.prod(self.knots.shape) * bending(self.knots.shape)
        )

    def look(self, coefficients: Volume) -> _View:
        """Unwarp the images with a field and weigh what is left."""
        field = self.basis.field(coefficients)
        slopes = {s.axis: self.basis.slope(coefficients, s.axis) for s in self.samplers}
        weight = self.weight
        parts = []
        for sampler in self.samplers:
            s = sampler.per_hz
            value, slope, inside = sampler(s * field)
            stretch = 1.0 + s * slopes[sampler.axis]
            parts.append((value * stretch, slope * stretch * s, value * s))
            weight = weight * inside
        stacked = np.asarray(parts)  # (N, 3, X, Y, Z)
        residual = np.einsum("rn,n...->r...", self.contrasts, stacked[:, 0])
        if self.targets is not None:
            residual = residual - self.targets
        # A voxel whose signal left the image agrees with nothing: it costs as the others do.
        seen = max(float(weight.sum()), 1.0) / max(float(self.weight.sum()), 1.0)
        misfit = self.scale * float((weight * residual**2).sum()) / seen
        flat = coefficients.ravel()
        return _View(
            coefficients=coefficients,
            residual=residual,
            weight=weight * self.scale,
            still=stacked[:, 1],
            sloped=stacked[:, 2],
            misfit=misfit,
            energy=misfit + float(flat @ (self.stiff @ flat)),
        )

    def step(self, view: _View) -> Volume:
        """Find the Gauss-Newton step from the normal equations."""
        axes = sorted({s.axis for s in self.samplers})
        still = np.einsum("rn,n...->r...", self.contrasts, view.still)
        along = [
            np.einsum(
                "rn,n...->r...",
                self.contrasts * [s.axis == axis for s in self.samplers],
                view.sloped,
            )
            for axis in axes
        ]
        basis, shape = self.basis, self.knots.shape

        def stiff(coefficients: Volume) -> Volume:
            """Differentiate half the curvature's energy."""
            return np.asarray(self.stiff @ coefficients.ravel()).reshape(shape)

        def back(seen: Volume) -> Volume:
            """Apply the transpose of the linear model to (R, X, Y, Z)."""
            out = basis.gather((still * seen).sum(axis=0))
            for axis, part in zip(axes, along, strict=True):
                out = out + basis.gather((part * seen).sum(axis=0), axis)
            return out

        def apply(direction: Volume) -> Volume:
            """Apply the normal matrix."""
            seen = still * basis.field(direction)
            for axis, part in zip(axes, along, strict=True):
                seen = seen + part * basis.slope(direction, axis)
            return back(view.weight * seen) + stiff(direction)

        diagonal = basis.diagonal(view.weight * (still**2).sum(axis=0))
        diagonal = diagonal + self.stiff.diagonal().reshape(shape)
        for axis, part in zip(axes, along, strict=True):
            diagonal = diagonal + basis.diagonal(view.weight * (part**2).sum(axis=0), axis)
        right = -(back(view.weight * view.residual) + stiff(view.coefficients))
        return conjugate_gradients(
            apply, right, diagonal=diagonal, tolerance=SOLVED, n_steps=N_SOLVING
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _View:
    """The images of one level unwarped with one field."""

    coefficients: Volume
    residual: Volume
    weight: Volume
    still: Volume
    sloped: Volume
    misfit: float
    energy: float


def fit_level(
    problem: Problem, grid: Grid, level: FitLevel, start: tuple[Volume, Grid] | None
) -> tuple[Volume, Grid, float]:
    """Refine a field at one level of the pyramid.

    Parameters
    ----------
    problem : Problem
        Images and what is asked of them, on `grid`.
    grid : Grid
        Of the images and of the undistorted space.
    level : FitLevel
        How to look at them.
    start : tuple of ndarray and Grid, or None
        Coefficients (Hz) and their knots from a coarser level; None starts at zero.

    Returns
    -------
    coefficients : ndarray
        Hz, at the knots of this level.
    knots : Grid
        Where they are.
    misfit : float
        Weighted mean square of the combinations, beside that of the images.
    """
    here = _Level(problem, grid, level)
    view = here.look(np.zeros(here.knots.shape) if start is None else _refine(start, here.knots))
    for _ in range(level.n_steps):
        step = here.step(view)
        before = view.energy
        for length in (1.0, 0.5, 0.25, 0.125):
            tried = here.look(view.coefficients + length * step)
            if tried.energy < before:
                view = tried
                break
        if view.energy > (1.0 - SMALL_GAIN) * before:
            break
    return view.coefficients, here.knots, view.misfit


def _refine(start: tuple[Volume, Grid], knots: Grid) -> Volume:
    """Bring coefficients to finer knots: the field at the knots, and the splines through it."""
    coefficients, old = start
    values = Basis(knots, old).field(coefficients)
    return fit_field(values, np.ones(knots.shape), grid=knots, knots=knots, roughness=1e-6)


def _every(grid: Grid, every: int) -> Grid:
    affine = grid.affine.copy()
    affine[:3, :3] *= every
    i, j, k = (len(range(0, n, every)) for n in grid.shape)
    return Grid((i, j, k), affine)


def _thin(volume: NDArray[np.floating], every: int) -> Volume:
    return np.asarray(volume, dtype=np.float64)[::every, ::every, ::every]


def _smooth(volume: NDArray[np.floating], level: FitLevel) -> Volume:
    values = np.asarray(volume, dtype=np.float64)
    if level.fwhm > 0:
        values = ndimage.gaussian_filter(values, level.fwhm / 2.3548, mode="nearest")
    return np.ascontiguousarray(_thin(values, level.every))


def _shrink(image: Distorted, level: FitLevel) -> Distorted:
    return Distorted(
        volume=_smooth(image.volume, level),
        axis=image.axis,
        per_hz=image.per_hz / level.every,
    )
