"""Workers of Dask: killed in the middle, of a scheduler of its own, jobs of a cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neurostorm_app.bids_app.clusters.executors import work_through
from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.bids_app.participant.units import Call
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.pipelines.resources import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
TWO = ("01", "02")


def load(name: str, path: Path):
    """Import a file under a name that workers can import it by, too."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


loopback = load("slurm_loopback", Path(__file__).with_name("slurm_loopback.py"))
lacking = [
    name for name in ("distributed", "dask_jobqueue") if importlib.util.find_spec(name) is None
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * loopback.PATIENCE),
    pytest.mark.skipif(bool(lacking), reason=f"not installed: {' '.join(lacking)}"),
]
needs_slurm = pytest.mark.skipif(
    bool(loopback.lacking()), reason=f"SLURM is not installed: no {loopback.lacking()}"
)


@needs_slurm
def test_workers_are_jobs_and_end_with_the_work(tmp_path, monkeypatch):
    import dask
    import distributed  # noqa: F401  its settings first

    monkeypatch.syspath_prepend(str(ROOT))
    tests = load("tests.bids_app.conftest", ROOT / "tests" / "bids_app" / "conftest.py")
    dataset = tests.Dataset(tmp_path / "bids")
    for label in ("01", "02", "03"):
        dataset.participant(label)
    asked = build_settings(
        dataset.root,
        tmp_path / "out",
        "participant",
        {"skip_bids_validation": True, "mem": "3G", "nprocs": 1},
    )
    engines = tests.Fake()
    call = Call(
        settings=asked,
        engines=engines.engines(),
        ledger=Ledger(asked.output_dir),
        plan=Plan(1, 1, 3 * 2**30),
        models=(engines.find_model("connectome", asked.science),),
        missing={},
        scratch=tmp_path / "out" / ".work" / "scratch",
        series_dir=tmp_path / "out" / ".work" / "series",
    )
    (tmp_path / "out" / "logs").mkdir(parents=True)
    groups = [[participant] for participant in find_runs(asked).participants]
    with loopback.cluster(cpus=2) as up:
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, up.environment[name])
        # Jobs take the environment of the one that queues them.
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
        with dask.config.set({"jobqueue.slurm.interface": "lo"}):
            outcomes = work_through(groups, call, executor="dask:slurm", per_process=2**30)
        up.wait(lambda: not up.queued(), what="workers that are gone")
        jobs = up.call("scontrol", "show", "job", "-o").splitlines()
    assert [r.status for o in outcomes for r in o.results] == ["done"] * 6
    assert [page.name for o in outcomes for page in o.pages] == [
        "sub-01.html",
        "sub-02.html",
        "sub-03.html",
    ]
    assert jobs
    assert all("dask-worker" in job for job in jobs)
    assert all("Requeue=1" in job for job in jobs)
    logs = "".join(path.read_text() for path in (tmp_path / "out" / "logs").glob("*.log"))
    assert logs.count("on a worker of Dask") == 3


