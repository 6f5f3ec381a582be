"""What `--dry-run` says of memory, time and disks, and what is refused before it is begun."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app import provenance
from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.engines import ModelFiles, real_engines
from neurostorm_app.bids_app.participant import admission, embedding, planning
from neurostorm_app.bids_app.participant.admission import Disks, check_memory
from neurostorm_app.bids_app.participant.needs import need_of_embedding
from neurostorm_app.bids_app.participant.planning import PlannedRun, table_of
from neurostorm_app.errors import CannotCreateError, CorruptImageError, ExitCode, UsageError
from neurostorm_app.models import read_card
from neurostorm_app.pipelines import embed
from neurostorm_app.pipelines.need import Need, Step
from neurostorm_app.pipelines.resources import Plan
from neurostorm_app.pipelines.stage import StandardSeries

GIB, MIB = 2**30, 2**20
RUN = "sub-01_task-rest_run-1"


@pytest.fixture
def disk(monkeypatch):
    """Say what is free on every disk."""

    def say(free, total=64 * GIB):
        usage = SimpleNamespace(free=free, total=total)
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


@pytest.fixture
def planned(settings, fake, monkeypatch):
    """Plan, and tell which files were read whole for it."""

    def plan_all(**options):
        read = []
        whole = provenance.sha256_of

        def hash_it(path):
            read.append(path)
            return whole(path)

        with monkeypatch.context() as patch:
            patch.setattr(provenance, "sha256_of", hash_it)
            summary = run_app(settings(dry_run=True, **options), engines=fake.engines()).summary()
        return summary, read

    return plan_all


def test_a_plan_reads_no_image_whole_that_no_record_can_match(
    settings, fake, dataset, planned, tmp_path
):
    summary, read = planned()
    assert summary.count(": preprocess (anatomy from 1 T1w)") == 4
    assert read == []
    run_app(settings(participant_label=["01"], run_label=["1"]), engines=fake.engines())
    summary, read = planned()
    assert read == [], "size and time of what is recorded have not changed"
    assert f"{RUN}: preprocessed; embedded: nothing to do" in summary
    assert summary.count("preprocess (anatomy reused)") == 1
    assert summary.count("preprocess (anatomy from 1 T1w)") == 2


def test_a_plan_reads_what_a_record_may_match_and_follows_it(
    settings, fake, dataset, planned, tmp_path
):
    run_app(settings(participant_label=["01"]), engines=fake.engines())
    os.utime(dataset.bold("01"), (1, 1))
    t1w = dataset.root / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    (tmp_path / "out" / "prov" / "sub-01_anat.json").unlink()
    summary, read = planned()
    assert sorted(read) == [t1w, dataset.bold("01")], "one is as it was, on the other runs rest"
    assert "sub-01: make the anatomy, once for its runs" in summary
    assert f"{RUN}: preprocessed; embedded: nothing to do" in summary
    with dataset.bold("01").open("ab") as file:
        file.write(b"0")
    summary, read = planned()
    assert read == [t1w]
    assert f"{RUN}: preprocess (anatomy from 1 T1w)" in summary


def test_series_of_a_derivative_are_planned_unread(settings, fake, dataset, planned, tmp_path):
    run_app(settings(participant_label=["01"]), engines=fake.engines())
    prep = tmp_path / "prep"
    (tmp_path / "out").rename(prep)
    summary, read = planned(derivatives={"prep": prep}, participant_label=["01"])
    assert f"{RUN}: series from prep (MNI152NLin6Asym); embed with connectome" in summary
    assert read == []


def test_a_file_that_cannot_be_read_fails_alone_in_a_plan(
    settings, fake, dataset, planned, monkeypatch
):
    # An administrator may read everything: the file is gone when it is opened instead.
    t1w = dataset.root / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    real = type(t1w).open

    def refuse(path, *args, **kwargs):
        if path == t1w:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(type(t1w), "open", refuse)
    summary, _ = planned()
    for name in (RUN, "sub-01_task-rest_run-2"):
        assert f"{name}: would fail: {t1w}: Permission denied" in summary
    assert summary.count("would fail") == 2
    assert summary.count(": preprocess (anatomy from 1 T1w)") == 2
    assert "sub-01: make" not in summary
    summary, _ = planned(anat_only=True)
    assert f"sub-01: would fail: {t1w}: Permission denied" in summary
    assert "sub-02: make the anatomy" in summary


def test_a_run_whose_header_is_lost_meanwhile_fails_alone_in_a_plan(planned, monkeypatch):
    real = planning.need_of_run

    def need_of(participant, pieces, call):
        if pieces.run.name == RUN:
            raise CorruptImageError(f"{RUN} ends too early", fix="copy it again")
        return real(participant, pieces, call)

    monkeypatch.setattr(planning, "need_of_run", need_of)
    summary, _ = planned()
    assert f"{RUN}: would fail: {RUN} ends too early [exit code 65]" in summary
    assert "  what to do: copy it again" in summary
    assert summary.count(": preprocess (anatomy from 1 T1w)") == 3


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


def test_scratch_of_participants_that_are_done_is_free_again(tmp_path, disk):
    disks = Disks(tmp_path / "scratch", tmp_path / "out")
    disk(10 * MIB)
    need = Need(scratch=5 * MIB, output=2 * MIB)
    for name in ("one", "two"):
        disks.check(name, need)
        disks.promise(need)
        disks.clear_scratch()
    with pytest.raises(CannotCreateError, match="about 7 MiB for three") as caught:
        disks.check("three", need)
    assert "has 6 MiB" in caught.value.what


def test_a_dry_run_counts_the_scratch_of_one_participant_at_a_time(settings, fake, disk):
    rows = {}
    for line in run_app(settings(dry_run=True), engines=fake.engines()).summary().splitlines():
        name, *cells = line.split("  ")
        rows[name] = [int(cell.split()[0]) for cell in cells if cell.strip().endswith("MiB")]
    one = {name: cells for name, cells in rows.items() if name.startswith("sub-01") and cells}
    scratch, output = (sum(cells[i] for cells in one.values()) for i in (0, 1))
    assert scratch > 8  # else this tells nothing
    disk((scratch + 2 * output + 8) * MIB)
    summary = run_app(settings(dry_run=True), engines=fake.engines()).summary()
    assert "would be refused" not in summary


def test_a_model_is_held_to_memory_too_where_all_is_preprocessed(settings, fake, monkeypatch):
    run_app(settings(), engines=fake.engines())
    real = embedding.need_of_embedding

    def need_of(series, models, call):
        step = Step("embed toy", 999 * GIB, 1)
        return Need(models=(step,)) if series.name == RUN else real(series, models, call)

    monkeypatch.setattr(embedding, "need_of_embedding", need_of)
    result = run_app(settings(models=("toy",)), engines=fake.engines())
    failed = [run for run in result.runs if run.exit_code]
    assert [(run.name, int(run.exit_code)) for run in failed] == [(RUN, 64)]
    assert "takes about 999.0 GiB of memory (embed toy)" in failed[0].errors[0].what
    assert f"embed toy {RUN}" not in fake.calls
    assert fake.calls["embed toy sub-01_task-rest_run-2"] == 1


def test_the_largest_number_of_windows_is_counted_in_the_plan(settings, fake, tmp_path):
    bold = tmp_path / "bold.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 400), np.float32), 2 * np.eye(4)), bold)
    series = StandardSeries(
        name=RUN, bold=bold, mask=None, confounds=None, tr=2.0, space="MNI152NLin6Asym", res="2"
    )  # fmt: skip

    def seconds(name, **options):
        call = SimpleNamespace(
            settings=settings(models=[name], **options), plan=Plan(1, 1, 8 * GIB)
        )
        return need_of_embedding(series, [ModelFiles(card=read_card(name))], call).seconds

    for name in ("slim-brain", "brainlm"):
        assert seconds(name, max_windows=2) < 0.5 * seconds(name)
        assert seconds(name, max_windows=999) == seconds(name)
    for name in ("mind-vis", "connectome"):
        assert seconds(name, max_windows=2) == seconds(name)


def test_windows_are_planned_where_the_volumes_of_a_model_will_lie(settings, fake, tmp_path):
    """Of 320 s, fMRI-LM's volumes from the first to the last are one more than a window has."""
    bold = tmp_path / "bold.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 400), np.float32), 2 * np.eye(4)), bold)
    series = StandardSeries(
        name=RUN, bold=bold, mask=None, confounds=None, tr=0.8, space="MNI152NLin6Asym", res="2"
    )  # fmt: skip
    call = SimpleNamespace(settings=settings(models=["fmri-lm"]), plan=Plan(1, 1, 8 * GIB))
    card = read_card("fmri-lm")
    contract = card.contract.model_copy(update={"time_positions": "centres"})
    by_ends, by_centres = (
        need_of_embedding(series, [ModelFiles(card=one)], call)
        for one in (card, card.model_copy(update={"contract": contract}))
    )
    assert by_ends.seconds > 1.5 * by_centres.seconds


def test_a_model_has_the_threads_of_all_processes(settings, fake, monkeypatch):
    asked = {}

    class Embedder:
        def embed_many(self, runs, **options):
            asked.update(options)
            return iter(())

    monkeypatch.setattr(embed, "load_embedder", lambda *_, **__: Embedder())
    files = fake.find_model("connectome", settings().science)
    model = real_engines().load_model(files, settings(device="cpu"), Plan(4, 2, GIB))
    model([])
    assert asked["n_threads"] == 8


def test_a_disk_that_says_nothing_of_its_room_is_taken_as_it_is(tmp_path, disk, caplog):
    disk(0, total=0)
    Disks(tmp_path, tmp_path).check("one", Need(output=6 * GIB))
    assert not caplog.text


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
