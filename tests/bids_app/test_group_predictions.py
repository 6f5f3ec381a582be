"""Predictions at the group level: what is written, what never is, and what fails alone."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from neurostorm_app.bids_app.derivatives import derivative_path, embedding_table
from neurostorm_app.bids_app.describe import describe_output
from neurostorm_app.bids_app.failures import worst
from neurostorm_app.bids_app.group import predictions as group_predictions
from neurostorm_app.bids_app.group.cohort import gather_cohort
from neurostorm_app.bids_app.group.collect import collect
from neurostorm_app.bids_app.group.phenotype_files import class_columns, is_prediction
from neurostorm_app.bids_app.group.prediction_bins import bin_rows, calibration
from neurostorm_app.bids_app.group.predictions import predict_targets
from neurostorm_app.bids_app.group.rows import find_embeddings
from neurostorm_app.bids_app.group.tables import find_tables
from neurostorm_app.bids_app.inputs.validation import validate
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.report.predictions import read_targets
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.evaluate.cohort import Evaluation

N = 30
PEOPLE = [f"{i:02d}" for i in range(1, N + 1)]
QUICK = {"folds": 3, "repeats": 1, "permutations": 19}


def write_vector(root, name, label, vector, *, demo=False):
    entities = {"space": "MNI152NLin6Asym", "res": "2", "desc": label}
    path = derivative_path(
        root, name, "func", suffix="embedding", extension=".tsv", entities=entities
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(embedding_table(np.asarray(vector, np.float32)[np.newaxis]))
    sidecar = {
        "Demo": demo,
        "Model": {"WeightsSHA256": None if label == "connectome" else "ab" * 32},
        "Contract": {"space": "MNI152NLin6Asym"},
        "Precision": "fp32",
        "EmbeddingDimension": len(vector),
        "Computation": {"atlas_sha256": "cd" * 32},
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


class World:
    """A raw dataset with tables, and an output folder with embeddings that tell age and sex."""

    def __init__(self, root, rng, noises):
        self.bids, self.out, self.rng = root / "bids", root / "out", rng
        for folder in (self.bids, self.out):
            folder.mkdir()
        self.age = np.round(rng.uniform(20, 70, N), 7)
        self.sex = np.arange(N) % 2
        self.table(
            age=self.age, sex=["FM"[s] for s in self.sex], site=["Oslo", "Bergen"] * (N // 2)
        )
        described = {"Name": "x", "BIDSVersion": "1.8.0"}
        (self.bids / "dataset_description.json").write_text(json.dumps(described))
        for label, noise in noises.items():
            for i, person in enumerate(PEOPLE):
                self.embed(person, label, i, noise=noise)
            self.embed("07", label, 6, noise=noise, run="2")

    def embed(self, person, label, i, *, noise=1.0, run="1", session=None):
        told = np.array([self.age[i] / 10, 2.0 * self.sex[i], 0, 0, 0, 0])
        vector = told + self.rng.normal(0, noise, 6)
        ses = f"_ses-{session}" if session else ""
        name = f"sub-{person}{ses}_task-rest_run-{run}"
        write_vector(self.out, name, label, vector, demo=label.startswith("toy"))

    def table(self, **columns):
        rows = zip(PEOPLE, *columns.values(), strict=True)
        lines = ["\t".join(["participant_id", *columns])]
        lines += ["\t".join([f"sub-{p}", *map(str, cells)]) for p, *cells in rows]
        (self.bids / "participants.tsv").write_text("\n".join(lines) + "\n")

    def collect(self):
        return {
            label: collect(label, entries, (), root=self.out)
            for label, entries in find_embeddings(self.out).items()
        }

    def predict(self, *targets, **options):
        settings = build_settings(
            self.bids, self.out, "group", {"target": targets, **QUICK, **options}
        )
        describe_output(self.out, {"raw": self.bids})
        return predict_targets(settings, self.collect(), Ledger(self.out))

    def read(self, name):
        path = self.out / name
        if path.suffix == ".json":
            return json.loads(path.read_text())
        with path.open() as file:
            return list(csv.DictReader(file, delimiter="\t"))

    def code(self, outcome):
        return worst(p.result().exit_code for p in outcome.progress.values())


NOISES = {"connectome": 1.0, "toy": 0.3, "toyUntrained": 9.0}


@pytest.fixture
def world(tmp_path, rng):
    """Three sources: of the connectome, of a model, and of its twin with random weights."""
    return World(tmp_path, rng, NOISES)


@pytest.fixture
def small(tmp_path, rng):
    """One source: for what is not about sources."""
    return World(tmp_path, rng, {"connectome": 1.0})


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Three sources, evaluated for a value and for classes, with heads."""
    made = World(tmp_path_factory.mktemp("evaluated"), np.random.default_rng(7), NOISES)
    made.outcome = made.predict("age,sex", save_heads=True)
    return made


