"""The page of the group: from the output tree to ``group.html``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurostorm_app.bids_app.inputs.links import linked_datasets
from neurostorm_app.bids_app.participant.outputs import PRIVACY
from neurostorm_app.bids_app.privacy import people_columns
from neurostorm_app.bids_app.report.attention import find_warned
from neurostorm_app.bids_app.report.colouring import Colouring, colourings
from neurostorm_app.bids_app.report.history import read_history
from neurostorm_app.bids_app.report.maps import Followed, Map, draw_maps, find_followed
from neurostorm_app.bids_app.report.neighbours import Cohort, Neighbour, read_cohorts
from neurostorm_app.bids_app.report.panels import Notice, Panel, attempt, chart
from neurostorm_app.bids_app.report.predictions import read_recognition, read_targets
from neurostorm_app.bids_app.report.reading import Table, read_table
from neurostorm_app.bids_app.report.records import RunRecord, read_records
from neurostorm_app.bids_app.report.render import page_rules, render_page
from neurostorm_app.bids_app.report.strips import distributions
from neurostorm_app.bids_app.report.verdict import LIMITS, Level
from neurostorm_app.pipelines.figures import cohort_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["write_group_page"]

_SHOWN = 8
"""Warnings on the first screen; more are folded."""


@dataclass(frozen=True, kw_only=True)
class CohortSection:
    """One model on the group page."""

    label: str
    demo: bool
    maps: list[Map]
    heat: Panel
    nearest: list[tuple[RunRecord, Neighbour]]
    found: tuple[int, int]
    followed: list[Followed]
    colourings: list[Colouring]


def write_group_page(output_dir: Path, *, strict: bool = False) -> Path:
    """Write the page of the group.

    Parameters
    ----------
    output_dir : Path
        The output tree; only it is read, and ``participants.tsv`` of the raw dataset if the
        description links to it.
    strict : bool
        Whether ``--privacy strict`` was asked for.

    Returns
    -------
    Path
        ``group.html`` in the output folder.
    """
    notices: list[Notice] = []
    records = [
        record
        for participant in _participants(output_dir)
        for record in attempt(
            notices,
            lambda who=participant: read_records(output_dir, who, notices),  # type: ignore[misc]
        )
        or []
    ]
    cohorts = read_cohorts(output_dir, notices)
    people = attempt(notices, lambda: _read_people(output_dir)) or {}
    recognition = read_recognition(output_dir, notices)
    targets = read_targets(output_dir, notices)
    sections = [_section(cohort, records, people) for cohort in cohorts.values()]
    levels = Counter(record.verdict.level for record in records)
    context = {
        "title": "Group",
        "records": records,
        "n_participants": len({record.participant for record in records}),
        "levels": [(level, levels[level]) for level in reversed(Level) if levels[level]],
        "warned": find_warned(records),
        "shown": _SHOWN,
        "people": _columns(people),
        "measured": _measured(records),
        "strips": distributions(records, LIMITS),
        "sections": [section for section in sections if section is not None],
        "recognition": recognition,
        "targets": targets,
        "demo": sorted({n for r in records for n, model in r.models.items() if model.demo}),
        "labels": sorted({label for record in records for label in record.models}),
        "failed": [record for record in records if record.errors],
        "privacy": PRIVACY,
        "history": read_history(output_dir),
        "notices": notices,
    }
    rules = page_rules(output_dir, strict=strict)
    return render_page("group.html", output_dir / "group.html", rules=rules, context=context)


def _participants(output_dir: Path) -> list[str]:
    """List the participants by their folders and their runs' reports."""
    names = [path.name for path in output_dir.glob("sub-*") if path.is_dir()]
    names += [path.name for path in (output_dir / "logs").glob("sub-*_report.json")]
    found = {match[1] for name in names if (match := re.match(r"sub-([0-9A-Za-z+]+)", name))}
    return sorted(found)


def _read_people(output_dir: Path) -> Table:
    """Read ``participants.tsv`` of the output tree, or of the raw dataset that it links to."""
    here = output_dir / "participants.tsv"
    if here.is_file():
        return read_table(here)
    raw = linked_datasets(output_dir).get("raw")
    return read_table(raw / "participants.tsv") if raw else {}


def _columns(people: Table) -> dict[str, dict[str, str]]:
    """Turn the table of participants into participant to column to cell."""
    labels = [label.removeprefix("sub-") for label in people.get("participant_id", [])]
    columns = people_columns(people)[:4]
    return {label: {c: people[c][i] for c in columns} for i, label in enumerate(labels)}


def _measured(records: Sequence[RunRecord]) -> dict[str, dict[str, str]]:
    """Turn the numbers of all runs into title to run to cell; what nobody has is left out."""
    known = {
        "Mean FD, mm": ("mean_fd", ".2f"),
        "> 0.5 mm": ("share_high", ".0%"),
        "tSNR": ("tsnr", ".0f"),
        "Coverage": ("coverage", ".0%"),
        "Dice": ("dice", ".2f"),
        "Edge cost": ("edge_cost", ".2f"),
        "Quiet, min": ("quiet_minutes", ".1f"),
    }
    columns = {
        title: {
            record.name: format(value, spec)
            for record in records
            if (value := getattr(record.measures, name)) is not None
        }
        for title, (name, spec) in known.items()
    }
    return {title: cells for title, cells in columns.items() if cells}


def _section(cohort: Cohort, records: Sequence[RunRecord], people: Table) -> CohortSection | None:
    """Lay out one model: maps, heat map, neighbours."""
    known = {record.name: record for record in records}
    kept = [i for i, name in enumerate(cohort.names) if name in known]
    if len(kept) < 2:
        return None
    here = [known[cohort.names[i]] for i in kept]
    nearest = [(record, cohort.nearest(record.name, 1)[0]) for record in here]
    return CohortSection(
        label=cohort.label,
        demo=any(r.models[cohort.label].demo for r in here if cohort.label in r.models),
        maps=draw_maps(cohort, kept, here),
        heat=chart(
            f"heat-{cohort.label}",
            cohort_figure(
                cohort.similarity[np.ix_(kept, kept)],
                [record.participant for record in here],
                label=f"Similarity of all pairs of runs: {cohort.label}.",
            ),
            title="Similarity of runs",
            caption="Bright blocks along the diagonal: runs of one participant are alike.",
        ),
        nearest=nearest,
        found=cohort.found_first(),
        followed=find_followed(cohort, kept, here, people),
        colourings=colourings(here, people),
    )
