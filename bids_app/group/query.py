"""Which runs are most like a run: asked of the index that the group level made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from neurostorm_app.bids_app.derivatives import read_embedding
from neurostorm_app.bids_app.describe import bids_uri
from neurostorm_app.bids_app.group.fingerprint import describe_differences, identity
from neurostorm_app.bids_app.group.outputs import index_paths
from neurostorm_app.bids_app.group.rows import entry_of, read_run
from neurostorm_app.bids_app.group.store import count_rows, read_rows
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.bids_app.words.values import closest
from neurostorm_app.errors import DataError, NoInputError, NothingSelectedError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Match", "choose_index", "find_nearest", "is_file", "label_of", "read_about"]

EXACT: Final[dict[str, Any]] = {"Kind": "exact", "Parameters": {}, "Recall": None}
"""What earlier versions built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A run that is like another.

    Parameters
    ----------
    run : str
        Its name.
    participant : str
        With ``sub-``.
    source : str
        BIDS URI of its embedding.
    similarity : float
        From -1 to 1.
    """

    run: str
    participant: str
    source: str
    similarity: float


def choose_index(root: Path, model: str | None = None) -> str:
    """Choose the label of an index: the one asked for, or else connectome, or else the first.

    Parameters
    ----------
    root : Path
        The output folder.
    model : str, optional
        Name or BIDS label of a model.

    Raises
    ------
    NoInputError
        If there is no index, or none of this model.
    """
    folder = root / "retrieval"
    names = [path.name for path in sorted(folder.glob("desc-*_index.faiss"))]
    labels = [name.removeprefix("desc-").removesuffix("_index.faiss") for name in names]
    if not labels:
        raise NoInputError(
            f"{folder} holds no index", fix="run the group level first: it builds the index"
        )
    if model is None:
        return "connectome" if "connectome" in labels else labels[0]
    wanted = _label_of(model)
    if wanted not in labels:
        raise NoInputError(
            f"{folder} holds no index of {model!r}; there is {', '.join(labels)}",
            fix=closest(wanted, labels) or "embed with this model, then run the group level",
        )
    return wanted


def _label_of(model: str) -> str:
    from neurostorm_app.models import list_models, read_card

    return read_card(model).label if model in list_models(controls=True) else model


def read_about(root: Path, label: str) -> dict[str, Any]:
    """Read what is said of an index, such as whether its weights are a demo.

    Parameters
    ----------
    root : Path
        The output folder.
    label : str
        Of the index.

    Returns
    -------
    dict
        The index's sidecar; ``Demo``, ``Description`` and ``Index`` (``Kind``, ``Parameters``,
        ``Recall``) are always in it.

    Raises
    ------
    DataError
        If it is not there, or damaged.
    """
    path = index_paths(root, label)["index_json"]
    if not path.is_file():
        raise _torn(f"{path} is not there")
    return {"Demo": False, "Description": "", "Index": EXACT, **read_object(path)}


def find_nearest(root: Path, like: str, k: int, *, label: str) -> list[Match]:
    """Find the runs nearest to a run of the index, or to an embedding in a file.

    Parameters
    ----------
    root : Path
        The output folder.
    like : str
        Name of a run of the index, such as ``sub-01_task-rest_run-1``; or the path of the
        embedding of any run, made alike, which ends in ``.tsv``.
    k : int
        How many.
    label : str
        Of the index.

    Returns
    -------
    list of Match
        Most alike first, without the run itself: for a file, without rows of the same content.

    Raises
    ------
    UsageError
        If less than one is asked for.
    NoInputError
        If there is no such file.
    NothingSelectedError
        If the run is not in the index.
    DataError
        If table and index do not belong together, or the file was made in another way.
    """
    from neurostorm_app.pipelines.retrieve import load_index, search

    if k < 1:
        raise UsageError(f"-k {k}: at least one run is to be found", fix="write -k 10")
    paths = index_paths(root, label)
    rows = _Lines(paths["rows"])
    index = load_index(paths["index"])
    if len(rows) != index.n_rows:
        raise _torn(f"{paths['rows']} has {len(rows)} rows, and the index {index.n_rows}")
    # Read last: it is taken away before the others are replaced, and comes back after them.
    if read_about(root, label).get("RowsSHA256", rows.sha256) != rows.sha256:
        raise _torn(f"{paths['rows']} is not the file of rows that was written with the index")
    if is_file(like):
        vector, own = _from_file(Path(like), rows, root, label)
    else:
        vector, own = _from_table(like, rows, root, label)
    found, similarity = search(index, vector, k, exclude=own)
    return [
        Match(
            run=rows[i].run,
            participant=rows[i].participant,
            source=rows[i].source,
            similarity=float(s),
        )
        for i, s in zip(found.tolist(), similarity, strict=True)
    ]


def is_file(like: str) -> bool:
    """Tell whether a file is meant, not the name of a run."""
    return like.endswith(".tsv")


def label_of(like: str) -> str | None:
    """Tell the label of the model that made an embedding in a file; None for the name of a run.

    Raises
    ------
    DataError
        If the name of the file does not say it.
    """
    return entry_of(Path(like)).label.removesuffix("Windows") if is_file(like) else None


class _Line(NamedTuple):
    """A row of the index."""

    row: str
    source: str
    participant: str
    run: str
    sha256: str


class _Lines:
    """The rows of an index; a line is taken apart when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise _torn(f"{path} is not there") from error
        self.lines = content.decode("utf-8").splitlines()[1:]
        self.sha256 = hashlib.sha256(content).hexdigest()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: int) -> _Line:
        cells = self.lines[i].split("\t")
        if len(cells) != len(_Line._fields):
            raise _torn(f"row {i} of {self.path} has {len(cells)} cells, not {len(_Line._fields)}")
        return _Line(*cells)

    def having(self, column: str, cell: str) -> list[int]:
        """Row numbers with this cell in a column."""
        lines = enumerate(self.lines)
        return [i for i, line in lines if cell in line and getattr(self[i], column) == cell]


