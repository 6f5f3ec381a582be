"""Colours of the runs on the map of embeddings: by participant, verdict, motion or a column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.privacy import people_columns
from neurostorm_app.pipelines.figures.style import colour_stops

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neurostorm_app.bids_app.report.reading import Table
    from neurostorm_app.bids_app.report.records import RunRecord

__all__ = ["Colouring", "colourings"]

_HUES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8f7a00", "#7f7f7f")
"""Okabe and Ito (2008): distinct to people who see colours differently."""
_LEVELS = {
    "good": "#009e73",
    "unknown": "#7f7f7f",
    "check": "#e69f00",
    "bad": "#d55e00",
    "failed": "#cc79a7",
}
_SCALE = "viridis"
_UNKNOWN = "#7f7f7f"
_LEGEND_MAX = 24
_COLUMNS_MAX = 6


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """One way to colour the runs.

    Parameters
    ----------
    key, label : str
        Name in the page, and in words.
    colours : dict
        Name of a run to its colour.
    legend : list of (str, str)
        Colour and meaning; empty for a scale.
    scale : dict
        Low, high and colours of a scale; empty for a legend.
    more : int
        How many meanings there are that the legend leaves out.
    """

    key: str
    label: str
    colours: dict[str, str]
    legend: list[tuple[str, str]]
    scale: dict[str, str | list[str]]
    more: int = 0


def colourings(records: Sequence[RunRecord], participants: Table) -> list[Colouring]:
    """List the ways in which runs can be coloured.

    Parameters
    ----------
    records : sequence of RunRecord
        The runs.
    participants : dict
        ``participants.tsv``; empty if there is none.
    """
    named = {record.name: record.participant for record in records}
    ways = [
        _by_name("c0", "participant", {n: f"sub-{p}" for n, p in named.items()}, None),
        _by_name("c1", "verdict", {r.name: str(r.verdict.level) for r in records}, _LEVELS),
    ]
    motion = {r.name: r.measures.mean_fd for r in records if r.measures.mean_fd is not None}
    if len(motion) > 1:
        ways.append(_by_number("c2", "mean motion (mm)", motion, named))
    rows = {
        label.removeprefix("sub-"): i
        for i, label in enumerate(participants.get("participant_id", []))
    }
    columns = people_columns(participants)[:_COLUMNS_MAX]
    for i, column in enumerate(columns):
        cells = {n: participants[column][rows[p]] for n, p in named.items() if p in rows}
        ways += _by_column(f"c{i + 3}", column, cells, named)
    return ways


def _by_column(
    key: str, column: str, cells: Mapping[str, str], named: Mapping[str, str]
) -> list[Colouring]:
    """Colour by a column, as numbers if all its known cells are numbers."""
    known = {name: cell for name, cell in cells.items() if cell not in ("", "n/a")}
    if len(set(known.values())) < 2:
        return []
    try:
        numbers = {name: float(cell) for name, cell in known.items()}
    except ValueError:
        return [_by_name(key, column, {name: known.get(name, "n/a") for name in named}, None)]
    if not all(math.isfinite(value) for value in numbers.values()):
        return []
    return [_by_number(key, column, numbers, named)]


def _by_name(
    key: str, label: str, names: Mapping[str, str], colours: Mapping[str, str] | None
) -> Colouring:
    kinds = sorted(set(names.values()))
    if colours is None:
        hues = _HUES if len(kinds) <= len(_HUES) else colour_stops(_SCALE, len(kinds))
        colours = dict(zip(kinds, hues, strict=False))
    return Colouring(
        key=key,
        label=label,
        colours={run: colours.get(kind, _UNKNOWN) for run, kind in names.items()},
        legend=[(colours.get(kind, _UNKNOWN), kind) for kind in kinds[:_LEGEND_MAX]],
        scale={},
        more=max(0, len(kinds) - _LEGEND_MAX),
    )


def _by_number(
    key: str, label: str, numbers: Mapping[str, float], named: Mapping[str, str]
) -> Colouring:
    low, high = min(numbers.values()), max(numbers.values())
    stops = colour_stops(_SCALE, 65)
    width = (high - low) or 1.0
    colours = {run: stops[round((value - low) / width * 64)] for run, value in numbers.items()}
    return Colouring(
        key=key,
        label=label,
        colours={run: colours.get(run, _UNKNOWN) for run in named},
        legend=[],
        scale={"low": f"{low:.3g}", "high": f"{high:.3g}", "stops": stops[::8]},
    )
