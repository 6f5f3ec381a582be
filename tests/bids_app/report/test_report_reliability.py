"""What was predicted against what was observed: where groups lie, and what is said of them."""

from __future__ import annotations

import pytest

from neurostorm_app.bids_app.report.reliability import SIDE, draw_reliability, wilson


def said(kind, calibration, **more):
    source = {
        "Metrics": {"brier": {"Value": 0.183, "Low": 0.1, "High": 0.2}},
        "Calibration": calibration,
        "Coverage": None,
        "MeanWidth": None,
    }
    return {
        "Target": {"Name": "x", "Kind": kind, "Units": None if kind == "classes" else "years"},
        "Design": {"confidence": 0.9},
        "Sources": {"one": source | more, "confounds": source | {"Calibration": None}},
    }


def row(predicted, observed, people=10, **more):
    return {"Participants": people, "Predicted": predicted, "Observed": observed, **more}


def test_what_was_said_and_was_lies_on_the_diagonal():
    rows = [row(0.25, 0.25, Class="F"), row(0.75, 0.5, Class="F")]
    [chart] = draw_reliability(said("classes", rows))
    right, wrong = chart.curves[0].spots
    assert right.x == SIDE - right.y == 0.25 * SIDE
    assert (wrong.x, wrong.y) == (0.75 * SIDE, 0.5 * SIDE)
    assert (chart.source, chart.words, chart.band) == ("one", "Brier score 0.18, 0 is perfect.", 0)
    assert (wrong.predicted, wrong.observed) == ("75%", "50%")


def test_small_groups_have_long_bars():
    few, many = (
        draw_reliability(said("classes", [row(0.5, 0.5, people=n)]))[0].curves[0].spots[0]
        for n in (5, 500)
    )
    assert few.high < many.high < few.y < many.low < few.low
    low, high = wilson(0.0, 10)
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(0.213, abs=1e-3)  # z^2 / (n + z^2)


def test_a_value_has_a_band_as_wide_as_its_intervals():
    rows = [row(30.0, 35.0), row(50.0, 45.0)]
    [chart] = draw_reliability(said("value", rows, Coverage=0.876, MeanWidth=20.0))
    low, high = 20.0, 60.0  # an interval about each prediction has room
    assert [label for _, label in chart.marks][:: len(chart.marks) - 1] == ["20", "60"]
    assert chart.band == pytest.approx(10 / (high - low) * SIDE)
    assert chart.curves[0].spots[0].x == pytest.approx((30 - low) / (high - low) * SIDE)
    assert chart.curves[0].spots[0].low is None
    assert chart.unit == "years"
    assert chart.words == (
        "Intervals said to hold for 90% of people hold for 88%; they are 20 wide on average."
    )


def test_classes_have_colours_as_long_as_there_are_some():
    rows = [row(0.1, 0.1, Class=f"c{i}") for i in range(8)]
    [chart] = draw_reliability(said("classes", rows))
    colours = [curve.colour for curve in chart.curves]
    assert len(set(colours[:6])) == 6
    assert colours[6:] == ["", ""]


def test_without_a_table_there_is_no_chart():
    assert draw_reliability(said("value", None)) == []
    assert draw_reliability(said("classes", [])) == []
