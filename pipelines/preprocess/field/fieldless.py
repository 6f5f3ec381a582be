"""The field without a field map: what would make the BOLD reference look like the anatomy.

Experimental. From the tissues of the T1w image one can say what an EPI of that brain would look
like: each tissue has one brightness that may slope, and each shell around the brain has one.
These brightnesses are fitted to the BOLD reference as corrected so far, the field is fitted to
what is expected, and again, from coarse to fine. As a shift of the whole head is no distortion,
the place of the anatomy is refined on the way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.pipelines.grid import Grid
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.preprocess.anatomy.registration import register_rigidly
from neurostorm_app.pipelines.preprocess.field.distortion import shift_of, write_corrected
from neurostorm_app.pipelines.preprocess.field.fieldfit import LEVELS, Problem, fit_level
from neurostorm_app.pipelines.preprocess.field.fieldjudge import alikeness, judged, shift_range
from neurostorm_app.pipelines.preprocess.field.splinefield import Basis
from neurostorm_app.pipelines.preprocess.field.unwarp import Distorted, unwarp, unwarp_mask
from neurostorm_app.pipelines.preprocess.head.motion import MotionEstimator, estimate_motion
from neurostorm_app.pipelines.resample import resample_volume
from neurostorm_app.pipelines.xfm import Affine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["estimate_field_from_anatomy", "fit_to_tissues"]

STIFFER = 30.0
"""Times as stiff as with a pair: what is expected is not what is seen."""
N_ROUNDS = 3
"""Fits of brightness and field at each level."""
N_TRUSTING = 4
"""Fits of brightness, each with less trust in what the one before did not explain."""
N_TISSUES, N_SHELLS = 3, 3
"""Tissues of the brain, and shells around it, each half a voxel thick and of one brightness."""
RIM = 2
"""Voxels around the brain that are looked at with it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Tissues:
    """Tissues, and shells around them, at the resolution of the BOLD reference."""

    maps: NDArray[np.float32]
    grid: Grid

    def on(self, target: Grid, xfm: Affine) -> NDArray[np.float64]:
        """Sample where they are on a grid: (3 or more, X, Y, Z)."""
        return np.stack(
            [
                resample_volume(tissue, source=self.grid, target=target, xfm=xfm, order=1)
                for tissue in self.maps
            ]
        ).astype(np.float64)


def estimate_field_from_anatomy(  # noqa: PLR0913 - what a run knows, by its name
    boldref: Path,
    mask: Path,
    anatomy: Mapping[str, Path],
    *,
    phase: tuple[int, int],
    readout: float,
    folder: Path,
    seed: int = 42,
    jacobian: bool = True,
) -> dict[str, Any]:
    """Guess the field of a run from the anatomy, and correct the BOLD reference by it.

    Parameters
    ----------
    boldref, mask : Path
        BOLD reference as acquired, and the brain in it.
    anatomy : mapping of str to Path
        ``t1w``, ``mask``, ``gm``, ``wm`` and ``csf``, on one grid.
    phase : tuple of int
        Voxel axis and sign of the phase encoding.
    readout : float
        Total readout time, s.
    folder : Path
        Where to write.
    seed : int
        Seed of the registration.
    jacobian : bool
        Whether brightness that was squeezed is thinned again.

    Returns
    -------
    dict
        As of ``place_field``: Paths ``fmap_xfm`` (identity), ``field`` (Hz), ``boldref`` and
        ``mask`` (undistorted), and ``qc``; and ``coefficients``.

    References
    ----------
    The idea of a field from the anatomy along the phase axis: Wang S. et al. 2017, Front.
    Neuroinform. 11:17; Huntenburg J. 2014, Freie Universität Berlin (doctoral research).
    """
    folder.mkdir(parents=True, exist_ok=True)
    volume, grid = read_volume(boldref)
    brain = read_volume(mask)[0] > 0
    t1w, t1w_grid = read_volume(anatomy["t1w"])
    inside = read_volume(anatomy["mask"])[0] > 0
    tissues = _tissues(anatomy, t1w_grid, inside, min(grid.zooms))
    head = np.where(ndimage.binary_dilation(brain, iterations=RIM), volume, 0)
    xfm = register_rigidly(
        (head.astype(np.float32), grid),
        _coarser(np.where(inside, t1w, 0), t1w_grid, min(grid.zooms)),
        work_dir=folder,
        seed=seed,
    )
    image = Distorted(volume=volume, axis=phase[0], per_hz=phase[1] * readout)
    coefficients, knots, xfm = fit_to_tissues(image, grid, tissues=tissues, xfm=xfm)
    field = Basis(grid, knots).field(coefficients)
    flat = unwarp(image, field, jacobian=jacobian)
    flat_brain = unwarp_mask(brain, field, image)
    maps = tissues.on(grid, xfm)
    there = maps.sum(axis=0) > 0.5
    looks, _ = _expect(flat, maps)
    out = write_corrected(folder, (flat, flat_brain, field), grid, xfm=Affine.identity())
    out["coefficients"] = folder / "desc-coeff_fieldmap.nii.gz"
    write_volume(out["coefficients"], coefficients, grid=knots)
    shift = shift_of(field, phase=phase, readout=readout)
    out["qc"] = judged(
        {
            "kind": "anatomy",
            "experimental": True,
            "alike_before": round(alikeness(volume, looks, there), 4),
            "alike_after": round(alikeness(flat, looks, there), 4),
            **shift_range(shift, flat_brain, phase[0]),
        }
    )
    logger.info("field from the anatomy: %s", out["qc"])
    return out


