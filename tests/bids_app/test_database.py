"""Runs from an index of PyBIDS: the same as from the folders, and nothing from outside them."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from bids.layout import BIDSLayout, BIDSLayoutIndexer

from neurostorm_app.bids_app.inputs import dataset as dataset_module
from neurostorm_app.bids_app.inputs.database import FILE, read_database
from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.errors import DataError, NoInputError


@pytest.fixture
def index(dataset, tmp_path):
    """Make an index as ``pybids layout BIDS_DIR DIR --no-validate`` does."""
    dataset.participant("03", session="a")
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False)
    BIDSLayout(
        dataset.root, validate=False, database_path=tmp_path / "index", indexer=indexer
    ).connection_manager.engine.dispose()
    return tmp_path / "index"


def test_the_index_gives_the_runs_that_the_folders_give(settings, index):
    by_index, by_folder = find_runs(settings(bids_database_dir=index)), find_runs(settings())
    assert by_index == by_folder
    assert sum(len(p.raw) for p in by_index.participants) == 6


def test_no_folder_is_listed(settings, index, monkeypatch):
    def refuse(folder):
        raise AssertionError(f"{folder} was listed")

    monkeypatch.setattr(dataset_module, "list_images", refuse)
    found = find_runs(settings(bids_database_dir=index, participant_label=["02"]))
    assert [p.label for p in found.participants] == ["02"]


def test_the_dataset_may_lie_elsewhere_now(dataset, index, tmp_path):
    moved = tmp_path / "mounted"
    dataset.root.rename(moved)
    found = read_database(index, moved)
    assert sorted(found) == ["01", "02", "03"]
    assert all(path.is_file() for paths in found.values() for path in paths)


def test_a_file_that_is_gone_fails_its_run_alone(settings, dataset, index):
    dataset.bold("01", "2").unlink()
    found = find_runs(settings(bids_database_dir=index))
    assert list(found.failed) == ["sub-01_task-rest_run-2"]
    assert sum(len(p.raw) for p in found.participants) == 5


def test_a_participant_who_is_not_in_the_index_has_no_images(settings, dataset, index):
    dataset.participant("04")
    found = find_runs(settings(bids_database_dir=index, participant_label=["01", "04"]))
    assert [p.label for p in found.participants] == ["01"]
    assert list(found.failed) == ["sub-04"]


def test_no_index_is_named_with_how_to_make_one(dataset, tmp_path):
    with pytest.raises(NoInputError, match="holds no index of PyBIDS") as caught:
        read_database(tmp_path, dataset.root)
    assert f"pybids layout {dataset.root} {tmp_path}" in caught.value.fix


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 4000, b"no database"])
def test_a_damaged_index_is_refused(index, dataset, content):
    (index / FILE).write_bytes(content)
    with pytest.raises(DataError, match="index of PyBIDS cannot be read"):
        read_database(index, dataset.root)


def test_an_index_that_names_files_elsewhere_is_refused(index, dataset, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(index, elsewhere)
    with sqlite3.connect(elsewhere / FILE) as db:
        old = str(dataset.bold("01"))
        new = str(dataset.root / ".." / "secret" / "sub-01_task-rest_run-1_bold.nii.gz")
        db.execute("PRAGMA foreign_keys = OFF")
        for table in ("files", "tags"):
            column = "path" if table == "files" else "file_path"
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
    with pytest.raises(DataError, match="which does not lie in"):
        read_database(elsewhere, dataset.root)


def test_the_index_is_not_written_to(settings, index):
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    find_runs(settings(bids_database_dir=index))
    assert {path.name: path.read_bytes() for path in index.iterdir()} == before
