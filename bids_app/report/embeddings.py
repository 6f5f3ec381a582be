"""The section of embeddings: one part for each model, with each of the participant's runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.bids_app.group.prediction_files import UNTRAINED
from neurostorm_app.bids_app.report.guesses import Guess, read_guess
from neurostorm_app.bids_app.report.panels import (
    Fact,
    Notice,
    Panel,
    anchor,
    attempt,
    chart,
    flatten,
)
from neurostorm_app.bids_app.report.reading import finite, numbers, read_vectors
from neurostorm_app.bids_app.report.standing import Standing, find_standing
from neurostorm_app.pipelines.figures import (
    connectome_figure,
    position_figure,
    similarity,
    similarity_figure,
    trajectory_figure,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from neurostorm_app.bids_app.report.neighbours import Cohort, Neighbour
    from neurostorm_app.bids_app.report.tree import EmbeddingFiles, RunFiles

__all__ = [
    "ModelSection",
    "RunEmbeddingSection",
    "build_models",
    "conformance",
    "count_windows",
    "is_control",
    "is_demo",
]

_CONNECTOME = "connectome"
_ONE = 0.01
"""Cosines of windows within this range say nothing but that all windows share most of a vector."""
_TOLD = ("Pooling", "Precision", "Device")


@dataclass(kw_only=True)
class RunEmbeddingSection:
    """One run through one model."""

    run: RunFiles
    met: bool | None
    reasons: list[str]
    facts: list[Fact] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    neighbours: list[Neighbour] = field(default_factory=list)
    standing: Standing | None = None
    guess: Guess | None = None
    notices: list[Notice] = field(default_factory=list)


@dataclass(kw_only=True)
class ModelSection:
    """One model."""

    label: str
    name: str
    demo: bool
    description: str
    facts: list[Fact]
    limits: list[str]
    runs: list[RunEmbeddingSection] = field(default_factory=list)
    in_index: bool = False


def is_demo(sidecar: Mapping[str, Any]) -> bool:
    """Tell whether an embedding comes from demonstration weights."""
    return bool(sidecar.get("Demo")) or str(sidecar.get("Description", "")).startswith("DEMO")


def is_control(label: str) -> bool:
    """Tell whether a label is that of a model's twin with random weights."""
    return label.endswith(UNTRAINED)


