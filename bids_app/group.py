"""The group level: all embeddings of a model in one table and one index, and the group page.

It works from the output folder alone, so it can run long after the scans have gone.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.bids_app.derivatives import (
    embedding_table,
    read_embedding,
    write_json,
    write_text,
)
from neurostorm_app.bids_app.describe import bids_uri, describe_output
from neurostorm_app.bids_app.entities import parse_name
from neurostorm_app.bids_app.outputs import DEMO, PRIVACY
from neurostorm_app.bids_app.provenance import Ledger, Unit, now, sha256_of
from neurostorm_app.bids_app.results import AppResult
from neurostorm_app.errors import DataError, NothingSelectedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from neurostorm_app.bids_app.engines import Engines
    from neurostorm_app.bids_app.settings import Settings
    from neurostorm_app.models.card import Card

__all__ = ["Entry", "find_embeddings", "index_paths", "run_group"]

log = logging.getLogger(__name__)

ADDED: Final = frozenset({"space", "res", "desc", "suffix"})


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
    """

    path: Path
    label: str
    participant: str
    run: str


def index_paths(root: Path, label: str) -> dict[str, Path]:
    """Paths of the group files of a model."""
    folder = root / "retrieval"
    return {
        "table": folder / f"desc-{label}_embedding.tsv",
        "table_json": folder / f"desc-{label}_embedding.json",
        "index": folder / f"desc-{label}_index.faiss",
        "rows": folder / f"desc-{label}_index.tsv",
        "index_json": folder / f"desc-{label}_index.json",
    }


def find_embeddings(root: Path, participants: Iterable[str] = ()) -> dict[str, list[Entry]]:
    """Find the run embeddings in an output folder by their names.

    Returns
    -------
    dict
        Entries by the label of the model, in the order of participants and runs.
    """
    wanted = set(participants)
    found: dict[str, list[Entry]] = {}
    pattern = "func/sub-*_embedding.tsv"
    for path in sorted([*root.glob(f"sub-*/{pattern}"), *root.glob(f"sub-*/ses-*/{pattern}")]):
        entities = parse_name(path)
        label = entities.get("desc", "")
        if label.endswith("Windows") or (wanted and entities["sub"] not in wanted):
            continue
        run = "_".join(f"{key}-{value}" for key, value in entities.items() if key not in ADDED)
        entry = Entry(path=path, label=label, participant=entities["sub"], run=run)
        found.setdefault(label, []).append(entry)
    return found


def run_group(settings: Settings, engines: Engines, begin: float) -> AppResult:
    """Build tables, indices and the group page from the output folder.

    Parameters
    ----------
    settings : Settings
        Of the call.
    engines : Engines
        The doors to the pipelines.
    begin : float
        When the call began, ``time.monotonic()``.

    Raises
    ------
    NothingSelectedError
        If the output folder holds no embedding.
    DataError
        If embeddings of one model have different lengths.
    """
    root = settings.output_dir
    found = find_embeddings(root, settings.selection.participant_label)
    if not found:
        raise NothingSelectedError(
            f"{root} holds no embedding of the participants asked for",
            fix="run the participant level first, with the same OUTPUT_DIR",
        )
    describe_output(root, {"raw": settings.bids_dir})
    ledger = Ledger(root)
    made = [label for label, entries in found.items() if _index_model(label, entries, ledger)]
    page, new_page = _write_page(found, ledger, engines)
    counts = ", ".join(f"{len(entries)} runs of {label}" for label, entries in found.items())
    if made or new_page:
        line = f"indexed {counts} in {time.monotonic() - begin:.1f} s"
    else:
        line = f"nothing to do: {counts} are indexed already"
    paths = [index_paths(root, label)["index"] for label in found]
    return AppResult(
        paths=(*paths, page),
        seconds=time.monotonic() - begin,
        written=bool(made) or new_page,
        lines=(line,),
    )


