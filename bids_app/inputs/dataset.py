"""Find the runs of a BIDS dataset.

Only the folders of the requested participants are opened, nothing is written into the
dataset, and a run that cannot be used is kept with its error while the others go on.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.inputs.acquisitions import build_run, sort_files
from neurostorm_app.bids_app.inputs.database import read_database
from neurostorm_app.bids_app.inputs.entities import read_filters
from neurostorm_app.bids_app.inputs.given import find_anatomy, find_fit, find_root
from neurostorm_app.bids_app.inputs.listing import list_images
from neurostorm_app.bids_app.inputs.precomputed import find_precomputed
from neurostorm_app.bids_app.inputs.sidecars import Sidecars
from neurostorm_app.bids_app.words.suggestions import ASKED, suggest_label
from neurostorm_app.bids_app.words.values import LABEL, closest
from neurostorm_app.errors import AppError, BidsError, NoInputError, NothingSelectedError
from neurostorm_app.pipelines.header import check_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.inputs.acquisitions import Files
    from neurostorm_app.bids_app.inputs.given import Given
    from neurostorm_app.bids_app.inputs.precomputed import Precomputed
    from neurostorm_app.bids_app.settings import Selection, Settings
    from neurostorm_app.pipelines.stage import Run

__all__ = ["Found", "Participant", "find_runs", "list_participants"]

log = logging.getLogger(__name__)


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
    anat : Given or None
        Anatomy that was found in a derivative.
    fits : mapping of str to Given
        What a derivative holds of the estimates of raw runs, by the name of the run.
    """

    label: str
    t1w: tuple[Path, ...]
    raw: tuple[Run, ...]
    precomputed: tuple[Precomputed, ...]
    anat: Given | None = None
    fits: Mapping[str, Given] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """What was found.

    Parameters
    ----------
    participants : list of Participant
        With at least one usable run each.
    failed : dict
        Errors by the name of the run, or of the participant if none of its runs is known.
    listed : set of str
        Labels of participants whose images were listed to the end, with runs or without.
    """

    participants: list[Participant] = field(default_factory=list)
    failed: dict[str, AppError] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)


def list_participants(root: Path) -> list[str]:
    """List the labels of ``sub-*`` folders by name alone; nothing is opened."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries]
    labels = [name.removeprefix("sub-") for name in names if name.startswith("sub-")]
    return sorted(label for label in labels if LABEL.fullmatch(label))


def find_runs(settings: Settings, *, look: Callable[[Found], None] | None = None) -> Found:
    """Find what the settings select.

    Parameters
    ----------
    settings : Settings
        Dataset and selection.
    look : callable or None
        Is shown what was found, even if it is going to be refused.

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
    trees = {name: find_root(tree) for name, tree in settings.science.derivatives.items()}
    filters = read_filters(selection)
    here = set(list_participants(root)).union(*(list_participants(t) for t in trees.values()))
    wanted = selection.participant_label or tuple(sorted(here))
    found = Found()
    for label in wanted:
        if label not in here:
            found.failed[f"sub-{label}"] = _unknown_participant(label, here, root)
    labels = [label for label in wanted if label in here]
    sidecars = Sidecars(root)
    index = selection.bids_database_dir
    listed = None if index is None else read_database(index, root)
    for label in labels:
        try:
            folder = root / f"sub-{label}"
            files = listed.get(label, ()) if listed is not None else _list(folder, found)
            _add_participant(found, label, settings, (trees, filters, sidecars), files)
            found.listed |= {label} if folder.name not in found.failed else set()
        except (AppError, OSError) as error:
            found.failed[f"sub-{label}"] = as_app_error(error)
    if look is not None:
        look(found)
    if not found.participants and all(
        isinstance(error, NothingSelectedError) for error in found.failed.values()
    ):
        raise _nothing(found, root, selection.model_dump(exclude_defaults=True))
    for told in _unmatched(found, root, selection):
        log.warning("no run is selected by %s", told)
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


