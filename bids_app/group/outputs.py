"""What the group level writes of one model: the table of its runs, and their index.

Each is a unit of work: it is written again only if its runs, or what made them, have changed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.derivatives import (
    embedding_table,
    move_aside,
    write_json,
    write_text,
)
from neurostorm_app.bids_app.group.store import write_table
from neurostorm_app.bids_app.participant.outputs import DEMO, PRIVACY
from neurostorm_app.bids_app.provenance import Unit, now
from neurostorm_app.bids_app.scratch import open_scratch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from neurostorm_app.bids_app.group.store import Collected
    from neurostorm_app.bids_app.provenance import Ledger
    from neurostorm_app.pipelines.retrieve_kinds import Asked

__all__ = [
    "describe_model",
    "index_paths",
    "is_centred",
    "known_tables",
    "part_path",
    "unless_held",
    "write_index",
    "write_tables",
]

log = logging.getLogger(__name__)

TEXT_ROWS: Final = 10_000
"""Runs up to which the table is also written as text."""
UNTRAINED: Final = "Untrained"
"""Ends the label of a model whose weights are random, for comparison."""


def index_paths(root: Path, label: str) -> dict[str, Path]:
    """Paths of the group files of a model."""
    folder = root / "retrieval"
    return {
        "parquet": folder / f"desc-{label}_embedding.parquet",
        "table": folder / f"desc-{label}_embedding.tsv",
        "table_json": folder / f"desc-{label}_embedding.json",
        "index": folder / f"desc-{label}_index.faiss",
        "rows": folder / f"desc-{label}_index.tsv",
        "index_json": folder / f"desc-{label}_index.json",
        "reidentification": folder / f"desc-{label}_reidentification.json",
    }


def part_path(root: Path, label: str, part: tuple[int, int]) -> Path:
    """Path of the table that an array job writes of its part of the participants."""
    name = f"desc-{label}_shard-{part[0]}of{part[1]}.parquet"
    return root / "retrieval" / "shards" / name


def known_tables(root: Path, label: str) -> list[Path]:
    """List the tables that may hold runs of a model: that of all runs, then those of parts."""
    parts = (root / "retrieval" / "shards").glob(f"desc-{label}_shard-*of*.parquet")
    return [index_paths(root, label)["parquet"], *sorted(parts)]


def is_centred(collected: Collected) -> bool:
    """Tell whether a model's vectors share a large common part, as its card says.

    A card of the package is asked where the sidecars of the runs do not say it.
    """
    if "Centre" in collected.fingerprint:
        return bool(collected.fingerprint["Centre"])
    return collected.label.removesuffix(UNTRAINED) in _centred_labels()


@cache
def _centred_labels() -> frozenset[str]:
    """List the labels of cards that ask for it; the cards of the package do not change."""
    from neurostorm_app.models import list_models, read_card

    return frozenset(card.label for card in map(read_card, list_models()) if card.centre)


def describe_model(collected: Collected) -> dict[str, Any]:
    """Say what every file of a model at the group level says."""
    about = {
        "Description": f"{DEMO if collected.demo else ''}All runs embedded by {collected.label}.",
        "Demo": collected.demo,
        "Shape": list(collected.vectors.shape),
        "Fingerprint": dict(collected.fingerprint),
    }
    if collected.left_out:
        about["LeftOut"] = [entry.run for entry in collected.left_out]
    return {**about, "Privacy": PRIVACY}


def _unit(collected: Collected, what: str, rows: str) -> Unit:
    label = collected.label
    settings = {
        "centred": is_centred(collected),
        "about": describe_model(collected),
        "text_rows": TEXT_ROWS,
    }
    return Unit(
        name=f"desc-{label}_{what}",
        kind="group",
        about={"label": label},
        settings=settings,
        inputs={"rows": rows},
    )


def unless_held(unit: Unit, ledger: Ledger, write: Callable[[], dict[Path, str]]) -> bool:
    """Do a unit of work and record it; False if its results are there already.

    Parameters
    ----------
    unit : Unit
        What depends on what.
    ledger : Ledger
        Of the output folder.
    write : callable
        Writes the files; SHA-256 by path.
    """
    if ledger.holds(unit):
        return False
    begin, started = time.monotonic(), now()
    written = write()
    seconds = round(time.monotonic() - begin, 2)
    ledger.write(unit, written, stamps={}, measured={"started": started, "seconds": seconds})
    log.info("%s: written in %.1f s", unit.name, seconds)
    return True


def write_tables(collected: Collected, ledger: Ledger) -> bool:
    """Write the table of a model, as text too if it is not too long; False if it is there."""

    def write() -> dict[Path, str]:
        """Write the files."""
        root, rows = ledger.root, collected.rows
        paths = index_paths(root, collected.label)
        done = {paths["parquet"]: write_table(paths["parquet"], collected, root)}
        about = describe_model(collected) | {"Columns": COLUMNS}
        if len(rows) <= TEXT_ROWS:
            leading = {
                "participant_id": [f"sub-{row.participant}" for row in rows],
                "run": [row.run for row in rows],
                "source": [row.source for row in rows],
            }
            text = embedding_table(collected.vectors, leading)
            done[paths["table"]] = write_text(paths["table"], text, root=root)
        else:
            paths["table"].unlink(missing_ok=True)
            about["Text"] = (
                f"The table is not written as text: {len(rows)} runs are more than {TEXT_ROWS}; "
                f"{paths['parquet'].name} holds them all."
            )
        done[paths["table_json"]] = write_json(paths["table_json"], about, root=root)
        return done

    return unless_held(_unit(collected, "embedding", collected.stamped_key), ledger, write)


COLUMNS: Final = {
    "participant_id": "Participant, with sub-",
    "session": "Session, without ses-; empty if the run has none",
    "run": "Name of the run",
    "source": "BIDS URI of the embedding of the run",
    "sha256": "SHA-256 of that file",
    "size": "Its size in bytes; with the next three: tells that it need not be read again",
    "mtime_ns": "Time of its last change in nanoseconds",
    "sidecar_size": "Size of its sidecar in bytes",
    "sidecar_mtime_ns": "Time of the last change of its sidecar in nanoseconds",
    "vector": "The embedding, float32",
}
"""What the columns of the Parquet table are."""


def write_index(
    collected: Collected, ledger: Ledger, *, kind: Asked = "auto", memory: int | None = None
) -> bool:
    """Write the index of a model and what its rows are; False if it is there.

    Parameters
    ----------
    collected : Collected
        All runs of the model.
    ledger : Ledger
        Of the output folder.
    kind : {'auto', 'exact', 'ivf', 'hnsw', 'pq'}
        How rows are found.
    memory : int, optional
        Bytes that 'auto' chooses by: what the index may take beside what is held; by default what
        this job may use. Another kind takes what it takes.
    """

    def write() -> dict[Path, str]:
        """Write the files; until the last one is there, a reader is told that it is not."""
        from neurostorm_app.pipelines.retrieve import build_index, describe_index, save_index

        root, rows = ledger.root, collected.rows
        paths = index_paths(root, collected.label)
        index = build_index(
            collected.vectors, centre=is_centred(collected), kind=kind, memory=memory
        )
        paths["index_json"].unlink(missing_ok=True)
        with open_scratch(root) as folder:
            save_index(index, folder / paths["index"].name)
            saved = move_aside(folder / paths["index"].name, paths["index"], root=root)
        lines = ["row\tsource\tparticipant_id\trun\tsha256"]
        lines += [
            f"{i}\t{row.source}\tsub-{row.participant}\t{row.run}\t{row.sha256}"
            for i, row in enumerate(rows)
        ]
        named = write_text(paths["rows"], "\n".join(lines) + "\n", root=root)
        measure = {
            "Similarity": "cosine of the vectors"
            + ("" if index.mean is None else ", mean taken off"),
            "Rows": paths["rows"].name,
            "RowsSHA256": named,
            "Format": "faiss",
            "Index": {"Asked": kind, **describe_index(index)},
        }
        about = {**describe_model(collected), **measure}
        return {
            paths["index"]: saved,
            paths["rows"]: named,
            paths["index_json"]: write_json(paths["index_json"], about, root=root),
        }

    unit = _unit(collected, "index", collected.key)
    if kind != "auto":
        unit = replace(unit, settings={**unit.settings, "kind": kind})
    return unless_held(unit, ledger, write)
