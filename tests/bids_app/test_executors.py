"""The same work by this process and by workers of a Dask cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
from pathlib import Path

import pytest
from pydantic import ValidationError

from neurostorm_app.bids_app.clusters import executor_dask
from neurostorm_app.bids_app.clusters.executors import work_through
from neurostorm_app.bids_app.clusters.sharing import divide
from neurostorm_app.bids_app.clusters.status import read_standing
from neurostorm_app.bids_app.inputs.dataset import find_runs
from neurostorm_app.bids_app.participant.admission import check_memory
from neurostorm_app.bids_app.participant.needs import memory_of_run
from neurostorm_app.bids_app.participant.units import Call
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.words.options import Execution
from neurostorm_app.errors import CorruptImageError, ExitCode, TemporaryError, UsageError
from neurostorm_app.pipelines.resources import Plan

from .conftest import Fake

GIB = 2**30
needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None,
    reason="distributed is not installed: pip install 'neurostorm-app[cluster]'",
)


class Trouble(Fake):
    """Engines that fail for one participant, as long as a file stands there."""

    def __init__(self, folder: Path, label: str, kind: str, *, times: int = 1) -> None:
        super().__init__()
        self.folder, self.label, self.kind, self.times = folder, label, kind, times

    def preprocess(self, wanted, *, work_dir, series_dir, settings, plan):
        if f"sub-{self.label}_" in wanted.t1w[0].name:
            n_before = len(list(self.folder.glob("try-*")))
            (self.folder / f"try-{n_before}").touch()
            if n_before < self.times:
                if self.kind == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                kind = {"busy": TemporaryError, "bad": CorruptImageError}[self.kind]
                raise kind("not now", fix="later")
        return super().preprocess(
            wanted, work_dir=work_dir, series_dir=series_dir, settings=settings, plan=plan
        )


@pytest.fixture
def work(settings, tmp_path, monkeypatch):
    """Work through the tiny dataset by some executor; give the outcomes and the output folder."""
    # Workers import the engines from the tests.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))

    def run(executor: str, engines: Fake, *, out: str = "out", **options):
        asked = settings(**options).model_copy(update={"output_dir": tmp_path / out})
        work = tmp_path / out / ".work"
        work.mkdir(parents=True, exist_ok=True)
        call = Call(
            settings=asked,
            engines=engines.engines(),
            ledger=Ledger(tmp_path / out),
            plan=Plan(2, 1, 4 * GIB),
            models=(engines.find_model("connectome", asked.science),),
            missing={},
            scratch=work / "scratch",
            series_dir=work / "series",
        )
        groups = [[participant] for participant in find_runs(asked).participants]
        outcomes = work_through(groups, call, executor=executor, per_process=GIB)
        return outcomes, tmp_path / out

    return run


def results(outcomes):
    return {r.name: r for outcome in outcomes for r in outcome.results}


def content(out: Path) -> dict[str, object]:
    """Read what stands in an output folder, without times and logs.

    The record of a page holds the hashes of run reports, and those hold times.
    """
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        of_page = re.fullmatch(r"prov/sub-\d+_report.json", name)
        if not path.is_file() or path.suffix == ".log" or name.startswith(".work") or of_page:
            continue
        found[name] = path.read_bytes()
        if name.startswith(("prov/", "logs/")) and path.suffix == ".json":
            text = re.sub(r'"(mtime|seconds|peak_memory|n4)": [\d.]+', "", path.read_text())
            found[name] = re.sub(r'"started": "[^"]+"', "", text)
    return found


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("local", True),
        ("dask", True),
        ("dask:slurm", True),
        ("dask:tcp://10.0.0.1:8786", True),
        ("dask:head-node:8786", True),
        ("dask:", False),
        ("dask:pbs", False),
        ("slurm", False),
        ("dask:tcp://a b:1", False),
        ("dask:host:8786/../x", False),
    ],
)
def test_an_executor_is_one_of_four_words(text, good):
    if good:
        assert Execution.model_validate({"executor": text}).model_dump()["executor"] == text
    else:
        with pytest.raises(ValidationError):
            Execution.model_validate({"executor": text})


def test_this_process_does_all_units_in_their_order(work, fake):
    outcomes, out = work("local", fake)
    assert [o.pages for o in outcomes] == [[out / "sub-01.html"], [out / "sub-02.html"]]
    assert all(o.written for o in outcomes)
    assert {r.status for r in results(outcomes).values()} == {"done"}
    assert len(results(outcomes)) == 4


def test_a_page_that_fails_is_a_result_of_its_own(work, fake):
    fake.broken["page 01"] = CorruptImageError("no page", fix="none")
    outcomes, out = work("local", fake)
    assert [len(o.pages) for o in outcomes] == [0, 1]
    assert results(outcomes)["sub-01"].exit_code == ExitCode.DATA
    assert json.loads((out / "logs" / "sub-01_report.json").read_text())["exit_code"] == 65


def test_an_old_failure_is_forgotten_when_it_is_mended(work, fake):
    fake.broken["page 01"] = CorruptImageError("no page", fix="none")
    _, out = work("local", fake)
    labels = ["01", "02"]
    assert read_standing(out, labels, ["connectome"]).failed == {0: ("sub-01", 65, "no page")}
    (out / "logs" / "sub-02_report.json").write_text('{"status"')
    fake.broken.clear()
    work("local", fake)
    assert read_standing(out, labels, ["connectome"]).done == [0, 1]
    assert not list(out.glob("logs/sub-0?_report.json"))


def test_what_is_said_of_an_anatomy_is_not_forgotten(work, fake):
    _, out = work("local", fake, anat_only=True)
    report = out / "logs" / "sub-01_report.json"
    assert json.loads(report.read_text())["status"] == "done"
    work("local", fake)
    assert json.loads(report.read_text())["status"] == "done"
    fake.broken["preprocess sub-01"] = CorruptImageError("bad", fix="none")
    outcomes, out = work("local", fake, out="other", anat_only=True)
    assert results(outcomes)["sub-01"].exit_code == ExitCode.DATA
    report = json.loads((out / "logs" / "sub-01_report.json").read_text())
    assert report["status"] == "failed", "its page is there, but what failed is not mended"


def test_the_first_failure_ends_the_work_where_that_was_asked(work, fake):
    fake.broken["preprocess sub-01"] = CorruptImageError("bad", fix="none")
    outcomes, _ = work("local", fake, stop_on_first_crash=True)
    assert [name[:6] for name in results(outcomes)] == ["sub-01", "sub-01"]
    outcomes, _ = work("local", fake)
    assert len(results(outcomes)) == 4


@pytest.mark.parametrize(
    ("memory", "n_workers"), [(64 * GIB, 2), (3 * GIB, 2), (2.5 * GIB, 1), (GIB, 1)]
)
def test_workers_of_this_machine_are_so_few_that_each_can_do_any_unit(
    settings, fake, tmp_path, memory, n_workers
):
    asked = settings(executor="dask")
    call = Call(
        settings=asked,
        engines=fake.engines(),
        ledger=Ledger(tmp_path / "out"),
        plan=Plan(6, 1, round(memory)),
        models=(fake.find_model("connectome", asked.science),),
        missing={},
        scratch=tmp_path,
        series_dir=tmp_path,
    )
    groups = [[participant] for participant in find_runs(asked).participants]
    found, share = divide(call, groups, most=len(groups))
    assert (found, share) == (n_workers, Plan(6 // n_workers, 1, round(memory) // n_workers))
    if memory > 2 * GIB:
        for run in groups[0][0].raw:
            check_memory(run.name, memory_of_run(groups[0][0], run, call), share.memory)


@pytest.mark.parametrize("executor", ["dask", "dask:slurm"])
def test_a_missing_package_is_named_with_what_brings_it(work, fake, executor, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package distributed, which") as caught:
        work(executor, fake)
    assert "pip install 'neurostorm-app[cluster]'" in caught.value.fix


@needs_dask
def test_workers_write_the_same_bytes(work, fake):
    ours, here = work("local", fake, out="here")
    theirs, there = work("dask", fake, out="there")
    assert content(here) == content(there)
    assert {n: r.status for n, r in results(ours).items()} == {
        n: r.status for n, r in results(theirs).items()
    }
    assert [[p.name for p in o.pages] for o in ours] == [[p.name for p in o.pages] for o in theirs]
    assert not fake.calls["page 03"]
    again, _ = work("dask", fake, out="here")
    assert {r.status for r in results(again).values()} == {"reused"}
    assert len(content(there)) > 100
    logs = "".join(path.read_text() for path in (there / "logs").glob("*.log"))
    assert "sub-02: on a worker of Dask" in logs


@needs_dask
@pytest.mark.parametrize("kind", ["busy", "dies"])
def test_a_unit_is_tried_again_when_it_asks_or_its_worker_dies(work, tmp_path, kind):
    outcomes, out = work("dask", Trouble(tmp_path, "01", kind))
    assert {r.status for r in results(outcomes).values()} == {"done"}
    assert [o.pages[0].name for o in outcomes] == ["sub-01.html", "sub-02.html"]
    assert len(list(tmp_path.glob("try-*"))) == 2
    assert (
        json.loads((out / "logs" / "sub-01_task-rest_run-1_report.json").read_text())["status"]
        == "done"
    )


@needs_dask
@pytest.mark.slow
def test_a_unit_that_kills_its_workers_stops_nobody_else(work, tmp_path):
    outcomes, out = work("dask", Trouble(tmp_path, "01", "dies", times=99))
    assert results(outcomes)["sub-01"].exit_code == ExitCode.TEMPORARY
    assert "the worker was lost 3 times" in results(outcomes)["sub-01"].errors[0].what
    assert {r.status for n, r in results(outcomes).items() if "sub-02" in n} == {"done"}
    assert json.loads((out / "logs" / "sub-01_report.json").read_text())["exit_code"] == 75


@needs_dask
def test_what_cannot_be_cured_is_tried_once(work, tmp_path):
    outcomes, _ = work("dask", Trouble(tmp_path, "02", "bad", times=99))
    assert len(list(tmp_path.glob("try-*"))) == 1
    failed = {n: r for n, r in results(outcomes).items() if r.status == "failed"}
    assert {r.errors[0].what for r in failed.values()} == {"not now"}
    assert len(failed) == 2


@needs_dask
def test_workers_of_others_are_found_by_their_address(work, fake, tmp_path):
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(host="127.0.0.1", **options) as cluster:
        address = cluster.scheduler_address
        outcomes, _ = work(f"dask:{address}", fake)
        assert {r.status for r in results(outcomes).values()} == {"done"}
        with pytest.raises(UsageError, match="no worker of this cluster offers GPU") as caught:
            work(f"dask:{address}", fake, device="cuda")
        assert "--resources 'GPU=1'" in caught.value.fix


@needs_dask
def test_a_unit_of_a_gpu_goes_to_the_worker_that_offers_one(work, fake, tmp_path):
    from distributed import Nanny, Scheduler, SpecCluster

    options = {"nthreads": 1, "host": "127.0.0.1"}
    workers = {
        "plain": {"cls": Nanny, "options": options},
        "gpu": {"cls": Nanny, "options": {**options, "resources": {"GPU": 1}}},
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
    }
    with SpecCluster(workers, scheduler) as cluster:
        outcomes, out = work(f"dask:{cluster.scheduler_address}", fake, device="cuda")
        pids = {name: worker.pid for name, worker in cluster.workers.items()}
    assert {r.status for r in results(outcomes).values()} == {"done"}
    who = {p.stem.rpartition("_")[2] for p in (out / "logs").glob("*.log")}
    assert str(pids["gpu"]) in who
    assert str(pids["plain"]) not in who


@needs_dask
def test_workers_that_are_jobs_read_our_configuration():
    import dask

    given = dict(line.split("=") for line in executor_dask._of_workers())
    assert given["DASK_DISTRIBUTED__WORKER__DAEMON"] == "False"
    read = dask.config.collect_env(given)
    assert read["distributed"]["worker"]["daemon"] is False
    assert set(read["distributed"]["worker"]["memory"].values()) == {False}


@needs_dask
def test_a_scheduler_that_does_not_answer_is_a_wrong_address(work, fake, monkeypatch):
    monkeypatch.setattr(executor_dask, "PATIENCE", "1s")
    with pytest.raises(UsageError, match="no scheduler answers"):
        work("dask:127.0.0.1:9", fake)


def test_the_door_to_dask_is_narrow():
    """What imports distributed stands in two modules, so that nothing else needs it."""
    root = Path(executor_dask.__file__).parent
    found = {
        path.name
        for path in root.rglob("*.py")
        if re.search(r"^\s*(from|import) (distributed|dask)", path.read_text(), re.MULTILINE)
    }
    assert found == {"executor_dask.py", "executor_dask_worker.py"}
