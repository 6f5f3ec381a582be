"""The group level: what it writes, what it leaves alone, and what it refuses."""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from neurostorm_app.bids_app import tools
from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.derivatives import (
    derivative_path,
    embedding_table,
    read_embedding,
    write_text,
)
from neurostorm_app.bids_app.group import collect as group_collect
from neurostorm_app.bids_app.group import level as group_module
from neurostorm_app.bids_app.group import outputs as group_outputs
from neurostorm_app.bids_app.group.level import find_embeddings
from neurostorm_app.bids_app.group.lock import alone
from neurostorm_app.bids_app.group.prediction_paths import all_leftovers
from neurostorm_app.bids_app.progress.board import Board
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.errors import (
    ExitCode,
    NothingSelectedError,
    TemporaryError,
    UsageError,
)
from neurostorm_app.pipelines import retrieve
from neurostorm_app.pipelines.progress import Planned, listening
from neurostorm_app.pipelines.reidentify import Draws
from neurostorm_app.pipelines.retrieve import load_index, search

RUN = "sub-01_task-rest_run-1"


@pytest.fixture
def out(tmp_path, rng):
    """An output folder with embeddings of three people, two runs each, alike within people."""
    for label in ("connectome", "toy"):
        for participant in ("01", "02", "03"):
            person = rng.normal(size=11)
            for run in ("1", "2"):
                vector = (person + rng.normal(0, 0.1, 11)).astype(np.float32)
                write_vector(tmp_path / "out", participant, run, label, vector)
                write_vector(tmp_path / "out", participant, run, f"{label}Windows", vector)
    return tmp_path / "out"


def write_vector(root, participant, run, desc, vector, **said):
    entities = {"space": "MNI152NLin6Asym", "res": "2", "desc": desc}
    name = f"sub-{participant}_task-rest_run-{run}"
    path = derivative_path(
        root, name, "func", suffix="embedding", extension=".tsv", entities=entities
    )
    write_text(path, embedding_table(vector[np.newaxis]))
    sidecar = {
        "Demo": desc == "toy",
        "Model": {"WeightsSHA256": None if desc == "connectome" else "ab" * 32},
        "Contract": {"space": "MNI152NLin6Asym"},
        "Precision": "fp32",
        "EmbeddingDimension": len(vector),
        "Computation": {"atlas_sha256": "cd" * 32},
    }
    path.with_suffix(".json").write_text(json.dumps({**sidecar, **said}))
    return path


@pytest.fixture
def group(settings, fake, out, monkeypatch):
    """Call the group level; people are told apart by few draws."""
    few = Draws(n_trials=2, n_bootstraps=20, n_permutations=20)
    monkeypatch.setattr(group_module, "choose_draws", lambda *_, **__: few)

    def run(**options):
        fake.calls.clear()
        return run_app(settings("group", **options), engines=fake.engines())

    return run


@pytest.fixture
def reads(monkeypatch):
    """List the runs whose table is opened and parsed."""
    seen = []
    real = group_collect.read_run

    def counted(entry):
        seen.append((entry.label, entry.run))
        return real(entry)

    monkeypatch.setattr(group_collect, "read_run", counted)
    return seen


