"""Can a run be used? Numbers of its series, each beside a range, and a verdict with reasons.

Everything is made of what other steps hold anyway: the still voxels and the table of the
confounds, the reference with its mask, and the means of slices from one pass over the raw
volumes. A number that could not be measured is None and says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.pipelines.preprocess.noise.faults import (
    find_spikes,
    ghost_ratio,
    outlier_shares,
    signal_to_noise,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["LIMITS", "Limit", "judge_run", "measure_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Where a number begins to be doubtful.

    Parameters
    ----------
    unit : str
        Of the number; empty for shares and ratios.
    look, fail : float or None
        The verdict is this from here on: above it, or below it if `low`.
    low : bool
        Small numbers are bad.
    words : str
        What the number is.
    source : str
        Where the limits come from; "guess" if they come from nowhere.
    """

    unit: str
    look: float | None
    fail: float | None
    words: str
    source: str
    low: bool = False

    def verdict(self, value: float | None) -> str | None:
        """Judge a number; None if it is not known."""
        if value is None:
            return None
        for name, limit in (("fail", self.fail), ("look", self.look)):
            if limit is not None and (value < limit if self.low else value > limit):
                return name
        return "pass"


_PARKES = "Parkes et al. 2018, NeuroImage 171:415, strict and lenient exclusion"
LIMITS = {
    "fd_mean": Limit(
        unit="mm", look=0.25, fail=0.55, words="mean framewise displacement", source=_PARKES
    ),
    "fd_max": Limit(
        unit="mm", look=5.0, fail=None, words="largest framewise displacement", source=_PARKES
    ),
    "fd_share": Limit(
        unit="", look=0.2, fail=0.5, words="share of volumes that moved",
        source="look: Parkes et al. 2018; fail: guess",
    ),
    "std_dvars_mean": Limit(
        unit="", look=1.5, fail=None, words="mean standardised DVARS",
        source="1 is noise alone (Nichols 2013); the limit is fMRIPrep's for one volume",
    ),
    "std_dvars_share": Limit(
        unit="", look=0.1, fail=0.5, words="share of volumes with high DVARS", source="guess"
    ),
    "tsnr": Limit(
        unit="", look=25.0, fail=10.0, low=True,
        words="median temporal signal-to-noise ratio in the brain", source="guess",
    ),
    "brain_coverage": Limit(
        unit="", look=0.9, fail=0.5, low=True, words="share of the template's brain in the mask",
        source="guess",
    ),
    "fov_coverage": Limit(
        unit="", look=0.95, fail=0.5, low=True,
        words="share of the template's brain in the field of view", source="guess",
    ),
    "ghost_ratio": Limit(
        unit="", look=0.05, fail=0.2, words="ghost-to-signal ratio along the phase axis",
        source="guess; Giannelli et al. 2010, J Appl Clin Med Phys 11:3237, define it by means",
    ),
    "outlier_share": Limit(
        unit="", look=0.05, fail=None, words="mean share of voxels that are outliers",
        source="AFNI's afni_proc.py advises to censor volumes above 0.05",
    ),
    "spike_share": Limit(
        unit="", look=0.02, fail=0.2, words="share of volumes with a spike in some slice",
        source="guess",
    ),
    "n_nonsteady": Limit(
        unit="volumes", look=5.0, fail=None, words="initial volumes that are not steady",
        source="guess",
    ),
    "drift_percent": Limit(
        unit="%", look=5.0, fail=None, words="drift of the global signal over the run",
        source="guess",
    ),
}  # fmt: skip
"""Where a number of a run begins to be doubtful, by its name."""