def _index_model(label: str, entries: Sequence[Entry], ledger: Ledger) -> bool:
    """Write table and index of one model; False if they are there already."""
    root = ledger.root
    inputs = {bids_uri(e.path, {"": root}): sha256_of(e.path) for e in entries}
    unit = Unit(
        name=f"desc-{label}_index",
        kind="group",
        about={"label": label},
        settings={"centred": _is_centred(label)},
        inputs=inputs,
    )
    if ledger.holds(unit):
        return False
    begin, started = time.monotonic(), now()
    written = _write_index(label, entries, _read_all(entries), inputs, root)
    seconds = round(time.monotonic() - begin, 2)
    ledger.write(unit, written, stamps={}, measured={"started": started, "seconds": seconds})
    log.info("%s: indexed %d runs in %.1f s", label, len(entries), seconds)
    return True


def _cards(label: str) -> list[Card]:
    """Find the cards whose outputs have this label; none for a model of another version."""
    from neurostorm_app.models import list_models, read_card

    return [card for card in map(read_card, list_models()) if card.label == label]


def _is_centred(label: str) -> bool:
    """Ask the model's card whether its vectors share a large common part."""
    return any(card.centre for card in _cards(label))


def _read_all(entries: Sequence[Entry]) -> NDArray[np.float32]:
    """Read the vectors of all runs; (N, D)."""
    vectors = [read_embedding(entry.path)[0] for entry in entries]
    first = vectors[0].size
    for entry, vector in zip(entries, vectors, strict=True):
        if vector.size != first:
            raise DataError(
                f"{entry.path} holds {vector.size} numbers, {entries[0].path} holds {first}: "
                "they are of different parcellations or weights",
                fix="embed all runs of a model with the same weights and atlas",
            )
    return np.stack(vectors)


def _write_index(
    label: str,
    entries: Sequence[Entry],
    vectors: NDArray[np.float32],
    hashes: dict[str, str],
    root: Path,
) -> dict[Path, str]:
    from neurostorm_app.pipelines.retrieve import build_index, save_index

    paths = index_paths(root, label)
    paths["index"].parent.mkdir(parents=True, exist_ok=True)
    index = build_index(vectors, centre=_is_centred(label))
    save_index(index, paths["index"])
    leading = {
        "participant_id": [f"sub-{entry.participant}" for entry in entries],
        "run": [entry.run for entry in entries],
        "source": list(hashes),
    }
    rows = zip(range(len(entries)), hashes.items(), entries, strict=True)
    lines = ["row\tsource\tparticipant_id\trun\tsha256"]
    lines += [f"{i}\t{u}\tsub-{e.participant}\t{e.run}\t{h}" for i, (u, h), e in rows]
    demo = any(card.demo for card in _cards(label))
    about = {
        "Description": f"{DEMO if demo else ''}All runs embedded by {label}.",
        "Demo": demo,
        "Shape": list(vectors.shape),
        "Privacy": PRIVACY,
    }
    similarity = "cosine of the vectors" + ("" if index.mean is None else ", mean taken off")
    measure = {
        "Similarity": similarity,
        "Rows": paths["rows"].name,
        "Format": "faiss, exact",
    }
    return {
        paths["index"]: sha256_of(paths["index"]),
        paths["table"]: write_text(paths["table"], embedding_table(vectors, leading), root=root),
        paths["table_json"]: write_json(paths["table_json"], about, root=root),
        paths["rows"]: write_text(paths["rows"], "\n".join(lines) + "\n", root=root),
        paths["index_json"]: write_json(paths["index_json"], {**about, **measure}, root=root),
    }


def _write_page(
    found: dict[str, list[Entry]], ledger: Ledger, engines: Engines
) -> tuple[Path, bool]:
    """Write the group page if the indices or the runs' reports have changed."""
    root, page = ledger.root, ledger.root / "group.html"
    inputs = {label: (ledger.read(f"desc-{label}_index") or {"key": ""})["key"] for label in found}
    for report in sorted((root / "logs").glob("sub-*_report.json")):
        inputs[report.name] = sha256_of(report)
    unit = Unit(name="group_report", kind="report", about={}, settings={}, inputs=inputs)
    if ledger.holds(unit):
        return page, False
    started, begin = now(), time.monotonic()
    page = engines.write_group_page(root)
    measured = {"started": started, "seconds": round(time.monotonic() - begin, 2)}
    ledger.write(unit, {page: sha256_of(page)}, stamps={}, measured=measured)
    return page, True
