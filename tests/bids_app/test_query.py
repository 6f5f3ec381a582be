"""Nearest runs: by name and by file, as a table and as JSON, and what is refused."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest

from neurostorm_app.bids_app.derivatives import derivative_path, embedding_table, write_text
from neurostorm_app.bids_app.group import outputs as group_outputs
from neurostorm_app.bids_app.group.collect import collect
from neurostorm_app.bids_app.group.outputs import write_index, write_tables
from neurostorm_app.bids_app.group.query import choose_index, find_nearest, label_of, read_about
from neurostorm_app.bids_app.group.rows import find_embeddings
from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.verbs.query import add_query, call_query
from neurostorm_app.errors import (
    DataError,
    ExitCode,
    NoInputError,
    NothingSelectedError,
    UsageError,
)

RUN = "sub-01_task-rest_run-1"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two models of three people, two runs each, alike within people; tables and indices."""
    rng, root = np.random.default_rng(20250611), tmp_path_factory.mktemp("built") / "out"
    for label in ("connectome", "toy"):
        for participant in ("01", "02", "03"):
            person = rng.normal(size=11)
            for run in ("1", "2"):
                vector = (person + rng.normal(0, 0.1, 11)).astype(np.float32)
                write_vector(root, participant, run, label, vector)
    for label, entries in find_embeddings(root).items():
        collected = collect(label, entries, (), root=root)
        assert write_tables(collected, Ledger(root))
        assert write_index(collected, Ledger(root))
    return root


@pytest.fixture
def out(built, tmp_path):
    return shutil.copytree(built, tmp_path / "out")


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


@pytest.mark.parametrize("label", ["connectome", "toy"])
def test_the_other_run_of_a_person_is_nearest(out, label):
    for participant in ("01", "02", "03"):
        like = f"sub-{participant}_task-rest_run-1"
        matches = find_nearest(out, like, 10, label=label)
        assert matches[0].run == f"sub-{participant}_task-rest_run-2"
        assert like not in [match.run for match in matches]
        assert len(matches) == 5


def test_connectome_is_asked_unless_another_is_named(out):
    assert choose_index(out) == "connectome"
    assert choose_index(out, "toy") == "toy"
    with pytest.raises(NoInputError, match="holds no index of 'neurostorm'"):
        choose_index(out, "neurostorm")


def test_without_an_index_the_group_level_is_named(out):
    shutil.rmtree(out / "retrieval")
    with pytest.raises(NoInputError, match="holds no index") as caught:
        choose_index(out)
    assert "group level" in caught.value.fix


def test_a_run_that_is_not_in_the_index_suggests_the_near_one(out):
    with pytest.raises(
        NothingSelectedError, match=r"is not among the .* runs of the index of"
    ) as caught:
        find_nearest(out, "sub-01_task-rest_run-3", 3, label="toy")
    assert "sub-01_task-rest_run-1" in caught.value.fix


def path_of(out, label="toy", row=0):
    return find_embeddings(out)[label][row].path


def copied(path, folder, name=None):
    """Copy an embedding and its sidecar into another output folder."""
    target = folder / "sub-01" / "func" / (name or path.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
    shutil.copy(path.with_suffix(".json"), target.with_suffix(".json"))
    return target


def test_a_file_of_the_index_is_not_its_own_match(out):
    by_file = find_nearest(out, str(path_of(out)), 10, label="toy")
    assert by_file == find_nearest(out, RUN, 10, label="toy")
    assert len(by_file) == 5


def test_a_copy_elsewhere_is_not_its_own_match_either(out, tmp_path):
    other = copied(path_of(out), tmp_path / "elsewhere")
    matches = find_nearest(out, str(other), 10, label="toy")
    assert matches[0].run == "sub-01_task-rest_run-2"
    assert RUN not in [match.run for match in matches]


def test_a_run_of_the_same_name_in_another_dataset_may_match(out, tmp_path, rng):
    other = copied(path_of(out), tmp_path / "elsewhere")
    vector = rng.normal(size=11).astype(np.float32)
    other.write_text(embedding_table(vector[np.newaxis]))
    assert len(find_nearest(out, str(other), 10, label="toy")) == 6


def test_a_file_that_was_written_again_asks_with_its_new_vector(out):
    third = path_of(out, row=4)
    path_of(out).write_text(third.read_text())
    matches = find_nearest(out, str(path_of(out)), 1, label="toy")
    assert matches[0].run == "sub-03_task-rest_run-2"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"Precision": "bf16"}, "Precision bf16, the other Precision fp32"),
        ({"Model": {"WeightsSHA256": "ef" * 32}}, "WeightsSHA256 efefefef"),
    ],
)
def test_a_file_that_was_made_in_another_way_is_refused(out, tmp_path, change, told):
    other = copied(path_of(out), tmp_path / "elsewhere")
    sidecar = other.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | change))
    with pytest.raises(DataError, match="was not made like the runs of the index of toy") as caught:
        find_nearest(out, str(other), 3, label="toy")
    assert told in caught.value.what


