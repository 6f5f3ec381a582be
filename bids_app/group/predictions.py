"""Predictions at the group level: from columns and embeddings to tables, verdicts and heads.

Each target is a unit of work of its own: one that fails leaves the others alone, and one that is
done is not done again. The expensive parts are in `pipelines.evaluate`; here is what they are
given and what becomes of their results.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.derivatives import write_bytes, write_json, write_text
from neurostorm_app.bids_app.group.cohort import digest_labels, gather_cohort
from neurostorm_app.bids_app.group.compare import compare_sources
from neurostorm_app.bids_app.group.keys import row_key
from neurostorm_app.bids_app.group.phenotype_files import phenotype_sidecar, phenotype_table
from neurostorm_app.bids_app.group.prediction_files import (
    describe_evaluation,
    describe_source,
    evaluation_table,
    limit_verdicts,
)
from neurostorm_app.bids_app.group.prediction_paths import (
    evaluation_paths,
    find_leftovers,
    tell_leftovers,
)
from neurostorm_app.bids_app.group.tables import find_tables
from neurostorm_app.bids_app.group.targets import label_target
from neurostorm_app.bids_app.inputs.links import linked_datasets
from neurostorm_app.bids_app.provenance import Unit, key_of, now
from neurostorm_app.bids_app.results import Progress, StageTime, contained
from neurostorm_app.errors import NothingSelectedError
from neurostorm_app.pipelines.progress import Event, stage, tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.group.cohort import Gathered
    from neurostorm_app.bids_app.group.store import Collected
    from neurostorm_app.bids_app.group.tables import TableFile
    from neurostorm_app.bids_app.provenance import Ledger
    from neurostorm_app.bids_app.settings import Settings
    from neurostorm_app.bids_app.words.options import Prediction
    from neurostorm_app.pipelines.evaluate.cohort import Design
    from neurostorm_app.pipelines.evaluate.compare import Comparison

__all__ = ["Outcome", "predict_targets"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What came of all targets.

    Parameters
    ----------
    progress : dict
        By target, with its errors.
    paths : list of Path
        The tables of the evaluations.
    lines : list of str
        Verdicts, for the user.
    written : bool
        Whether anything was computed.
    """

    progress: dict[str, Progress] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    written: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What all targets share."""

    settings: Settings
    collected: Mapping[str, Collected]
    tables: Sequence[TableFile]
    links: Mapping[str, Path]
    ledger: Ledger

    @property
    def options(self) -> Prediction:
        return self.settings.prediction


def predict_targets(
    settings: Settings, collected: Mapping[str, Collected], ledger: Ledger
) -> Outcome:
    """Predict all targets that are asked for, from all models, and write what came of it.

    Parameters
    ----------
    settings : Settings
        Of the call; targets are in ``settings.prediction``.
    collected : mapping of str to Collected
        The runs of each model, by label.
    ledger : Ledger
        Records of the output folder.

    Returns
    -------
    Outcome
        Errors stand in it; none is raised.
    """
    outcome, taken = Outcome(), dict[str, str]()
    targets = settings.prediction.target
    outcome.progress = {f"target {name}": Progress(name=f"target {name}") for name in targets}
    call = None
    with contained(*outcome.progress.values()):
        call = _prepare(settings, collected, ledger)
    for asked in targets:
        progress = outcome.progress[f"target {asked}"]
        if call is not None:
            with contained(progress), stage(progress.name, "evaluate"):
                taken[asked] = label_target(asked, taken)
                _predict(asked, taken[asked], call, outcome)
        tell(Event(name=progress.name, stage=progress.result().status, state="closed"))
    return outcome


def _prepare(settings: Settings, collected: Mapping[str, Collected], ledger: Ledger) -> _Call:
    """Find the tables of people in the dataset, or else in those the embeddings are from."""
    links = linked_datasets(ledger.root)
    roots = [settings.bids_dir, *(path for name, path in links.items() if name)]
    people = {row.participant for one in collected.values() for row in one.rows}
    tables = find_tables(roots, people, given=settings.prediction.participants_file)
    return _Call(settings=settings, collected=collected, tables=tables, links=links, ledger=ledger)


def _predict(asked: str, label: str, call: _Call, outcome: Outcome) -> None:
    """Predict one target, unless that is done."""
    if not call.collected:
        raise NothingSelectedError(
            f"target {asked}: no embedding can be used to predict it",
            fix="look at the other messages, and run the participant level",
        )
    root, progress = call.ledger.root, outcome.progress[f"target {asked}"]
    gathered = gather_cohort(
        asked, call.options, list(call.collected.values()), call.tables, call.links
    )
    design = _design(call.settings, gathered)
    unit = _unit(label, gathered, design, call)
    paths = evaluation_paths(root, label)
    if not call.ledger.holds(unit):
        begin, started = time.monotonic(), now()
        cohort = gathered.cohort
        log.info(
            "target %s (%s): %d rows of %d participants, %d sources, %d permutations",
            asked,
            cohort.target.kind,
            cohort.n_rows,
            cohort.n_participants,
            len(cohort.features),
            design.n_permutations,
        )
        demos = [source for source, one in call.collected.items() if one.demo]
        comparison = compare_sources(gathered, design, call.options.baselines, demos)
        written = _write(label, gathered, comparison, design, call)
        seconds = round(time.monotonic() - begin, 2)
        measured = {"started": started, "seconds": seconds}
        call.ledger.write(unit, written, stamps={}, measured=measured)
        progress.stages.append(StageTime(f"predict {asked}", seconds))
        outcome.written = True
        log.info("target %s: evaluated in %.1f s", asked, seconds)
    outputs = call.ledger.output_hashes(unit.name)
    progress.outputs += outputs
    outcome.paths.append(paths["table"])
    outcome.lines += _verdicts(paths["json"])
    for told in tell_leftovers(label, find_leftovers(call.ledger, label)):
        outcome.lines.append(f"{told}; remove what is not wanted")


def _design(settings: Settings, gathered: Gathered) -> Design:
    from neurostorm_app.pipelines.evaluate.cohort import Design
    from neurostorm_app.pipelines.evaluate.rearrange import choose_strata

    asked = settings.prediction
    return Design(
        n_folds=asked.folds,
        n_repeats=asked.repeats,
        n_permutations=asked.permutations,
        confidence=asked.confidence,
        classifier=asked.classifier,
        harmonise=asked.harmonise,
        covariates=tuple(name for name in asked.covariates if name != "none"),
        strata=choose_strata(gathered.cohort, "site"),
        seed=settings.science.random_seed,
    )


def _unit(label: str, gathered: Gathered, design: Design, call: _Call) -> Unit:
    """Say what the numbers of a target depend on: the embeddings and labels of its own rows."""
    row_is, keys = gathered.labels.row_is, set(gathered.keys)
    inputs = {}
    for source, one in call.collected.items():
        used = [(row.source, row.sha256) for row in one.rows if row_key(row, row_is) in keys]
        inputs[source] = key_of([used, dict(one.fingerprint)])
    return Unit(
        name=f"target-{label}_evaluation",
        kind="prediction",
        about={"target": gathered.cohort.target.name},
        settings={
            "design": dataclasses.asdict(design),
            "baselines": sorted(call.options.baselines),
            "save_heads": call.options.save_heads,
            "labels": digest_labels(gathered, key_of(inputs)),
            "left_out": gathered.left_out,
        },
        inputs=inputs,
    )


def _write(
    label: str, gathered: Gathered, comparison: Comparison, design: Design, call: _Call
) -> dict[Path, str]:
    """Write all files of a target; return hashes by path."""
    from neurostorm_app.pipelines.evaluate.metrics import primary_metric

    root = call.ledger.root
    sources = {
        source: describe_source(source, call.collected)
        for source in comparison.evaluations
        if source in call.collected or source in call.options.baselines
    }
    paths = evaluation_paths(root, label)
    written: dict[Path, str] = {}
    for source, about in sources.items():
        evaluation = comparison.evaluations[source]
        path = root / "phenotype" / f"{source}_{label}.tsv"
        sidecar = phenotype_sidecar(gathered, evaluation, about=about, confidence=design.confidence)
        written[path] = write_text(path, phenotype_table(gathered, evaluation), root=root)
        path = path.with_suffix(".json")
        written[path] = write_json(path, sidecar, root=root)
    if call.options.save_heads:
        written |= _write_heads(label, gathered, comparison, design, call)
    notes = limit_verdicts(comparison, call.collected, gathered.cohort.target.name)
    content = describe_evaluation(gathered, comparison, design, sources=sources, notes=notes)
    table = evaluation_table(comparison, primary_metric(gathered.cohort.target))
    written[paths["table"]] = write_text(paths["table"], table, root=root)
    written[paths["json"]] = write_json(paths["json"], content, root=root)
    return written


def _write_heads(
    label: str, gathered: Gathered, comparison: Comparison, design: Design, call: _Call
) -> dict[Path, str]:
    """Fit a head of each model on all rows, and keep it with its card."""
    from neurostorm_app import __version__
    from neurostorm_app.pipelines.evaluate.compare import UNTRAINED
    from neurostorm_app.pipelines.evaluate.head_files import pack_head
    from neurostorm_app.pipelines.evaluate.head_fit import fit_head, performance_of
    from neurostorm_app.pipelines.evaluate.rearrange import level_of

    root = call.ledger.root
    written: dict[Path, str] = {}
    if level_of(gathered.cohort) == "within":
        log.warning(
            "target %s: no head is kept: it differs within participants, and a new %s could "
            "be told only beside the other ones of its participant",
            gathered.cohort.target.name,
            gathered.labels.row_is,
        )
        return written
    for source, one in call.collected.items():
        if source.endswith(UNTRAINED):
            continue
        head = fit_head(
            gathered.cohort,
            source,
            design,
            fingerprint=one.fingerprint,
            demo=one.demo,
            performance=performance_of(
                gathered.cohort, source, design, comparison.evaluations[source]
            ),
        )
        content, card = pack_head(head, version=str(__version__))
        path = root / "prediction" / f"target-{label}_desc-{source}_head.safetensors"
        written[path] = write_bytes(path, content, root=root)
        path = path.with_suffix(".json")
        written[path] = write_json(path, card, root=root)
    return written


def _verdicts(path: Path) -> list[str]:
    """Read what was found, so that a second call tells it again."""
    return [json.loads(path.read_text(encoding="utf-8"))["Finding"]]
