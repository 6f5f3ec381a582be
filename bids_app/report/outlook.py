"""What models predict of one participant, with intervals, in plain words.

Three sources: weights that were tuned to a target (a file beside the embeddings), predictions of
the group level by models that had not seen the participant, and heads applied to new people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.report.embeddings import is_control
from neurostorm_app.bids_app.report.panels import Notice, attempt, digits
from neurostorm_app.bids_app.report.reading import expecting, numbers, read_json, read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from neurostorm_app.bids_app.report.reading import Table
    from neurostorm_app.bids_app.report.tree import RunFiles

__all__ = ["Outlook", "Share", "read_outlooks"]

_NONE = {"", "n/a"}
_COLUMN = re.compile(r"(.*?)((?:_[a-z]+-[0-9A-Za-z+]+)*)")
"""The name of a column, and the session or the run it is of, such as ``_ses-1_task-rest``."""
_EFFECTS = {
    "none": "In this cohort the model does not predict it better than guessing: take no notice of "
    "the value",
    "confounded": "In this cohort the prediction follows confounds, such as motion or site",
}
"""What the verdict of the group level means for one person."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A class, and how probable it is said to be."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """One prediction of one participant.

    Parameters
    ----------
    target, source : str
        What is predicted, and by what.
    where : str
        The run or session; empty for the participant.
    words : str
        The prediction in a sentence.
    value, low, high : float or None
        For a drawing of the interval.
    shares : list of Share
        Of classes, the most probable first.
    kind : str
        How the prediction came about.
    notes : list of str
        What is to be known before it is used.
    demo : bool
        Whether weights are not for science.
    """

    target: str
    source: str
    where: str
    words: str
    kind: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    shares: list[Share] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    demo: bool = False