def _from_table(
    like: str, rows: _Lines, root: Path, label: str
) -> tuple[NDArray[np.float32], list[int]]:
    """Take the vector of a run of the index, and say which rows are its own."""
    own = rows.having("run", like)
    if not own:
        # Of a million names only those of the same participant can be meant.
        person = f"\t{like.partition('_')[0]}\t"
        near = [rows[i].run for i, line in enumerate(rows.lines) if person in line]
        near = near or [rows[i].run for i in range(min(len(rows), 1000))]
        raise NothingSelectedError(
            f"{like!r} is not among the {len(rows)} runs of the index of {label}",
            fix=closest(like, near) or "embed it, then run the group level again",
        )
    paths = index_paths(root, label)
    if paths["parquet"].is_file():
        n_rows, found = count_rows(paths["parquet"]), read_rows(paths["parquet"], own[:1])
        if n_rows != len(rows) or found is None or found[0] != [rows[own[0]].source]:
            raise _torn(f"{paths['parquet']} has other rows than {paths['rows']}")
        return found[1][0], own
    vectors = read_embedding(paths["table"])
    if len(vectors) != len(rows):
        raise _torn(f"{paths['table']} has {len(vectors)} rows, and the index {len(rows)}")
    return vectors[own[0]], own


def _from_file(
    path: Path, rows: _Lines, root: Path, label: str
) -> tuple[NDArray[np.float32], list[int]]:
    """Read the vector of a file that was made like those of the index, and find its own rows."""
    if not path.is_file():
        raise NoInputError(f"{path}: there is no such embedding", fix="check the path")
    entry = entry_of(path)
    if entry.label.endswith("Windows"):
        raise DataError(
            f"{path} holds the windows of a run; the index holds runs",
            fix=f"give the table without Windows: {path.name.replace('Windows_', '_')}",
        )
    reading = read_run(entry)
    about = read_about(root, label)
    if "Fingerprint" not in about:
        raise DataError(
            f"the index of {label} does not say what made its vectors: an earlier version wrote it",
            fix="run the group level again: it builds the index anew",
        )
    if identity(reading.fingerprint) != identity(about["Fingerprint"]):
        raise DataError(
            f"{path} was not made like the runs of the index of {label}: "
            f"{describe_differences(reading.fingerprint, about['Fingerprint'])}",
            fix="embed the run with the weights, atlas, space and options of the index, or choose "
            "another index by --model",
        )
    source = bids_uri(path.resolve(), {"": root.resolve()})
    return reading.vector, sorted(
        {*rows.having("source", source), *rows.having("sha256", reading.sha256)}
    )


def _torn(what: str) -> DataError:
    return DataError(
        f"table and index do not belong together: {what}",
        fix="if a group level is at work there, ask again when it is done; else remove the "
        "retrieval folder and run the group level again",
    )