def test_a_target_gets_its_table_predictions_and_verdict(evaluated):
    outcome = evaluated.outcome
    assert evaluated.code(outcome) == 0, outcome.progress
    about = evaluated.read("prediction/target-age_evaluation.json")
    assert {"connectome", "toy", "toyUntrained", "baseline", "confounds"} <= set(about["Sources"])
    assert about["Sources"]["toy"]["Metrics"]["r2"]["Value"] > 0.9
    chance = about["Sources"]["toy"]["ByChance"]  # of 19 rearrangements
    assert chance["Low"] < chance["Median"] < chance["High"] < 0.9
    assert about["Verdicts"]["toy"]["effect"] == "found"
    assert about["Verdicts"]["toy"]["beats_connectome"] is True
    assert about["Cohort"]["Participants"] == N
    assert about["Demo"] is True
    assert about["Description"].startswith("DEMO WEIGHTS")
    assert "Not for diagnosis" in about["Description"]
    assert outcome.lines == [
        about["Finding"],
        evaluated.read("prediction/target-sex_evaluation.json")["Finding"],
    ]
    rows = evaluated.read("phenotype/toy_age.tsv")
    assert [row["participant_id"] for row in rows] == [f"sub-{p}" for p in PEOPLE]
    predicted = np.array([float(row["predicted"]) for row in rows])
    assert np.corrcoef(predicted, evaluated.age)[0, 1] > 0.9
    low, high = (np.array([float(row[end]) for row in rows]) for end in ("lower", "upper"))
    assert ((low <= evaluated.age) & (evaluated.age <= high)).mean() > 0.7


def test_the_table_puts_all_sources_side_by_side(evaluated):
    rows = evaluated.read("prediction/target-sex_evaluation.tsv")
    plain = {r["source"]: r for r in rows if r["metric"] == "auroc" and r["adjusted"] == "no"}
    assert {"connectome", "toy", "toyUntrained", "baseline", "confounds"} <= set(plain)
    assert float(plain["toy"]["value"]) > 0.9
    assert plain["toy"]["difference_to_connectome"] != "n/a"
    assert plain["connectome"]["difference_to_connectome"] == "n/a"
    assert plain["toy"]["verdict"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE: sex: toy predicts")
    assert float(plain["toy"]["p"]) == pytest.approx(0.05)
    assert {r["adjusted"] for r in rows if r["source"] == "toy"} == {"no", "yes"}


def test_probabilities_add_up_and_the_predicted_class_is_named(evaluated):
    rows = evaluated.read("phenotype/connectome_sex.tsv")
    for row in rows:
        shares = float(row["probability_F"]), float(row["probability_M"])
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] in {"F", "M"}
    about = evaluated.read("phenotype/connectome_sex.json")
    assert set(rows[0]) <= set(about)
    assert about["predicted"]["Levels"] == {"F": "F", "M": "M"}
    assert about["NotForDiagnosis"] is True
    assert "No measurement" in about["MeasurementToolMetadata"]["Description"]
    assert evaluated.read("phenotype/toy_sex.json")["MeasurementToolMetadata"][
        "Description"
    ].startswith("DEMO WEIGHTS")


def test_what_was_observed_stands_in_no_output(evaluated):
    texts = {
        path: path.read_bytes()
        for path in evaluated.out.rglob("*")
        if path.is_file() and path.parent.name in {"phenotype", "prediction", "prov", "logs"}
    }
    assert len(texts) > 8
    for path, text in texts.items():
        assert b"Bergen" not in text, path
        values = {cell for line in text.decode("latin-1").splitlines() for cell in line.split("\t")}
        assert not values & set(map(str, evaluated.age)), path
    stems = {path.name for path in (evaluated.out / "phenotype").iterdir()}
    assert not [name for name in stems if name.startswith(("confounds", "baseline"))]


