"""One table of all runs: what is taken from earlier calls, what is read, and what is refused."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from neurostorm_app.bids_app.derivatives import embedding_table, write_text
from neurostorm_app.bids_app.group import collect as group_collect
from neurostorm_app.bids_app.group.collect import collect, in_part
from neurostorm_app.bids_app.group.fingerprint import describe_differences
from neurostorm_app.bids_app.group.rows import find_embeddings, survey
from neurostorm_app.bids_app.group.store import ROW_GROUP, read_table, write_table
from neurostorm_app.errors import DataError, ExitCode

D = 7
SAID = {
    "Demo": False,
    "Model": {"WeightsSHA256": "ab" * 32},
    "Contract": {"space": "MNI152NLin6Asym", "tr": 0.8, "window": 20},
    "Precision": "fp32",
    "EmbeddingDimension": D,
    "Computation": {"atlas_sha256": None, "clip_policy": "dense"},
}


def write_run(root, name, vector, *, space="MNI152NLin6Asym_res-2", **said):
    folder = root / name.split("_")[0]
    if "_ses-" in name:
        folder /= name.split("_")[1]
    path = folder / "func" / f"{name}_space-{space}_desc-toy_embedding.tsv"
    write_text(path, embedding_table(np.asarray(vector, np.float32)[np.newaxis]))
    path.with_suffix(".json").write_text(json.dumps({**SAID, **said}))
    return path


@pytest.fixture
def out(tmp_path, rng):
    """Three people with two runs each; the last one's are of two sessions."""
    names = [f"sub-{p}_task-rest_run-{r}" for p in ("01", "02") for r in (1, 2)]
    names += [f"sub-03_ses-{s}_task-rest" for s in ("a", "b")]
    for name in names:
        write_run(tmp_path / "out", name, rng.normal(size=D))
    return tmp_path / "out"


@pytest.fixture
def table(out):
    return out / "retrieval" / "toy.parquet"


@pytest.fixture
def reads(monkeypatch):
    """List the runs whose table is opened and parsed."""
    seen = []
    real = group_collect.read_run

    def counted(entry):
        seen.append(entry.run)
        return real(entry)

    monkeypatch.setattr(group_collect, "read_run", counted)
    return seen


def gather(out, *tables, keep=lambda _: True):
    entries = [entry for entry in find_embeddings(out)["toy"] if keep(entry)]
    return collect("toy", entries, tables, root=out)


def test_rows_say_whose_run_it_is(out):
    rows = gather(out).rows
    assert [(row.participant, row.session, row.run) for row in rows[3:]] == [
        ("02", None, "sub-02_task-rest_run-2"),
        ("03", "a", "sub-03_ses-a_task-rest"),
        ("03", "b", "sub-03_ses-b_task-rest"),
    ]
    assert rows[4].source == f"bids::{rows[4].path.relative_to(out)}"


def test_a_table_reads_back_as_it_was(out, table):
    made = gather(out)
    write_table(table, made, out)
    columns = pq.read_table(table)
    assert columns.schema.field("vector").type.list_size == D
    assert columns["participant_id"].to_pylist() == [f"sub-{r.participant}" for r in made.rows]
    assert columns["session"].to_pylist() == [None] * 4 + ["a", "b"]
    stored = read_table(table)
    np.testing.assert_array_equal(stored.vectors([5, 0, 3]), made.vectors[[5, 0, 3]])
    assert stored.fingerprint == made.fingerprint
    assert b"can be recognised" in pq.read_schema(table).metadata[b"neurostorm_app"]


def test_rows_of_several_groups_are_read_by_their_number(out, table, rng, monkeypatch):
    monkeypatch.setattr("neurostorm_app.bids_app.group.store.ROW_GROUP", 4)
    made = gather(out)
    write_table(table, made, out)
    assert pq.ParquetFile(table).num_row_groups == 2
    assert ROW_GROUP > 4
    stored = read_table(table)
    np.testing.assert_array_equal(stored.vectors([5, 1]), made.vectors[[5, 1]])
    np.testing.assert_array_equal(stored.vectors([4]), made.vectors[[4]])


def test_nothing_is_read_again_that_a_table_holds(out, table, reads):
    first = gather(out)
    write_table(table, first, out)
    assert len(reads) == 6
    reads.clear()
    second = gather(out, table)
    assert reads == []
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert second.rows == first.rows


def test_only_new_and_changed_runs_are_read(out, table, reads, rng):
    write_table(table, gather(out), out)
    reads.clear()
    write_run(out, "sub-02_task-rest_run-1", rng.normal(size=D))
    write_run(out, "sub-015_task-rest_run-1", rng.normal(size=D))
    made = gather(out, table)
    assert reads == ["sub-015_task-rest_run-1", "sub-02_task-rest_run-1"]
    write_table(table, made, out)
    fresh = table.with_name("fresh.parquet")
    write_table(fresh, gather(out), out)
    assert table.read_bytes() == fresh.read_bytes()


def test_a_run_that_is_gone_leaves_the_table(out, table):
    write_table(table, gather(out), out)
    shutil.rmtree(out / "sub-02")
    assert [row.participant for row in gather(out, table).rows] == ["01", "01", "03", "03"]


