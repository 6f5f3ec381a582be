"""Predictions of a person in plain words, with their intervals, and what to make of them."""

from __future__ import annotations

import json

import pytest

from neurostorm_app.bids_app.report.outlook import read_outlooks
from neurostorm_app.bids_app.report.subject import write_subject_page
from neurostorm_app.bids_app.report.tree import read_participant

HOSTILE = "<script>alert(1)</script>"


def outlooks(tree, participant="01"):
    notices = []
    runs = read_participant(tree.root, participant).runs
    return read_outlooks(tree.root, participant, runs, notices), notices


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def phenotype(tree, target="age", effect="found", **columns):
    told = {
        "Target": {"Name": target},
        "Design": {"confidence": 0.9},
        "Verdicts": {"connectome": {"effect": effect}},
    }
    path = tree.root / "prediction" / f"target-{target}_evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))
    return write(tree.root / "phenotype" / f"connectome_{target}.tsv", columns)


def test_a_value_is_told_with_its_interval_and_how_often_that_holds(tree):
    people = ["sub-01", "sub-02"]
    phenotype(tree, participant_id=people, predicted=[31.52, 9], lower=[20, 8], upper=[45, 9])
    [one], notices = outlooks(tree)
    assert notices == []
    assert one.words == "31.52; for 90% of people like these the truth lies between 20 and 45"
    assert (one.target, one.source, one.kind) == (
        "age",
        "connectome",
        "by models that had not seen this participant",
    )
    assert (one.value, one.low, one.high) == (31.52, 20, 45)


def test_large_numbers_are_written_whole(tree):
    people = ["sub-01"]
    phenotype(tree, participant_id=people, predicted=[12345.6], lower=[9999.7], upper=[20512.4])
    [one], _ = outlooks(tree)
    assert one.words.startswith("12346; for 90% of people like these the truth lies between 10000")
    page = write_subject_page(tree.root, "01").read_text()
    assert "<span>20512</span>" in page
    assert "e+04" not in page


def test_a_value_of_a_model_that_guesses_is_not_to_be_noticed(tree):
    phenotype(tree, effect="none", participant_id=["sub-01"], predicted=[31], lower=[1], upper=[9])
    [one], _ = outlooks(tree)
    assert "does not predict it better than guessing" in one.notes[0]


def test_classes_come_with_their_probabilities(tree):
    phenotype(
        tree,
        "group",
        participant_id=["sub-01"],
        predicted=["patient"],
        probability_control=[0.3],
        probability_patient=[0.7],
    )
    [one], _ = outlooks(tree)
    assert one.words.startswith("patient, with a probability of 70% by the model's own account")
    assert [share.name for share in one.shares] == ["patient", "control"]


def test_controls_with_random_weights_say_nothing_of_a_person(tree):
    phenotype(tree, participant_id=["sub-01"], predicted=[31], lower=[1], upper=[9])
    table = tree.root / "phenotype" / "connectome_age.tsv"
    table.rename(table.with_name("neurostormUntrained_age.tsv"))
    assert outlooks(tree) == ([], [])


def test_sessions_have_their_own_predictions(tree):
    columns = {"predicted_ses-a": [1.0], "lower_ses-a": [0], "upper_ses-a": [2]}
    columns |= {"predicted_ses-b": ["n/a"], "lower_ses-b": ["n/a"], "upper_ses-b": ["n/a"]}
    phenotype(tree, participant_id=["sub-01"], **columns)
    [one], _ = outlooks(tree)
    assert one.where == "ses-a"
    assert one.words.startswith("1; for 90% of people")


def test_runs_have_their_own_predictions(tree):
    ends = ("_ses-a_task-go", "_task-go")  # one ending ends in the other
    columns = dict(zip((f"predicted{end}" for end in ends), (["go"], ["rest"]), strict=True))
    columns |= {f"probability_go{end}": [p] for end, p in zip(ends, (0.9, 0.3), strict=True)}
    columns |= {f"probability_rest{end}": [p] for end, p in zip(ends, (0.1, 0.7), strict=True)}
    phenotype(tree, participant_id=["sub-01"], **columns)
    one, other = outlooks(tree)[0]
    assert (one.where, other.where) == ("ses-a, task-go", "task-go")
    assert [(share.name, share.probability) for share in one.shares] == [("go", 0.9), ("rest", 0.1)]
    assert other.words.startswith("rest, with a probability of 70%")


