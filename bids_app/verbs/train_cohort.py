"""What a training is given: runs found in derivatives, and a target found in a table of people."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.inputs.links import unquoted
from neurostorm_app.errors import AppError, DataError, NoInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.group.targets import Labels
    from neurostorm_app.pipelines.evaluate.cohort import Target
    from neurostorm_app.pipelines.stage import StandardSeries

__all__ = ["are_phantoms", "build_target", "find_runs", "linked_datasets", "read_target"]

log = logging.getLogger(__name__)

PHANTOM: Final = "neurostorm-app phantom"
"""How the description of a phantom names it."""

Runs = list[tuple[str, "StandardSeries"]]


def find_runs(
    folders: Sequence[Path],
    *,
    space: str,
    tasks: Sequence[str] = (),
    participants: Sequence[str] = (),
) -> Runs:
    """Find the preprocessed runs of folders of derivatives.

    Parameters
    ----------
    folders : sequence of Path
        Each is a cohort of its own people.
    space : str
        Standard space that is preferred.
    tasks, participants : sequence of str
        Only these; by default all.

    Returns
    -------
    list of (str, StandardSeries)
        A word for the participant, which is the label where there is one folder, and the run.

    Raises
    ------
    NoInputError
        If a folder is not there, or holds no run that can be used.
    """
    from neurostorm_app.bids_app.inputs.dataset import list_participants
    from neurostorm_app.bids_app.inputs.precomputed import find_precomputed
    from neurostorm_app.pipelines.stage import OutputSpace

    filters = {"task": list(tasks)} if tasks else {}
    labels = {label.removeprefix("sub-") for label in participants}
    runs: Runs = []
    roots = list(dict.fromkeys(path.resolve() for path in folders))
    for root in roots:
        if not root.is_dir():
            raise NoInputError(f"{root} is not a folder of derivatives", fix="check the path")
        for label in list_participants(root):
            if labels and label not in labels:
                continue
            wanted = [OutputSpace(name=space, res="2")]
            for name, item in find_precomputed({root.name: root}, label, wanted, filters).items():
                if isinstance(item, AppError):
                    log.warning("%s: left out: %s", name, item.what)
                else:
                    who = label if len(roots) == 1 else f"{root}/{label}"
                    runs.append((who, item.series))
    if not runs:
        raise NoInputError(
            f"{', '.join(map(str, folders))}: no preprocessed series was found to train on",
            fix="expected sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz in a standard space; "
            "check the labels",
        )
    return runs


def linked_datasets(root: Path) -> list[Path]:
    """List the datasets that a derivative says it was made from, where they are there."""
    found = _description(root)
    links = found.get("DatasetLinks")
    named = list(links.values()) if isinstance(links, dict) else []
    for source in found.get("SourceDatasets") or []:
        named.append(source.get("URL") if isinstance(source, dict) else None)
    places = [(root / unquoted(str(url))).resolve() for url in named if url]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def are_phantoms(folders: Sequence[Path]) -> bool:
    """Tell whether a folder of derivatives says that it was made from a phantom."""
    roots = [place for folder in folders for place in (folder, *linked_datasets(folder))]
    return any(_description(root).get("Name") == PHANTOM for root in roots)


def _description(root: Path) -> Mapping[str, Any]:
    path = root / "dataset_description.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", fix="repair the file") from error
    return content if isinstance(content, dict) else {}


def read_target(
    asked: str, folder: Path, participants: Sequence[str], *, tables: Sequence[Path | None]
) -> Labels:
    """Read a target from a table of people.

    Parameters
    ----------
    asked : str
        Column, or ``FILE:COLUMN``.
    folder : Path
        Of derivatives; the datasets it was made from are looked at after it.
    participants : sequence of str
        Labels.
    tables : sequence of Path or None
        The dataset and the table the user named, each may be None.

    Returns
    -------
    Labels
        By participant.

    Raises
    ------
    NoInputError, UsageError, DataError
        If there is no such column, or it cannot be read.
    UsageError
        If it has a value a session.
    """
    from neurostorm_app.bids_app.group.tables import find_tables
    from neurostorm_app.bids_app.group.targets import find_column, read_labels

    dataset, given = tables
    roots = [*([dataset] if dataset else []), folder, *linked_datasets(folder)]
    labels = read_labels(find_column(asked, find_tables(roots, participants, given=given)))
    if labels.row_is == "session":
        raise UsageError(
            f"{asked!r} has a value for each session; tuning takes one for each participant",
            fix="choose a column of participants.tsv or of phenotype/",
        )
    return labels


def build_target(labels: Labels, participants: Sequence[str]) -> Target:
    """Line a target up with participants.

    Parameters
    ----------
    labels : Labels
        Of more participants or as many.
    participants : sequence of str
        Each has a label.

    Returns
    -------
    Target
        Of classes that nobody has, nothing is left.

    Raises
    ------
    DataError
        If all have the same.
    """
    import numpy as np

    from neurostorm_app.pipelines.evaluate.cohort import Target

    values = np.asarray([labels.values[label, None] for label in participants], dtype=np.float64)
    there, index = np.unique(values, return_inverse=True)
    if len(there) < 2:
        raise DataError(
            f"{labels.name!r} is the same in all {len(values)} participants who have runs",
            fix="choose a column in which people differ",
        )
    if labels.kind == "value":
        return Target(name=labels.name, kind="value", values=values, unit=labels.unit)
    classes = tuple(labels.classes[int(number)] for number in there)
    return Target(name=labels.name, kind="classes", values=index.astype(np.int64), classes=classes)
