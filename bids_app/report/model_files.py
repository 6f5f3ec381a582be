"""What models gave for a run: their files, by the label in the name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

__all__ = ["EmbeddingFiles", "group_by_model"]


@dataclass(frozen=True, kw_only=True)
class EmbeddingFiles:
    """What one model gave for one run; each None if it is not there.

    Parameters
    ----------
    label : str
        The model's.
    windows, pooled : Path or None
        Tables of vectors.
    prediction : Path or None
        What the head of fine-tuned weights says.
    guess : Path or None
        What the model guessed of a window, a part of which was hidden.
    sidecar : dict
        Of the tables.
    """

    label: str
    windows: Path | None = None
    pooled: Path | None = None
    prediction: Path | None = None
    guess: Path | None = None
    sidecar: dict[str, Any] = field(default_factory=dict)


def group_by_model(
    files: Iterable[Path], read: Callable[[Path], dict[str, Any]]
) -> dict[str, EmbeddingFiles]:
    """Group the files of a run by model.

    Parameters
    ----------
    files : iterable of Path
        All of the run.
    read : callable
        Reads a sidecar.
    """
    here = list(files)
    labels = {
        match[1].removesuffix("Windows")
        for path in here
        if (match := re.search(r"_desc-([0-9A-Za-z+]+)_embedding\.tsv$", path.name))
    }
    return {label: _of(label, here, read) for label in sorted(labels)}


def _of(
    label: str, files: Sequence[Path], read: Callable[[Path], dict[str, Any]]
) -> EmbeddingFiles:
    def pick(ending: str) -> Path | None:
        return next((path for path in files if path.name.endswith(ending)), None)

    windows = pick(f"_desc-{label}Windows_embedding.tsv")
    pooled = pick(f"_desc-{label}_embedding.tsv")
    sidecar: dict[str, Any] = {}
    for table in (windows, pooled):
        sidecar |= read(table.with_suffix(".json")) if table else {}
    return EmbeddingFiles(
        label=label,
        windows=windows,
        pooled=pooled,
        prediction=pick(f"_desc-{label}_prediction.tsv"),
        guess=pick(f"_desc-{label}_reconstruction.json"),
        sidecar=sidecar,
    )
