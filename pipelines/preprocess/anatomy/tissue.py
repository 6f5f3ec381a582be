"""Grey matter, white matter and fluid: what each voxel of the brain holds, by its brightness.

A hidden Markov field: each tissue has a brightness (Gaussian) and likes the company of its own
kind; the template's tissue maps, carried to the participant, say what to expect where. Solved
by expectation maximisation with a mean field.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.preprocess.anatomy.anatomical import block_mean, upsample
from neurostorm_app.pipelines.preprocess.anatomy.brainmask import read_mask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["LABELS", "classify", "segment"]

LABELS = {"GM": 1, "WM": 2, "CSF": 3}
"""Values of a dseg image, as in fMRIPrep."""
DARK_TO_BRIGHT = ("CSF", "GM", "WM")
"""Order of the tissues in a T1w image."""
COMPANY = 0.3
"""Weight of one of six neighbours in the Markov field; Atropos' usual 0.2 is for 26."""
EXPECTATION = 0.5
"""Power of the template's tissue maps: one participant is not the average."""
FLOOR = 0.03
"""No tissue is thought impossible anywhere."""
N_ITERATIONS = 12
BIAS_AT = (2, 5, 8)
"""Iterations after which what is left of the bias field is estimated."""
BIAS_STEP, BIAS_WIDTH = 4, 5.0
"""The field is smoothed over 5 blocks of 4 voxels: 20 mm at 1 mm."""

logger = logging.getLogger(__name__)


