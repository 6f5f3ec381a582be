"""The first steps of a BOLD run, files in and files out: reference, motion, coregistration."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import (
    iter_volumes,
    open_image,
    read_volume,
    write_volume,
)
from neurostorm_app.pipelines.itk import write_itk_affines
from neurostorm_app.pipelines.preprocess.anatomical import correct_bias
from neurostorm_app.pipelines.preprocess.coregistration import Anatomy, coregister
from neurostorm_app.pipelines.preprocess.motion import MotionEstimator, estimate_motion
from neurostorm_app.pipelines.preprocess.reference import (
    N_LOOKED_AT,
    check_series,
    count_nonsteady,
    find_brain,
    make_reference,
    rough_head,
)
from neurostorm_app.pipelines.resample import resample_volume

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


__all__ = ["coregistration", "motion", "reference"]

RIM = 2
"""Voxels around the brain that move with it."""
RIM_MM = 4.0
"""How far outside the T1w image's brain the BOLD mask may reach."""
TRUSTED_OVERLAP = 0.8
"""Overlap of the brain masks from which on one may correct the other."""


def reference(bold: Path, tr: float, *, dummy_scans: int | None, folder: Path) -> dict[str, Any]:
    """Make the BOLD reference and find the brain in it.

    Parameters
    ----------
    bold : Path
        The series as acquired.
    tr : float
        Repetition time in seconds.
    dummy_scans : int or None
        Volumes at the start that are not steady; None looks for them.
    folder : Path
        Where to write.

    Returns
    -------
    dict
        Paths ``boldref`` and ``mask``, the number ``n_skipped``, and ``qc``.
    """
    n_volumes = check_series(bold, tr)
    grid = Grid.of(open_image(bold), bold)
    first = itertools.islice(iter_volumes(bold), N_LOOKED_AT)
    detected = count_nonsteady(np.array([float(volume.mean()) for volume in first]))
    skipped = detected if dummy_scans is None else dummy_scans
    if n_volumes - skipped < 5:
        raise UsageError(
            f"{bold}: {skipped} dummy scans leave {n_volumes - skipped} of {n_volumes} volumes;"
            " at least 5 are needed",
            fix="give a smaller --dummy-scans, or leave the run out",
        )
    volume = make_reference(bold, grid, n_skipped=skipped)
    mask = find_brain(volume, grid)
    paths = {"boldref": folder / "desc-hmc_boldref.nii.gz", "mask": folder / "mask.nii.gz"}
    write_volume(paths["boldref"], volume, grid=grid)
    write_volume(paths["mask"], mask, grid=grid, dtype=np.uint8)
    litres = mask.sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1e6
    qc = {
        "n_volumes": n_volumes,
        "tr": tr,
        "shape": list(grid.shape),
        "zooms_mm": [round(zoom, 4) for zoom in grid.zooms],
        "n_nonsteady_detected": detected,
        "n_nonsteady_used": skipped,
        "brain_litres": round(float(litres), 4),
    }
    return {**paths, "n_skipped": skipped, "qc": qc}


def motion(bold: Path, *, boldref: Path, mask: Path, folder: Path, n_threads: int) -> Path:
    """Estimate head motion; give the file of affines, reference points to volume points."""
    volume, grid = read_volume(boldref)
    rigid = ndimage.binary_dilation(read_volume(mask)[0] > 0, iterations=RIM)
    estimator = MotionEstimator(volume, grid, rigid)
    matrices = estimate_motion(iter_volumes(bold), estimator, n_threads=n_threads)
    out = folder / "from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    write_itk_affines(out, matrices)
    return out


def coregistration(
    boldref: Path,
    *,
    mask: Path,
    anatomy: Mapping[str, Path],
    dof: int,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Place the BOLD reference on the T1w image, and take the neck out of the BOLD mask by it.

    Parameters
    ----------
    boldref, mask : Path
        BOLD reference and the brain in it.
    anatomy : mapping of str to Path
        ``t1w``, ``t1w_mask``, ``gm`` and ``wm``, on one grid.
    dof : int
        Degrees of freedom; this version knows 6.
    seed : int
        Seed of the sampling.
    folder : Path
        Where to write.

    Returns
    -------
    dict
        Paths ``coreg_boldref``, ``mask`` and ``coreg_xfm``, and ``qc``.
    """
    if dof != 6:
        raise UsageError(
            f"{dof} degrees of freedom for BOLD to T1w; this version knows 6, a rigid head",
            fix="leave --bold2anat-dof at 6",
        )
    volume, grid = read_volume(boldref)
    brain = read_volume(mask)[0] > 0
    even, _ = correct_bias(volume, grid, mask=rough_head(volume))
    head = _read_anatomy(anatomy)
    xfm, qc = coregister(even, grid, bold_mask=brain, anatomy=head, work_dir=folder, seed=seed)
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


def _read_anatomy(files: Mapping[str, Path]) -> Anatomy:
    t1w, grid = read_volume(files["t1w"])
    return Anatomy(
        t1w=t1w,
        gm=read_volume(files["gm"])[0],
        wm=read_volume(files["wm"])[0],
        mask=read_volume(files["t1w_mask"])[0] > 0,
        grid=grid,
    )
