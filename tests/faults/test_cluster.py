"""Jobs on a real cluster of two nodes: an array, a node that drops out, requeues, the group."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neurostorm_app.bids_app.cli import Parser
from neurostorm_app.bids_app.verbs.slurm import add_slurm, call_slurm

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
    pytest.mark.skipif(
        bool(loopback.lacking()), reason=f"SLURM is not installed: no {loopback.lacking()}"
    ),
]
N = 8
STAND_IN = r"""
# A stand-in for the app: notes when it starts and ends, sleeps, obeys SIGTERM.
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
trap 'kill $!; echo "$level term ${labels[*]}" >> "$out/trace"; exit 75' TERM
echo "$level start ${labels[*]:-$shard} $SLURMD_NODENAME ${SLURM_RESTART_COUNT:-0}" >> "$out/trace"
sleep "$(cat "$out/seconds")" & wait $!
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

    def __init__(self, bids: Path, *options: str, seconds: float = 1.0) -> None:
        self.bids, self.out = bids, bids.parent / "out's"
        self.folder = bids.parent / "scripts 100%"
        self.out.mkdir()
        (self.out / "seconds").write_text(str(seconds))
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


def test_an_array_outlives_a_drained_node_a_lost_task_and_a_full_machine(up, bids, capsys):
    study = Study(bids, seconds=3)
    study.tool()
    (study.out / "busy-03").touch()
    jobs = study.submit(up)
    up.wait(lambda: len(study.trace("participant start")) >= 4, seconds=60, what="4 tasks")
    array, first = jobs["participant"][0], up.queued()[0]
    lost = next(line for line in up.queued() if "RUNNING" in line and line.endswith(up.nodes[1]))
    up.call("scontrol", "update", f"NodeName={up.nodes[1]}", "State=DRAIN", "Reason=test")
    up.call("scontrol", "requeue", lost.split()[0])
    up.wait(lambda: len(study.trace("participant end")) >= 5, seconds=90, what="5 ends")
    assert "drain" in up.call("sinfo", "-h", "-N", "-n", up.nodes[1], "-o", "%T")
    up.call("scontrol", "update", f"NodeName={up.nodes[1]}", "State=RESUME")
    up.wait(lambda: not up.queued(), seconds=180, what=f"the end; first was {first}")
    labels = {line.split()[2] for line in study.trace("participant end")}
    assert labels == {f"{label:02}" for label in range(1, N + 1)}
    assert study.trace()[-1] == "group end "
    assert len(study.trace("group start")) == 1
    again = [line for line in study.trace("participant start 03") if line.endswith(" 1")]
    assert again, "exit code 75 queues the task again, and only that"
    restarts = [line for line in study.trace("participant start") if not line.endswith(" 0")]
    assert len(restarts) == 2, restarts
    assert "requeueing" in (study.folder / "log" / f"participant-{array}_2.out").read_text()
    capsys.readouterr()
    study.tool("--status")
    assert "8 participants: 8 done" in capsys.readouterr().out


def test_a_signal_reaches_the_app_and_the_job_goes_on_later(up, bids):
    study = Study(bids, "--", "--participant-label", "05", seconds=4)
    study.tool()
    job = study.submit(up)["participant"][0]
    up.wait(lambda: study.trace("participant start"), seconds=30, what="the start")
    up.call("scancel", "--batch", "--signal=TERM", f"{job}_0")
    up.wait(lambda: not up.queued(), seconds=90, what="the end")
    lines = [line.split()[1] for line in study.trace("participant")]
    assert lines == ["start", "term", "start", "end"]
    assert study.trace("group end")


def test_a_cancelled_job_stays_cancelled(up, bids):
    study = Study(bids, "--", "--participant-label", "05", seconds=30)
    study.tool()
    job = study.submit(up)["participant"][0]
    up.wait(lambda: study.trace("participant start"), seconds=30, what="the start")
    up.call("scancel", job)
    up.wait(lambda: not up.queued(), seconds=60, what="an empty queue")
    time.sleep(3)
    assert not up.queued()
    assert up.state(job)["JobState"] == "CANCELLED"
    assert not study.trace("participant end") + study.trace("group")


