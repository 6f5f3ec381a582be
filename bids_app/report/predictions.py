"""What the group level found out: how well targets are predicted, and people told apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.group.prediction_paths import all_leftovers
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.report.panels import (
    Fact,
    Notice,
    attempt,
    digits,
    two_decimals,
)
from neurostorm_app.bids_app.report.reading import expecting, read_json
from neurostorm_app.bids_app.report.reliability import draw_reliability

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.report.reliability import Reliability

__all__ = ["Bar", "TargetSection", "read_recognition", "read_targets"]

METRICS = {"auroc": ("AUROC", 0.5, 1.0), "r2": ("R²", 0.0, 0.6)}
"""Title of a metric, what guessing reaches, and where its axis ends at the least."""
_CONTROL = "Untrained"
"""Ends the label of a model's twin with random weights."""
TITLES = {"r": "r", "mae": "Mean error", "balanced_accuracy": "Balanced accuracy", "brier": "Brier"}
"""What other metrics are called."""


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
        Places on the axis, 0 to 1.
    effect : str
        Verdict: ``found``, ``none``, ``confounded``; empty if there is none.
    chance : tuple of float or None
        Places between which nine of ten values lie if the target is rearranged.
    more : dict
        Other numbers of it, in words, by what they are.
    """

    name: str
    role: str
    text: str
    low: float
    value: float
    high: float
    effect: str
    chance: tuple[float, float] | None = None
    more: dict[str, str] = field(default_factory=dict)


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
    columns : list of str
        What is known more of any of them.
    reliability : list of Reliability
        What was predicted against what was observed.
    chance : float
        Place on the axis of what guessing reaches.
    ticks : list of (float, str)
        Of the axis.
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
    columns: list[str]
    reliability: list[Reliability]
    chance: float
    ticks: list[tuple[float, str]]
    sentences: list[str]
    facts: list[Fact]
    notes: list[str]
    table: str


def read_targets(output_dir: Path, notices: list[Notice]) -> list[TargetSection]:
    """Read all targets that were predicted, in the order of their names.

    Parameters
    ----------
    output_dir : Path
        The output tree.
    notices : list of Notice
        Gets one for each damaged file.
    """
    paths = sorted((output_dir / "prediction").glob("target-*_evaluation.json"))
    left = all_leftovers(Ledger(output_dir))
    sections = [attempt(notices, partial(_read_target, path, left)) for path in paths]
    return [section for section in sections if section is not None]


def read_recognition(output_dir: Path, notices: list[Notice]) -> dict[str, str]:
    """Say of each model how well its embeddings tell people apart, where that was measured.

    Parameters
    ----------
    output_dir : Path
        The output tree.
    notices : list of Notice
        Gets one for each damaged file.
    """
    found = {}
    for path in sorted((output_dir / "retrieval").glob("desc-*_reidentification.json")):
        label = path.name.removeprefix("desc-").removesuffix("_reidentification.json")
        if words := attempt(notices, partial(_read_recognised, path)):
            found[label] = words
    return found


def _read_target(path: Path, left: Mapping[str, str]) -> TargetSection:
    label = path.name.removeprefix("target-").removesuffix("_evaluation.json")
    with expecting("evaluation", path):
        section = _section(read_json(path), path)
    section.notes.extend([left[label]] if label in left else [])
    return section


def _read_recognised(path: Path) -> str:
    """Say what one file says; nothing if it compares nobody."""
    with expecting("recognition of people", path):
        galleries = read_json(path).get("Reidentification", {}).get("Galleries", [])
        return _recognised(galleries[0]) if galleries else ""


def _recognised(gallery: Mapping[str, Any]) -> str:
    rank = gallery["Rank1"]
    return (
        f"Among one run each of {gallery['GallerySize']} participants, the most similar one is the"
        f" own in {rank['value']:.0%} ({rank['low']:.0%} to {rank['high']:.0%}; guessing:"
        f" {gallery['Rank1ByChance']:.1%})."
    )


def _section(said: Mapping[str, Any], path: Path) -> TargetSection:
    sources = _in_order(said["Sources"])
    key = "auroc" if said["Target"]["Kind"] == "classes" else "r2"
    title, chance, most = METRICS[key]
    metrics = {name: one["Metrics"][key] for name, one in sources.items()}
    known = [*metrics.values(), *(by for one in sources.values() if (by := one.get("ByChance")))]
    low = min(chance - 0.1, *(m["Low"] for m in known))
    high = max(most, *(m["High"] for m in known))

    def place(value: float) -> float:
        return float((value - low) / (high - low))

    bars = [
        Bar(
            name=name,
            role=one["Model"].get("Role", ""),
            text=_words(metrics[name], one["PValue"]),
            low=place(metrics[name]["Low"]),
            value=place(metrics[name]["Value"]),
            high=place(metrics[name]["High"]),
            effect=said["Verdicts"].get(name, {}).get("effect", ""),
            chance=(place(by["Low"]), place(by["High"])) if (by := one.get("ByChance")) else None,
            more=_more(one, key),
        )
        for name, one in sources.items()
    ]
    return TargetSection(
        name=said["Target"]["Name"],
        finding=said["Finding"],
        metric=title,
        demo=said["Demo"],
        bars=bars,
        columns=list(dict.fromkeys(name for bar in bars for name in bar.more)),
        reliability=draw_reliability({**said, "Sources": sources}),
        chance=place(chance),
        ticks=[(place(value), f"{value:.2f}") for value in (low, chance, high)],
        sentences=[verdict["sentence"] for verdict in said["Verdicts"].values()],
        facts=_facts(said),
        notes=list(said["Notes"]),
        table=f"prediction/{path.with_suffix('.tsv').name}",
    )


def _in_order(sources: Mapping[str, Any]) -> dict[str, Any]:
    """Put a control with random weights behind its model."""
    after = {name: name.removesuffix(_CONTROL) for name in sources}
    first = list(dict.fromkeys(after.values()))
    order = sorted(sources, key=lambda name: (first.index(after[name]), name))
    return {name: sources[name] for name in order}


def _words(measured: Mapping[str, float], p_value: float | None) -> str:
    value, low, high = (two_decimals(measured[name]) for name in ("Value", "Low", "High"))
    told = f"{value} ({low} to {high})"
    return told if p_value is None else f"{told}, p {p_value:.3g}"


def _more(source: Mapping[str, Any], primary: str) -> dict[str, str]:
    """Tell the other metrics of a source, what chance reaches, and how its intervals hold."""
    found = {}
    if by := source.get("ByChance"):
        found["With the target rearranged"] = " to ".join(
            two_decimals(by[name]) for name in ("Low", "High")
        )
    for name, measured in source["Metrics"].items():
        if name != primary and measured["Value"] is not None:
            found[TITLES.get(name, name)] = digits(measured["Value"])
    if source.get("Coverage") is not None:
        found["Intervals hold for"] = f"{source['Coverage']:.0%}"
    return found


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
