"""Bring a run to a contract on parcels: windows of their cleaned and scaled mean series."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import SeriesTooShortError, UsageError
from neurostorm_app.pipelines.conformance import Findings
from neurostorm_app.pipelines.parcel_places import place_parcels
from neurostorm_app.pipelines.parcel_series import open_run, read_parcels
from neurostorm_app.pipelines.prepare import Prepared, naming
from neurostorm_app.pipelines.regrid import time_step
from neurostorm_app.pipelines.salience import rank_windows
from neurostorm_app.pipelines.scale_parcels import scale_parcels
from neurostorm_app.pipelines.statistics_file import read_statistics
from neurostorm_app.pipelines.tile import describe_windows, window_starts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.card import ParcelContract
    from neurostorm_app.pipelines.scale_parcels import Statistics
    from neurostorm_app.pipelines.stage import InputOptions, StandardSeries

__all__ = ["keep_salient", "plan_windows", "prepare_parcels"]


def prepare_parcels(
    run: StandardSeries, contract: ParcelContract, atlas: Path, options: InputOptions
) -> Prepared:
    """Bring a run to a contract on parcels; reads the series once.

    Parameters
    ----------
    run : StandardSeries
        Preprocessed, in a standard space.
    contract : ParcelContract
        What the model eats.
    atlas : Path
        Label image in the contract's space.
    options : InputOptions
        What the user changed.

    Returns
    -------
    Prepared
        Windows (V, L). Rows of missing parcels are 0.

    Raises
    ------
    CorruptImageError
        If a file is truncated or damaged.
    SeriesTooShortError
        If there are fewer volumes than the contract asks for.
    ContractError
        If the space is another, the parcellation, or what the statistics were made for.
    DataError
        If series, mask and confounds do not belong together.
    UsageError
        If statistics are given to a model that does not scale.
    """
    findings = Findings()
    series, n_volumes = open_run(run, contract, findings)
    with naming(run.bold):
        starts, window = plan_windows(
            n_volumes, contract, tr=contract.tr or run.tr, findings=findings
        )
    _note_options(contract, options, findings)
    cohort = _find_cohort(contract, atlas, options)
    xyz = place_parcels(atlas, contract, findings)
    parcels = read_parcels(series, run, contract, atlas=atlas, findings=findings)
    scaled = scale_parcels(
        parcels, contract, options, cohort=cohort, path=run.bold, findings=findings
    )
    rows = scaled.astype(np.float32)
    starts = keep_salient(rows, starts, contract, options, findings=findings)
    return Prepared(
        windows=(rows[:, start : start + window] for start in starts),
        starts=starts,
        window=window,
        step=time_step(series.n_volumes, n_volumes, run.tr, how=contract.time_positions),
        findings=findings,
        parcels=parcels,
        xyz=xyz,
        n_unused=findings.facts.get("n_unused", 0),
    )


def plan_windows(
    n_volumes: int, contract: ParcelContract, *, tr: float, findings: Findings
) -> tuple[list[int], int]:
    """Find the windows of a run; a run shorter than one gets shorter windows, if that is allowed.

    Parameters
    ----------
    n_volumes : int
        At the contract's repetition time.
    contract : ParcelContract
        Its window, its stride, and how far a window may be shortened.
    tr : float
        The contract's repetition time in seconds.
    findings : Findings
        Is told.

    Returns
    -------
    starts : list of int
        First volume of each window; the last window ends at the last volume.
    window : int
        Volumes in a window.

    Raises
    ------
    SeriesTooShortError
        If the run is shorter than the shortest window.
    """
    if contract.window is None:
        return [0], n_volumes
    window = contract.window
    if n_volumes < window:
        window = _shorten(n_volumes, contract, tr)
        findings.deviations["window"] = math.log2(contract.window / window)
        findings.reasons.append(
            f"the run has {n_volumes} volumes of {tr:g} s; its windows were shortened from "
            f"{contract.window} to {window}"
        )
    stride = contract.stride or window
    starts = window_starts(n_volumes, window=window, stride=stride)
    findings.facts |= describe_windows(
        starts, n_volumes, window=window, stride=stride, policy="dense", tr=tr
    )
    findings.facts |= {
        "window_asked": contract.window,
        "tail": "the last window ends at the last volume",
    }
    return starts, window


def keep_salient(
    rows: NDArray[np.float32],
    starts: list[int],
    contract: ParcelContract,
    options: InputOptions,
    *,
    findings: Findings,
) -> list[int]:
    """Choose the salient windows of a run, where no more than some of them are wanted.

    Parameters
    ----------
    rows : ndarray, shape (V, T)
        Scaled series of the parcels; rows of missing ones are 0 and count for nothing.
    starts : list of int
        First volume of each window, as of `plan_windows`.
    contract : ParcelContract
        Without windows there is nothing to choose.
    options : InputOptions
        How many are wanted.
    findings : Findings
        Is told.

    Returns
    -------
    list of int
        First volume of each window that is left, ascending.

    Raises
    ------
    DataError
        If volumes of a window, or parcels that vary, are too few to tell.
    """
    if options.max_windows is None or contract.window is None:
        return starts
    facts = findings.facts
    window = facts["window"]
    salience = rank_windows(rows, starts, window=window, most=options.max_windows)
    chosen = [starts[i] for i in salience.chosen]
    facts |= describe_windows(
        chosen,
        rows.shape[1],
        window=window,
        stride=facts["stride"],
        policy="dense",
        tr=facts["tr"],
    )
    facts["salience"] = salience.as_facts()
    return chosen


def _shorten(n_volumes: int, contract: ParcelContract, tr: float) -> int:
    """Give the longest whole number of patches that a run holds."""
    longest = n_volumes // contract.multiple * contract.multiple
    shortest = contract.shortest or contract.window or 0
    if contract.shortest is None or longest < shortest:
        raise SeriesTooShortError(
            f"the run has {n_volumes} volumes of {tr:g} s, {n_volumes * tr:.4g} s in all; the "
            f"shortest window of the model has {shortest}, {shortest * tr:.4g} s",
            fix="leave the run out, or choose a model without windows, such as connectome",
        )
    return longest


def _note_options(contract: ParcelContract, options: InputOptions, findings: Findings) -> None:
    """Record what was asked for and has no meaning for parcels."""
    unused = {
        "clip_policy": options.clip_policy if options.clip_policy != "dense" else None,
        "parity": options.parity if options.parity != "none" else None,
        "gain": options.gain if options.gain != 1 and contract.scaling == "none" else None,
        "max_windows": options.max_windows if contract.window is None else None,
    }
    without = {name: value for name, value in unused.items() if value is not None}
    if without:
        findings.facts["without_meaning_for_parcels"] = without


def _find_cohort(contract: ParcelContract, atlas: Path, options: InputOptions) -> Statistics | None:
    if options.statistics is None:
        return None
    if contract.scaling == "none":
        raise UsageError(
            f"{options.statistics}: the model does not scale parcels; statistics have no meaning "
            "for it",
            fix="leave its statistics out",
        )
    return read_statistics(options.statistics, contract, atlas=atlas)
