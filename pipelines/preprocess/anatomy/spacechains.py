"""One normalisation for many standard spaces: maps composed through the template it was made to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from neurostorm_app.errors import CorruptImageError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.preprocess.anatomy.brainmask import read_mask
from neurostorm_app.pipelines.preprocess.anatomy.registration import Registered
from neurostorm_app.pipelines.templates import HUB, between, load_template
from neurostorm_app.pipelines.xfm import Affine, Chain, Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["around", "carry_to_space", "place_in_space"]

RES = "2"
FADED_MM = 22.0
"""Around a template's brain, where maps between templates have faded to affines."""

FAR_MM = 1000.0
"""So far from the brain the maps between standard spaces are affine: their fields have faded."""


def place_in_space(found: Registered, space: str) -> Registered:
    """Carry a registration to the hub over to another space that has a known map to it.

    Parameters
    ----------
    found : Registered
        Points of MNI152NLin2009cAsym to points of the participant, and back.
    space : str
        One of ``pipelines.templates.SPACES``.

    Returns
    -------
    Registered
        Points of `space` to points of the participant, and back.
    """
    known = space if space != "MNI152NLin2009aSym" else HUB  # its brain lies within millimetres
    template = load_template(known, RES)
    inside = read_mask(template.mask, template.grid)
    _, near = around(inside, template.grid, FADED_MM, crop=False)
    there, back = between(space, HUB), between(HUB, space)
    return Registered(
        *carry_to_space(found.forward, found.backward, there=there, back=back, grid=near)
    )


def carry_to_space(
    forward: Chain, backward: Chain, *, there: PointMap, back: PointMap, grid: Grid
) -> tuple[Chain, Chain]:
    """Compose the map to one template with the map between two templates.

    All is sampled into one field in the new space and one affine, as ANTs writes them, so that
    any reader of ITK composites reads it.

    Parameters
    ----------
    forward : Chain
        Points of the first template to the participant's points: a field, then an affine.
    backward : Chain
        Its inverse: an affine, then a field.
    there, back : callable
        Points of the new space to points of the first template, and the inverse, RAS+ mm.
    grid : Grid
        Where the new fields are sampled, in the new space; it should reach 20 mm past the brain.

    Returns
    -------
    forward, backward : Chain
        Points of the new space to the participant's points: field, affine; and the inverse.
    """
    field, affine = forward.steps
    inverse_affine, inverse_field = backward.steps
    linear = _affine_far_away(there)
    points = grid.world()
    moved = linear.inverse()(field(there(points))) - points
    returned = back(inverse_field(linear(points))) - points
    whole = Affine(affine.matrix @ linear.matrix)  # type: ignore[union-attr]
    home = Affine(linear.inverse().matrix @ inverse_affine.matrix)  # type: ignore[union-attr]
    return (
        Chain((Field(grid, moved.astype(np.float32)), whole)),
        Chain((home, Field(grid, returned.astype(np.float32)))),
    )


def _affine_far_away(xfm: PointMap) -> Affine:
    """Find the affine part of a map whose field fades to nothing away from the brain."""
    ends = np.concatenate([np.zeros((1, 3)), np.eye(3)]) * FAR_MM + [FAR_MM, FAR_MM, FAR_MM]
    moved = xfm(ends)
    linear = (moved[1:] - moved[0]).T / FAR_MM
    return Affine(np.asarray(from_matvec(linear, moved[0] - linear @ ends[0]), dtype=np.float64))


def around(
    mask: NDArray[np.bool_], grid: Grid, margin: float, *, crop: bool = True
) -> tuple[tuple[slice, slice, slice], Grid]:
    """Bound a mask with a margin: the part of the arrays, and its grid.

    Parameters
    ----------
    mask : ndarray of bool, shape of `grid`
        Something in it is true.
    grid : Grid
        Any orientation.
    margin : float
        Room to leave on each side, mm.
    crop : bool
        Whether the room ends where the arrays do; else the slices do not fit them.

    Returns
    -------
    part : tuple of slice
        Where in the arrays.
    near : Grid
        The grid of that part.

    Raises
    ------
    CorruptImageError
        If the mask is empty.
    """
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found or found[0] is None:
        raise CorruptImageError(
            f"a mask of {mask.shape} voxels is empty", fix="give the mask of a brain"
        )
    starts, stops = [], []
    for part, n, zoom in zip(found[0], grid.shape, grid.zooms, strict=True):
        more = int(np.ceil(margin / zoom))
        starts.append(max(0, part.start - more) if crop else part.start - more)
        stops.append(min(n, part.stop + more) if crop else part.stop + more)
    i, j, k = (slice(*ends) for ends in zip(starts, stops, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, starts)
    x, y, z = (stop - start for start, stop in zip(starts, stops, strict=True))
    return (i, j, k), Grid((x, y, z), affine)
