"""Memory that is planned, kept, refused and used up: under limits that the kernel keeps.

The whole way of 1,200 volumes of 2 mm takes some ten CPU minutes, and is asked for by its name:

    NEUROSTORM_LONG_RUN=1 python -m pytest -m slow tests/faults/test_memory.py -k whole_way -s
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.errors import ExitCode, UsageError
from neurostorm_app.pipelines.image import read_volume, write_volume
from neurostorm_app.pipelines.phantom import make_phantom
from neurostorm_app.pipelines.templates import load_template

from ..bids_app.conftest import Dataset, Fake  # noqa: TID252  its data and engines serve here
from .long_run import make_long_run, write_int16
from .memory_box import memory_box
from .sameness import differences

GIB, MIB = 2**30, 2**20
MEMORY = "memory"
APP = Path(sys.executable).with_name("neurostorm-app")
SPACE = "space-MNI152NLin6Asym_res-2"
LONG = pytest.mark.skipif(
    not os.environ.get("NEUROSTORM_LONG_RUN"),
    reason="takes long: NEUROSTORM_LONG_RUN=1 asks for it",
)


@pytest.fixture
def study(tmp_path):
    made = Dataset(tmp_path / "bids")
    made.participant("01", runs=("1",))
    return made


def call(study, out, fake, **options):
    options = {"skip_bids_validation": True, "nprocs": 2, **options}
    settings = build_settings(study.root, out, "participant", options)
    return run_app(settings, engines=fake.engines())


def test_what_nothing_fits_into_is_refused_at_once(study, tmp_path, tally):
    with pytest.raises(
        UsageError, match=r"0\.5 GiB of memory by --mem; one run takes 0\.8"
    ) as told:
        call(study, tmp_path / "out", Fake(), mem="512M")
    tally(MEMORY, survived=int(told.value.exit_code == 64))
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_a_run_that_does_not_fit_is_refused_before_any_work(study, tmp_path, tally):
    fake = Fake()
    result = call(study, tmp_path / "out", fake, mem="1G")
    (run,) = result.runs
    tally(MEMORY, survived=int(run.exit_code == ExitCode.USAGE))
    assert not [name for name in fake.calls if name.startswith(("anat", "fit"))]
    assert "takes about 1.4 GiB of memory (brain), and this call may use 1.0 GiB" in (
        run.errors[0].what
    )
    assert "give the job and --mem 2 GiB" in run.errors[0].fix


def test_fewer_processes_are_started_where_memory_is_short(study, tmp_path, tally):
    plans = []

    class Watching(Fake):
        def preprocess(self, wanted, *, plan, **others):
            plans.append(plan)
            return super().preprocess(wanted, plan=plan, **others)

    for mem, folder in (("2G", "a"), ("8G", "b")):
        result = call(study, tmp_path / folder, Watching(), mem=mem)
        assert result.exit_code == ExitCode.SUCCESS, result.summary()
    tally(MEMORY, survived=int([plan.n_procs for plan in plans] == [1, 2]))
    assert [plan.n_procs for plan in plans] == [1, 2]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
    ids=["numpy", "torch"],
)
def test_memory_that_runs_out_in_one_run_is_tried_again(study, tmp_path, tally, error):
    fake = Fake()
    fake.broken["sub-01_task-rest_run-1"] = error
    first = call(study, tmp_path / "out", fake)
    again = call(study, tmp_path / "out", Fake())
    fine = (first.exit_code, again.exit_code) == (ExitCode.TEMPORARY, ExitCode.SUCCESS)
    tally(MEMORY, survived=int(fine))
    assert first.exit_code == ExitCode.TEMPORARY
    assert "--nprocs" in first.runs[0].errors[0].fix
    assert again.exit_code == ExitCode.SUCCESS


# ---------------------------------------------------------------- the kernel keeps the limit


def words(bids, out, *more):
    return [APP, bids, out, "participant", "--skip-bids-validation", "--nprocs", "1", *more]


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory):
    """A derivative with 1,200 volumes of 91 x 109 x 91 at 2 mm, and the dataset it is of."""
    home = tmp_path_factory.mktemp("long")
    make_phantom(home / "bids", participants=1, runs=1, n_volumes=8, scale="tiny", seed=5)
    func = home / "prep" / "sub-01" / "func"
    func.mkdir(parents=True)
    (home / "prep" / "dataset_description.json").write_text(
        '{"Name": "prep", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}'
    )
    template = load_template("MNI152NLin6Asym", "2")
    mask, grid = read_volume(template.mask)
    stem = f"sub-01_task-rest_run-1_{SPACE}_desc"
    write_volume(func / f"{stem}-brain_mask.nii.gz", mask, grid=grid, dtype=np.uint8, code=4)
    (func / f"{stem}-preproc_bold.json").write_text('{"RepetitionTime": 2.0}')
    rng = np.random.default_rng(3)
    picture = (1 + mask) * 600 + rng.normal(0, 120, mask.shape) * mask
    noises = [rng.normal(0, 12, mask.shape).astype(np.float32) for _ in range(7)]
    shown = (picture + noises[t % 7] + 10 * np.sin(t / 9) for t in range(1200))
    write_int16(func / f"{stem}-preproc_bold.nii", shown, grid, n_volumes=1200)
    yield home
    shutil.rmtree(home)


@pytest.mark.slow
def test_1200_volumes_of_2_mm_are_embedded_in_4_gib(preprocessed, tmp_path, tally):
    more = ["-d", f"prep={preprocessed / 'prep'}", "--models", "connectome", "neurostorm-demo"]
    with memory_box(4 * GIB) as box:
        done = box.run(words(preprocessed / "bids", tmp_path / "out", *more), timeout=1500)
        print(f"\n1,200 embedded: programs {box.peak / GIB:.2f} GiB, kills {box.kills()}")
        fine = done.returncode == 0 and box.kills() == 0
        tally(MEMORY, survived=int(fine))
    assert done.returncode == 0, done.stdout
    assert box.peak < 4 * GIB
    assert len(list(tmp_path.glob("out/sub-01/func/*_embedding.tsv"))) == 4


@pytest.mark.slow
def test_work_that_the_kernel_kills_ends_in_75_and_is_done_with_more(preprocessed, tmp_path, tally):
    more = ["-d", f"prep={preprocessed / 'prep'}", "--models", "connectome"]
    out = tmp_path / "out"
    with memory_box(220 * MIB) as box:
        # Told that there is more than the kernel gives: the limit of the box is not asked.
        code = "import neurostorm_app.pipelines.resources as r, sys; "
        code += "r.find_cgroups = lambda *_: iter(()); "
        code += "from neurostorm_app.bids_app.cli import main; sys.exit(main())"
        argv = [sys.executable, "-c", code, *words(preprocessed / "bids", out, *more)[1:]]
        first = box.run(argv, timeout=600)
        killed = box.kills()
    again = box_free(words(preprocessed / "bids", out, *more))
    whole = box_free(words(preprocessed / "bids", tmp_path / "whole", *more))
    lost = differences(out, tmp_path / "whole")
    fine = first.returncode == 75 and again == whole == 0 and not lost
    tally(MEMORY, survived=int(fine), bytes_lost=sum(lost.values()))
    assert killed
    assert first.returncode == 75, first.stdout
    assert "the memory limit of 0.2 GiB of its control group was reached" in first.stdout
    assert again == whole == 0
    assert not lost


def box_free(argv) -> int:
    with memory_box(16 * GIB) as box:
        return box.run(argv, timeout=900).returncode


@LONG
@pytest.mark.slow
def test_1200_volumes_of_2_mm_go_the_whole_way_in_4_gib(tmp_path, tally):
    make_long_run(tmp_path / "bids", n_volumes=1200)
    more = ["--models", "connectome", "neurostorm-demo", "-v"]
    more += ["--output-spaces", "MNI152NLin6Asym:res-2"]
    with memory_box(4 * GIB) as box:
        done = box.run(words(tmp_path / "bids", tmp_path / "out", *more), timeout=3500)
        print(f"\n1,200 from raw: programs {box.peak / GIB:.2f} GiB, kills {box.kills()}")
        tally(MEMORY, survived=int(done.returncode == 0))
    shutil.rmtree(tmp_path / "bids")
    assert done.returncode == 0, done.stdout
    assert box.peak < 4 * GIB
    assert len(list(tmp_path.glob("out/sub-01/func/*_embedding.tsv"))) == 4
