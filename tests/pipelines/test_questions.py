"""Questions with known answers: who has a part in a cut, and what is asked."""

from __future__ import annotations

import math

import pytest

from neurostorm_app.errors import DataError, UsageError
from neurostorm_app.pipelines.questions import Subject, Wording, ask_numbers, make_lesson

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


def test_numbers_of_runs_are_asked_for() -> None:
    numbers = {"fc_Cont-Vis": 0.25, "global_efficiency": 0.5, "avg_clustering": 0.1}
    found = [[numbers, {"fc_Cont-Vis": 0.75}], [{}]]
    first, second = ask_numbers(found, ["fc_Cont-Vis", "global_efficiency"])
    assert first.values[0] == (0.25, 0.75)
    assert math.isnan(first.values[1][0])  # it could not be described
    assert second.values[0][0] == 0.5
    assert math.isnan(second.values[0][1])
    assert first.per_run
    assert first.phrase == "mean correlation between the networks Cont and Vis"
    with pytest.raises(UsageError, match="no description has the number 'fc_Vis-Cont'") as caught:
        ask_numbers(found, ["fc_Vis-Cont"])
    assert "avg_clustering" in caught.value.fix
    with pytest.raises(UsageError) as caught:
        ask_numbers(found[1:], ["fc_Cont-Vis"])
    assert "no run was described" in caught.value.fix
