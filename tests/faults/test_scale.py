"""A dataset of ten thousand participants: those that are not asked for are not touched.

Most of it is as in a clone: links to nothing, and series whose content is elsewhere. Seconds are
printed and never asserted; paths that were touched are counted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest

from ..bids_app.conftest import Dataset  # noqa: TID252  its data serve here

MANY = 10_000
WANTED, LINK, ANNEXED = "00042", "00043", "00044"
LOOK = """
import collections, json, os, re, sys
record, root, *words = sys.argv[1:]
touched, counts = set(), collections.Counter()

def look(kind, path):
    if isinstance(path, (str, bytes, os.PathLike)):
        inside = os.fsdecode(path).partition(root)[2]
        if os.fsdecode(path).startswith(root):
            counts[f"{kind} {inside or 'root'}" if "sub-" not in inside else kind] += 1
            touched.update(re.findall(r"^/sub-([^/]+)", inside))

def seen(kind, function):
    def call(path, *args, **kwargs):
        look(kind, path)
        return function(path, *args, **kwargs)
    return call

sys.addaudithook(lambda event, args: [look(event, arg) for arg in args])
for name in ("stat", "lstat", "access", "readlink"):
    setattr(os, name, seen(name, getattr(os, name)))
from neurostorm_app.bids_app.cli import main
code = main([root, *words])
with open(record, "w") as file:
    json.dump({"touched": sorted(touched), "counts": counts}, file)
sys.exit(code)
"""
"""Runs the command, and writes down what of the dataset was opened, listed or asked about."""


def call(dataset, tmp_path, *words):
    """Plan in a process that watches itself; return the process, what it saw, and seconds."""
    record = tmp_path / "record.json"
    arguments = [str(record), str(dataset.root), str(tmp_path / "out"), "participant", "--dry-run"]
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *arguments, *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    print(f"\n{' '.join(words)}: planned in {seconds:.1f} s")
    seen = json.loads(record.read_text()) if record.exists() else {}
    return done, seen, seconds


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Make a clone of ten thousand of which one is here."""
    dataset = Dataset(tmp_path_factory.mktemp("crowd") / "bids")
    dataset.participant(WANTED, runs=("1",))
    for number in range(1, MANY + 1):
        name = f"sub-{number:05d}"
        if number % 2 and name != f"sub-{WANTED}":
            (dataset.root / name).symlink_to(f".git/annex/{name}")
        elif name != f"sub-{WANTED}":
            func = dataset.root / name / "func"
            os.makedirs(func)  # noqa: PTH103  ten thousand of them
            (func / f"{name}_task-rest_bold.nii.gz").symlink_to("../../.git/annex/objects/x")
    rows = "".join(f"sub-{number:05d}\t30\n" for number in range(1, MANY + 1))
    (dataset.root / "participants.tsv").write_text(f"participant_id\tage\n{rows}")
    return dataset


def test_of_ten_thousand_only_the_one_that_is_asked_for_is_touched(crowd, tmp_path, tally):
    done, seen, _ = call(crowd, tmp_path, "--participant-label", WANTED)
    alone = seen.get("touched") == [WANTED]
    tally("participants elsewhere", injected=MANY - 1, survived=(MANY - 1) * alone)
    assert done.returncode == 0, done.stderr
    assert f"sub-{WANTED}_task-rest_run-1: preprocess" in done.stdout
    assert alone
    assert seen["counts"]["stat"] > 0
    assert max(seen["counts"].values()) < 100


def test_the_kernel_sees_no_other_participant_touched(crowd, tmp_path):
    strace = shutil.which("strace")
    log = tmp_path / "calls.txt"
    words = [str(crowd.root), str(tmp_path / "out"), "participant", "--dry-run"]
    words += ["--participant-label", WANTED]
    traced = [strace or "strace", "-f", "-qq", "-e", "trace=%file", "-o", str(log)]
    if strace is None or subprocess.run([*traced, "true"], check=False).returncode:
        pytest.skip("strace is not here, or may not look at other processes")
    command = [*traced, sys.executable, "-m", "neurostorm_app.bids_app.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    touched = Counter(re.findall(r"/sub-(\d{5})[/\"]", log.read_text()))
    assert set(touched) == {WANTED}, touched.most_common(5)


def test_what_is_not_here_is_named_with_what_brings_it(crowd, tmp_path, tally):
    labels = ["--participant-label", WANTED, LINK, ANNEXED, "--skip-bids-validation"]
    done, seen, _ = call(crowd, tmp_path, *labels)
    there = crowd.root / f"sub-{ANNEXED}/func/sub-{ANNEXED}_task-rest_bold.nii.gz"
    told = [f"datalad get {crowd.root / f'sub-{LINK}'}", f"datalad get {there}"]
    survived = sum(words in done.stdout for words in told)
    tally("participants elsewhere", injected=2, survived=survived)
    assert done.returncode == 0
    assert f"sub-{WANTED}_task-rest_run-1: preprocess" in done.stdout
    assert survived == 2, done.stdout
    assert seen["touched"] == [WANTED, LINK, ANNEXED]


def many(root, number):
    """Make a dataset of so many participants whose images are one file each."""
    dataset = Dataset(root)
    dataset.participant("1", runs=("1",))
    first = dataset.root / "sub-1"
    for label in range(2, number + 1):
        folder = dataset.root / f"sub-{label}"
        for image in first.glob("*/*.nii.gz"):
            place = folder / image.parent.name / image.name.replace("sub-1_", f"sub-{label}_")
            os.makedirs(place.parent)  # noqa: PTH103  ten thousand of them
            place.hardlink_to(image)
    return dataset


def test_twice_the_participants_take_twice_the_steps(tmp_path):
    steps = {}
    for number in (20, 40):
        dataset = many(tmp_path / str(number) / "bids", number)
        done, seen, _ = call(dataset, tmp_path / str(number), "--skip-bids-validation")
        assert done.returncode == 0, done.stderr
        assert len(seen["touched"]) == number
        steps[number] = seen["counts"]
    assert steps[40].keys() == steps[20].keys()
    grown = {kind: steps[40][kind] / count for kind, count in steps[20].items() if count > 5}
    assert grown
    assert max(grown.values()) <= 2, grown


@pytest.mark.slow
def test_all_of_ten_thousand_are_planned(tmp_path):
    dataset = many(tmp_path / "bids", MANY)
    done, seen, _ = call(dataset, tmp_path, "--skip-bids-validation")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(seen["touched"]) == MANY
    assert max(count for kind, count in seen["counts"].items() if "root" in kind) < 100
