"""Susceptibility distortion of an EPI: the field from its scans, its place, and what it moves.

``estimate_field`` makes one field of a field map's scans. ``place_field`` brings it onto the BOLD
reference of a run and takes the distortion out of that. ``shift_of`` gives voxels of shift. All
fields are in Hz, positive where the signal of an EPI with a positive phase encoding moves
towards higher indices.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.itk import write_itk_affines
from neurostorm_app.pipelines.preprocess.anatomy.registration import register_rigidly
from neurostorm_app.pipelines.preprocess.field.epi import read_epi
from neurostorm_app.pipelines.preprocess.field.fieldjudge import (
    alikeness,
    coverage,
    judged,
    shift_range,
)
from neurostorm_app.pipelines.preprocess.field.measured import MeasuredField, measure_field
from neurostorm_app.pipelines.preprocess.field.pepolar import PepolarField, estimate_pepolar
from neurostorm_app.pipelines.preprocess.field.splinefield import Basis, read_field
from neurostorm_app.pipelines.preprocess.field.unwarp import Distorted, unwarp, unwarp_mask
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.stage import Fieldmap

__all__ = [
    "estimate_field",
    "field_on",
    "place_field",
    "shift_of",
    "write_corrected",
]

N_PASSES = 2
"""Times that the field's reference is registered again, to the BOLD reference as corrected."""
RIM = 2
"""Voxels around a brain that are looked at with it."""
HARDLY_COVERED = 0.5
"""Share of the brain inside the field map below which it is refused."""

logger = logging.getLogger(__name__)


def shift_of(
    field: NDArray[np.floating], *, phase: tuple[int, int], readout: float
) -> NDArray[np.float32]:
    """Tell how far the signal of each place was moved along the phase axis.

    Parameters
    ----------
    field : ndarray, shape (X, Y, Z)
        Hz, at places without distortion.
    phase : tuple of int
        Voxel axis and sign of the phase encoding.
    readout : float
        Total readout time, s.

    Returns
    -------
    ndarray, shape (X, Y, Z), float32
        Voxels: what belongs to x was acquired at x + shift along the axis.
    """
    return np.asarray(phase[1] * readout * np.asarray(field), dtype=np.float32)


