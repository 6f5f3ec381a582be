"""Every rule of the verdicts, on numbers written by hand."""

from __future__ import annotations

import dataclasses

import pytest

from neurostorm_app.pipelines.evaluate.cohort import Interval
from neurostorm_app.pipelines.evaluate.verdict import (
    DEMO,
    Finding,
    Numbers,
    Verdict,
    judge,
    judge_target,
)

STRONG = Finding(measured=Interval(value=0.21, low=0.08, high=0.33), p_value=0.001)
WEAK = Finding(measured=Interval(value=-0.02, low=-0.10, high=0.04), p_value=0.4)
BASE = Numbers(
    target="age",
    source="neurostorm",
    metric="r2",
    confidence=0.9,
    finding=STRONG,
    n_participants=80,
)


def change(**values):
    return dataclasses.replace(BASE, **values)


def finding(value, low, high, p=0.001):
    return Finding(measured=Interval(value=value, low=low, high=high), p_value=p)


def test_an_effect_is_found_and_told_with_its_numbers():
    verdict = judge(BASE)
    assert verdict == Verdict(
        sentence="age: neurostorm predicts it (r2 0.21, 90 % interval 0.08 to 0.33, p 0.001).",
        effect="found",
        beats_connectome=None,
        beats_control=None,
    )


def test_what_was_found_without_a_permutation_test_says_so():
    given = finding(0.2, 0.1, 0.3, None)
    verdict = judge(change(finding=given, adjusted=given, covariates=("sex",)))
    told = "(r2 0.20, 90 % interval 0.10 to 0.30, no permutation test)"
    assert verdict.sentence == (
        f"age: neurostorm predicts it {told}; once sex is taken off the features, it still "
        f"predicts {told}."
    )


@pytest.mark.parametrize(
    ("metric", "given", "effect"),
    [
        ("r2", finding(0.2, 0.1, 0.3, 0.05), "found"),
        ("r2", finding(0.2, 0.1, 0.3, 0.051), "none"),
        ("r2", finding(0.2, 0.0, 0.3, 0.001), "none"),
        ("r2", finding(0.2, 0.001, 0.3, 0.001), "found"),
        ("r2", finding(0.2, 0.1, 0.3, None), "found"),
        ("r2", finding(0.2, -0.1, 0.3, None), "none"),
        ("auroc", finding(0.6, 0.49, 0.7, 0.001), "none"),
        ("auroc", finding(0.6, 0.51, 0.7, 0.001), "found"),
        ("auroc", finding(0.6, 0.51, 0.7, 0.2), "none"),
        ("auroc", finding(0.3, 0.2, 0.4, 0.99), "none"),
    ],
)
def test_it_takes_a_small_p_and_an_interval_above_guessing(metric, given, effect):
    assert judge(change(metric=metric, finding=given)).effect == effect


def test_no_effect_beats_nothing_and_its_differences_are_not_told():
    better = Interval(value=0.1, low=0.02, high=0.2)
    verdict = judge(change(finding=WEAK, over_connectome=better, over_control=None))
    assert verdict.effect == "none"
    assert verdict.beats_connectome is False
    assert verdict.beats_control is None
    assert verdict.sentence == (
        "age: neurostorm does not predict it (r2 -0.02, 90 % interval -0.10 to 0.04, p 0.400)."
    )


def test_what_few_participants_cannot_tell_is_said_only_if_it_was_computed():
    told = judge(change(finding=WEAK, n_participants=24, detectable=0.17)).sentence
    assert told.endswith("; with 24 participants r2 below 0.17 cannot be told from chance.")
    assert "24 participants" not in judge(change(finding=WEAK, n_participants=24)).sentence
    assert "chance" not in judge(change(detectable=0.17)).sentence


@pytest.mark.parametrize(
    ("difference", "words", "beats"),
    [
        (Interval(value=-0.02, low=-0.10, high=0.06), "not better", False),
        (Interval(value=0.05, low=0.01, high=0.09), "better", True),
        (Interval(value=-0.05, low=-0.09, high=-0.01), "worse", False),
        (Interval(value=0.05, low=0.0, high=0.09), "not better", False),
    ],
)
def test_differences_are_better_worse_or_not_better(difference, words, beats):
    verdict = judge(change(over_connectome=difference, over_control=difference))
    assert verdict.beats_connectome is verdict.beats_control is beats
    low, high = f"{difference.low:.2f}", f"{difference.high:.2f}"
    told = f"(difference {difference.value:.2f}, {low} to {high})"
    assert f"; {words} than plain functional connectivity {told}" in verdict.sentence
    assert f"; {words} than the same network untrained {told}" in verdict.sentence


MOTION = finding(0.15, 0.05, 0.25)


