"""The task of a run as a target: read from names, compared within participants, refused clearly."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from neurostorm_app.bids_app.derivatives import derivative_path, embedding_table
from neurostorm_app.bids_app.describe import describe_output
from neurostorm_app.bids_app.failures import worst
from neurostorm_app.bids_app.group.cohort import gather_cohort
from neurostorm_app.bids_app.group.collect import collect
from neurostorm_app.bids_app.group.predictions import predict_targets
from neurostorm_app.bids_app.group.rows import find_embeddings
from neurostorm_app.bids_app.group.tables import find_tables
from neurostorm_app.bids_app.group.tasks import NOTE
from neurostorm_app.bids_app.inputs.validation import validate
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.report.outlook import read_outlooks
from neurostorm_app.bids_app.report.predictions import read_targets
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.pipelines.evaluate.cohort import Design
from neurostorm_app.pipelines.evaluate.folds import outer_folds
from neurostorm_app.pipelines.evaluate.rearrange import draw_rearrangements, level_of

N, D = 16, 6
PEOPLE = [f"{i:02d}" for i in range(1, N + 1)]
QUICK = {"folds": 3, "repeats": 1, "permutations": 99}


class World:
    """An output folder whose embeddings tell people apart, and tasks by an effect."""

    def __init__(self, root, rng):
        self.bids, self.out, self.rng = root / "bids", root / "out", rng
        self.people = {person: 5 * rng.normal(size=D) for person in PEOPLE}
        for folder in (self.bids, self.out):
            folder.mkdir()
        described = {"Name": "x", "BIDSVersion": "1.8.0"}
        (self.bids / "dataset_description.json").write_text(json.dumps(described))

    def embed(self, person, task, *, effect=0.0, run=None, session=None, label="connectome"):
        """Write the embedding of a run: the person, some noise, and the effect of its task."""
        vector = self.people[person] + self.rng.normal(size=D)
        vector[0] += effect
        entities = {"ses": session, "task": task, "run": run}
        parts = [f"{key}-{value}" for key, value in entities.items() if value]
        path = derivative_path(
            self.out,
            "_".join([f"sub-{person}", *parts]),
            "func",
            suffix="embedding",
            extension=".tsv",
            entities={"space": "MNI152NLin6Asym", "res": "2", "desc": label},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(embedding_table(vector.astype(np.float32)[np.newaxis]))
        said = {
            "Demo": False,
            "Model": {"WeightsSHA256": None},
            "Contract": {"space": "MNI152NLin6Asym"},
            "Precision": "fp32",
            "EmbeddingDimension": D,
            "Computation": {"atlas_sha256": "cd" * 32},
        }
        path.with_suffix(".json").write_text(json.dumps(said))
        return path

    def fill(self, *, effect, people=PEOPLE, label="connectome"):
        """Embed two runs of rest and two of a task that is told by an effect."""
        for person in people:
            for run in ("1", "2"):
                self.embed(person, "rest", run=run, label=label)
                self.embed(person, "nback", run=run, effect=effect, label=label)

    def predict(self, *targets, **options):
        given = {"target": targets, **QUICK, **options}
        settings = build_settings(self.bids, self.out, "group", given)
        describe_output(self.out, {"raw": self.bids})
        return predict_targets(settings, self.collect(), Ledger(self.out))

    def collect(self):
        return {
            label: collect(label, entries, (), root=self.out)
            for label, entries in find_embeddings(self.out).items()
        }

    def cohort(self):
        options = build_settings("in", "out", "group", {"target": "task"}).prediction
        tables = find_tables([self.bids], PEOPLE)
        return gather_cohort("task", options, list(self.collect().values()), tables, {})

    def evaluation(self):
        return json.loads((self.out / "prediction" / "target-task_evaluation.json").read_text())

    def table(self, label="connectome"):
        with (self.out / "phenotype" / f"{label}_task.tsv").open() as file:
            return list(csv.DictReader(file, delimiter="\t"))


def code(outcome):
    return worst(p.result().exit_code for p in outcome.progress.values())


def error_of(outcome, target="task"):
    [error] = outcome.progress[f"target {target}"].errors
    return error


@pytest.fixture
def world(tmp_path, rng):
    return World(tmp_path, rng)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A cohort whose task can be told, evaluated; no table of people is there."""
    made = World(tmp_path_factory.mktemp("told"), np.random.default_rng(7))
    made.fill(effect=4.0)
    made.outcome = made.predict("task", save_heads=True)
    return made


