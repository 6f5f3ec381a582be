"""Questions about runs whose answers are known: columns of a table of people, and numbers of runs.

A column of classes is asked for as it is. A number, of a table or of a run's own description, is
asked for as lower, average or higher: cut at thirds of the people to learn from, so that nobody
who judges has a part in the cut.

References
----------
fMRI-LM, arXiv 2511.21760, section 3.4 (lower, average, higher).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.models.fmri_lm_text import Question

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Lesson", "Subject", "Wording", "ask_numbers", "make_lesson", "name_descriptors"]

THIRDS: Final = ("lower", "average", "higher")
UNKNOWN: Final = -1
Known = tuple[tuple[float, ...], ...]
"""Of each person, of each run: a number, or the index of a class; NaN where it is not known."""
Truth = tuple[tuple[int, ...], ...]
"""Of each person, of each run: the index of the answer, or -1 where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a question is put, where the user says it.

    Parameters
    ----------
    texts : tuple of str
        Ways to put it; empty for the usual one.
    answers : mapping of str to str
        What a class is called in answers; others keep their name.
    """

    texts: tuple[str, ...] = ()
    answers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What may be asked for.

    Parameters
    ----------
    name : str
        Of the column or number.
    values : tuple of tuple of float
        See `Known`.
    classes : tuple of str
        By index; empty for numbers.
    phrase : str
        What it is called in the usual question.
    per_run : bool
        Whether runs of a person may differ.
    """

    name: str
    values: Known
    classes: tuple[str, ...] = ()
    phrase: str = ""
    per_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A question, and its answer for each run.

    Parameters
    ----------
    question : Question
        What is asked.
    truth : tuple of tuple of int
        See `Truth`.
    per_run : bool
        Whether runs of a person may differ.
    """

    question: Question
    truth: Truth
    per_run: bool = False


def make_lesson(subject: Subject, train: Sequence[int], wording: Wording | None = None) -> Lesson:
    """Make a question of what may be asked for.

    Parameters
    ----------
    subject : Subject
        With the values of all people.
    train : sequence of int
        People to learn from: numbers are cut at their thirds.
    wording : Wording, optional
        Of the user.

    Returns
    -------
    Lesson
        Of classes that nobody to learn from has, nothing is left.

    Raises
    ------
    DataError
        If those to learn from are all alike.
    UsageError
        If the user renames what is no answer.
    """
    names, truth = (_as_classes if subject.classes else _as_thirds)(subject, train)
    if len(names) < 2:
        raise DataError(
            f"{subject.name!r} is the same in all participants to learn from, or too alike to be "
            "cut into thirds: there is nothing to answer",
            fix="ask for something in which people differ",
        )
    wording = wording or Wording()
    renamed = dict(wording.answers or {})
    if unknown := [name for name in renamed if name not in names]:
        raise UsageError(
            f"{subject.name!r} has no answer {unknown[0]!r} that could be called "
            f"{renamed[unknown[0]]!r}; its answers are {', '.join(names)}",
            fix="correct the file of --wording",
        )
    what = subject.phrase or subject.name
    usual = f"Is the {what} lower, average or higher here?"
    if subject.classes:
        usual = f"What is the {what} of this participant?"
    question = Question(
        name=subject.name,
        texts=wording.texts or (usual,),
        answers=tuple(renamed.get(name, name) for name in names),
    )
    return Lesson(question=question, truth=truth, per_run=subject.per_run)


def _seen(subject: Subject, train: Sequence[int]) -> NDArray[np.float64]:
    values = [value for person in train for value in subject.values[person]]
    return np.array([value for value in values if not math.isnan(value)])


def _as_classes(subject: Subject, train: Sequence[int]) -> tuple[list[str], Truth]:
    there = [int(index) for index in np.unique(_seen(subject, train))]
    truth = tuple(tuple(_index(there, value) for value in runs) for runs in subject.values)
    return [subject.classes[index] for index in there], truth


def _as_thirds(subject: Subject, train: Sequence[int]) -> tuple[list[str], Truth]:
    seen = _seen(subject, train)
    low, high = np.quantile(seen, [1 / 3, 2 / 3]).tolist() if len(seen) else (0.0, 0.0)

    def place(value: float) -> int:
        return UNKNOWN if math.isnan(value) else int(value > low) + int(value > high)

    truth = tuple(tuple(map(place, runs)) for runs in subject.values)
    return list(THIRDS) if low < high else [], truth


def ask_numbers(
    found: Sequence[Sequence[Mapping[str, float]]], names: Iterable[str]
) -> list[Subject]:
    """Make numbers of descriptions what may be asked for.

    Parameters
    ----------
    found : sequence of sequence of mapping of str to float
        Of each person, of each run: the numbers of its description; none where there is none.
    names : iterable of str
        Which are asked for, such as ``fc_Default-Vis``.

    Returns
    -------
    list of Subject
        One a name; of a run without a description nothing is known.

    Raises
    ------
    UsageError
        If no description has such a number.
    """
    known = {name for runs in found for one in runs for name in one}
    wanted = list(names)
    if missing := [name for name in wanted if name not in known]:
        raise UsageError(
            f"no description has the number {missing[0]!r}",
            fix=f"give one of {', '.join(name_descriptors(known)) or 'none: no run was described'}",
        )
    return [
        Subject(
            name=name,
            values=tuple(tuple(one.get(name, math.nan) for one in runs) for runs in found),
            phrase=_phrase(name),
            per_run=True,
        )
        for name in wanted
    ]


def name_descriptors(known: Iterable[str], n: int = 12) -> list[str]:
    """List some of the numbers of a description, for messages."""
    names = sorted(known)
    return [*names[:n], f"{len(names) - n} more"] if len(names) > n else names


def _phrase(name: str) -> str:
    """Say what a number is.

    Examples
    --------
    >>> _phrase("fc_Default-Vis")
    'mean correlation between the networks Default and Vis'
    >>> _phrase("global_efficiency")
    'global efficiency'
    """
    if name.startswith("fc_"):
        first, _, second = name.removeprefix("fc_").partition("-")
        if first == second:
            return f"mean correlation within the network {first}"
        return f"mean correlation between the networks {first} and {second}"
    return name.replace("_", " ")


def _index(there: Sequence[int], value: float) -> int:
    return there.index(int(value)) if not math.isnan(value) and int(value) in there else UNKNOWN
