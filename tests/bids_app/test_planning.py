"""What `--dry-run` says of memory, time and disks, and what is refused before it is begun."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.participant import admission
from neurostorm_app.bids_app.participant.admission import Disks, check_memory
from neurostorm_app.bids_app.participant.planning import PlannedRun, table_of
from neurostorm_app.errors import CannotCreateError, ExitCode, UsageError
from neurostorm_app.pipelines.need import Need, Step

GIB, MIB = 2**30, 2**20
RUN = "sub-01_task-rest_run-1"


@pytest.fixture
def disk(monkeypatch):
    """Say what is free on every disk."""

    def say(free):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(admission.shutil, "disk_usage", lambda _: usage)

    return say


def test_a_dry_run_says_what_each_run_takes(settings, fake):
    summary = run_app(settings(dry_run=True), engines=fake.engines()).summary()
    lines = {line.split("  ")[0]: line for line in summary.splitlines()}
    assert lines["run"].split() == ["run", "memory", "time", "scratch", "output"]
    assert "1.1 GiB" in lines[RUN] or "1.0 GiB" in lines[RUN]
    assert "< 1 min" in lines[RUN]
    assert "1.4 GiB" in lines["sub-01"]
    assert "all, one after the other" in lines
    assert "of one core like those it was measured on" in summary


def test_a_dry_run_after_the_work_has_no_table(settings, fake):
    run_app(settings(), engines=fake.engines())
    summary = run_app(settings(dry_run=True), engines=fake.engines()).summary()
    assert "nothing to do" in summary
    assert "scratch" not in summary


def test_a_dry_run_says_what_would_be_refused(settings, fake, disk):
    disk(MIB)
    summary = run_app(settings(dry_run=True, mem="1G"), engines=fake.engines()).summary()
    assert "sub-01: would be refused: sub-01 takes about 1.4 GiB of memory" in summary
    assert f"{RUN}: would be refused: " in summary


def test_the_table_sums_up():
    rows = [
        PlannedRun(name="a", todo="x", memory=2 * GIB, seconds=90, scratch=MIB, output=3 * MIB),
        PlannedRun(name="b", todo="x", memory=GIB, seconds=90, scratch=2 * MIB, output=3 * MIB),
        PlannedRun(name="c", todo="nothing to do"),
        PlannedRun(name="d", todo="x", memory=99 * GIB, problem="too large"),
    ]
    lines = list(table_of(rows))
    assert [line.split("  ")[0] for line in lines[:4]] == [
        "run",
        "a",
        "b",
        "all, one after the other",
    ]
    assert lines[3].split()[-8:] == ["2.0", "GiB", "3", "min", "2", "MiB", "6", "MiB"]
    assert list(table_of(rows[2:])) == []


def test_room_is_promised_run_by_run(tmp_path, disk):
    disks = Disks(tmp_path / "scratch", tmp_path / "out")
    disk(10 * MIB)
    need = Need(scratch=2 * MIB, output=4 * MIB)
    disks.check("one", need)
    disks.promise(need)
    with pytest.raises(CannotCreateError, match="about 6 MiB for two, and the disk at") as caught:
        disks.check("two", need)
    assert "has 4 MiB" in caught.value.what
    assert "choose another OUTPUT_DIR" in caught.value.fix


def test_a_disk_that_is_nearly_full_is_told(tmp_path, disk, caplog):
    disk(8 * MIB)
    with caplog.at_level(logging.WARNING):
        Disks(tmp_path, tmp_path).check("one", Need(output=6 * MIB))
    assert "has only 8 MiB" in caplog.text


def test_memory_that_is_not_there_is_refused_with_the_step_that_takes_it():
    need = Need(steps=(Step("small", GIB, 1), Step("large", 3 * GIB, 1)))
    check_memory("run", need, 3 * GIB)
    with pytest.raises(UsageError, match=r"run takes about 3\.0 GiB of memory \(large\)") as caught:
        check_memory("run", need, 2 * GIB)
    assert "this call may use 2.0 GiB" in caught.value.what
    assert "4 GiB" in caught.value.fix


def test_a_refused_run_leaves_its_place_to_others(settings, fake, disk, dataset):
    disk(150 * MIB)
    result = run_app(settings(), engines=fake.engines())
    codes = {run.name: int(run.exit_code) for run in result.runs}
    # Anatomy and one run fit; the second run of each would not fit beside the first.
    assert codes[RUN] == 0
    assert codes["sub-01_task-rest_run-2"] == 73
    assert result.exit_code == ExitCode.CANNOT_CREATE


def test_what_is_there_is_not_refused_later(settings, fake):
    run_app(settings(), engines=fake.engines())
    again = run_app(settings(mem="1G"), engines=fake.engines())
    assert again.exit_code == ExitCode.SUCCESS
