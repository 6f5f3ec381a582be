"""Disks that fill up, in scratch, in results and at the group level; reads that are slow or fail.

What is finished stays; what is not ends in a code that says which disk, and a call with room again
gives the same bytes as one that was never disturbed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.cli import main_inner
from neurostorm_app.bids_app.derivatives import write_text
from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.errors import ExitCode
from neurostorm_app.pipelines.phantom import make_phantom

from ..bids_app.conftest import Dataset, Fake  # noqa: TID252  its data and engines serve here
from .sameness import differences, leftovers, torn
from .small_disk import MIB, small_disk

APP = Path(sys.executable).with_name("neurostorm-app")
FULL = "disk full"
READS = "slow or failing read"
SHIM = Path(__file__).with_name("failing_reads.c")


def call(bids, out, level="participant", *, engines, **options):
    options.setdefault("nprocs", 1)
    settings = build_settings(bids, out, level, {"skip_bids_validation": True, **options})
    return run_app(settings, engines=engines)


class Filling(Fake):
    """Engines beside which somebody fills the disk, at one moment, down to some bytes."""

    def __init__(self, disk, moment, left) -> None:
        super().__init__()
        self._disk, self._moment, self._left = disk, moment, left

    def _now(self, moment) -> None:
        if moment == self._moment:
            self._moment = ""
            self._disk.fill(self._left)

    def preprocess(self, wanted, **others):
        self._now("scratch")
        made = super().preprocess(wanted, **others)
        self._now("results")
        return made

    def _embed(self, name, series, device):
        made = super()._embed(name, series, device)
        self._now("embedding")
        return made

    def write_subject_page(self, output_dir, participant):
        self._now("page")
        path = output_dir / f"sub-{participant}.html"
        write_text(path, "<html></html>", root=output_dir)
        return path


class Study:
    """A dataset, a small disk for its results, and what an undisturbed call makes of it there."""

    def __init__(self, home, disk) -> None:
        self.home, self.disk = home, disk
        self.bids, self.out, self.whole = home / "bids", disk.root / "out", home / "whole"

    def begin(self, start=None) -> None:
        """Begin anew with an empty disk, or with a copy of some results."""
        self.disk.clear()
        shutil.rmtree(self.out, ignore_errors=True)
        if start is not None:
            shutil.copytree(start, self.out)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A dataset of two participants on a disk of 220 MiB."""
    home = tmp_path_factory.mktemp("study")
    dataset = Dataset(home / "bids")
    for label in ("01", "02"):
        dataset.participant(label, runs=("1",))
    with small_disk(home / "disk", 220 * MIB) as disk:
        made = Study(home, disk)
        result = call(made.bids, made.out, engines=Fake().engines())
        assert result.exit_code == ExitCode.SUCCESS, result.summary()
        shutil.copytree(made.out, made.whole)
        yield made


def command(study, engines, level="participant"):
    """Call the command in this process; give its exit code."""
    words = [str(study.bids), str(study.out), level, "--skip-bids-validation", "--nprocs", "1"]
    return guarded("app", lambda argv: main_inner(argv, engines=engines), words)


MOMENTS = [
    ("scratch", 0),
    ("scratch", 40_960),
    ("results", 12_288),
    ("results", 200_000),
    ("embedding", 0),
    ("embedding", 12_288),
    ("page", 0),
]


@pytest.mark.parametrize(("moment", "left"), MOMENTS)
def test_a_disk_that_fills_up_loses_nothing(study, tally, capsys, moment, left):
    study.begin()
    code = command(study, Filling(study.disk, moment, left).engines())
    said = "".join(capsys.readouterr())
    broken = torn(study.out, study.whole)
    study.disk.clear()
    again = command(study, Fake().engines())
    lost, rest = differences(study.out, study.whole), leftovers(study.out)
    fine = code == 73 and again == 0 and not broken and not lost
    tally(FULL, survived=int(fine), bytes_lost=sum(lost.values()))
    assert code == ExitCode.CANNOT_CREATE, said
    assert "No space left on device (the disk at" in said
    assert str(study.disk.root) in said
    assert "what is finished is reused" in said
    assert not broken
    assert again == 0
    assert not lost
    assert not rest


@pytest.mark.parametrize("left", [0, 12_288])
def test_a_disk_that_is_full_at_the_group_level_loses_nothing(study, tmp_path, tally, left):
    study.begin(study.whole)
    assert command(study, Fake().engines(), "group") == 0
    whole = tmp_path / "whole"
    shutil.copytree(study.out, whole)
    study.begin(study.whole)
    study.disk.fill(left)
    code = command(study, Fake().engines(), "group")
    broken = torn(study.out, whole)
    study.disk.clear()
    again = command(study, Fake().engines(), "group")
    lost = differences(study.out, whole)
    fine = code == 73 and again == 0 and not lost and not broken
    tally(FULL, survived=int(fine), bytes_lost=sum(lost.values()))
    assert code == ExitCode.CANNOT_CREATE
    assert again == 0
    assert not broken
    assert not lost