def fit_to_tissues(
    image: Distorted, grid: Grid, *, tissues: _Tissues, xfm: Affine
) -> tuple[NDArray[np.float64], Grid, Affine]:
    """Fit field, brightness of tissues, and their place, in turns.

    Parameters
    ----------
    image : Distorted
        The BOLD reference.
    grid : Grid
        Its grid.
    tissues : object
        Tissue maps, and where their voxels are.
    xfm : Affine
        Points of the BOLD reference to points of the tissues, RAS+ mm; where to start.

    Returns
    -------
    coefficients : ndarray, shape of the knots
        Hz.
    knots : Grid
        Where they are.
    xfm : Affine
        Refined.
    """
    usual = float(np.mean(np.abs(image.volume))) or 1.0
    image = replace(image, volume=image.volume / usual)
    start: Any = None
    flat: NDArray[np.float64] = np.asarray(image.volume, dtype=np.float64)
    for number, level in enumerate(LEVELS[:-1]):
        stiff = replace(level, stiffness=STIFFER * level.stiffness, n_steps=2)
        for _ in range(N_ROUNDS):
            maps = tissues.on(grid, xfm)
            expected, weight = _expect(flat, maps)
            problem = Problem(
                images=[image], contrasts=np.eye(1), targets=expected[None], weight=weight
            )
            coefficients, knots, _ = fit_level(problem, grid, stiff, start)
            start = coefficients, knots
            flat = unwarp(image, Basis(grid, knots).field(coefficients))
        if number:
            xfm = _replaced(flat, tissues, grid, xfm)
    return start[0], start[1], xfm


def _expect(
    flat: NDArray[np.float64], maps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predict the image from its tissues; voxels far off count less: both (X, Y, Z)."""
    near = maps.sum(axis=0) > 0.5
    seen = flat[near]
    # The coil is nearer to one side than to the other: a tissue's brightness may slope.
    slopes = np.indices(flat.shape)[:, near] / np.max(flat.shape)
    tissues = [m[near] * s for m in maps[:N_TISSUES] for s in (np.ones(len(seen)), *slopes)]
    columns = np.stack([*tissues, *maps[N_TISSUES:, near]], axis=1)
    trust = np.ones_like(seen)
    fitted = seen
    for _ in range(N_TRUSTING):
        weighted = columns * trust[:, None]
        normal = weighted.T @ columns + 1e-6 * len(seen) * np.eye(columns.shape[1])
        fitted = columns @ np.linalg.solve(normal, weighted.T @ seen)
        away = seen - fitted
        spread = 1.4826 * float(np.median(np.abs(away))) or 1.0
        trust = 1.0 / (1.0 + (away / (3.0 * spread)) ** 2)
    expected, weight = np.zeros(flat.shape), np.zeros(flat.shape)
    expected[near], weight[near] = fitted, trust
    return expected, weight


def _replaced(flat: NDArray[np.float64], tissues: _Tissues, grid: Grid, xfm: Affine) -> Affine:
    """Refine where the tissues are, by rigid motion between what is expected and what is seen."""
    maps = tissues.on(grid, xfm)
    expected, weight = _expect(flat, maps)
    estimator = MotionEstimator(expected.astype(np.float32), grid, weight > 0)
    seen = np.where(weight > 0, flat, 0).astype(np.float32)
    (moved,) = estimate_motion([seen], estimator)
    return Affine(xfm.matrix @ np.linalg.inv(moved))


def _tissues(
    anatomy: Mapping[str, Path], grid: Grid, inside: NDArray[np.bool_], zoom: float
) -> _Tissues:
    """Read the tissue maps at the resolution of the BOLD reference."""
    maps = []
    for name in ("gm", "wm", "csf"):
        tissue, _ = read_volume(anatomy[name])
        coarse, where = _coarser(np.where(inside, tissue, 0), grid, zoom)
        maps.append(coarse)
    away = ndimage.distance_transform_edt(~inside, sampling=grid.zooms)
    for n in range(N_SHELLS):
        shell = (away > n * zoom / 2) & (away <= (n + 1) * zoom / 2)
        coarse, where = _coarser(shell, grid, zoom)
        maps.append(coarse)
    return _Tissues(np.stack(maps), where)


def _coarser(volume: NDArray[Any], grid: Grid, zoom: float) -> tuple[NDArray[np.float32], Grid]:
    """Smooth to voxels of `zoom` mm and sample at half of that, or leave what is coarse enough."""
    steps = np.maximum(0.5 * zoom / np.asarray(grid.zooms), 1.0)
    affine = grid.affine.copy()
    affine[:3, :3] *= steps
    shape = [int(np.ceil(n / step)) for n, step in zip(grid.shape, steps, strict=True)]
    sigma = np.maximum(zoom / np.asarray(grid.zooms), 0.0) / 2.3548
    smooth = ndimage.gaussian_filter(np.asarray(volume, dtype=np.float32), sigma)
    target = Grid((shape[0], shape[1], shape[2]), affine)
    return resample_volume(smooth, source=grid, target=target, order=1), target