def test_what_a_head_says_of_new_people_is_told(tree):
    path = write(
        tree.root / "prediction" / "target-age_desc-connectomeNew_prediction.tsv",
        {"participant_id": ["sub-01"], "predicted": [40], "lower": ["n/a"], "upper": ["n/a"]},
    )
    told = {"Target": "age", "Units": "years", "Confidence": 0.9, "Notes": ["too good"]}
    path.with_suffix(".json").write_text(json.dumps(told))
    [one], _ = outlooks(tree)
    assert one.words == "40 years; how far off it may be is not known"
    assert one.kind == "by a head fitted on other people"
    assert one.notes == ["too good"]


def test_fine_tuned_weights_speak_of_a_run(tree):
    name = "sub-01_task-rest"
    tree.embedding(name, "connectome")
    table = next(tree.root.rglob("*_desc-connectome_embedding.tsv"))
    path = write(
        table.with_name(table.name.replace("_embedding", "_prediction")),
        {
            "target": ["sex", "sex"],
            "value": ["n/a"] * 2,
            "unit": ["n/a"] * 2,
            "class": ["f", "m"],
            "probability": [0.2, 0.8],
            "lower": ["n/a"] * 2,
            "upper": ["n/a"] * 2,
        },
    )
    path.with_suffix(".json").write_text(json.dumps({"Model": {"Name": "x"}, "Demo": True}))
    [one], _ = outlooks(tree)
    assert one.words.startswith("m, with a probability of 80%")
    assert (one.target, one.source, one.where, one.demo) == ("sex", "x", "task rest", True)


def test_measured_phenotypes_are_no_predictions(tree):
    write(tree.root / "phenotype" / "panas_score.tsv", {"participant_id": ["sub-01"], "x": [3]})
    assert outlooks(tree) == ([], [])


def test_a_hostile_class_is_shown_as_text(tree):
    phenotype(
        tree,
        "group",
        participant_id=["sub-01"],
        predicted=[HOSTILE],
        **{f"probability_{HOSTILE}": [0.7]},
    )
    page = write_subject_page(tree.root, "01").read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;, with a probability of 70%" in page


@pytest.mark.parametrize(
    "damage",
    [
        {"Target": "age"},
        {"Target": ["age"]},
        {"Design": [0.9]},
        {"Verdicts": ["none"]},
        {"Verdicts": {"connectome": "none"}},
    ],
)
def test_an_evaluation_of_another_kind_costs_its_prediction_alone(tree, damage):
    phenotype(tree, "group", participant_id=["sub-01"], predicted=["patient"])
    phenotype(tree, participant_id=["sub-01"], predicted=[31], lower=[1], upper=[9])
    path = tree.root / "prediction" / "target-age_evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    [one], [notice] = outlooks(tree)
    assert one.target == "group"
    assert "connectome_age.tsv: no prediction can be read" in notice.what
    assert "run the app again" in notice.fix


def test_a_head_with_notes_that_are_none_is_named(tree):
    columns = {"participant_id": ["sub-01"], "predicted": [40]}
    name = "target-age_desc-connectomeNew_prediction.tsv"
    path = write(tree.root / "prediction" / name, columns)
    path.with_suffix(".json").write_text(json.dumps({"Notes": 7}))
    found, [notice] = outlooks(tree)
    assert found == []
    assert f"{name}: no prediction can be read" in notice.what


def test_a_table_of_tuned_weights_without_a_target_is_named(tree):
    tree.embedding("sub-01_task-rest", "connectome")
    table = next(tree.root.rglob("*_desc-connectome_embedding.tsv"))
    path = table.with_name(table.name.replace("_embedding", "_prediction"))
    write(path, {"class": ["f", "m"], "probability": [0.2, 0.8]})
    found, [notice] = outlooks(tree)
    assert found == []
    assert "no prediction can be read (KeyError: 'target')" in notice.what
