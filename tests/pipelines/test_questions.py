"""Questions with known answers: who has a part in a cut, and what is asked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.describe import describe
from neurostorm_app.pipelines.questions import Subject, Wording, describe_runs, make_lesson
from neurostorm_app.pipelines.train.cache_file import open_cached, write_cached

if TYPE_CHECKING:
    from pathlib import Path

    from neurostorm_app.pipelines.train.cache_file import CachedRun

NAN = math.nan


def test_classes_are_asked_for_as_they_are() -> None:
    values = ((0.0,), (2.0, 2.0), (NAN,), (1.0,))
    subject = Subject(name="group", values=values, classes=("a", "b", "c"))
    lesson = make_lesson(subject, (0, 1))
    assert lesson.question.answers == ("a", "c")  # nobody to learn from has b
    assert lesson.truth == ((0,), (1, 1), (-1,), (-1,))
    assert lesson.question.texts == ("What is the group of this participant?",)


def test_numbers_are_cut_at_thirds_of_those_to_learn_from_alone() -> None:
    values = tuple((float(number),) for number in range(9))
    subject = Subject(name="age", values=values)
    lesson = make_lesson(subject, range(9))
    assert [runs[0] for runs in lesson.truth] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert lesson.question.answers == ("lower", "average", "higher")
    others = tuple((number * 100.0,) for number in range(9))
    moved = make_lesson(Subject(name="age", values=values + others), range(9))
    assert moved.truth[:9] == lesson.truth
    assert make_lesson(Subject(name="age", values=values), range(3)).truth[8] == (2,)


@pytest.mark.parametrize(
    ("values", "classes"),
    [(((1.0,), (1.0,)), ()), (((NAN,), (NAN,)), ()), (((1.0,), (1.0,)), ("a", "b"))],
)
def test_what_is_the_same_in_all_is_not_asked_for(values, classes) -> None:
    with pytest.raises(DataError, match="the same in all participants to learn from"):
        make_lesson(Subject(name="x", values=values, classes=classes), (0, 1))


def test_a_user_says_how_questions_and_answers_are_put() -> None:
    subject = Subject(name="sex", values=((0.0,), (1.0,)), classes=("1", "2"))
    wording = Wording(texts=("Sex?", "Which sex?"), answers={"2": "female"})
    question = make_lesson(subject, (0, 1), wording).question
    assert question.texts == wording.texts
    assert question.answers == ("1", "female")
    with pytest.raises(UsageError, match="has no answer '3' that could be called 'x'"):
        make_lesson(subject, (0, 1), Wording(answers={"3": "x"}))


def cached(series: np.ndarray, path: Path) -> CachedRun:
    rows = series.T.astype(np.float32)
    header = {"key": path.stem, "dtype": "float32", "xyz": None, "shape": rows.shape[1:]}
    header |= {"n_values": rows.shape[1], "n_volumes": len(rows), "background": 0.0}
    write_cached(path, header, np.empty(0, np.int32), rows)
    return open_cached(path)


def test_numbers_of_runs_are_those_of_their_descriptions(tmp_path) -> None:
    rng = np.random.default_rng(1)
    networks = ["Vis", "Vis", "Vis", "Cont", "Cont", "Cont", None]
    long, short = rng.normal(size=(7, 60)), rng.normal(size=(7, 10))
    people = [[cached(long, tmp_path / "a.windows")], [cached(short, tmp_path / "b.windows")]]
    names = ["fc_Cont-Vis", "global_efficiency"]
    first, second = describe_runs(people, networks, names, tr=2.0)
    expected = describe(long.astype(np.float32).astype(float), networks, tr=2.0).values
    assert first.values[0] == (expected["fc_Cont-Vis"],)
    assert second.values[0] == (expected["global_efficiency"],)
    assert math.isnan(first.values[1][0])  # too short to be described
    assert first.per_run
    assert first.phrase == "mean correlation between the networks Cont and Vis"
    with pytest.raises(UsageError, match="no description has the number 'fc_Vis-Cont'") as caught:
        describe_runs(people, networks, ["fc_Vis-Cont"], tr=2.0)
    assert "avg_clustering" in caught.value.fix
    with pytest.raises(UsageError) as caught:
        describe_runs(people[1:], networks, names, tr=2.0)
    assert "no run was described" in caught.value.fix