def test_a_planted_task_is_found_run_by_run(told):
    assert code(told.outcome) == 0, told.outcome.progress
    about = told.evaluation()
    assert about["Verdicts"]["connectome"]["effect"] == "found"
    assert about["Sources"]["connectome"]["Metrics"]["auroc"]["Value"] > 0.9
    assert about["Sources"]["connectome"]["PValue"] == pytest.approx(0.01)
    assert about["Cohort"] == {
        "Rows": 4 * N,
        "RowIs": "run",
        "Participants": N,
        "Groups": N,
        "LeftOut": {},
    }
    assert about["Target"] == {
        "Name": "task",
        "Table": None,
        "Kind": "classes",
        "Classes": ["nback", "rest"],
        "Units": None,
    }
    assert NOTE in about["Notes"]
    notes = about["Sources"]["connectome"]["Notes"]
    assert any("rearranged within participants" in note for note in notes)


def test_each_run_has_its_probabilities_in_the_row_of_its_participant(told):
    rows = told.table()
    assert [row["participant_id"] for row in rows] == [f"sub-{p}" for p in PEOPLE]
    runs = [f"_task-{task}_run-{run}" for task in ("nback", "rest") for run in ("1", "2")]
    names = ("predicted", "probability_nback", "probability_rest")
    assert list(rows[0]) == ["participant_id", *(name + run for run in runs for name in names)]
    for run in runs:
        shares = [(r["probability_nback" + run], r["probability_rest" + run]) for r in rows]
        np.testing.assert_allclose(np.array(shares, float).sum(axis=1), 1, atol=1e-5)
    right = [row["predicted" + run] == run[6:].split("_")[0] for row in rows for run in runs]
    assert np.mean(right) > 0.9
    said = json.loads((told.out / "phenotype" / "connectome_task.json").read_text())
    assert set(rows[0]) <= set(said)
    assert said["predicted_task-rest_run-1"]["Description"].endswith("Run task-rest_run-1.")


def test_the_table_of_runs_is_valid_bids(told):
    validate(told.out, [], everyone=True)


def test_pages_tell_of_runs(told):
    notices = []
    [section] = read_targets(told.out, notices)
    assert (section.name, section.metric) == ("task", "AUROC")
    assert f"{4 * N} of {N} participants" in {fact.value for fact in section.facts}
    assert section.reliability
    outlooks = read_outlooks(told.out, "01", [], notices)
    assert (len(outlooks), notices) == (4, [])
    assert [one.where for one in outlooks][:2] == ["task-nback, run-1", "task-nback, run-2"]
    assert {share.name for share in outlooks[0].shares} == {"nback", "rest"}


def test_no_head_is_kept_of_a_task(told):
    assert not list((told.out / "prediction").glob("*_head.*"))


def test_where_no_task_is_planted_none_is_found(tmp_path):
    world = World(tmp_path, np.random.default_rng(2))  # 1 of 20 draws finds one
    world.fill(effect=0.0)
    assert code(world.predict("task")) == 0
    about = world.evaluation()
    assert about["Verdicts"]["connectome"]["effect"] == "none"
    assert about["Sources"]["connectome"]["PValue"] > 0.05
    assert 0.3 < about["Sources"]["connectome"]["Metrics"]["auroc"]["Value"] < 0.7


def test_runs_of_a_participant_stay_together_and_exchange_tasks_among_themselves(world):
    world.fill(effect=0.0)
    cohort = world.cohort().cohort
    people = np.array(cohort.participants)
    for numbers in outer_folds(cohort, Design()).numbers:
        assert all(np.unique(numbers[people == one]).size == 1 for one in set(people))
    moved, level = draw_rearrangements(cohort, 50, seed=1)
    assert level == "within"
    assert (people[moved] == people).all()
    assert len(np.unique(cohort.target.values[moved], axis=0)) == 50


def test_tasks_are_within_people_even_where_people_mostly_do_one(world):
    for i, person in enumerate(PEOPLE):
        tasks = ["rest"] * 6 + ["nback"]
        for run, task in enumerate(tasks if i % 2 else [*tasks[5:], *["nback"] * 5], 1):
            world.embed(person, task, run=f"{run}")
    assert level_of(world.cohort().cohort) == "within"


def test_motion_of_each_run_is_a_confound(world):
    world.fill(effect=4.0)
    for path in world.out.rglob("*_embedding.tsv"):
        run = path.name.split("_space")[0]
        moved = 0.1 + 0.3 * ("nback" in run) + world.rng.uniform(0, 0.01)
        text = f"framewise_displacement\nn/a\n{moved}\n"
        path.with_name(f"{run}_desc-confounds_timeseries.tsv").write_text(text)
    world.predict("task")
    about = world.evaluation()
    assert about["Adjusted"]["Covariates"] == ["motion"]
    assert about["Verdicts"]["connectome"]["effect"] == "confounded"


