"""Which runs are most like a run: asked of the index that the group level made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.derivatives import read_embedding
from neurostorm_app.bids_app.group import index_paths
from neurostorm_app.bids_app.values import closest
from neurostorm_app.errors import DataError, NoInputError, NothingSelectedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Match", "choose_index", "find_nearest", "read_about"]


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

    return read_card(model).label if model in list_models() else model


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
        The index's sidecar; ``Demo`` and ``Description`` are always in it.
    """
    content = json.loads(index_paths(root, label)["index_json"].read_text(encoding="utf-8"))
    return {"Demo": False, "Description": "", **content}


def find_nearest(root: Path, like: str, k: int, *, label: str) -> list[Match]:
    """Find the runs nearest to a run of the index.

    Parameters
    ----------
    root : Path
        The output folder.
    like : str
        Name of a run, such as ``sub-01_task-rest_run-1``.
    k : int
        How many.
    label : str
        Of the index.

    Returns
    -------
    list of Match
        Most alike first, without the run itself.

    Raises
    ------
    NothingSelectedError
        If the run is not in the index.
    DataError
        If table and index do not belong together.
    """
    from neurostorm_app.pipelines.retrieve import load_index, search

    paths = index_paths(root, label)
    rows = _read_rows(paths["rows"])
    names = [row["run"] for row in rows]
    if like not in names:
        raise NothingSelectedError(
            f"{like!r} is not among the {len(names)} runs of the index of {label}",
            fix=closest(like, names) or "embed it, then run the group level again",
        )
    vectors = read_embedding(paths["table"])
    index = load_index(paths["index"])
    if not len(vectors) == len(rows) == index.n_rows:
        raise DataError(
            f"{paths['table']} has {len(vectors)} rows, {paths['rows']} {len(rows)} and the index "
            f"{index.n_rows}",
            fix="remove the retrieval folder and run the group level again",
        )
    same = [i for i, name in enumerate(names) if name == like]
    found, similarity = search(index, vectors[same[0]], k, exclude=same)
    return [
        Match(
            run=rows[i]["run"],
            participant=rows[i]["participant_id"],
            source=rows[i]["source"],
            similarity=float(s),
        )
        for i, s in zip(found, similarity, strict=True)
    ]


def _read_rows(path: Path) -> Sequence[dict[str, str]]:
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