def contents(out):
    """All files of the folder but the log."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted((out / "retrieval").rglob("*"))
        if path.is_file()
    }


def test_all_runs_of_a_model_stand_in_one_table(group, out):
    result = group()
    assert {p.name for p in result.paths} == {
        "desc-connectome_index.faiss",
        "desc-toy_index.faiss",
        "group.html",
    }
    table = out / "retrieval" / "desc-connectome_embedding.tsv"
    assert read_embedding(table).shape == (6, 11)
    assert table.read_text().startswith("participant_id\trun\tsource\tdim000\t")
    rows = (out / "retrieval" / "desc-connectome_index.tsv").read_text().splitlines()
    assert rows[1].split("\t")[:4] == [
        "0",
        f"bids::sub-01/func/{RUN}_space-MNI152NLin6Asym_res-2_desc-connectome_embedding.tsv",
        "sub-01",
        RUN,
    ]


def test_how_well_people_are_told_apart_stands_beside_the_index(group, out):
    group()
    for label in ("connectome", "toy"):
        path = out / "retrieval" / f"desc-{label}_reidentification.json"
        said = json.loads(path.read_text())
        assert said["Reidentification"]["Galleries"][0]["Rank1"]["value"] == 1
        assert said["Demo"] == (label == "toy")
    assert said["Connectome"]["Runs"] == 6


def test_one_participant_alone_is_a_reason_and_no_failure(group, out):
    assert group(participant_label=["02"]).exit_code == ExitCode.SUCCESS
    said = json.loads((out / "retrieval" / "desc-toy_reidentification.json").read_text())
    assert said["Reidentification"]["reason"].startswith("1 of 1 participants have two runs")


def test_the_index_says_that_it_identifies_people(group, out):
    group()
    about = json.loads((out / "retrieval" / "desc-toy_index.json").read_text())
    assert "Embeddings are personal data" in about["Privacy"]
    assert about["Shape"] == [6, 11]
    sidecar = json.loads((out / "retrieval" / "desc-toy_embedding.json").read_text())
    assert "Embeddings are personal data" in sidecar["Privacy"]


def test_a_second_group_call_does_nothing_and_says_so(group, fake):
    group()
    result = group()
    assert result.summary().startswith("nothing to do: 6 runs of connectome, 6 runs of toy")
    assert not fake.calls


def test_a_new_embedding_brings_back_its_index_alone(group, out, rng):
    group()
    before = (out / "retrieval" / "desc-toy_index.faiss").stat().st_mtime_ns
    vector = rng.normal(size=11).astype(np.float32)
    write_vector(out, "04", "1", "connectome", vector)
    assert "7 runs of connectome" in group().summary()
    assert (out / "retrieval" / "desc-toy_index.faiss").stat().st_mtime_ns == before


def test_the_page_follows_what_is_left_from_earlier_evaluations(group, fake, out):
    """The page names it; when it is gone, the page is drawn again and says so no longer."""
    left = out / "phenotype" / "toy_old.tsv"
    written = {"key": "ab", "kind": "prediction", "outputs": {}}
    for path, content in (
        (out / "prediction" / "target-old_evaluation.json", {}),
        (out / "prov" / "target-old_evaluation.json", written),
        (left.with_suffix(".json"), {"NotForDiagnosis": True}),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    left.write_text("participant_id\tx\n")
    assert all_leftovers(Ledger(out))["old"].endswith("not of this one: phenotype/toy_old.tsv")
    assert group().written
    assert not group().written
    left.unlink()
    assert group().written
    assert fake.calls["group page"] == 1
    assert all_leftovers(Ledger(out)) == {}


def test_participants_can_be_selected(group):
    told = group(participant_label=["01", "02"]).summary()
    assert "4 runs of toy" in told
    assert "of 3 participants in the folder, 1 are not in the table and the index of toy" in told
    assert "are not in the table" not in group().summary()


def test_the_table_of_a_model_that_is_gone_is_said_to_be_of_an_earlier_call(group, out):
    assert "of an earlier call" not in group().summary()
    for entry in find_embeddings(out)["toy"]:
        entry.path.unlink()
    told = group().summary()
    assert "the table and the index of toy are of an earlier call" in told
    assert "index of connectome are" not in told


def test_a_run_that_came_while_another_call_was_waited_for_is_collected(
    group, out, rng, monkeypatch
):
    """The lock may take minutes: what was seen before it is no longer all."""
    real = group_module.alone

    @contextlib.contextmanager
    def late(root):
        with real(root):
            write_vector(out, "04", "1", "toy", rng.normal(size=11).astype(np.float32))
            yield

    monkeypatch.setattr(group_module, "alone", late)
    assert "7 runs of toy" in group().summary()


def test_the_dataset_of_the_runs_stays_named_when_it_is_gone(group, out):
    group()
    path = out / "dataset_description.json"
    about = json.loads(path.read_text())
    about["DatasetLinks"]["raw"] = "../gone"
    path.write_text(json.dumps(about))
    group()
    assert json.loads(path.read_text())["DatasetLinks"]["raw"] == "../gone"


def test_an_empty_output_folder_has_no_group(settings, fake):
    with pytest.raises(NothingSelectedError, match="holds no embedding of the participants"):
        run_app(settings("group"), engines=fake.engines())


def test_embeddings_of_different_lengths_are_not_mixed(group, out):
    write_vector(out, "03", "1", "toy", np.ones(7, dtype=np.float32))
    result = group()
    assert result.exit_code == ExitCode.DATA
    assert "EmbeddingDimension 7" in result.summary()


def test_a_model_with_mixed_weights_is_refused_and_its_old_files_stay(group, out, rng):
    group()
    before = contents(out)
    vector = rng.normal(size=11).astype(np.float32)
    model = {"WeightsSHA256": "ef" * 32}
    mixed = write_vector(out, "04", "1", "toy", vector, Model=model)
    write_vector(out, "04", "1", "connectome", vector)
    result = group()
    after = contents(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed
    assert all("connectome" in name for name in changed)
    assert result.exit_code == ExitCode.DATA
    (failed,) = result.runs
    assert failed.name == "toy"
    told = result.summary()
    assert "7 runs of connectome" in told
    assert f"1 such as {mixed} (WeightsSHA256 efefefefefefefef…)" in told
    assert "what to do: embed all runs of the model with the same weights" in told
    mixed.unlink()
    assert group().exit_code == ExitCode.SUCCESS


def test_a_damaged_run_is_left_out_and_the_others_are_collected(group, out):
    path = find_embeddings(out)["toy"][3].path
    path.write_text(path.read_text()[:-2])
    path.with_name("sub-02_notes_embedding.tsv").write_text("")
    result = group()
    assert result.exit_code == ExitCode.DATA
    assert [run.name for run in result.runs] == ["sub-02_notes_embedding.tsv", path.name[:22]]
    told = result.summary()
    assert "6 runs of connectome, 5 runs of toy" in told
    assert "holds 0 whole rows below its header" in told
    about = json.loads((out / "retrieval" / "desc-toy_embedding.json").read_text())
    assert about["LeftOut"] == ["sub-02_task-rest_run-2"]
    assert about["Shape"] == [5, 11]


def test_a_model_without_a_good_run_leaves_the_others(group, out):
    for entry in find_embeddings(out)["toy"]:
        entry.sidecar.unlink()
    result = group()
    assert result.exit_code == ExitCode.DATA
    assert "none of the 6 runs of toy can be used" in result.summary()
    assert (out / "retrieval" / "desc-connectome_index.faiss").is_file()
    assert not (out / "retrieval" / "desc-toy_index.faiss").exists()


def test_a_new_participant_does_not_redo_the_others(group, out, rng, reads):
    group()
    reads.clear()
    write_vector(out, "04", "1", "toy", rng.normal(size=11).astype(np.float32))
    group()
    assert reads == [("toy", "sub-04_task-rest_run-1")]
    grown = contents(out)
    for path in (out / "retrieval").rglob("desc-*"):
        path.unlink()
    group()
    assert contents(out) == grown


def test_a_touched_file_leaves_the_index_alone(group, out):
    group()
    index = out / "retrieval" / "desc-toy_index.faiss"
    before = index.stat().st_mtime_ns
    entry = find_embeddings(out)["toy"][0]
    entry.path.touch()
    group()
    assert index.stat().st_mtime_ns == before
    stamps = pq.read_table(out / "retrieval" / "desc-toy_embedding.parquet")["mtime_ns"]
    assert stamps[0].as_py() == entry.path.stat().st_mtime_ns
    assert group().summary().startswith("nothing to do")


def read_index(out, label):
    return json.loads((out / "retrieval" / f"desc-{label}_index.json").read_text())


def test_the_kind_of_index_that_is_asked_for_is_built_and_recorded(group, out):
    group(index_kind="hnsw")
    said = read_index(out, "toy")["Index"]
    assert (said["Asked"], said["Kind"]) == ("hnsw", "hnsw")
    assert load_index(out / "retrieval" / "desc-toy_index.faiss").kind == "hnsw"
    assert said["Recall"]["Value"] > 0.9
    assert not group(index_kind="hnsw").written
    assert group().written  # nothing was asked for: the one that fits
    assert read_index(out, "toy")["Index"] == {
        "Asked": "auto",
        "Kind": "exact",
        "Parameters": {},
        "Recall": None,
    }


def test_codes_of_too_few_runs_are_refused_by_model(group):
    result = group(index_kind="pq")
    assert result.exit_code == ExitCode.DATA
    assert "6 rows are too few to learn codes from" in result.runs[0].errors[0].what


def test_a_model_without_an_index_keeps_all_else(group, out):
    result = group(index_kind="pq", target=["age"], no_controls=True)
    told = {run.name: [error.what for error in run.errors] for run in result.runs}
    assert list(told) == ["connectome", "toy", "target age"]
    assert all("6 rows are too few" in told[label][0] for label in ("connectome", "toy"))
    assert "no embedding can be used" not in told["target age"][0]
    for label in ("connectome", "toy"):
        stem = out / "retrieval" / f"desc-{label}"
        assert read_embedding(stem.with_name(f"{stem.name}_embedding.tsv")).shape == (6, 11)
        assert stem.with_name(f"{stem.name}_reidentification.json").is_file()
        assert not stem.with_name(f"{stem.name}_index.faiss").exists()
    assert result.lines[0].startswith("indexed nothing in ")
    assert [path.name for path in result.paths] == ["group.html"]


def test_an_index_that_can_no_longer_be_built_is_said_to_be_of_an_earlier_call(group, out):
    group()
    lines = group(index_kind="pq").lines
    assert not any("no run was collected now" in line for line in lines)
    assert any(line.startswith("the index of toy is of an earlier call: none") for line in lines)
    assert (out / "retrieval" / "desc-toy_index.faiss").is_file()


def test_an_index_gets_what_the_vectors_leave_of_the_memory(group, monkeypatch):
    rooms = []
    real = retrieve.build_index
    monkeypatch.setattr(
        retrieve, "build_index", lambda *a, **k: rooms.append(k["memory"]) or real(*a, **k)
    )
    group(mem="8G")
    own = 6 * 11 * 4  # bytes of the vectors of one model
    assert rooms == [8 * 2**30 - own, 8 * 2**30 - 2 * own]


def test_a_long_table_is_not_written_as_text_and_says_so(group, out, monkeypatch):
    group()
    text = out / "retrieval" / "desc-toy_embedding.tsv"
    assert text.is_file()
    monkeypatch.setattr(group_outputs, "TEXT_ROWS", 5)
    group()
    assert not text.exists()
    about = json.loads(text.with_suffix(".json").read_text())
    assert "6 runs are more than 5" in about["Text"]
    assert pq.read_metadata(text.with_suffix(".parquet")).num_rows == 6
    assert group().summary().startswith("nothing to do")


def test_the_stages_of_a_call_are_told_and_logged(group, tmp_path):
    heard = []
    board = Board()
    with listening(lambda event: (heard.append(event), board(event))):
        group(target=["age"], no_controls=True)
    assert heard[0] == Planned(
        names=("connectome", "toy", "target age", "group page"), memory=0, unit="steps"
    )
    told = {(e.name, e.stage): e.state for e in heard[1:]}
    for label in ("connectome", "toy"):
        for what in ("collect runs", "build index", "recognise people"):
            assert told[label, what] == "ended"
        assert told[label, "done"] == "closed"
    assert told["target age", "failed"] == "closed"  # nobody has an age here
    assert told["group page", "done"] == "closed"
    now = board.snapshot()
    assert (now.done, now.failed, now.total, now.lines) == (3, 1, 4, ())
    assert board.kept() == "3 of 4 steps are finished"
    logged = "".join(path.read_text() for path in (tmp_path / "out" / "logs").glob("*.log"))
    for line in ("toy: build index in ", "toy: recognise people in ", "group page: draw in "):
        assert line in logged


def test_steps_that_were_done_before_are_told_as_such(group):
    group()
    heard = []
    with listening(heard.append):
        group()
    closed = {e.name: e.stage for e in heard[1:] if e.state == "closed"}
    assert closed == {"connectome": "reused", "toy": "reused", "group page": "reused"}


def test_demo_weights_are_named_in_what_is_written(group, out):
    group()
    for name in ("embedding", "index"):
        toy = json.loads((out / "retrieval" / f"desc-toy_{name}.json").read_text())
        real = json.loads((out / "retrieval" / f"desc-connectome_{name}.json").read_text())
        assert toy["Demo"]
        assert toy["Description"].startswith("DEMO WEIGHTS, NOT FOR SCIENCE")
        assert not real["Demo"]
        assert real["Description"] == "All runs embedded by connectome."
        assert toy["Fingerprint"]["WeightsSHA256"] == "ab" * 32


def test_jobs_collect_parts_and_a_plain_call_joins_them(group, out, reads):
    group()
    whole = contents(out)
    for path in (out / "retrieval").rglob("desc-*"):
        path.unlink()
    (out / "group.html").unlink()
    reads.clear()
    for i in (1, 2, 3):
        result = group(shard=f"{i}/3")
        assert result.summary().startswith(f"part {i} of 3: ")
        assert {path.parent.name for path in result.paths} <= {"shards"}
    assert len(reads) == 12
    names = {path.name for path in (out / "retrieval").rglob("desc-*")}
    assert all(name.endswith("of3.parquet") for name in names)
    assert not (out / "group.html").exists()
    reads.clear()
    group()
    assert reads == []
    joined = contents(out)
    assert {name: joined[name] for name in whole} == whole


def test_a_part_is_not_read_twice(group, out, reads):
    for i in (1, 2, 3):
        group(shard=f"{i}/3")
    reads.clear()
    for i in (1, 2, 3):
        group(shard=f"{i}/3")
    assert reads == []


def test_a_part_without_participants_is_no_failure(group, out):
    results = [group(shard=f"{i}/40") for i in range(1, 41)]
    told = [result.summary() for result in results]
    assert sum("no run is in it" in text for text in told) >= 37
    assert {result.exit_code for result in results} == {ExitCode.SUCCESS}


def test_people_whose_scans_are_gone_still_count(group, out, dataset):
    assert not (dataset.root / "sub-03").exists()
    assert "6 runs of toy" in group().summary()


def test_what_the_participant_level_writes_can_be_collected(settings, fake, tmp_path):
    run_app(settings(models=["connectome", "toy"]), engines=fake.engines())
    result = run_app(settings("group"), engines=fake.engines())
    assert result.exit_code == ExitCode.SUCCESS
    assert "4 runs of connectome, 4 runs of toy" in result.summary()
    about = json.loads((tmp_path / "out/retrieval/desc-toy_embedding.json").read_text())
    assert about["Fingerprint"]["Space"] == "MNI152NLin6Asym"
    assert about["Demo"]


def test_a_second_call_waits_for_the_first(tmp_path):
    entered = []
    with alone(tmp_path):
        waiting = threading.Thread(target=lambda: _enter(tmp_path, entered))
        waiting.start()
        waiting.join(0.1)
        assert entered == []
        with pytest.raises(TemporaryError, match="another group call is at work"):
            _enter(tmp_path, entered, patience=0)
    waiting.join()
    assert entered == [True]


def _enter(root, entered, **options):
    with alone(root, **options):
        entered.append(True)


def test_a_disk_without_locks_is_no_obstacle(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone(tmp_path):
        pass
    assert "cannot be locked" in caplog.text


CALLER = """
import sys, time
from pathlib import Path
from neurostorm_app.bids_app.engines import Engines
from neurostorm_app.bids_app.group.level import run_group
from neurostorm_app.bids_app.settings import build_settings

