"""Signals: how calls end that are told to, killed, or will not listen, and what they leave."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neurostorm_app.bids_app import signals
from neurostorm_app.bids_app.failures import as_app_error
from neurostorm_app.bids_app.results import Progress, contained
from neurostorm_app.bids_app.scratch import open_scratch, remove_abandoned
from neurostorm_app.bids_app.signals import Listening, Stopped
from neurostorm_app.bids_app.streams import open_streams
from neurostorm_app.pipelines.phantom import make_phantom

MODELS = ["--models", "connectome", "neurostorm-demo"]
PATIENCE = 300
"""Seconds to wait for what is to come: the machine may be busy with other things."""
SETTLED = {"GRACE": 2 * PATIENCE, "TWICE": 2 * PATIENCE}
"""With these no call is killed because it is slow, and all signals are close together."""
HEARD = """
import signal
for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(signum, signal.SIG_DFL)
"""
"""What is started in the background of a shell, or by nohup, does not hear all signals."""
WORK = f"""
{HEARD}
import contextlib, itertools, json, os, subprocess, sys, time
from pathlib import Path
from neurostorm_app.bids_app import signals
from neurostorm_app.bids_app.guard import guarded
from neurostorm_app.bids_app.results import Progress, contained
from neurostorm_app.bids_app.scratch import open_scratch
from neurostorm_app.bids_app.signals import run_apart

out, kind = Path(sys.argv[1]), sys.argv[2]
vars(signals).update(json.loads(sys.argv[3]))

@contextlib.contextmanager
def cleaning():
    try:
        yield
    finally:
        (out / "cleaning").touch()
        while not (out / "go").exists():
            time.sleep(0.01)
        (out / "cleaned").touch()

def work():
    with open_scratch(out) as folder, contextlib.ExitStack() as first:
        if kind == "cleans":  # from before it says that it is at work
            first.enter_context(cleaning())
        child = subprocess.Popen(["sleep", "600"])
        (folder / "half").write_bytes(b"x")
        print(os.getpid(), child.pid, flush=True)
        if kind.isdigit():
            os.kill(os.getpid(), int(kind))
        if kind == "contained":
            with contained(Progress("run")):
                time.sleep(600)
            (out / "went on").touch()
        for _ in range(3 * (kind == "swallows")):
            try:
                time.sleep(600)
            except BaseException:
                pass
        if kind == "computes":  # no Python runs, but what comes is noted
            told = os.open(str(out) + ".told", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
            signal.set_wakeup_fd(told)
            sum(itertools.repeat(0, 10**14))
        if kind == "ends":
            child.kill()
            child.wait()
            return 65
        time.sleep(600)

sys.exit(guarded("test", lambda _: run_apart(work, output_dir=out), None))
"""


APP = f"""
{HEARD}
import json, logging, sys, threading, time
from pathlib import Path
from neurostorm_app.bids_app import signals
from neurostorm_app.bids_app.cli import main
from neurostorm_app.bids_app.inputs import validation

how = json.loads(sys.argv.pop(1))
vars(signals).update(how["constants"])
if how["validator"]:
    validation.find_validator = lambda: Path(how["validator"])

class Hold(logging.Handler):
    def emit(self, record):
        if how["until"] in self.format(record):
            print("it is time", file=sys.stderr, flush=True)
            if threading.current_thread() is threading.main_thread():
                time.sleep(600)  # nothing goes on before the signal

if how["until"]:
    logging.getLogger("neurostorm_app").addHandler(Hold())
sys.exit(main())
"""
"""The command itself; it may come to a halt where it says some words."""

STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_is_left():
    """End what a test that failed has started."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()  # the work dies with it
        process.communicate()


def wait_for(there, what: str) -> None:
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < until, f"not in {PATIENCE} s: {what}"
        time.sleep(0.02)


def start(*command, mark: str):
    """Start a process in a session of its own, with a mark that its children inherit."""
    STARTED.append(
        subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MARK": mark},
        )
    )
    return STARTED[-1]