def test_too_little_room_is_seen_before_any_work(study, tally, capsys):
    study.begin()
    study.disk.fill(30 * MIB)
    fake = Fake()
    code = command(study, fake.engines())
    said = "".join(capsys.readouterr())
    study.disk.clear()
    again = command(study, Fake().engines())
    lost = differences(study.out, study.whole)
    tally(FULL, survived=int(code == 73 and not lost), bytes_lost=sum(lost.values()))
    assert code == ExitCode.CANNOT_CREATE
    assert not [name for name in fake.calls if name.startswith(("anat", "fit"))]
    assert "scratch and results take about" in said
    assert f"the disk at {study.disk.root} has 30 MiB" in said
    assert "or choose another OUTPUT_DIR or --work-dir" in said
    assert again == 0
    assert not lost


def test_a_disk_that_is_nearly_full_is_warned_of(study, caplog):
    study.begin()
    study.disk.fill(150 * MIB)
    result = call(study.bids, study.out, engines=Fake().engines(), participant_label=["01"])
    assert result.exit_code == ExitCode.SUCCESS, result.summary()
    assert "has only" in caplog.text


def test_scratch_has_a_disk_of_its_own(study, tmp_path):
    study.begin()
    study.disk.fill(8 * MIB)
    work = study.disk.root / "work"
    result = call(study.bids, tmp_path / "out", engines=Fake().engines(), work_dir=work)
    assert result.exit_code == ExitCode.CANNOT_CREATE
    assert f"the disk at {study.disk.root} has" in result.summary()


def test_a_run_that_fits_goes_on_beside_one_that_does_not(tmp_path, tally):
    dataset = Dataset(tmp_path / "bids")
    dataset.participant("01", runs=("1", "2"))
    long = nib.Nifti1Image(np.ones((4, 4, 4, 400), np.float32), np.diag([3.0, 3, 3, 1]))
    long.header.set_zooms((3, 3, 3, 2.0))
    long.header.set_xyzt_units("mm", "sec")
    nib.save(long, dataset.bold("01", "1"))
    with small_disk(tmp_path / "disk", 400 * MIB) as disk:
        result = call(dataset.root, disk.root / "out", engines=Fake().engines())
        status = {run.name[-1]: (run.status, int(run.exit_code)) for run in result.runs}
        tally(FULL, survived=int(status == {"1": ("failed", 73), "2": ("done", 0)}))
    assert status == {"1": ("failed", 73), "2": ("done", 0)}


# ---------------------------------------------------------------- the real engines, on a phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A small phantom on a disk of 500 MiB; its anatomy alone is kept apart, to begin with."""
    home = tmp_path_factory.mktemp("phantom")
    with small_disk(home / "disk", 500 * MIB) as disk:
        made = Study(home, disk)
        make_phantom(made.bids, participants=1, runs=1, scale="tiny", seed=3)
        done = app(made.bids, made.out)
        assert done.returncode == 0, done.stdout
        shutil.copytree(made.out, made.whole)
        shutil.copytree(made.out, home / "anatomy")
        for path in [*home.glob("anatomy/prov/*_task-*"), *home.glob("anatomy/sub-01/func/*")]:
            path.unlink()
        yield made


def app(bids, out, *words, command=(APP,), **kwargs):
    """Call the command as a user does, with the real engines."""
    argv = [*command, bids, out, "participant", "--skip-bids-validation", "--nprocs", "1", *words]
    return subprocess.run(
        [str(word) for word in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **kwargs,
    )


FILLED = """
import re, sys
place, root, sign = (sys.argv.pop(1) for _ in range(3))
sys.path.insert(0, place)
from small_disk import SmallDisk
from neurostorm_app.bids_app.cli import main

signs = [sign]

def hook(event, args):
    names = {"open": args[:1], "os.rename": args[1:2]}.get(event, ())
    if signs and any(re.search(signs[0], str(name)) for name in names):
        signs.clear()
        SmallDisk(root).fill()

sys.addaudithook(hook)
sys.exit(main())
"""
"""The command; just before it opens or names a file of some name, somebody fills the disk."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "sign",
    [
        r"/run000/motion/spent\.json$",
        r"/\.work-[^/]+/series/.*_bold\.nii",
        r"/prov/sub-01_.*-connectome_embedding\.json$",
    ],
    ids=["estimates", "series", "report"],
)
def test_the_real_engines_meet_a_full_disk(phantom, tally, sign):
    phantom.begin(phantom.home / "anatomy")
    filled = [sys.executable, "-c", FILLED, Path(__file__).parent, phantom.disk.root, sign]
    first = app(phantom.bids, phantom.out, command=filled)
    broken = torn(phantom.out, phantom.whole)
    phantom.disk.clear()
    again = app(phantom.bids, phantom.out)
    lost = differences(phantom.out, phantom.whole)
    fine = first.returncode == 73 and again.returncode == 0 and not lost and not broken
    tally(FULL, survived=int(fine), bytes_lost=sum(lost.values()))
    assert first.returncode == 73, first.stdout
    assert "No space left on device" in first.stdout
    assert again.returncode == 0, again.stdout
    assert not broken
    assert not lost


# ---------------------------------------------------------------- reads that are slow or fail


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """The library that stands before open and read; compiled here."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler is here to build what stands before read()")
    library = tmp_path_factory.mktemp("shim") / "failing_reads.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(words, check=True)

    def environment(path, how, after=0):
        return {
            **os.environ,
            "LD_PRELOAD": str(library),
            "FAILING_PATH": str(path),
            "FAILING_HOW": how,
            "FAILING_AFTER": str(after),
        }

    return environment