def page(root):
    (root / "group.html").write_text("x")
    return root / "group.html"

engines = Engines(preprocess=None, find_model=None, load_model=None, write_subject_page=None,
                  write_group_page=page)
options = {} if len(sys.argv) < 4 else {"participant_label": [sys.argv[3]]}
result = run_group(build_settings(sys.argv[1], sys.argv[2], "group", options), engines, 0.0)
sys.exit(int(result.exit_code))
"""


def test_calls_at_the_same_time_leave_one_whole_result(out, dataset):
    """Three processes with two views of the folder: table, rows and index are of one of them."""
    words = [sys.executable, "-c", CALLER, str(dataset.root), str(out)]
    calls = [subprocess.Popen([*words, *more]) for more in ([], ["01"], [])]
    assert [call.wait(500) for call in calls] == [0, 0, 0]
    for label in ("connectome", "toy"):
        folder = out / "retrieval"
        table = pq.read_table(folder / f"desc-{label}_embedding.parquet")
        rows = (folder / f"desc-{label}_index.tsv").read_text().splitlines()[1:]
        index = load_index(folder / f"desc-{label}_index.faiss")
        assert table.num_rows == len(rows) == index.n_rows
        assert table.num_rows in (2, 6)
        assert [row.split("\t")[1] for row in rows] == table["source"].to_pylist()
        vectors = read_embedding(folder / f"desc-{label}_embedding.tsv")
        assert [int(search(index, vector, 1)[0][0]) for vector in vectors] == [*range(len(rows))]
    assert not list((out / "retrieval").glob(".*.part"))
    assert not list((out / "retrieval").glob(".writing-*"))


def test_windows_are_not_runs(out):
    assert {label: len(entries) for label, entries in find_embeddings(out).items()} == {
        "connectome": 6,
        "toy": 6,
    }


def test_tools_list_all_models(capsys):
    assert tools.main(["weights", "list"]) == 0
    assert "connectome: Functional connectivity" in capsys.readouterr().out
    assert tools.main(["weights", "list", "--json"]) == 0
    assert "connectome" in [card["name"] for card in json.loads(capsys.readouterr().out)]


def test_tools_say_which_model_is_not_there(capsys):
    assert tools.main(["weights", "verify", "conectome"]) == 64
    assert "did you mean connectome" in capsys.readouterr().err
    with pytest.raises(UsageError, match="weights verify: which model"):
        tools.main_inner(["weights", "verify"])


def test_weights_that_are_not_here_are_no_input(capsys):
    assert tools.main(["weights", "verify", "neurostorm"]) == 66


def test_an_unknown_verb_suggests_the_near_one(capsys):
    assert tools.main(["quary"]) == 64
    assert "did you mean query" in capsys.readouterr().err


def test_tools_make_a_tiny_phantom(tmp_path, capsys):
    words = ["phantom", str(tmp_path / "bids"), "--participants", "1", "--runs", "1"]
    assert tools.main([*words, "--scale", "tiny", "--volumes", "4"]) == 0
    assert (tmp_path / "bids" / "dataset_description.json").is_file()
    assert "truth: " in capsys.readouterr().out