def test_a_job_that_never_has_room_is_given_up_after_so_many_times(up, bids):
    study = Study(bids, "--requeues", "1", "--", "--participant-label", "05", seconds=0.1)
    (bids.parent / "app").write_text('echo x >> "$2/trace"; exit 75')
    study.tool()
    job = study.submit(up)["participant"][0]
    up.wait(lambda: not up.queued(), seconds=90, what="the end")
    assert len(study.trace("x")) == 2
    assert up.state(job)["ExitCode"] == "75:0"


def test_the_models_wait_for_the_runs_that_fill_their_job(up, bids, capsys):
    options = ("--split", "--chunk", "3", "--parts", "2", "--max-array", "5")
    study = Study(bids, *options, "--", "--models", "brainlm-demo")
    study.tool()
    (study.out / "broken-04").touch()
    jobs = study.submit(up)
    assert [len(jobs[name]) for name in ("preprocess", "inference")] == [2, 3]
    up.wait(lambda: not up.queued(), seconds=120, what="the end")
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
    up.wait(lambda: not up.queued(), seconds=120, what="the end of the rest")
    assert {line.split(" ", 2)[2] for line in study.trace("participant end")} >= {"04", "04 05 06"}
    assert len(study.trace("participant start 01 02 03")) == 1, "what was done is left alone"
    ends = [line.rstrip() for line in study.trace("group end")]
    assert sorted(ends[:2]) == ["group end 1/2", "group end 2/2"]
    assert ends[2:] == ["group end"]


def test_eight_phantom_participants_go_all_the_way(up, tmp_path, capsys):
    app = Path(sys.executable).with_name("neurostorm-app")
    bids, out, folder = (tmp_path / name for name in ("bids", "out", "scripts"))
    words = ["phantom", str(bids), "--participants", "8", "--runs", "1", "--volumes", "24"]
    tools = [str(app.with_name("neurostorm-tools")), *words, "--scale", "tiny"]
    subprocess.run(tools, check=True, capture_output=True)
    parser = Parser(prog="neurostorm-tools slurm")
    add_slurm(parser)
    words = [str(bids), str(out), "--out-dir", str(folder), "--command", str(app), "--cpus", "1"]
    words += ["--mem", "4G", "--group-mem", "4G", "--limit", "2"]
    words += ["--", "--models", "connectome", "--nprocs", "1", "--omp-nthreads", "1"]
    call_slurm(parser.parse_args(words))
    up.call("bash", folder / "submit.sh")
    reports = out / "logs"
    up.wait(lambda: len(list(reports.glob("sub-*_report.json"))) >= 2, seconds=600, what="2 runs")
    up.call("scontrol", "update", f"NodeName={up.nodes[1]}", "State=DRAIN", "Reason=test")
    lost = next(line.split()[0] for line in up.queued() if "RUNNING" in line)
    up.call("scontrol", "requeue", lost)
    up.wait(lambda: len(list(reports.glob("sub-*_report.json"))) >= 4, seconds=600, what="4 runs")
    up.call("scontrol", "update", f"NodeName={up.nodes[1]}", "State=RESUME")
    up.wait(lambda: not up.queued(), seconds=1500, what="the end")
    logs = "\n".join(path.read_text() for path in (folder / "log").iterdir())
    runs = [json.loads(path.read_text()) for path in reports.glob("sub-*_report.json")]
    assert [run["status"] for run in runs] == ["done"] * N, logs
    missing = [name for run in runs for name in run["outputs"] if not (out / name).is_file()]
    assert not missing
    assert (out / "group.html").is_file(), logs
    assert not list(out.glob(".work-*/**/*.nii*")), "nothing half-made is left"
    index = (out / "retrieval").glob("*_index.tsv")
    assert len(next(index).read_text().splitlines()) == 1 + N
    capsys.readouterr()
    call_slurm(
        parser.parse_args([*words[: words.index("--")], "--status", *words[words.index("--") :]])
    )
    assert "8 participants: 8 done, 0 without all models, 0 failed" in capsys.readouterr().out
