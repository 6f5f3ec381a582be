"""Find the runs of a BIDS dataset: the only import of PyBIDS.

Only the folders of the requested participants are opened, nothing is written into the
dataset, and a run that cannot be used is kept with its error while the others go on.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.entities import matches, parse_name, read_filters
from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.precomputed import find_precomputed
from neurostorm_app.bids_app.values import LABEL, closest
from neurostorm_app.errors import AppError, BidsError, DataError, NoInputError, NothingSelectedError
from neurostorm_app.pipelines.header import check_present, check_tr, read_series_header
from neurostorm_app.pipelines.stage import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from neurostorm_app.bids_app.precomputed import Precomputed
    from neurostorm_app.bids_app.settings import Settings

__all__ = ["Found", "Participant", "find_runs", "list_participants", "read_sidecar"]

ALWAYS_IGNORED: Final = ("code", "derivatives", "sourcedata", "stimuli", "models")
SIDECAR_MAX: Final = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A participant and the runs to work on.

    Parameters
    ----------
    label : str
        Without ``sub-``.
    t1w : tuple of Path
        All T1-weighted images of the participant, whatever sessions are selected, so that
        the anatomy of a participant does not depend on the selection.
    raw : tuple of Run
        Runs to preprocess.
    precomputed : tuple of Precomputed
        Runs whose preprocessed series was found in a derivative.
    """

    label: str
    t1w: tuple[Path, ...]
    raw: tuple[Run, ...]
    precomputed: tuple[Precomputed, ...]


@dataclass(slots=True)
class Found:
    """What was found.

    Parameters
    ----------
    participants : list of Participant
        With at least one usable run each.
    failed : dict
        Errors by the name of the run, or of the participant if none of its runs is known.
    """

    participants: list[Participant] = field(default_factory=list)
    failed: dict[str, AppError] = field(default_factory=dict)


def list_participants(root: Path) -> list[str]:
    """List the labels of ``sub-*`` folders by name alone; nothing is opened."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries]
    labels = [name.removeprefix("sub-") for name in names if name.startswith("sub-")]
    return sorted(label for label in labels if LABEL.fullmatch(label))


def find_runs(settings: Settings) -> Found:
    """Find what the settings select.

    Raises
    ------
    NoInputError
        If there is no dataset, or no BOLD run in it.
    BidsError
        If the folder is not a BIDS dataset.
    NothingSelectedError
        If the selection leaves nothing.
    """
    root, selection = settings.bids_dir, settings.selection
    check_dataset(root, skip=settings.execution.skip_bids_validation)
    trees = settings.science.derivatives
    filters = read_filters(selection)
    here = set(list_participants(root)).union(*(list_participants(t) for t in trees.values()))
    wanted = selection.participant_label or tuple(sorted(here))
    found = Found()
    for label in wanted:
        if label not in here:
            found.failed[f"sub-{label}"] = _unknown_participant(label, here, root)
    labels = [label for label in wanted if label in here]
    files = _index(root, labels) if labels else {}
    for label in labels:
        given = find_precomputed(trees, label, settings.science.space, filters["bold"])
        _add_participant(found, label, files.get(label, ()), root, given, filters)
    if not found.participants and all(
        isinstance(error, NothingSelectedError) for error in found.failed.values()
    ):
        raise _nothing(found, root, selected=bool(selection.model_dump(exclude_defaults=True)))
    return found


def check_dataset(root: Path, *, skip: bool = False) -> None:
    """Refuse what is not a BIDS dataset, before anything expensive is imported."""
    if not root.is_dir():
        raise NoInputError(
            f"{root} is not a folder" if root.exists() else f"{root} does not exist",
            fix="give the folder of a BIDS dataset; in a container, is it mounted?",
        )
    if not skip and not (root / "dataset_description.json").is_file():
        raise BidsError(
            f"{root} is not a BIDS dataset: dataset_description.json is not there",
            fix="give the top folder of the dataset, the one with the sub- folders in it",
        )


def _index(root: Path, labels: Sequence[str]) -> dict[str, list[Path]]:
    """List the NIfTI files of some participants with PyBIDS, in memory."""
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    others = re.compile(rf"^/sub-(?!(?:{'|'.join(map(re.escape, labels))})(?:/|$))")
    ignored = [re.compile(rf"^/{name}(?:/|$)") for name in ALWAYS_IGNORED]
    hidden = re.compile(r"/\.")
    indexer = BIDSLayoutIndexer(
        validate=False, index_metadata=False, ignore=[others, hidden, *ignored]
    )
    layout = BIDSLayout(root, validate=False, indexer=indexer)
    files: dict[str, list[Path]] = {label: [] for label in labels}
    for label in labels:
        query = {"subject": label, "suffix": ["bold", "T1w"], "extension": [".nii", ".nii.gz"]}
        files[label] = sorted(Path(name) for name in layout.get(return_type="filename", **query))
    return files


def _add_participant(
    found: Found,
    label: str,
    files: Iterable[Path],
    root: Path,
    given: Mapping[str, Precomputed | AppError],
    filters: Mapping[str, Mapping[str, Any]],
) -> None:
    t1w, bold = _sort_files(found, files, filters)
    usable = dict(given)
    names = {name for name in bold if name not in usable}
    raw: list[Run] = []
    for name in sorted(names):
        try:
            raw.append(_build_run(name, label, bold, root=root, t1w=t1w))
        except (AppError, OSError) as error:
            found.failed[name] = as_app_error(error)
    for name, item in usable.items():
        if isinstance(item, AppError):
            found.failed[name] = item
    ready = tuple(item for item in usable.values() if not isinstance(item, AppError))
    if raw or ready:
        found.participants.append(
            Participant(label=label, t1w=tuple(t1w), raw=tuple(raw), precomputed=ready)
        )


def _sort_files(
    found: Found, files: Iterable[Path], filters: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Path], dict[str, Path]]:
    """Divide a participant's files into T1w images and BOLD series by name, and filter them."""
    t1w: list[Path] = []
    bold: dict[str, Path] = {}
    for path in files:
        try:
            entities = parse_name(path)
        except DataError as error:
            found.failed[path.name.partition(".")[0].removesuffix("_bold")] = error
            continue
        if entities["suffix"] == "T1w" and matches(entities, filters["t1w"]):
            t1w.append(path)
        if entities["suffix"] != "bold" or entities.get("part", "mag") != "mag":
            continue
        if matches(entities, filters["bold"]):
            bold[path.name.partition(".")[0].removesuffix("_bold")] = path
    return t1w, bold