def segment(
    t1w: Path,
    mask: Path,
    *,
    out_dseg: Path,
    out_probsegs: Mapping[str, Path],
    priors: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Segment a bias-corrected T1w image into three tissues.

    Parameters
    ----------
    t1w : Path
        T1w image, bias-corrected, arbitrary units.
    mask : Path
        Brain mask on its grid.
    out_dseg : Path
        Labels to write: GM 1, WM 2, CSF 3, background 0; int16.
    out_probsegs : mapping of str to Path
        For ``GM``, ``WM`` and ``CSF`` the probability map to write, float32, 0 to 1.
    priors : mapping of str to Path, optional
        Template maps of the three tissues on the grid of `t1w`, 0 to 1.

    Returns
    -------
    dict
        Volumes in litres and contrasts, for the quality report.

    Raises
    ------
    CorruptImageError
        If a file cannot be read, or the grids differ.
    DataError
        If the brain has no contrast between tissues.
    """
    volume, grid = read_volume(t1w)
    brain = read_mask(mask, grid)
    box = _box(brain)
    expected = None
    if priors is not None:
        expected = np.stack([read_volume(priors[name])[0][box] for name in DARK_TO_BRIGHT])
    posterior, means, deviations = classify(volume[box], brain[box], expected)
    litre = float(abs(np.linalg.det(grid.affine[:3, :3]))) / 1e6
    labels = np.zeros(grid.shape, dtype=np.int16)
    order = np.array([LABELS[name] for name in DARK_TO_BRIGHT], dtype=np.int16)
    labels[box] = np.where(brain[box], order[posterior.argmax(axis=0)], 0)
    write_volume(out_dseg, labels, grid=grid, dtype=np.int16)
    report: dict[str, Any] = {"priors": "template" if priors is not None else "none"}
    for name, map_, mean in zip(DARK_TO_BRIGHT, posterior, means, strict=True):
        whole = np.zeros(grid.shape, dtype=np.float32)
        whole[box] = map_
        write_volume(out_probsegs[name], whole, grid=grid)
        report[f"{name.lower()}_litres"] = round(float(map_.sum(dtype=np.float64)) * litre, 4)
        report[f"{name.lower()}_brightness"] = round(float(mean), 3)
    spread = float(np.hypot(deviations[1], deviations[2]))
    report["gm_wm_contrast_to_noise"] = round(float(means[2] - means[1]) / spread, 3)
    logger.info("tissues: %s", report)
    return report


def classify(
    volume: NDArray[np.float32],
    mask: NDArray[np.bool_],
    expected: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Find how likely each voxel is fluid, grey or white.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)
        Brightness in arbitrary units, where fluid is dark and white matter bright.
    mask : ndarray of bool, shape (X, Y, Z)
        Brain.
    expected : ndarray, shape (3, X, Y, Z), optional
        Prior probabilities of CSF, GM and WM; by default all alike.

    Returns
    -------
    posterior : ndarray, shape (3, X, Y, Z), float32
        CSF, GM and WM; they sum to 1 in the mask and are 0 outside.
    means, deviations : ndarray, shape (3,)
        Brightness of the tissues and its standard deviation.

    Raises
    ------
    DataError
        If the voxels of the brain do not differ in brightness.

    References
    ----------
    Zhang Y., Brady M., Smith S. 2001, IEEE Trans. Med. Imaging 20:45, "Segmentation of brain MR
    images through a hidden Markov random field model and the EM algorithm", equations 18 to 22.
    """
    brightness = volume[mask]
    low, high = np.percentile(brightness, [0.1, 99.9])
    if not high > low:
        raise DataError(
            f"all voxels of the brain have a brightness of {low:g}: there is nothing to segment",
            fix="give a T1w image with contrast between tissues",
        )
    logarithm = np.log(np.clip(brightness, max(low, high / 100), high))
    observed = brightness = np.clip(brightness, low, high).astype(np.float32)
    means = _three_levels(brightness)
    deviations = np.full(3, (high - low) / 10)
    log_prior = np.zeros((3, 1), dtype=np.float32)
    if expected is not None:
        inside = np.maximum(expected[:, mask], FLOOR)
        log_prior = EXPECTATION * np.log(inside / inside.sum(axis=0))
    posterior = np.zeros((3, *volume.shape), dtype=np.float32)
    company = np.zeros((3, 1), dtype=np.float32)
    for iteration in range(N_ITERATIONS):
        soft = _soften(_log_likelihood(brightness, means, deviations) + log_prior + company)
        posterior[:, mask] = soft
        company = COMPANY * np.stack([_neighbours(posterior[k])[mask] for k in range(3)])
        if iteration in BIAS_AT:
            unbiased = observed / np.exp(_bias(logarithm, soft, means, mask))
            brightness = unbiased.astype(np.float32)
        weight = soft.sum(axis=1, dtype=np.float64) + 1e-6
        means = (soft @ brightness) / weight
        away = (brightness - means[:, None].astype(np.float32)) ** 2
        variance = np.einsum("kn,kn->k", soft, away, dtype=np.float64) / weight
        deviations = np.sqrt(np.maximum(variance, ((high - low) / 100) ** 2))
    return posterior, means, deviations


def _bias(
    logarithm: NDArray[np.float32],
    soft: NDArray[np.float32],
    means: NDArray[np.float64],
    mask: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Find the smooth logarithm of what brightness is off by, from grey and white matter.

    Returns
    -------
    ndarray, shape (n,)
        At the voxels of `mask`; zero on average.
    """
    weight = np.zeros(mask.shape, dtype=np.float32)
    weight[mask] = soft[1] + soft[2]
    off = np.zeros(mask.shape, dtype=np.float32)
    expected = np.log(means[1:].astype(np.float32)) @ soft[1:] / np.maximum(weight[mask], 1e-3)
    off[mask] = weight[mask] * (logarithm - expected)
    steps = (BIAS_STEP,) * 3
    total = ndimage.gaussian_filter(block_mean(off, steps), BIAS_WIDTH)
    share = ndimage.gaussian_filter(block_mean(weight, steps), BIAS_WIDTH)
    coarse = np.asarray(total / np.maximum(share, 1e-3), dtype=np.float32)
    smooth = upsample(coarse, steps, mask.shape)[mask]
    return np.asarray(smooth - smooth.mean(), dtype=np.float32)


def _three_levels(brightness: NDArray[np.float32], *, n_bins: int = 256) -> NDArray[np.float64]:
    """Split a histogram into three clusters: means from dark to bright (k-means in one axis)."""
    counts, edges = np.histogram(brightness, n_bins)
    centres = (edges[:-1] + edges[1:]) / 2
    means = np.quantile(brightness, [0.1, 0.45, 0.85]).astype(np.float64)
    for _ in range(100):
        nearest = np.abs(centres[:, None] - means).argmin(axis=1)
        weight = np.bincount(nearest, counts, minlength=3)
        total = np.bincount(nearest, counts * centres, minlength=3)
        update = np.where(weight > 0, total / np.maximum(weight, 1), means)
        if np.allclose(update, means):
            break
        means = update
    return np.sort(means)


def _log_likelihood(
    brightness: NDArray[np.float32], means: NDArray[np.float64], deviations: NDArray[np.float64]
) -> NDArray[np.float32]:
    scale = deviations[:, None].astype(np.float32)
    away = (brightness - means[:, None].astype(np.float32)) / scale
    return np.asarray(-0.5 * away * away - np.log(scale), dtype=np.float32)


def _soften(score: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn log scores (3, n) into probabilities that sum to one."""
    likely = np.exp(score - score.max(axis=0))
    return np.asarray(likely / likely.sum(axis=0), dtype=np.float32)


def _neighbours(map_: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum the six face neighbours of each voxel."""
    total = np.zeros_like(map_)
    for axis in range(3):
        total += ndimage.correlate1d(map_, [1.0, 0.0, 1.0], axis=axis, mode="constant")
    return total


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Bound the mask, with a voxel to spare."""
    (x, y, z) = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(slice(max(0, s.start - 1), s.stop + 1) for s in (x, y, z))  # type: ignore[return-value]
