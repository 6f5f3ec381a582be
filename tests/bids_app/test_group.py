"""The group level and the search in its index."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neurostorm_app.bids_app import tools
from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.derivatives import (
    derivative_path,
    embedding_table,
    read_embedding,
    write_text,
)
from neurostorm_app.bids_app.group import find_embeddings
from neurostorm_app.bids_app.query import choose_index, find_nearest
from neurostorm_app.errors import DataError, NoInputError, NothingSelectedError, UsageError

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


def write_vector(root, participant, run, desc, vector):
    entities = {"space": "MNI152NLin6Asym", "res": "2", "desc": desc}
    name = f"sub-{participant}_task-rest_run-{run}"
    path = derivative_path(
        root, name, "func", suffix="embedding", extension=".tsv", entities=entities
    )
    write_text(path, embedding_table(vector[np.newaxis]))
    return path


@pytest.fixture
def group(settings, fake, out):
    def run(**options):
        fake.calls.clear()
        return run_app(settings("group", **options), engines=fake.engines())

    return run


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


def test_the_index_says_that_it_identifies_people(group, out):
    group()
    about = json.loads((out / "retrieval" / "desc-toy_index.json").read_text())
    assert "Embeddings are personal data" in about["Privacy"]
    assert about["Shape"] == [6, 11]


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


def test_participants_can_be_selected(group):
    assert "4 runs of toy" in group(participant_label=["01", "02"]).summary()


def test_an_empty_output_folder_has_no_group(settings, fake):
    with pytest.raises(NothingSelectedError, match="holds no embedding of the participants"):
        run_app(settings("group"), engines=fake.engines())


def test_embeddings_of_different_lengths_are_not_mixed(group, out):
    write_vector(out, "03", "1", "toy", np.ones(7, dtype=np.float32))
    with pytest.raises(
        DataError, match=r"holds 7 numbers, .*: they are of different parcellations"
    ):
        group()


def test_windows_are_not_runs(out):
    assert {label: len(entries) for label, entries in find_embeddings(out).items()} == {
        "connectome": 6,
        "toy": 6,
    }


@pytest.mark.parametrize("label", ["connectome", "toy"])
def test_the_other_run_of_a_person_is_nearest(group, out, label):
    group()
    for participant in ("01", "02", "03"):
        like = f"sub-{participant}_task-rest_run-1"
        matches = find_nearest(out, like, 10, label=label)
        assert matches[0].run == f"sub-{participant}_task-rest_run-2"
        assert like not in [match.run for match in matches]
        assert len(matches) == 5


def test_connectome_is_asked_unless_another_is_named(group, out):
    group()
    assert choose_index(out) == "connectome"
    assert choose_index(out, "toy") == "toy"
    with pytest.raises(NoInputError, match="holds no index of 'neurostorm'"):
        choose_index(out, "neurostorm")


def test_without_an_index_the_group_level_is_named(out):
    with pytest.raises(NoInputError, match="holds no index") as caught:
        choose_index(out)
    assert "group level" in caught.value.fix


def test_a_run_that_is_not_in_the_index_suggests_the_near_one(group, out):
    group()
    with pytest.raises(
        NothingSelectedError, match=r"is not among the .* runs of the index of"
    ) as caught:
        find_nearest(out, "sub-01_task-rest_run-3", 3, label="toy")
    assert "sub-01_task-rest_run-1" in caught.value.fix


def test_a_table_that_lost_a_row_is_refused(group, out):
    group()
    table = out / "retrieval" / "desc-toy_embedding.tsv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"rows, .* and the index"):
        find_nearest(out, "sub-01_task-rest_run-1", 3, label="toy")


def test_query_prints_what_it_found(group, out, capsys):
    group()
    words = ["query", str(out), "--like", "sub-02_task-rest_run-2", "-k", "2"]
    assert tools.main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "nearest to sub-02_task-rest_run-2 by connectome:"
    assert shown[1].endswith("sub-02_task-rest_run-1")
    assert tools.main([*words, "--json", "--model", "toy"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "toy"
    assert found["matches"][0]["run"] == "sub-02_task-rest_run-1"


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