def living(mark: str) -> list[str]:
    """List the living processes that inherited a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if marked and state not in "ZX":
                found.append((folder / "cmdline").read_text().replace("\0", " ")[:90])
        except OSError:
            continue
    return found


def gone(mark: str) -> bool:
    wait_for(lambda: not living(mark), "the end of all that was started")
    return True


def leftovers(out: Path) -> list[Path]:
    return [p for p in out.rglob("*") if p.name.startswith(".work-") or p.name.endswith(".part")]


def work(out: Path, kind: str, **constants: float):
    """Start a call that does as `kind` says, and wait until it is at work."""
    settings = json.dumps(SETTLED | constants)
    process = start(sys.executable, "-c", WORK, out, kind, settings, mark=str(out))
    return process, [int(word) for word in process.stdout.readline().split()]


def computing(tmp_path: Path, **constants: float):
    """Start a call that computes, and wait until no Python of it runs any more."""
    out = tmp_path / "out"
    out.mkdir()
    process, pids = work(out, "computes", **constants)
    begin = busy(pids[0])
    wait_for(lambda: busy(pids[0]) >= begin + 0.3, "that it computes")
    return process, out


def busy(pid: int) -> float:
    """Tell the seconds for which a process has computed."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_call_that_is_told_to_end_ends_with_75_and_leaves_nothing(tmp_path, signum):
    process, _ = work(tmp_path, "waits")
    process.send_signal(signum)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    assert f"stopped by {signum.name}; finished results are kept" in said
    assert "call again in the same way" in said
    assert not list(tmp_path.iterdir())
    assert gone(str(tmp_path))


@pytest.fixture
def cleaning(tmp_path):
    """Start a call that is told to end by Ctrl-C, and cleans up until it may end."""
    process, _ = work(tmp_path, "cleans")
    os.killpg(process.pid, signal.SIGINT)
    wait_for((tmp_path / "cleaning").exists, "that it cleans up")

    def end() -> str:
        (tmp_path / "go").touch()
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 75
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cleaned", "cleaning", "go"]
        return said

    return process, end


def test_ctrl_c_of_a_terminal_reaches_the_work_once(cleaning):
    process, end = cleaning
    os.killpg(process.pid, signal.SIGINT)
    assert end().count("stopped by SIGINT") == 1


def test_a_signal_that_a_launcher_passes_on_too_is_one(cleaning):
    process, end = cleaning
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        process.send_signal(signum)
        time.sleep(0.1)
    assert end().count("stopped by SIGINT") == 1


def test_a_second_ctrl_c_after_a_while_ends_work_that_does_not_listen(tmp_path):
    process, out = computing(tmp_path, TWICE=0.0)
    process.send_signal(signal.SIGINT)
    wait_for((tmp_path / "out.told").read_bytes, "the first signal, which the work does not heed")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    assert said.count("stopped by SIGINT") == 1
    assert not list(out.iterdir())


def test_a_second_ctrl_c_is_one_only_after_a_while(monkeypatch):
    sent, killed, now = [], [], [100.0]
    monkeypatch.setattr(signals.os, "kill", lambda pid, signum: sent.append((pid, signum)))
    monkeypatch.setattr(signals.signal, "alarm", sent.append)
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(signals, "_kill", lambda living: killed.append(now[0]))
    child = signals._Child(17)
    for now[0] in (100.0, 100.4, 101.0, 101.6):
        child.forward(signal.SIGINT, None)
    assert sent == [signals.GRACE, (17, signal.SIGINT)]
    assert killed == [101.6]


def test_a_call_that_does_not_listen_ends_within_ten_seconds():
    # Once the work kills what it started, once the waiting process does.
    assert signals.GRACE + 2 * signals.DYING < 10  # s