@contextlib.contextmanager
def started(
    study: Path,
    out: Path,
    *words: str,
    who: Sequence[str] = ("01",),
    tree: Path | None = None,
    **environment: str,
):
    """Start the app itself, one thread a process; it does not outlive the test.

    It has a study of one head, whose anatomy it is given, or else what is in a tree.
    """
    call = [sys.executable, "-m", "neurostorm_app.bids_app.cli", study / "bids", out]
    call += ["participant", "--participant-label", *who]
    call += ["--derivatives", f"prep={tree or study / 'anatomy'}", *words]
    call += ["--models", "connectome", "--output-spaces", "MNI152NLin6Asym:res-native"]
    with subprocess.Popen(
        list(map(str, [*call, "--omp-nthreads", "1", "--skip-bids-validation"])),
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as app:
        try:
            yield app
        finally:
            app.kill()


def end(app: subprocess.Popen[str]) -> str:
    """Wait for the app, which is to succeed, and give what it said."""
    told, _ = app.communicate(timeout=loopback.PATIENCE)
    assert app.returncode == 0, told
    return told


def worker_of(app: subprocess.Popen[str], out: Path, label: str) -> int:
    """Wait until a worker is in the middle of a participant, and give its number."""
    wait = time.monotonic() + loopback.PATIENCE
    while time.monotonic() < wait and app.poll() is None:
        for path in (out / "logs").glob("*.log"):
            text = path.read_text()
            if f"sub-{label}: on a worker of Dask" in text and ": reference in" in text:
                return int(re.fullmatch(r".*_(\d+)\.log", path.name)[1])
        time.sleep(0.2)
    raise AssertionError(f"nobody works on sub-{label}: {app.communicate()[0]}")


def content(out: Path, label: str) -> dict[str, bytes]:
    """Read all results of a participant, which hold no times."""
    files = (path for path in (out / f"sub-{label}").rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def lost(ours: dict[str, bytes], theirs: dict[str, bytes]) -> int:
    """Count the bytes of results that are not there, or are not the same."""
    return sum(len(text) for name, text in ours.items() if theirs.get(name) != text)


@pytest.fixture(scope="module")
def worked(one_head, tmp_path_factory):
    """Work on two participants by workers, one of which is killed, and on one without."""
    here, there = (tmp_path_factory.mktemp("results") / name for name in ("here", "there"))
    with started(one_head, here, "--nprocs", "1") as alone:
        words = ("--executor", "dask", "--nprocs", "2", "--mem", "8G")
        with started(one_head, there, *words, who=TWO) as app:
            os.kill(worker_of(app, there, "01"), signal.SIGKILL)
            told = end(app)
        end(alone)
    return told, here, there


def test_a_worker_that_is_killed_costs_time_and_nothing_else(worked, tally):
    told, here, there = worked
    ours, theirs = content(here, "01"), content(there, "01")
    logs = "".join(path.read_text() for path in (there / "logs").glob("*.log"))
    n_tries = logs.count("sub-01: on a worker of Dask")
    n_bytes = lost(ours, theirs)
    tally("worker lost", survived=int("2 runs: 2 done" in told), bytes_lost=n_bytes)
    assert n_tries == 2
    assert logs.count("sub-02: on a worker of Dask") == 1, "the other goes on"
    assert "2 runs: 2 done, 0 reused, 0 failed" in told
    assert sorted(ours) == sorted(theirs)
    assert len(ours) > 20
    assert not n_bytes
    assert (there / "sub-01.html").is_file()
    assert (there / "sub-02.html").is_file()
    assert not list(there.rglob("*.part"))


def test_a_unit_goes_where_there_is_memory_for_it(one_head, worked, tmp_path):
    file, words = tmp_path / "scheduler.json", ["--no-dashboard", "--host", "127.0.0.1"]
    run = [sys.executable, "-m"]
    scheduler = [*run, "distributed.cli.dask_scheduler", "--port", "0", *words]
    worker = [*run, "distributed.cli.dask_worker", *words, "--no-nanny", "--nthreads", "1"]
    sizes = {"small": 10**9, "large": 4 * 10**9}
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with contextlib.ExitStack() as stack:

        def keep(words: list[str]) -> subprocess.Popen[bytes]:
            words = [*words, "--scheduler-file", str(file)]
            process = stack.enter_context(subprocess.Popen(words, **options))
            stack.callback(process.kill)
            return process

        keep(scheduler)
        workers = {
            name: keep([*worker, "--name", name, "--resources", f"MEMORY={size}"])
            for name, size in sizes.items()
        }
        from distributed import Client

        with Client(scheduler_file=str(file), timeout=loopback.PATIENCE) as client:
            client.wait_for_workers(2, timeout=loopback.PATIENCE)
            address = client.scheduler.address
        out = tmp_path / "out"
        words = ("--executor", f"dask:{address}")
        with started(one_head, out, *words, who=TWO, tree=worked[2]) as app:
            told = end(app)
    assert "2 runs: 2 done, 0 reused, 0 failed" in told
    logs = {path.name: path.read_text() for path in (out / "logs").glob("*.log")}
    who = {name for name, text in logs.items() if "on a worker of Dask" in text}
    assert [name.rpartition("_")[2] for name in who] == [f"{workers['large'].pid}.log"]
    tables = sorted(out.glob("sub-*/func/*_desc-*_embedding.tsv"))
    assert tables
    for table in tables:
        assert table.read_bytes() == (worked[2] / table.relative_to(out)).read_bytes()


@needs_slurm
def test_a_node_that_is_lost_with_its_worker_costs_time_and_nothing_else(
    one_head, worked, tmp_path, tally
):
    out = tmp_path / "out"
    with loopback.cluster(cpus=1) as up:
        environment = {name: up.environment[name] for name in ("SLURM_CONF", "PATH", "TMPDIR")}
        environment["DASK_JOBQUEUE__SLURM__INTERFACE"] = "lo"
        words = ("--executor", "dask:slurm", "--nprocs", "1", "--mem", "4G")
        with started(one_head, out, *words, **environment) as app:
            worker_of(app, out, "01")
            up.lose(next(node for node in up.nodes if up.running(node)))
            told = end(app)
        up.wait(lambda: not up.queued(), what="workers that are gone")
    ours, theirs = content(worked[1], "01"), content(out, "01")
    n_bytes = lost(ours, theirs)
    tally("node lost", survived=int("1 run: 1 done" in told), bytes_lost=n_bytes)
    assert "1 run: 1 done, 0 reused, 0 failed" in told
    assert sorted(ours) == sorted(theirs)
    assert not n_bytes
    logs = "".join(path.read_text() for path in (out / "logs").glob("*.log"))
    assert logs.count("sub-01: on a worker of Dask") == 2
