"""The official validator, on what we read and on what we write."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.inputs import validation
from neurostorm_app.bids_app.inputs.validation import find_validator, validate
from neurostorm_app.errors import BidsError, ExitCode, NoInputError, TemporaryError

from .conftest import write_image


def test_a_valid_dataset_passes(dataset):
    validate(dataset.root, ["01", "02"], everyone=True)


def test_errors_are_listed_with_a_way_around(dataset):
    (dataset.root / "sub-01" / "func" / "notes.doc").touch()
    with pytest.raises(BidsError, match="is not valid BIDS, 1 errors") as caught:
        validate(dataset.root, ["01", "02"], everyone=True)
    assert "NOT_INCLUDED" in caught.value.what
    assert "/sub-01/func/notes.doc" in caught.value.what
    assert "--skip-bids-validation" in caught.value.fix
    assert caught.value.exit_code == 16


def test_only_the_first_errors_are_shown(dataset):
    for i in range(9):
        (dataset.root / "sub-01" / "func" / f"notes{i}.doc").write_text("x")
    with pytest.raises(BidsError, match="and 4 more"):
        validate(dataset.root, ["01", "02"], everyone=True)


def test_only_the_participants_that_are_used_are_validated(dataset):
    (dataset.root / "sub-02" / "func" / "notes.doc").touch()
    (dataset.root / "sub-03").symlink_to("nowhere")
    table = "participant_id\tage\nsub-01\t30\nsub-02\t40\nsub-03\t50\n"
    (dataset.root / "participants.tsv").write_text(table)
    validate(dataset.root, ["01"], everyone=False)


@pytest.mark.parametrize("everyone", [True, False])
@pytest.mark.parametrize(
    "table",
    [
        b"\xef\xbb\xbfparticipant_id\tage\nsub-01\t30\nsub-02\t40\n",
        b"participant_id\tage\r\nsub-01\t30\r\nsub-02\t40\r\n",
        "participant_id\tcity\nsub-01\ta\u0085b\u2028c\nsub-02\td\n".encode(),
    ],
    ids=["a mark", "CRLF", "letters that some take for ends of lines"],
)
def test_a_table_that_the_validator_accepts_is_accepted_for_some_too(dataset, table, everyone):
    (dataset.root / "participants.tsv").write_bytes(table)
    labels = ["01", "02"] if everyone else ["02"]
    validate(dataset.root, labels, everyone=everyone)


@pytest.mark.parametrize("everyone", [True, False])
def test_a_table_that_is_not_utf8_is_named(dataset, everyone):
    table = b"participant_id\tname\nsub-01\tJ\xf6rg\nsub-02\tAnn\n"
    (dataset.root / "participants.tsv").write_bytes(table)
    with pytest.raises(BidsError, match="is not valid BIDS") as caught:
        validate(dataset.root, ["01", "02"] if everyone else ["01"], everyone=everyone)
    assert "INVALID_FILE_ENCODING /participants.tsv" in caught.value.what
    assert caught.value.exit_code == 16


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (b"age\tparticipant_id", [b"30\tsub-01"]),
        (b"\xef\xbb\xbfparticipant_id\tage", [b"sub-01\t30"]),
        (b"old_participant_id\tage", [b"sub-01\t30"]),
    ],
)
def test_rows_of_others_are_left_out_and_the_rest_is_as_it_was(tmp_path, header, kept):
    table, target = tmp_path / "participants.tsv", tmp_path / "copy.tsv"
    table.write_bytes(b"\n".join([header, b"30\tsub-01", b"sub-01\t30", b"sub-02\t31", b""]))
    validation._filter_participants(table, ["01"], target)
    assert target.read_bytes().splitlines() == [header, *kept]


def test_a_call_for_one_participant_of_a_table_with_a_mark_is_done(settings, fake, dataset):
    table = "\ufeffparticipant_id\tage\nsub-01\t30\nsub-02\t40\n"
    (dataset.root / "participants.tsv").write_text(table)
    asked = settings(participant_label=["02"], skip_bids_validation=False)
    assert run_app(asked, engines=fake.engines()).exit_code == ExitCode.SUCCESS


@pytest.mark.parametrize("everyone", [True, False])
def test_an_annexed_table_that_is_not_here_does_not_stop_the_validator(dataset, everyone):
    (dataset.root / "participants.tsv").symlink_to(".git/annex/objects/x")
    (dataset.root / "task-nback_bold.json").symlink_to(".git/annex/objects/y")
    validate(dataset.root, ["01", "02"], everyone=everyone)


def test_damage_of_one_image_is_left_to_its_run(dataset):
    dataset.bold("01").unlink()
    dataset.bold("01").symlink_to("../../.git/annex/objects/x")
    dataset.bold("02").write_bytes(b"")
    validate(dataset.root, ["01", "02"], everyone=True)


def test_no_home_is_needed(dataset, monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    validate(dataset.root, ["01", "02"], everyone=True)


def test_a_validator_that_is_not_there_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoInputError, match=r"is neither in .* nor on PATH"):
        find_validator()


def test_a_validator_that_breaks_is_not_taken_for_consent(monkeypatch, tmp_path, dataset):
    broken = tmp_path / "bids-validator-deno"
    broken.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(validation, "find_validator", lambda: broken)
    with pytest.raises(BidsError, match=r"ended with code \d and no result: .*out of memory"):
        validate(dataset.root, ["01"], everyone=True)


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """Give temporary files a folder of their own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def program(path, text):
    """Write a program that stands for the validator."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_validator_that_is_killed_says_nothing_of_the_dataset(
    monkeypatch, tmp_path, dataset, temporary
):
    killed = program(tmp_path / "validator", "kill -9 $$")
    monkeypatch.setattr(validation, "find_validator", lambda: killed)
    with pytest.raises(TemporaryError, match="the validator was killed") as caught:
        validate(dataset.root, ["01"], everyone=False)
    assert caught.value.exit_code == 75
    assert "more memory" in caught.value.fix
    assert not list(temporary.iterdir())


CALL = """
import sys
from pathlib import Path
from neurostorm_app.bids_app.inputs import validation
validation.find_validator = lambda: Path(sys.argv[2])
validation.validate(Path(sys.argv[1]), ["01"], everyone=False)
"""


def test_what_a_killed_call_wrote_for_the_validator_is_removed_by_the_next(
    tmp_path, dataset, temporary
):
    killer = program(tmp_path / "validator", "kill -9 $PPID")
    words = [sys.executable, "-c", CALL, dataset.root, killer]
    done = subprocess.run([str(word) for word in words], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = temporary.iterdir()
    assert (left / "dataset" / "sub-01").is_symlink()
    (temporary / ".work-of-another-program").mkdir()
    validate(dataset.root, ["01"], everyone=False)
    assert [path.name for path in temporary.iterdir()] == [".work-of-another-program"]
    assert dataset.bold("01").is_file()


def test_the_app_stops_at_an_invalid_dataset(settings, fake, dataset):
    (dataset.root / "sub-01" / "func" / "notes.doc").touch()
    with pytest.raises(BidsError, match="is not valid BIDS"):
        run_app(settings(skip_bids_validation=False), engines=fake.engines())
    assert not fake.calls


def add_field_map_and_echoes(dataset):
    """Give participant 01 a field map for its runs, and a run of three echoes."""
    for label, axis in (("AP", "j-"), ("PA", "j")):
        stem = f"sub-01/fmap/sub-01_dir-{label}_epi"
        write_image(dataset.root / f"{stem}.nii.gz", (7, 8, 9))
        dataset.json(f"{stem}.json", {"PhaseEncodingDirection": axis, "B0FieldIdentifier": "pe"})
    dataset.json("sub-01/sub-01_task-rest_bold.json", {"B0FieldSource": "pe"})
    dataset.json("task-multi_bold.json", {"RepetitionTime": 2.0, "TaskName": "multi"})
    for echo in (1, 2, 3):
        stem = f"sub-01/func/sub-01_task-multi_echo-{echo}_bold"
        write_image(dataset.root / f"{stem}.nii.gz", (7, 8, 9, 5))
        dataset.json(f"{stem}.json", {"EchoTime": 0.01 * echo})


def test_our_output_has_no_validation_errors(settings, fake, tmp_path, dataset):
    dataset.participant("05", session="a", runs=("1",))
    dataset.participant("06", runs=("1",), t1w=False)
    add_field_map_and_echoes(dataset)
    spaces = ["MNI152NLin6Asym:res-2", "MNI152NLin2009cAsym", "T1w", "native"]
    without = ["MNI152NLin6Asym:res-2", "native"]
    people = {"participant_label": ["01", "02", "05"]}
    asked = settings(models=["connectome", "toy"], output_spaces=spaces, **people)
    result = run_app(asked, engines=fake.engines())
    assert result.exit_code == ExitCode.SUCCESS
    asked = settings(participant_label=["06"], output_spaces=without)
    result = run_app(asked, engines=fake.engines())
    assert result.exit_code == ExitCode.SUCCESS
    assert run_app(settings("group"), engines=fake.engines()).exit_code == ExitCode.SUCCESS
    (tmp_path / "out" / ".work-x" / "sub-01").mkdir(parents=True)
    (tmp_path / "out" / ".work-x" / "sub-01" / "scratch.nii.gz").write_bytes(b"x")
    func = tmp_path / "out" / "sub-01" / "func"
    assert (func / "sub-01_task-multi_T2starmap.nii.gz").is_file()
    assert list((tmp_path / "out" / "sub-01" / "fmap").glob("*_desc-preproc_fieldmap.nii.gz"))
    validate(tmp_path / "out", ["01", "02", "05", "06"], everyone=True)
