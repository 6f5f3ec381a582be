"""The last step of a BOLD run, files in and files out: onto the grid of an output space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import (
    MNI,
    NATIVE,
    open_image,
    read_volume,
    write_series,
    write_volume,
)
from neurostorm_app.pipelines.itk import read_itk_affines, read_itk_composite
from neurostorm_app.pipelines.preprocess.acquired.boldseries import AcquiredSeries
from neurostorm_app.pipelines.resample import PointMap, resample_volume
from neurostorm_app.pipelines.stage import OutputSpace
from neurostorm_app.pipelines.templates import find_grid
from neurostorm_app.pipelines.xfm import Affine, Chain

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read_coregistration", "to_space"]

FINEST = "1"
"""TemplateFlow's index of a template's finest grid."""
ALIGNED = 2
"""NIfTI code of the world of a template that is not of the MNI."""


def to_space(  # noqa: PLR0913
    files: Mapping[str, Path],
    *,
    folder: Path,
    facts: Mapping[str, Any],
    name: str,
    res: str | None,
    tr: float,
    with_series: bool,
    series_dir: str,
    n_threads: int,
    device: str,
) -> dict[str, Path]:
    """Bring reference, mask and series of a run onto the grid of an output space.

    Parameters
    ----------
    files : mapping
        What `AcquiredSeries.of` takes, ``coreg_boldref``, ``mask``, and for the space
        ``coreg_xfm``, ``t1w`` or ``to:`` the template.
    folder : Path
        Where to write reference and mask.
    facts : mapping
        What the reference step found.
    name : str
        ``native``, ``T1w`` or a TemplateFlow name.
    res : str or None
        Resolution index of a standard space.
    tr : float
        Repetition time in seconds.
    with_series : bool
        Write the series too.
    series_dir : str
        Where to write it.
    n_threads : int
        Volumes at a time.
    device : str
        Where interpolation is computed.

    Returns
    -------
    dict of Path
        ``boldref:``, ``mask:`` (uint8) and, if asked, ``bold:`` (float32) the space; of
        ``native`` the series alone, as the other two are there.
    """
    space = OutputSpace(name=name, res=res)
    run = AcquiredSeries.of(files, facts=facts, n_threads=n_threads, device=device)
    target, to_bold = _way(space, files, run.source)
    code = MNI if name.startswith("MNI") else NATIVE if not space.is_standard else ALIGNED
    label = space.label
    paths = {f"boldref:{label}": folder / "boldref.nii.gz", f"mask:{label}": folder / "mask.nii.gz"}
    if to_bold is None:
        paths = {}
    else:
        still, source = read_volume(files["coreg_boldref"])
        still = resample_volume(still, source=source, target=target, xfm=to_bold)
        write_volume(paths[f"boldref:{label}"], still, grid=target, code=code)
        brain, _ = read_volume(files["mask"])
        # A cubic spline would ring where the mask ends.
        inside = resample_volume(brain, source=source, target=target, xfm=to_bold, order=1) > 0.5
        write_volume(paths[f"mask:{label}"], inside, grid=target, dtype=np.uint8, code=code)
    if with_series:
        folder = Path(series_dir)
        folder.mkdir(parents=True, exist_ok=True)
        paths[f"bold:{label}"] = folder / f"{label.replace(':', '_')}_bold.nii.gz"
        write_series(
            paths[f"bold:{label}"],
            run.on(target, to_bold=to_bold),
            grid=target,
            n_volumes=run.n_volumes,
            tr=tr,
            code=code,
            n_threads=n_threads,
        )
    return paths


def read_coregistration(files: Mapping[str, Path]) -> Affine:
    """Read T1w points to BOLD points; without a T1w image the two are one."""
    if "coreg_xfm" not in files:
        return Affine.identity()
    return Affine(read_itk_affines(files["coreg_xfm"])[0])


def _way(
    space: OutputSpace, files: Mapping[str, Path], native: Grid
) -> tuple[Grid, PointMap | None]:
    """Find the grid of an output space, and the map of its points to those of the reference."""
    if space.name == "native":
        return native, None
    coreg = read_coregistration(files)
    if space.name == "T1w":
        return _with_zooms(Grid.of(open_image(files["t1w"])), native), coreg
    if space.res == "native":
        target = _with_zooms(find_grid(space.name, FINEST), native)
    else:
        target = find_grid(space.name, space.res or FINEST)
    return target, Chain.of(read_itk_composite(files[f"to:{space.name}"]), coreg)


def _with_zooms(grid: Grid, native: Grid) -> Grid:
    """Cover a field of view in RAS+ order with voxels of the sizes of the BOLD series.

    Each BOLD axis lends its size to the one nearest to it.
    """
    nearest = nib.io_orientation(native.affine)[:, 0].astype(int)
    zooms = np.empty(3)
    zooms[nearest] = native.zooms
    scale = zooms / np.asarray(grid.zooms)
    x, y, z = (max(1, int(np.ceil(n / s))) for n, s in zip(grid.shape, scale, strict=True))
    linear = grid.affine[:3, :3] * scale
    middle = grid.affine @ [*((np.asarray(grid.shape) - 1) / 2), 1.0]
    first = middle[:3] - linear @ ((np.array([x, y, z]) - 1) / 2)
    return Grid((x, y, z), from_matvec(linear, first))
