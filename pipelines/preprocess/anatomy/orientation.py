"""Is it a head, and which way up: checks of voxels and header, and the order of the axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, obliquity
from scipy import ndimage

from neurostorm_app.errors import CorruptImageError
from neurostorm_app.pipelines.grid import Grid, vox2vox
from neurostorm_app.pipelines.image import open_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["check_head", "conform", "describe_header", "with_zooms"]

FINEST_MM = 0.9
"""Images with a voxel edge below this are brought to `WORKING_MM`."""
WORKING_MM = 1.0
VOXEL_MM = (0.2, 6.0)
"""Voxel edges of a head image; anything else is a header in other units."""
EXTENT_MM = (80.0, 600.0)
"""Field of view of a head image."""
UNITS = {"metres": 1000.0, "centimetres": 10.0, "micrometres": 0.001}
THICK_MM, THICK_RATIO = 3.0, 2.5
"""Slices thicker than this, or than so many times the other edge, are those of a 2D sequence."""
APART_MM = 1.0
"""Between the places that sform and qform give to a voxel; below it is rounding."""
OBLIQUE_DEG = 30.0
"""Angle between axes of voxels and of the world above which the report says look."""


def describe_header(path: Path) -> dict[str, Any]:
    """Look at what the header says of orientation, voxel sizes and units.

    Parameters
    ----------
    path : Path
        NIfTI image.

    Returns
    -------
    dict
        ``orientation`` (such as ``LAS``), ``oblique_deg``, ``sform_code``, ``qform_code``,
        ``forms_apart_mm`` (greatest distance between the places that sform and qform give to a
        corner; None if one of them is not set) and ``reasons`` to look, in words.

    Raises
    ------
    NoInputError
        If the file is not there.
    CorruptImageError
        If it is not NIfTI.

    References
    ----------
    NIfTI-1.1, "Method 2" (qform) and "Method 3" (sform).
    """
    image: Any = open_image(path)
    header, affine = image.header, np.asarray(image.affine)
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    angle = float(np.degrees(obliquity(affine)).max())
    found: dict[str, Any] = {
        "orientation": "".join(nib.orientations.aff2axcodes(affine)),
        "oblique_deg": round(angle, 2),
        **{f"{name}_code": code for name, code in codes.items()},
        "forms_apart_mm": None,
        "reasons": [],
    }
    if not any(codes.values()):
        found["reasons"].append(
            "the header gives no orientation (sform and qform codes are 0): left and right are a"
            f" guess, {found['orientation']}"
        )
    if all(codes.values()):
        _compare_forms(header, image.shape[:3], found)
    if angle > OBLIQUE_DEG:
        found["reasons"].append(f"the voxel axes are {angle:.0f} degrees off those of the scanner")
    zooms = sorted(float(zoom) for zoom in header.get_zooms()[:3])
    if zooms[-1] > THICK_MM or zooms[-1] > THICK_RATIO * zooms[0]:
        edges = " x ".join(f"{zoom:.3g}" for zoom in zooms)
        found["reasons"].append(f"thick slices: voxels of {edges} mm hide the folds of the cortex")
    unit = header.get_xyzt_units()[0]
    if unit not in {"mm", "unknown"}:
        found["reasons"].append(f"the header says that voxel sizes are in {unit}; mm was taken")
    return found


def _compare_forms(header: Any, shape: tuple[int, ...], found: dict[str, Any]) -> None:
    """Tell how far sform and qform are apart, and whether they swap left and right."""
    sform, qform = (np.asarray(form()) for form in (header.get_sform, header.get_qform))
    ends = np.stack(np.meshgrid(*((0, n - 1) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    apart = float(
        np.linalg.norm(apply_affine(sform, ends) - apply_affine(qform, ends), axis=1).max()
    )
    found["forms_apart_mm"] = round(apart, 3)
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        found["reasons"].append(
            "sform and qform are mirror images of each other: one of them has left and right the"
            " wrong way round; the sform was taken"
        )
    elif apart > APART_MM:
        found["reasons"].append(
            f"sform and qform put a corner {apart:.1f} mm apart; the sform was taken"
        )


def check_head(volume: NDArray[np.float32], grid: Grid, path: Path) -> None:
    """Refuse an image that cannot be a head.

    Raises
    ------
    CorruptImageError
        If voxels are not finite or all alike, or voxel sizes or field of view are out of bounds.
    """
    bad = int(np.count_nonzero(~np.isfinite(volume)))
    if bad:
        raise CorruptImageError(
            f"{path}: {bad} of {volume.size} voxels are not finite numbers",
            fix="repair the image: set such voxels to zero if they are background",
        )
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        raise CorruptImageError(
            f"{path}: all voxels are {low:g}", fix="fetch or convert the image again"
        )
    extent = [n * zoom for n, zoom in zip(grid.shape, grid.zooms, strict=True)]
    zooms_fit = all(VOXEL_MM[0] <= zoom <= VOXEL_MM[1] for zoom in grid.zooms)
    extent_fits = all(EXTENT_MM[0] <= mm <= EXTENT_MM[1] for mm in extent)
    if not (zooms_fit and extent_fits):
        found = " x ".join(f"{zoom:.3g}" for zoom in grid.zooms)
        field = " x ".join(f"{mm:.0f}" for mm in extent)
        raise CorruptImageError(
            f"{path}: voxels of {found} mm and a field of view of {field} mm; a head needs voxels"
            f" of {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm, and a field of view of {EXTENT_MM[0]:g} to"
            f" {EXTENT_MM[1]:g} mm",
            fix=f"repair the voxel sizes in the header (NIfTI counts in millimetres){_guess(grid)}",
        )


def _guess(grid: Grid) -> str:
    """Name the unit in which the voxel sizes would be those of a head."""
    for name, factor in UNITS.items():
        zooms = [zoom * factor for zoom in grid.zooms]
        extent = [n * zoom for n, zoom in zip(grid.shape, zooms, strict=True)]
        voxels_fit = VOXEL_MM[0] <= min(zooms) and max(zooms) <= VOXEL_MM[1]
        if voxels_fit and EXTENT_MM[0] <= min(extent) and max(extent) <= EXTENT_MM[1]:
            return f"; they look like {name}"
    return ""


def conform(volume: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.float32], Grid]:
    """Bring a volume to RAS+ order, without interpolation unless it is finer than needed.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        Any orientation.
    grid : Grid
        Its grid.

    Returns
    -------
    volume : ndarray, shape (X', Y', Z'), float32
        Axes run along R, A and S as nearly as the acquisition allows; oblique stays oblique.
    grid : Grid
        Voxels as acquired, or of 1 mm when an edge was below 0.9 mm.
    """
    canonical = nib.as_closest_canonical(nib.Nifti1Image(volume, grid.affine))
    volume = np.ascontiguousarray(canonical.dataobj, dtype=np.float32)
    grid = Grid.of(canonical)
    if min(grid.zooms) >= FINEST_MM:
        return volume, grid
    target = with_zooms(grid, WORKING_MM)
    sigma = [0.42 * np.sqrt(max(WORKING_MM**2 - zoom**2, 0.0)) / zoom for zoom in grid.zooms]
    smooth = ndimage.gaussian_filter(volume, sigma, truncate=3)
    matrix = vox2vox(grid.affine, target.affine)
    coarse = ndimage.affine_transform(
        smooth, matrix[:3, :3], matrix[:3, 3], output_shape=target.shape, order=1
    )
    return np.asarray(coarse, dtype=np.float32), target


def with_zooms(grid: Grid, zoom: float) -> Grid:
    """Cover the same field of view, along the same axes, with cubic voxels.

    Parameters
    ----------
    grid : Grid
        Any orientation.
    zoom : float
        Edge of the new voxels, mm.

    Returns
    -------
    Grid
        With the same centre.
    """
    zooms = np.asarray(grid.zooms)
    shape = np.maximum(1, np.floor(zooms * grid.shape / zoom + 0.5)).astype(int)
    affine = grid.affine.copy()
    affine[:3, :3] *= zoom / zooms
    centre = grid.affine @ [*((np.asarray(grid.shape) - 1) / 2), 1.0]
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((shape - 1) / 2)
    x, y, z = (int(n) for n in shape)
    return Grid((x, y, z), affine)
