"""Mosaics of slices: pictures that can be exchanged for one another, with contours above.

The pictures are compressed images of equal size; the contours and marks are one vector
drawing that lies over them, so that a page can show, hide and exchange the layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.pipelines.figures.slices import Plane, Volume, brain_box, cut, onto
from neurostorm_app.pipelines.figures.style import encode_image, prepare_matplotlib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Contour", "Mosaic", "Picture", "draw_mosaic"]

_COUNTS: dict[Plane, int] = {"axial": 7, "coronal": 7, "sagittal": 6}
_INNER = (0.12, 0.88)
"""The part of the brain's extent that slices are taken from."""
_GAP = 4
_STRIP = 17
"""Room below each row for the places of the slices, pixels."""
_CONTOUR_PITCH = 2.0
"""Contours are traced at 2 mm, the resolution of the standard grids."""
_MARKS: dict[Plane, tuple[str, str, str]] = {
    "axial": ("L", "R", "z"),
    "coronal": ("L", "R", "y"),
    "sagittal": ("P", "A", "x"),
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Picture:
    """A layer of grey or coloured slices.

    Parameters
    ----------
    key : str
        Short name for the page's switches.
    label : str
        What it is.
    volume : Volume
        What is cut.
    limits : tuple of float or None
        Values of black and white; None takes the 1st and 99.5th percentile inside the brain.
    colours : str or None
        A colour map of matplotlib, for maps, whose voxels are shown as they are; None is grey.
    """

    key: str
    label: str
    volume: Volume
    limits: tuple[float, float] | None = None
    colours: str | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Contour:
    """A line around a region.

    Parameters
    ----------
    key : str
        Short name for the page's switches; also the CSS class of the line.
    label : str
        What it goes around.
    volume : Volume
        1 inside and 0 outside, or a probability: the line is at one half.
    """

    key: str
    label: str
    volume: Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Mosaic:
    """A mosaic, ready for a page.

    Parameters
    ----------
    width, height : int
        Pixels of the pictures and units of the overlay.
    images : dict
        Key of a picture to its data address.
    overlay : str
        SVG element with the contours (class ``contour <key>``) and marks.
    limits : dict
        Key of a picture to the values of its black and white.
    """

    width: int
    height: int
    images: dict[str, str]
    overlay: str
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Tile:
    plane: Plane
    position: float
    left: int
    top: int
    width: int
    height: int


def draw_mosaic(
    pictures: Sequence[Picture], contours: Sequence[Contour], *, brain: Volume
) -> Mosaic:
    """Cut the same slices out of all layers and lay them out.

    Parameters
    ----------
    pictures : sequence of Picture
        Layers of equal place, each an image of the result.
    contours : sequence of Contour
        Lines above all of them.
    brain : Volume
        The mask that says which slices are worth showing.
    """
    box = brain_box(brain)
    tiles, width, height = _lay_out(box)
    images, limits = {}, {}
    for picture in pictures:
        limits[picture.key] = picture.limits or _window(picture.volume, brain)
        canvas = np.zeros((height, width), dtype=np.float32)
        for tile in tiles:
            place = np.s_[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
            canvas[place] = cut(
                picture.volume,
                tile.plane,
                tile.position,
                box=box,
                nearest=picture.colours is not None,
            )
        images[picture.key] = encode_image(_colour(canvas, limits[picture.key], picture.colours))
    lines = "".join(_outline(contour, tiles, box) for contour in contours)
    marks = "".join(_mark(tile) for tile in tiles)
    overlay = (
        f'<svg class="overlay" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'{lines}<g class="marks">{marks}</g></svg>'
    )
    return Mosaic(width=width, height=height, images=images, overlay=overlay, limits=limits)


def _lay_out(box: NDArray[np.float64]) -> tuple[list[_Tile], int, int]:
    """Put one row of slices for each plane, each row centred."""
    extent = (box[1] - box[0] + 1).astype(int)
    sizes: dict[Plane, tuple[int, int]] = {
        "axial": (extent[0], extent[1]),
        "coronal": (extent[0], extent[2]),
        "sagittal": (extent[1], extent[2]),
    }
    across: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}
    rows = {plane: n * (sizes[plane][0] + _GAP) - _GAP for plane, n in _COUNTS.items()}
    total = int(max(rows.values()))
    tiles, top = [], 0
    for plane, count in _COUNTS.items():
        width, height = (int(side) for side in sizes[plane])
        low, high = box[:, across[plane]]
        places = np.round(np.interp(np.linspace(*_INNER, count), [0, 1], [low, high]))
        left = (total - int(rows[plane])) // 2
        for place in places:
            tiles.append(_Tile(plane, float(place), left, top, width, height))
            left += width + _GAP
        top += height + _STRIP
    return tiles, total, top


def _window(volume: Volume, brain: Volume) -> tuple[float, float]:
    """Find black and white from what is inside the brain."""
    inside = volume.data[onto(brain, volume.grid) > 0.5]
    values = inside[inside != 0]
    if not values.size:
        values = volume.data.ravel()
    low, high = (float(p) for p in np.percentile(values, [1, 99.5]))
    low = min(low, 0.25 * high) if high > 0 else low
    return low, high if high > low else low + 1


def _colour(
    canvas: NDArray[np.float32], limits: tuple[float, float], colours: str | None
) -> NDArray[np.uint8]:
    """Turn values into pixels; what is exactly zero stays black."""
    low, high = limits
    scaled = np.clip((canvas - low) / (high - low), 0, 1)
    if colours is None:
        return (scaled * 255).astype(np.uint8)
    prepare_matplotlib()
    from matplotlib import colormaps

    pixels = np.asarray(colormaps[colours](scaled, bytes=True))[..., :3].copy()
    pixels[canvas == 0] = 0
    return pixels


def _outline(contour: Contour, tiles: Sequence[_Tile], box: NDArray[np.float64]) -> str:
    """Trace a region in all tiles, as one path in half pixels."""
    from contourpy import contour_generator

    parts = []
    for tile in tiles:
        region = cut(contour.volume, tile.plane, tile.position, box=box, pitch=_CONTOUR_PITCH)
        for line in contour_generator(z=region).lines(0.5):
            points = np.round(np.asarray(line) * _CONTOUR_PITCH * 2).astype(int)
            parts.append(_path(points + 2 * np.array([tile.left, tile.top])))
    return f'<path class="contour {contour.key}" transform="scale(.5)" d="{"".join(parts)}"/>'


def _path(points: NDArray[np.int_]) -> str:
    """Write a line as a start and small steps."""
    steps = np.diff(points, axis=0)
    steps = steps[np.any(steps != 0, axis=1)]
    moves = "".join(f"{dx}{dy if dy < 0 else f' {dy}'} " for dx, dy in steps)
    return f"M{points[0, 0]} {points[0, 1]}l{moves.strip()}" if len(steps) else ""


def _mark(tile: _Tile) -> str:
    """Write the sides and the place of a slice at its edges."""
    left, right, axis = _MARKS[tile.plane]
    middle, bottom = tile.top + 14, tile.top + tile.height + 11
    centre = tile.left + tile.width / 2
    return (
        f'<text x="{tile.left + 4}" y="{middle}">{left}</text>'
        f'<text x="{tile.left + tile.width - 4}" y="{middle}" text-anchor="end">{right}</text>'
        f'<text class="place" x="{centre:g}" y="{bottom}" text-anchor="middle">'
        f"{axis} {tile.position:+.0f}</text>"
    )
