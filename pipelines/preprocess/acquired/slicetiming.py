"""Slice timing: every slice of a volume as if it were taken at one time.

The series of a voxel is known once a repetition time, at the time of its slice. Its value at
the reference time of the same volume is a weighted sum of 16 volumes around it. The weights are
those of the least squared error over frequencies: up to 0.8 of the Nyquist frequency all count,
and up to 0.3, where the BOLD signal is, ten times more; constants and straight lines are exact.
Against a spline of degree 3 (5) that takes the error of a sine at 0.6 of Nyquist, half a
repetition time off, from 7 % (1.3 %) to 0.05 %, and at 0.8 from 34 % (16 %) to 1.1 %.

Beyond its ends a series goes on as its own reflection through the end point, in time and value.

References
----------
Laakso T. I. et al. 1996, IEEE Signal Process. Mag. 13:30, fractional delay filters, section on
least squares. Brain Imaging Data Structure 1.10, ``SliceTiming`` and ``SliceEncodingDirection``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.header import tell_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SliceTimes", "align_slices", "delay_weights", "read_slice_times"]

_HALF = 8  # volumes before and after
_BANDS = ((0.8, 1.0), (0.3, 10.0))  # up to this share of Nyquist, weight of the error
_FLOOR = 1e-4  # of the squared weights, so that noise is not raised
_LATEST = 1e9  # s; JSON takes whole numbers that no float can hold
_SAME = 1e-6  # of a repetition time: no time apart
_AXES = {"i": 0, "j": 1, "k": 2}


@dataclass(frozen=True, slots=True, eq=False)
class SliceTimes:
    """When the slices of a volume are taken.

    Parameters
    ----------
    axis : int
        The axis of the volume along which slices lie: 0, 1 or 2.
    times : ndarray, shape (Z,)
        Of each slice in the order of its index, after the start of the volume, s.
    reference : float
        The time to which all are brought, s.
    tr : float
        Repetition time, s.
    """

    axis: int
    times: NDArray[np.float64]
    reference: float
    tr: float

    @property
    def delays(self) -> NDArray[np.float64]:
        """How much later than the slice the reference is: (Z,), in repetition times."""
        delays = (self.reference - self.times) / self.tr
        return np.where(np.abs(delays) < _SAME, 0.0, delays)


def read_slice_times(
    metadata: Mapping[str, Any],
    *,
    shape: tuple[int, ...],
    tr: float,
    path: Path,
    reference: float = 0.5,
) -> tuple[SliceTimes | None, str | None]:
    """Read the slice times of a series, or tell why they cannot be corrected.

    Parameters
    ----------
    metadata : mapping
        The sidecar of the series, with inheritance applied.
    shape : tuple of int
        Of the series, (X, Y, Z[, T]).
    tr : float
        Repetition time, s.
    path : Path
        The series, for messages.
    reference : float
        Where between the first (0) and the last (1) slice time the reference lies.

    Returns
    -------
    times : SliceTimes or None
        None if there is nothing that can be corrected.
    reason : str or None
        Why not, in words.

    Raises
    ------
    UsageError
        If `reference` is not between 0 and 1.
    """
    if not 0 <= reference <= 1:
        raise UsageError(
            f"{reference} was given as the reference of slice timing; it is a number from 0"
            " (first slice) to 1 (last slice)",
            fix="give 0.5 for the middle",
        )
    direction = metadata.get("SliceEncodingDirection", "k")
    axis = _AXES.get(direction.removesuffix("-")) if isinstance(direction, str) else None
    if axis is None:
        said = tell_value(direction)
        return None, f"{path.name}: SliceEncodingDirection is {said}, not one of i, j, k"
    times = _as_times(metadata.get("SliceTiming"))
    reason = _reason_against(times, metadata, n_slices=shape[axis], tr=tr)
    if reason is not None or times is None:
        return None, f"{path.name}: {reason}"
    if direction.endswith("-"):
        times = times[::-1].copy()
    middle = float(times.min() + reference * np.ptp(times))
    return SliceTimes(axis, times, middle, tr), None


def align_slices(
    volumes: Iterable[NDArray[Any]], timing: SliceTimes, *, n_skipped: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Bring the slices of each volume to the reference time.

    A volume is given out when the eight after it have come; no more than 17 are held.

    Parameters
    ----------
    volumes : iterable of ndarray, shape (X, Y, Z)
        As acquired, in the order of time.
    timing : SliceTimes
        When each slice is taken.
    n_skipped : int
        Volumes at the start, before the signal is steady: they are given out as they came, and
        no other takes anything from them.

    Yields
    ------
    ndarray, shape (X, Y, Z), float32
        A slice that was taken at the reference time is what it was, bit for bit.
    """
    order = (timing.axis, *sorted({0, 1, 2} - {timing.axis}, reverse=True))
    kernels = np.stack([delay_weights(delay) for delay in timing.delays])
    held: deque[NDArray[np.float32]] = deque(maxlen=2 * _HALF + 1)
    n_in = n_out = 0
    for t, volume in enumerate(volumes):
        if t < n_skipped:
            yield np.asarray(volume, dtype=np.float32)
            continue
        held.append(np.ascontiguousarray(np.transpose(volume, order), dtype=np.float32))
        n_in += 1
        if n_in > _HALF:
            yield _interpolate(held, kernels, n_in - 1 - n_out).transpose(np.argsort(order))
            n_out += 1
    for back in range(n_in - 1 - n_out, -1, -1):
        yield _interpolate(held, kernels, back).transpose(np.argsort(order))


