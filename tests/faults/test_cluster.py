"""Jobs on a real cluster of two nodes: an array, a node that drops out, requeues, the group."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from neurostorm_app.bids_app.verbs.slurm import add_slurm, call_slurm
from neurostorm_app.bids_app.words.grammar import Parser

spec = importlib.util.spec_from_file_location(
    "slurm_loopback", Path(__file__).with_name("slurm_loopback.py")
)
assert spec is not None
assert spec.loader is not None
loopback = importlib.util.module_from_spec(spec)
sys.modules["slurm_loopback"] = loopback  # dataclasses look it up
spec.loader.exec_module(loopback)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * loopback.PATIENCE),
    pytest.mark.skipif(
        bool(loopback.lacking()), reason=f"SLURM is not installed: no {loopback.lacking()}"
    ),
]
N = 8
STAND_IN = r"""
# A stand-in for the app: notes when it starts and ends, waits for a file, obeys SIGTERM.
out=$2 level=$3; shift 3
labels=() shard= models=connectome
while [ $# -gt 0 ]; do
    case $1 in
        --participant-label)
            shift
            while [ $# -gt 0 ] && [[ $1 != -* ]]; do labels+=("$1"); shift; done
            ;;
        --shard) shard=$2; shift 2 ;;
        --models) models=$2; shift ;;
        -w) [ -d "$2" ] || exit 73; shift 2 ;;
        *) shift ;;
    esac
done
trap 'kill $! 2>/dev/null; echo "$level term ${labels[*]}" >> "$out/trace"; exit 75' TERM
echo "$level start ${labels[*]:-$shard} $SLURMD_NODENAME ${SLURM_RESTART_COUNT:-0}" >> "$out/trace"
until [ -e "$out/go" ]; do sleep 0.2 & wait $!; done
if [ -e "$out/busy-${labels[0]:-none}" ]; then rm "$out/busy-${labels[0]}"; exit 75; fi
if [ -e "$out/broken-${labels[0]:-none}" ]; then exit 65; fi
for label in "${labels[@]}"; do
    mkdir -p "$out/logs"
    printf '{"run": "%s", "status": "done", "exit_code": 0, "error": null, "models": ["%s"]}' \
        "$label" "$models" > "$out/logs/sub-${label}_task-rest_report.json"
