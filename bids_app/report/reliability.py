"""What was predicted against what was observed, of groups of people: one small chart a source.

The groups come from the calibration tables of the group level: at least five people each, so that
nobody can be told from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.panels import digits
from neurostorm_app.bids_app.report.strips import ticks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Curve", "Reliability", "Spot", "draw_reliability"]

SIDE = 220.0
"""Length of both axes in units of the drawing, as in the template."""
COLOURS = ("blue", "orange", "green", "pink", "gold", "red")
"""Names of the colours of classes; more classes than these are in the table alone."""
Z = 1.645
"""Standard normal deviate of a two-sided interval of 90 percent."""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One group of people; places are units of the drawing.

    Parameters
    ----------
    x, y : float
        Mean of what was predicted, and of what was observed.
    low, high : float or None
        Places between which chance alone may put a group of this size; None of values.
    participants : int
        How many they are.
    predicted, observed : str
        The means in words.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    participants: int
    predicted: str
    observed: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The groups of one class, or of a value; colour is empty where there is none left."""

    name: str
    colour: str
    spots: list[Spot]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The chart of one source.

    Parameters
    ----------
    source : str
        What predicts.
    words : str
        What is measured, in a sentence.
    curves : list of Curve
        One a class; one of a value.
    band : float
        Half the mean width of intervals, in units of the drawing; 0 of classes.
    marks : list of (float, str)
        Ticks of both axes: share of the axis, and label.
    unit : str
        Of both axes; empty of classes.
    """

    source: str
    words: str
    curves: list[Curve]
    band: float
    marks: list[tuple[float, str]]
    unit: str


def draw_reliability(said: Mapping[str, Any]) -> list[Reliability]:
    """Lay out the calibration of all sources of a target that have one.

    Parameters
    ----------
    said : mapping
        An evaluation, as the group level wrote it.

    Returns
    -------
    list of Reliability
        All on the same axes, in the order of the sources.
    """
    tables = {name: one.get("Calibration") or [] for name, one in said["Sources"].items()}
    tables = {name: rows for name, rows in tables.items() if rows}
    classes = said["Target"]["Kind"] == "classes"
    widths = {name: said["Sources"][name].get("MeanWidth") or 0.0 for name in tables}
    spans = [(0.0, 1.0)] if classes else list(_spans(tables, widths))
    if not spans:
        return []
    marks = ticks(min(low for low, _ in spans), max(high for _, high in spans))
    low, high = marks[0], marks[-1]
    return [
        Reliability(
            source=name,
            words=_words(said["Sources"][name], said["Design"]["confidence"], classes=classes),
            curves=_curves(rows, (low, high), classes=classes),
            band=0.0 if classes else widths[name] / 2 / (high - low) * SIDE,
            marks=[((mark - low) / (high - low), f"{mark:g}") for mark in marks],
            unit=said["Target"].get("Units") or "",
        )
        for name, rows in tables.items()
    ]


def _spans(
    tables: Mapping[str, Iterable[Mapping[str, Any]]], widths: Mapping[str, float]
) -> Iterable[tuple[float, float]]:
    """Say which values the axes must hold: the groups, and an interval about each prediction."""
    for name, rows in tables.items():
        for row in rows:
            half = widths[name] / 2
            yield (
                min(row["Observed"], row["Predicted"] - half),
                max(row["Observed"], row["Predicted"] + half),
            )


def _curves(
    rows: Iterable[Mapping[str, Any]], span: tuple[float, float], *, classes: bool
) -> list[Curve]:
    """Put the rows of a table together by class."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row.get("Class", "")), []).append(row)
    return [
        Curve(
            name=name,
            colour=COLOURS[number] if number < len(COLOURS) else "",
            spots=[_spot(row, span, classes=classes) for row in some],
        )
        for number, (name, some) in enumerate(groups.items())
    ]


def _spot(row: Mapping[str, Any], span: tuple[float, float], *, classes: bool) -> Spot:
    def place(value: float) -> float:
        return (value - span[0]) / (span[1] - span[0]) * SIDE

    n, observed = int(row["Participants"]), float(row["Observed"])
    low, high = wilson(observed, n) if classes else (None, None)
    return Spot(
        x=place(row["Predicted"]),
        y=SIDE - place(observed),
        low=None if low is None else SIDE - place(low),
        high=None if high is None else SIDE - place(high),
        participants=n,
        predicted=f"{row['Predicted']:.0%}" if classes else digits(row["Predicted"]),
        observed=f"{observed:.0%}" if classes else digits(observed),
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """Give the interval of 90 percent of a share that was seen in `n` people.

    References
    ----------
    Wilson E.B. 1927, Journal of the American Statistical Association 22:209.

    Examples
    --------
    >>> [round(bound, 2) for bound in wilson(0.5, 10)]
    [0.27, 0.73]
    """
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5
    return centre - half, centre + half


def _words(source: Mapping[str, Any], confidence: float, *, classes: bool) -> str:
    """Say in a number how well what is said holds."""
    if classes:
        brier = source["Metrics"].get("brier")
        return f"Brier score {brier['Value']:.2f}, 0 is perfect." if brier else ""
    if source.get("Coverage") is None:
        return ""
    return (
        f"Intervals said to hold for {confidence:.0%} of people hold for {source['Coverage']:.0%};"
        f" they are {source['MeanWidth']:.3g} wide on average."
    )
