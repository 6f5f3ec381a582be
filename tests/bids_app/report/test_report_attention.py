"""Which runs the first screen of the group page names, and why."""

from __future__ import annotations

import json

from neurostorm_app.bids_app.report.attention import find_warned
from neurostorm_app.bids_app.report.group import write_group_page
from neurostorm_app.bids_app.report.records import RunRecord, read_records
from neurostorm_app.bids_app.report.verdict import Level, Measures, Reason, Verdict


def record(name, *reasons, level=Level.BAD):
    told = tuple(Reason(level=level, topic=topic, text=f"{topic} is off.") for topic in reasons)
    sound = Reason(level=Level.GOOD, topic="Length", text="Long.")
    return RunRecord(
        name=name,
        participant=name.split("_", maxsplit=1)[0].removeprefix("sub-"),
        title=name.split("_", maxsplit=1)[1],
        status="done",
        measures=Measures(),
        verdict=Verdict(level=level, reasons=(*told, sound)),
    )


def test_what_failed_comes_first_and_sound_runs_are_not_named():
    records = [
        record("sub-01_run-1", level=Level.CHECK),
        record("sub-02_run-1", "Motion"),
        record("sub-03_run-1", "Run", level=Level.FAILED),
        record("sub-04_run-1", level=Level.GOOD),
    ]
    assert [(one.participant, one.level) for one in find_warned(records)] == [
        ("03", Level.FAILED),
        ("02", Level.BAD),
    ]


def test_runs_with_the_same_reasons_stand_together():
    records = [
        record("sub-01_run-2", "Registration"),
        record("sub-01_run-1", "Registration"),
        record("sub-01_run-3", "Motion"),
        record("sub-02_run-1", "Registration"),
    ]
    found = find_warned(records)
    assert [[run.name for run in one.runs] for one in found] == [
        ["sub-01_run-1", "sub-01_run-2"],
        ["sub-01_run-3"],
        ["sub-02_run-1"],
    ]


def test_two_reasons_are_told_and_the_others_counted():
    [one] = find_warned([record("sub-01_run-1", "A", "B", "C", "D")])
    assert [reason.topic for reason in one.reasons] == ["A", "B"]
    assert one.more == 2


def test_many_warnings_are_folded(tree):
    for number in range(1, 12):
        name = f"sub-{number:02d}_task-rest"
        tree.report(name, status="failed", error={"what": f"bad {number}", "fix": "x"}, errors=[])
    text = write_group_page(tree.root).read_text()
    first, _, folded = text.partition("<summary>and 3 more</summary>")
    assert "bad 8" in first
    assert "bad 9" not in first
    assert "bad 11" in folded


def test_numbers_of_the_registrations_are_those_that_were_recorded(tree):
    name = "sub-01_task-rest"
    tree.confounds(name)
    folder = tree.root / "logs"
    folder.mkdir()
    fail = {"verdict": "fail", "reasons": ["the T1w image of another head?"]}
    (folder / f"{name}_qc.json").write_text(json.dumps({"coregistration": fail | {"cost": 0.94}}))
    norm = {"normalization": {"correlation_with_template": 0.54, "verdict": "pass"}}
    (folder / "sub-01_qc.json").write_text(json.dumps(norm))
    [found] = read_records(tree.root, "01", [])
    assert (found.measures.edge_cost, found.measures.likeness) == (0.94, 0.54)
    [one] = find_warned([found])
    assert one.reasons[0].topic == "Registration to the T1w"
    assert one.reasons[0].text == "The T1w image of another head?"
    page = write_group_page(tree.root).read_text()
    assert "Edge cost of BOLD on T1w" in page
    assert "Correlation with the template&#39;s brain" in page