@pytest.mark.parametrize(
    ("confounds", "adjusted", "effect"),
    [
        (MOTION, WEAK, "confounded"),  # they tell it, and nothing is left
        (MOTION, STRONG, "found"),  # they tell it, but something is left
        (MOTION, None, "found"),
        (MOTION, finding(0.1, -0.02, 0.2, 0.01), "found"),  # by its p something is left
        (MOTION, finding(0.1, 0.02, 0.2, 0.06), "confounded"),
        (MOTION, finding(0.1, -0.02, 0.2, None), "confounded"),
        (MOTION, finding(0.1, 0.02, 0.2, None), "found"),
        (finding(0.21, 0.1, 0.3), STRONG, "confounded"),  # as well as the source
        (finding(0.5, 0.4, 0.6), None, "confounded"),
        (WEAK, WEAK, "found"),  # they do not tell it
        (finding(0.5, -0.1, 0.6), WEAK, "found"),
        (finding(0.5, 0.4, 0.6, 0.06), WEAK, "found"),
        (None, WEAK, "found"),
    ],
)
def test_confounded_is_what_confounds_tell_and_nothing_else_does(confounds, adjusted, effect):
    given = change(confounds=confounds, adjusted=adjusted, covariates=("motion", "site"))
    assert judge(given).effect == effect


def test_without_an_effect_nothing_is_confounded():
    given = change(finding=WEAK, confounds=MOTION, adjusted=WEAK, covariates=("motion",))
    assert judge(given).effect == "none"


def test_the_sentence_tells_what_confounds_reach_and_what_is_left():
    told = judge(change(confounds=MOTION, adjusted=WEAK, covariates=("motion",))).sentence
    assert told == (
        "age: neurostorm predicts it (r2 0.21, 90 % interval 0.08 to 0.33, p 0.001); motion alone "
        "does so less well (r2 0.15, 90 % interval 0.05 to 0.25, p 0.001); once motion is taken "
        "off the features, it does not (r2 -0.02, 90 % interval -0.10 to 0.04, p 0.400)."
    )
    told = judge(
        change(confounds=finding(0.3, 0.2, 0.4), adjusted=STRONG, covariates=("motion", "site"))
    ).sentence
    unsure = change(adjusted=finding(0.1, -0.02, 0.2, 0.01), covariates=("motion",))
    assert "off the features, it may still predict (r2 0.10" in judge(unsure).sentence
    assert "; motion and site alone do so at least as well (r2 0.30" in told
    assert "; once motion and site are taken off the features, it still predicts (r2" in told


def test_demo_weights_come_first():
    assert judge(change(demo=True)).sentence.startswith(DEMO + "age: neurostorm")
    assert not judge(BASE).sentence.startswith("DEMO")


def test_small_numbers_are_written_without_false_zeros():
    told = judge(change(finding=finding(0.301, 0.2, 0.4, 0.0001), confidence=0.95)).sentence
    assert "95 % interval 0.20 to 0.40, p below 0.001" in told
    told = judge(change(finding=finding(-0.001, -0.004, 0.0, 0.5))).sentence
    assert "(r2 0.00, 90 % interval 0.00 to 0.00, p 0.500)" in told


def verdicts(**effects):
    return {
        source: Verdict(sentence="", effect=effect, beats_connectome=beats, beats_control=None)
        for source, (effect, beats) in effects.items()
    }


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"connectome": ("none", None), "storm": ("none", False)},
            "age: none of connectome and storm predicts it in 80 participants.",
        ),
        (
            {"connectome": ("none", None)},
            "age: connectome does not predict it in 80 participants.",
        ),
        (
            {"connectome": ("found", None), "storm": ("found", False)},
            (
                "age: predicted by connectome and storm in 80 participants; no model is shown to "
                "be better than plain functional connectivity."
            ),
        ),
        (
            {"connectome": ("found", None), "storm": ("found", True), "lm": ("none", False)},
            (
                "age: predicted by connectome and storm in 80 participants; not predicted by lm; "
                "better than plain functional connectivity: storm."
            ),
        ),
        (
            {"connectome": ("confounded", None)},
            "age: in 80 participants what connectome predicts cannot be told from motion and site.",
        ),
        (
            {"connectome": ("confounded", None), "lm": ("confounded", False)},
            (
                "age: in 80 participants what connectome and lm predict cannot be told from motion "
                "and site; no model is shown to be better than plain functional connectivity."
            ),
        ),
        (
            {"connectome": ("found", None), "lm": ("confounded", None), "a": ("none", None)},
            (
                "age: predicted by connectome in 80 participants; what lm predicts cannot be told "
                "from motion and site; not predicted by a."
            ),
        ),
    ],
)
def test_the_sentence_of_a_target_lists_sources_by_effect(given, sentence):
    found = judge_target("age", verdicts(**given), n_participants=80, covariates=("motion", "site"))
    assert found == sentence
