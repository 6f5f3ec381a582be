"""Tables of parcel series by their BIDS names, and the embedding of them as of any other run."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.engines import real_engines
from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.inputs.precomputed import Precomputed
from neurostorm_app.bids_app.inputs.sidecars import read_sidecar
from neurostorm_app.bids_app.participant.embedding import embed_runs
from neurostorm_app.bids_app.participant.units import ready_from_precomputed
from neurostorm_app.bids_app.results import Progress
from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.embed_series import ParcelTable, takes_any_parcels
from neurostorm_app.pipelines.header import check_tr
from neurostorm_app.pipelines.series_table import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.engines import Embed, Engines, ModelFiles
    from neurostorm_app.bids_app.participant.units import Call, Ready
    from neurostorm_app.bids_app.settings import Settings
    from neurostorm_app.pipelines.embed import RunEmbedding
    from neurostorm_app.pipelines.resources import Plan
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = [
    "embed_tables",
    "name_roots",
    "note_table",
    "open_table",
    "root_of",
    "series_engines",
    "without_atlas",
]

OF_TABLES: Final = frozenset(
    {"space", "res", "den", "desc", "suffix", "atlas", "seg", "label", "hemi", "cohort", "stat"}
)
"""Entities of a table that are not its run's."""
UNKNOWN: Final = "unknown"
"""Stands for the space where the name of a table does not say it."""
SAME: Final = 1e-3
"""Share by which two repetition times may differ that are one."""


def open_table(path: Path, *, tr: float | None = None, atlas: str | None = None) -> ParcelTable:
    """Read the name and the sidecar of a table of parcel series; its values are not read.

    Parameters
    ----------
    path : Path
        Such as ``sub-01_task-rest_space-S_atlas-A_stat-mean_timeseries.tsv``; also ``.npy`` and
        ``.npz``.
    tr : float, optional
        Repetition time in seconds, where its sidecar does not say it.
    atlas : str, optional
        What the parcels are of, where the name does not say it.

    Returns
    -------
    ParcelTable
        Of the run that the name says.

    Raises
    ------
    DataError
        If the name is not of BIDS or not of parcel series, or the repetition time makes no sense.
    UsageError
        If no atlas or repetition time is known, or two are that differ.
    """
    entities = parse_name(path)
    known = path.suffix in EXTENSIONS and entities["suffix"] == "timeseries"
    if not known or next(iter(entities)) != "sub" or entities.get("desc") == "confounds":
        raise DataError(
            f"{path}: its name is not that of parcel series",
            fix="expected sub-<label>_..._atlas-<label>_..._timeseries.tsv (or .npy, .npz)",
        )
    named = entities.get("atlas") or entities.get("seg")
    if (named or atlas) is None or (named and atlas and named != atlas):
        raise UsageError(
            f"{path}: its name says {f'the atlas {named}' if named else 'no atlas'}; "
            f"--atlas-name says {atlas or 'none'}",
            fix="name the atlas, in one of the two places",
        )
    run = {key: label for key, label in entities.items() if key not in OF_TABLES}
    return ParcelTable(
        name="_".join(f"{key}-{label}" for key, label in run.items()),
        bold=path,
        mask=None,
        confounds=None,
        tr=_repetition_time(path, tr),
        space=entities.get("space", UNKNOWN),
        res=entities.get("res", "native").lstrip("0") or "native",
        atlas=str(named or atlas),
    )


def _repetition_time(path: Path, given: float | None) -> float:
    sidecar = read_sidecar(path, root_of(path))
    said = sidecar.get("RepetitionTime")
    frequency = sidecar.get("SamplingFrequency")
    if said is None and isinstance(frequency, int | float) and frequency > 0:
        said = 1 / frequency
    if said is None and given is None:
        raise UsageError(
            f"{path}: no sidecar says its RepetitionTime, nor a SamplingFrequency in Hz",
            fix="give --tr in seconds, if it is that of all tables",
        )
    tr = check_tr(given if said is None else said, path)
    if given is not None and abs(given - tr) > SAME * tr:
        raise UsageError(
            f"{path}: its sidecar says a repetition time of {tr:g} s; --tr says {given:g} s",
            fix="leave --tr out, or repair the sidecar",
        )
    return tr


