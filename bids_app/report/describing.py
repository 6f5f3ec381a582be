"""The section of descriptions: connectivity by networks, in words and numbers, run by run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.panels import Fact, Notice, anchor, attempt, digits, flatten
from neurostorm_app.bids_app.report.reading import expecting, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.report.tree import RunFiles

__all__ = ["DescriptionSection", "Distance", "read_descriptions"]

_ENDING = "_desc-connectivity_descriptors.json"
_FAR = 1.0
"""Standard deviations from a reference beyond which a number stands in the table."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A number beside that of a reference."""

    name: str
    value: float
    z: float


@dataclass(frozen=True, kw_only=True)
class DescriptionSection:
    """One run by one atlas.

    Parameters
    ----------
    ident : str
        Unique in the page.
    title, atlas : str
        The run in words, and the label of the atlas.
    paragraphs : list of str
        The text, as it was written.
    networks : list of str
        Rows and columns of the table.
    rows : list of list of float or None
        Mean correlations; None where a pair is not there.
    distances : list of Distance
        Beyond one standard deviation of the reference, the furthest first.
    compared : str
        With whom; empty without a reference.
    notes : list of str
        What is to be known of how the run was made ready.
    facts, input_facts : list of Fact
        Numbers beside those of pairs, and what the run was made of.
    """

    ident: str
    title: str
    atlas: str
    paragraphs: list[str]
    networks: list[str]
    rows: list[list[float | None]]
    distances: list[Distance] = field(default_factory=list)
    compared: str = ""
    notes: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    input_facts: list[Fact] = field(default_factory=list)


def read_descriptions(
    output_dir: Path, participant: str, runs: Iterable[RunFiles], notices: list[Notice]
) -> list[DescriptionSection]:
    """Read all descriptions of a participant.

    Parameters
    ----------
    output_dir : Path
        The output tree.
    participant : str
        Label without ``sub-``.
    runs : iterable of RunFiles
        The participant's.
    notices : list of Notice
        Gets one for each damaged file.
    """
    titles = {run.name: run.title for run in runs}
    found = []
    for path in sorted((output_dir / f"sub-{participant}").rglob(f"*{_ENDING}")):
        name = path.name.partition("_space-")[0]
        title = titles.get(name, name)
        section = attempt(notices, lambda path=path, title=title: _read(path, title))  # type: ignore[misc]
        found += [section] if section else []
    return found


def _read(path: Path, title: str) -> DescriptionSection:
    said = read_json(path)
    with expecting("description", path):
        values = {str(name): float(value) for name, value in said["Values"].items()}
        networks = [str(name) for name in said["Networks"]]
        atlas = str(said["Atlas"]["Label"])
        reference: Mapping[str, Any] = said["Reference"] or {}
        z = {str(name): float(value) for name, value in (said["Z"] or {}).items()}
        far = sorted((name for name in z if abs(z[name]) > _FAR), key=lambda name: -abs(z[name]))
        others = {name: value for name, value in values.items() if not name.startswith("fc_")}
        return DescriptionSection(
            ident=anchor(path.name.removesuffix(_ENDING), "description"),
            title=title,
            atlas=atlas,
            paragraphs=str(said["Text"]).strip().split("\n\n"),
            networks=networks,
            rows=[[_pair(values, a, b) for b in networks] for a in networks],
            distances=[Distance(name=name, value=values[name], z=z[name]) for name in far],
            compared=_words(reference, len(z)) if reference else "",
            notes=[str(note) for note in said["Input"].get("notes", [])],
            facts=[Fact(label=name, value=digits(value)) for name, value in others.items()],
            input_facts=flatten({"atlas": said["Atlas"], **_without(said["Input"], "notes")}),
        )


def _without(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def _pair(values: Mapping[str, float], one: str, other: str) -> float | None:
    """Take the mean correlation of two networks; their pair is named in alphabetical order."""
    first, second = sorted((one, other))
    return values.get(f"fc_{first}-{second}")


def _words(reference: Mapping[str, Any], n_compared: int) -> str:
    among = " This run is one of them." if reference.get("HoldsThisRun") else ""
    return (
        f"{n_compared} numbers beside those of {int(reference['N'])} participants, one run each, "
        f"prepared by {reference['Pipeline']}.{among}"
    )