def read_outlooks(
    output_dir: Path, participant: str, runs: Iterable[RunFiles], notices: list[Notice]
) -> list[Outlook]:
    """Read all predictions of a participant.

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
    doors: list[tuple[Path, Callable[[Path], list[Outlook]]]] = [
        (files.prediction, partial(_tuned, run=run))
        for run in runs
        for files in run.embeddings.values()
        if files.prediction is not None
    ]
    for pattern, read in (
        ("phenotype/*.tsv", _out_of_fold),
        ("prediction/target-*New_prediction.tsv", _by_head),
    ):
        of_person = partial(read, participant=participant)
        doors += [(path, of_person) for path in sorted(output_dir.glob(pattern))]
    found: list[Outlook] = []
    for path, door in doors:
        found += attempt(notices, partial(_read, path, door)) or []
    return found


def _read(path: Path, door: Callable[[Path], list[Outlook]]) -> list[Outlook]:
    """Read a table and its sidecar; what is not there, or is something else, names the table."""
    with expecting("prediction", path):
        return door(path)


def _tuned(path: Path, run: RunFiles) -> list[Outlook]:
    """Read what fine-tuned weights say of a run."""
    table, said = read_table(path), read_json(path.with_suffix(".json"))
    model = said.get("Model")
    common: dict[str, Any] = {
        "source": str(model.get("Name")) if isinstance(model, dict) else path.name,
        "where": run.title,
        "kind": "weights tuned to this target",
        "notes": [str(note) for note in said.get("Notes") or []],
        "demo": bool(said.get("Demo")),
    }
    probable = numbers(table, "probability")
    if probable is not None and any(cell not in _NONE for cell in table.get("class", [])):
        shares = [
            Share(name=n, probability=float(p))
            for n, p in zip(table["class"], probable, strict=True)
        ]
        return [_of_classes(table["target"][0], shares, common)]
    rows = range(len(table.get("target", [])))
    return [_of_value(_row(table, i), table["target"][i], common) for i in rows]


def _out_of_fold(path: Path, participant: str) -> list[Outlook]:
    """Read the row of a participant in a table of the group level; controls are for the group."""
    table, said = read_table(path), read_json(path.with_suffix(".json"))
    source, _, label = path.stem.partition("_")
    if is_control(source) or not label or "predicted" not in {_cut(name)[0] for name in table}:
        return []
    evaluation = read_json(path.parent.parent / "prediction" / f"target-{label}_evaluation.json")
    common: dict[str, Any] = {
        "source": source,
        "kind": "by models that had not seen this participant",
        "notes": _verdict(evaluation, source),
        "demo": bool(said.get("Demo")),
    }
    target = str((evaluation.get("Target") or {}).get("Name", label))
    confidence = (evaluation.get("Design") or {}).get("confidence")
    return _people(table, participant, target, common | {"confidence": confidence})


def _by_head(path: Path, participant: str) -> list[Outlook]:
    """Read the row of a participant in what a head says of new people."""
    table, said = read_table(path), read_json(path.with_suffix(".json"))
    match = re.fullmatch(r"target-(\w+)_desc-(\w+)New_prediction", path.stem)
    common: dict[str, Any] = {
        "source": match[2] if match else path.stem,
        "kind": "by a head fitted on other people",
        "notes": [str(note) for note in said.get("Notes") or []],
        "demo": bool(said.get("Demo")),
    }
    more = {"unit": said.get("Units"), "confidence": said.get("Confidence")}
    return _people(table, participant, str(said.get("Target", "?")), common | more)


def _verdict(evaluation: Mapping[str, Any], source: str) -> list[str]:
    """Say what the evaluation of the cohort means for one value."""
    verdict = (evaluation.get("Verdicts") or {}).get(source) or {}
    words = _EFFECTS.get(str(verdict.get("effect")))
    return [words] if words else []


def _people(
    table: Table, participant: str, target: str, common: Mapping[str, Any]
) -> list[Outlook]:
    """Make the predictions of a row; columns may be there once a session, or once a run."""
    rows = [
        i for i, name in enumerate(table.get("participant_id", [])) if name == f"sub-{participant}"
    ]
    outlooks = []
    for i in rows:
        row = _row(table, i)
        for name in table:
            bare, end = _cut(name)
            if bare != "predicted" or row[name] in _NONE:
                continue
            mine = {_cut(k)[0]: v for k, v in row.items() if _cut(k)[1] == end}
            place = mine.get("session_id", "") or end.removeprefix("_").replace("_", ", ")
            about = {**common, "where": "" if place in _NONE else place}
            shares = _shares(mine)
            outlooks.append(
                _of_classes(target, shares, about, chosen=mine["predicted"])
                if shares or not _is_number(mine["predicted"])
                else _of_value({**mine, "value": mine["predicted"]}, target, about)
            )
    return outlooks


def _shares(row: Mapping[str, str]) -> list[Share]:
    found = [
        Share(name=name.removeprefix("probability_"), probability=float(cell))
        for name, cell in row.items()
        if name.startswith("probability_") and _is_number(cell)
    ]
    return sorted(found, key=lambda share: -share.probability)


def _of_classes(
    target: str, shares: list[Share], common: Mapping[str, Any], chosen: str | None = None
) -> Outlook:
    ordered = sorted(shares, key=lambda share: -share.probability)
    about = {k: v for k, v in common.items() if k not in ("confidence", "unit")}
    name = chosen or ordered[0].name
    share = next((s.probability for s in ordered if s.name == name), None)
    share = ordered[0].probability if share is None and ordered else share
    sure = (
        "" if share is None else f", with a probability of {share:.0%} by the model's own account"
    )
    return Outlook(target=target, words=f"{name}{sure}", shares=ordered, **about)


def _of_value(row: Mapping[str, str], target: str, common: Mapping[str, Any]) -> Outlook:
    about = {k: v for k, v in common.items() if k not in ("confidence", "unit")}
    unit = row.get("unit") or common.get("unit") or ""
    ending = f" {unit}" if unit and unit not in _NONE else ""
    value, low, high = (
        float(cell) if _is_number(cell := row.get(name, "")) else None
        for name in ("value", "lower", "upper")
    )
    words = "no value" if value is None else f"{digits(value)}{ending}"
    if low is not None and high is not None:
        share = common.get("confidence")
        many = f"{float(share):.0%} of" if isinstance(share, int | float) else "most"
        between = f"{digits(low)} and {digits(high)}{ending}"
        words += f"; for {many} people like these the truth lies between {between}"
    else:
        words += "; how far off it may be is not known"
    return Outlook(target=target, words=words, value=value, low=low, high=high, **about)


def _cut(name: str) -> tuple[str, str]:
    """Cut the name of a column into what it holds and what it is of."""
    match = _COLUMN.fullmatch(name)
    return (match[1], match[2]) if match else (name, "")


def _row(table: Table, i: int) -> dict[str, str]:
    return {name: cells[i] for name, cells in table.items()}


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", cell) is not None