READ = """
import sys
from pathlib import Path
from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.pipelines.image import iter_volumes
try:
    print(sum(float(volume.sum()) for volume in iter_volumes(Path(sys.argv[1]))))
except Exception as error:
    told = as_app_error(error)
    print(int(told.exit_code), told.what, told.fix)
"""


@pytest.mark.parametrize(
    "case",
    [
        ("eio", 1, 74, "Input/output error"),
        ("estale", 0, 74, "Stale file handle"),
        ("estale-open", 0, 74, "Stale file handle"),
        ("short", 0, 0, ""),
    ],
)
def test_a_series_is_read_or_the_disk_is_named(shim, tmp_path, tally, case):
    how, after, code, words = case
    path = tmp_path / "series_bold.nii.gz"
    data = np.random.default_rng(1).integers(1, 100, (20, 21, 22, 9)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    argv = [sys.executable, "-c", READ, str(path)]
    environment = shim(path, how, after)
    said = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    expected = f"{code} " if code else str(float(data.sum()))
    tally(READS, survived=int(said.startswith(expected)))
    assert said.startswith(expected)
    assert words in said
    assert not code or "check the disk or the network share" in said


@pytest.fixture(scope="module")
def preprocessed(phantom, tmp_path_factory):
    """A folder of preprocessed runs, of which a model makes embeddings in no time."""
    home = tmp_path_factory.mktemp("preprocessed")
    func = home / "prep" / "sub-01" / "func"
    shutil.copytree(phantom.bids, home / "bids")
    func.mkdir(parents=True)
    (home / "prep" / "dataset_description.json").write_text(
        '{"Name": "prep", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}'
    )
    kept = "space-MNI152NLin6Asym_res-2"
    for path in (phantom.whole / "sub-01" / "func").glob(f"*{kept}_desc-*"):
        if "preproc_bold" in path.name or "brain_mask" in path.name:
            for run in ("1", "2"):
                shutil.copy(path, func / path.name.replace("run-1", f"run-{run}"))
    raw = home / "bids" / "sub-01" / "func"
    for path in list(raw.glob("*run-1*")):
        shutil.copy(path, raw / path.name.replace("run-1", "run-2"))
    done = app(home / "bids", home / "out", "-d", f"prep={home / 'prep'}")
    assert done.returncode == 0, done.stdout
    return home


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        ("eio", 3, 74),
        ("estale", 40, 74),
        ("estale-open", 2, 74),
        ("slow", 0, 0),
        ("short", 0, 0),
    ],
)
def test_a_share_that_fails_costs_one_run_for_a_while(preprocessed, shim, tally, case):
    how, after, code = case
    # Beside the undisturbed one: its description tells where the datasets are from there.
    out, where = preprocessed / f"out-{how}", "run-1_space-MNI152NLin6Asym_res-2_desc-preproc_bold"
    words = ["-d", f"prep={preprocessed / 'prep'}"]
    first = app(preprocessed / "bids", out, *words, env=shim(where, how, after))
    finished = sorted(path.name for path in out.rglob("*connectome_embedding.tsv"))
    broken = torn(out, preprocessed / "out")
    again = app(preprocessed / "bids", out, *words)
    lost = differences(out, preprocessed / "out")
    fine = first.returncode == code and again.returncode == 0 and not lost and not broken
    tally(READS, survived=int(fine), bytes_lost=sum(lost.values()))
    assert first.returncode == code, first.stdout
    assert any("run-2" in name for name in finished)
    assert again.returncode == 0, again.stdout
    assert not broken
    assert not lost