def _build_run(
    name: str, participant: str, bold: Mapping[str, Path], *, root: Path, t1w: Sequence[Path]
) -> Run:
    path = bold[name]
    echoes = [other for other in bold if _without_echo(other) == _without_echo(name)]
    if len(echoes) > 1:
        raise DataError(
            f"{name} is one of {len(echoes)} echoes; echoes are not combined in this version",
            fix='choose one with --bids-filter-file, such as {"bold": {"echo": "2"}}, or give '
            "the combined series with --derivatives",
        )
    header = read_series_header(path)
    if not t1w:
        raise NoInputError(
            f"{path.name} has no T1w image beside it; raw series are brought to standard space "
            f"through the T1w image of sub-{participant}",
            fix="add the T1w image, or give preprocessed series with --derivatives",
        )
    for image in t1w:
        check_present(image)
    metadata = read_sidecar(path, root)
    tr = check_tr(metadata.get("RepetitionTime"), path)
    if header.tr is not None and abs(header.tr - tr) > 0.01 * tr:
        raise DataError(
            f"{path}: RepetitionTime is {tr:g} s in the sidecar and {header.tr:g} s in the header",
            fix="find out which is true and correct the other",
        )
    return Run(name=name, participant=participant, bold=path, tr=tr, metadata=metadata)


def _without_echo(name: str) -> str:
    return re.sub(r"_echo-[0-9]+", "", name)


def read_sidecar(path: Path, root: Path) -> dict[str, Any]:
    """Read the metadata of a file with BIDS inheritance: the nearer file wins.

    Raises
    ------
    DataError
        If a sidecar is not a JSON object.
    """
    entities = parse_name(path)
    folders = [folder for folder in (path, *path.parents) if folder.is_relative_to(root)][1:]
    metadata: dict[str, Any] = {}
    for folder in reversed(folders):
        candidates = sorted(folder.glob(f"*{entities['suffix']}.json"), key=lambda p: len(p.name))
        for candidate in candidates:
            if _applies(candidate, entities):
                metadata |= _read_object(candidate)
    return metadata


def _applies(sidecar: Path, entities: Mapping[str, str]) -> bool:
    if sidecar.name.startswith("."):
        return False
    stem = sidecar.name.partition(".")[0]
    if stem == entities["suffix"]:
        return True
    try:
        of = parse_name(sidecar)
    except DataError:
        return False
    return of.items() <= entities.items()


def _read_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > SIDECAR_MAX:
            raise DataError(f"{path} is larger than 16 MiB", fix="a sidecar holds a few lines")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not JSON: {error}", fix="repair the file") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}; expected a JSON object", fix="repair it"
        )
    return content


def _unknown_participant(label: str, here: set[str], root: Path) -> NothingSelectedError:
    some = ", ".join(sorted(here)[:5]) + (", ..." if len(here) > 5 else "")
    return NothingSelectedError(
        f"participant {label!r} is not in {root}; there are {len(here)}: {some or 'none'}",
        fix=closest(label, here) or "check --participant-label",
    )


def _nothing(found: Found, root: Path, *, selected: bool) -> AppError:
    if found.failed:
        return next(iter(found.failed.values()))
    if selected:
        return NothingSelectedError(
            f"the selection leaves no BOLD run of {root}",
            fix="loosen --participant-label, --session-label, --task-label, --run-label or the "
            "filter file",
        )
    return NoInputError(
        f"{root} holds no BOLD run; expected sub-*/[ses-*/]func/*_bold.nii[.gz]",
        fix="this app works on BOLD series; add them, or give others with --derivatives",
    )