done
echo "$level end ${labels[*]:-$shard}" >> "$out/trace"
"""


@pytest.fixture
def up():
    with loopback.cluster(cpus=2) as cluster:
        yield cluster


@pytest.fixture
def bids(tmp_path):
    root = tmp_path / "a study" / "bids"
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "none", "BIDSVersion": "1.8.0"}')
    for label in range(1, N + 1):
        (root / f"sub-{label:02}").mkdir()
    return root


class Study:
    """A dataset, its stand-in for the app, and its scripts."""

    def __init__(self, bids: Path, *options: str) -> None:
        self.bids, self.out = bids, bids.parent / "out's"
        self.folder = bids.parent / "scripts 100%"
        self.out.mkdir()
        (bids.parent / "app").write_text(STAND_IN)
        self.words = [str(bids), str(self.out), "--out-dir", str(self.folder)]
        self.words += ["--cpus", "1", "--mem", "200", "--group-mem", "200", "--gpu-mem", "200"]
        self.words += ["--command", f"bash '{bids.parent}/app'", *options]

    def tool(self, *more: str) -> None:
        """Call the verb; what is added stands before the words for the app."""
        parser = Parser(prog="neurostorm-tools slurm")
        add_slurm(parser)
        call_slurm(parser.parse_args([*self.words[:4], *more, *self.words[4:]]))

    def submit(self, up) -> dict[str, list[str]]:
        """Queue all, and give the numbers of the jobs by the name of their script."""
        printed = up.call("bash", self.folder / "submit.sh")
        jobs: dict[str, list[str]] = {}
        for name, job in re.findall(r"(\w+): (\d+)", printed):
            jobs.setdefault(name, []).append(job)
        return jobs

    def trace(self, *words: str) -> list[str]:
        """Read what the stand-in noted, as far as it begins with some words."""
        path = self.out / "trace"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(" ".join(words))]


def test_eight_phantom_participants_go_all_the_way(one_head, tmp_path, capsys, tally):
    words, options = scripts(tmp_path, one_head)
    lost, logs = all_the_way(tmp_path, tally)
    assert lost["JobState"] == "COMPLETED", logs
    assert lost["Restarts"] == "1"
    out = tmp_path / "out"
    named = [out / name for run in done_runs(out) for name in run["outputs"]]
    assert not [path for path in named if not path.is_file()]
    assert (out / "group.html").is_file(), logs
    assert not list(out.glob(".work-*/**/*.nii*")), "nothing half-made is left"
    assert not list(out.rglob("*.part"))
    index = (out / "retrieval").glob("*_index.tsv")
    assert len(next(index).read_text().splitlines()) == 1 + N
    capsys.readouterr()
    call(*words, "--status", "--", *options)
    assert "8 participants: 8 done, 0 without all models, 0 failed" in capsys.readouterr().out


def test_an_array_outlives_nodes_that_drop_out_and_a_full_machine(up, bids, capsys, tally):
    study = Study(bids)
    study.tool()
    (study.out / "busy-03").touch()
    jobs = study.submit(up)
    array = jobs["participant"][0]
    up.wait(lambda: len(study.trace("participant start")) == 4, what="4 tasks")
    first, second = up.nodes
    drained, killed = up.running(second)[0], up.running(first)
    up.set_node(second, "DRAIN")
    up.call("scontrol", "requeue", drained)
    up.lose(first)
    up.wait(lambda: not up.running(first), what="tasks of the lost node in the queue again")
    (study.out / "go").touch()
    up.wait(lambda: study.trace("participant end"), what="the end of what the node still did")
    up.wait(lambda: not up.running(second), what="a node without work")
    assert "drain" in up.state_of(second)
    assert len(study.trace("participant end")) == 1
    up.restore(first)
    up.wait(lambda: len(study.trace("participant end")) >= 4, what="4 ends")
    up.set_node(second, "RESUME")
    up.wait(lambda: not up.queued(), what="the end")
    labels = {line.split()[2] for line in study.trace("participant end")}
    tally("node lost", injected=2, survived=2 * (len(labels) == N))
    assert labels == {f"{label:02}" for label in range(1, N + 1)}
    assert study.trace()[-1] == "group end "
    assert len(study.trace("group start")) == 1
    restarts = Counter(
        line.split()[2] for line in study.trace("participant start") if not line.endswith(" 0")
    )
    lost = [f"{int(task.partition('_')[2]) + 1:02}" for task in [drained, *killed]]
    assert len(killed) == 2
    assert restarts == Counter([*lost, "03"]), "exit code 75 queues that task again, and only it"
    assert "requeueing" in (study.folder / "log" / f"participant-{array}_2.out").read_text()
    capsys.readouterr()
    study.tool("--status")
    assert "8 participants: 8 done" in capsys.readouterr().out


def test_a_signal_reaches_the_app_and_the_job_goes_on_later(up, bids, tally):
    study = Study(bids, "--", "--participant-label", "05")
    study.tool()
    job = study.submit(up)["participant"][0]
    up.wait(lambda: study.trace("participant start"), what="the start")
    up.call("scancel", "--batch", "--signal=TERM", f"{job}_0")
    up.wait(lambda: study.trace("participant term"), what="the signal")
    (study.out / "go").touch()
    up.wait(lambda: not up.queued(), what="the end")
    lines = [line.split()[1] for line in study.trace("participant")]
    tally("time limit of a job", survived=lines[-1] == "end")
    assert lines == ["start", "term", "start", "end"]
    assert study.trace("group end")


def test_a_cancelled_job_stays_cancelled(up, bids):
    study = Study(bids, "--", "--participant-label", "05")
    study.tool()
    job = study.submit(up)["participant"][0]
    up.wait(lambda: study.trace("participant start"), what="the start")
    up.call("scancel", job)
    up.wait(lambda: not up.queued(), what="an empty queue")
    (study.out / "go").touch()
    time.sleep(3)
    assert not up.queued()
    assert up.state(job)["JobState"] == "CANCELLED"
    assert not study.trace("participant end") + study.trace("group")


def test_a_job_that_never_has_room_is_given_up_after_so_many_times(up, bids):
    study = Study(bids, "--requeues", "1", "--", "--participant-label", "05")
    (bids.parent / "app").write_text('echo x >> "$2/trace"; exit 75')
    study.tool()
    job = study.submit(up)["participant"][0]
    up.wait(lambda: not up.queued(), what="the end")
    assert len(study.trace("x")) == 2
    assert up.state(job)["ExitCode"] == "75:0"


def test_the_models_wait_for_the_runs_that_fill_their_job(up, bids, capsys):
    options = ("--split", "--chunk", "3", "--parts", "2", "--max-array", "5")
    study = Study(bids, *options, "--", "--models", "brainlm-demo")
    study.tool()
    (study.out / "broken-04").touch()
    (study.out / "go").touch()
    jobs = study.submit(up)
    assert [len(jobs[name]) for name in ("preprocess", "inference")] == [2, 3]
    up.wait(lambda: not up.queued(), what="the end")
    ends = [line.split(" ", 2)[2] for line in study.trace("participant end")]
    assert set(ends) == {"01 02 03", "07 08", "01", "02", "03", "05", "06", "07", "08"}
    assert max(ends.index(label) for label in ("01", "02", "03")) < ends.index("01 02 03")
    assert not study.trace("group"), "afterok holds the group level back"
    (study.out / "broken-04").unlink()
    capsys.readouterr()
    study.tool("--status")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 participants: 5 done, 2 without all models, 0 failed, 1 missing")
    start = lines.index("to queue what is left, and the group level after it:") + 1
    assert [line.split("=")[0] for line in lines[start + 1 : -1]] == ["first0", "then0", "parts"]
    up.call("bash", "-ec", "\n".join(lines[start:]))
    up.wait(lambda: not up.queued(), what="the end of the rest")
    assert {line.split(" ", 2)[2] for line in study.trace("participant end")} >= {"04", "04 05 06"}
    assert len(study.trace("participant start 01 02 03")) == 1, "what was done is left alone"
    ends = [line.rstrip() for line in study.trace("group end")]
    assert sorted(ends[:2]) == ["group end 1/2", "group end 2/2"]
    assert ends[2:] == ["group end"]


def call(*words: str) -> None:
    """Call the verb."""
    parser = Parser(prog="neurostorm-tools slurm")
    add_slurm(parser)
    call_slurm(parser.parse_args(words))


def scripts(folder: Path, study: Path) -> tuple[list[str], list[str]]:
    """Write the scripts of a small study; give what was said before and after ``--``."""
    app = Path(sys.executable).with_name("neurostorm-app")
    words = [str(study / "bids"), str(folder / "out"), "--out-dir", str(folder / "scripts")]
    words += ["--command", str(app), "--cpus", "1", "--mem", "4G", "--group-mem", "4G"]
    options = ["--models", "connectome", "--output-spaces", "MNI152NLin6Asym:res-native"]
    options += ["--derivatives", f"prep={study / 'anatomy'}"]
    options += ["--nprocs", "1", "--omp-nthreads", "1", "--report-viewer", "off"]
    call(*words, "--", *options)
    return words, options


def all_the_way(folder: Path, tally) -> tuple[dict[str, str], str]:
    """Let a cluster work on a study, a node of it drained in the middle; give the task it cost."""
    out = folder / "out"
    with loopback.cluster(cpus=1) as up:  # one task a node
        printed = up.call("bash", folder / "scripts" / "submit.sh")
        group = re.search(r"group: (\d+)", printed)[1]
        node = up.nodes[1]
        up.wait(lambda: len(done_runs(out)) >= 2 and up.running(node), what="2 runs")
        lost = up.running(node)[0]
        before = hashes(out)
        up.set_node(node, "DRAIN")
        up.call("scontrol", "requeue", lost)
        up.wait(lambda: not up.running(node), what="a node without work")
        assert "drain" in up.state_of(node)
        up.wait(lambda: len(done_runs(out)) >= 4, what="4 runs")
        assert not up.running(node)
        up.set_node(node, "RESUME")
        up.wait(lambda: not up.queued(), what="the end")
        ended, whole = up.state(lost), up.state(group)
    logs = "\n".join(path.read_text() for path in (folder / "scripts" / "log").iterdir())
    states, after = [run["status"] for run in done_runs(out)], hashes(out)
    n_bytes = sum(size for name, (size, sha256) in before.items() if after[name][1] != sha256)
    survived = states == ["done"] * N and whole["JobState"] == "COMPLETED"
    tally("node lost", survived=int(survived), bytes_lost=n_bytes)
    assert states == ["done"] * N, logs
    assert whole["JobState"] == "COMPLETED", logs
    assert before, "something was finished before the node was lost"
    assert not n_bytes
    return ended, logs


def done_runs(out: Path) -> list[dict]:
    """Read the reports of the runs that are over."""
    paths = sorted((out / "logs").glob("sub-*_task-*_report.json"))
    return [json.loads(path.read_text()) for path in paths]


def hashes(out: Path) -> dict[str, tuple[int, str]]:
    """Size and hash of all results of the runs that are over."""
    names = {name for run in done_runs(out) for name in run["outputs"]}
    content = {
        name: (out / name).read_bytes() if (out / name).is_file() else b"" for name in sorted(names)
    }
    return {name: (len(text), hashlib.sha256(text).hexdigest()) for name, text in content.items()}
