"""Workers of Dask that are jobs of a real cluster."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from neurostorm_app.bids_app.clusters.executors import work_through
from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.bids_app.participant.units import Call
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.settings import build_settings
from neurostorm_app.pipelines.resources import Plan

ROOT = Path(__file__).parents[2]


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
lacking = loopback.lacking() + [
    name for name in ("distributed", "dask_jobqueue") if importlib.util.find_spec(name) is None
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking), reason=f"not installed: {' '.join(lacking)}"),
]


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
        up.wait(lambda: not up.queued(), seconds=60, what="workers that are gone")
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
