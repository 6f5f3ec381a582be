"""Tuning a language model to answer questions about scans: what is asked, of whom, and how it went.

The tokenizer stays as it is. A projection of its features, the places of parcels, and low-rank
updates of the language model learn, from answers alone.

References
----------
fMRI-LM, arXiv 2511.21760, section 3.4 (its third stage).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models.card import ParcelContract
from neurostorm_app.models.fmri_lm import LmTokenizer
from neurostorm_app.models.fmri_lm_tuned import prepare_language
from neurostorm_app.models.language_updates import UPDATES
from neurostorm_app.pipelines.questions import make_lesson
from neurostorm_app.pipelines.train.engine import train
from neurostorm_app.pipelines.train.export_language import export_language
from neurostorm_app.pipelines.train.instructions import Instructing, Instructions
from neurostorm_app.pipelines.train.split import split_participants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.models.language import Language
    from neurostorm_app.pipelines.questions import Lesson, Subject, Wording
    from neurostorm_app.pipelines.train.export import Ending
    from neurostorm_app.pipelines.train.material import Material, Start
    from neurostorm_app.pipelines.train.settings import Plan
    from neurostorm_app.pipelines.train.split import Split

__all__ = ["Instructing", "check_start", "keep_known", "tune_language"]


def check_start(start: Start) -> tuple[LmTokenizer, ParcelContract]:
    """See that a training of a language model starts from a tokenizer.

    Parameters
    ----------
    start : Start
        Any model.

    Returns
    -------
    tokenizer : LmTokenizer
        The model.
    contract : ParcelContract
        What it eats.

    Raises
    ------
    UsageError
        If it is another model.
    """
    contract = start.card.contract
    if not isinstance(start.model, LmTokenizer) or not isinstance(contract, ParcelContract):
        raise UsageError(
            f"{start.card.name} makes no tokens of fMRI-LM for a language model",
            fix="give a tokenizer of fMRI-LM, such as one of your own from `train pretrain`",
        )
    return start.model, contract


def keep_known(
    material: Material, subjects: Sequence[Subject]
) -> tuple[Material, tuple[Subject, ...]]:
    """Leave out runs of which no answer is known, and people without any other.

    Parameters
    ----------
    material : Material
        Runs in the cache.
    subjects : sequence of Subject
        Of the same people and runs.

    Returns
    -------
    material : Material
        What is left; what is not counts as left out.
    subjects : tuple of Subject
        Of what is left.

    Raises
    ------
    DataError
        If nothing is.
    """
    kept = [
        [n for n, _ in enumerate(runs) if any(s.values[p][n] == s.values[p][n] for s in subjects)]
        for p, runs in enumerate(material.people)
    ]
    there = [person for person, runs in enumerate(kept) if runs]
    if not there:
        raise DataError(
            f"no answer is known of any of {material.n_runs} runs",
            fix="look whether the labels of the table are those of the runs",
        )
    left = tuple(tuple(material.people[p][n] for n in kept[p]) for p in there)
    found = replace(
        material,
        people=left,
        n_left_out=material.n_left_out + material.n_runs - sum(map(len, left)),
    )
    return found, tuple(
        replace(one, values=tuple(tuple(one.values[p][n] for n in kept[p]) for p in there))
        for one in subjects
    )


def tune_language(  # noqa: PLR0913
    material: Material,
    subjects: Sequence[Subject],
    *,
    start: Start,
    language: Language,
    settings: Instructing,
    plan: Plan,
    out: Path,
    wording: Mapping[str, Wording] | None = None,
) -> Ending:
    """Tune a language model to answer questions, and write what was learnt as a model.

    Parameters
    ----------
    material : Material
        Runs in the cache.
    subjects : sequence of Subject
        What is asked for, of the people and runs of the material.
    start : Start
        A tokenizer of fMRI-LM.
    language : Language
        It gets updates.
    settings : Instructing
        Rank, and who is held out.
    plan : Plan
        How the optimiser runs.
    out : Path
        Folder of checkpoints, the log and the model.
    wording : mapping of str to Wording, optional
        How questions are put, by the name of the subject.

    Returns
    -------
    Ending
        Where the model is, and how good.

    Raises
    ------
    UsageError
        If the model is no tokenizer of fMRI-LM, or a question is there twice.
    DataError
        If there are too few participants, all answers are alike, or training fails.
    CannotCreateError
        If the folder cannot be used.
    """
    tokenizer, _ = check_start(start)
    material, subjects = keep_known(material, subjects)
    split = _split(material, subjects, settings, plan.seed)
    lessons = _make_lessons(subjects, split, wording or {})
    questions = [lesson.question for lesson in lessons]
    rank = settings.rank or UPDATES[language.kind].rank
    model = prepare_language(tokenizer, language, rank=rank, tags=settings.tags, seed=plan.seed)
    task = Instructions(model, material, lessons, split, settings, seed=plan.seed)
    identity = {
        "what": "language",
        "start": start.sha256,
        "language": language.sha256,
        "data": _digest(material, lessons),
        "questions": [question.as_dict() for question in questions],
        "settings": asdict(settings),
    }
    outcome = train(task, plan, folder=out, identity=identity)
    facts: dict[str, Any] = {
        "what": "language",
        "target": ", ".join(question.name for question in questions),
        "measured": "cross-entropy of the right answers' shares",
        "settings": asdict(settings) | {"rank": rank},
        "language": {"kind": language.kind, "sha256": language.sha256},
        "plan": plan.identity(),
        "split": {name: len(getattr(split, name)) for name in ("train", "validation", "test")},
        "runs": material.n_runs,
        "left_out": material.n_left_out,
        "test": task.measure(split.test) if split.test else {},
    }
    return export_language(out, model, questions, start=start, outcome=outcome, facts=facts)


def _split(
    material: Material, subjects: Sequence[Subject], settings: Instructing, seed: int
) -> Split:
    """Part the people; classes keep their shares where one question alone is of classes."""
    of_classes = [subject for subject in subjects if subject.classes]
    first = [runs[0] for runs in of_classes[0].values] if len(of_classes) == 1 else []
    known = np.array(first)
    return split_participants(
        len(material.people),
        seed=seed,
        validation=settings.validation,
        test=settings.test,
        classes=known.astype(np.int64) if len(known) and np.isfinite(known).all() else None,
    )


def _make_lessons(
    subjects: Sequence[Subject], split: Split, wording: Mapping[str, Wording]
) -> list[Lesson]:
    names = [subject.name for subject in subjects]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{twice!r} is asked for twice", fix="give each --target one time")
    if unknown := [name for name in wording if name not in names]:
        raise UsageError(
            f"the wording is of {unknown[0]!r}, which is not asked for; asked for are "
            f"{', '.join(names)}",
            fix="correct the file of --wording",
        )
    return [make_lesson(one, split.train, wording.get(one.name)) for one in subjects]


def _digest(material: Material, lessons: Sequence[Lesson]) -> str:
    """Hash runs and answers as one: answers alone are few enough to be guessed from their hash."""
    truth = json.dumps([lesson.truth for lesson in lessons]).encode()
    return hashlib.sha256(material.digest.encode() + material.secret + truth).hexdigest()
