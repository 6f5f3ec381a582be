"""The verb ``describe``: connectivity in numbers and words, of parcel series extracted before.

No image is read. What is written has the names and sidecars of ``neurostorm-app --describe``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import CannotCreateError, DataError, NoInputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from neurostorm_app.bids_app.participant.parcellations import Parcellation
    from neurostorm_app.bids_app.participant.units import Call, Ready
    from neurostorm_app.bids_app.results import Progress
    from neurostorm_app.errors import AppError
    from neurostorm_app.pipelines.describe_networks import Networks
    from neurostorm_app.pipelines.embed_series import ParcelTable

__all__ = ["add_describe", "call_describe"]


def add_describe(verb: Any) -> None:
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
        "--networks",
        type=Path,
        metavar="TABLE",
        help="index (or name) of each parcel and its network, as atlas-*_dseg.tsv of XCP-D and "
        "TemplateFlow; default: what the names of the columns say (7Networks_LH_Vis_1)",
    )
    verb.add_argument(
        "--tr", type=float, metavar="S", help="repetition time, where no sidecar says it"
    )
    verb.add_argument(
        "--atlas-name", metavar="NAME", help="of the parcels, where the file names do not say it"
    )
    verb.add_argument(
        "--reference-descriptors",
        type=Path,
        metavar="PATH",
        help="a table of describe-reference, or a folder of them; default: nothing is compared",
    )
    verb.add_argument(
        "--components",
        type=Path,
        metavar="DIR",
        help="time courses of components of the runs (<run>_..._mixing.tsv), to describe too",
    )


def call_describe(asked: argparse.Namespace) -> None:
    """Do what the verb asks for; a table that cannot be described does not stop the others.

    Parameters
    ----------
    asked : Namespace
        What `add_describe` defines.

    Raises
    ------
    AppError
        If nothing could be started, or, when all else is done, a table could not be described.
    """
    from neurostorm_app.bids_app.describe import describe_output
    from neurostorm_app.bids_app.engines import real_engines
    from neurostorm_app.bids_app.logs import to_terminal
    from neurostorm_app.bids_app.participant.describing import describe_runs
    from neurostorm_app.bids_app.results import Progress
    from neurostorm_app.bids_app.verbs.series import check_places, make_call, open_tables

    to_terminal(0)
    out = asked.out.resolve()
    tables, failed = open_tables(asked)
    by_atlas = _choose(asked, tables)
    roots = check_places(tables, out)
    call = make_call(_settings(asked, roots), real_engines(), ())
    free = [table for table in tables if _note_taken(table, call, failed)]
    describe_output(out, roots)
    progress: dict[str, Progress] = {}
    for table in free:
        progress[table.name] = Progress(table.name)
        makers = {table.name: partial(_ready, table, call)}
        describe_runs(makers, progress, call, [by_atlas[table.atlas]])
    _finish(progress, failed, asked=len(asked.tables), out=out)


def _choose(asked: argparse.Namespace, tables: list[ParcelTable]) -> dict[str, Parcellation]:
    """Find the networks of each atlas of the tables, and what it is compared with."""
    from neurostorm_app.bids_app.participant.parcellations import Parcellation, with_cohort
    from neurostorm_app.pipelines.describe_networks import read_networks

    if asked.components is not None and not asked.components.is_dir():
        raise NoInputError(
            f"{asked.components}: is no folder of time courses of components",
            fix="check the path",
        )
    given = read_networks(asked.networks) if asked.networks is not None else None
    first = {table.atlas: table for table in reversed(tables)}
    found = [
        Parcellation(label=atlas, networks=given or _from_columns(table))
        for atlas, table in first.items()
    ]
    return {one.label: one for one in with_cohort(found, asked.reference_descriptors)}


def _from_columns(table: ParcelTable) -> Networks:
    """Read the networks from the names of the columns of a table."""
    from neurostorm_app.pipelines.describe_networks import Networks
    from neurostorm_app.pipelines.describe_values import find_network
    from neurostorm_app.pipelines.series_table import read_series

    _, names = read_series(table.bold)
    by_name = {name: find_network(name) for name in names}
    if not any(by_name.values()):
        raise NoInputError(
            f"{table.bold}: the names of its columns tell no networks",
            fix="give --networks, a table with the index and the network of each parcel",
        )
    return Networks(path=None, by_index={}, by_name=by_name)


def _settings(asked: argparse.Namespace, roots: Mapping[str, Path]) -> Any:
    from neurostorm_app.bids_app.settings import build_settings

    options: dict[str, Any] = {
        "derivatives": dict(roots),
        "describe": True,
        "skip_bids_validation": True,
    }
    for name in ("reference_descriptors", "components"):
        if getattr(asked, name) is not None:
            options[name] = getattr(asked, name).resolve()
    first = next(iter(roots.values()), asked.out.resolve())
    return build_settings(first, asked.out, "participant", options)


def _ready(table: ParcelTable, call: Call, _: str) -> Ready:
    from neurostorm_app.bids_app.inputs.entities import parse_name
    from neurostorm_app.bids_app.inputs.precomputed import Precomputed
    from neurostorm_app.bids_app.participant.series_tables import note_table, root_of
    from neurostorm_app.bids_app.participant.units import ready_from_precomputed

    item = Precomputed(
        name=table.name,
        participant=parse_name(table.bold)["sub"],
        tree="",
        root=root_of(table.bold),
        series=table,
        notes=note_table(table),
    )
    return ready_from_precomputed(item, call)


def _note_taken(table: ParcelTable, call: Call, failed: dict[str, AppError]) -> bool:
    """Tell whether a run may be described; not where its place is that of other files."""
    from neurostorm_app.bids_app.inputs.sidecars import read_object
    from neurostorm_app.bids_app.participant.descriptor_files import descriptor_paths

    sidecar = descriptor_paths(table, table.atlas, call.root)["sidecar"]
    sources = read_object(sidecar).get("Sources") if sidecar.is_file() else None
    if sources is None or call.uri(table.bold) in sources:
        return True
    failed[table.name] = CannotCreateError(
        f"{sidecar} describes other files: {sources}",
        fix="choose another output folder, or remove that description",
    )
    return False


def _finish(
    progress: Mapping[str, Progress],
    failed: Mapping[str, AppError],
    *,
    asked: int,
    out: Path,
) -> None:
    """Say what was done; raise if a table could not be described."""
    errors = dict(failed) | {n: run.errors[0] for n, run in progress.items() if run.errors}
    done = [name for name, run in progress.items() if not run.errors]
    people = {name.partition("_")[0] for name in done}
    print(f"{out}: {len(done)} runs of {len(people)} participants described")
    if errors:
        name, first = next(iter(errors.items()))
        raise DataError(
            f"{len(errors)} of {asked} tables were not described, the first is {name}: "
            f"{first.what}",
            fix=f"{first.fix}. The others have their descriptions",
        )
