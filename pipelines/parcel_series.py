"""The cleaned mean series of a run's parcels, at the repetition time of a contract.

What a network sees and what the statistics of a cohort are made of must be one and the same, so
both come from here: parcellation, cleaning in the run's own repetition time, resampling in time,
and the mean of each parcel taken off. Scaling comes after.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import ContractError
from neurostorm_app.pipelines.clean import clean_parcels, read_confounds
from neurostorm_app.pipelines.conformance import find_maps, measure_coverage, place_volumes
from neurostorm_app.pipelines.parcellate import MIN_COVERAGE, parcellate
from neurostorm_app.pipelines.prepare import note_mask
from neurostorm_app.pipelines.regrid import resample_time
from neurostorm_app.pipelines.series import find_brain, open_series

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.models.card import ParcelContract
    from neurostorm_app.pipelines.conformance import Findings
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.series import SeriesFile
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["open_run", "read_parcels", "resample_parcels"]


def open_run(
    run: StandardSeries, contract: ParcelContract, findings: Findings
) -> tuple[SeriesFile, int]:
    """Open a run and count its volumes at the contract's repetition time; reads no voxel.

    Parameters
    ----------
    run : StandardSeries
        Preprocessed, in a standard space.
    contract : ParcelContract
        What the model eats.
    findings : Findings
        Is told.

    Returns
    -------
    series : SeriesFile
        On disk.
    n_volumes : int
        At the contract's repetition time.

    Raises
    ------
    SeriesTooShortError
        If there are fewer volumes than the contract asks for.
    DataError
        If the repetition time makes no sense.
    """
    series = open_series(run.bold, min_volumes=contract.min_volumes)
    how = contract.time_positions
    n_volumes = len(place_volumes(series.n_volumes, run, contract.tr, findings, how=how))
    findings.facts |= {"n_volumes_in": series.n_volumes, "n_volumes_used": n_volumes}
    return series, n_volumes


def read_parcels(
    series: SeriesFile,
    run: StandardSeries,
    contract: ParcelContract,
    *,
    atlas: Path,
    findings: Findings,
) -> Parcels:
    """Average a run over the parcels of a label image and clean what comes of it.

    Parameters
    ----------
    series : SeriesFile
        Of `open_run`.
    run : StandardSeries
        Its mask, confounds, space and repetition time.
    contract : ParcelContract
        What the model eats.
    atlas : Path
        Label image in the contract's space.
    findings : Findings
        Is told.

    Returns
    -------
    Parcels
        At the contract's repetition time; the mean of each parcel over the run is 0.

    Raises
    ------
    CorruptImageError
        If a file is truncated or damaged.
    ContractError
        If the space is another, or the parcellation.
    DataError
        If series, mask and confounds do not belong together.
    """
    maps = find_maps(run, contract.space, findings)
    to_run, to_atlas = maps or (None, None)
    brain, source = find_brain(series, run.mask)
    series = series.within(brain)
    note_mask(source, findings)
    measure_coverage(brain, series.grid, space=contract.space, findings=findings, xfm=to_run)
    parcels = parcellate(series, atlas, mask=brain, to_atlas=to_atlas, from_atlas=to_run)
    _check(parcels, contract, atlas=atlas, findings=findings)
    return resample_parcels(_clean(parcels, run, contract, findings), run, contract, findings)


def _check(parcels: Parcels, contract: ParcelContract, *, atlas: Path, findings: Findings) -> None:
    """Compare the parcels with the contract's, and tell how they are covered."""
    n_parcels, missing = len(parcels.labels), parcels.missing
    if contract.n_parcels is not None and n_parcels != contract.n_parcels:
        raise ContractError(
            f"{atlas}: has {n_parcels} parcels; the model takes {contract.n_parcels}",
            fix=f"give the parcellation {contract.atlas}, on which the model was trained",
        )
    named = zip(parcels.labels.tolist(), parcels.coverage.tolist(), strict=True)
    findings.facts |= {
        "n_parcels": n_parcels,
        "missing_parcels": missing,
        "lowest_parcel_coverage": round(float(parcels.coverage.min()), 4),
        "mean_parcel_coverage": round(float(parcels.coverage.mean()), 4),
        "parcel_coverage": {str(label): round(share, 3) for label, share in named},
    }
    findings.deviations["parcels"] = len(missing) / n_parcels
    if missing:
        uncovered = int((parcels.coverage < MIN_COVERAGE).sum())
        findings.reasons.append(
            f"{len(missing)} of {n_parcels} parcels are missing and count as 0: {uncovered} "
            f"covered by less than one half, {len(missing) - uncovered} that do not vary"
        )


def _clean(
    parcels: Parcels, run: StandardSeries, contract: ParcelContract, findings: Findings
) -> Parcels:
    cleaning = contract.cleaning
    table, missing, first_row = read_confounds(
        run.confounds, cleaning.confounds, signal=np.nanmean(parcels.series, axis=0)
    )
    parcels, notes = clean_parcels(parcels, table, tr=run.tr, cleaning=cleaning)
    findings.facts |= {"missing_confounds": missing, "first_confounds_row": first_row}
    findings.deviations["confounds"] = len(missing) / max(len(cleaning.confounds), 1)
    if missing:
        findings.reasons.append(f"not cleaned of {', '.join(missing)}: the run has no such columns")
    findings.reasons.extend(notes)
    return parcels


def resample_parcels(
    parcels: Parcels, run: StandardSeries, contract: ParcelContract, findings: Findings
) -> Parcels:
    """Bring parcel series to the contract's repetition time, without the mean that comes of it.

    Parameters
    ----------
    parcels : Parcels
        Cleaned.
    run : StandardSeries
        With its repetition time, s.
    contract : ParcelContract
        What the model eats.
    findings : Findings
        Whether anything is to be interpolated.

    Returns
    -------
    Parcels
        At the contract's repetition time.
    """
    if contract.tr is None or findings.facts["time_interpolation"] == "none":
        return parcels
    how = contract.time_positions
    series = resample_time(parcels.series, run.tr, contract.tr, how=how).astype(np.float64)
    return replace(parcels, series=series - series.mean(axis=1, keepdims=True))
