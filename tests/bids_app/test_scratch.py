"""What is written aside goes away, whatever ends a call; what is in use stays."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from neurostorm_app.bids_app import scratch
from neurostorm_app.bids_app.derivatives import Written, move_aside, write_json, write_text
from neurostorm_app.bids_app.describe import check_owner, describe_output
from neurostorm_app.bids_app.provenance import Ledger, Stamp, Unit
from neurostorm_app.bids_app.scratch import OLD, open_part, open_scratch, remove_abandoned
from neurostorm_app.bids_app.words.kept_settings import keep_settings
from neurostorm_app.errors import CannotCreateError

HOLD = """
import sys
from pathlib import Path
from neurostorm_app.bids_app.scratch import open_part, open_scratch
with open_part(Path(sys.argv[1])), open_scratch(Path(sys.argv[1])) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").touch()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that writes aside until its input ends."""
    command, pipe = [sys.executable, "-c", HOLD, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_what_a_killed_process_wrote_aside_is_removed_and_not_before(holder, tmp_path):
    assert len(list(tmp_path.iterdir())) == 2
    assert remove_abandoned(tmp_path) == []
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert len(remove_abandoned(tmp_path)) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".part-elsewhere-0badcafe-x.part", ".work-elsewhere-0badcafe-x"])
def test_what_another_machine_wrote_aside_is_removed_only_when_it_is_old(name, tmp_path):
    lock = tmp_path / name
    if name.startswith(".work-"):
        lock.mkdir()
        lock /= "held"
    lock.touch()
    assert remove_abandoned(tmp_path) == []
    long_ago = time.time() - OLD - 60
    for path in {lock, tmp_path / name}:
        os.utime(path, (long_ago, long_ago))
    assert remove_abandoned(tmp_path) == [tmp_path / name]
    assert not list(tmp_path.iterdir())


