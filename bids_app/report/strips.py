"""Charts of the group page whose dots are links: distributions, and the map of embeddings.

They are laid out here and drawn by the template, because a dot needs an address and a title.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neurostorm_app.bids_app.report.records import RunRecord

__all__ = ["Dot", "Strip", "distributions", "ticks"]

WIDTH, HEIGHT = 460, 96
_LEFT, _RIGHT, _AXIS = 12, 12, 66
_RADIUS = 4.5


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One run in a chart; places are units of the drawing."""

    x: float
    y: float
    record: RunRecord
    text: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The distribution of one number over runs.

    Parameters
    ----------
    title, unit : str
        What it is.
    dots : list of Dot
        The runs.
    ticks : list of (float, str)
        Place and label.
    limits : list of float
        Places where "look" and "bad" begin.
    """

    title: str
    unit: str
    dots: list[Dot]
    ticks: list[tuple[float, str]]
    limits: list[float] = field(default_factory=list)


def distributions(
    records: Sequence[RunRecord], limits: dict[str, tuple[float, float]]
) -> list[Strip]:
    """Lay out the distributions of all numbers that at least one run has."""
    chosen = (
        ("Mean framewise displacement", "mm", "mean_fd"),
        ("Share of volumes above 0.5 mm", "", "share_high"),
        ("Median tSNR", "", "tsnr"),
        ("Coverage of the brain", "", "coverage"),
        ("Overlap of BOLD and T1w (Dice)", "", "dice"),
        ("Edge cost of BOLD on T1w, 1 is chance", "", "edge_cost"),
        ("Correlation with the template's brain", "", "likeness"),
        ("Quiet data", "min", "quiet_minutes"),
    )
    strips = []
    for title, unit, name in chosen:
        known = [(r, v) for r in records if (v := getattr(r.measures, name)) is not None]
        strips += _strip(title, unit, known, limits.get(name.removeprefix("quiet_"), ()))
    for label in sorted({label for record in records for label in record.models}):
        told = [(r, r.models[label].distance) for r in records if label in r.models]
        distances = [(record, value) for record, value in told if value is not None]
        strips += _strip(f"Distance from the contract of {label}", "", distances, ())
    return strips


def _strip(
    title: str, unit: str, known: list[tuple[RunRecord, float]], limits: Sequence[float]
) -> list[Strip]:
    if not known:
        return []
    values = [value for _, value in known]
    low, high = min([*values, *limits]), max([*values, *limits[:1]])
    if 0 < low < 0.5 * high or high == low:
        low = min(0.0, low)
    marks = ticks(low, high)
    low, high = min(low, marks[0]), max(high, marks[-1])

    def place(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    dots: list[Dot] = []
    for record, value in sorted(known, key=lambda pair: pair[1]):
        x = place(value)
        text = f"{record.participant}, {record.title}: {value:.3g} {unit}".strip()
        dots.append(Dot(x=x, y=_free(x, dots), record=record, text=text))
    return [
        Strip(
            title=title,
            unit=unit,
            dots=dots,
            ticks=[(place(mark), f"{mark:g}") for mark in marks],
            limits=[place(value) for value in limits if low < value < high],
        )
    ]


def _free(x: float, dots: Sequence[Dot]) -> float:
    """Find the height nearest the middle at which a dot touches no other."""
    middle = (_AXIS - 8) / 2 + 4
    near = [dot for dot in dots if abs(dot.x - x) < 2 * _RADIUS]
    steps = [0.0, *(sign * i * _RADIUS for i in range(1, 7) for sign in (1, -1))]
    for step in steps:
        y = middle + step
        if all(math.hypot(dot.x - x, dot.y - y) >= 1.9 * _RADIUS for dot in near):
            return y
    return middle


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Choose round numbers that span a range.

    Examples
    --------
    >>> ticks(0.0, 0.47)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    """
    if high <= low:
        high = low + 1
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