def root_of(path: Path) -> Path:
    """Find the folder of the dataset that a table lies in.

    Parameters
    ----------
    path : Path
        A file, resolved.

    Returns
    -------
    Path
        The nearest folder with a ``dataset_description.json``; else that of its participant's
        folder; else its own.
    """
    for folder in path.parents:
        if (folder / "dataset_description.json").is_file():
            return folder
    subject = next((f for f in path.parents if f.name.startswith("sub-")), None)
    return path.parent if subject is None else subject.parent


def name_roots(roots: Iterable[Path], links: Mapping[str, Path]) -> dict[str, Path]:
    """Give each folder of a dataset a name for BIDS URIs; one that has a name keeps it.

    Parameters
    ----------
    roots : iterable of Path
        Folders.
    links : mapping
        Folders that have a name.

    Returns
    -------
    dict
        Those of `roots`, by name.

    Examples
    --------
    >>> from pathlib import Path
    >>> [*name_roots([Path("/a/xcp d"), Path("/b/xcp d")], {})]
    ['xcpd', 'xcpd2']
    """
    names = {path: name for name, path in links.items() if name != "raw"}
    taken = {"raw", *links}
    for root in dict.fromkeys(roots):
        if root in names:
            continue
        stem = re.sub(r"[^0-9A-Za-z]", "", root.name) or "series"
        numbers = (f"{stem}{i}" for i in range(2, 10_000))
        name = stem if stem not in taken else next(n for n in numbers if n not in taken)
        names[root] = name
        taken.add(name)
    return {names[root]: root for root in dict.fromkeys(roots)}


def without_atlas(files: ModelFiles) -> ModelFiles:
    """Leave out the card's parcellation where a model takes any: the table has its own."""
    if takes_any_parcels(files.card.contract):
        return dataclasses.replace(files, atlas=None)
    return files


def series_engines(engines: Engines | None = None) -> Engines:
    """Take engines whose models eat tables of parcel series."""
    return dataclasses.replace(engines or real_engines(), load_model=_load_model)


def _load_model(files: ModelFiles, settings: Settings, plan: Plan) -> Embed:
    from neurostorm_app.pipelines.embed_series import load_series_embedder
    from neurostorm_app.pipelines.resources import find_device
    from neurostorm_app.pipelines.stage import InputOptions

    embedder = load_series_embedder(
        files.card,
        weights=files.weights,
        atlas=files.atlas,
        device=find_device(settings.execution.device),
        precision=settings.science.precision,
        options=InputOptions(
            gain=settings.science.input_gain, max_windows=settings.science.max_windows
        ),
    )

    def embed(
        runs: Iterable[StandardSeries],
    ) -> Generator[tuple[int, RunEmbedding | Exception]]:
        return embedder.embed_many(
            runs,
            batch=settings.execution.batch_size,
            memory=plan.memory,
            n_threads=plan.all_threads,
        )

    return embed


def embed_tables(
    tables: Sequence[ParcelTable], call: Call, *, notes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Progress]:
    """Embed tables with each model of a call, where that is not done yet.

    Parameters
    ----------
    tables : sequence of ParcelTable
        Of different runs.
    call : Call
        With `series_engines`.
    notes : mapping, optional
        What is to be known of a table, by the name of its run; by default what `note_table` says.

    Returns
    -------
    dict of str to Progress
        What came of each run.
    """
    progress = {table.name: Progress(table.name) for table in tables}
    makers = {
        table.name: partial(_ready, table, call, (notes or {}).get(table.name, note_table(table)))
        for table in tables
    }
    embed_runs(makers, progress, call)
    return progress


def note_table(table: ParcelTable) -> tuple[str, ...]:
    """Say what is to be known of a table."""
    said = f"series of parcels of {table.atlas} that were extracted before"
    unknown = "the space of the parcels is not known"
    return (said, unknown) if table.space == UNKNOWN else (said,)


def _ready(table: ParcelTable, call: Call, notes: Sequence[str], _: str) -> Ready:
    participant = parse_name(table.bold)["sub"]
    item = Precomputed(
        name=table.name,
        participant=participant,
        tree="",
        root=root_of(table.bold),
        series=table,
        notes=tuple(notes),
    )
    return ready_from_precomputed(item, call)
