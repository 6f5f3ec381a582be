"""The T1w of a participant: the head through the warp, coils and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom.head import CENTRE, Head
from neurostorm_app.pipelines.phantom.people import Anatomy, rigid
from neurostorm_app.pipelines.phantom.settings import Scale, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["T1w", "nose_up", "render_t1w", "t1w_grid", "t1w_pose"]

_WHITE = 800.0  # signal of white matter, a.u.
_NOISE = 0.025  # of white matter
_BIAS = 0.25  # least and greatest logarithm of the coil's sensitivity


@dataclass(frozen=True, slots=True, eq=False)
class T1w:
    """A rendered T1w.

    Parameters
    ----------
    grid : Grid
        Its voxels, mm RAS.
    signal : ndarray, shape (X, Y, Z), int16
        a.u.
    tissue : ndarray, shape (X, Y, Z), uint8
        The truth: 0 not brain, 1 grey matter, 2 white matter, 3 fluid.
    """

    grid: Grid
    signal: NDArray[np.int16]
    tissue: NDArray[np.uint8]


def t1w_pose(image: int, *, number: int, seed: int) -> NDArray[np.float64]:
    """Draw how the head lies in image 0, 1, ...: points of the first one to its own, (4, 4), mm.

    The world of the participant's truth is that of the first image.
    """
    if image == 0:
        return np.eye(4)
    rng = generator(seed, "t1w-pose", participant=number, run=image)
    return rigid(rng.uniform(-4, 4, 3), rng.uniform(-6, 6, 3), centre=np.zeros(3))


def t1w_grid(anatomy: Anatomy, *, number: int, seed: int, scale: Scale, image: int = 0) -> Grid:
    """Lay a slightly oblique field of view (i to R, j to A, k to S) about the head."""
    rng = generator(seed, "t1w-grid", participant=number, run=image)
    turned = rigid(rng.uniform(-2, 2, 3), np.zeros(3), centre=np.zeros(3))[:3, :3]
    axes = turned * scale.t1w_zoom
    middle = anatomy.template_to_t1w((CENTRE + np.array([0.0, 2.0, -12.0]))[None])[0]
    middle = apply_affine(t1w_pose(image, number=number, seed=seed), middle)
    centre = (np.asarray(scale.t1w_shape) - 1) / 2
    return Grid(scale.t1w_shape, from_matvec(axes, middle - axes @ centre))


def render_t1w(
    head: Head, anatomy: Anatomy, *, number: int, seed: int, scale: Scale, image: int = 0
) -> T1w:
    """Render a T1w: signal times an uneven sensitivity, with Rician noise."""
    grid = t1w_grid(anatomy, number=number, seed=seed, scale=scale, image=image)
    to_first = np.linalg.inv(t1w_pose(image, number=number, seed=seed))
    blur = 0.4 * scale.t1w_zoom / head.grid.zooms[0] if scale.t1w_zoom > head.grid.zooms[0] else 0
    source = ndimage.gaussian_filter(head.t1w, blur) if blur else head.t1w
    rng = generator(seed, "t1w-noise", participant=number, run=image)
    sensitivity = _sensitivity(grid, generator(seed, "t1w-bias", participant=number, run=image))
    signal = np.empty(grid.shape, dtype=np.int16)
    tissue = np.empty(grid.shape, dtype=np.uint8)
    thick = 16  # planes at a time, so that coordinates stay small
    for start in range(0, grid.shape[0], thick):
        planes = slice(start, min(start + thick, grid.shape[0]))
        world = _world(grid, planes)
        points = anatomy.t1w_to_template(world if image == 0 else apply_affine(to_first, world))
        clean = head.sample(source, points) * sensitivity[planes]
        noise = rng.standard_normal((2, *clean.shape), dtype=np.float32) * np.float32(_NOISE)
        signal[planes] = np.round(np.hypot(clean + noise[0], noise[1]) * _WHITE)
        tissue[planes] = head.sample(head.tissue, points, order=0)
    return T1w(grid, signal, tissue)


def nose_up(grid: Grid) -> Grid:
    """Spoil a header: a quarter turn about the left-right axis, through the middle of the image.

    What points to the front of the head is said to point up, as after a conversion that took the
    axes of a sagittal scan for those of an axial one.
    """
    middle = apply_affine(grid.affine, (np.asarray(grid.shape) - 1) / 2)
    turn = rigid(np.array([90.0, 0, 0]), np.zeros(3), centre=middle)
    return Grid(grid.shape, turn @ grid.affine)


def _world(grid: Grid, planes: slice) -> NDArray[np.float64]:
    """World points of some planes of constant i: (planes, Y, Z, 3), mm."""
    axes = [np.arange(n, dtype=np.float64) for n in grid.shape]
    axes[0] = axes[0][planes]
    parts = [
        a.reshape([-1 if b == d else 1 for b in range(3)] + [1]) * grid.affine[:3, d]
        for d, a in enumerate(axes)
    ]
    return np.asarray(parts[0] + parts[1] + parts[2] + grid.affine[:3, 3])


def _sensitivity(grid: Grid, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a smooth sensitivity about 1: the exponential of a polynomial."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing="ij", sparse=True)
    terms = (x, y, z, x * x, y * y, z * z, x * y, y * z)
    field = np.zeros(grid.shape, dtype=np.float32)
    for term in terms:
        field += (rng.uniform(-1, 1) * term).astype(np.float32)
    field -= field.mean()
    return np.asarray(np.exp(field * np.float32(_BIAS / np.abs(field).max())))
