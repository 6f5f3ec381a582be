"""What runs are described by: parcels with networks, a cohort, time courses of components."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.bids_app.participant.series_tables import OF_TABLES
from neurostorm_app.errors import AppError, NoInputError, UsageError
from neurostorm_app.pipelines.describe_cohort import choose_reference
from neurostorm_app.pipelines.describe_networks import find_table, read_networks
from neurostorm_app.pipelines.series_table import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.participant.units import Call
    from neurostorm_app.pipelines.describe_networks import Networks
    from neurostorm_app.pipelines.describe_reference import Reference

__all__ = ["Parcellation", "find_components", "find_parcellations", "with_cohort"]

COURSES: Final = frozenset({"mixing", "timeseries"})
"""Suffixes of tables of time courses; the first is tedana's and fMRIPrep's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcellation:
    """Parcels with networks, and what they are compared with.

    Parameters
    ----------
    label : str
        In ``atlas-<label>``.
    networks : Networks
        Of the parcels.
    path : Path or None
        The label image; None where parcels are columns of tables.
    space : str
        The standard space it lies in.
    reference : Reference or None
        Of a cohort.
    reference_path : Path or None
        Its table.
    """

    label: str
    networks: Networks
    path: Path | None = None
    space: str = ""
    reference: Reference | None = None
    reference_path: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Files that decide the numbers beside the run, by their role."""
        table = self.reference_path
        named = {
            "atlas": self.path,
            "networks": self.networks.path,
            "reference": table,
            "reference_people": table.with_suffix(".json") if table else None,
        }
        return {role: path for role, path in named.items() if path is not None}


def find_parcellations(call: Call) -> tuple[Parcellation, ...]:
    """Find those parcellations of the models of a call whose networks a table names.

    Parameters
    ----------
    call : Call
        What all participants share.

    Returns
    -------
    tuple of Parcellation
        One at least, with the reference that was given for it.

    Raises
    ------
    UsageError
        If no table names networks, or the reference is of none of the parcellations.
    NoInputError, DataError
        If a table, the reference or the folder of components cannot be read.
    """
    from neurostorm_app.bids_app.participant.denoising import find_atlases

    science, atlases = call.settings.science, find_atlases(call)
    tables = {atlas.label: find_table(atlas.path) for atlas in atlases}
    found = [
        Parcellation(
            label=atlas.label, networks=read_networks(table), path=atlas.path, space=atlas.space
        )
        for atlas in atlases
        if (table := tables[atlas.label]) is not None
    ]
    if not found:
        raise UsageError(
            "--describe: no table names the networks of "
            + ", ".join(str(atlas.path) for atlas in atlases),
            fix="give a label image with such a table beside it, as those of Schaefer's atlas in "
            "TemplateFlow or XCP-D: --atlas connectome=PATH",
        )
    if science.components is not None and not science.components.is_dir():
        raise NoInputError(
            f"--components: {science.components} is no folder of time courses",
            fix="check the path; is it mounted?",
        )
    return with_cohort(found, science.reference_descriptors)


def with_cohort(found: Sequence[Parcellation], given: Path | None) -> tuple[Parcellation, ...]:
    """Give each parcellation its reference.

    Parameters
    ----------
    found : sequence of Parcellation
        Without.
    given : Path or None
        A table or a folder of them.

    Raises
    ------
    UsageError
        If it is of none of them.
    NoInputError, DataError
        If it cannot be read.
    """
    if given is None:
        return tuple(found)
    chosen = {one.label: choose_reference(given, one.label) for one in found}
    if not any(chosen.values()):
        raise UsageError(
            f"{given}: is no reference of the atlas {', '.join(chosen)}",
            fix="make one of descriptions by that atlas: neurostorm-tools describe-reference",
        )
    return tuple(
        replace(one, reference_path=chosen_for[0], reference=chosen_for[1])
        if (chosen_for := chosen[one.label])
        else one
        for one in found
    )


def find_components(folder: Path, name: str) -> Path | None:
    """Find the time courses of the components of a run.

    Parameters
    ----------
    folder : Path
        Of tables, or of folders ``sub-<label>`` with tables somewhere in them.
    name : str
        Of the run.

    Returns
    -------
    Path or None
        None if there are none.

    Raises
    ------
    UsageError
        If there are two tables.
    """
    inside = folder / name.partition("_")[0]
    found = [*folder.glob(f"{name}_*"), *inside.rglob(f"{name}_*")]
    tables = sorted(path for path in found if path.suffix in EXTENSIONS and _is_of(path, name))
    if len(tables) > 1:
        raise UsageError(
            f"{folder}: two tables may hold the components of {name}: "
            + ", ".join(path.name for path in tables),
            fix="leave one of them there",
        )
    return tables[0] if tables else None


def _is_of(path: Path, name: str) -> bool:
    """Tell whether a table holds time courses of this very run, and not of parcels."""
    try:
        said = parse_name(path)
    except AppError:  # it is something else
        return False
    run = "_".join(f"{key}-{value}" for key, value in said.items() if key not in OF_TABLES)
    other = {"atlas", "seg"} & said.keys() or said.get("desc") == "confounds"
    return run == name and said["suffix"] in COURSES and not other