def estimate_field(
    fieldmap: Fieldmap,
    *,
    folder: Path,
    seed: int = 42,
    demean: bool = False,
    fallback_readout: float | None = None,
) -> dict[str, Any]:
    """Make one field of the scans of a field map.

    Parameters
    ----------
    fieldmap : Fieldmap
        Its scans and their sidecars.
    folder : Path
        Where to write.
    seed : int
        Of the unwrapping.
    demean : bool
        Whether the median of a measured field is taken off. It is a shift of the whole head
        along the phase axis, which belongs to the EPI if the scanner kept its frequency between
        the scans. A pair of EPIs measures it in any case.
    fallback_readout : float, optional
        Seconds, for EPIs whose sidecar does not tell.

    Returns
    -------
    dict
        Paths ``fieldmap`` (Hz), ``reference`` (undistorted, to register to), ``mask`` and
        ``coefficients`` (splines of the field), and ``qc``.

    Raises
    ------
    DataError
        If the scans or their sidecars do not tell the field.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: PepolarField | MeasuredField
    if fieldmap.kind == "pepolar":
        scans = [read_epi(scan, fallback_readout=fallback_readout) for scan in fieldmap.scans]
        found = estimate_pepolar(scans)
        grid, kind = scans[0].grid, "epi"
    else:
        found, grid = measure_field(fieldmap, seed=seed, demean=demean)
        kind = "magnitude"
    field = Basis(grid, found.knots).field(found.coefficients)
    inside = field[found.mask] if found.mask.any() else field.ravel()
    low, middle, high = (round(float(q), 3) for q in np.percentile(inside, [2, 50, 98]))
    paths = {
        "fieldmap": folder / "desc-preproc_fieldmap.nii.gz",
        "reference": folder / f"desc-{kind}_fieldmap.nii.gz",
        "mask": folder / "desc-brain_mask.nii.gz",
        "coefficients": folder / "desc-coeff_fieldmap.nii.gz",
    }
    write_volume(paths["fieldmap"], field, grid=grid)
    write_volume(paths["reference"], found.reference, grid=grid)
    write_volume(paths["mask"], found.mask, grid=grid, dtype=np.uint8)
    write_volume(paths["coefficients"], found.coefficients, grid=found.knots)
    qc = {"name": fieldmap.name, **found.qc, "field_hz": {"p2": low, "median": middle, "p98": high}}
    return {**paths, "qc": qc}


def place_field(  # noqa: PLR0913 - what a run knows, by its name
    files: Mapping[str, Path],
    *,
    boldref: Path,
    mask: Path,
    phase: tuple[int, int],
    readout: float,
    folder: Path,
    seed: int = 42,
    jacobian: bool = True,
) -> dict[str, Any]:
    """Bring a field onto the BOLD reference of a run, and correct that by it.

    The reference of the field has no distortion and the BOLD reference has: they are registered,
    the distortion is taken out with the field as it lies then, and they are registered again.

    Parameters
    ----------
    files : mapping of str to Path
        ``reference``, ``mask``, and ``coefficients`` (ours or fMRIPrep's) or ``fieldmap`` (Hz).
    boldref, mask : Path
        BOLD reference as acquired, and the brain in it.
    phase : tuple of int
        Voxel axis and sign of the run's phase encoding.
    readout : float
        The run's total readout time, s.
    folder : Path
        Where to write.
    seed : int
        Seed of the registration.
    jacobian : bool
        Whether brightness that was squeezed is thinned again.

    Returns
    -------
    dict
        Paths ``fmap_xfm`` (``from-boldref_to-<fmapid>_mode-image``: points of the field map to
        points of the BOLD reference), ``field`` (Hz on the grid of the BOLD reference),
        ``boldref`` and ``mask`` (undistorted), and ``qc``.

    Raises
    ------
    DataError
        If the field map shows less than half of the brain.
    """
    folder.mkdir(parents=True, exist_ok=True)
    volume, grid = read_volume(boldref)
    brain = read_volume(mask)[0] > 0
    reference, ref_grid = read_volume(files["reference"])
    ref_mask = read_volume(files["mask"])[0] > 0
    image = Distorted(volume=volume, axis=phase[0], per_hz=phase[1] * readout)
    head = (np.where(_rim(ref_mask), reference, 0).astype(np.float32), ref_grid)

    def corrected(xfm: Affine) -> tuple[Any, Any, Any, float]:
        """Undistort with the field at a place: field, image, brain, and how alike they are."""
        field = field_on(files, grid, xfm)
        flat = unwarp(image, field, jacobian=jacobian)
        inside = unwarp_mask(brain, field, image)
        seen = resample_volume(reference, source=ref_grid, target=grid, xfm=xfm, order=1)
        return field, flat, inside, alikeness(flat, seen, _rim(inside))

    start = (volume, brain)
    tried = [Affine.identity()]
    for _ in range(1 + N_PASSES):
        fixed = np.where(_rim(start[1]), np.maximum(start[0], 0), 0).astype(np.float32)
        xfm = register_rigidly((fixed, grid), head, work_dir=folder, seed=seed)
        tried.append(xfm)
        start = corrected(xfm)[1:3]
    chosen = max((tried[0], tried[-1]), key=lambda xfm: corrected(xfm)[3])
    field, flat, inside, after = corrected(chosen)
    seen = resample_volume(reference, source=ref_grid, target=grid, xfm=chosen, order=1)
    qc = {
        "placed_by": "header" if chosen is tried[0] else "registration",
        "alike_before": round(alikeness(volume, seen, _rim(brain)), 4),
        "alike_after": round(after, 4),
        **coverage(inside, grid, chosen, ref_mask, ref_grid),
    }
    if qc["covered_share"] < HARDLY_COVERED:
        raise DataError(
            f"{files['reference']}: the field map shows {qc['covered_share']:.0%} of the brain in"
            f" {boldref}; at least {HARDLY_COVERED:.0%} were expected",
            fix="look whether it belongs to this run; if not, repair IntendedFor",
        )
    out = write_corrected(folder, (flat, inside, field), grid, xfm=chosen)
    shift = shift_of(field, phase=phase, readout=readout)
    out["qc"] = judged({**qc, **shift_range(shift, inside, phase[0])})
    logger.info("field on the BOLD reference: %s", out["qc"])
    return out


def write_corrected(
    folder: Path,
    volumes: tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.floating]],
    grid: Grid,
    *,
    xfm: Affine,
) -> dict[str, Any]:
    """Write undistorted image, mask, field, and where the field came from."""
    flat, inside, field = volumes
    paths = {
        "fmap_xfm": folder / "from-boldref_to-fmap_mode-image_desc-fmap_xfm.txt",
        "field": folder / "desc-boldref_fieldmap.nii.gz",
        "boldref": folder / "desc-unwarped_boldref.nii.gz",
        "mask": folder / "desc-unwarped_mask.nii.gz",
    }
    write_itk_affines(paths["fmap_xfm"], [xfm.inverse().matrix])
    write_volume(paths["field"], field, grid=grid)
    write_volume(paths["boldref"], np.maximum(flat, 0), grid=grid)
    write_volume(paths["mask"], inside, grid=grid, dtype=np.uint8)
    return dict(paths)


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, iterations=RIM))


def field_on(files: Mapping[str, Path], grid: Grid, xfm: Affine) -> NDArray[np.float32]:
    """Sample a field on the grid of a BOLD reference.

    Parameters
    ----------
    files : mapping of str to Path
        ``coefficients`` (ours or fMRIPrep's), or ``fieldmap`` (Hz).
    grid : Grid
        Of the reference.
    xfm : Affine
        Points of the reference to points of the field map, RAS+ mm.

    Returns
    -------
    ndarray, shape of `grid`, float32
        Hz.
    """
    if "coefficients" in files:
        return read_field([files["coefficients"]], grid, xfm)
    field, source = read_volume(files["fieldmap"])
    return resample_volume(field, source=source, target=grid, xfm=xfm, order=1)