def test_a_touched_file_is_hashed_and_not_parsed(out, table, reads):
    write_table(table, gather(out), out)
    reads.clear()
    path = find_embeddings(out)["toy"][2].path
    os.utime(path, ns=(1, 1))
    made = gather(out, table)
    assert reads == []
    assert made.rows[2].stamps[1] == 1
    assert made.key == gather(out).key


def test_a_sidecar_that_now_says_something_else_is_seen(out, table):
    write_table(table, gather(out), out)
    write_run(out, "sub-02_task-rest_run-1", gather(out).vectors[2], Precision="bf16")
    with pytest.raises(DataError, match="were not made alike"):
        gather(out, table)


@pytest.mark.parametrize("spoil", ["column", "length"])
def test_a_table_that_another_program_wrote_is_collected_anew(out, table, reads, spoil, caplog):
    made = gather(out)
    write_table(table, made, out)
    reads.clear()
    held = pq.read_table(table)
    if spoil == "column":
        other = held.drop_columns(["sha256"])
    else:
        said = json.loads(held.schema.metadata[b"neurostorm_app"])
        said["fingerprint"]["EmbeddingDimension"] = 3
        other = held.replace_schema_metadata({b"neurostorm_app": json.dumps(said)})
    pq.write_table(other, table)
    assert gather(out, table).fingerprint["EmbeddingDimension"] == D
    assert len(reads) == 6
    assert "cannot be used, the group level collects its runs anew" in caplog.text


@pytest.mark.parametrize("spoil", ["cut", "flip", "text", "old"])
def test_a_damaged_table_is_collected_anew(out, table, reads, spoil, caplog, monkeypatch):
    made = gather(out)
    write_table(table, made, out)
    content = bytearray(table.read_bytes())
    if spoil == "cut":
        content = content[: len(content) // 2]
    elif spoil == "flip":
        vectors = pq.read_metadata(table).row_group(0).column(9)
        assert vectors.path_in_schema.startswith("vector")
        content[vectors.data_page_offset + vectors.total_compressed_size - 4] ^= 0xFF
    elif spoil == "text":
        content = bytearray(b"not a table")
    else:
        monkeypatch.setattr("neurostorm_app.bids_app.group.store.FORMAT", 2)
    table.write_bytes(content)
    reads.clear()
    np.testing.assert_array_equal(gather(out, table).vectors, made.vectors)
    assert len(reads) == 6
    assert "cannot be used, the group level collects its runs anew" in caplog.text


def test_parts_give_the_same_table_as_one_call(out, table, reads):
    whole = table.with_name("whole.parquet")
    write_table(whole, gather(out), out)
    parts = []
    for i in (1, 2, 3):
        entries = [e for e in find_embeddings(out)["toy"] if in_part(e.participant, (i, 3))]
        if entries:
            parts.append(table.with_name(f"part{i}.parquet"))
            write_table(parts[-1], collect("toy", entries, (), root=out), out)
    assert len(parts) > 1
    reads.clear()
    write_table(table, gather(out, *parts), out)
    assert reads == []
    assert table.read_bytes() == whole.read_bytes()


def test_every_participant_is_in_one_part_whoever_else_there_is():
    labels = [f"{i:04d}" for i in range(2000)]
    parts = [[label for label in labels if in_part(label, (i, 7))] for i in range(1, 8)]
    assert sorted(label for part in parts for label in part) == labels
    assert min(map(len, parts)) > 200


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"Model": {"WeightsSHA256": "cd" * 32}}, "WeightsSHA256 abababababababab…"),
        ({"Contract": {**SAID["Contract"], "tr": 2.0}}, "Contract.tr 0.8"),
        ({"Precision": "bf16"}, "Precision bf16"),
        ({"Computation": {"atlas_sha256": "12" * 32, "clip_policy": "dense"}}, "Atlas null"),
        ({"Computation": {"clip_policy": "upstream-eval"}}, "Options.clip_policy dense"),
        (
            {"Computation": {"clip_policy": "dense", "max_windows": 3}},
            "Options.max_windows not said",
        ),
        ({"space": "MNI152NLin2009cAsym_res-2"}, "Space MNI152NLin6Asym"),
        ({"space": "MNI152NLin6Asym_res-1"}, "Resolution 2"),
    ],
)
def test_runs_that_were_not_made_alike_are_not_mixed(out, rng, change, told):
    path = write_run(out, "sub-04_task-rest", rng.normal(size=D), **change)
    with pytest.raises(DataError, match="the runs of toy were not made alike") as caught:
        gather(out)
    first = find_embeddings(out)["toy"][0].path
    assert f"6 such as {first} (" in caught.value.what
    assert f"1 such as {path} (" in caught.value.what
    assert told in caught.value.what
    assert "OUTPUT_DIR of their own" in caught.value.fix
    assert caught.value.exit_code == ExitCode.DATA


def test_other_lengths_are_named(out):
    write_run(out, "sub-04_task-rest", np.ones(9), EmbeddingDimension=9)
    with pytest.raises(DataError, match=r"EmbeddingDimension 7.*EmbeddingDimension 9"):
        gather(out)


