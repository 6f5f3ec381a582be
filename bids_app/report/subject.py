"""The page of one participant: from the output tree to ``sub-<label>.html``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from neurostorm_app.bids_app.report.anatomical import build_anatomy
from neurostorm_app.bids_app.report.citing import write_methods
from neurostorm_app.bids_app.report.describing import read_descriptions
from neurostorm_app.bids_app.report.embeddings import build_models, is_control, is_demo
from neurostorm_app.bids_app.report.functional import FunctionalSection, build_functional
from neurostorm_app.bids_app.report.history import read_history
from neurostorm_app.bids_app.report.measuring import take_registration
from neurostorm_app.bids_app.report.meters import Meter, meters_of
from neurostorm_app.bids_app.report.native import Tissues
from neurostorm_app.bids_app.report.neighbours import Cohort, read_cohorts
from neurostorm_app.bids_app.report.outlook import read_outlooks
from neurostorm_app.bids_app.report.panels import Notice, attempt, flatten
from neurostorm_app.bids_app.report.reading import read_json
from neurostorm_app.bids_app.report.records import contracts_of, make_record, write_records
from neurostorm_app.bids_app.report.render import page_rules, render_page
from neurostorm_app.bids_app.report.standing import find_standing
from neurostorm_app.bids_app.report.tree import Participant, RunFiles, read_participant
from neurostorm_app.bids_app.report.verdict import Level, Verdict, judge, overall
from neurostorm_app.bids_app.report.viewer import (
    Scene,
    Shelf,
    build_scene,
    inserted_script,
    room_beside,
    viewer_library,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.report.tree import Anatomy

__all__ = ["write_subject_page"]


@dataclass(frozen=True, kw_only=True)
class RunCard:
    """A run on the first screen of the page; models say whether they are demonstrations."""

    section: FunctionalSection
    verdict: Verdict
    meters: list[Meter]
    models: dict[str, bool]
    scene: Scene | None = None


def write_subject_page(
    output_dir: Path,
    participant: str,
    *,
    viewer: Literal["on", "off"] = "on",
    strict: bool = False,
) -> Path:
    """Write the page of a participant.

    Parameters
    ----------
    output_dir : Path
        The output tree; only it is read, and series that its sidecars point to.
    participant : str
        Label without ``sub-``.
    viewer : {"on", "off"}
        Whether the page holds volumes and a viewer for them, about 2 MB a run.
    strict : bool
        Whether ``--privacy strict`` was asked for.

    Returns
    -------
    Path
        ``sub-<label>.html`` in the output folder.
    """
    found = read_participant(output_dir, participant)
    notices = [Notice(what=problem.what, fix=problem.fix) for problem in found.problems]
    cohorts = read_cohorts(output_dir, notices, keep=participant)
    tissues = Tissues(found.native)
    cards = [_card(run, found, cohorts, tissues=tissues) for run in found.runs]
    records = [make_record(c.section.run, c.section.measures, c.verdict) for c in cards]
    write_records(output_dir, participant, records)
    models = build_models(found.runs, cohorts)
    anatomy = [build_anatomy(one) for one in found.anatomy]
    panels = [panel for section in anatomy for panel in section.panels]
    panels += [panel for card in cards for panel in card.section.panels]
    panels += [panel for model in models for part in model.runs for panel in part.panels]
    room = room_beside(sum(panel.size for panel in panels))
    shelf = Shelf(room=room) if viewer == "on" else None
    if shelf is not None:
        cards = [_with_scene(card, found, shelf) for card in cards]
    level = overall([card.verdict.level for card in cards])
    outlooks = read_outlooks(output_dir, participant, found.runs, notices)
    dataset = attempt(notices, lambda: read_json(output_dir / "dataset_description.json")) or {}
    context = {
        "title": f"sub-{participant}",
        "participant": found,
        "dataset": str(dataset.get("Name", "")),
        "level": level,
        "answer": _answer(cards),
        "cards": cards,
        "anatomy": anatomy,
        "anatomy_records": flatten(found.qc),
        "models": models,
        "descriptions": read_descriptions(output_dir, participant, found.runs, notices),
        "demo": [model.name for model in models if model.demo],
        "history": read_history(output_dir, participant),
        "methods": write_methods(found.methods, found.runs),
        "outlooks": outlooks,
        "volumes": shelf.volumes if shelf else {},
        "viewer_library": viewer_library() if shelf and shelf.volumes else "",
        "failures": [card.section.run for card in cards if card.section.measures.error],
        "notices": notices,
        "has_group": (output_dir / "group.html").is_file(),
    }
    path = output_dir / f"sub-{participant}.html"
    scripts = ("script.js", "viewer.js") if context["volumes"] else ("script.js",)
    return render_page(
        "subject.html",
        path,
        rules=page_rules(output_dir, strict=strict),
        context=context,
        scripts=scripts,
        inserted=(inserted_script(),) if context["volumes"] else (),
    )


def _card(
    run: RunFiles, found: Participant, cohorts: Mapping[str, Cohort], *, tissues: Tissues
) -> RunCard:
    """Measure, draw and judge one run."""
    section = build_functional(run, _anatomy_of(run, found), tissues)
    take_registration(section.measures, {**found.qc, **run.qc})
    demos = {label: is_demo(files.sidecar) for label, files in run.embeddings.items()}
    stands = [
        find_standing(cohorts[label], run.name, demo=demo)
        for label, demo in demos.items()
        if label in cohorts and not is_control(label)
    ]
    verdict = judge(
        section.measures,
        qc={**found.qc, **run.qc},
        contracts=contracts_of(run),
        standings=[standing for standing in stands if standing is not None],
    )
    return RunCard(
        section=section, verdict=verdict, meters=meters_of(section.measures), models=demos
    )


def _with_scene(card: RunCard, found: Participant, shelf: Shelf) -> RunCard:
    """Add the viewer of a run, or say why it has none."""
    run = card.section.run
    scene = build_scene(run, _anatomy_of(run, found), shelf)
    if isinstance(scene, Notice):
        card.section.notices.append(scene)
    return replace(card, scene=scene if isinstance(scene, Scene) else None)


def _anatomy_of(run: RunFiles, found: Participant) -> Anatomy | None:
    """Find the anatomical images in the space of a run."""
    return next((one for one in found.anatomy if one.space == run.space), None)


def _answer(cards: list[RunCard]) -> str:
    """Answer the question at the top of the page in one sentence."""
    if not cards:
        return "There is no run of this participant in the output folder."
    counts = Counter(card.verdict.level for card in cards)
    words = {
        Level.GOOD: ("looks sound", "look sound"),
        Level.UNKNOWN: ("cannot be judged fully", "cannot be judged fully"),
        Level.CHECK: ("needs a look", "need a look"),
        Level.BAD: ("should not be used as it is", "should not be used as they are"),
        Level.FAILED: ("did not finish", "did not finish"),
    }
    if len(cards) == 1:
        verdict = cards[0].verdict
        causes = [r.topic for r in verdict.reasons if r.level is verdict.level]
        named = [topic[:1].lower() + topic[1:] for topic in dict.fromkeys(causes)]
        why = "" if verdict.level is Level.GOOD or not named else f": {', '.join(named)}"
        return f"The run {words[verdict.level][0]}{why}."
    parts = [f"{n} {words[level][n > 1]}" for level in Level if (n := counts[level])]
    return f"Of {len(cards)} runs, " + ", ".join(parts) + "."