def conformance(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a sidecar how far the run met the model's contract; empty if it does not say."""
    for key in ("InputConformance", "Conformance", "Contract"):
        record = sidecar.get(key)
        if isinstance(record, dict):
            known = {name[:1].lower() + name[1:]: value for name, value in record.items()}
            reasons = known.get("reasons", [])
            if isinstance(known.get("met"), bool) and isinstance(reasons, list):
                distance = finite(known.pop("distance", None))
                return known if distance is None else {**known, "distance": distance}
    return {}


def build_models(runs: Iterable[RunFiles], cohorts: Mapping[str, Cohort]) -> list[ModelSection]:
    """Draw the embeddings of a participant.

    Parameters
    ----------
    runs : iterable of RunFiles
        The participant's.
    cohorts : mapping
        Label of a model to all runs of the index; empty if the group level has not run.
    """
    sections: dict[str, ModelSection] = {}
    for run in runs:
        for label, files in sorted(run.embeddings.items()):
            section = sections.setdefault(label, _start(label, files.sidecar))
            section.in_index = label in cohorts
            section.runs.append(_build_run(run, files, cohorts.get(label)))
    return list(sections.values())


def _start(label: str, sidecar: Mapping[str, Any]) -> ModelSection:
    model = sidecar.get("Model")
    model = model if isinstance(model, dict) else {}
    plain = {key: value for key, value in model.items() if not isinstance(value, list)}
    facts = flatten({**plain, **{key: sidecar.get(key) for key in _TOLD}})
    computation = sidecar.get("Computation")
    facts += flatten(computation) if isinstance(computation, dict) else []
    return ModelSection(
        label=label,
        name=str(model.get("Name") or label),
        demo=is_demo(sidecar),
        description=str(sidecar.get("Description", "")),
        facts=facts,
        limits=[str(limit) for limit in model.get("Limits") or []],
    )


def _build_run(run: RunFiles, files: EmbeddingFiles, cohort: Cohort | None) -> RunEmbeddingSection:
    contract = conformance(files.sidecar)
    section = RunEmbeddingSection(
        run=run,
        met=contract.get("met"),
        reasons=[str(reason) for reason in contract.get("reasons", [])],
    )
    attempt(section.notices, lambda: _draw(section, files))
    if cohort is not None:
        section.neighbours = cohort.nearest(run.name)
        section.standing = find_standing(cohort, run.name, demo=is_demo(files.sidecar))
        section.panels += _position(run, cohort)
    section.guess = attempt(section.notices, lambda: read_guess(files))
    told = {key: value for key, value in contract.items() if key not in ("met", "reasons")}
    section.facts += flatten(told)
    return section


def _position(run: RunFiles, cohort: Cohort) -> list[Panel]:
    """Draw the run among all runs; nothing if it is not among them, or nearly alone."""
    if run.name not in cohort.names or len(cohort.names) < 3:
        return []
    here = cohort.names.index(run.name)
    places, explained = cohort.plane()
    own = np.array([name == cohort.participants[here] for name in cohort.participants])
    title = f"{cohort.label}, {run.title}"
    return [
        chart(
            anchor(run.name, cohort.label, "position"),
            position_figure(
                places, explained, own=own, here=here, label=f"Position among all runs: {title}."
            ),
            title="Position among all runs",
            caption=(
                f"{len(cohort.names)} runs in the plane of their first two principal components. "
                "A run far from all others is worth a look."
            ),
        )
    ]


def _compare(
    windows: NDArray[np.float32], onsets: NDArray[np.float64], ident: str, where: str
) -> Panel:
    """Draw windows against windows; where all are nearly one, without what they share."""
    others = similarity(windows)[~np.eye(len(windows), dtype=bool)]
    blocks = "Blocks are stretches in which brain or head stayed in one state."
    name = "cosine similarity"
    if float(np.ptp(others)) < _ONE:
        windows = windows - windows.mean(0)
        name = "cosine, mean taken off"
        blocks = (
            f"All windows are alike (cosine {others.min():.4f} and above), so their mean was taken "
            f"off before they were compared. {blocks}"
        )
    return chart(
        ident,
        similarity_figure(windows, onsets, label=f"Similarity of windows: {where}.", name=name),
        title="Windows against windows",
        caption=blocks,
    )


def count_windows(n: int, sidecar: Mapping[str, Any]) -> str:
    """Say how many windows a run has, and of how many they were chosen.

    Examples
    --------
    >>> count_windows(2, {"InputConformance": {"met": True, "salience": {"scores": [0.1, 0, 0.3]}}})
    '2 of 3, those that tell most of the others'
    """
    chosen = conformance(sidecar).get("salience")
    scores = chosen.get("scores") if isinstance(chosen, dict) else None
    if not isinstance(scores, list) or not n:
        return str(n or "not stored")
    return f"{n} of {len(scores)}, those that tell most of the others"


def _draw(section: RunEmbeddingSection, files: EmbeddingFiles) -> None:
    """Draw the windows of a run, or its connectivity if it is one window."""
    run = section.run
    table, windows = read_vectors(files.windows)
    _, pooled = read_vectors(files.pooled)
    vectors = windows if len(windows) else pooled
    section.facts.append(Fact(label="Windows", value=count_windows(len(windows), files.sidecar)))
    section.facts.append(Fact(label="Length of a vector", value=str(vectors.shape[1])))
    onsets = numbers(table, "onset")
    ident = anchor(run.name, files.label)
    where = f"{files.label}, {run.title}"
    if len(windows) >= 3 and onsets is not None:
        section.panels.append(_compare(windows, onsets, f"{ident}-similarity", where))
        section.panels.append(
            chart(
                f"{ident}-trajectory",
                trajectory_figure(windows, onsets, label=f"Path of windows: {where}."),
                title="Path through time",
                caption="Windows in the plane of their first two principal components.",
            )
        )
    if files.label == _CONNECTOME and len(vectors):
        section.panels.append(
            chart(
                f"{ident}-connectome",
                connectome_figure(vectors.mean(0), label=f"Connectivity matrix: {where}."),
                title="Functional connectivity",
                caption="Correlation of all pairs of parcels (Fisher's z): the embedding itself.",
            )
        )
