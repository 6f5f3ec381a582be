"""The part of the group page that says what was found out."""

from __future__ import annotations

import json

import pytest

from neurostorm_app.bids_app.report.group import write_group_page
from neurostorm_app.bids_app.report.predictions import read_recognition, read_targets


def said(kind="classes", name="group"):
    metric = "auroc" if kind == "classes" else "r2"

    def source(value, low, high, role, p=0.002):
        return {
            "Metrics": {metric: {"Value": value, "Low": low, "High": high}},
            "PValue": p,
            "Model": {"Role": role} if role else {},
        }

    return {
        "Demo": False,
        "Target": {"Name": name, "Kind": kind},
        "Finding": f"{name}: predicted by connectome in 40 participants",
        "Sources": {
            "connectome": source(0.8, 0.7, 0.9, "plain functional connectivity"),
            "confounds": source(0.52, 0.3, 0.7, ""),
            "baseline": source(0.5, 0.5, 0.5, "", None),
        },
        "Verdicts": {"connectome": {"effect": "found", "sentence": "it predicts <it>"}},
        "Cohort": {"Rows": 40, "Participants": 40},
        "Design": {
            "n_folds": 5,
            "n_repeats": 2,
            "n_permutations": 499,
            "confidence": 0.9,
            "harmonise": "none",
        },
        "Adjusted": {"Covariates": ["motion"]},
        "Notes": [],
    }


@pytest.fixture
def tree(tmp_path):
    for kind, name in (("classes", "group"), ("value", "<script>alert(1)</script>")):
        path = tmp_path / "prediction" / f"target-{kind}_evaluation.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(said(kind, name)))
    path = tmp_path / "retrieval" / "desc-toy_reidentification.json"
    path.parent.mkdir()
    rank = {"value": 0.75, "low": 0.5, "high": 0.9}
    gallery = {"GallerySize": 20, "Rank1": rank, "Rank1ByChance": 0.05}
    path.write_text(json.dumps({"Reidentification": {"Galleries": [gallery]}}))
    return tmp_path


def test_sources_lie_on_one_axis_with_what_guessing_reaches(tree):
    section = read_targets(tree, [])[0]
    one, confounds, baseline = section.bars
    assert baseline.low == baseline.value == baseline.high == section.chance
    assert confounds.low < section.chance < confounds.value < confounds.high < one.value < one.high
    assert one.text == "0.80 (0.70 to 0.90), p 0.002"
    assert "p" not in baseline.text
    assert (one.effect, confounds.effect) == ("found", "")
    assert 0 <= confounds.low < one.high <= 1
    assert section.table == "prediction/target-classes_evaluation.tsv"


def test_what_chance_reaches_and_other_numbers_stand_beside(tree):
    path = tree / "prediction" / "target-classes_evaluation.json"
    told = json.loads(path.read_text())
    one = told["Sources"]["connectome"]
    one["ByChance"] = {"Median": 0.5, "Low": 0.41, "High": 0.59}
    one["Metrics"]["balanced_accuracy"] = {"Value": 0.7123, "Low": 0.6, "High": 0.8}
    one["Calibration"] = [{"Class": "a", "Participants": 9, "Predicted": 0.5, "Observed": 0.4}]
    path.write_text(json.dumps(told))
    section = read_targets(tree, [])[0]
    bar, confounds, _ = section.bars
    assert bar.chance[0] < section.chance < bar.chance[1] < bar.low
    assert confounds.chance is None
    assert bar.more["With the target rearranged"] == "0.41 to 0.59"
    assert bar.more["Balanced accuracy"] == "0.7123"
    assert section.columns == ["With the target rearranged", "Balanced accuracy"]
    page = write_group_page(tree).read_text()
    assert page.count('class="null"') == 1
    assert page.count('class="reliability"') == 1
    assert "9 people, predicted 50%, observed 40%" in page


def test_a_control_stands_behind_its_model(tree):
    path = tree / "prediction" / "target-classes_evaluation.json"
    told = json.loads(path.read_text())
    connectome = told["Sources"].pop("connectome")
    models = dict.fromkeys(("toyUntrained", "connectome", "toy"), connectome)
    told["Sources"] = models | told["Sources"]
    path.write_text(json.dumps(told))
    names = [bar.name for bar in read_targets(tree, [])[0].bars]
    assert names == ["toy", "toyUntrained", "connectome", "confounds", "baseline"]


def test_nothing_is_less_than_nothing(tree):
    path = tree / "prediction" / "target-value_evaluation.json"
    told = json.loads(path.read_text())
    told["Sources"]["baseline"]["Metrics"]["r2"] = {"Value": -0.004, "Low": -0.01, "High": 0.0}
    path.write_text(json.dumps(told))
    assert read_targets(tree, [])[1].bars[2].text == "0.00 (-0.01 to 0.00)"


def test_recognition_is_said_with_its_interval_and_chance(tree):
    words = read_recognition(tree, [])["toy"]
    assert words.endswith("the own in 75% (50% to 90%; guessing: 5.0%).")


def test_the_page_shows_targets_and_escapes_their_names(tree):
    page = write_group_page(tree).read_text()
    assert "predicted by connectome in 40 participants" in page
    assert "it predicts &lt;it&gt;" in page
    assert "<script>alert" not in page
    assert page.count('<div class="forest"') == 2


def test_without_targets_there_is_no_such_part(tmp_path):
    assert read_targets(tmp_path, []) == []
    assert read_recognition(tmp_path, []) == {}
    assert 'id="predictions"' not in write_group_page(tmp_path).read_text()
