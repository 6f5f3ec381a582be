"""From a run to its description: parcels, cleaning, networks, components, a reference.

Parcels are averaged and cleaned as for the connectome, by its card: detrended, 0.008 to 0.1 Hz,
motion, white matter and fluid taken off. Series that somebody has extracted take the place of what
parcellation would give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from neurostorm_app.errors import DataError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines.describe import Description, describe
from neurostorm_app.pipelines.describe_networks import digest_networks, plain
from neurostorm_app.pipelines.describe_reference import name_differing
from neurostorm_app.pipelines.describe_values import FAST, measure_components
from neurostorm_app.pipelines.embed_series import ParcelTable, prepare_table
from neurostorm_app.pipelines.prepare_parcels import prepare_parcels
from neurostorm_app.pipelines.series_table import read_series
from neurostorm_app.pipelines.stage import InputOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.models.card import ParcelContract
    from neurostorm_app.pipelines.describe_networks import Networks
    from neurostorm_app.pipelines.describe_reference import Reference
    from neurostorm_app.pipelines.parcellate import Parcels
    from neurostorm_app.pipelines.prepare import Prepared
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["VERSION", "DescribedRun", "describe_run", "recipe"]

VERSION: Final = 1
"""Of the numbers: it changes when one of them is measured otherwise."""
TOLD: Final = ("space_in", "mask", "n_volumes_in", "missing_parcels", "missing_confounds")
"""What is told of how a run was made ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedRun:
    """A description, and what it was made of.

    Parameters
    ----------
    description : Description
        Numbers and words.
    basis : mapping
        What must be the same where two descriptions are compared; values are JSON's.
    facts : mapping
        How the run was made ready.
    """

    description: Description
    basis: Mapping[str, Any]
    facts: Mapping[str, Any]


def recipe() -> ParcelContract:
    """Give what says how series are cleaned: the contract of the connectome."""
    return cast("ParcelContract", read_card("connectome").contract)


def describe_run(
    run: StandardSeries,
    *,
    label: str,
    networks: Networks,
    atlas: Path | None = None,
    components: Path | None = None,
    reference: Reference | None = None,
) -> DescribedRun:
    """Describe a run.

    Parameters
    ----------
    run : StandardSeries
        Preprocessed, in a standard space; or a table of parcel series.
    label : str
        Of the atlas.
    networks : Networks
        Of its parcels.
    atlas : Path, optional
        Label image; a table needs none.
    components : Path, optional
        Time courses of components of the run, as `read_series` takes them.
    reference : Reference, optional
        Of a cohort. It is left out, with a note, where it was made of something else.

    Returns
    -------
    DescribedRun
        The same for the same files.

    Raises
    ------
    CorruptImageError, ContractError, SeriesTooShortError
        If the series cannot be brought to parcels.
    DataError
        If there are too few parcels or volumes, or the components are of another run.
    """
    prepared, keys, of = _prepare(run, atlas, networks)
    facts = prepared.findings.facts
    basis = {
        "Version": VERSION,
        "Atlas": label,
        "NetworksSHA256": digest_networks(keys, of),
        "Cleaning": recipe().cleaning.model_dump(mode="json"),
        "ConfoundsMissing": list(facts.get("missing_confounds", [])),
    }
    notes: list[str] = []
    if reference is not None and (other := name_differing(basis, reference.basis)):
        notes.append(f"not compared: the reference differs in {other}")
        reference = None
    n_volumes = facts["n_volumes_in"]
    courses = _measure(components, run, n_volumes, notes) if components else None
    parcels = cast("Parcels", prepared.parcels)
    series = np.asarray(parcels.series, dtype=np.float64)
    found = describe(series, of, tr=run.tr, components=courses, reference=reference)
    # Missing parcels are left out here: what is said of them for embedding, where they count as 0,
    # is not true.
    said = [why for why in prepared.findings.reasons if "parcels are missing" not in why]
    return DescribedRun(
        description=replace(found, notes=(*found.notes, *notes)),
        basis=basis,
        facts={**{name: facts[name] for name in TOLD if name in facts}, "notes": said},
    )


def _prepare(
    run: StandardSeries, atlas: Path | None, networks: Networks
) -> tuple[Prepared, Sequence[object], list[str | None]]:
    """Make the parcels ready; give what each is called, and its network."""
    if isinstance(run, ParcelTable):
        prepared = prepare_table(run, recipe(), None, InputOptions())
        parcels, names = read_series(run.bold)
        return (
            prepared,
            names or parcels.labels.tolist(),
            networks.of_columns(names, parcels.labels),
        )
    if atlas is None:
        raise DataError(
            f"{run.bold}: no label image was given to make its parcels from",
            fix="give a parcellation with a table of networks beside it",
        )
    prepared = prepare_parcels(run, recipe(), atlas, InputOptions())
    labels = cast("Parcels", prepared.parcels).labels.tolist()
    return prepared, labels, networks.of_labels(labels)


def _measure(
    path: Path, run: StandardSeries, n_volumes: int, notes: list[str]
) -> dict[str, dict[str, float]]:
    """Measure the time courses of components, by measure and by component."""
    courses, names = read_series(path)
    if courses.series.shape[1] != n_volumes:
        raise DataError(
            f"{path}: has {courses.series.shape[1]} rows; the run {run.name} has {n_volumes} "
            "volumes",
            fix="give the time courses of this very run, one row a volume",
        )
    called = [plain(name) for name in names] or [f"C{i:03d}" for i in courses.labels]
    if len(set(called)) < len(called):
        raise DataError(
            f"{path}: two of its columns have one name in letters and digits",
            fix="give each component a name of its own",
        )
    kept = np.flatnonzero(np.isfinite(courses.series).all(axis=1))
    if 0.5 / run.tr < FAST[1]:
        notes.append(
            f"the fast waves of components end at {0.5 / run.tr:.3f} Hz: a repetition time of "
            f"{run.tr:g} s holds no faster ones"
        )
    measured = measure_components(courses.series[kept], tr=run.tr)
    return {
        measure: {called[i]: float(value) for i, value in zip(kept, values, strict=True)}
        for measure, values in measured.items()
    }
