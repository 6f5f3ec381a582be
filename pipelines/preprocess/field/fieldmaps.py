r"""From phases to hertz: units, unwrapping, outliers, and a smooth field through what was seen.

Two gradient echoes at :math:`t_1 < t_2` differ in phase by :math:`2 \pi f (t_2 - t_1)` where the
field is f (Hz), modulo a turn. Pure: arrays in, arrays out.

References
----------
Jezzard P., Balaban R. 1995, Magn. Reson. Med. 34:65, "Correction for geometric distortion in echo
planar images from B0 field variations". Abdul-Rahman H. et al. 2007, Appl. Opt. 46:6623 (the
unwrapping of scikit-image).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.header import tell_value
from neurostorm_app.pipelines.preprocess.field.encoding import GYROMAGNETIC
from neurostorm_app.pipelines.preprocess.field.splinefield import fit_field, knots_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.pipelines.grid import Grid

__all__ = [
    "despike",
    "phase_difference",
    "smooth_field",
    "to_hz",
    "to_radians",
    "unwrap",
]

TURN = 2.0 * np.pi
SCALES: dict[str, tuple[float, float, float]] = {
    "radians from -pi to pi": (-np.pi, np.pi, 0.0),
    "radians from 0 to 2 pi": (0.0, TURN, 0.0),
    "integers from 0 to 4095": (0.0, 4096.0, 2048.0),
    "integers from -4096 to 4095": (-4096.0, 4096.0, 0.0),
    "integers from -2048 to 2047": (-2048.0, 2048.0, 0.0),
    "thousandths of a radian from -pi to pi": (-1000.0 * np.pi, 1000.0 * np.pi, 0.0),
    "degrees from -180 to 180": (-180.0, 180.0, 0.0),
    "degrees from 0 to 360": (0.0, 360.0, 0.0),
}
"""Lowest and highest value of a full turn, as scanners and converters write phases, and the value
of no phase: Siemens' unsigned integers count from minus half a turn."""
FILLED = 0.85
"""Share of a turn that the values of a whole image fill at least: air has every phase."""
UNITS = {
    "hz": 1.0,
    "rad/s": 1.0 / TURN,
    "t": GYROMAGNETIC,
    "tesla": GYROMAGNETIC,
    "mt": 1e-3 * GYROMAGNETIC,
    "ut": 1e-6 * GYROMAGNETIC,
}
"""Hertz in the units of a map of the field."""
LARGEST_HZ = 3000.0
"""No shim leaves more in a head, at any field strength in use."""
KNOTS_MM = 8.0
"""Between knots of the smooth field: finer than the field of the sinuses, coarser than noise."""
ROUGHNESS = 0.05
"""Of the fitted field beside voxels of weight one."""


