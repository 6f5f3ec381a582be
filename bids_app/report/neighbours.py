"""Who is most like whom: similarities of runs from the index of the group level."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.bids_app.report.reading import Table, read_vectors
from neurostorm_app.errors import DataError
from neurostorm_app.pipelines.figures import project, similarity

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Cohort", "Neighbour", "read_cohort", "read_cohorts"]

_TABLE = re.compile(r"^desc-([0-9A-Za-z]+)_embedding\.tsv$")
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
    """All runs of one model.

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
    """

    label: str
    names: list[str]
    participants: list[str]
    vectors: NDArray[np.float32]
    similarity: NDArray[np.float64]

    def nearest(self, name: str, n: int = 5) -> list[Neighbour]:
        """List the runs most like one run; none if the run is not in the index."""
        if name not in self.names:
            return []
        row = self.names.index(name)
        order = [i for i in np.argsort(-self.similarity[row], kind="stable") if i != row]
        return [
            Neighbour(
                name=self.names[i],
                participant=self.participants[i],
                similarity=float(self.similarity[row, i]),
                same=self.participants[i] == self.participants[row],
            )
            for i in order[:n]
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


def read_cohorts(output_dir: Path) -> dict[str, Cohort]:
    """Read the embeddings of all models; empty if the group level has not run."""
    tables = sorted((output_dir / "retrieval").glob("desc-*_embedding.tsv"))
    labels = [match[1] for path in tables if (match := _TABLE.match(path.name))]
    return {label: read_cohort(output_dir, label) for label in labels}


def read_cohort(output_dir: Path, label: str) -> Cohort:
    """Read the embeddings of one model.

    Raises
    ------
    DataError
        If the table has no column that names the runs.
    """
    folder = output_dir / "retrieval"
    path = folder / f"desc-{label}_embedding.tsv"
    table, vectors = read_vectors(path)
    names = _names(table)
    if names is None:
        raise DataError(
            f"{path}: no column names the runs; expected one of {', '.join(_NAME_COLUMNS)}",
            fix="run the group level again: it writes the table anew",
        )
    mean = _mean_of_index(folder / f"desc-{label}_index.faiss")
    shifted = vectors if mean is None else vectors - mean
    return Cohort(
        label=label,
        names=names,
        participants=[_participant(name) for name in names],
        vectors=vectors,
        similarity=similarity(shifted),
    )


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
