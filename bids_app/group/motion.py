"""How much people moved in each run, read where the embedding's sidecar says."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.bids_app.group.tables import is_missing
from neurostorm_app.bids_app.inputs.links import follow_uri
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["read_motion"]

DISPLACEMENT: Final = "framewise_displacement"
CONFOUNDS: Final = (
    "_desc-confounds_timeseries.tsv",
    "_desc-confounds_regressors.tsv",
    "_motion.tsv",
)
"""Endings of tables that may hold it: fMRIPrep's and ours, fMRIPrep's before 21, XCP-D's."""
REPAIR: Final = "repair the table, run the participant again, or leave motion out of --covariates"


def read_motion(
    embeddings: Iterable[Path], links: Mapping[str, Path]
) -> tuple[dict[Path, float], dict[Path, DataError]]:
    """Read how much people moved, from the table of confounds of each run.

    Parameters
    ----------
    embeddings : iterable of Path
        Tables of embeddings of runs; their sidecars name the confounds.
    links : mapping
        From `inputs.links.linked_datasets`.

    Returns
    -------
    dict
        Mean framewise displacement in mm by the embedding's path; NaN where it is not known.
    dict
        What is wrong with a table, by its path, where one is damaged.
    """
    known: dict[Path | None, float] = {None: math.nan}
    motion: dict[Path, float] = {}
    damaged: dict[Path, DataError] = {}
    for embedding in embeddings:
        table = _confounds_of(embedding, links)
        if table is not None and table not in known:
            try:
                known[table] = _mean_displacement(table)
            except DataError as error:
                known[table], damaged[table] = math.nan, error
        motion[embedding] = known[table]
    return motion, damaged


def _confounds_of(embedding: Path, links: Mapping[str, Path]) -> Path | None:
    """Find the confounds that a sidecar names, or those of the run beside embedding or sources."""
    sidecar = embedding.with_suffix(".json")
    sources = read_object(sidecar).get("Sources", []) if sidecar.is_file() else []
    found = [follow_uri(str(uri), links) for uri in sources]
    named = [path for path in found if path is not None and path.name.endswith(CONFOUNDS)]
    run = re.sub(r"(_(space|res|desc)-[0-9A-Za-z+]+)*_embedding$", "", embedding.stem)
    folders = dict.fromkeys([embedding.parent, *(path.parent for path in found if path)])
    beside = [folder / (run + ending) for folder in folders for ending in CONFOUNDS]
    return next((path for path in (*named, *beside) if path.is_file()), None)


def _mean_displacement(table: Path) -> float:
    try:
        header, *rows = table.read_text(encoding="utf-8-sig").splitlines() or [""]
        names = header.split("\t")
        if DISPLACEMENT not in names:
            return math.nan
        column = names.index(DISPLACEMENT)
        cells = [row.split("\t")[column] for row in rows if row]
        values = [float(cell) for cell in cells if not is_missing(cell)]
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}", fix=REPAIR) from error
    except (IndexError, ValueError) as error:
        raise DataError(
            f"{table}: {DISPLACEMENT} is not a column of numbers: {error}", fix=REPAIR
        ) from error
    if not np.isfinite(values).all():
        raise DataError(f"{table}: {DISPLACEMENT} holds an infinite number", fix=REPAIR)
    return float(np.mean(values)) if values else math.nan
