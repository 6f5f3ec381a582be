"""From tables and embeddings to a cohort: the rows that every source has, and who is left out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.bids_app.group.confounds import gather_confounds, group_rows
from neurostorm_app.bids_app.group.keys import row_key, row_name
from neurostorm_app.bids_app.group.targets import check_target, find_column, read_labels
from neurostorm_app.bids_app.group.tasks import NOTE, choose_tasks, is_task, read_tasks
from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.evaluate.cohort import Cohort, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.bids_app.group.keys import Key, RowIs
    from neurostorm_app.bids_app.group.store import Collected
    from neurostorm_app.bids_app.group.tables import TableFile
    from neurostorm_app.bids_app.group.targets import Labels
    from neurostorm_app.bids_app.words.options import Prediction

__all__ = ["Gathered", "average_rows", "digest_labels", "gather_cohort"]

ROUNDS: Final = 100_000
"""Of the digest of labels: to try out a million labellings takes hours, not a moment."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """A cohort, and what is to be said of how it came about.

    Parameters
    ----------
    cohort : Cohort
        Rows, features, target, confounds.
    keys : tuple of Key
        Participant, session and run of each row.
    labels : Labels
        The column of the target.
    left_out : dict
        How many participants, sessions or runs are not in it, by the reason.
    notes : tuple of str
        What else is to be known.
    """

    cohort: Cohort
    keys: tuple[Key, ...]
    labels: Labels
    left_out: dict[str, int]
    notes: tuple[str, ...]


def average_rows(collected: Collected, row_is: RowIs) -> dict[Key, NDArray[np.float32]]:
    """Average the embeddings of the runs of each row.

    Parameters
    ----------
    collected : Collected
        All runs of a model.
    row_is : {"participant", "session", "run"}
        What a row is.

    Returns
    -------
    dict
        Vectors (D,), float32, by the key of a row.
    """
    places: dict[Key, list[int]] = {}
    for place, run in enumerate(collected.rows):
        places.setdefault(row_key(run, row_is), []).append(place)
    vectors = collected.vectors
    return {
        key: vectors[runs].mean(axis=0, dtype=np.float64).astype(np.float32)
        for key, runs in places.items()
    }


def gather_cohort(
    asked: str,
    options: Prediction,
    collected: Sequence[Collected],
    tables: Sequence[TableFile],
    links: Mapping[str, Path],
) -> Gathered:
    """Make the cohort of one target: a column of a table, or the task of the runs.

    Parameters
    ----------
    asked : str
        The target, as asked for.
    options : Prediction
        Columns of groups, sites and covariates.
    collected : sequence of Collected
        The runs of each model. All are compared on the same rows.
    tables : sequence of TableFile
        Where columns are looked for.
    links : mapping of str to Path
        Datasets by name, where confounds of runs are looked for.

    Raises
    ------
    UsageError
        If a column is not there, or it is not clear which is meant.
    DataError
        If the column cannot be predicted, or too few rows are left.
    """
    of_runs = is_task(asked, tables)
    labels = read_tasks(collected) if of_runs else read_labels(find_column(asked, tables))
    by_source = {one.label: average_rows(one, labels.row_is) for one in collected}
    keys, left_out = _choose_rows(labels, by_source)
    with _naming_sources(labels, keys, by_source):
        if of_runs:
            keys, others = choose_tasks(labels, keys)
            left_out |= others
        check_target(labels, keys)
    labels = _present(labels, keys)
    group = find_column(options.group_column, tables) if options.group_column else None
    confounds, notes = gather_confounds(options, collected, tables, links, labels=labels, keys=keys)
    values = np.array([labels.values[key] for key in keys])
    cohort = Cohort(
        rows=tuple(map(row_name, keys)),
        participants=tuple(f"sub-{key[0]}" for key in keys),
        groups=group_rows(group, keys),
        features={s: np.stack([rows[key] for key in keys]) for s, rows in by_source.items()},
        target=Target(
            name=labels.name,
            kind=labels.kind,
            values=values.astype(np.int64) if labels.kind == "classes" else values,
            classes=labels.classes,
            unit=labels.unit,
            level="within" if of_runs else None,
        ),
        confounds=confounds,
    )
    return Gathered(
        cohort=cohort,
        keys=keys,
        labels=labels,
        left_out=left_out,
        notes=(*notes, NOTE) if of_runs else notes,
    )


def _choose_rows(
    labels: Labels, by_source: Mapping[str, Mapping[Key, NDArray[np.float32]]]
) -> tuple[tuple[Key, ...], dict[str, int]]:
    """Take the rows that have a label and an embedding of every source; count the others."""
    embedded = dict.fromkeys(key for rows in by_source.values() for key in rows)
    kept: list[Key] = []
    why: Counter[str] = Counter()
    for key in sorted(embedded, key=row_name):
        missing = [source for source, rows in by_source.items() if key not in rows]
        if key not in labels.column.cells:
            why["embedded, not in the table"] += 1
        elif key not in labels.values:
            why["embedded, label missing"] += 1
        elif missing:
            why.update(f"labelled, no embedding of {source}" for source in missing)
        else:
            kept.append(key)
    unseen = sum(key not in embedded for key in labels.values)
    if unseen:
        why["labelled, no embedding at all"] = unseen
    return tuple(kept), dict(why)


@contextmanager
def _naming_sources(
    labels: Labels,
    keys: Sequence[Key],
    by_source: Mapping[str, Mapping[Key, NDArray[np.float32]]],
) -> Iterator[None]:
    """Say which source is to blame where too little is left, and one is."""
    try:
        yield
    except DataError as error:
        counts = {s: sum(key in labels.values for key in rows) for s, rows in by_source.items()}
        if len(counts) < 2 or max(counts.values()) == len(keys):
            raise
        told = ", ".join(f"{source} {n}" for source, n in counts.items())
        raise DataError(
            f"{error.what} (sources are compared on the rows that all have; labelled rows with an "
            f"embedding: {told})",
            fix=f"embed everybody with every model, or remove the smallest; {error.fix}",
        ) from error


def _present(labels: Labels, keys: Sequence[Key]) -> Labels:
    """Leave out the classes that no row has."""
    if labels.kind == "value":
        return labels
    present = sorted({int(labels.values[key]) for key in keys})
    index = {old: new for new, old in enumerate(present)}
    return dataclasses.replace(
        labels,
        classes=tuple(labels.classes[old] for old in present),
        values={key: float(index[int(labels.values[key])]) for key in keys},
    )


def digest_labels(gathered: Gathered, salt: str) -> str:
    """Digest target, groups and confounds of all rows, to know later whether they are the same.

    Labels are never written, and few of them could be told from a plain hash by trying; many
    rounds make that slow.

    Parameters
    ----------
    gathered : Gathered
        The cohort.
    salt : str
        What belongs to this cohort alone, such as hashes of its embeddings.
    """
    cohort = gathered.cohort
    held = [
        *zip(cohort.rows, cohort.groups, cohort.target.values.tolist(), strict=True),
        cohort.target.classes,
        cohort.target.unit,
        *((name, _plain(confound.values)) for name, confound in cohort.confounds.items()),
    ]
    return hashlib.pbkdf2_hmac("sha256", repr(held).encode(), salt.encode(), ROUNDS).hex()


def _plain(values: NDArray[np.float64] | tuple[str, ...]) -> list[float] | list[str]:
    return list(values) if isinstance(values, tuple) else values.tolist()
