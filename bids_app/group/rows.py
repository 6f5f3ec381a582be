"""The runs of the group level: where the embedding of each lies, what made it, and its vector.

Everything here works from names and contents of the output folder alone.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neurostorm_app.bids_app.group.fingerprint import AGAIN, read_content, read_fingerprint
from neurostorm_app.bids_app.inputs.entities import parse_name
from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "Entry",
    "Reading",
    "Survey",
    "entry_of",
    "find_embeddings",
    "read_run",
    "survey",
]

ADDED: Final = frozenset({"space", "res", "desc", "suffix"})
SUFFIX: Final = "_embedding.tsv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The embedding of one run.

    Parameters
    ----------
    path : Path
        Its table.
    label : str
        BIDS label of the model.
    participant : str
        Without ``sub-``.
    run : str
        Name of the run.
    session : str or None
        Without ``ses-``.
    """

    path: Path
    label: str
    participant: str
    run: str
    session: str | None = None

    @property
    def sidecar(self) -> Path:
        """What the table says of itself."""
        return self.path.with_suffix(".json")


@dataclass(frozen=True, slots=True)
class Survey:
    """What an output folder holds.

    Parameters
    ----------
    found : dict
        Entries by the label of the model, in the order of participants and runs.
    strange : dict
        What is wrong with a file whose name says neither run nor model, by that name.
    """

    found: dict[str, list[Entry]]
    strange: dict[str, DataError]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What was read of one embedding.

    Parameters
    ----------
    vector : ndarray, shape (D,), float32
        Finite, and of some length.
    sha256 : str
        Of the table.
    fingerprint : mapping
        As of `read_fingerprint`.
    """

    vector: NDArray[np.float32]
    sha256: str
    fingerprint: Mapping[str, Any]


def find_embeddings(root: Path, participants: Iterable[str] = ()) -> dict[str, list[Entry]]:
    """Find the run embeddings in an output folder by their names.

    Returns
    -------
    dict
        Entries by the label of the model, in the order of participants and runs.
    """
    return survey(root, participants).found


def survey(root: Path, participants: Iterable[str] = ()) -> Survey:
    """Find the run embeddings in an output folder, and what only looks like one."""
    wanted = {f"sub-{label}" for label in participants}
    found: dict[str, list[Entry]] = {}
    strange: dict[str, DataError] = {}
    for person in _names(root, "sub-"):
        if wanted and person not in wanted:
            continue
        for folder in ["", *_names(root / person, "ses-")]:
            func = root / person / folder / "func"
            for name in _names(func, "sub-", SUFFIX):
                if name.endswith(f"Windows{SUFFIX}"):
                    continue
                try:
                    entry = entry_of(func / name)
                except DataError as error:
                    strange[name] = error
                else:
                    found.setdefault(entry.label, []).append(entry)
    return Survey(found, strange)


def _names(folder: Path, prefix: str, suffix: str = "") -> list[str]:
    """List what a folder holds by name alone; nothing if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if name.startswith(prefix) and name.endswith(suffix))


def entry_of(path: Path) -> Entry:
    """Tell from the name of a table whose run it is, and which model made it.

    Raises
    ------
    DataError
        If the name does not say it.
    """
    entities = parse_name(path)
    if "desc" not in entities or "sub" not in entities:
        raise DataError(
            f"{path}: the name lacks sub- or desc-: whose run it is, and which model made it",
            fix="remove it, or rename it as the app names embeddings",
        )
    return Entry(
        path=path,
        label=entities["desc"],
        participant=entities["sub"],
        session=entities.get("ses"),
        run="_".join(f"{key}-{value}" for key, value in entities.items() if key not in ADDED),
    )


def read_run(entry: Entry) -> Reading:
    """Read the vector of a run and what made it; both files are read once.

    Raises
    ------
    DataError
        If the table or its sidecar is not there, damaged or cut short, or a number is not finite.
    """
    fingerprint = read_fingerprint(entry)
    content = read_content(entry.path)
    vector = _vector(content, entry.path)
    if vector.size != fingerprint["EmbeddingDimension"]:
        raise DataError(
            f"{entry.path} holds {vector.size} numbers; its sidecar says "
            f"{fingerprint['EmbeddingDimension']}",
            fix=AGAIN,
        )
    return Reading(vector, hashlib.sha256(content).hexdigest(), fingerprint)


def _vector(content: bytes, path: Path) -> NDArray[np.float32]:
    """Take the one row of a table; a table that was cut short never passes."""
    lines = content.decode("utf-8", errors="replace").split("\n")
    # A table ends with a line's end: without it the last number may have lost digits.
    if len(lines) != 3 or lines[2]:
        what = "is empty" if not content else f"holds {len(lines) - 2} whole rows below its header"
        raise DataError(f"{path} {what}; the embedding of a run is one", fix=AGAIN)
    try:
        pairs = zip(lines[0].split("\t"), lines[1].split("\t"), strict=True)
        vector = np.array([cell for name, cell in pairs if name.startswith("dim")], np.float32)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}", fix=AGAIN) from error
    bad = int((~np.isfinite(vector)).sum())
    if bad or not vector.any():
        what = f"{bad} numbers are not finite" if bad else "all numbers are zero"
        raise DataError(
            f"{path} holds no vector that can be compared: {what}",
            fix="look at the run's report: constant or missing voxels are the usual cause; then "
            "embed it again, or remove the table",
        )
    return vector