def test_the_tables_of_predictions_are_known_as_such(evaluated):
    tables = sorted((evaluated.out / "phenotype").glob("*.tsv"))
    assert [path.name for path in tables[:2]] == ["connectome_age.tsv", "connectome_sex.tsv"]
    assert all(map(is_prediction, tables))
    assert find_tables([evaluated.out], PEOPLE) == []


def test_the_output_is_valid_bids(evaluated):
    validate(evaluated.out, [], everyone=True)


def test_nothing_is_computed_twice(small, monkeypatch):
    assert small.predict("age").written
    calls = []
    real = group_predictions.compare_sources
    monkeypatch.setattr(
        group_predictions, "compare_sources", lambda *a: calls.append(a[0].labels.name) or real(*a)
    )
    again = small.predict("age")
    assert (again.written, calls) == (False, [])
    assert again.lines
    assert again.progress["target age"].result().status == "reused"
    small.predict("age", "sex")
    assert calls == ["sex"]
    small.table(age=small.age, sex=["FM"[s] for s in small.sex], site=["A"] * N)
    small.predict("age")
    assert calls == ["sex", "age"]  # another site, other confounds
    small.predict("age", permutations=0)
    assert calls == ["sex", "age", "age"]


def test_files_that_a_later_call_does_not_write_again_are_named_and_stay(world):
    world.predict("age", save_heads=True, permutations=0)
    for name in ("scl_raw_age.tsv", "mine_age.tsv"):  # not ours
        (world.out / "phenotype" / name).write_text("participant_id\tx\n")
    for path in world.out.rglob("sub-*_desc-toy_*"):
        path.unlink()
    outcome = world.predict("age", permutations=0)
    left = [
        "phenotype/toy_age.tsv",
        "prediction/target-age_desc-connectome_head.safetensors",
        "prediction/target-age_desc-toy_head.safetensors",
    ]
    told = "left from an earlier evaluation of age, and not of this one: "
    assert told + ", ".join(left) in read_targets(world.out, [])[0].notes
    assert outcome.lines[1:] == [told + ", ".join(left) + "; remove what is not wanted"]
    assert all((world.out / name).is_file() for name in left)
    (world.out / left[0]).unlink()
    again = world.predict("age", permutations=0, save_heads=True)  # one of the heads is new again
    assert again.lines[1:] == [f"{told}{left[2]}; remove what is not wanted"]
    assert told + left[2] in read_targets(world.out, [])[0].notes
    (world.out / left[2]).unlink()
    again = world.predict("age", permutations=0, save_heads=True)
    assert (again.written, len(again.lines)) == (False, 1)
    assert not any(told in note for note in read_targets(world.out, [])[0].notes)
    (world.out / "prov" / "target-age_evaluation.json").unlink()
    assert not any(told in note for note in read_targets(world.out, [])[0].notes)


def test_people_without_a_label_do_not_redo_a_target(small):
    small.predict("age")
    small.embed("99", "connectome", 0)
    again = small.predict("age")
    assert again.written  # one more is left out, and the evaluation says so
    left = small.read("prediction/target-age_evaluation.json")["Cohort"]["LeftOut"]
    assert left == {"embedded, not in the table": 1}


@pytest.mark.parametrize(
    ("column", "code", "words"),
    [
        ("agee", 64, "is no column of"),
        ("constant", 65, "is constant: the same in all"),
        ("empty", 65, "all 30 labels are missing"),
        ("rare", 65, "too few participants in a class: 'b' has 3"),
        ("few", 65, "3 participants have a label and embeddings"),
    ],
)
def test_a_target_that_cannot_be_predicted_leaves_the_others_alone(small, column, code, words):
    small.table(
        age=small.age,
        constant=[7] * N,
        empty=["n/a"] * N,
        rare=["a"] * (N - 3) + ["b"] * 3,
        few=[1.5, 2.5, 3.5] + ["n/a"] * (N - 3),
    )
    outcome = small.predict(column, "age")
    assert small.code(outcome) == code
    [error] = outcome.progress[f"target {column}"].errors
    assert words in error.what
    assert not outcome.progress["target age"].errors
    assert (small.out / "phenotype" / "connectome_age.tsv").is_file()


