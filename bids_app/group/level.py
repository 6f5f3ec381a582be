"""The group level: all embeddings of a model in one table and one index, and the group page.

It works from the output folder alone, so it can run long after the scans have gone. A model whose
runs cannot be compared, and a run that cannot be read, are named and leave the others alone.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from neurostorm_app.bids_app.describe import check_owner, describe_output
from neurostorm_app.bids_app.group.collect import collect, in_part
from neurostorm_app.bids_app.group.controls import ensure_controls
from neurostorm_app.bids_app.group.lock import alone
from neurostorm_app.bids_app.group.outputs import (
    index_paths,
    known_tables,
    part_path,
    unless_held,
    write_index,
    write_tables,
)
from neurostorm_app.bids_app.group.prediction_paths import all_leftovers
from neurostorm_app.bids_app.group.predictions import predict_targets
from neurostorm_app.bids_app.group.reidentification import choose_draws, write_reidentification
from neurostorm_app.bids_app.group.rows import Entry, find_embeddings, survey
from neurostorm_app.bids_app.group.store import Collected, write_table
from neurostorm_app.bids_app.privacy import rules_of
from neurostorm_app.bids_app.provenance import Ledger, Unit, sha256_of
from neurostorm_app.bids_app.results import AppResult, Progress, contained
from neurostorm_app.errors import NothingSelectedError
from neurostorm_app.pipelines.progress import Event, Planned, stage, tell
from neurostorm_app.pipelines.resources import detect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.engines import Engines
    from neurostorm_app.bids_app.group.rows import Survey
    from neurostorm_app.bids_app.settings import Settings

__all__ = ["Collected", "Entry", "find_embeddings", "index_paths", "run_group"]

log = logging.getLogger(__name__)

PAGE: Final = "group page"
"""Name of the last piece of work."""


@dataclass(slots=True)
class _Told:
    """What went wrong so far, by the run or the model that it went wrong with; what was written.

    A model without an index of all its runs is not in ``indexed``.
    """

    progress: dict[str, Progress] = field(default_factory=dict)
    written: dict[str, bool] = field(default_factory=dict)
    indexed: list[str] = field(default_factory=list)

    def of(self, name: str) -> Progress:
        """Where errors of a run or of a model are put."""
        return self.progress.setdefault(name, Progress(name=name))

    def close(self, name: str) -> None:
        """Tell that a piece of work is at its end."""
        done = "done" if self.written.get(name) else "reused"
        done = "failed" if self.of(name).errors else done
        tell(Event(name=name, stage=done, state="closed"))

    def result(
        self, *, begin: float, lines: Sequence[str], written: bool, paths: Sequence[Path]
    ) -> AppResult:
        """Close the call; what failed stands in its runs, so that the exit code follows."""
        failed = [progress.result() for progress in self.progress.values() if progress.errors]
        return AppResult(
            runs=tuple(failed),
            paths=tuple(paths),
            seconds=time.monotonic() - begin,
            written=written,
            lines=tuple(lines),
        )


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

    Returns
    -------
    AppResult
        Its runs are those that were left out, and the models that were refused.

    Raises
    ------
    NothingSelectedError
        If the output folder holds no embedding.
    TemporaryError
        If another group call is at work in this folder for too long.
    """
    root, told = settings.output_dir, _Told()
    here = survey(root, settings.selection.participant_label)
    if not here.found and not here.strange:
        raise NothingSelectedError(
            f"{root} holds no embedding of the participants asked for",
            fix="run the participant level first, with the same OUTPUT_DIR",
        )
    for name, error in here.strange.items():
        told.of(name).errors.append(error)
    if settings.execution.part is not None:
        return _collect_part(here.found, settings.execution.part, root, told, begin=begin)
    # The dataset the embeddings are from stays named, if this call was given another place.
    known = "raw" in check_owner(root).get("DatasetLinks", {})
    rules = rules_of(settings, strict=settings.execution.privacy == "strict")
    describe_output(root, {} if known else {"raw": settings.bids_dir}, rules=rules)
    ledger, new = Ledger(root, rules), False
    with alone(root):
        # Another call may have been waited for: what it has seen must not be taken away again.
        here = survey(root, settings.selection.participant_label)
        if _add_controls(here, settings, engines, ledger, told):
            new, here = True, survey(root, settings.selection.participant_label)
        targets = (f"target {name}" for name in settings.prediction.target)
        tell(Planned(names=(*here.found, *targets, PAGE), memory=0, unit="steps"))
        collected = _collect_all(here, settings, ledger, told)
        _evaluate(collected, settings, ledger, told)
        outcome = predict_targets(settings, collected, ledger)
        told.progress |= outcome.progress
        with _logged(PAGE, "draw"):
            page, told.written[PAGE] = _write_page(collected, ledger, engines)
        told.close(PAGE)
    new |= outcome.written or any(told.written.values())
    counts = ", ".join(f"{len(collected[label].rows)} runs of {label}" for label in told.indexed)
    took = f"indexed {counts or 'nothing'} in {time.monotonic() - begin:.1f} s"
    line = took if new or not counts else f"nothing to do: {counts} are indexed already"
    paths = [index_paths(root, label)["index"] for label in told.indexed]
    paths = [*paths, *outcome.paths, page]
    lines = [line, *_limits(root, collected, told.indexed), *outcome.lines]
    return told.result(begin=begin, lines=lines, written=new, paths=paths)