def test_nobody_is_sent_a_signal_when_the_work_is_over(monkeypatch):
    """The kernel may have given its number to another process; or it is just gone."""
    sent = []

    def send(*what: int) -> None:
        sent.append(what)
        raise ProcessLookupError

    monkeypatch.setattr(signals.os, "kill", send)
    monkeypatch.setattr(signals.signal, "alarm", lambda _: None)
    child = signals._Child(17)
    child.forward(signal.SIGTERM, None)
    child.over = True
    child.forward(signal.SIGTERM, None)
    assert sent == [(17, signal.SIGTERM)]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_lead_nowhere(tmp_path, closed):
    command = ["bash", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", WORK]
    process = start(*command, tmp_path, "ends", json.dumps(SETTLED), mark=str(tmp_path))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 65, said
    assert not list(tmp_path.iterdir())


def test_streams_take_what_they_have_no_bytes_for(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    open_streams()
    print("J\udcf6rg \u2192 K\u00f6ln", flush=True)
    assert stream.buffer.getvalue() == b"J\\udcf6rg \\u2192 K\\xf6ln\n"


def state(pid: int) -> str:
    """Tell the state of a process; of one that is gone for good, that it is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def test_ctrl_z_pauses_the_work_too(tmp_path):
    process, (pid, _) = work(tmp_path, "waits")
    for signum, states in ((signal.SIGTSTP, ["T", "T"]), (signal.SIGCONT, ["S", "S"])):
        process.send_signal(signum)
        wait_for(lambda: [state(process.pid), state(pid)] == states, f"{states} of both")  # noqa: B023
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 75


@pytest.mark.parametrize("kind", ["contained", "swallows"])
def test_nothing_goes_on_after_the_signal(tmp_path, kind):
    process, _ = work(tmp_path, kind)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    assert not list(tmp_path.iterdir())


def test_work_that_cannot_listen_is_killed_and_its_scratch_removed(tmp_path):
    process, out = computing(tmp_path, GRACE=1)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    assert "stopped by SIGTERM" in said
    assert not list(out.iterdir())
    assert gone(str(out))


@pytest.mark.parametrize(
    ("signum", "code", "words"),
    [
        (signal.SIGKILL, 75, "the work was killed (SIGKILL), by whom is not known"),
        (signal.SIGBUS, 74, "a file that was being read vanished or could not be read"),
        (signal.SIGSEGV, 1, "the work ended by SIGSEGV"),
    ],
)
def test_work_that_dies_has_a_code_and_leaves_nothing(tmp_path, signum, code, words):
    process, _ = work(tmp_path, str(int(signum)))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert words in said
    assert not list(tmp_path.iterdir())
    assert gone(str(tmp_path))


def test_the_exit_code_of_the_work_is_that_of_the_call(tmp_path):
    process, _ = work(tmp_path, "ends")
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 65


def test_the_work_does_not_outlive_a_call_that_is_killed(tmp_path):
    process, (pid, child) = work(tmp_path, "waits")
    process.kill()
    process.wait(timeout=PATIENCE)
    wait_for(lambda: state(pid) in "ZX", "the end of the work")
    os.kill(child, signal.SIGKILL)  # what the work itself started is its own to look after
    process.communicate(timeout=PATIENCE)
    assert len(leftovers(tmp_path)) == 1
    assert len(remove_abandoned(tmp_path)) == 1
    assert not leftovers(tmp_path)


def test_scratch_that_is_used_is_not_abandoned(tmp_path):
    with open_scratch(tmp_path) as folder:
        code = (
            "import sys; from pathlib import Path;"
            "from neurostorm_app.bids_app.scratch import remove_abandoned;"
            "print(remove_abandoned(Path(sys.argv[1])))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == "[]"
        assert folder.is_dir()
    assert not folder.exists()


def test_scratch_of_another_machine_is_left_alone(tmp_path):
    other = tmp_path / ".work-otherhost-abc"
    other.mkdir()
    (other / "held").touch()
    assert remove_abandoned(tmp_path) == []
    assert other.is_dir()


def test_a_signal_passes_what_contains_the_errors_of_a_run():
    progress = Progress("run")
    with pytest.raises(Stopped), contained(progress):
        raise Stopped(signal.SIGTERM)
    assert progress.errors == []
    told = as_app_error(Stopped(signal.SIGTERM))
    assert (int(told.exit_code), told.what[:18]) == (75, "stopped by SIGTERM")


def listen(*, swallow: bool) -> None:
    """Be told to end, and heed it or not."""
    with Listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Stopped:
            if not swallow:
                raise


@pytest.mark.parametrize("swallow", [False, True])
def test_a_signal_is_raised_in_the_end_and_the_handlers_are_as_before(swallow):
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    with pytest.raises(Stopped) as caught:
        listen(swallow=swallow)
    assert caught.value.signum == signal.SIGTERM
    assert {s: signal.getsignal(s) for s in before} == before
    assert signal.getitimer(signal.ITIMER_REAL)[1] == 0  # it does not come again


def test_a_signal_that_comes_when_nobody_listens_any_more_is_raised_once(monkeypatch):
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    restore, came = signal.signal, []

    def late(signum, handler):
        if not came:
            came.append(signum)
            os.kill(os.getpid(), signal.SIGTERM)
        return restore(signum, handler)

    listening = Listening()
    listening.__enter__()
    monkeypatch.setattr(signals.signal, "signal", late)
    with pytest.raises(Stopped) as caught:
        listening.__exit__(None)
    assert caught.value.signum == signal.SIGTERM
    assert {s: signal.getsignal(s) for s in before} == before
    assert signal.getitimer(signal.ITIMER_REAL)[1] == 0  # it does not come again


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    make_phantom(folder / "bids", participants=1, runs=2, seed=5, scale="tiny")
    return folder / "bids"


def until_said(process, words: str) -> None:
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"{words!r} was never said")


def app(dataset, out, *words, until: str = "", validator: Path | str = ""):
    """Call the command; where it says the words `until` it goes no further."""
    how = {"constants": SETTLED, "until": until, "validator": str(validator)}
    call = [sys.executable, "-c", APP, json.dumps(how), dataset, out, "participant", *words]
    return start(*call, "--nprocs", "2", mark=str(out))


def stop(process, out: Path) -> None:
    """Tell a call of the app to end, and check that it does, and what it leaves."""
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, said
    assert "stopped by SIGTERM; finished results are kept" in said
    assert "Traceback" not in said
    assert not leftovers(out)
    assert gone(str(out))


def test_the_app_is_stopped_while_it_validates(phantom, tmp_path):
    validator = tmp_path / "validator"
    validator.write_text(f"#!/bin/sh\ntouch '{tmp_path}/validating'\nexec sleep 600\n")
    validator.chmod(0o755)
    process = app(phantom, tmp_path / "out", validator=validator)
    wait_for((tmp_path / "validating").exists, "the validator")
    stop(process, tmp_path / "out")


def test_the_app_is_stopped_while_it_preprocesses(phantom, tmp_path):
    out = tmp_path / "out"
    process = app(phantom, out)
    until_said(process, "preprocessing the anatomy")
    # The call, the work, semaphores, two workers.
    wait_for(lambda: len(living(str(out))) >= 5, "two workers")
    stop(process, out)
    assert not list((out / "logs").glob("*_report.json"))  # no run failed


def content(out: Path) -> dict[str, object]:
    """What a call leaves, without times."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.parent == out / "prov":
            record = json.loads(path.read_text())
            hashes = {k: v["sha256"] for k, v in record["outputs"].items() if ".html" not in k}
            found[name] = (record["key"], record["inputs"], hashes)
        elif path.is_file() and path.parent.name != "logs" and path.suffix != ".html":
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
def test_a_stopped_call_is_taken_up_to_the_same_bytes(phantom, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    undisturbed = app(phantom, whole, *MODELS)
    undisturbed.communicate()
    assert undisturbed.returncode == 0
    for moment in ("anatomy: brain", "preprocessed in", "connectome: windows"):
        process = app(phantom, out, *MODELS, until=moment)
        until_said(process, "it is time")
        stop(process, out)
    last = app(phantom, out, *MODELS)
    last.communicate()
    assert last.returncode == 0
    assert content(out) == content(whole)
