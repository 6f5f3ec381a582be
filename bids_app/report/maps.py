"""Maps of the runs of a model, and what the places of people on them follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.bids_app.privacy import people_columns
from neurostorm_app.bids_app.report.strips import Dot
from neurostorm_app.pipelines.evaluate.following import (
    Following,
    average_people,
    measure_following,
)
from neurostorm_app.pipelines.figures import neighbourhood

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from neurostorm_app.bids_app.report.neighbours import Cohort
    from neurostorm_app.bids_app.report.reading import Table
    from neurostorm_app.bids_app.report.records import RunRecord

__all__ = ["Followed", "Map", "draw_maps", "find_followed"]

SIZE: Final = 460
MARGIN: Final = 24
"""Width of a map, and what stays free at its sides, in its own units."""
MOST_NAMES: Final = 20
"""A column with more different names than this names people rather than groups."""


@dataclass(frozen=True, kw_only=True)
class Map:
    """One layout of the runs.

    Parameters
    ----------
    key, title, caption : str
        Its name in the page, and how to read it.
    dots : list of Dot
        One a run.
    paths : list of list of (float, float)
        Joins the runs of each participant.
    height : float
        Of the drawing; its width is 460.
    """

    key: str
    title: str
    caption: str
    dots: list[Dot]
    paths: list[list[tuple[float, float]]]
    height: float


@dataclass(frozen=True, kw_only=True)
class Followed:
    """A property of people, and how far a model's embeddings follow it."""

    name: str
    found: Following

    @property
    def level(self) -> str:
        """``check`` if it is followed more than by chance, else ``good``."""
        return "check" if self.found.p_value <= 0.05 else "good"


def draw_maps(cohort: Cohort, kept: Sequence[int], records: Sequence[RunRecord]) -> list[Map]:
    """Lay out runs by principal components and, if they are many, by neighbours.

    Parameters
    ----------
    cohort : Cohort
        Runs of a model.
    kept : sequence of int
        Those that are drawn.
    records : sequence of RunRecord
        Of them, in the same order.
    """
    places, explained = cohort.plane()
    first, second = (f"{100 * share:.0f} %" for share in explained)
    maps = [
        _map(
            "components",
            places[list(kept)],
            records,
            title="Map of runs",
            caption=f"Two principal components ({first} and {second} of variance). "
            "Lines join runs of one participant.",
        )
    ]
    near = neighbourhood(cohort.similarity[np.ix_(kept, kept)])
    if near is not None:
        words = "Runs that are alike lie together (UMAP). Distances between groups mean nothing."
        maps.append(_map("neighbours", near, records, title="Map of neighbours", caption=words))
    return maps


def find_followed(
    cohort: Cohort, kept: Sequence[int], records: Sequence[RunRecord], people: Table
) -> list[Followed]:
    """Measure how far the embeddings of people follow their motion, site, age and the like.

    Parameters
    ----------
    cohort : Cohort
        Runs of a model.
    kept : sequence of int
        Those that are looked at.
    records : sequence of RunRecord
        Of them, in the same order.
    people : dict
        ``participants.tsv``; empty if there is none.
    """
    names, gram = average_people(
        cohort.similarity[np.ix_(kept, kept)], [record.participant for record in records]
    )
    found = {
        name: measure_following(gram, values)
        for name, values in _properties(names, records, people).items()
    }
    return [Followed(name=name, found=one) for name, one in found.items() if one is not None]


def _properties(
    names: Sequence[str], records: Sequence[RunRecord], people: Table
) -> dict[str, NDArray[np.float64] | list[str]]:
    """List what is known of people: the mean motion of their runs, and columns of their table."""
    motion: dict[str, list[float]] = {name: [] for name in names}
    for record in records:
        if record.measures.mean_fd is not None:
            motion[record.participant].append(record.measures.mean_fd)
    means = [float(np.mean(motion[name])) if motion[name] else np.nan for name in names]
    properties: dict[str, NDArray[np.float64] | list[str]] = {"mean motion": np.array(means)}
    rows = {
        label.removeprefix("sub-"): i for i, label in enumerate(people.get("participant_id", []))
    }
    for column in people_columns(people):
        cells = [people[column][rows[name]] if name in rows else "" for name in names]
        known = ["" if cell == "n/a" else cell for cell in cells]
        values = _numbers(known) if column.lower() == "age" else None
        if values is not None:
            properties[column] = values
        elif len(set(known) - {""}) <= max(MOST_NAMES, len(names) // 4):
            properties[column] = known  # codes of sites or groups are names, numbers or not
    return properties


def _numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Read cells as numbers, NaN where they are empty; None if they are names."""
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return None


def _map(
    key: str,
    places: NDArray[np.float64],
    records: Sequence[RunRecord],
    *,
    title: str,
    caption: str,
) -> Map:
    """Scale a layout to the drawing, both axes alike."""
    low, high = places.min(0), places.max(0)
    width = max(float((high - low).max()), 1e-9)
    tall = float((high - low)[1]) / width * (SIZE - 2 * MARGIN)
    dots = [
        Dot(
            x=float((x - (low[0] + high[0]) / 2) / width * (SIZE - 2 * MARGIN) + SIZE / 2),
            y=float((high[1] - y) / width * (SIZE - 2 * MARGIN) + MARGIN),
            record=record,
            text=f"sub-{record.participant}, {record.title}",
        )
        for (x, y), record in zip(places, records, strict=True)
    ]
    return Map(
        key=key,
        title=title,
        caption=caption,
        dots=dots,
        paths=_paths(dots),
        height=tall + 2 * MARGIN,
    )


def _paths(dots: Sequence[Dot]) -> list[list[tuple[float, float]]]:
    """Join the runs of each participant."""
    by_person: dict[str, list[tuple[float, float]]] = {}
    for dot in dots:
        by_person.setdefault(dot.record.participant, []).append((dot.x, dot.y))
    return [points for points in by_person.values() if len(points) > 1]
