"""The verb ``embed-series``: run embeddings of parcel series that somebody has extracted.

No image is read. What is written has our names and sidecars, so that the group level takes it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import CannotCreateError, DataError, NoInputError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from neurostorm_app.bids_app.engines import Engines, ModelFiles
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.bids_app.results import Progress
    from neurostorm_app.bids_app.settings import Settings
    from neurostorm_app.errors import AppError
    from neurostorm_app.pipelines.embed_series import ParcelTable

__all__ = [
    "add_series",
    "call_series",
    "check_places",
    "make_call",
    "open_tables",
    "read_links",
]

log = logging.getLogger(__name__)

PER_PROCESS = 2**30
"""Bytes of memory that models of parcels need at least."""


def add_series(verb: Any) -> None:
    """Add the arguments of the verb to its parser."""
    verb.add_argument(
        "tables",
        type=Path,
        nargs="+",
        metavar="TABLE",
        help="sub-*_atlas-*_timeseries.tsv as of XCP-D or of --denoise, one row a volume and one "
        "column a parcel; or .npy, or .npz with one array, of floats, (volumes, parcels)",
    )
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    verb.add_argument(
        "--models",
        nargs="+",
        default=["connectome"],
        metavar="NAME",
        help="models that take parcels; default connectome, which takes those of any atlas",
    )
    verb.add_argument(
        "--tr", type=float, metavar="S", help="repetition time, where no sidecar says it"
    )
    verb.add_argument(
        "--atlas-name", metavar="NAME", help="of the parcels, where the file names do not say it"
    )
    verb.add_argument("--weights-dir", type=Path, metavar="DIR", help="where weights lie")
    verb.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu or cuda")


def call_series(asked: argparse.Namespace) -> None:
    """Do what the verb asks for; a table that cannot be embedded does not stop the others.

    Parameters
    ----------
    asked : Namespace
        What `add_series` defines.

    Raises
    ------
    AppError
        If a model is unknown or takes no parcels, nothing could be started, or, when all else is
        done, a table could not be embedded.
    """
    from neurostorm_app.bids_app.describe import describe_output
    from neurostorm_app.bids_app.logs import to_terminal
    from neurostorm_app.bids_app.participant.series_tables import embed_tables, series_engines

    to_terminal(0)
    engines = series_engines()
    out = asked.out.resolve()
    tables, failed = open_tables(asked)
    roots = check_places(tables, out)
    settings = _settings(asked, roots)
    models = _find_models(settings, engines)
    call = make_call(settings, engines, models)
    free = [table for table in tables if _note_taken(table, call, failed)]
    describe_output(out, roots)
    progress = embed_tables(free, call)
    _finish(progress, failed, asked=len(asked.tables), models=models, out=out)


def open_tables(asked: argparse.Namespace) -> tuple[list[ParcelTable], dict[str, AppError]]:
    """Read names and sidecars of the tables of a call, one a run.

    Parameters
    ----------
    asked : Namespace
        With ``tables``, ``tr`` and ``atlas_name``.

    Returns
    -------
    tables : list of ParcelTable
        One at least.
    failed : dict of str to AppError
        Why others cannot be used, by file name.

    Raises
    ------
    NoInputError, UsageError
        If one is not there, lacks its atlas or repetition time, or two are of one run.
    DataError
        If none can be used.
    """
    from neurostorm_app.bids_app.participant.series_tables import open_table

    tables: dict[str, ParcelTable] = {}
    failed: dict[str, AppError] = {}
    for path in dict.fromkeys(path.absolute() for path in asked.tables):
        if not path.is_file():
            raise NoInputError(f"{path}: there is no such table", fix="check the path")
        try:
            table = open_table(path, tr=asked.tr, atlas=asked.atlas_name)
        except DataError as error:
            log.warning("%s: left out: %s", path.name, error.what)
            failed[path.name] = error
            continue
        if table.name in tables:
            raise UsageError(
                f"{tables[table.name].bold} and {path} are both series of {table.name}",
                fix="give one table a run: choose one atlas, one strategy",
            )
        tables[table.name] = table
    if not tables:
        raise next(iter(failed.values()))
    return list(tables.values()), failed


def check_places(tables: Sequence[ParcelTable], out: Path) -> dict[str, Path]:
    """Check the output folder, and name the datasets that the tables lie in.

    Raises
    ------
    CannotCreateError
        If it is inside of one of them, belongs to something else, or cannot be written.
    """
    from neurostorm_app.bids_app.describe import check_output_dir, check_owner
    from neurostorm_app.bids_app.participant.series_tables import name_roots, root_of

    roots = [root for root in dict.fromkeys(root_of(t.bold) for t in tables) if root != out]
    for root in roots or [out.parent / "nowhere"]:
        check_output_dir(out, root, None)
    check_owner(out)
    return name_roots(roots, read_links(out))


def read_links(root: Path) -> dict[str, Path]:
    """Read where the datasets lie that an output folder was made from.

    Parameters
    ----------
    root : Path
        The output folder.

    Returns
    -------
    dict of str to Path
        Folders by the name in BIDS URIs, of those ``DatasetLinks`` that are paths.
    """
    from neurostorm_app.bids_app.inputs.links import unquoted

    path = root / "dataset_description.json"
    if not path.is_file():
        return {}
    links = json.loads(path.read_text(encoding="utf-8-sig")).get("DatasetLinks", {})
    paths = {name: unquoted(link) for name, link in links.items() if "://" not in link}
    return {name: _lexically(root / link) for name, link in paths.items()}


def _lexically(path: Path) -> Path:
    """Take ``..`` out of a path without looking at the disk: datasets are full of links."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return Path(*parts)