def test_two_rows_of_one_participant_are_refused(small):
    table = small.bids / "participants.tsv"
    table.write_text(table.read_text() + "sub-01\t30\tF\tA\n")
    outcome = small.predict("age")
    assert small.code(outcome) == 65
    assert "more than one row of sub-01" in outcome.progress["target age"].errors[0].what


def test_a_table_whose_header_cannot_be_read_fails_all_targets_and_nothing_else(small):
    (small.bids / "participants.tsv").write_text("x" * 200_000)
    outcome = small.predict("age", "sex")
    assert small.code(outcome) == 65
    assert all("between tabs" in p.errors[0].what for p in outcome.progress.values())
    assert outcome.paths == []


def test_the_tables_of_the_dataset_the_embeddings_are_from_are_used(small, tmp_path):
    settings = build_settings(tmp_path, small.out, "group", {"target": "age", **QUICK})
    describe_output(small.out, {"raw": small.bids})
    outcome = predict_targets(settings, small.collect(), Ledger(small.out))
    assert small.code(outcome) == 0, outcome.progress


def test_a_damaged_table_of_another_phenotype_does_not_matter(small):
    (small.bids / "phenotype").mkdir()
    (small.bids / "phenotype" / "odd.tsv").write_text("x" * 200_000)
    assert small.code(small.predict("age")) == 0


def test_targets_that_would_share_a_file_are_refused_one_by_one(small):
    small.table(iq_a=small.age, iqA=small.age)
    outcome = small.predict("iq_a", "iqA")
    assert [bool(p.errors) for p in outcome.progress.values()] == [False, True]
    assert small.code(outcome) == 64


def test_without_embeddings_no_target_is_predicted(small):
    for path in small.out.rglob("*_embedding.*"):
        path.unlink()
    outcome = small.predict("age")
    assert "no embedding can be used to predict it" in outcome.progress["target age"].errors[0].what
    assert small.code(outcome) == 18


def test_sources_are_compared_on_the_same_rows(world):
    for label in PEOPLE[:5]:
        for path in (world.out / f"sub-{label}").rglob("*desc-toy_*"):
            path.unlink()
    world.predict("age")
    about = world.read("prediction/target-age_evaluation.json")
    assert about["Cohort"]["Participants"] == N - 5
    assert about["Cohort"]["LeftOut"] == {"labelled, no embedding of toy": 5}
    assert len(world.read("phenotype/connectome_age.tsv")) == N - 5


def test_a_source_of_few_people_is_named(world):
    for label in PEOPLE[5:]:
        for path in (world.out / f"sub-{label}").rglob("*desc-toy_*"):
            path.unlink()
    [error] = world.predict("age").progress["target age"].errors
    assert "sources are compared on the rows that all have" in error.what
    assert "toy 5" in error.what


def test_what_a_verdict_cannot_claim_is_said(world):
    for path in [*world.out.rglob("*desc-connectome*"), *world.out.rglob("*Untrained*")]:
        path.unlink()
    world.predict("age")
    about = world.read("prediction/target-age_evaluation.json")
    assert any(note.startswith("No embeddings of the connectome") for note in about["Notes"])
    assert any(note.startswith("toy has no untrained control") for note in about["Notes"])
    assert about["Verdicts"]["toy"]["beats_connectome"] is None
    assert about["Verdicts"]["toy"]["beats_control"] is None