def delay_weights(delay: float) -> NDArray[np.float64]:
    """Compute the weights of the volumes around one for the value `delay` later.

    Parameters
    ----------
    delay : float
        From -1 to 1 repetition times; 0 gives the volume itself.

    Returns
    -------
    ndarray, shape (17,)
        Of the volumes from eight before to eight after; they add up to 1.

    Examples
    --------
    >>> weights = delay_weights(0.25)
    >>> round(float(weights.sum()), 9), round(float(weights @ np.arange(-8, 9)), 9)
    (1.0, 0.25)
    """
    weights = np.zeros(2 * _HALF + 1)
    if delay == 0:
        weights[_HALF] = 1
        return weights
    start = -_HALF + (delay > 0)
    near = np.arange(start, start + 2 * _HALF, dtype=np.float64)
    square, cross = _FLOOR * np.eye(near.size), np.zeros(near.size)
    for band, weight in _BANDS:
        square += weight * band * np.sinc(band * (near[:, None] - near))
        cross += weight * band * np.sinc(band * (near - delay))
    exact = np.stack([np.ones_like(near), near])
    system = np.block([[square, exact.T], [exact, np.zeros((2, 2))]])
    solved = np.linalg.solve(system, np.concatenate([cross, [1.0, delay]]))
    weights[start + _HALF : start + 3 * _HALF] = solved[: near.size]
    return weights


def _interpolate(
    held: deque[NDArray[np.float32]], kernels: NDArray[np.float64], back: int
) -> NDArray[np.float32]:
    """Compute the volume that is `back` volumes before the latest held: slices first."""
    now = len(held) - 1 - back
    weights = _fold(kernels, now, len(held)).astype(np.float32)[..., None, None]
    total = weights[:, 0] * held[0]
    part = np.empty_like(total)
    for n in range(1, len(held)):
        np.multiply(weights[:, n], held[n], out=part)
        total += part
    still = kernels[:, _HALF] == 1
    total[still] = held[now][still]
    return total


def _fold(kernels: NDArray[np.float64], now: int, n_held: int) -> NDArray[np.float64]:
    """Give the weights (Z, n_held) of the volumes held for the one at `now`.

    What lies before the first or after the last is reflected; it is asked for only where the
    series begins or ends there.
    """
    folded = np.zeros((len(kernels), n_held))
    for weights, step in zip(kernels.T, range(-_HALF, _HALF + 1), strict=True):
        at, sign = now + step, 1.0
        while not 0 <= at < n_held and n_held > 1:
            end = 0 if at < 0 else n_held - 1
            folded[:, end] += 2 * sign * weights
            at, sign = 2 * end - at, -sign
        folded[:, at if n_held > 1 else 0] += sign * weights
    return folded


def _as_times(given: object) -> NDArray[np.float64] | None:
    if not isinstance(given, list | tuple) or not given:
        return None
    if not all(isinstance(t, int | float) and not isinstance(t, bool) for t in given):
        return None
    if any(abs(t) > _LATEST for t in given):
        return None
    return np.asarray(given, dtype=np.float64)


def _reason_against(
    times: NDArray[np.float64] | None, metadata: Mapping[str, Any], *, n_slices: int, tr: float
) -> str | None:
    """Tell why times cannot be corrected; None if they can."""
    if "VolumeTiming" in metadata and "RepetitionTime" not in metadata:
        return "VolumeTiming in place of RepetitionTime: volumes do not follow evenly"
    if times is None:
        found = metadata.get("SliceTiming")
        said = f"SliceTiming is {tell_value(found)}, not a number for each slice"
        return "no SliceTiming" if found is None else said
    reason = None
    if len(times) != n_slices:
        reason = f"SliceTiming has {len(times)} times for {n_slices} slices"
    elif not times.min() >= 0:
        reason = f"SliceTiming has a time of {times.min():g} s; from 0 on was expected"
    elif times.max() > tr:
        hint = "; it seems to be in ms" if 10 * tr < times.max() <= 1000 * tr else ""
        reason = f"SliceTiming goes to {times.max():g} s, the repetition time is {tr:g} s{hint}"
    elif np.ptp(times) < _SAME * tr:
        reason = "all slices were taken at the same time: nothing to correct"
    return reason