def measure_run(  # noqa: PLR0913
    table: pd.DataFrame,
    *,
    series: NDArray[np.floating],
    reference: NDArray[np.floating],
    mask: NDArray[np.bool_],
    zooms: tuple[float, float, float],
    n_skipped: int,
    slice_means: NDArray[np.float64] | None = None,
    phase_axis: int | None = None,
    brain_coverage: float | None = None,
    fov_coverage: float | None = None,
    fd_threshold: float = 0.5,
    dvars_threshold: float = 1.5,
) -> dict[str, float | None]:
    """Measure a run.

    Parameters
    ----------
    table : DataFrame, T rows
        Its confounds.
    series : ndarray, shape (V, T)
        Its still voxels, those of the confounds.
    reference, mask : ndarray, shape (X, Y, Z)
        Mean of the raw volumes (the reference of head motion), and the brain in it.
    zooms : tuple of float
        Their voxel sizes in mm.
    n_skipped : int
        Volumes at the start that are not steady.
    slice_means : ndarray, shape (T, Z), or None
        Of the raw volumes, see :class:`.faults.SliceMeans`.
    phase_axis : int or None
        Of phase encoding; None if unknown.
    brain_coverage, fov_coverage : float or None
        Shares of the template's brain, see :func:`.faults.coverage`.
    fd_threshold, dvars_threshold : float
        Above them a volume counts: mm, and standardised DVARS.

    Returns
    -------
    dict
        A number for each of :data:`LIMITS`; None is not known.
    """
    moved = table["framewise_displacement"].to_numpy(dtype=float)[1:]
    changed = table["std_dvars"].to_numpy(dtype=float)[1 + n_skipped :]
    signal = table["global_signal"].to_numpy(dtype=float)[n_skipped:]
    slope = np.polynomial.polynomial.polyfit(np.linspace(0.0, 1.0, len(signal)), signal, 1)[1]
    spikes = None if slice_means is None else find_spikes(slice_means, n_skipped=n_skipped)
    numbers = {
        "fd_mean": moved.mean(),
        "fd_max": moved.max(),
        "fd_share": np.mean(moved > fd_threshold),
        "std_dvars_mean": changed.mean(),
        "std_dvars_share": np.mean(changed > dvars_threshold),
        "tsnr": signal_to_noise(series, n_skipped=n_skipped),
        "brain_coverage": brain_coverage,
        "fov_coverage": fov_coverage,
        "ghost_ratio": None
        if phase_axis is None
        else ghost_ratio(reference, mask, axis=phase_axis, zooms=zooms),
        "outlier_share": outlier_shares(series[:, n_skipped:]).mean(),
        "spike_share": None if spikes is None else np.mean(spikes.any(axis=1)),
        "n_nonsteady": n_skipped,
        "drift_percent": 100.0 * abs(slope) / abs(signal.mean()) if signal.mean() else None,
    }
    return {name: _json_number(value) for name, value in numbers.items()}


def _json_number(value: Any) -> float | None:
    """Round to five digits; what is not finite is not known."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.5g}")


def judge_run(
    measures: Mapping[str, float | None], *, steps: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Judge a run by its numbers, and by what its steps said of themselves.

    Parameters
    ----------
    measures : mapping of str to float or None
        What :func:`measure_run` found.
    steps : mapping of str to mapping
        Records of steps such as ``coregistration`` and ``distortion``; their ``verdict``
        (``pass``, ``look`` or ``fail``) and ``reasons`` count.

    Returns
    -------
    dict
        ``verdict``: the worst of all; ``reasons``: words, worst first; ``measures``: name to
        ``words``, ``value``, ``unit``, ``look``, ``fail``, ``low``, ``source`` and ``verdict``
        (JSON types). A ``fail`` says not to use the run; it stops nothing.
    """
    reasons: dict[str, list[str]] = {"fail": [], "look": []}
    described = {}
    for name, limit in LIMITS.items():
        value = measures.get(name)
        verdict = limit.verdict(value)
        described[name] = {
            "words": limit.words,
            "value": value,
            "unit": limit.unit,
            "look": limit.look,
            "fail": limit.fail,
            "low": limit.low,
            "source": limit.source,
            "verdict": verdict,
        }
        if verdict in reasons:
            bound = limit.fail if verdict == "fail" else limit.look
            unit = f" {limit.unit}" if limit.unit else ""
            side = "below" if limit.low else "above"
            reasons[verdict].append(f"{limit.words}: {value}{unit}, {side} {bound}{unit}")
    for name, record in (steps or {}).items():
        if record.get("verdict") in reasons:
            words = record.get("reasons") or ["no reason is recorded"]
            reasons[record["verdict"]] += [f"{name}: {word}" for word in words]
    verdict = "fail" if reasons["fail"] else "look" if reasons["look"] else "pass"
    return {
        "verdict": verdict,
        "reasons": reasons["fail"] + reasons["look"],
        "measures": described,
    }
