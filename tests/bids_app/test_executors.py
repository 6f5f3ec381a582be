"""The same work by this process and by workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.clusters import executor_dask, sharing
from neurostorm_app.bids_app.clusters.executors import failed, forget_renamed, work_through
from neurostorm_app.bids_app.clusters.sharing import divide, memory_of_unit
from neurostorm_app.bids_app.clusters.status import read_standing
from neurostorm_app.bids_app.inputs.dataset import Found, find_runs
from neurostorm_app.bids_app.participant.admission import check_memory
from neurostorm_app.bids_app.participant.needs import memory_of_run
from neurostorm_app.bids_app.participant.units import Call
from neurostorm_app.bids_app.provenance import Ledger
from neurostorm_app.bids_app.words.options import Execution
from neurostorm_app.errors import (
    AppError,
    CorruptImageError,
    ExitCode,
    NothingSelectedError,
    TemporaryError,
    UsageError,
)
from neurostorm_app.pipelines.need import Need, Step
from neurostorm_app.pipelines.resources import Plan

from .conftest import Fake

GIB = 2**30
needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None,
    reason="distributed is not installed: pip install 'neurostorm-app[cluster]'",
)
DONE = {"done", "reused"}
"""A worker that dies may take along what the scheduler had not yet fetched: it is asked again."""


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


HELD = 600
"""Seconds for which a unit lets its worker answer nobody."""


class Holding(Fake):
    """Engines that fail for one participant while a worker is deep in the other one's work."""

    def __init__(self, failing: Trouble) -> None:
        super().__init__()
        self.failing = failing

    def preprocess(self, wanted, **words):
        began = self.failing.folder / "began"
        if f"sub-{self.failing.label}_" not in wanted.t1w[0].name:
            began.touch()
            ctypes.PyDLL(None).sleep(HELD)  # in code that does not let others run
            (self.failing.folder / "waited for").touch()
        while not began.exists():
            time.sleep(0.05)
        return self.failing.preprocess(wanted, **words)


def make_call(asked, engines: Fake) -> Call:
    """Make what the units of a call share."""
    out = asked.output_dir
    work = out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    return Call(
        settings=asked,
        engines=engines.engines(),
        ledger=Ledger(out),
        plan=Plan(2, 1, 4 * GIB),
        models=(engines.find_model("connectome", asked.science),),
        missing={},
        scratch=work / "scratch",
        series_dir=work / "series",
    )


@pytest.fixture
def call(settings, fake) -> Call:
    return make_call(settings(), fake)


@pytest.fixture
def work(settings, tmp_path, monkeypatch):
    """Work through the tiny dataset by some executor; give the outcomes and the output folder."""
    # Workers import the engines from the tests.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))

    def run(executor: str, engines: Fake, *, out: str = "out", **options):
        asked = settings(**options).model_copy(update={"output_dir": tmp_path / out})
        call = make_call(asked, engines)
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


def misname(dataset, label, name):
    """Put a run of another name beside those of a participant."""
    path = dataset.root / f"sub-{label}" / "func" / name
    path.write_bytes(dataset.bold(label).read_bytes())
    return path


def test_a_misnamed_run_does_not_touch_what_is_said_of_another(settings, fake, dataset, tmp_path):
    logs = tmp_path / "out" / "logs"
    assert run_app(settings(), engines=fake.engines()).exit_code == ExitCode.SUCCESS
    before = (logs / "sub-02_task-rest_run-1_report.json").read_bytes()
    misname(dataset, "01", "sub-02_task-rest_run-1_bold.nii.gz")
    result = run_app(settings(participant_label=["01"]), engines=fake.engines())
    assert result.exit_code == ExitCode.DATA
    assert (logs / "sub-02_task-rest_run-1_report.json").read_bytes() == before
    standing = read_standing(tmp_path / "out", ["01", "02"], ["connectome"])
    assert standing.done == [1]
    assert standing.failed[0][1] == 65


