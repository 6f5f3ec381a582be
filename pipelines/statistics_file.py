"""The table of a cohort's statistics and its sidecar: written once, checked whenever it is read.

Numbers are in the table, so that the hash of the table tells all of them. The sidecar says what
they hold for: which label image, repetition time, cleaning and unit. Nobody is named in either.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from neurostorm_app.errors import ContractError, DataError, NoInputError
from neurostorm_app.models.card import Cleaning  # noqa: TC001 - pydantic reads it
from neurostorm_app.models.card import TimePositions as Positions  # noqa: TC001 - the same
from neurostorm_app.models.lockfile import hash_file
from neurostorm_app.pipelines.parcellate import read_labels
from neurostorm_app.pipelines.scale_parcels import GRAND_MEAN, Statistics

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.models.card import ParcelContract
    from neurostorm_app.pipelines.cohort import Cohort

__all__ = ["describe_cohort", "format_cohort", "read_statistics"]

COLUMNS = {
    "label": "Value of the label image",
    "n_runs": "Runs in which the parcel was there",
    "n_values": "Volumes of all these runs",
    "median": "Median of the series, the mean of each run taken off",
    "iqr": "Interquartile range of the same",
    "p01": "1st percentile of (value - median) / iqr",
    "p99": "99th percentile of (value - median) / iqr",
    "sd": "Standard deviation about the means of the runs",
}
IN_UNIT = ("median", "iqr", "sd")
UNIT = f"signal of which the mean over a run's brain is {GRAND_MEAN:g}"
AGAIN = "make it again by `neurostorm-tools statistics`"


class About(BaseModel):
    """What the sidecar must say before a table is used."""

    AtlasSHA256: str
    RepetitionTime: float | None
    TimePositions: Positions = "centres"
    Cleaning: Cleaning
    GrandMean: float
    NumberOfRuns: Annotated[int, Field(gt=0)]
    NumberOfParticipants: Annotated[int, Field(gt=0)]


def format_cohort(cohort: Cohort) -> str:
    """Write the table of a cohort's statistics; ``n/a`` where a parcel is missing in all runs."""
    statistics = cohort.statistics
    counts = (statistics.labels, cohort.n_runs, cohort.n_values)
    floats = (statistics.median, statistics.iqr, statistics.low, statistics.high, cohort.sd)
    lines = ["\t".join(COLUMNS)]
    for row in range(len(statistics.labels)):
        words = [str(int(values[row])) for values in counts]
        words += [_number(float(values[row])) for values in floats]
        lines.append("\t".join(words))
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.7g}" if np.isfinite(value) else "n/a"


def describe_cohort(
    cohort: Cohort, contract: ParcelContract, *, atlas_sha256: str, version: str
) -> dict[str, Any]:
    """Write the sidecar of the table; it names no participant and no path."""
    columns: dict[str, Any] = {
        name: {"Description": about} | ({"Units": UNIT} if name in IN_UNIT else {})
        for name, about in COLUMNS.items()
    }
    return {
        "Description": "Spread of the parcels over the runs of a cohort, for scaling runs like "
        "these before a model sees them.",
        "GeneratedBy": [{"Name": "neurostorm-tools statistics", "Version": version}],
        "Atlas": contract.atlas,
        "AtlasSHA256": atlas_sha256,
        "Space": contract.space,
        "RepetitionTime": contract.tr,
        "TimePositions": contract.time_positions,
        "Cleaning": contract.cleaning.model_dump(mode="json"),
        "GrandMean": GRAND_MEAN,
        "NumberOfRuns": cohort.statistics.n_runs,
        "NumberOfParticipants": cohort.statistics.n_participants,
        "NumberOfRunsLeftOut": len(cohort.left_out),
        "StandardDeviation": float(f"{cohort.statistics.sd:.7g}"),
        **columns,
    }


def read_statistics(path: Path, contract: ParcelContract, *, atlas: Path) -> Statistics:
    """Read the statistics of a cohort, if they hold for this contract and this label image.

    Parameters
    ----------
    path : Path
        The table, ``.tsv``; its sidecar lies beside it.
    contract : ParcelContract
        Its repetition time and cleaning must be those of the statistics.
    atlas : Path
        The label image; its hash must be that of the statistics.

    Returns
    -------
    Statistics
        In the order of the labels.

    Raises
    ------
    NoInputError
        If the table or its sidecar is not there.
    DataError
        If one of them cannot be read.
    ContractError
        If they were made for something else.
    """
    about = _read_about(path)
    _check_same(path, about, contract, atlas)
    table = _read_table(path)
    volume, _ = read_labels(atlas)
    if not np.array_equal(table["label"], np.unique(volume[volume > 0])):
        raise ContractError(
            f"{path}: its {len(table['label'])} labels are not those of {atlas}", fix=AGAIN
        )
    n_values = table["n_values"]
    squares = float(np.nansum(n_values * np.square(table["sd"])))
    statistics = Statistics(
        labels=table["label"].astype(np.int64),
        median=table["median"],
        iqr=table["iqr"],
        low=table["p01"],
        high=table["p99"],
        sd=float(np.sqrt(squares / max(n_values.sum(), 1.0))),
        n_runs=about.NumberOfRuns,
        n_participants=about.NumberOfParticipants,
        sha256=hash_file(path),
    )
    if not statistics.usable.any():
        raise DataError(f"{path}: no parcel has an interquartile range above 0", fix=AGAIN)
    return statistics


def _read_about(path: Path) -> About:
    sidecar = path.with_suffix(".json")
    for needed in (path, sidecar):
        if not needed.is_file():
            raise NoInputError(
                f"{needed}: the statistics are a table and its sidecar; this file is not there",
                fix="give the .tsv that `neurostorm-tools statistics` wrote, with the .json beside",
            )
    try:
        return About.model_validate(json.loads(sidecar.read_text(encoding="utf-8-sig")))
    except (ValidationError, ValueError) as error:
        first = str(error).replace("\n", " ")[:200]
        raise DataError(
            f"{sidecar}: is not the sidecar of a table of statistics: {first}", fix=AGAIN
        ) from error


def _check_same(path: Path, about: About, contract: ParcelContract, atlas: Path) -> None:
    """Refuse statistics of other parcels, or of series that were made another way."""
    compared: dict[str, tuple[object, object]] = {
        "the SHA-256 of the label image": (about.AtlasSHA256, hash_file(atlas)),
        "the repetition time": (about.RepetitionTime, contract.tr),
        "where volumes of it lie": (about.TimePositions, contract.time_positions),
        "the cleaning": (about.Cleaning, contract.cleaning),
        "the grand mean": (about.GrandMean, GRAND_MEAN),
    }
    for what, (there, here) in compared.items():
        if there != here:
            raise ContractError(
                f"{path}: the statistics were made for another input: {what} is {there} there and "
                f"{here} here",
                fix=AGAIN,
            )


def _read_table(path: Path) -> dict[str, NDArray[np.float64]]:
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False)
        table = {name: frame[name].to_numpy(dtype=np.float64) for name in COLUMNS}
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be read as a table of statistics with columns {', '.join(COLUMNS)}: "
            f"{error}",
            fix=AGAIN,
        ) from error
    known = np.isfinite(table["iqr"])
    wrong = known & ((table["iqr"] < 0) | (table["p01"] > table["p99"]))
    if not np.isfinite(table["n_values"]).all() or wrong.any():
        raise DataError(f"{path}: holds ranges below 0 or rows without counts", fix=AGAIN)
    return table
