"""Field maps as measured by gradient echoes, files in: phase differences, phases, direct maps."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.image import read_volume
from neurostorm_app.pipelines.preprocess.anatomy.anatomical import correct_bias
from neurostorm_app.pipelines.preprocess.field.encoding import echo_spacing
from neurostorm_app.pipelines.preprocess.field.fieldjudge import ruled
from neurostorm_app.pipelines.preprocess.field.fieldmaps import (
    TURN,
    despike,
    phase_difference,
    smooth_field,
    to_hz,
    to_radians,
    unwrap,
)
from neurostorm_app.pipelines.preprocess.field.splinefield import Basis
from neurostorm_app.pipelines.preprocess.head.reference import find_brain, rough_head

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid
    from neurostorm_app.pipelines.stage import Fieldmap, Scan

__all__ = ["MeasuredField", "measure_field"]

N_PHASES = {"phasediff": 1, "phases": 2, "direct": 1}
"""Scans of each kind of field map that are not magnitudes; they come first."""
MANY_SPIKES = 0.1
"""Share of the brain from which on a field map is called noisy."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MeasuredField:
    """A field and the image that was taken with it.

    Parameters
    ----------
    coefficients : ndarray, shape of `knots`
        Hz.
    knots : Grid
        Where they are.
    reference : ndarray, shape (X, Y, Z), float32
        The magnitude, without its bias field.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain in it.
    qc : dict
        Units, spikes, misfit, and a verdict (JSON types).
    """

    coefficients: NDArray[np.float64]
    knots: Grid
    reference: NDArray[np.float32]
    mask: NDArray[np.bool_]
    qc: dict[str, Any]


def measure_field(
    fieldmap: Fieldmap, *, seed: int = 42, demean: bool = False
) -> tuple[MeasuredField, Grid]:
    """Turn the images of a measured field map into hertz, and smooth them.

    Parameters
    ----------
    fieldmap : Fieldmap
        Of the kinds ``phasediff``, ``phases`` and ``direct``.
    seed : int
        Of the unwrapping.
    demean : bool
        Whether the median in the brain is taken off.

    Returns
    -------
    field : MeasuredField
        Splines through what was measured in the brain.
    grid : Grid
        Of the images.

    Raises
    ------
    DataError
        If images are missing or do not lie on one grid, or their units cannot be told.
    """
    n_phases = N_PHASES[fieldmap.kind]
    if len(fieldmap.scans) <= n_phases:
        raise DataError(
            f"{fieldmap.scans[0].path if fieldmap.scans else fieldmap.name}: the field map has no"
            " magnitude image, from which the brain in it and its place could be told",
            fix="add the magnitude image to the fmap folder",
        )
    volumes, grid = _on_one_grid(fieldmap.scans)
    bright = np.maximum(np.mean(volumes[n_phases:], axis=0), 0).astype(np.float32)
    mask = find_brain(bright, grid)
    even, _ = correct_bias(bright, grid, mask=rough_head(bright))
    hertz, qc = _hertz(fieldmap, volumes[:n_phases], mask, seed=seed)
    good, spikes = despike(hertz, mask & np.isfinite(hertz))
    middle = float(np.median(hertz[good]))
    if demean:
        hertz = hertz - middle
    coefficients, knots = smooth_field(hertz, good, grid=grid, magnitude=bright)
    misfit = np.abs(Basis(grid, knots).field(coefficients) - hertz)[good]
    qc |= {
        "kind": fieldmap.kind,
        "scans": [scan.path.name for scan in fieldmap.scans],
        "median_hz": round(middle, 3),
        "demeaned": demean,
        "spikes_share": round(float(spikes), 4),
        "misfit_hz": round(float(np.median(misfit)), 3),
    }
    noisy = f"{spikes:.2f} of the field map's voxels are unlike their neighbours"
    qc = ruled(qc, look=noisy if spikes >= MANY_SPIKES else "")
    logger.info("measured field: %s", qc)
    found = MeasuredField(coefficients=coefficients, knots=knots, reference=even, mask=mask, qc=qc)
    return found, grid


def _on_one_grid(scans: tuple[Scan, ...]) -> tuple[list[NDArray[np.float32]], Grid]:
    """Read images that were taken together."""
    read = [read_volume(scan.path) for scan in scans]
    grid = read[0][1]
    for scan, (_, other) in zip(scans, read, strict=True):
        if other != grid:
            raise DataError(
                f"{scan.path}: its grid ({other.shape}, {other.zooms} mm) is not that of"
                f" {scans[0].path.name} ({grid.shape}, {grid.zooms} mm); phase and magnitude of one"
                " acquisition were expected",
                fix="look which images belong together, or convert them anew",
            )
    return [volume for volume, _ in read], grid


def _hertz(
    fieldmap: Fieldmap,
    volumes: list[NDArray[np.float32]],
    mask: NDArray[np.bool_],
    *,
    seed: int,
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Bring phases or a map to hertz; NaN where it could not be unwrapped."""
    scans = fieldmap.scans
    if fieldmap.kind == "direct":
        units = scans[0].metadata.get("Units")
        return to_hz(volumes[0], units, path=scans[0].path), {"scale": str(units)}
    scaled = [
        to_radians(volume, path=scan.path, units=scan.metadata.get("Units"))
        for volume, scan in zip(volumes, scans, strict=False)
    ]
    first, last = scans[0].metadata, scans[len(volumes) - 1].metadata
    apart = echo_spacing(first, last, path=scans[0].path)
    phase = scaled[0][0] if len(scaled) == 1 else phase_difference(scaled[0][0], scaled[1][0])
    hertz = unwrap(phase, mask, seed=seed) / (TURN * apart)
    return hertz, {"scale": scaled[0][1], "echo_difference_s": round(apart, 6)}