def test_scratch_of_the_same_kernel_is_known_whatever_the_container_calls_itself(
    tmp_path, monkeypatch
):
    boot = scratch._place().split("-")[1]
    for name in (f".work-container1-{boot}-x", f".work-container2-{boot}-y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "held").touch()
    (tmp_path / f".work-container3-{boot}-z").mkdir()  # killed before it was held
    assert len(remove_abandoned(tmp_path)) == 3
    monkeypatch.setattr(scratch, "BOOT", tmp_path / "none")
    with open_scratch(tmp_path):
        assert remove_abandoned(tmp_path) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prefix", [".part-", ".work-"])
def test_a_namesake_under_another_kernel_keeps_what_it_changed_since_this_start(
    prefix, tmp_path, monkeypatch
):
    host = scratch._place().split("-")[0]
    name = f"{prefix}{host}-0badcafe-x.part"
    lock = tmp_path / name
    if prefix == ".work-":
        lock.mkdir()
        lock /= "held"
    lock.touch()
    monkeypatch.setattr(scratch.time, "clock_gettime", lambda _: 3600.0)
    assert remove_abandoned(tmp_path) == []  # it may be at work, and its lock is not seen here
    before = time.time() - 3700
    for path in {lock, tmp_path / name}:
        os.utime(path, (before, before))
    assert remove_abandoned(tmp_path) == [tmp_path / name]  # nothing of before the start lives


@pytest.mark.parametrize("age", [0.0, OLD + 60])
def test_on_a_disk_without_locks_only_what_is_old_is_removed(age, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    folder, part = (tmp_path / f"{name}-{scratch._place()}-x.part" for name in (".work", ".part"))
    folder.mkdir()
    for path in (part, folder / "held", folder):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    assert remove_abandoned(tmp_path) == ([part, folder] if age else [])


def test_where_anybody_may_write_only_what_is_ours_is_removed(tmp_path, monkeypatch):
    ours, elsewhere = tmp_path / f".work-{scratch._place()}-x", tmp_path / "elsewhere"
    for folder in (ours, elsewhere):
        folder.mkdir()
        (folder / "held").touch()
        (folder / "file").touch()
    (tmp_path / f".work-{scratch._place()}-link").symlink_to(elsewhere)
    user = os.geteuid()
    monkeypatch.setattr(scratch.os, "geteuid", lambda: user + 1)
    assert remove_abandoned(tmp_path, of_anybody=False) == []
    monkeypatch.undo()
    assert remove_abandoned(tmp_path, of_anybody=False) == [ours]
    assert (elsewhere / "file").exists()


def test_no_name_tells_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.socket, "gethostname", lambda: "jane-laptop")
    with open_scratch(tmp_path), open_part(tmp_path):
        names = "".join(path.name for path in tmp_path.iterdir())
    assert "jane" not in names
    assert "laptop" not in names


def test_a_clean_up_that_fails_does_not_fail_the_call(tmp_path, monkeypatch):
    def fail(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with open_scratch(tmp_path) as folder:
        (folder / "file").touch()
        monkeypatch.setattr(scratch, "_empty", fail)
    monkeypatch.undo()
    assert remove_abandoned(tmp_path) == [folder]  # the next call ends it


def test_looking_for_what_is_old_ends_at_the_first_thing_that_is_new(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.Path, "rglob", lambda *_: iter(("never looked at",)))
    assert not scratch._is_old(tmp_path, OLD)


def test_a_clean_up_that_was_interrupted_is_ended_by_the_next_call(tmp_path, monkeypatch):
    class Killed(BaseException):
        """Ends a clean-up in its middle."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    made = open_scratch(tmp_path)
    folder = made.__enter__()
    (folder / "deep").mkdir()
    monkeypatch.setattr(scratch.shutil, "rmtree", die)
    with pytest.raises(Killed):
        made.__exit__(None, None, None)
    monkeypatch.undo()
    assert (folder / "held").exists()
    assert remove_abandoned(tmp_path) == [folder]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_swept_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    tries = []
    real = scratch._hold

    def swept_first(file):
        tries.append(file.name)
        if len(tries) == 1:
            assert len(remove_abandoned(tmp_path)) == 1
        return real(file)

    monkeypatch.setattr(scratch, "_hold", swept_first)
    with open_scratch(tmp_path) as folder:
        assert (folder / "held").exists()
    tries.clear()
    with open_part(tmp_path) as (part, _):
        assert part.exists()
    assert len(tries) == 2


def test_a_part_goes_away_if_the_writing_fails(tmp_path):
    made = open_part(tmp_path)
    _, file = made.__enter__()
    file.write(b"half")
    error = ValueError("no")
    assert made.__exit__(ValueError, error, None) is False  # it goes on its way
    assert file.closed
    assert not list(tmp_path.iterdir())


def test_a_record_tells_of_the_file_that_was_written_not_of_one_put_there_meanwhile(tmp_path):
    ledger = Ledger(tmp_path)
    unit = Unit(name="u", kind="k", about={}, settings={}, inputs={})
    path = tmp_path / "sub-01" / "file"
    for write in (lambda: write_text(path, "ours", root=tmp_path), lambda: _moved(path, tmp_path)):
        written = write()
        stamp = Stamp.of(path)
        assert written == stamp.sha256
        assert (written.size, written.mtime) == (stamp.size, stamp.mtime)
        write_text(path, "them", root=tmp_path)  # another call, of the same length
        os.utime(path, ns=(stamp.mtime + 1, stamp.mtime + 1))  # clocks of disks may be coarse
        ledger.write(unit, {path: written}, stamps={}, measured={})
        assert not ledger.holds(unit)
    assert json.loads(json.dumps({"a": written})) == {"a": str(written)}
    assert isinstance(written, Written)


def _moved(path, root):
    (root / "aside").write_text("ours")
    return move_aside(root / "aside", path, root=root)


def test_a_description_that_was_cut_off_is_written_again(tmp_path):
    describe_output(tmp_path, {})
    path = tmp_path / "dataset_description.json"
    whole = path.read_bytes()
    for rest in (b"", whole[: len(whole) // 2]):
        path.write_bytes(rest)
        assert check_owner(tmp_path) == {}
        describe_output(tmp_path, {})
        assert path.read_bytes() == whole
    path.write_bytes(b"")
    (tmp_path / "README.md").write_text("Somebody else's")
    with pytest.raises(CannotCreateError, match="holds another dataset, made by"):
        check_owner(tmp_path)


def test_settings_that_were_cut_off_are_kept_again(settings):
    path = keep_settings(settings(), {})
    whole = path.read_bytes()
    path.write_bytes(b"")
    assert keep_settings(settings(), {}) == path
    assert path.read_bytes() == whole


def test_a_record_that_lacks_its_outputs_is_none(tmp_path):
    ledger = Ledger(tmp_path)
    write_json(ledger.path("u"), {"key": "k"})
    assert ledger.read("u") is None
