"""What this user may not read or write: named, with the code of the specification.

The system lets an administrator read everything, so the command runs without that right.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from ..bids_app.conftest import Dataset  # noqa: TID252  its data serve here
from ..bids_app.test_bad_input import BAD, GOOD, SPACE, write_series  # noqa: TID252

PR_CAPBSET_DROP = 24
OVERRIDES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, with which permissions do not hold."""


def give_up_rights():
    """Run before the command is: what it starts has not the right to read everything."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for right in OVERRIDES:
            libc.prctl(PR_CAPBSET_DROP, right, 0, 0, 0)


def run(*command):
    return subprocess.run(
        [*map(str, command)], preexec_fn=give_up_rights, capture_output=True, text=True, check=False
    )  # the function does nothing but two calls of the system


@pytest.fixture
def close(tmp_path):
    """Take all permissions from files and folders, and give them back at the end."""
    closed = []

    def take(path, mode=0):
        closed.append((path, path.stat().st_mode))
        path.chmod(mode)
        return path

    (tmp_path / "probe").touch()
    if run("cat", take(tmp_path / "probe")).returncode == 0:
        pytest.skip("permissions do not hold here, and the right to pass them cannot be given up")
    yield take
    for path, mode in reversed(closed):
        path.chmod(mode)


def call(*words):
    return run(sys.executable, "-m", "neurostorm_app.bids_app.cli", *words)


def test_unreadable_inputs_are_named_one_by_one_and_others_go_on(tmp_path, close, tally):
    dataset = Dataset(tmp_path / "bids")
    for label in ("good", "series", "sidecar", "func", "folder", "anatomy"):
        dataset.participant(label, runs=("1",))
    run_of = "sub-{0}/func/sub-{0}_task-rest_run-1_bold".format
    sidecar = dataset.json(f"{run_of('sidecar')}.json", {"RepetitionTime": 2.0})
    close(dataset.root / f"{run_of('series')}.nii.gz")
    close(sidecar)
    close(dataset.root / "sub-func" / "func")
    close(dataset.root / "sub-folder")
    close(dataset.root / "sub-anatomy" / "anat")
    words = ["participant", "--dry-run", "--skip-bids-validation"]
    done = call(dataset.root, tmp_path / "out", *words)
    expected = {
        "sub-series_task-rest_run-1": f"{run_of('series')}.nii.gz: this user may not read it",
        "sub-sidecar_task-rest_run-1": f"{run_of('sidecar')}.json: this user may not read the",
        "sub-func": "sub-func/func: Permission denied",
        "sub-folder": "sub-folder: Permission denied",
        "sub-anatomy": "sub-anatomy/anat: Permission denied",
    }
    lines = [line for line in done.stdout.splitlines() if "would fail" in line]
    survived = sum(
        line.startswith(f"{name}: would fail") and said in line and line.endswith("[exit code 66]")
        for (name, said), line in zip(sorted(expected.items()), lines, strict=False)
    )
    tally("no permission", injected=len(expected), survived=survived)
    assert (survived, len(lines)) == (len(expected), len(expected)), done.stdout + done.stderr
    assert "sub-good_task-rest_run-1: preprocess" in done.stdout


def test_an_anatomy_that_may_not_be_read_fails_with_its_runs_in_a_plan(tmp_path, close, tally):
    dataset = Dataset(tmp_path / "bids")
    for label in ("good", "closed"):
        dataset.participant(label, runs=("1",))
    t1w = close(dataset.root / "sub-closed" / "anat" / "sub-closed_T1w.nii.gz")
    words = ["participant", "--dry-run", "--skip-bids-validation"]
    done = call(dataset.root, tmp_path / "out", *words)
    expected = f"sub-closed_task-rest_run-1: would fail: {t1w}: Permission denied [exit code 66]"
    tally("no permission", survived=int(expected in done.stdout))
    assert expected in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("would fail") == 1
    assert "sub-good_task-rest_run-1: preprocess" in done.stdout


@pytest.mark.parametrize("what", ["dataset", "labels", "filters", "output"])
def test_a_call_whose_files_are_closed_ends_at_once(what, tmp_path, close, tally):
    dataset = Dataset(tmp_path / "bids")
    dataset.participant("01", runs=("1",))
    for name in ("labels", "filters"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "output").mkdir()
    words = {
        "labels": ["--participant-label", tmp_path / "labels"],
        "filters": ["--bids-filter-file", tmp_path / "filters"],
    }.get(what, [])
    closed = close(
        dataset.root if what == "dataset" else tmp_path / what, 0o500 * (what == "output")
    )
    done = call(dataset.root, tmp_path / "output" / "out", "participant", *words)
    expected = 73 if what == "output" else 66
    tally("no permission", survived=int(done.returncode == expected))
    assert done.returncode == expected, done.stderr
    assert str(closed) in done.stderr
    assert "what to do: " in done.stderr


@pytest.mark.slow
def test_a_series_that_may_not_be_read_fails_alone(tmp_path, close, tally):
    Dataset(tmp_path / "bids").participant("01", runs=())
    func = tmp_path / "prep" / "sub-01" / "func"
    for seed, name in enumerate((GOOD, BAD)):
        write_series(func, name, seed=seed)
    close(func / f"{BAD}_{SPACE}_desc-preproc_bold.nii.gz")
    words = ["participant", "-d", f"prep={tmp_path / 'prep'}", "--skip-bids-validation"]
    done = call(tmp_path / "bids", tmp_path / "out", *words)
    made = list((tmp_path / "out").rglob(f"{GOOD}_*_desc-connectome_embedding.tsv"))
    tally("no permission", survived=int(done.returncode == 66 and len(made) == 1))
    assert done.returncode == 66, done.stdout + done.stderr
    assert "this user may not read it" in done.stdout
    assert len(made) == 1
