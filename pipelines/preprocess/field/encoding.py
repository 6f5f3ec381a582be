"""How an EPI was encoded, from its sidecar: phase axis, its sign, and the total readout time.

The total readout time R turns a field f (Hz) into a shift of f R voxels. It is that of FSL and
BIDS: from the centre of the first effective echo to the centre of the last, in seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.header import tell_value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "GYROMAGNETIC",
    "echo_spacing",
    "find_phase_axis",
    "find_readout",
    "read_phase",
    "read_readout",
]

GYROMAGNETIC = 42.577478518e6
"""Of the proton, Hz per tesla (CODATA 2018)."""
WATER_FAT = 3.4e-6
"""How far water and fat are apart, relative to the field."""
SHORTEST, LONGEST = 1e-3, 0.3
"""Seconds: no EPI is read faster or slower."""
LARGEST = 1e9
"""Of any number of a sidecar; JSON takes whole numbers that no float can hold."""
WITHOUT = "; without it the distortion of this scan cannot be corrected"


def read_phase(metadata: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Read along which voxel axis phase was encoded, and in which direction.

    Parameters
    ----------
    metadata : mapping
        The sidecar.
    path : Path
        Of the image, for the message. The axes are those of the file as stored, whatever its
        orientation.

    Returns
    -------
    axis : {0, 1, 2}
        i, j or k.
    sign : {-1, 1}
        -1 for ``i-``, ``j-`` and ``k-``.

    Raises
    ------
    DataError
        If ``PhaseEncodingDirection`` is missing or something else.
    """
    found = metadata.get("PhaseEncodingDirection")
    if found is None:
        known = metadata.get("PhaseEncodingAxis")
        also = (
            f" (PhaseEncodingAxis {tell_value(known)} does not tell the direction)" if known else ""
        )
        raise DataError(
            f"{path}: its sidecar has no PhaseEncodingDirection{also}{WITHOUT}",
            fix="write i, i-, j, j-, k or k- into the sidecar, as the scanner's protocol says",
        )
    if not isinstance(found, str) or found not in {"i", "i-", "j", "j-", "k", "k-"}:
        raise DataError(
            f"{path}: PhaseEncodingDirection is {tell_value(found)}; i, i-, j, j-, k or"
            f" k- were expected{WITHOUT}",
            fix="name the voxel axis of the file, not that of the body",
        )
    return "ijk".index(found[0]), -1 if found.endswith("-") else 1


def find_phase_axis(metadata: Mapping[str, Any]) -> int | None:
    """Find along which voxel axis phase was encoded, where the direction does not matter.

    Parameters
    ----------
    metadata : mapping
        The sidecar: ``PhaseEncodingDirection``, or ``PhaseEncodingAxis`` without a direction.

    Returns
    -------
    {0, 1, 2} or None
        i, j or k of the file as stored; None if the sidecar does not tell.
    """
    told = metadata.get("PhaseEncodingDirection") or metadata.get("PhaseEncodingAxis")
    axis = str(told).removesuffix("-")
    return "ijk".index(axis) if axis in {"i", "j", "k"} else None


def read_readout(
    metadata: Mapping[str, Any], *, n_phase: int, path: Path, fallback: float | None = None
) -> float:
    """Read the total readout time: see :func:`find_readout`, which also says whence.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    DataError
        If the sidecar does not tell it, or tells what no scanner does.
    """
    return find_readout(metadata, n_phase=n_phase, path=path, fallback=fallback)[0]


