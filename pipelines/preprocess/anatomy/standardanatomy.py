"""The anatomy on a standard grid: each image interpolated once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.pipelines.image import MNI, read_volume, write_volume
from neurostorm_app.pipelines.itk import read_itk_composite
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.templates import find_grid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.stage import OutputSpace
    from neurostorm_app.pipelines.xfm import Chain

__all__ = ["to_standard"]

TISSUES = ("GM", "WM", "CSF")
LABELS = {"GM": 1, "WM": 2, "CSF": 3}
SUFFIXES = {"t1w": "desc-preproc_T1w", "mask": "desc-brain_mask", "dseg": "dseg"} | {
    name: f"label-{name}_probseg" for name in TISSUES
}
N_PARTS = 16
"""Points are mapped in so many parts: a grid of 1 mm has eight million of them."""


def to_standard(
    t1w: Path,
    mask: Path,
    probsegs: Mapping[str, Path],
    to_std_xfm: Path,
    *,
    space: OutputSpace,
    out_dir: Path,
) -> dict[str, Path]:
    """Bring the anatomy of a participant onto a standard grid, by one interpolation each.

    Parameters
    ----------
    t1w, mask : Path
        T1w image (cubic interpolation) and brain mask (linear, cut at one half).
    probsegs : mapping of str to Path
        ``GM``, ``WM`` and ``CSF`` (linear); the labels are the most likely tissue after it.
    to_std_xfm : Path
        Template points to T1w points; ITK composite.
    space : OutputSpace
        A standard space; without a resolution index, the template's first.
    out_dir : Path
        Folder for the results.

    Returns
    -------
    dict
        Paths by ``t1w``, ``mask``, ``dseg``, ``GM``, ``WM`` and ``CSF``.

    Raises
    ------
    NoInputError
        If a file is not there, or the grid of the space is not known.
    CorruptImageError
        If a file cannot be read.
    """
    res = space.res or "1"
    target = find_grid(space.name, res)
    points = _map_in_parts(read_itk_composite(to_std_xfm), target)

    def bring(path: Path, *, order: int) -> NDArray[np.float32]:
        """Interpolate an image of the T1w's space on the standard grid."""
        volume, source = read_volume(path)
        return resample_volume(
            volume, source=source, target=target, xfm=lambda _: points, order=order
        )

    inside = bring(mask, order=1) > 0.5
    maps = {name: np.clip(bring(probsegs[name], order=1), 0, 1) * inside for name in TISSUES}
    labels = np.zeros(target.shape, dtype=np.int16)
    most = np.zeros(target.shape, dtype=np.float32)
    for name, share in maps.items():
        labels[share > most] = LABELS[name]
        np.maximum(most, share, out=most)
    images: dict[str, tuple[NDArray[Any], Any]] = {
        "t1w": (np.maximum(bring(t1w, order=3), 0), np.float32),
        "mask": (inside, np.uint8),
        "dseg": (labels, np.int16),
    }
    images |= {name: (maps[name], np.float32) for name in TISSUES}
    named = f"space-{space.name}" + (f"_res-{space.res}" if space.res else "")
    written: dict[str, Path] = {}
    for role, (volume, dtype) in images.items():
        written[role] = out_dir / f"{named}_{SUFFIXES[role]}.nii.gz"
        write_volume(written[role], volume, grid=target, dtype=dtype, code=MNI)
    return written


def _map_in_parts(xfm: Chain, grid: Grid) -> NDArray[np.float64]:
    """Map all voxels of a grid (X, Y, Z, 3), mm, without holding many copies of their points."""
    points = grid.world()
    for part in np.array_split(np.arange(len(points)), N_PARTS):
        if part.size:
            points[part] = xfm(points[part])
    return points