def test_sessions_are_rows_where_the_target_is_of_sessions(small):
    for path in small.out.rglob("*_embedding.*"):
        path.unlink()
    small.sex[:] = 0
    for i, person in enumerate(PEOPLE[:16]):
        for dose in (0, 1):
            small.sex[i] = dose
            small.embed(person, "connectome", i, noise=0.5, session=f"s{dose}")
        path = small.bids / f"sub-{person}" / f"sub-{person}_sessions.tsv"
        path.parent.mkdir()
        path.write_text("session_id\tdrug\nses-s0\tplacebo\nses-s1\tactive\n")
    outcome = small.predict("drug", permutations=39)
    assert small.code(outcome) == 0, outcome.progress
    rows = small.read("phenotype/connectome_drug.tsv")
    assert list(rows[0])[::3] == [
        "participant_id",
        "probability_placebo_ses-s0",
        "probability_placebo_ses-s1",
    ]
    assert len(rows) == 16
    right = [r["predicted_ses-s0"] == "placebo" and r["predicted_ses-s1"] == "active" for r in rows]
    assert np.mean(right) > 0.7
    assert set(rows[0]) <= set(small.read("phenotype/connectome_drug.json"))
    about = small.read("prediction/target-drug_evaluation.json")
    assert about["Cohort"] | {"LeftOut": 0} == {
        "Rows": 32,
        "RowIs": "session",
        "Participants": 16,
        "Groups": 16,
        "LeftOut": 0,
    }
    validate(small.out, [], everyone=True)


def test_motion_site_and_sex_are_confounds(small):
    for i, person in enumerate(PEOPLE):
        name = f"sub-{person}_task-rest_run-1_desc-confounds_timeseries.tsv"
        moved = 0.1 + small.age[i] / 100  # motion that goes with age
        text = f"framewise_displacement\nn/a\n{moved}\n{moved}\n"
        (small.out / f"sub-{person}" / "func" / name).write_text(text)
    small.predict("age")
    about = small.read("prediction/target-age_evaluation.json")
    assert set(about["Confounds"]) == {"motion", "site", "sex"}
    assert about["Verdicts"]["connectome"]["effect"] == "confounded"
    assert about["Adjusted"]["Covariates"] == ["motion", "site", "sex"]
    small.predict("age", covariates=["sex"])
    about = small.read("prediction/target-age_evaluation.json")
    assert about["Adjusted"]["Covariates"] == ["sex"]
    small.predict("age", covariates=["none"])
    about = small.read("prediction/target-age_evaluation.json")
    assert (about["Confounds"], about["Adjusted"]["Sources"]) == ({}, {})


def test_one_damaged_table_of_motion_stops_only_who_asks_for_motion(small):
    ending = "_task-rest_run-1_desc-confounds_timeseries.tsv"
    for i, person in enumerate(PEOPLE):
        text = f"framewise_displacement\nn/a\n{0.1 + i / 100}\n"
        (small.out / f"sub-{person}" / "func" / f"sub-{person}{ending}").write_text(text)
    damaged = small.out / "sub-03" / "func" / f"sub-03{ending}"
    damaged.write_bytes(b"framewise_displacement\n\xff\xfe\n")
    outcome = small.predict("age", covariates=["sex"])
    assert small.code(outcome) == 0, outcome.progress
    about = small.read("prediction/target-age_evaluation.json")
    assert about["Confounds"]["motion"]["Missing"] == 1
    told = f"motion is not known where the table of confounds is damaged: {damaged.name}"
    assert told in about["Notes"]
    small.table(age=["n/a" if p == "03" else a for p, a in zip(PEOPLE, small.age, strict=True)])
    assert small.code(small.predict("age", covariates=["motion"])) == 0  # nobody is asked of 03
    small.table(age=small.age)
    [error] = small.predict("age", covariates=["motion"]).progress["target age"].errors
    assert f"{damaged}: framewise_displacement is not a column of numbers" in error.what