def test_sources_are_compared_on_the_same_runs(world):
    world.fill(effect=4.0)
    world.fill(effect=1.0, label="toy")
    for path in world.out.rglob("sub-03_task-rest_run-2*desc-toy*"):
        path.unlink()
    world.predict("task")
    about = world.evaluation()
    assert about["Cohort"]["Rows"] == 4 * N - 1
    assert about["Cohort"]["LeftOut"] == {"labelled, no embedding of toy": 1}
    assert world.table("toy")[2]["predicted_task-rest_run-2"] == "n/a"


def test_rare_tasks_and_people_of_one_task_are_left_out_and_counted(world):
    world.fill(effect=4.0, people=PEOPLE[:12])
    for person in PEOPLE[:4]:
        world.embed(person, "motor")
    for person in PEOPLE[12:]:
        world.embed(person, "rest")
    world.predict("task")
    cohort = world.evaluation()["Cohort"]
    assert (cohort["Rows"], cohort["Participants"]) == (48, 12)
    assert cohort["LeftOut"] == {
        "of a task that fewer than 5 participants have beside another one": 4,
        "of a participant with one task only": 4,
    }


def test_sessions_and_runs_without_a_task_have_their_place(world):
    for person in PEOPLE:
        for session in ("a", "b"):
            world.embed(person, "rest", session=session)
            world.embed(person, "nback", session=session, effect=4.0)
    world.embed("01", None, run="9")
    world.predict("task")
    assert world.evaluation()["Cohort"]["LeftOut"] == {"embedded, label missing": 1}
    [row, *_] = world.table()
    assert row["predicted_ses-a_task-rest"] == "rest"
    one, *_ = read_outlooks(world.out, "01", [], [])
    assert one.where == "ses-a, task-nback"


def test_one_task_alone_is_refused_beside_a_target_that_is_not(world):
    for person in PEOPLE:
        world.embed(person, "rest")
    ages = "\n".join(f"sub-{p}\t{20.5 + i}" for i, p in enumerate(PEOPLE))
    (world.bids / "participants.tsv").write_text(f"participant_id\tage\n{ages}\n")
    outcome = world.predict("task", "age")
    assert code(outcome) == 65
    told = error_of(outcome)
    assert "tasks cannot be told apart: participants of each task: 'rest' has 16" in told.what
    assert "second task of the same participants" in told.fix
    assert (world.out / "phenotype" / "connectome_age.tsv").is_file()


def test_two_tasks_of_different_people_are_no_comparison(world):
    for i, person in enumerate(PEOPLE):
        world.embed(person, "rest" if i % 2 else "nback")
    what = error_of(world.predict("task")).what
    assert "'nback' has 8, 'rest' has 8; at least two tasks are" in what


def test_too_few_people_are_refused(world):
    world.fill(effect=4.0, people=PEOPLE[:7])
    outcome = world.predict("task")
    assert code(outcome) == 65
    assert "7 participants have runs of more than one task; an evaluation takes at least 8" in (
        error_of(outcome).what
    )


def test_the_source_that_lacks_a_task_is_named(world):
    world.fill(effect=4.0)
    for person in PEOPLE:
        world.embed(person, "rest", run="1", label="toy")
    what = error_of(world.predict("task")).what
    assert "sources are compared on the rows that all have" in what
    assert "connectome 64, toy 16" in what


def test_a_column_of_the_same_name_has_to_be_told_apart(world):
    world.fill(effect=4.0)
    scores = "\n".join(f"sub-{p}\t{20.5 + i}" for i, p in enumerate(PEOPLE))
    (world.bids / "participants.tsv").write_text(f"participant_id\ttask\n{scores}\n")
    outcome = world.predict("task")
    assert code(outcome) == 64
    told = error_of(outcome)
    assert "'task' is the task of the runs, and a column of" in told.what
    assert told.fix == "say which: runs:task or participants:task"
    assert code(world.predict("runs:task")) == 0
    assert world.evaluation()["Cohort"]["RowIs"] == "run"
    assert code(world.predict("participants:task")) == 0
    assert world.evaluation()["Cohort"]["RowIs"] == "participant"


@pytest.mark.parametrize("asked", ["task", "runs:task"])
def test_a_table_named_runs_with_a_column_task_is_refused(world, asked):
    """Both words would mean the task of the runs, and nothing the column."""
    world.fill(effect=4.0)
    (world.bids / "phenotype").mkdir()
    scores = "\n".join(f"sub-{p}\t{20.5 + i}" for i, p in enumerate(PEOPLE))
    (world.bids / "phenotype" / "runs.tsv").write_text(f"participant_id\ttask\n{scores}\n")
    outcome = world.predict(asked)
    assert code(outcome) == 64
    told = error_of(outcome, asked)
    assert "runs:task is the task of the runs, and the column 'task' of" in told.what
    assert "runs.tsv" in told.what
    assert told.fix == "rename the file, so that runs:task means one thing"