def _limits(
    root: Path, collected: Mapping[str, Collected], indexed: Sequence[str]
) -> Iterator[str]:
    """Say who is not in the tables, and which tables are of an earlier call."""
    everybody = {path.name for path in root.glob("sub-*") if path.is_dir()}
    for label, one in collected.items():
        if lacking := everybody - {f"sub-{row.participant}" for row in one.rows}:
            yield (
                f"of {len(everybody)} participants in the folder, {len(lacking)} are not in the "
                f"table {'and the index ' if label in indexed else ''}of {label}"
            )
    names = [path.name for path in sorted((root / "retrieval").glob("desc-*_index.faiss"))]
    labels = [name.removeprefix("desc-").removesuffix("_index.faiss") for name in names]
    for label in labels:
        if label not in collected:
            yield (
                f"the table and the index of {label} are of an earlier call: no run was collected "
                "now; remove them if they are not wanted"
            )
        elif label not in indexed:
            yield (
                f"the index of {label} is of an earlier call: none could be built now; remove it "
                "if it is not wanted"
            )


def _add_controls(
    here: Survey, settings: Settings, engines: Engines, ledger: Ledger, told: _Told
) -> bool:
    """Embed with untrained networks, for targets to be compared; False if nothing was lacking."""
    asked = settings.prediction
    if not asked.target or asked.no_controls:
        return False
    made = 0
    with contained(told.of("controls")):
        controls = ensure_controls(settings, here.found, engines=engines, ledger=ledger)
        made = sum(controls.made.values())
    return made > 0


@contextlib.contextmanager
def _logged(name: str, what: str) -> Iterator[None]:
    """Tell of a stage, and log how long it took."""
    begin = time.monotonic()
    with stage(name, what):
        yield
    log.info("%s: %s in %.1f s", name, what, time.monotonic() - begin)


def _collect_all(
    here: Survey, settings: Settings, ledger: Ledger, told: _Told
) -> dict[str, Collected]:
    """Write the table and the index of each model; vectors stay in memory, an index beside them."""
    collected: dict[str, Collected] = {}
    root, room = ledger.root, settings.execution.memory or detect().memory
    for label, entries in here.found.items():
        with contained(told.of(label)):
            with stage(label, "collect runs"):
                one = _collect(label, entries, known_tables(root, label), told, root=root)
            collected[label], told.written[label] = one, write_tables(one, ledger)
        if label not in collected:
            told.close(label)
            continue
        # A kind of index that these runs cannot have costs the index alone.
        with contained(told.of(label)), _logged(label, "build index"):
            room = max(0, room - one.vectors.nbytes)
            kind = settings.prediction.index_kind
            told.written[label] |= write_index(one, ledger, kind=kind, memory=room)
            told.indexed.append(label)
    return collected


def _evaluate(
    collected: Mapping[str, Collected], settings: Settings, ledger: Ledger, told: _Told
) -> None:
    """Tell what the embeddings are good for."""
    if not collected:
        return
    draws = choose_draws(
        collected, seed=settings.science.random_seed, confidence=settings.prediction.confidence
    )
    for label in collected:
        with contained(told.of(label)), _logged(label, "recognise people"):
            fresh = write_reidentification(label, collected, ledger, draws=draws)
            told.written[label] |= fresh
        told.close(label)


def _collect(
    label: str, entries: Iterable[Entry], tables: Iterable[Path], told: _Told, *, root: Path
) -> Collected:
    """Collect one model, and tell which runs are left out."""
    begin = time.monotonic()
    one = collect(label, entries, tables, root=root)
    for entry, error in one.left_out.items():
        told.of(entry.run).errors.append(error)
    n, seconds = len(one.rows), time.monotonic() - begin
    log.info("%s: %d runs, %d of them read, in %.1f s", label, n, one.n_read, seconds)
    return one


def _collect_part(
    found: Mapping[str, Sequence[Entry]],
    part: tuple[int, int],
    root: Path,
    told: _Told,
    *,
    begin: float,
) -> AppResult:
    """Collect one part of the participants, as one of many jobs; nothing else is written."""
    paths = []
    counts = []
    for label, entries in found.items():
        ours = [entry for entry in entries if in_part(entry.participant, part)]
        path = part_path(root, label, part)
        if not ours:
            continue
        with contained(told.of(label)):
            one = _collect(label, ours, [path, *known_tables(root, label)[:1]], told, root=root)
            write_table(path, one, root)
            paths.append(path)
            counts.append(f"{len(one.rows)} runs of {label}")
    line = f"part {part[0]} of {part[1]}: {', '.join(counts) or 'no run is in it'}"
    return told.result(begin=begin, lines=[line], written=bool(paths), paths=paths)


def _write_page(collected: Iterable[str], ledger: Ledger, engines: Engines) -> tuple[Path, bool]:
    """Write the group page if what it shows has changed."""
    root, page = ledger.root, ledger.root / "group.html"
    units = [
        f"desc-{label}_{what}" for label in collected for what in ("index", "reidentification")
    ]
    units += sorted(path.stem for path in (root / "prov").glob("target-*.json"))
    inputs = {name: (ledger.read(name) or {"key": ""})["key"] for name in units}
    for kind in ("report", "measures"):
        for path in sorted((root / "logs").glob(f"sub-*_{kind}.json")):
            inputs[path.name] = sha256_of(path)
    inputs |= {f"leftovers of {label}": told for label, told in all_leftovers(ledger).items()}
    shown = {"strict": ledger.rules.strict}
    unit = Unit(name="group_report", kind="report", about={}, settings=shown, inputs=inputs)

    def write() -> dict[Path, str]:
        """Write the page."""
        written = engines.write_group_page(root)
        return {written: sha256_of(written)}

    return page, unless_held(unit, ledger, write)
