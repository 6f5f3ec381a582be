"""Predictions of people as BIDS has tables of people: phenotype/<source>_<target>.tsv.

Only out-of-fold predictions are in them, never what was observed; so none of them is ever looked
through for a target.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.group.keys import row_name
from neurostorm_app.bids_app.inputs.sidecars import read_object
from neurostorm_app.bids_app.participant.outputs import DEMO, PRIVACY
from neurostorm_app.bids_app.participant.predictions import DIAGNOSIS
from neurostorm_app.errors import DataError, NoInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.group.cohort import Gathered
    from neurostorm_app.bids_app.group.keys import Key
    from neurostorm_app.pipelines.evaluate.cohort import Evaluation, Target

__all__ = [
    "OUT_OF_FOLD",
    "class_columns",
    "is_prediction",
    "phenotype_sidecar",
    "phenotype_table",
]

OUT_OF_FOLD: Final = (
    "Out-of-fold: each row was predicted by models that had seen neither this participant nor "
    "anybody of the same group; means over the repeats."
)


def class_columns(classes: Sequence[str]) -> tuple[str, ...]:
    """Name the column of each class: by its letters and digits, or by its number.

    Examples
    --------
    >>> class_columns(["control", "patient (new)"])
    ('probability_control', 'probability_patientNew')
    >>> class_columns(["+", "-"])
    ('probability_class0', 'probability_class1')
    """
    names = []
    for name in classes:
        first, *others = re.findall(r"[0-9A-Za-z]+", name) or [""]
        names.append(first + "".join(word[0].upper() + word[1:] for word in others))
    if "" in names or len({name.lower() for name in names}) < len(names):
        names = [f"class{i}" for i in range(len(names))]
    return tuple(f"probability_{name}" for name in names)


def is_prediction(table: Path) -> bool:
    """Tell whether a table holds predictions of people, by the mark of `phenotype_sidecar`."""
    sidecar = table.with_suffix(".json")
    if not sidecar.is_file():
        return False
    try:
        return read_object(sidecar).get("NotForDiagnosis") is True
    except (DataError, NoInputError):
        return False  # a damaged one is told to whom asks for a column of its table


def phenotype_table(gathered: Gathered, evaluation: Evaluation) -> str:
    """Write the out-of-fold predictions of a source: one row a participant.

    The table of a phenotype may hold a participant once, says the BIDS validator. Where rows of
    the cohort are sessions or runs, each column is there once a session, or once a run.

    Parameters
    ----------
    gathered : Gathered
        The cohort.
    evaluation : Evaluation
        Of a source.

    Returns
    -------
    str
        Tab-separated: ``participant_id``, ``predicted``, then ``lower`` and ``upper`` of a value or
        the probability of each class; of sessions with ``_ses-<label>`` behind each name, of runs
        with all entities of the run, such as ``_task-rest_run-1``.
    """
    target = gathered.cohort.target
    people: dict[str, dict[str, str]] = {}
    for i, key in enumerate(gathered.keys):
        cells = zip(_names(target), _predicted(target, evaluation, i), strict=True)
        row = people.setdefault(key[0], {})
        row |= {name + _ending(key): cell for name, cell in cells}
    columns = [name + ending for ending in _endings(gathered) for name in _names(target)]
    lines = ["\t".join(["participant_id", *columns])]
    for participant, row in people.items():
        lines.append("\t".join([f"sub-{participant}", *(row.get(c, "n/a") for c in columns)]))
    return "\n".join(lines) + "\n"


def _names(target: Target) -> tuple[str, ...]:
    of_kind = class_columns(target.classes) if target.kind == "classes" else ("lower", "upper")
    return ("predicted", *of_kind)


def _ending(key: Key) -> str:
    """Say what tells the row from others of the participant."""
    return row_name(key).removeprefix(f"sub-{key[0]}")


def _endings(gathered: Gathered) -> list[str]:
    return sorted(set(map(_ending, gathered.keys)))


def _predicted(target: Target, evaluation: Evaluation, row: int) -> list[str]:
    predicted = float(evaluation.predicted[row])
    if target.kind == "classes":
        chosen = target.classes[round(predicted)]
        shares = evaluation.probabilities
        n = len(target.classes)
        return [chosen, *(["n/a"] * n if shares is None else [f"{p:.6g}" for p in shares[row]])]
    bounds = (evaluation.lower, evaluation.upper)
    return [f"{predicted:.6g}", *("n/a" if b is None else f"{b[row]:.6g}" for b in bounds)]


def phenotype_sidecar(
    gathered: Gathered, evaluation: Evaluation, *, about: Mapping[str, Any], confidence: float
) -> dict[str, Any]:
    """Make the data dictionary of `phenotype_table`.

    Parameters
    ----------
    gathered : Gathered
        The cohort.
    evaluation : Evaluation
        Of a source.
    about : mapping
        What made the source: ``Label``, ``Demo``, ``WeightsSHA256`` and so on.
    confidence : float
        Of the intervals.
    """
    target = gathered.cohort.target
    demo = DEMO if about.get("Demo") else ""
    said = _columns(target, confidence)
    columns: dict[str, Any] = {"participant_id": {"Description": "Participant"}}
    row_is = gathered.labels.row_is.capitalize()
    for ending in _endings(gathered):
        of = f" {row_is} {ending.removeprefix('_')}." if ending else ""
        for name, told in said.items():
            columns[name + ending] = {**told, "Description": told["Description"] + of}
    return {
        "MeasurementToolMetadata": {
            "Description": f"{demo}{target.name}, predicted from {evaluation.source} by "
            f"{evaluation.learner}. No measurement. {DIAGNOSIS}"
        },
        **columns,
        "NotForDiagnosis": True,
        "Demo": bool(demo),
        "Model": dict(about),
        "NumberOfParticipants": evaluation.n_participants,
        "Privacy": PRIVACY,
    }


def _columns(target: Target, confidence: float) -> dict[str, dict[str, Any]]:
    """Say of each column what it holds."""
    unit = {"Units": target.unit} if target.unit else {}
    predicted = {"Description": f"Predicted {target.name}. {OUT_OF_FOLD}", **unit}
    if target.kind == "classes":
        names = class_columns(target.classes)
        return {
            "predicted": {**predicted, "Levels": {name: name for name in target.classes}},
            **{
                column: {"Description": f"Calibrated probability of the class {name!r}."}
                for column, name in zip(names, target.classes, strict=True)
            },
        }
    what = f"end of the interval that holds about {confidence:.0%} of new people; first repeat."
    return {
        "predicted": predicted,
        "lower": {"Description": f"Lower {what}", **unit},
        "upper": {"Description": f"Upper {what}", **unit},
    }