def test_another_device_and_newer_words_are_no_difference(out, rng):
    computation = {**SAID["Computation"], "device": "cuda", "engine": "torch 9"}
    write_run(out, "sub-04_task-rest", rng.normal(size=D), Computation=computation, Centre=False)
    assert len(gather(out).rows) == 7


def test_parts_that_were_not_made_alike_are_not_joined(out, table, rng):
    write_table(table, gather(out, keep=lambda e: e.participant == "01"), out)
    other = table.with_name("other.parquet")
    for entry in find_embeddings(out)["toy"]:
        if entry.participant != "01":
            content = json.loads(entry.sidecar.read_text()) | {"Precision": "tf32"}
            entry.sidecar.write_text(json.dumps(content))
    write_table(other, gather(out, keep=lambda e: e.participant != "01"), out)
    with pytest.raises(DataError, match="Precision tf32"):
        gather(out, table, other)


TABLES = {
    "nan": lambda text: text.rpartition("\t")[0] + "\tnan\n",
    "zeros": lambda _: embedding_table(np.zeros((1, D), np.float32)),
    "empty": lambda _: "",
    "header": lambda text: text.splitlines()[0] + "\n",
    "digits": lambda text: text[:-3],
    "cells": lambda text: text.rpartition("\t")[0] + "\n",
    "words": lambda text: text.rpartition("\t")[0] + "\tlots\n",
    "two": lambda _: embedding_table(np.ones((2, D), np.float32)),
    "longer": lambda _: embedding_table(np.ones((1, D + 1), np.float32)),
}
SIDECARS = {"silent": '{"Demo": false}', "list": "[]", "broken": '{"Demo"'}


def spoil(path, how):
    sidecar = path.with_suffix(".json")
    if how in TABLES:
        path.write_text(TABLES[how](path.read_text()))
    elif how in SIDECARS:
        sidecar.write_text(SIDECARS[how])
    elif how == "lost":
        sidecar.unlink()
    else:
        path.unlink()
        path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "holds no vector that can be compared: 1 numbers are not finite"),
        ("zeros", "can be compared: all numbers are zero"),
        ("empty", "is empty; the embedding of a run is one"),
        ("header", "holds 0 whole rows below its header"),
        ("digits", "holds 0 whole rows below its header"),
        ("cells", "is damaged: "),
        ("words", "is damaged: "),
        ("two", "holds 2 whole rows below its header"),
        ("longer", "holds 8 numbers; its sidecar says 7"),
        ("lost", "is not there: nothing says what made"),
        ("silent", "does not say 'Computation'"),
        ("list", "is no sidecar of an embedding"),
        ("broken", "is no sidecar of an embedding"),
        ("dangling", "cannot be read: No such file"),
    ],
)
def test_a_run_that_cannot_be_used_is_named_and_the_others_are_collected(out, table, how, message):
    whole = gather(out)
    write_table(table, whole, out)
    spoil(whole.rows[2].path, how)
    for tables in ((), (table,)):
        made = gather(out, *tables)
        assert [row.run for row in made.rows] == [
            row.run for i, row in enumerate(whole.rows) if i != 2
        ]
        np.testing.assert_array_equal(made.vectors, np.delete(whole.vectors, 2, axis=0))
        ((entry, error),) = made.left_out.items()
        assert entry.run == "sub-02_task-rest_run-1"
        assert message in error.what
        assert str(out) in error.what
        assert error.fix


def test_a_model_without_one_good_run_says_so(out):
    for entry in find_embeddings(out)["toy"]:
        spoil(entry.path, "nan")
    with pytest.raises(DataError, match=r"none of the 6 runs of toy can be used; .* not finite"):
        gather(out)


def test_names_that_say_neither_run_nor_model_are_told(out):
    folder = out / "sub-01" / "func"
    (folder / "sub-01_task-rest_embedding.tsv").write_text("x")
    (folder / "sub-01_copy of it_embedding.tsv").write_text("x")
    (folder / "sub-01_task-rest_desc-toyWindows_embedding.tsv").write_text("x")
    found = survey(out)
    assert [len(entries) for entries in found.found.values()] == [6]
    assert "the name lacks sub- or desc-: whose run" in str(
        found.strange["sub-01_task-rest_embedding.tsv"]
    )
    assert "is not a BIDS name" in str(found.strange["sub-01_copy of it_embedding.tsv"])


def test_a_folder_that_was_renamed_without_its_files_is_told(out, rng):
    (out / "sub-01").rename(out / "sub-09")
    (out / "sub-03" / "ses-b").rename(out / "sub-03" / "ses-c")
    found = survey(out)
    assert [entry.participant for entry in found.found["toy"]] == ["02", "02", "03"]
    assert len(found.strange) == 3
    for error in found.strange.values():
        assert "lies in the folder s" in str(error)


def test_equal_fingerprints_do_not_differ(out):
    fingerprint = gather(out).fingerprint
    assert describe_differences(fingerprint, dict(fingerprint)) == ""