def _settings(asked: argparse.Namespace, roots: Mapping[str, Path]) -> Settings:
    from neurostorm_app.bids_app.settings import build_settings

    options: dict[str, Any] = {
        "models": tuple(asked.models),
        "derivatives": dict(roots),
        "device": asked.device,
        "skip_bids_validation": True,
    }
    if asked.weights_dir is not None:
        options["weights_dir"] = asked.weights_dir
    first = next(iter(roots.values()), asked.out.resolve())
    return build_settings(first, asked.out, "participant", options)


def _find_models(settings: Settings, engines: Engines) -> tuple[ModelFiles, ...]:
    from neurostorm_app.bids_app.participant.series_tables import without_atlas
    from neurostorm_app.models import read_card

    for name in settings.science.models:
        if read_card(name).contract.kind != "parcels":
            raise UsageError(
                f"{name} takes volumes; it cannot embed series of parcels",
                fix="choose a model that takes parcels, such as connectome",
            )
    names = dict.fromkeys(settings.science.models)
    return tuple(without_atlas(engines.find_model(name, settings.science)) for name in names)


def make_call(settings: Settings, engines: Engines, models: tuple[ModelFiles, ...]) -> Call:
    """Make what all tables of a call share."""
    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.bids_app.provenance import Ledger
    from neurostorm_app.pipelines.resources import detect, plan

    execution, out = settings.execution, settings.output_dir
    resources = plan(
        detect(),
        nprocs=1,
        nthreads=execution.omp_nthreads,
        memory=execution.memory,
        per_process=PER_PROCESS,
    )
    return Call(
        settings=settings,
        engines=engines,
        ledger=Ledger(out),
        plan=resources,
        models=models,
        missing={},
        scratch=out,
        series_dir=out,
    )


def _note_taken(table: ParcelTable, call: Call, failed: dict[str, AppError]) -> bool:
    """Tell whether a run may be embedded; not where its place holds an embedding of other files."""
    from neurostorm_app.bids_app.inputs.sidecars import read_object
    from neurostorm_app.bids_app.participant.units import embedding_paths

    for files in call.models:
        sidecar = embedding_paths(table, files.card.label, call.root)["run_json"]
        sources = read_object(sidecar).get("Sources") if sidecar.is_file() else None
        if sources not in (None, [call.uri(table.bold)]):
            failed[table.name] = CannotCreateError(
                f"{sidecar} is of other files: {sources}",
                fix="choose another output folder, or remove that embedding",
            )
            log.warning("%s failed: %s", table.name, failed[table.name].what)
            return False
    return True


def _finish(
    progress: Mapping[str, Progress],
    failed: Mapping[str, AppError],
    *,
    asked: int,
    models: Sequence[ModelFiles],
    out: Path,
) -> None:
    """Say what was done; raise if a table could not be embedded."""
    errors = dict(failed) | {n: run.errors[0] for n, run in progress.items() if run.errors}
    done = [name for name, run in progress.items() if not run.errors]
    people = {name.partition("_")[0] for name in done}
    names = ", ".join(files.card.name for files in models)
    print(f"{out}: {len(done)} runs of {len(people)} participants embedded by {names}")
    if errors:
        name, first = next(iter(errors.items()))
        raise DataError(
            f"{len(errors)} of {asked} tables were not embedded, the first is {name}: {first.what}",
            fix=f"{first.fix}. The others have their embeddings",
        )
