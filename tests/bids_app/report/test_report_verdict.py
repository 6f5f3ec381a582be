"""The verdict: numbers in, level and reasons out."""

from __future__ import annotations

import pytest

from neurostorm_app.bids_app.report.meters import meters_of
from neurostorm_app.bids_app.report.verdict import Level, Measures, judge, overall

QUIET = {"mean_fd": 0.1, "max_fd": 0.4, "share_high": 0.0, "minutes": 8.0, "quiet_minutes": 8.0}
SOUND = {**QUIET, "coverage": 0.97, "dice": 0.95, "tsnr": 60.0}


def verdict(**numbers):
    return judge(Measures(**numbers), qc={}, contracts={})


def test_a_quiet_long_whole_run_looks_sound():
    found = verdict(**SOUND)
    assert found.level is Level.GOOD
    assert found.headline == "Looks sound"
    assert {reason.topic for reason in found.reasons} == {
        "Motion",
        "Length",
        "Coverage",
        "Registration",
        "Signal",
    }


@pytest.mark.parametrize(
    ("change", "level", "topic", "words"),
    [
        (
            {"mean_fd": 0.3},
            Level.CHECK,
            "Motion",
            "moved noticeably: mean framewise displacement 0.30",
        ),
        ({"mean_fd": 0.6}, Level.BAD, "Motion", "moved too much"),
        ({"share_high": 0.6}, Level.BAD, "Motion", "60% of volumes above 0.5 mm"),
        ({"max_fd": 7.0}, Level.CHECK, "Motion", "One jump of 7.0 mm"),
        ({"quiet_minutes": 3.9}, Level.CHECK, "Length", "need four or more"),
        ({"coverage": 0.8}, Level.CHECK, "Coverage", "80% of the brain. Parts of the brain"),
        ({"coverage": 0.5}, Level.BAD, "Coverage", "50%"),
        ({"dice": 0.6}, Level.BAD, "Registration", "Look at the flicker"),
        ({"tsnr": 12.0}, Level.CHECK, "Signal", "12, below 25"),
        ({"error": {"what": "no space"}}, Level.FAILED, "Run", "no space"),
    ],
)
def test_each_number_can_spoil_the_verdict_and_says_why(change, level, topic, words):
    found = verdict(**(SOUND | change))
    assert found.level is level
    assert found.reasons[0].topic == topic
    assert any(words in reason.text for reason in found.reasons)


@pytest.mark.parametrize("value", [None, float("nan")], ids=["none", "nan"])
@pytest.mark.parametrize(
    ("missing", "topic", "words"),
    [
        (("mean_fd",), "Motion", "no table of confounds with framewise displacement"),
        (("max_fd",), "Motion", "no table of confounds with framewise displacement"),
        (("share_high",), "Motion", "no table of confounds with framewise displacement"),
        (("minutes", "quiet_minutes"), "Length", "no repetition time, or neither a series nor"),
        (("coverage",), "Coverage", "no brain mask of the run was compared with a whole brain"),
        (("dice",), "Registration", "no brain masks of BOLD and T1w in one standard space"),
        (("tsnr",), "Signal", "the series is not there, or was not read"),
    ],
)
def test_what_is_not_known_is_never_good(missing, value, topic, words):
    found = verdict(**(SOUND | dict.fromkeys(missing, value)))
    assert found.level is Level.UNKNOWN
    assert found.headline == "Not everything is known"
    [reason] = [reason for reason in found.reasons if reason.level is not Level.GOOD]
    assert reason.topic == topic
    assert reason.text.startswith("Not known: ")
    assert words in reason.text


def test_of_a_derivative_without_masks_only_motion_is_known_and_met_contracts_do_not_help():
    found = judge(Measures(**QUIET), qc={}, contracts={"a": {"met": True}})
    unknown = [reason.topic for reason in found.reasons if reason.level is Level.UNKNOWN]
    assert found.level is Level.UNKNOWN
    assert unknown == ["Registration", "Coverage", "Signal"]


def test_of_a_run_that_failed_the_failure_alone_is_told():
    [reason] = verdict(error={"what": "no space"}).reasons
    assert (reason.level, reason.text) == (Level.FAILED, "no space")


def test_a_registration_that_is_off_is_told_before_the_coverage_that_suffers_from_it():
    qc = {"normalization": {"verdict": "fail", "reasons": ["it is another head"]}}
    found = judge(Measures(**(SOUND | {"coverage": 0.6, "dice": 0.6})), qc=qc, contracts={})
    bad = [reason.topic for reason in found.reasons if reason.level is Level.BAD]
    assert bad == ["Registration to the template", "Registration", "Coverage"]


def test_a_contract_that_is_not_met_is_a_reason():
    contracts = {"a": {"met": False, "reasons": ["TR 2 s"]}, "b": {"met": True}, "c": {}}
    found = judge(Measures(**SOUND), qc={}, contracts=contracts)
    texts = {reason.topic: (reason.level, reason.text) for reason in found.reasons}
    assert texts["Contract of a"] == (Level.CHECK, "The run is not what the model takes: TR 2 s.")
    assert texts["Contract of b"][0] is Level.GOOD
    assert texts["Contract of c"][0] is Level.UNKNOWN
    assert found.level is Level.CHECK


def test_verdicts_of_the_preprocessing_count_however_deep():
    qc = {"anat": {"brain_mask": {"verdict": "look: Dice 0.71"}, "tissues": {"verdict": "ok"}}}
    found = judge(Measures(**SOUND), qc=qc, contracts={})
    assert found.reasons[0].topic == "Brain mask"
    assert found.reasons[0].text == "Dice 0.71."


def test_reasons_come_worst_first():
    levels = [r.level for r in verdict(**(SOUND | {"mean_fd": 0.9, "tsnr": 3.0})).reasons]
    assert levels[:2] == [Level.BAD, Level.CHECK]


def test_the_worst_level_stands_for_all():
    assert overall([Level.GOOD, Level.BAD, Level.CHECK]) is Level.BAD
    assert overall([]) is Level.UNKNOWN


def test_meters_show_what_is_known_on_a_scale_from_good_to_bad():
    meters = {meter.label: meter for meter in meters_of(Measures(mean_fd=0.2, coverage=0.96))}
    assert list(meters) == ["Mean motion (FD)", "Coverage"]
    assert meters["Mean motion (FD)"].ascending
    assert not meters["Coverage"].ascending
    assert meters["Coverage"].value == "96"
    assert meters["Mean motion (FD)"].at == pytest.approx(0.25)


def test_measures_of_the_preprocessing_and_reasons_of_its_steps_are_told():
    measure = {"words": "ghost-to-signal ratio", "value": 0.0724, "unit": "", "look": 0.05}
    measure |= {"fail": 0.2, "low": False, "verdict": "look"}
    weighed_here = measure | {"words": "mean framewise displacement"}
    qc = {
        "quality": {"measures": {"ghost_ratio": measure, "fd_mean": weighed_here}},
        "coregistration": {"verdict": "fail", "reasons": ["the heads differ", "a mirror image"]},
        "normalization": {"verdict": "pass", "reasons": []},
    }
    found = judge(Measures(**SOUND), qc=qc, contracts={})
    told = [(r.level, r.topic, r.text) for r in found.reasons if r.level is not Level.GOOD]
    assert told == [
        (Level.BAD, "Registration to the T1w", "The heads differ."),
        (Level.BAD, "Registration to the T1w", "A mirror image."),
        (Level.CHECK, "Series", "Ghost-to-signal ratio: 0.0724, above the limit of 0.05."),
    ]
