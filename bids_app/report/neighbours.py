"""Who is most like whom: similarities of runs from the tables of the group level."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.bids_app.group.outputs import index_paths
from neurostorm_app.bids_app.group.store import read_table as read_parquet
from neurostorm_app.bids_app.report.panels import Notice, attempt
from neurostorm_app.bids_app.report.reading import Table, read_vectors
from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.figures import project, similarity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Cohort", "Neighbour", "read_cohort", "read_cohorts"]

MOST: Final = 2000
"""Runs that a page compares with each other: their matrix takes 32 MB, and more are not told apart
in a figure."""
_TABLE = re.compile(r"^desc-([0-9A-Za-z]+)_embedding\.(?:tsv|parquet)$")
_NAME_COLUMNS = ("run", "name", "source", "run_id")


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A run that is like another."""

    name: str
    participant: str
    similarity: float
    same: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Cohort:
    """Runs of one model: all, or those of some participants if there are too many for a page.

    Parameters
    ----------
    label : str
        The model's.
    names, participants : list of str
        Of each run; participants without ``sub-``.
    vectors : ndarray, shape (N, D)
        Embeddings as they stand in the table.
    similarity : ndarray, shape (N, N)
        As the index has it: cosine, of centred vectors if the index centres.
    n_all : int
        Runs in the table.
    """

    label: str
    names: list[str]
    participants: list[str]
    vectors: NDArray[np.float32]
    similarity: NDArray[np.float64]
    n_all: int

    def nearest(self, name: str, n: int = 5) -> list[Neighbour]:
        """List the runs most like one run; none if the run is not among them."""
        if name not in self.names:
            return []
        row = self.names.index(name)
        order = np.argsort(-self.similarity[row], kind="stable")[: n + 1]
        return [
            Neighbour(
                name=self.names[i],
                participant=self.participants[i],
                similarity=float(self.similarity[row, i]),
                same=self.participants[i] == self.participants[row],
            )
            for i in order[order != row][:n]
        ]

    def found_first(self) -> tuple[int, int]:
        """Count the runs whose nearest neighbour is of the same participant.

        Returns
        -------
        hits, asked : int
            Only runs whose participant has another run are asked.
        """
        asked = [p for p in self.participants if self.participants.count(p) > 1]
        hits = [
            self.nearest(name, 1)[0].same
            for name, participant in zip(self.names, self.participants, strict=True)
            if self.participants.count(participant) > 1
        ]
        return sum(hits), len(asked)

    def plane(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Project the runs onto two principal components; coordinates and shares of variance."""
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return project(self.vectors / np.where(lengths == 0, 1, lengths))


def read_cohorts(
    output_dir: Path, notices: list[Notice], *, keep: str | None = None
) -> dict[str, Cohort]:
    """Read the embeddings of all models; empty if the group level has not run.

    Parameters
    ----------
    output_dir : Path
        The output tree.
    notices : list of Notice
        Gets one for each damaged table, and for each model with more runs than a page compares.
    keep : str, optional
        Participant whose runs are taken whatever the number; without ``sub-``.
    """
    names = [path.name for path in (output_dir / "retrieval").glob("desc-*_embedding.*")]
    labels = {match[1] for name in names if (match := _TABLE.match(name))}
    cohorts = {}
    for label in sorted(labels):
        cohort = attempt(notices, partial(read_cohort, output_dir, label, keep=keep))
        if cohort is None:
            continue
        cohorts[label] = cohort
        if len(cohort.names) < cohort.n_all:
            notices.append(
                Notice(
                    what=f"{label}: map, similarities and neighbours are those of "
                    f"{len(cohort.names)} of {cohort.n_all} runs, of participants drawn at random",
                    fix="ask neurostorm-tools query for the nearest of all runs",
                )
            )
    return cohorts


def read_cohort(output_dir: Path, label: str, *, keep: str | None = None) -> Cohort:
    """Read the embeddings of one model, of at most `MOST` runs and of those of one participant.

    Raises
    ------
    DataError
        If the table has no column that names the runs.
    """
    paths = index_paths(output_dir, label)
    names, vectors, n_all = _from_parquet(paths["parquet"], keep) or _from_text(paths["table"])
    mean = _mean_of_index(paths["index"])
    return Cohort(
        label=label,
        names=names,
        participants=[_participant(name) for name in names],
        vectors=vectors,
        similarity=similarity(vectors if mean is None else vectors - mean),
        n_all=n_all,
    )


def _from_parquet(
    path: Path, keep: str | None
) -> tuple[list[str], NDArray[np.float32], int] | None:
    """Read names and vectors of the runs that a page shows; None if there is no such table."""
    table = read_parquet(path)
    if table is None:
        return None
    names = table.columns["run"]
    places = _draw([_participant(name) for name in names], keep)
    vectors = table.vectors(places)
    return None if vectors is None else ([names[i] for i in places], vectors, len(names))


def _draw(participants: Sequence[str], keep: str | None) -> list[int]:
    """Draw whole participants, the same at each call, until there are runs enough."""
    if len(participants) <= MOST:
        return list(range(len(participants)))
    rows: dict[str, list[int]] = {}
    for i, participant in enumerate(participants):
        rows.setdefault(participant, []).append(i)
    drawn = rows.pop(keep, []) if keep else []
    for participant in sorted(rows, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(drawn) + len(rows[participant]) > MOST:
            break
        drawn = drawn + rows[participant]
    return sorted(drawn)


def _from_text(path: Path) -> tuple[list[str], NDArray[np.float32], int]:
    """Read the table as earlier versions wrote it, which has 10,000 runs at most."""
    table, vectors = read_vectors(path)
    names = _names(table)
    if names is None:
        raise DataError(
            f"{path}: no column names the runs; expected one of {', '.join(_NAME_COLUMNS)}",
            fix="run the group level again: it writes the table anew",
        )
    return names, vectors, len(names)


def _names(table: Table) -> list[str] | None:
    column = next((name for name in _NAME_COLUMNS if name in table), None)
    return table[column] if column else None


def _participant(name: str) -> str:
    match = re.search(r"sub-([0-9A-Za-z+]+)", name)
    return match[1] if match else name


def _mean_of_index(path: Path) -> NDArray[np.float32] | None:
    """Read what the index takes off each vector before it compares."""
    if not path.is_file():
        return None
    from neurostorm_app.pipelines.retrieve import load_index

    return load_index(path).mean
