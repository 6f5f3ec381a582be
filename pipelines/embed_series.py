"""From parcel series that somebody has extracted to vectors: no image is needed.

The series take the place of what parcellation would give; from there on they go the same way,
through the cleaning, the resampling in time and the scaling of the model's contract.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.errors import ContractError, SeriesTooShortError
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.pipelines.clean import clean_parcels
from neurostorm_app.pipelines.conformance import Findings, place_volumes
from neurostorm_app.pipelines.embed import Embedder, load_embedder
from neurostorm_app.pipelines.parcel_places import place_parcels
from neurostorm_app.pipelines.parcel_series import resample_parcels
from neurostorm_app.pipelines.parcellate import read_labels
from neurostorm_app.pipelines.prepare import Prepared, naming
from neurostorm_app.pipelines.prepare_parcels import keep_salient, plan_windows
from neurostorm_app.pipelines.regrid import time_step
from neurostorm_app.pipelines.scale_parcels import scale_parcels
from neurostorm_app.pipelines.series_table import read_series
from neurostorm_app.pipelines.stage import StandardSeries

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    from neurostorm_app.models.card import Card, Contract
    from neurostorm_app.pipelines.collect import RunEmbedding
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.stage import InputOptions

__all__ = [
    "ParcelTable",
    "SeriesEmbedder",
    "load_series_embedder",
    "prepare_table",
    "takes_any_parcels",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelTable(StandardSeries):
    """The extracted series of the parcels of a run; `bold` is their file, there is no image.

    Parameters
    ----------
    atlas : str
        What the parcels are of, such as ``4S456Parcels``.
    """

    atlas: str


def takes_any_parcels(contract: Contract) -> bool:
    """Tell whether a model takes the parcels of any atlas, so that no label image is needed."""
    return (
        isinstance(contract, ParcelContract)
        and contract.n_parcels is None
        and not contract.coordinates
    )


def load_series_embedder(
    card: Card,
    *,
    weights: Path | None = None,
    atlas: Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    options: InputOptions | None = None,
) -> SeriesEmbedder:
    """Load a model for series of parcels.

    Parameters
    ----------
    card : Card
        Of a model that takes parcels.
    weights : Path, optional
        The file of its weights.
    atlas : Path, optional
        The label image of its parcellation, for a model that is told where parcels are.
    device, precision : str
        As of `load_embedder`.
    options : InputOptions, optional
        What the user changed about how a run is made ready.

    Returns
    -------
    SeriesEmbedder
        Holds the network in memory.

    Raises
    ------
    ContractError
        If the model takes volumes.
    MissingWeightsError, WrongWeightsError, NoInputError, UsageError
        As of `load_embedder`.
    """
    if not isinstance(card.contract, ParcelContract):
        raise ContractError(
            f"{card.name} takes volumes; series of parcels have no meaning for it",
            fix="choose a model that takes parcels, such as connectome",
        )
    loaded = load_embedder(
        card, weights=weights, atlas=atlas, device=device, precision=precision, options=options
    )
    held = {part.name: getattr(loaded, part.name) for part in fields(loaded)}
    if takes_any_parcels(card.contract):  # the card's own parcellation has no part in it
        held |= {"atlas": None, "hashes": {**loaded.hashes, "atlas_sha256": None}}
    return SeriesEmbedder(**held)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEmbedder(Embedder):
    """A model that takes extracted series; made by `load_series_embedder`."""

    def embed_many(
        self,
        runs: Iterable[StandardSeries],
        *,
        batch: int | None = None,
        memory: int | None = None,
        n_threads: int | None = None,
    ) -> Generator[tuple[int, RunEmbedding | Exception]]:
        """Embed runs as one stream; the record names the atlas of a table."""
        atlases: list[str | None] = []

        def noted() -> Iterator[StandardSeries]:
            """Remember what the parcels of each run are of."""
            for run in runs:
                atlases.append(getattr(run, "atlas", None))
                yield run

        # A dataclass with slots is made twice, and `super()` means the first of them.
        stream = Embedder.embed_many(self, noted(), batch=batch, memory=memory, n_threads=n_threads)
        with closing(stream):
            for index, outcome in stream:
                if isinstance(outcome, Exception) or self.atlas is not None:
                    yield index, outcome
                else:
                    record = {**outcome.record, "atlas": atlases[index]}
                    yield index, replace(outcome, record=record)

    def _prepare(self, run: StandardSeries, *, room: int) -> Prepared:  # noqa: ARG002
        contract = self.card.contract
        if not isinstance(run, ParcelTable) or not isinstance(contract, ParcelContract):
            raise ContractError(
                f"{run.bold}: is not a table of parcels, which alone can be embedded here",
                fix="embed images by neurostorm-app, at the participant level",
            )
        with naming(run.bold):
            return prepare_table(run, contract, self.atlas, self.options)


def prepare_table(
    run: ParcelTable, contract: ParcelContract, atlas: Path | None, options: InputOptions
) -> Prepared:
    """Bring a table of series to a contract on parcels.

    Parameters
    ----------
    run : ParcelTable
        The table, with its repetition time and atlas.
    contract : ParcelContract
        What the model eats.
    atlas : Path or None
        The label image, for a model that is told where parcels are.
    options : InputOptions
        What the user changed.

    Returns
    -------
    Prepared
        Windows (V, L). Rows of missing parcels are 0.

    Raises
    ------
    SeriesTooShortError
        If there are fewer volumes than the contract asks for.
    ContractError
        If the parcels are not those of the contract.
    DataError
        If the table cannot be read.
    """
    findings = Findings()
    parcels = _read(run, contract, atlas, findings)
    n_in = parcels.series.shape[1]
    if n_in < contract.min_volumes:
        raise SeriesTooShortError(
            f"the series has {n_in} volumes; the model takes {contract.min_volumes} at least",
            fix="leave the run out",
        )
    how = contract.time_positions
    n_volumes = len(place_volumes(n_in, run, contract.tr, findings, how=how))
    findings.facts |= {"n_volumes_in": n_in, "n_volumes_used": n_volumes}
    starts, window = plan_windows(n_volumes, contract, tr=contract.tr or run.tr, findings=findings)
    xyz = place_parcels(atlas, contract, findings) if atlas else None
    parcels = resample_parcels(_clean(parcels, run, contract, findings), run, contract, findings)
    scaled = scale_parcels(
        parcels, contract, options, cohort=None, path=run.bold, findings=findings
    )
    rows = scaled.astype(np.float32)
    starts = keep_salient(rows, starts, contract, options, findings=findings)
    return Prepared(
        windows=(rows[:, start : start + window] for start in starts),
        starts=starts,
        window=window,
        step=time_step(n_in, n_volumes, run.tr, how=how),
        findings=findings,
        parcels=parcels,
        xyz=xyz,
        n_unused=findings.facts.get("n_unused", 0),
    )


def _read(
    run: ParcelTable, contract: ParcelContract, atlas: Path | None, findings: Findings
) -> Parcels:
    """Read a table, put its columns in the order of the labels, and tell what is missing."""
    parcels, names = read_series(run.bold)
    n_parcels = len(parcels.labels)
    if not takes_any_parcels(contract):
        _check(run, n_parcels, contract)
        parcels = _sort(parcels, names, atlas)
    missing = parcels.missing
    findings.facts |= {
        "input": "series of parcels, as they were extracted",
        "atlas_in": run.atlas,
        "space_in": run.space,
        "n_parcels": n_parcels,
        "missing_parcels": missing,
    }
    findings.deviations["parcels"] = len(missing) / n_parcels
    if missing:
        findings.reasons.append(
            f"{len(missing)} of {n_parcels} parcels are missing and count as 0: they have no "
            "values, or do not vary"
        )
    return parcels


def _check(run: ParcelTable, n_parcels: int, contract: ParcelContract) -> None:
    if run.atlas != contract.atlas:
        raise ContractError(
            f"the parcels are of {run.atlas}; the model takes those of {contract.atlas}",
            fix="extract the series with that parcellation, or choose connectome, which takes any",
        )
    if n_parcels != contract.n_parcels:
        raise ContractError(
            f"there are {n_parcels} columns; the model takes the {contract.n_parcels} parcels of "
            f"{contract.atlas}",
            fix="give one column a parcel, n/a where a parcel is not covered",
        )


def _sort(parcels: Parcels, names: tuple[str, ...], atlas: Path | None) -> Parcels:
    """Bring columns that are named by labels to the order of the label image."""
    if atlas is None:
        return parcels
    volume, _ = read_labels(atlas)
    labels = np.unique(volume[volume > 0])
    order = np.argsort(parcels.labels, kind="stable")
    if names and not np.array_equal(parcels.labels[order], labels):
        raise ContractError(
            f"the columns are not named by the {len(labels)} labels of {atlas.name}",
            fix="name each column by the value of its parcel in the label image",
        )
    return replace(parcels, series=parcels.series[order], labels=labels)


def _clean(
    parcels: Parcels, run: ParcelTable, contract: ParcelContract, findings: Findings
) -> Parcels:
    parcels, notes = clean_parcels(parcels, None, tr=run.tr, cleaning=contract.cleaning)
    wanted = list(contract.cleaning.confounds)
    findings.facts["missing_confounds"] = wanted
    findings.deviations["confounds"] = float(bool(wanted))
    if wanted:
        findings.reasons.append(
            f"not cleaned of {', '.join(wanted)}: only the series were given, and what was taken "
            "off them before is not known here"
        )
    findings.reasons.extend(notes)
    return parcels