def test_a_contract_of_an_earlier_version_is_compared_by_what_it_meant(out, tmp_path):
    """Its sidecar lacks what was added to contracts with a default since."""
    other = copied(path_of(out), tmp_path / "elsewhere")
    sidecar = other.with_suffix(".json")
    content = json.loads(sidecar.read_text())
    early = {"kind": "parcels", "space": "MNI", "atlas": "a"}
    late = {**early, "time_positions": "centres"}
    path = out / "retrieval" / "desc-toy_index.json"
    about = json.loads(path.read_text())
    about["Fingerprint"]["Contract"] = late
    path.write_text(json.dumps(about))
    sidecar.write_text(json.dumps(content | {"Contract": early}))
    assert find_nearest(out, str(other), 3, label="toy")
    sidecar.write_text(json.dumps(content | {"Contract": early | {"time_positions": "ends"}}))
    told = "Contract.time_positions ends, the other Contract.time_positions centres"
    with pytest.raises(DataError, match=told):
        find_nearest(out, str(other), 3, label="toy")


def test_a_file_of_another_length_is_refused(out, tmp_path):
    vector = np.ones(7, dtype=np.float32)
    other = write_vector(tmp_path / "elsewhere", "09", "1", "toy", vector)
    with pytest.raises(DataError, match="EmbeddingDimension 7, the other EmbeddingDimension 11"):
        find_nearest(out, str(other), 3, label="toy")


def test_a_file_that_is_not_there_or_damaged_is_named(out, tmp_path):
    with pytest.raises(NoInputError, match="there is no such embedding"):
        find_nearest(out, str(tmp_path / "sub-01_desc-toy_embedding.tsv"), 3, label="toy")
    other = copied(path_of(out), tmp_path / "elsewhere")
    other.write_text("")
    with pytest.raises(DataError, match="is empty; the embedding of a run is one"):
        find_nearest(out, str(other), 3, label="toy")
    with pytest.raises(DataError, match="the name lacks sub- or desc-"):
        label_of("retrieval/desc-toy_embedding.tsv")


def test_windows_are_no_run(out):
    windows = path_of(out).name.replace("desc-toy", "desc-toyWindows")
    copied(path_of(out), out, windows)
    path = out / "sub-01" / "func" / windows
    with pytest.raises(DataError, match="holds the windows of a run") as caught:
        find_nearest(out, str(path), 3, label="toy")
    assert path_of(out).name in caught.value.fix
    assert label_of(str(path)) == "toy"  # the index of that model says it, none is looked for


def test_an_index_of_an_earlier_version_takes_names_and_no_files(out):
    folder = out / "retrieval"
    (folder / "desc-toy_embedding.parquet").unlink()
    path = folder / "desc-toy_index.json"
    about = json.loads(path.read_text())
    del about["Fingerprint"], about["Index"]
    path.write_text(json.dumps(about))
    assert find_nearest(out, RUN, 1, label="toy")[0].run == "sub-01_task-rest_run-2"
    assert read_about(out, "toy")["Index"]["Kind"] == "exact"
    with pytest.raises(DataError, match="an earlier version wrote it"):
        find_nearest(out, str(path_of(out)), 1, label="toy")


def test_less_than_one_run_is_not_asked_for(out):
    with pytest.raises(UsageError, match="-k 0: at least one run"):
        find_nearest(out, RUN, 0, label="toy")


def forget_rows(out):
    """Make the index of toy one of an earlier version, which did not know its file of rows."""
    path = out / "retrieval" / "desc-toy_index.json"
    about = json.loads(path.read_text())
    del about["RowsSHA256"]
    path.write_text(json.dumps(about))


def test_rows_of_another_call_are_refused(out):
    rows = out / "retrieval" / "desc-toy_index.tsv"
    header, first, second, *others = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join([header, second, first, *others]))  # as many, of other runs
    told = r"index.tsv is not the file of rows that was written with the index"
    with pytest.raises(DataError, match=told) as caught:
        find_nearest(out, str(path_of(out)), 3, label="toy")
    assert "run the group level again" in caught.value.fix


def test_an_index_that_does_not_know_its_rows_is_read(out):
    matches = find_nearest(out, RUN, 3, label="toy")
    forget_rows(out)
    assert find_nearest(out, RUN, 3, label="toy") == matches


def test_an_index_that_is_being_replaced_is_not_asked(out, monkeypatch):
    """A call that dies between index and rows leaves a new index beside old rows."""
    vector = np.arange(1, 12, dtype=np.float32)
    write_vector(out, "03", "2", "toy", vector)
    collected = collect("toy", find_embeddings(out)["toy"], (), root=out)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(group_outputs, "write_text", die)
        with pytest.raises(KeyboardInterrupt):
            write_index(collected, Ledger(out))
    with pytest.raises(DataError, match=r"do not belong together: .*index.json is not there"):
        find_nearest(out, RUN, 3, label="toy")
    assert write_index(collected, Ledger(out))
    assert len(find_nearest(out, str(path_of(out)), 9, label="toy")) == 5