def test_harmonising_takes_sites(small):
    small.table(age=small.age, scanner=["A", "B"] * (N // 2))
    [error] = small.predict("age", harmonise="combat").progress["target age"].errors
    assert isinstance(error, UsageError)
    assert "there is no site, or only one" in error.what
    outcome = small.predict("age", harmonise="combat", site_column="scanner")
    assert small.code(outcome) == 0, outcome.progress


def test_families_are_groups(small):
    families = [f"f{i // 2}" for i in range(N)]
    small.table(age=small.age, family=families)
    small.predict("age", group_column="family")
    about = small.read("prediction/target-age_evaluation.json")
    assert about["Cohort"]["Groups"] == N // 2


def test_a_confound_nobody_asked_for_and_that_cannot_be_read_is_left_out(small):
    ages = [*small.age[:-1], "89+"]
    small.table(age=ages, score=small.age)
    outcome = small.predict("score")
    assert small.code(outcome) == 0
    notes = small.read("prediction/target-score_evaluation.json")["Notes"]
    assert any(note.startswith("age is left out of the confounds") for note in notes)
    [error] = small.predict("score", covariates=["age"]).progress["target score"].errors
    assert "numbers and text are mixed" in error.what


def test_networks_are_trained_on_connectomes_alone(small):
    for path in small.out.rglob("*desc-connectome*"):
        path.rename(path.with_name(path.name.replace("desc-connectome", "desc-other")))
    [error] = small.predict("age", baselines=["bnt"]).progress["target age"].errors
    assert "bnt would learn from 'connectome'" in error.what


@pytest.mark.slow
def test_a_network_trained_inside_the_folds_stands_beside_the_others(small):
    options = {"baselines": ["gcn"], "covariates": ["none"], "permutations": 0, "folds": 2}
    outcome = small.predict("sex", **options)
    assert small.code(outcome) == 0, outcome.progress
    about = small.read("prediction/target-sex_evaluation.json")
    assert about["Sources"]["gcn"]["Model"]["Of"] == "connectome"
    assert "gcn" in about["Verdicts"]
    assert len(small.read("phenotype/gcn_sex.tsv")) == N


def test_the_runs_of_a_row_are_averaged(small):
    collected = small.collect()
    tables = find_tables([small.bids], PEOPLE)
    options = build_settings("in", "out", "group", {"target": "age"}).prediction
    gathered = gather_cohort("age", options, list(collected.values()), tables, {})
    runs = [i for i, row in enumerate(collected["connectome"].rows) if row.participant == "07"]
    assert len(runs) == 2
    mean = collected["connectome"].vectors[runs].mean(axis=0)
    np.testing.assert_allclose(gathered.cohort.features["connectome"][6], mean, rtol=1e-6)


def test_columns_of_classes_are_told_apart():
    assert class_columns(["a b", "aB"]) == ("probability_class0", "probability_class1")


@pytest.mark.parametrize(
    ("kind", "noise", "n_bins"), [("value", 1, 5), ("classes", 1, 3), ("classes", 0.01, 1)]
)
def test_bins_of_calibration_give_nobody_away(small, rng, kind, noise, n_bins):
    name = "age" if kind == "value" else "sex"
    options = build_settings("in", "out", "group", {"target": name}).prediction
    tables = find_tables([small.bids], PEOPLE)
    cohort = gather_cohort(name, options, list(small.collect().values()), tables, {}).cohort
    told = cohort.target.values + rng.normal(0, noise, N)
    share = 1 / (1 + np.exp(-3 * (told - 0.5)))
    shares = np.stack([1 - share, share], axis=1) if kind == "classes" else None
    evaluation = Evaluation(
        source="x",
        learner="x",
        n_rows=N,
        n_participants=N,
        n_groups=N,
        predicted=told,
        reference=told,
        probabilities=shares,
    )
    table = calibration(cohort, evaluation)
    assert len(table) >= n_bins  # people of one kind alone would tell the kind of each
    assert len(table) <= (1 if noise < 1 else 5)
    assert sum(row["Participants"] for row in table) == N
    assert min(row["Participants"] for row in table) >= 5
    if kind == "classes":
        assert all(0 < row["Observed"] < 1 for row in table)
        assert {row["Class"] for row in table} == {"M"}


def test_a_bin_of_one_kind_joins_its_neighbour():
    people = [f"p{i}" for i in range(20)]
    observed = np.repeat([0, 1], 10)
    bins = bin_rows(range(20), people, lambda rows: np.unique(observed[rows]).size > 1)
    assert [len(rows) for rows in bins] == [20]
    assert bin_rows(range(4), people[:4], lambda rows: True) == []
    twice = [f"p{i // 2}" for i in range(20)]  # ten people, two rows each
    assert [len(rows) for rows in bin_rows(range(20), twice, lambda rows: True)] == [9, 11]


def test_a_model_that_was_tuned_to_the_target_is_named(small):
    for path in small.out.glob("sub-*/func/*_desc-connectome_embedding.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"TunedTo": "Age"}))
    small.predict("age")
    notes = small.read("prediction/target-age_evaluation.json")["Notes"]
    assert any("connectome was tuned to predict 'Age'" in note for note in notes)