def test_bad_names_of_many_participants_are_all_told_until_they_are_mended(
    settings, fake, dataset, tmp_path
):
    bad = [misname(dataset, label, "rest_bold.nii.gz") for label in ("01", "02")]
    bad.append(misname(dataset, "02", "sub-02_task-re st_bold.nii.gz"))
    result = run_app(settings(), engines=fake.engines())
    assert [run.status for run in result.runs].count("failed") == 3
    assert [run.status for run in result.runs].count("done") == 4
    standing = read_standing(tmp_path / "out", ["01", "02"], ["connectome"])
    assert sorted(standing.failed) == [0, 1]
    assert {code for _, code, _ in standing.failed.values()} == {65}
    for path in bad:
        path.unlink()
    result = run_app(settings(participant_label=["02"]), engines=fake.engines())
    assert result.exit_code == ExitCode.SUCCESS
    standing = read_standing(tmp_path / "out", ["01", "02"], ["connectome"])
    assert (sorted(standing.failed), standing.done) == ([0], [1])


@pytest.mark.parametrize(("options", "code"), [({}, 0), ({"participant_label": ["03"]}, 18)])
def test_a_bad_name_is_forgotten_though_the_participant_has_no_run(
    settings, fake, dataset, tmp_path, options, code
):
    dataset.participant("03", runs=())
    place = dataset.root / "sub-03" / "func"
    place.mkdir(parents=True)
    path = misname(dataset, "01", "x_bold.nii.gz").rename(place / "sub-03_task-re st_bold.nii.gz")
    assert run_app(settings(), engines=fake.engines()).exit_code == ExitCode.DATA
    labels = ["01", "02", "03"]
    assert read_standing(tmp_path / "out", labels, ["connectome"]).failed.keys() == {2}
    path.unlink()
    with contextlib.suppress(NothingSelectedError):
        run_app(settings(dry_run=True, **options), engines=fake.engines())
    assert len(list((tmp_path / "out" / "logs").glob("sub-03_file-*"))) == 1
    try:
        found = run_app(settings(**options), engines=fake.engines()).exit_code
    except AppError as error:
        found = error.exit_code
    assert found == code
    assert not read_standing(tmp_path / "out", labels, ["connectome"]).failed


