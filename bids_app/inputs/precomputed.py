"""Find preprocessed series in fMRIPrep-like folders, by their names.

What fMRIPrep, DeepPrep or an earlier call of ours has made is not made again. Such folders
are often incomplete: a missing mask or table of confounds is noted, not invented.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.inputs.entities import matches, parse_name
from neurostorm_app.bids_app.inputs.misnamed import name_misnamed
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.errors import AppError, DataError
from neurostorm_app.pipelines.header import check_present, check_tr, read_series_header
from neurostorm_app.pipelines.stage import StandardSeries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.pipelines.stage import OutputSpace

__all__ = ["Precomputed", "find_precomputed"]

SPACES: Final = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
RESOLUTIONS: Final = ("2", "02", None)
LATER: Final = ("space", "res", "den", "desc", "suffix", "atlas", "seg", "label", "hemi", "cohort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Precomputed:
    """A run whose preprocessed series lies in a derivative.

    Parameters
    ----------
    name : str
        The label of the run, as of the raw file.
    participant : str
        Without ``sub-``.
    tree : str
        Name of the derivative, as in ``bids:<tree>:path``.
    root : Path
        Its folder.
    series : StandardSeries
        The files.
    notes : tuple of str
        What is missing or was taken from elsewhere.
    """

    name: str
    participant: str
    tree: str
    root: Path
    series: StandardSeries
    notes: tuple[str, ...] = ()


def find_precomputed(
    trees: Mapping[str, Path],
    participant: str,
    spaces: Sequence[OutputSpace],
    filters: Mapping[str, Any],
) -> dict[str, Precomputed | AppError]:
    """Find the best preprocessed series of each run of a participant.

    Parameters
    ----------
    trees : mapping
        Folders by name; the first that has a run wins.
    participant : str
        Without ``sub-``.
    spaces : sequence of OutputSpace
        Spaces that are preferred, the first most.
    filters : mapping
        Entity filters of BOLD files.

    Returns
    -------
    dict
        By the name of the run; an error where its files cannot be used, and for each file whose
        name is not BIDS.
    """
    asked = [space.name for space in spaces if space.name in SPACES]
    preferred = list(dict.fromkeys([*asked, *SPACES]))
    found: dict[str, Precomputed | AppError] = {}
    for tree, root in trees.items():
        for name, paths in _series_by_run((tree, root), participant, filters, found).items():
            best = min(paths, key=lambda path: _rank(parse_name(path), preferred))
            try:
                found[name] = _build(name, best, tree=tree, root=root)
            except (AppError, OSError) as error:
                found[name] = as_app_error(error)
    return found


def _series_by_run(
    named: tuple[str, Path],
    participant: str,
    filters: Mapping[str, Any],
    found: dict[str, Precomputed | AppError],
) -> dict[str, list[Path]]:
    """Find the series of runs that no derivative before has; wrong names are noted in `found`."""
    tree, root = named
    pattern = f"sub-{participant}_*_desc-preproc_bold.nii*"
    folder = root / f"sub-{participant}"
    paths = [*folder.glob(f"func/{pattern}"), *folder.glob(f"ses-*/func/{pattern}")]
    runs: dict[str, list[Path]] = {}
    for path in sorted(paths):
        try:
            entities = parse_name(path)
        except AppError as error:
            found[name_misnamed(path, tree=tree)] = error
            continue
        if _run_name(entities) in found:
            continue
        known = entities.get("space") in SPACES and entities.get("res") in RESOLUTIONS
        if known and matches(entities, filters):
            runs.setdefault(_run_name(entities), []).append(path)
    return runs


def _run_name(entities: Mapping[str, str]) -> str:
    return "_".join(f"{key}-{value}" for key, value in entities.items() if key not in LATER)


def _rank(entities: Mapping[str, str], spaces: list[str]) -> tuple[int, int]:
    return spaces.index(entities["space"]), RESOLUTIONS.index(entities.get("res"))


def _build(name: str, bold: Path, *, tree: str, root: Path) -> Precomputed:
    entities = parse_name(bold)
    header = read_series_header(bold)
    notes: list[str] = []
    stem = bold.name.partition("_desc-preproc_bold.")[0]
    mask = _first(bold.parent, f"{stem}_desc-brain_mask.nii.gz", f"{stem}_desc-brain_mask.nii")
    confounds = _first(
        bold.parent,
        f"{name}_desc-confounds_timeseries.tsv",
        f"{name}_desc-confounds_regressors.tsv",
    )
    notes += ["no brain mask"] * (mask is None) + ["no confounds"] * (confounds is None)
    tr = _sidecar_tr(bold)
    if tr is None:
        notes.append("repetition time taken from the header of the series")
        tr = header.tr
    series = StandardSeries(
        name=name,
        bold=bold,
        mask=mask,
        confounds=confounds,
        tr=check_tr(tr, bold),
        space=entities["space"],
        res=(entities.get("res") or "native").lstrip("0"),
    )
    return Precomputed(
        name=name,
        participant=entities["sub"],
        tree=tree,
        root=root,
        series=series,
        notes=tuple(notes),
    )


def _first(folder: Path, *names: str) -> Path | None:
    """Find a file by its names; one whose content is elsewhere is not taken for none."""
    path = next((folder / name for name in names if os.path.lexists(folder / name)), None)
    if path is not None:
        check_present(path)
        if not path.is_file():
            raise DataError(f"{path} is no ordinary file; expected one", fix="take it away")
    return path


def _sidecar_tr(bold: Path) -> object:
    sidecar = bold.with_name(bold.name.partition(".")[0] + ".json")
    if not os.path.lexists(sidecar):
        return None
    return read_object(sidecar).get("RepetitionTime")
