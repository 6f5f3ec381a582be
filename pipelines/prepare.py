"""A run made ready for a network: windows in a stream, and what was found on the way."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import AppError, ContractError
from neurostorm_app.pipelines.clean import clean_parcels, read_confounds
from neurostorm_app.pipelines.conform import conform_series
from neurostorm_app.pipelines.conformance import (
    Findings,
    find_maps,
    measure_coverage,
    place_volumes,
)
from neurostorm_app.pipelines.normalize import Scale, apply_scale, measure_scale
from neurostorm_app.pipelines.parcellate import Parcels, parcellate
from neurostorm_app.pipelines.regrid import resample_time
from neurostorm_app.pipelines.series import find_brain, open_series
from neurostorm_app.pipelines.tile import tile_windows, window_starts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.card import ParcelContract, VolumeContract
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["Prepared", "prepare_parcels", "prepare_volumes"]

MANY_NEGATIVES = 1e-3
"""Share of negative values in the brain from which a report says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a network is given.

    Parameters
    ----------
    windows : iterator of ndarray, float32
        (C, X, Y, Z, L) or (V, L), computed when asked for.
    starts : list of int
        First volume of each window.
    window : int
        Volumes in a window.
    step : float
        Seconds from one volume to the next.
    findings : Findings
        How the run and the contract differ.
    parcels : Parcels or None
        Cleaned series, where the model eats parcels.
    """

    windows: Iterator[NDArray[np.float32]]
    starts: list[int]
    window: int
    step: float
    findings: Findings
    parcels: Parcels | None = None


def prepare_volumes(run: StandardSeries, contract: VolumeContract) -> Prepared:
    """Bring a run to a contract on volumes; reads the series once, and again for the windows.

    Parameters
    ----------
    run : StandardSeries
        Preprocessed, in a standard space.
    contract : VolumeContract
        What the model eats.

    Returns
    -------
    Prepared
        Windows (1, X, Y, Z, L).

    Raises
    ------
    CorruptImageError
        If a file is truncated or damaged.
    SeriesTooShortError
        If one window takes more volumes than there are.
    ContractError
        If the space is another, or the series lost its mean.
    DataError
        If series and mask do not belong together.
    """
    series = open_series(run.bold)
    brain, source = find_brain(series, run.mask)
    conformed, findings = conform_series(series, run, contract, brain=brain)
    with _naming(run.bold):
        starts = window_starts(conformed.n_volumes, window=contract.window, stride=contract.stride)
        scale = measure_scale(conformed.volumes(), conformed.mask)
    _note_mask(source, findings)
    _note_scale(scale, findings)
    scaled = (apply_scale(volume, conformed.mask, scale) for volume in conformed.volumes())
    windows = tile_windows(scaled, starts, window=contract.window)
    return Prepared(
        windows=(window[np.newaxis] for window in windows),
        starts=starts,
        window=contract.window,
        step=series.n_volumes * run.tr / conformed.n_volumes,
        findings=findings,
    )


def prepare_parcels(run: StandardSeries, contract: ParcelContract, atlas: Path) -> Prepared:
    """Bring a run to a contract on parcels; reads the series once.

    Parameters
    ----------
    run : StandardSeries
        Preprocessed, in a standard space.
    contract : ParcelContract
        What the model eats.
    atlas : Path
        Label image in the contract's space.

    Returns
    -------
    Prepared
        Windows (V, L). Rows of missing parcels are 0: they correlate with nothing.

    Raises
    ------
    CorruptImageError
        If a file is truncated or damaged.
    SeriesTooShortError
        If there are fewer volumes than the contract asks for.
    ContractError
        If the space is another, or the parcellation.
    DataError
        If series, mask and confounds do not belong together.
    """
    series = open_series(run.bold, min_volumes=contract.min_volumes)
    findings = Findings()
    maps = find_maps(run, contract.space, findings)
    to_run, to_atlas = maps or (None, None)
    brain, source = find_brain(series, run.mask)
    _note_mask(source, findings)
    measure_coverage(brain, series.grid, space=contract.space, findings=findings, xfm=to_run)
    parcels = parcellate(series, atlas, mask=brain, to_atlas=to_atlas, from_atlas=to_run)
    _check_parcels(parcels, contract, atlas=atlas, findings=findings)
    parcels = _clean(parcels, run, contract, findings)
    n_volumes = parcels.series.shape[1]
    window = contract.window or n_volumes
    with _naming(run.bold):
        starts = window_starts(n_volumes, window=window, stride=contract.stride or window)
    rows = np.nan_to_num(parcels.series).astype(np.float32)
    return Prepared(
        windows=(rows[:, start : start + window] for start in starts),
        starts=starts,
        window=window,
        step=series.n_volumes * run.tr / n_volumes,
        findings=findings,
        parcels=parcels,
    )


def _check_parcels(
    parcels: Parcels, contract: ParcelContract, *, atlas: Path, findings: Findings
) -> None:
    n_parcels, missing = len(parcels.labels), parcels.missing
    if contract.n_parcels is not None and n_parcels != contract.n_parcels:
        raise ContractError(
            f"{atlas}: has {n_parcels} parcels; the model takes {contract.n_parcels}",
            fix=f"give the parcellation {contract.atlas}, on which the model was trained",
        )
    findings.facts |= {
        "n_parcels": n_parcels,
        "missing_parcels": missing,
        "lowest_parcel_coverage": round(float(parcels.coverage.min()), 4),
    }
    findings.deviations["parcels"] = len(missing) / n_parcels
    if missing:
        findings.reasons.append(
            f"{len(missing)} of {n_parcels} parcels are covered by less than one half; they count "
            "as uncorrelated with all others"
        )


def _clean(
    parcels: Parcels, run: StandardSeries, contract: ParcelContract, findings: Findings
) -> Parcels:
    cleaning, n_volumes = contract.cleaning, parcels.series.shape[1]
    positions = place_volumes(n_volumes, run, contract.tr, findings)
    table, missing, first_row = read_confounds(
        run.confounds, cleaning.confounds, signal=np.nanmean(parcels.series, axis=0)
    )
    parcels, notes = clean_parcels(parcels, table, tr=run.tr, cleaning=cleaning)
    findings.facts |= {
        "missing_confounds": missing,
        "first_confounds_row": first_row,
        "n_volumes_in": n_volumes,
        "n_volumes_used": len(positions),
    }
    findings.deviations["confounds"] = len(missing) / max(len(cleaning.confounds), 1)
    if missing:
        findings.reasons.append(f"not cleaned of {', '.join(missing)}: the run has no such columns")
    findings.reasons.extend(notes)
    if contract.tr is None or len(positions) == n_volumes:
        return parcels
    series = resample_time(parcels.series, run.tr, contract.tr)
    return replace(parcels, series=series.astype(np.float64))


def _note_mask(source: str, findings: Findings) -> None:
    findings.facts["mask"] = source
    if source != "given":
        findings.reasons.append(f"no brain mask was given; it was taken from the series ({source})")


def _note_scale(scale: Scale, findings: Findings) -> None:
    findings.facts |= {
        "negatives": scale.negatives,
        "scaling": {"mean": scale.mean, "sd": scale.sd, "background": scale.background},
    }
    findings.deviations["negatives"] = scale.negatives
    if scale.negatives > MANY_NEGATIVES:
        findings.reasons.append(f"{scale.negatives:.2%} of the brain's values are negative")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file in front of what went wrong in it."""
    try:
        yield
    except AppError as error:
        if str(path) in error.what:
            raise
        raise type(error)(f"{path}: {error.what}", fix=error.fix) from error
