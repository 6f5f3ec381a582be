"""What ``train language`` asks about: columns of tables of people, and numbers of runs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from neurostorm_app.errors import NoInputError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from neurostorm_app.pipelines.questions import Subject, Wording
    from neurostorm_app.pipelines.train.material import Material

__all__ = ["check_questions", "find_subjects", "read_wording"]


def check_questions(asked: argparse.Namespace) -> None:
    """See that something is asked for, before anything is opened.

    Raises
    ------
    UsageError
        If nothing is, or the networks of its parcels are missing.
    """
    if not asked.target and not asked.descriptor:
        raise UsageError(
            "nothing is asked for, so there is nothing to learn",
            fix="give --target COLUMN or --descriptor NAME",
        )
    if asked.descriptor and asked.networks is None:
        raise UsageError(
            "--descriptor takes the network of each parcel, and no --networks were given",
            fix="give a table with the columns index and network",
        )


def find_subjects(
    asked: argparse.Namespace, participants: Sequence[str], material: Material
) -> list[Subject]:
    """Find what is asked for, for each run.

    Parameters
    ----------
    asked : Namespace
        Of the verb: ``target``, ``descriptor``, ``networks``, and where tables are.
    participants : sequence of str
        Of the material, in its order.
    material : Material
        Their runs.

    Returns
    -------
    list of Subject
        Columns, then numbers.

    Raises
    ------
    UsageError
        If there is no such column or number.
    NoInputError, DataError
        If a table is not there or cannot be read.
    """
    subjects = [_of_column(name, asked, participants, material) for name in asked.target]
    if asked.descriptor:
        subjects += _of_runs(asked, material)
    return subjects


def _of_column(
    name: str, asked: argparse.Namespace, participants: Sequence[str], material: Material
) -> Subject:
    """Read a column; who has no value there is not asked about."""
    from neurostorm_app.bids_app.verbs.train_cohort import read_target
    from neurostorm_app.pipelines.questions import Subject

    tables = (asked.bids_dir, asked.participants_file)
    labels = read_target(name, asked.derivatives[0], participants, tables=tables)
    each = [labels.values.get((label, None), math.nan) for label in participants]
    return Subject(
        name=labels.name,
        values=tuple((v,) * len(runs) for v, runs in zip(each, material.people, strict=True)),
        classes=labels.classes,
    )


def _of_runs(asked: argparse.Namespace, material: Material) -> list[Subject]:
    from neurostorm_app.pipelines.describe_networks import read_networks
    from neurostorm_app.pipelines.questions import ask_numbers
    from neurostorm_app.pipelines.train.described import measure_runs

    networks = read_networks(asked.networks)
    measured = measure_runs(material, networks, device=asked.device or "cpu")
    return ask_numbers(measured, asked.descriptor)


def read_wording(path: Path | None) -> dict[str, Wording]:
    """Read how questions are put.

    Parameters
    ----------
    path : Path or None
        JSON such as ``{"sex": {"texts": ["Which sex?"], "answers": {"1": "male"}}}``.

    Returns
    -------
    dict of str to Wording
        By the name of the column or number; empty without a file.

    Raises
    ------
    NoInputError
        If there is no such file.
    UsageError
        If it says something else.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise NoInputError(f"{path}: there is no such file of wordings", fix="check --wording")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as why:
        raise UsageError(f"{path}: is no JSON: {why}", fix="repair the file of --wording") from why
    if not isinstance(content, dict):
        raise UsageError(
            f"{path}: a {type(content).__name__} says nothing about the wording of questions",
            fix='write {"sex": {"texts": ["Which sex?"], "answers": {"1": "male"}}}',
        )
    return {name: _word(path, name, said) for name, said in content.items()}


def _word(path: Path, name: str, said: Any) -> Wording:
    from neurostorm_app.pipelines.questions import Wording

    said = said if isinstance(said, dict) else {"": said}
    texts, answers = said.get("texts", []), said.get("answers", {})
    plain = isinstance(texts, list) and isinstance(answers, dict)
    if said.keys() - {"texts", "answers"} or not plain:
        raise UsageError(
            f"{path}: of {name!r} it says {', '.join(map(repr, said))}; expected a list texts and "
            "names of answers",
            fix='write {"sex": {"texts": ["Which sex?"], "answers": {"1": "male"}}}',
        )
    if not all(isinstance(word, str) for word in (*texts, *answers.values())):
        raise UsageError(
            f"{path}: of {name!r} a text or an answer is no text", fix="put it into quotes"
        )
    return Wording(texts=tuple(texts), answers=answers)
