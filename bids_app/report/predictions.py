"""What the group level found out: how well targets are predicted, and people told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.panels import Fact
from neurostorm_app.bids_app.report.reading import expecting, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Bar", "TargetSection", "read_recognition", "read_targets"]

METRICS = {"auroc": ("AUROC", 0.5, 1.0), "r2": ("R²", 0.0, 0.6)}
"""Title of a metric, what guessing reaches, and where its axis ends at the least."""
WIDTH, LEFT, ROW = 620.0, 210.0, 26.0
"""Of the chart, in its own units: width, where the axis begins, height of a row."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One source in the chart of a target.

    Parameters
    ----------
    name, role : str
        What predicts, and what it is: a model, a control, confounds.
    text : str
        Value, interval and p-value in words.
    low, value, high : float
        Places on the axis.
    y : float
        Of the row.
    effect : str
        Verdict: ``found``, ``none``, ``confounded``; empty if there is none.
    """

    name: str
    role: str
    text: str
    low: float
    value: float
    high: float
    y: float
    effect: str


@dataclass(frozen=True, kw_only=True)
class TargetSection:
    """One target on the group page.

    Parameters
    ----------
    name, finding : str
        The target, and what was found in one sentence.
    metric : str
        Title of the metric.
    demo : bool
        Whether a model's weights are not for science.
    bars : list of Bar
        Sources, in their order.
    chance : float
        Place on the axis of what guessing reaches.
    ticks : list of (float, str)
        Of the axis.
    size : tuple of float
        Width and height of the chart.
    sentences : list of str
        Verdicts of the sources.
    facts : list of Fact
        The cohort and the design.
    notes : list of str
        What is to be known.
    table : str
        Path of the table of all numbers, from the page.
    """

    name: str
    finding: str
    metric: str
    demo: bool
    bars: list[Bar]
    chance: float
    ticks: list[tuple[float, str]]
    size: tuple[float, float]
    sentences: list[str]
    facts: list[Fact]
    notes: list[str]
    table: str


def read_targets(output_dir: Path) -> list[TargetSection]:
    """Read all targets that were predicted, in the order of their names."""
    paths = sorted((output_dir / "prediction").glob("target-*_evaluation.json"))
    sections = []
    for path in paths:
        with expecting("evaluation", path):
            sections.append(_section(read_json(path), path))
    return sections


def read_recognition(output_dir: Path) -> dict[str, str]:
    """Say of each model how well its embeddings tell people apart, where that was measured."""
    found = {}
    for path in sorted((output_dir / "retrieval").glob("desc-*_reidentification.json")):
        with expecting("recognition of people", path):
            galleries = read_json(path).get("Reidentification", {}).get("Galleries", [])
            if galleries:
                label = path.name.removeprefix("desc-").removesuffix("_reidentification.json")
                found[label] = _recognised(galleries[0])
    return found


def _recognised(gallery: Mapping[str, Any]) -> str:
    rank = gallery["Rank1"]
    return (
        f"Among one run each of {gallery['GallerySize']} participants, the most similar one is the"
        f" own in {rank['value']:.0%} ({rank['low']:.0%} to {rank['high']:.0%}; guessing:"
        f" {gallery['Rank1ByChance']:.1%})."
    )


def _section(said: Mapping[str, Any], path: Path) -> TargetSection:
    sources = said["Sources"]
    key = "auroc" if said["Target"]["Kind"] == "classes" else "r2"
    title, chance, most = METRICS[key]
    metrics = {name: one["Metrics"][key] for name, one in sources.items()}
    low = min(chance - 0.1, *(m["Low"] for m in metrics.values()))
    high = max(most, *(m["High"] for m in metrics.values()))

    def place(value: float) -> float:
        return LEFT + float((value - low) / (high - low)) * (WIDTH - LEFT - 20)

    bars = [
        Bar(
            name=name,
            role=one["Model"].get("Role", ""),
            text=_words(metrics[name], one["PValue"]),
            low=place(metrics[name]["Low"]),
            value=place(metrics[name]["Value"]),
            high=place(metrics[name]["High"]),
            y=ROW * (row + 0.5),
            effect=said["Verdicts"].get(name, {}).get("effect", ""),
        )
        for row, (name, one) in enumerate(sources.items())
    ]
    return TargetSection(
        name=said["Target"]["Name"],
        finding=said["Finding"],
        metric=title,
        demo=said["Demo"],
        bars=bars,
        chance=place(chance),
        ticks=[(place(value), f"{value:.2f}") for value in (low, chance, high)],
        size=(WIDTH, ROW * len(bars) + 30),
        sentences=[verdict["sentence"] for verdict in said["Verdicts"].values()],
        facts=_facts(said),
        notes=list(said["Notes"]),
        table=f"prediction/{path.with_suffix('.tsv').name}",
    )


def _words(measured: Mapping[str, float], p_value: float | None) -> str:
    told = f"{measured['Value']:.2f} ({measured['Low']:.2f} to {measured['High']:.2f})"
    return told if p_value is None else f"{told}, p {p_value:.3g}"


def _facts(said: Mapping[str, Any]) -> list[Fact]:
    cohort, design = said["Cohort"], said["Design"]
    covariates = ", ".join(said["Adjusted"]["Covariates"]) or "none"
    return [
        Fact(label="Rows", value=f"{cohort['Rows']} of {cohort['Participants']} participants"),
        Fact(label="Folds", value=f"{design['n_folds']}, drawn {design['n_repeats']} times"),
        Fact(label="Permutations", value=str(design["n_permutations"])),
        Fact(label="Intervals", value=f"{design['confidence']:.0%}, over participants"),
        Fact(label="Covariates", value=covariates),
        Fact(label="Harmonisation", value=design["harmonise"]),
    ]