def _add_participant(
    found: Found,
    label: str,
    settings: Settings,
    known: tuple[Mapping[str, Path], Mapping[str, Mapping[str, Any]], Sidecars],
    files: Sequence[Path],
) -> None:
    """Add a participant with what is usable of it; what is not is kept with its error."""
    science, folder = settings.science, settings.bids_dir / f"sub-{label}"
    trees, filters, sidecars = known
    images = sort_files(files, filters)
    found.failed |= images.wrong
    if settings.selection.anat_only:
        _add_anatomy(found, label, images)
        return
    given = find_precomputed(trees, label, science.spaces, filters["bold"])
    names = sorted(set(images.bold) - set(given))
    anat, why = None, ""
    try:
        if names:  # runs that are preprocessed need no anatomy
            anat, why = find_anatomy(trees, label, science.spaces)
    except (AppError, OSError) as error:
        found.failed |= dict.fromkeys(names, as_app_error(error))
        names = []
    groups = images.fieldmaps(sidecars, numbered=settings.execution.privacy == "strict")
    raw: list[Run] = []
    fits: dict[str, Given] = {}
    for name in names:
        try:
            if anat is None:
                _check_here(images.t1w)
            has_t1w = bool(images.t1w) or anat is not None
            run = build_run(
                name, images, sidecars=sidecars, science=science, groups=groups, has_t1w=has_t1w
            )
            fit, notes = find_fit(trees, name, anat, why, science.spaces)
            raw.append(replace(run, notes=(*run.notes, *notes)))
            if fit is not None:
                fits[name] = fit
        except (AppError, OSError) as error:
            found.failed[name] = as_app_error(error)
    found.failed |= {name: item for name, item in given.items() if isinstance(item, AppError)}
    ready = tuple(item for item in given.values() if not isinstance(item, AppError))
    if raw or ready:
        participant = Participant(
            label=label,
            t1w=tuple(images.t1w),
            raw=tuple(raw),
            precomputed=ready,
            anat=anat,
            fits=fits,
        )
        found.participants.append(participant)
    elif not (files or given or folder.name in found.failed):
        _check_empty(folder, asked=label in settings.selection.participant_label)


def _check_here(paths: Iterable[Path]) -> None:
    for path in paths:
        check_file(path)


def _list(folder: Path, found: Found) -> list[Path]:
    """List the images of a participant; a folder that is closed is kept as an error."""
    files, closed = list_images(folder) if os.path.lexists(folder) else ([], [])
    if closed:
        found.failed[folder.name] = closed[0]
    return files


def _check_empty(folder: Path, *, asked: bool) -> None:
    """Refuse the empty folder of a subdataset that is not here, and to do nothing if asked to."""
    if asked or (folder.is_dir() and not any(folder.iterdir())):
        raise NoInputError(
            f"{folder} holds no image; expected some in [ses-*/]func, anat or fmap",
            fix=f"of a DataLad dataset, run: datalad get {folder}; or leave the participant out",
        )


def _add_anatomy(found: Found, label: str, images: Files) -> None:
    """Add a participant of whom only the anatomy is wanted."""
    name = f"sub-{label}"
    try:
        _check_here(images.t1w)
        if not images.t1w:
            raise NoInputError(
                f"{name} has no T1w image, and only the anatomy is asked for",
                fix="add the T1w image, or leave --anat-only out",
            )
        found.participants.append(
            Participant(label=label, t1w=tuple(images.t1w), raw=(), precomputed=())
        )
    except (AppError, OSError) as error:
        found.failed[name] = as_app_error(error)


def _unknown_participant(label: str, here: set[str], root: Path) -> NothingSelectedError:
    some = ", ".join(sorted(here)[:5]) + (", ..." if len(here) > 5 else "")
    return NothingSelectedError(
        f"participant {label!r} is not in {root}; there are {len(here)}: {some or 'none'}",
        fix=closest(label, here) or "check --participant-label",
    )


def _unmatched(found: Found, root: Path, selection: Selection) -> list[str]:
    """List the labels that no run has, whatever became of it, beside others that some have."""
    runs = [run.name for one in found.participants for run in one.raw]
    runs += [run.name for one in found.participants for run in one.precomputed]
    if not runs:  # the anatomy alone was asked for, or nothing could be read
        return []
    told = []
    for option in ("session_label", "task_label", "run_label"):
        key = ASKED[option]
        pattern = re.compile(rf"_{key}-0*([0-9A-Za-z+]+)")
        have = {match[1] for name in (*runs, *found.failed) if (match := pattern.search(name))}
        for label in getattr(selection, option):
            if (label.lstrip("0") or "0") not in have:
                said = suggest_label(root, {option: (label,)}, names=(*runs, *found.failed))
                told.append(said or f"--{option.replace('_', '-')} {label}")
    return told


def _nothing(found: Found, root: Path, selected: Mapping[str, Any]) -> AppError:
    if found.failed:
        return next(iter(found.failed.values()))
    if selected:
        return NothingSelectedError(
            f"the selection leaves no BOLD run of {root}",
            fix=suggest_label(root, selected)
            or "loosen --participant-label, --session-label, --task-label, --run-label, "
            "--echo-label or the filter file",
        )
    return NoInputError(
        f"{root} holds no BOLD run; expected sub-*/[ses-*/]func/*_bold.nii[.gz]",
        fix="this app works on BOLD series; add them, or give others with --derivatives",
    )