def find_readout(
    metadata: Mapping[str, Any], *, n_phase: int, path: Path, fallback: float | None = None
) -> tuple[float, str]:
    """Read the total readout time from the first field of the sidecar that tells it.

    In this order: ``TotalReadoutTime``; ``EffectiveEchoSpacing`` times (N - 1);
    ``BandwidthPerPixelPhaseEncode``, whose inverse is N spacings; ``WaterFatShift`` with
    ``MagneticFieldStrength`` and, if known, ``EPIFactor`` or ``EchoTrainLength``;
    ``EstimatedTotalReadoutTime``; ``EstimatedEffectiveEchoSpacing``; the fallback. N is
    ``ReconMatrixPE``, or `n_phase` without it.

    Parameters
    ----------
    metadata : mapping
        The sidecar, in SI units as BIDS asks.
    n_phase : int
        Voxels of the file along the phase axis.
    path : Path
        Of the image, for the message.
    fallback : float, optional
        Seconds, when nothing else is known.

    Returns
    -------
    readout : float
        Seconds.
    source : str
        What it was taken from.

    Raises
    ------
    DataError
        If the sidecar does not tell it, or tells what no scanner does.

    References
    ----------
    BIDS 1.10, "Magnetic resonance imaging", timing parameters. For the shift between water and
    fat: a pixel of shift takes 3.4 ppm of the field, so the train lasts as long as that many
    turns; a train of E echoes has E + 1 steps at Philips.
    """
    n_lines = _number(metadata, "ReconMatrixPE", path) or float(n_phase)
    told = _candidates(metadata, n_lines, path)
    if fallback is not None:
        told["the fallback that was given"] = fallback
    if not told:
        raise DataError(
            f"{path}: its sidecar has neither TotalReadoutTime nor EffectiveEchoSpacing,"
            f" BandwidthPerPixelPhaseEncode or WaterFatShift with MagneticFieldStrength{WITHOUT}",
            fix="write TotalReadoutTime (s) into the sidecar, or give a fallback for all runs",
        )
    source, readout = next(iter(told.items()))
    if not SHORTEST <= readout <= LONGEST:
        unit = " (is the sidecar in milliseconds?)" if LONGEST < readout <= 1e3 * LONGEST else ""
        raise DataError(
            f"{path}: a total readout time of {readout:g} s from {source}{unit}; {SHORTEST:g} to"
            f" {LONGEST:g} s were expected{WITHOUT}",
            fix="repair the sidecar: BIDS counts in seconds",
        )
    return readout, source


def echo_spacing(first: Mapping[str, Any], second: Mapping[str, Any], *, path: Path) -> float:
    """Read by how much two gradient echoes are apart.

    Parameters
    ----------
    first, second : mapping
        For a phase difference twice its sidecar, with ``EchoTime1`` and ``EchoTime2``; for two
        phases the sidecar of each, with ``EchoTime``.
    path : Path
        For the message.

    Returns
    -------
    float
        Second minus first, seconds.

    Raises
    ------
    DataError
        If a time is missing, the order is wrong, or milliseconds were written.
    """
    names = ("EchoTime1", "EchoTime2") if first is second else ("EchoTime", "EchoTime")
    times = [side.get(name) for side, name in zip((first, second), names, strict=True)]
    if any(isinstance(time, bool) or not isinstance(time, int | float) for time in times):
        raise DataError(
            f"{path}: {names[0]} and {names[1]} of the two echoes are {times}; two numbers in"
            " seconds were expected, so the phases say nothing about the field",
            fix="write the echo times into the sidecar, in seconds",
        )
    one, two = (float(time) for time in times if time is not None)
    if not 0.0 < one < two <= 0.1:
        hint = " (is the sidecar in milliseconds?)" if two > 0.1 else ""
        raise DataError(
            f"{path}: the two echoes were taken at {one:g} and {two:g} s{hint}; times above 0,"
            " in this order, up to 0.1 s were expected",
            fix="repair the echo times in the sidecar: BIDS counts in seconds",
        )
    return two - one


def _candidates(metadata: Mapping[str, Any], n_lines: float, path: Path) -> dict[str, float]:
    """Compute the readout time (s) in each way that the sidecar allows, the surest first."""
    told: dict[str, float] = {}

    def number(name: str) -> float | None:
        """Read a number, or None if it is not there."""
        return _number(metadata, name, path)

    if (total := number("TotalReadoutTime")) is not None:
        told["TotalReadoutTime"] = total
    if (spacing := number("EffectiveEchoSpacing")) is not None:
        told["EffectiveEchoSpacing"] = spacing * (n_lines - 1)
    if bandwidth := number("BandwidthPerPixelPhaseEncode"):
        told["BandwidthPerPixelPhaseEncode"] = (n_lines - 1) / (n_lines * bandwidth)
    shift, tesla = number("WaterFatShift"), number("MagneticFieldStrength")
    if shift and tesla:
        echoes = number("EPIFactor") or number("EchoTrainLength")
        part = echoes / (echoes + 1) if echoes else 1.0
        told["WaterFatShift"] = part * shift / (WATER_FAT * GYROMAGNETIC * tesla)
    if (total := number("EstimatedTotalReadoutTime")) is not None:
        told["EstimatedTotalReadoutTime"] = total
    if (spacing := number("EstimatedEffectiveEchoSpacing")) is not None:
        told["EstimatedEffectiveEchoSpacing"] = spacing * (n_lines - 1)
    return told


def _number(metadata: Mapping[str, Any], name: str, path: Path) -> float | None:
    """Read a number of the sidecar; None if it is not there."""
    value = metadata.get(name)
    if value is None:
        return None
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or abs(value) > LARGEST:
        raise DataError(
            f"{path}: {name} is {tell_value(value)}; a number was expected{WITHOUT}",
            fix="repair the sidecar: BIDS writes numbers without quotes or units",
        )
    return float(value)