def test_what_was_not_listed_to_the_end_forgets_nothing(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    names = [f"sub-{label}_file-0123abcd" for label in ("01", "02", "03", "04")]
    for name in [*names, "sub-02_task-rest"]:
        (logs / f"{name}_report.json").touch()
    error = CorruptImageError("bad", fix="none")
    failures = {"sub-01": error, "sub-01_task-a": error, "sub-02_task-a": error}
    found = Found(failed={**failures, names[2]: error}, listed={"02", "03"})
    forget_renamed(found, tmp_path)
    left = [path.name.removesuffix("_report.json") for path in logs.iterdir()]
    assert sorted(left) == [names[0], "sub-02_task-rest", names[2], names[3]]


@pytest.mark.parametrize("name", ["sub-" + "a" * 250, "../../x", "J\udcf6rg\n", "a/b"])
def test_a_failure_of_any_name_has_a_report_in_its_folder(call, tmp_path, name):
    result = failed(name, CorruptImageError("bad", fix="none"), call)
    assert (result.name, result.exit_code) == (name, ExitCode.DATA)
    (path,) = (tmp_path / "out" / "logs").iterdir()
    assert re.fullmatch(r"[0-9A-Za-z_+-]{1,213}_cut-[0-9a-f]{8}_report\.json", path.name)
    assert json.loads(path.read_text())["run"] == name


def test_a_report_that_cannot_be_written_is_told_and_stops_nobody(call, tmp_path):
    (tmp_path / "out" / "logs").touch()
    result = failed("sub-01", CorruptImageError("bad", fix="none"), call)
    first, second = (error.what for error in result.errors)
    assert first == "bad"
    assert "logs: File exists" in second


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
    assert [name[:22] for name in results(outcomes)] == ["sub-01_task-rest_run-1"]
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


def test_a_unit_asks_for_what_its_largest_run_takes(settings, fake, tmp_path, monkeypatch):
    asked = settings(executor="dask:head:8786")
    call = Call(
        settings=asked,
        engines=fake.engines(),
        ledger=Ledger(tmp_path / "out"),
        plan=Plan(6, 1, 64 * GIB),
        models=(fake.find_model("connectome", asked.science),),
        missing={},
        scratch=tmp_path,
        series_dir=tmp_path,
    )
    one, two = find_runs(asked).participants
    few, real = memory_of_unit([one], call), sharing.memory_of_run
    assert GIB < few < 2 * GIB
    huge = Need(steps=(Step("huge", 6 * GIB, 1),))

    def memory_of(participant, run, call):
        return huge if run.name == "sub-02_task-rest_run-2" else real(participant, run, call)

    monkeypatch.setattr(sharing, "memory_of_run", memory_of)
    many = memory_of_unit([one, two], call)
    assert (memory_of_unit([one], call), many) == (few, 6 * GIB)
    offered = {"GPU": 1, "MEMORY": 64 * GIB}
    ask = executor_dask._asked
    assert ask([one], call, offered, GIB) == {"GPU": 1, "MEMORY": few}
    assert ask([one], call, offered, 2 * GIB)["MEMORY"] == 2 * GIB, "of a process"
    assert ask([one, two], call, offered, GIB)["MEMORY"] == many
    assert ask([one, two], call, {"MEMORY": GIB}, GIB)["MEMORY"] == GIB, "of the largest worker"
    assert ask([one], call, {"GPU": 1}, GIB) == {"GPU": 1}, "none says what it has"


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
    assert {r.status for r in results(outcomes).values()} <= DONE
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
    assert {r.status for n, r in results(outcomes).items() if "sub-02" in n} <= DONE
    assert json.loads((out / "logs" / "sub-01_report.json").read_text())["exit_code"] == 75


@needs_dask
def test_what_cannot_be_cured_is_tried_once(work, tmp_path):
    outcomes, _ = work("dask", Trouble(tmp_path, "02", "bad", times=99))
    assert len(list(tmp_path.glob("try-*"))) == 1
    failed = {n: r for n, r in results(outcomes).items() if r.status == "failed"}
    assert {r.errors[0].what for r in failed.values()} == {"not now"}
    assert len(failed) == 2


@needs_dask
def test_the_first_failure_ends_the_work_of_workers_where_that_was_asked(work, tmp_path, caplog):
    failing = Trouble(tmp_path, "01", "bad", times=99)
    outcomes, _ = work("dask", Holding(failing), stop_on_first_crash=True)
    assert not (tmp_path / "waited for").exists()
    assert [run.status for run in results(outcomes).values()] == ["failed"]
    assert "stopped at the first failure: 1 participants not tried" in caplog.text


@needs_dask
def test_a_busy_worker_of_others_is_not_waited_for_at_the_first_failure(
    work, tmp_path, monkeypatch
):
    from distributed import LocalCluster

    monkeypatch.setattr(executor_dask, "FAREWELL", "1s")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(host="127.0.0.1", **options) as cluster:
        failing = Trouble(tmp_path, "01", "bad", times=99)
        outcomes, _ = work(
            f"dask:{cluster.scheduler_address}", Holding(failing), stop_on_first_crash=True
        )
        assert not (tmp_path / "waited for").exists()
        assert plugins_of(cluster) == []
    assert [run.status for run in results(outcomes).values()] == ["failed"]


def plugins_of(cluster):
    """Name what a scheduler would give to workers for us."""
    return [name for name in cluster.scheduler.worker_plugins if name.startswith("neurostorm")]


@needs_dask
def test_workers_of_others_are_found_by_their_address_and_left_as_they_were(
    work, fake, monkeypatch, caplog
):
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(host="127.0.0.1", **options) as cluster:
        address = cluster.scheduler_address
        outcomes, _ = work(f"dask:{address}", fake)
        assert {r.status for r in results(outcomes).values()} == {"done"}
        with pytest.raises(UsageError, match="no worker of this cluster offers GPU") as caught:
            work(f"dask:{address}", fake, device="cuda")
        assert "--resources 'GPU=1'" in caught.value.fix
        assert plugins_of(cluster) == []

        def interrupted(client, *args):
            assert len(plugins_of(cluster)) == 1
            raise KeyboardInterrupt

        monkeypatch.setattr(executor_dask, "_outcomes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work(f"dask:{address}", fake)
        assert plugins_of(cluster) == []

        def left(client, *args):
            client.sync(client.scheduler.unregister_worker_plugin, name=plugins_of(cluster)[0])
            return outcomes

        monkeypatch.setattr(executor_dask, "_outcomes", left)
        with caplog.at_level("DEBUG", logger=executor_dask.__name__):
            assert work(f"dask:{address}", fake)[0] == outcomes, "what was done is not lost"
        assert "was not taken off every worker: ValueError" in caplog.text


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


class Told(Fake):
    """Engines that write down by which plan they were called."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def preprocess(self, wanted, *, work_dir, series_dir, settings, plan):
        (self.folder / f"plan-{os.getpid()}.json").write_text(json.dumps(plan.memory))
        return super().preprocess(
            wanted, work_dir=work_dir, series_dir=series_dir, settings=settings, plan=plan
        )


@pytest.fixture
def offering():
    """Start workers that offer memory; give the address of their scheduler."""
    distributed = pytest.importorskip("distributed")

    @contextlib.contextmanager
    def start(*sizes):
        options = {"nthreads": 1, "host": "127.0.0.1"}
        workers = {
            name: {
                "cls": distributed.Nanny,
                "options": {**options, "resources": {"MEMORY": size}},
            }
            for name, size in enumerate(sizes)
        }
        scheduler = {
            "cls": distributed.Scheduler,
            "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
        }
        with distributed.SpecCluster(workers, scheduler) as cluster:
            yield f"dask:{cluster.scheduler_address}", [w.pid for w in cluster.workers.values()]

    return start


@needs_dask
def test_a_unit_goes_where_there_is_as_much_memory_as_its_runs_take(work, tmp_path, offering):
    small, large = int(1.25 * GIB), 2 * GIB  # a process may take 1 GiB, a unit takes 1.4 GiB
    with offering(small, small, large) as (executor, pids):
        outcomes, _ = work(executor, Told(tmp_path))
    assert {r.status for r in results(outcomes).values()} == {"done"}
    plans = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("plan-*.json")}
    assert plans == {f"plan-{pids[-1]}": large}, "it stays under what it offers"


@needs_dask
def test_a_unit_that_takes_more_than_any_worker_offers_is_refused_and_not_left_waiting(
    work, fake, offering
):
    outcomes, _ = work("local", fake)
    with offering(GIB // 2, GIB) as (executor, _):
        outcomes, _ = work(executor, fake)
        assert {r.status for r in results(outcomes).values()} == {"reused"}, "what is there is held"
        outcomes, other = work(executor, fake, out="other")
    codes = {int(run.exit_code) for run in results(outcomes).values()}
    assert codes == {64}
    logs = "".join(path.read_text() for path in (other / "logs").glob("*.log"))
    assert "sub-02: on a worker of Dask" in logs, "a second call of workers is not the first one's"
    (error, *_) = next(iter(results(outcomes).values())).errors
    assert "sub-01 takes about 1.4 GiB of memory" in error.what
    assert "this call may use 1.0 GiB" in error.what


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