def to_radians(
    phase: NDArray[np.floating], *, path: Path, units: str | None = None
) -> tuple[NDArray[np.float64], str]:
    """Scale a phase image to radians by the range that its values fill.

    Parameters
    ----------
    phase : ndarray, shape (X, Y, Z)
        As stored, scaled as the header says.
    path : Path
        For the message.
    units : str, optional
        ``Units`` of the sidecar; ``rad`` is believed as it stands.

    Returns
    -------
    radians : ndarray, shape (X, Y, Z)
        One turn is 2 pi.
    scale : str
        Which of the usual scales it was.

    Raises
    ------
    DataError
        If the values fill none of the usual ranges.
    """
    values = np.asarray(phase, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if units is not None and units.lower() in {"rad", "radian", "radians"}:
        return values, "radians, as Units says"
    for scale, (least, most, zero) in SCALES.items():
        turn = most - least
        slack = 0.002 * turn
        if low >= least - slack and high <= most + slack and high - low >= FILLED * turn:
            return (values - zero) * (TURN / turn), scale
    raise DataError(
        f"{path}: phases from {low:g} to {high:g}; a full turn would be one of {', '.join(SCALES)}",
        fix="convert the image anew, or write Units: rad into its sidecar if it is in radians",
    )


def phase_difference(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Subtract two phases (radians): the second minus the first, from -pi to pi."""
    return np.asarray(np.angle(np.exp(1j * (second - first))), dtype=np.float64)


def unwrap(
    phase: NDArray[np.float64], mask: NDArray[np.bool_], *, seed: int = 42
) -> NDArray[np.float64]:
    """Take the jumps of a turn out of a phase, inside a mask of one piece.

    Parameters
    ----------
    phase : ndarray, shape (X, Y, Z)
        Radians, modulo a turn.
    mask : ndarray of bool, shape (X, Y, Z)
        Where there is signal; the largest piece of it is unwrapped.
    seed : int
        Of the order of voxels that are equally reliable.

    Returns
    -------
    ndarray, shape (X, Y, Z)
        Radians, the turn chosen so that the median is nearest to zero; NaN outside.

    Raises
    ------
    DataError
        If the mask is empty.
    """
    from skimage import restoration

    unwrap_phase: Any = restoration.unwrap_phase
    masked: Any = np.ma
    labels, n_pieces = ndimage.label(mask)
    if n_pieces == 0:
        raise DataError(
            "the magnitude of the field map shows no brain; its phases cannot be unwrapped",
            fix="look at the magnitude image: field of view, contrast, and whether it is one",
        )
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    wrapped = phase_difference(np.zeros_like(phase), phase)
    whole = unwrap_phase(masked.array(wrapped, mask=~largest), rng=seed)
    out = np.where(largest, masked.getdata(whole), np.nan)
    turns = np.round(np.median(out[largest]) / TURN)
    return np.asarray(out - TURN * turns, dtype=np.float64)


def to_hz(values: NDArray[np.floating], units: str | None, *, path: Path) -> NDArray[np.float64]:
    """Bring a map of the field to hertz.

    Parameters
    ----------
    values : ndarray, shape (X, Y, Z)
        In `units`.
    units : str or None
        ``Units`` of the sidecar: Hz, rad/s, T (or mT, uT).
    path : Path
        For the message.

    Returns
    -------
    ndarray, shape (X, Y, Z)
        Hz.

    Raises
    ------
    DataError
        If the units are missing or others, or the field is larger than that of any head.
    """
    factor = UNITS.get(str(units).lower())
    if factor is None:
        raise DataError(
            f"{path}: Units of the field map are {tell_value(units)}; Hz, rad/s or T were expected",
            fix="write Units into the sidecar of the field map",
        )
    hertz = np.asarray(values, dtype=np.float64) * factor
    usual = float(np.quantile(np.abs(hertz), 0.9))
    if usual > LARGEST_HZ:
        raise DataError(
            f"{path}: a tenth of the field map is above {usual:g} Hz by its Units ({units});"
            f" {LARGEST_HZ:g} Hz is more than any head has",
            fix="repair Units in the sidecar of the field map",
        )
    return hertz


def despike(field: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float]:
    """Find voxels whose field is unlike that of their neighbours.

    Parameters
    ----------
    field : ndarray, shape (X, Y, Z)
        Hz; looked at inside `mask`.
    mask : ndarray of bool, shape (X, Y, Z)
        Where it was measured.

    Returns
    -------
    good : ndarray of bool, shape (X, Y, Z)
        `mask` without spikes: those more than five robust standard deviations from the median
        of the 27 voxels around them.
    share : float
        Of the mask that were spikes.
    """
    filled = _fill(field, mask)
    away = np.abs(filled - ndimage.median_filter(filled, size=3))
    # One hertz: in a field without noise nothing is a spike.
    spread = max(1.4826 * float(np.median(away[mask])), 1.0)
    good = mask & (away <= 5.0 * spread)
    return good, 1.0 - float(np.count_nonzero(good)) / max(int(np.count_nonzero(mask)), 1)


def _fill(field: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give voxels outside of a mask the value of the nearest one inside."""
    nearest: Any = ndimage.distance_transform_edt(
        ~mask, return_distances=False, return_indices=True
    )
    return np.asarray(field[tuple(nearest)], dtype=np.float64)


def smooth_field(
    field: NDArray[np.float64],
    good: NDArray[np.bool_],
    *,
    grid: Grid,
    magnitude: NDArray[np.floating],
) -> tuple[NDArray[np.float64], Grid]:
    """Fit splines to a measured field; they go on past where it was measured.

    Parameters
    ----------
    field : ndarray, shape (X, Y, Z)
        Hz.
    good : ndarray of bool, shape (X, Y, Z)
        Where it is to be believed.
    grid : Grid
        Of the field.
    magnitude : ndarray, shape (X, Y, Z)
        Brightness: the phase of a dark voxel is noisy, by the square of its darkness.

    Returns
    -------
    coefficients : ndarray, shape of the knots
        Hz.
    knots : Grid
        About 8 mm apart, never less than two voxels.
    """
    knots = knots_of(grid, [max(KNOTS_MM / zoom, 2.0) for zoom in grid.zooms])
    bright = float(np.median(magnitude[good])) or 1.0
    weights = np.where(good, np.clip(magnitude / bright, 0.0, 1.0) ** 2, 0.0)
    values = np.where(good, field, 0.0)
    return fit_field(values, weights, grid=grid, knots=knots, roughness=ROUGHNESS), knots
