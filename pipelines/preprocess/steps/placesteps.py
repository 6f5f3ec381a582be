"""The steps that bring the BOLD reference to its place, files in and files out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.itk import write_itk_affines
from neurostorm_app.pipelines.preprocess.anatomy.bias import correct_bias
from neurostorm_app.pipelines.preprocess.anatomy.boldnormalization import normalize_boldref
from neurostorm_app.pipelines.preprocess.head.roughhead import rough_head
from neurostorm_app.pipelines.preprocess.placing.coregistration import Anatomy, coregister
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.preprocess.placing.coregistration import Init

__all__ = ["coregistration", "straight_to_template"]

RIM_MM = 4.0
"""How far outside the T1w image's brain the BOLD mask may reach."""
TRUSTED_OVERLAP = 0.8
"""Overlap of the brain masks from which on one may correct the other."""


def coregistration(
    files: Mapping[str, Path], *, folder: Path, dof: Literal[6, 9, 12], init: Init, seed: int
) -> dict[str, Any]:
    """Place the BOLD reference on the T1w image, and take the neck out of the BOLD mask by it.

    Parameters
    ----------
    files : mapping
        ``boldref`` and ``boldref_mask``, without distortion; ``t1w``, ``t1w_mask``, ``gm`` and
        ``wm`` on one grid.
    folder : Path
        Where to write.
    dof : int
        Degrees of freedom: 6, 9 or 12.
    init : str
        Where the registration starts: ``auto``, ``t1w`` or ``header``.
    seed : int
        Seed of the sampling.

    Returns
    -------
    dict
        Paths ``coreg_boldref``, ``mask`` and ``coreg_xfm``, and ``qc``.
    """
    even, brain, grid = _read_reference(files)
    t1w, t1w_grid = read_volume(files["t1w"])
    head = Anatomy(
        t1w=t1w,
        gm=read_volume(files["gm"])[0],
        wm=read_volume(files["wm"])[0],
        mask=read_volume(files["t1w_mask"])[0] > 0,
        grid=t1w_grid,
    )
    xfm, qc = coregister(
        even,
        grid,
        bold_mask=brain,
        anatomy=head,
        dof=dof,
        init=init,
        work_dir=folder,
        seed=seed,
    )
    if qc["mask_overlap"] >= TRUSTED_OVERLAP:
        away = ndimage.distance_transform_edt(~head.mask, sampling=head.grid.zooms)
        distance = resample_volume(away, source=head.grid, target=grid, xfm=xfm.inverse(), order=1)
        inside = resample_volume(
            np.ones(head.grid.shape), source=head.grid, target=grid, xfm=xfm.inverse(), order=0
        )
        brain &= (distance <= RIM_MM) | (inside < 0.5)
    paths = {
        "coreg_boldref": folder / "desc-coreg_boldref.nii.gz",
        "mask": folder / "desc-brain_mask.nii.gz",
        "coreg_xfm": folder / "from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
    }
    write_volume(paths["coreg_boldref"], even, grid=grid)
    write_volume(paths["mask"], brain, grid=grid, dtype=np.uint8)
    write_itk_affines(paths["coreg_xfm"], [xfm.matrix])
    return {**paths, "qc": qc}


def _read_reference(
    files: Mapping[str, Path],
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Grid]:
    """Read the BOLD reference without its bias field, the brain in it, and their grid."""
    volume, grid = read_volume(files["boldref"])
    even, _ = correct_bias(volume, grid, mask=rough_head(volume))
    return even, read_volume(files["boldref_mask"])[0] > 0, grid


def straight_to_template(
    files: Mapping[str, Path], *, folder: Path, spaces: Sequence[str], seed: int
) -> dict[str, Any]:
    """Bring the BOLD reference to templates without a T1w image.

    Parameters
    ----------
    files : mapping
        ``boldref`` and ``boldref_mask``, without distortion.
    folder : Path
        Where to write.
    spaces : sequence of str
        TemplateFlow names.
    seed : int
        Seed of the sampling.

    Returns
    -------
    dict
        Paths ``coreg_boldref``, ``mask``, ``to:`` and ``from:`` each template, the template's
        ``gm``, ``wm`` and ``csf`` on the grid of the reference, and ``qc``.
    """
    even, brain, grid = _read_reference(files)
    paths = {
        "coreg_boldref": folder / "desc-coreg_boldref.nii.gz",
        "mask": folder / "desc-brain_mask.nii.gz",
    }
    write_volume(paths["coreg_boldref"], even, grid=grid)
    write_volume(paths["mask"], brain, grid=grid, dtype=np.uint8)
    done = normalize_boldref(
        paths["coreg_boldref"], paths["mask"], spaces=spaces, out_dir=folder, seed=seed
    )
    return {**paths, **done}