def test_files_that_do_not_belong_together_are_refused(out, rng):
    forget_rows(out)
    folder = out / "retrieval"
    rows = folder / "desc-toy_index.tsv"
    before = rows.read_text()
    rows.write_text("".join(before.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"table and index do not belong together: .* has 5 rows"):
        find_nearest(out, RUN, 3, label="toy")
    header, first, second, *others = before.splitlines(keepends=True)
    rows.write_text("".join([header, second, first, *others]))
    with pytest.raises(DataError, match="has other rows than"):
        find_nearest(out, RUN, 3, label="toy")
    rows.unlink()
    with pytest.raises(DataError, match=r"do not belong together: .* is not there"):
        find_nearest(out, RUN, 3, label="toy")


@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_a_table_that_lost_its_rows_is_refused(out, damage):
    folder = out / "retrieval"
    table = folder / "desc-toy_embedding.parquet"
    if damage == "cut":
        table.write_bytes(table.read_bytes()[:-9])
        with pytest.raises(DataError, match="has other rows than"):
            find_nearest(out, RUN, 3, label="toy")
    else:
        table.unlink()
        text = table.with_suffix(".tsv")
        text.write_text("".join(text.read_text().splitlines(keepends=True)[:-1]))
        with pytest.raises(DataError, match="has 5 rows, and the index 6"):
            find_nearest(out, RUN, 3, label="toy")


@pytest.mark.parametrize("like", ["sub-01", "3", "participant_id"])
def test_a_participant_or_a_row_number_is_not_the_name_of_a_run(out, like):
    with pytest.raises(NothingSelectedError, match="is not among the 6 runs"):
        find_nearest(out, like, 3, label="toy")


def test_a_damaged_row_or_sidecar_of_the_index_is_named(out, query):
    forget_rows(out)
    rows = out / "retrieval" / "desc-toy_index.tsv"
    rows.write_text(rows.read_text().replace(f"\t{RUN}\t", f"\t{RUN}\tmore\t"))
    with pytest.raises(DataError, match=r"row 0 of .* has 6 cells, not 5"):
        find_nearest(out, RUN, 3, label="toy")
    about = out / "retrieval" / "desc-connectome_index.json"
    about.write_text(about.read_text()[:-20])
    assert query(out, "--like", RUN)[1] == ExitCode.DATA
    about.unlink()
    with pytest.raises(DataError, match=r"do not belong together: .* is not there"):
        read_about(out, "connectome")


@pytest.fixture
def query(capsys):
    """Ask as the command does; the answer, and the exit code."""

    def ask(*words):
        parser = argparse.ArgumentParser()
        add_query(parser)

        def call(argv):
            call_query(parser.parse_args(argv))
            return ExitCode.SUCCESS

        code = guarded("query", call, [*map(str, words)])
        return capsys.readouterr().out, code

    return ask


def test_what_was_found_is_printed_in_columns(out, query):
    shown, code = query(out, "--like", "sub-02_task-rest_run-2", "-k", 2)
    assert code == 0
    first, second, third = shown.splitlines()
    assert first == "nearest to sub-02_task-rest_run-2 by connectome:"
    rank, similarity, participant, run = second.split()
    assert (rank, participant, run) == ("1", "sub-02", "sub-02_task-rest_run-1")
    assert 0.8 < float(similarity) < 1
    assert third.startswith("  2  ")


def test_json_says_all_that_is_known_of_a_match(out, query):
    shown, code = query(out, "--like", "sub-02_task-rest_run-2", "--model", "toy", "--json")
    assert code == 0
    answer = json.loads(shown)
    assert answer["like"] == "sub-02_task-rest_run-2"
    assert answer["model"] == "toy"
    assert answer["demo"] is True
    assert answer["index"] == {"kind": "exact", "recall": None}
    assert len(answer["matches"]) == 5
    best = answer["matches"][0]
    assert best["run"] == "sub-02_task-rest_run-1"
    assert best["participant"] == "sub-02"
    assert best["source"].startswith("bids::sub-02/func/sub-02_task-rest_run-1_space-")
    assert 0.8 < best["similarity"] <= 1


def test_a_file_is_asked_of_the_index_of_its_own_model(out, query):
    shown, code = query(out, "--like", path_of(out, "toy"), "-k", 1)
    assert code == 0
    description, heading, match = shown.splitlines()
    assert description.startswith("DEMO WEIGHTS, NOT FOR SCIENCE")
    assert heading.endswith("by toy:")
    assert match.endswith("sub-01_task-rest_run-2")
    _, code = query(out, "--like", path_of(out, "toy"), "--model", "connectome")
    assert code == ExitCode.DATA


def test_an_approximate_index_says_what_it_misses(out, query):
    path = out / "retrieval" / "desc-connectome_index.json"
    recall = {"Value": 0.971, "Nearest": 10, "Queries": 1000, "Target": 0.95}
    index = {"Kind": "ivf", "Parameters": {"nprobe": 8}, "Recall": recall}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Index": index}))
    shown, _ = query(out, "--like", RUN)
    said = "the index is approximate (ivf): of the 10 nearest runs it finds 97.1%"
    assert shown.splitlines()[0] == said
    answer = json.loads(query(out, "--like", RUN, "--json")[0])
    assert answer["index"] == {"kind": "ivf", "recall": recall}
