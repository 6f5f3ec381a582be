"""The participants: who they are, how their heads differ, and where they lay in the scanner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.phantom.head import CENTRE, Head
from neurostorm_app.pipelines.phantom.settings import Scale, generator
from neurostorm_app.pipelines.xfm import Affine, Chain, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Anatomy",
    "Participant",
    "build_anatomy",
    "build_participant",
    "check_diffeomorphic",
    "rigid",
]

_MARGIN = 12.0  # mm around the template, where displacements fade out
_WIDTHS = ((22.0, 1.8), (17.0, 0.5))  # smoothness and size of the displacements, mm


@dataclass(frozen=True, slots=True)
class Participant:
    """Who somebody is.

    Parameters
    ----------
    number : int
        From 1 on.
    age : int
        Years.
    sex : {"F", "M"}
        As in ``participants.tsv``.
    group : {"control", "patient"}
        Patients have a planted difference in connectivity.
    """

    number: int
    age: int
    sex: str
    group: str

    @property
    def label(self) -> str:
        """Its BIDS label, without ``sub-``."""
        return f"{self.number:02d}"


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """How a participant's head differs from the template.

    Parameters
    ----------
    t1w_to_template : Chain
        Maps points of the T1w to points of template space, mm RAS on both sides.
    template_to_t1w : Chain
        Maps points of template space to points of the T1w: the inverse.
    """

    t1w_to_template: Chain
    template_to_t1w: Chain


def build_participant(number: int, *, seed: int) -> Participant:
    """Draw who participant `number` of phantom `seed` is."""
    rng = generator(seed, "person", participant=number)
    age, sex = int(rng.integers(20, 81)), str(rng.choice(["F", "M"]))
    return Participant(number, age, sex, "patient" if number % 2 == 0 else "control")


def build_anatomy(number: int, *, seed: int, head: Head, scale: Scale) -> Anatomy:
    """Draw an affine of a few percent and a smooth diffeomorphism.

    The T1w's points meet the affine first, then the field, which lives in template space.

    Raises
    ------
    DataError
        If the field folds.
    """
    rng = generator(seed, "anatomy", participant=number)
    grid = _field_grid(head.grid, scale.field_step)
    velocity = _velocity(grid, rng)
    field = Field(grid, _exponential(velocity, grid))
    check_diffeomorphic(field)
    back = _exact_inverse(field, _exponential(-velocity, grid))
    affine = Affine(_stretch(generator(seed, "affine", participant=number)))
    return Anatomy(
        t1w_to_template=Chain.of(affine, field),
        template_to_t1w=Chain.of(back, affine.inverse()),
    )


def check_diffeomorphic(field: Field) -> float:
    """Find the least Jacobian determinant of a field (no unit).

    Raises
    ------
    DataError
        If it is not positive: somewhere the field folds.
    """
    zooms = field.grid.zooms
    jacobian = np.empty((*field.grid.shape, 3, 3), dtype=np.float32)
    for axis in range(3):
        slopes = np.gradient(field.displacement[..., axis], *zooms)
        for along in range(3):
            jacobian[..., axis, along] = slopes[along] + (axis == along)
    least = float(np.linalg.det(jacobian).min())
    if least <= 0:
        raise DataError(
            f"a participant's field folds: its least Jacobian determinant is {least:.3f},"
            " above 0 was expected",
            fix="choose another seed",
        )
    return least


def rigid(
    turns: NDArray[np.float64], shift: NDArray[np.float64], *, centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Build rigid motions of points.

    Parameters
    ----------
    turns : ndarray, shape (..., 3)
        Rotations about the axes R, A, S (in this order), degrees.
    shift : ndarray, shape (..., 3)
        Translations after the rotation, mm.
    centre : ndarray, shape (3,)
        Point about which the head turns, mm.

    Returns
    -------
    ndarray, shape (..., 4, 4)
        Points to moved points, mm RAS.
    """
    flat = np.reshape(turns, (-1, 3))
    matrices = np.tile(np.eye(4), (len(flat), 1, 1))
    matrices[:, :3, :3] = Rotation.from_euler("xyz", flat, degrees=True).as_matrix()
    matrices[:, :3, 3] = centre - matrices[:, :3, :3] @ centre + np.reshape(shift, (-1, 3))
    return matrices.reshape(*np.shape(turns)[:-1], 4, 4)


def _stretch(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the affine from T1w points to template points."""
    shear = np.eye(3) + np.triu(rng.uniform(-0.02, 0.02, (3, 3)), 1)
    matrix = shear @ np.diag(rng.uniform(0.96, 1.04, 3))
    turns, shift = rng.uniform(-1, 1, 3) * [6, 3, 3], rng.uniform(-8, 8, 3)
    moved = rigid(turns, shift, centre=np.zeros(3))
    return np.asarray(from_matvec(matrix, CENTRE) @ moved @ from_matvec(np.eye(3), -CENTRE))


def _field_grid(template: Grid, step: float) -> Grid:
    first = template.affine[:3, 3] - _MARGIN
    last = template.world()[-1, -1, -1] + _MARGIN
    i, j, k = (int(n) for n in np.ceil((last - first) / step) + 1)
    return Grid((i, j, k), from_matvec(np.diag([step] * 3), first))


def _velocity(grid: Grid, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a stationary velocity, mm a unit of time, that fades out at the border."""
    step = grid.zooms[0]
    total = np.zeros((*grid.shape, 3), dtype=np.float32)
    for axis in range(3):
        for width, size in _WIDTHS:
            noise = rng.standard_normal(grid.shape, dtype=np.float32)
            smooth = ndimage.gaussian_filter(noise, width / step, mode="wrap", truncate=3)
            total[..., axis] += smooth * (size / smooth.std())
    for axis, n in enumerate(grid.shape):
        edge = np.minimum(np.arange(n), np.arange(n)[::-1]) * step / _MARGIN
        fade = np.sin(np.clip(edge, 0, 1) * np.pi / 2) ** 2
        total *= fade.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
    return total


def _exact_inverse(field: Field, start: NDArray[np.float32]) -> Field:
    """Make the inverse exact at the voxels, so that both directions are one truth."""
    points = field.grid.world()
    back = start.astype(np.float64)
    for _ in range(4):
        back = -field.at(points + back)
    return Field(field.grid, back.astype(np.float32))


def _exponential(velocity: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Integrate a stationary velocity by scaling and squaring: displacement in mm.

    References
    ----------
    Arsigny V. et al. 2006, MICCAI, "A log-Euclidean framework for statistics on
    diffeomorphisms".
    """
    n_squarings = 5
    voxels = np.indices(grid.shape, dtype=np.float32)
    step = np.float32(grid.zooms[0])
    moved = velocity / np.float32(2**n_squarings)
    for _ in range(n_squarings):
        where = voxels + np.moveaxis(moved, -1, 0) / step
        further = np.empty_like(moved)
        for axis in range(3):
            further[..., axis] = ndimage.map_coordinates(
                moved[..., axis], where, order=1, mode="nearest"
            )
        moved = moved + further
    return moved
