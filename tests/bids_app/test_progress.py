"""How far a call is: what is told, what is drawn, and what stands on the terminal in the end."""

from __future__ import annotations

import codecs
import itertools
import logging
import multiprocessing
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.live import Live

from neurostorm_app.bids_app.progress import view
from neurostorm_app.bids_app.progress.board import Board
from neurostorm_app.bids_app.progress.drawing import clean, draw
from neurostorm_app.bids_app.progress.memory import resident_memory
from neurostorm_app.pipelines import progress
from neurostorm_app.pipelines.preprocess.plugin import StepLog, _begin_worker
from neurostorm_app.pipelines.progress import (
    Event,
    Planned,
    advance,
    counted,
    inside,
    listening,
    renaming,
    stage,
    tell,
)
from neurostorm_app.pipelines.wire import Wire, _Teller

PATIENCE = 300
"""Seconds to wait for what is to come: the machine may be busy with other things."""
STAGED = Path(__file__).with_name("staged_call.py")
RUNS = [f"sub-{who}_task-rest_run-{run}" for who in ("01", "02") for run in (1, 2)]
OF_TERMINALS = re.compile(r"CI$|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|TTY_|SLURM_")
"""Variables that change what is drawn."""
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def event(name, stage, state, done=0, total=0, unit=""):
    return Event(name=name, stage=stage, state=state, done=done, total=total, unit=unit)


# What is told


def test_what_happens_inside_a_stage_is_told_in_order():
    heard = []
    with listening(heard.append), stage("run", "motion"):
        for _ in counted("abc", 3, "volumes"):
            pass
    states = [(e.state, e.done, e.total, e.unit) for e in heard]
    assert states[0] == ("began", 0, 0, "")
    assert states[-2:] == [("advanced", 3, 3, "volumes"), ("ended", 0, 0, "")]
    assert {(e.name, e.stage) for e in heard} == {("run", "motion")}


def test_a_stage_that_fails_says_so_and_nobody_need_listen():
    heard = []
    with pytest.raises(KeyError), listening(heard.append), stage("run", "motion"):
        raise KeyError("x")
    assert [e.state for e in heard] == ["began", "failed"]
    with stage("run", "motion"):  # nobody listens
        advance(1, 2, "volumes")
    advance(1, 2, "volumes")  # of no stage
    assert len(heard) == 2


def test_steps_are_told_a_few_times_a_second_and_the_last_always(monkeypatch):
    heard, now = [], itertools.count(100.0, 0.01)  # s
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with listening(heard.append), inside("run", "motion"):
        for done in range(1000):  # in ten seconds
            advance(done + 1, 1000, "volumes")
    assert heard[0].done == 1
    assert heard[-1].done == 1000
    assert 40 < len(heard) < 60


def test_telling_nobody_costs_next_to_nothing(monkeypatch):
    def look() -> float:
        raise AssertionError("the clock is looked at")

    monkeypatch.setattr(progress.time, "monotonic", look)
    with inside("run", "motion"):
        for done in range(20):
            advance(done, 20, "volumes")


def test_names_are_changed_on_the_way():
    heard = []
    with listening(heard.append), renaming(lambda name: f"sub-01 {name}"):
        tell(event("anatomy", "brain", "began"))
        tell(Planned(names=("a",), memory=1))
    assert heard[0].name == "sub-01 anatomy"
    assert heard[1].names == ("a",)


def test_workers_tell_and_log_through_a_pipe(caplog, monkeypatch):
    heard = []
    told = event("run001", "motion", "advanced", 3, 9, "volumes")
    log = logging.getLogger("neurostorm_app.pipelines.worker")
    context = multiprocessing.get_context("spawn")
    app = logging.getLogger("neurostorm_app")
    app.addHandler(caplog.handler)
    monkeypatch.setattr(app, "propagate", False)
    try:
        with Wire(heard.append) as wire:
            pool = ProcessPoolExecutor(
                1, mp_context=context, initializer=_begin_worker, initargs=(wire.end,)
            )
            with pool:
                pool.submit(tell, told).result()
                pool.submit(log.warning, "%s is odd", "run").result()
            until = time.monotonic() + PATIENCE
            while "run is odd" not in caplog.messages and time.monotonic() < until:
                time.sleep(0.05)
    finally:
        app.removeHandler(caplog.handler)
    assert heard == [told]
    assert caplog.messages == ["run is odd"]


def test_what_workers_told_just_before_the_end_is_passed_on(monkeypatch):
    heard, entered, go = [], threading.Event(), threading.Event()
    told = [event("run", "motion", "advanced", n, 300, "volumes") for n in range(300)]

    def slow(one):
        heard.append(one)
        entered.set()
        go.wait(PATIENCE)

    wire = Wire(slow)
    with wire:
        teller = _Teller(wire.end)
        teller(told[0])
        assert entered.wait(PATIENCE)
        for one in told[1:]:
            teller(one)  # while the listener is busy with the first
        threading.Timer(0.2, go.set).start()
    assert heard == told


def test_a_worker_never_waits_for_whoever_listens():
    wire = Wire(lambda _: None)  # nobody reads
    teller = _Teller(wire.end)
    lines = 0
    while teller.write({"n": "x" * 1000}):
        lines += 1
        assert lines < 10_000
    assert lines > 3
    teller(event("run", "motion", "began"))  # is left out
    assert not teller.write({"n": "x" * 10_000})


def test_nodes_are_called_by_the_names_of_runs_and_their_speed_is_logged(caplog, monkeypatch):
    heard = []
    log = StepLog({"run000": "sub-01_task-rest"})
    clock = iter([0.0, 4.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    node = SimpleNamespace(fullname="participant.run000.motion")
    caplog.set_level(logging.INFO, "neurostorm_app")
    monkeypatch.setattr(logging.getLogger("neurostorm_app"), "propagate", True)
    with listening(heard.append), log.following({"run000": 5}, apart=False) as wire:
        assert wire is None
        log(node, "start")
        tell(event("run000", "motion", "advanced", 80, 80, "volumes"))
        log(node, "end")
    assert [(e.state, e.done, e.total) for e in heard] == [
        ("began", 0, 5),
        ("advanced", 80, 80),
        ("ended", 1, 5),
    ]
    assert {e.name for e in heard} == {"sub-01_task-rest"}
    assert caplog.messages == ["sub-01_task-rest: motion in 4 s (80 volumes, 20 a second)"]


# What it amounts to


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


def test_speed_and_time_left_come_from_what_was_counted(clock):
    board = Board(clock)
    board(Planned(names=("a", "b"), memory=2**30))
    board(event("a", "motion", "began", 0, 2))
    clock.now = 10  # before the first volume was done
    board(event("a", "motion", "advanced", 20, 100, "volumes"))
    clock.now = 14
    board(event("a", "motion", "advanced", 60, 100, "volumes"))
    [line] = board.snapshot().lines
    assert (line.stage, line.done, line.total, line.unit) == ("motion", 60, 100, "volumes")
    assert line.speed == pytest.approx(10)  # volumes a second
    assert line.left == pytest.approx(4)  # s
    board(event("a", "motion", "ended", 1, 2))
    clock.now = 19
    now = board.snapshot()
    [line] = now.lines
    assert (line.stage, line.done, line.total, line.unit) == ("", 1, 2, "steps")
    # Half of the steps of one of two runs took 19 s.
    assert now.left == pytest.approx(19 * (1 - 0.2375) / 0.2375)


def test_runs_that_had_their_results_do_not_count_for_the_time_left(clock):
    board = Board(clock)
    board(Planned(names=("a", "b", "c"), memory=0))
    board(event("a", "reused", "closed"))
    clock.now = 1
    assert board.snapshot().left is None
    clock.now = 30
    board(event("b", "done", "closed"))
    now = board.snapshot()
    assert now.left == pytest.approx(30)  # one of two
    assert (now.done, now.reused, now.failed, now.total) == (1, 1, 0, 3)


def test_what_is_no_run_goes_when_its_stages_have_ended_or_failed(clock):
    board = Board(clock)
    board(Planned(names=("a",), memory=0))
    board(event("sub-01 anatomy", "brain", "began", 0, 2))
    board(event("sub-01 anatomy", "brain", "ended", 1, 2))
    assert [line.name for line in board.snapshot().lines] == ["sub-01 anatomy"]
    board(event("sub-01 anatomy", "qc", "began", 1, 2))
    board(event("sub-01 anatomy", "qc", "ended", 2, 2))
    assert board.snapshot().lines == ()
    board(event("dataset", "validate", "began"))
    board(event("dataset", "validate", "failed"))
    assert board.snapshot().lines == ()


def test_what_is_kept_is_said_by_number_and_name(clock):
    board = Board(clock)
    assert board.kept() == ""
    board(Planned(names=tuple("abcdefgh"), memory=0))
    board(event("a", "done", "closed"))
    board(event("b", "failed", "closed"))
    assert board.kept() == "1 of 8 runs are finished"
    for name in "cdefgh":
        board(event(name, "motion", "began", 0, 3))
    assert board.kept() == "1 of 8 runs are finished; under way: c, d, e, f, g and 1 more"


# What is drawn


def drawn(board, *, width, height=30, **options):
    console = Console(width=width, record=True, file=open(os.devnull, "w"), **options)  # noqa: PTH123, SIM115
    console.print(draw(board.snapshot(), memory=3 * 2**29, width=width, height=height))
    console.file.close()
    return console.export_text().splitlines()


@pytest.fixture
def busy(clock):
    board = Board(clock)
    board(Planned(names=("sub-01_task-rest_run-1", "sub-01_task-rest_run-2"), memory=2**32))
    board(event("sub-01_task-rest_run-2", "motion", "began", 0, 4))
    board(event("sub-01_task-rest_run-2", "motion", "ended", 1, 4))
    board(event("sub-01_task-rest_run-1", "motion", "began", 0, 4))
    board(event("sub-01_task-rest_run-1", "motion", "advanced", 10, 40, "volumes"))
    clock.now = 5
    board(event("sub-01_task-rest_run-1", "motion", "advanced", 30, 40, "volumes"))
    return board


def test_a_wide_terminal_shows_all(busy):
    head, first, second, keys = drawn(busy, width=120)
    assert head.startswith("0 of 2 runs | 0:05")
    assert head.rstrip().endswith("| 1.5 of 4.0 GiB")
    assert re.search(r"run-1 +motion +\S+ +30/40 volumes +4/s +0:02", first)
    assert re.search(r"run-2 +waits +\S+ +1/4 steps", second)  # below those that work
    assert keys.startswith("Ctrl-C ends the call")


@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 99, 100, 200])
def test_no_line_is_wider_than_the_terminal(busy, width):
    lines = drawn(busy, width=width)
    assert max(map(len, lines)) <= width
    assert len(lines) == (4 if width > 64 else 3)
    if width >= 40:  # below that the end of a line may be cut off
        assert any("75%" in line or "30/40" in line for line in lines)


def test_more_runs_than_rows_are_counted(busy):
    for number in range(20):
        busy(event(f"other {number}", "brain", "began"))
    lines = drawn(busy, width=100, height=10)
    assert len(lines) <= 10
    assert "and 16 more" in lines[-2]


def test_words_of_others_cannot_move_the_cursor():
    assert clean("\x1b[2J\x1b[1;31mred\x1b]0;title\x07\r\x9b5A") == "red]0;title5A"


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "CI": "true"}, False),
        ({"TERM": "xterm", "CI": "false"}, True),
        ({"TERM": "xterm", "SLURM_JOB_ID": "7"}, False),
        ({"TERM": "xterm", "SLURM_JOB_ID": "7", "SLURM_PTY_PORT": "5000"}, True),
    ],
)
def test_a_view_is_for_eyes_alone(environ, wanted, monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 2)
    assert view.wants_view(environ) is wanted
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 1)
    assert not view.wants_view(environ)


class Interrupted(BaseException):
    """Comes from outside, as a signal does."""


@pytest.mark.parametrize("moment", ["start", "update", "stop"])
def test_a_view_that_is_interrupted_gives_the_terminal_back(moment, monkeypatch):
    def interrupt(*_, **__):
        raise Interrupted

    monkeypatch.setattr(os, "isatty", lambda fd: fd in {1, 2})
    monkeypatch.setattr(view, "PAUSE", PATIENCE)
    monkeypatch.setattr(Live, moment, interrupt)
    before = [os.fstat(fd).st_ino for fd in (1, 2)]
    with pytest.raises(Interrupted), view.View(Board()):
        assert [os.fstat(fd).st_ino for fd in (1, 2)] != before
    assert [os.fstat(fd).st_ino for fd in (1, 2)] == before


def test_memory_is_that_of_a_process_and_all_below_it(tmp_path):
    for pid, parent, pages in ((10, 1, 100), (11, 10, 20), (12, 11, 3), (13, 1, 5000)):
        (tmp_path / str(pid)).mkdir()
        fields = ["S", str(parent), *["0"] * 19, str(pages), "0"]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a ) b) " + " ".join(fields))
    (tmp_path / "14").mkdir()  # it has just ended
    (tmp_path / "meminfo").touch()
    assert resident_memory(10, tmp_path) == 123 * os.sysconf("SC_PAGESIZE")
    assert resident_memory(10, tmp_path / "nowhere") == 0
    assert resident_memory(os.getpid()) > 2**24


# What stands on the terminal


class Screen:
    """A terminal that knows what a view needs, and no more."""

    def __init__(self, width: int) -> None:
        self.width, self.rows, self.row, self.column = width, [""], 0, 0
        self.pictures: list[list[str]] = []

    def feed(self, text: str) -> None:
        """Show all that was written."""
        for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|[\r\n])", text):
            if part == "\n":
                self.row += 1
                self.column = 0  # the terminal line turns it into CR LF
                if self.row == len(self.rows):
                    self.rows.append("")
            elif part == "\r":
                self.column = 0
            elif part.startswith("\x1b["):
                self._do(part)
            elif part:
                self._write(part)
        self._keep()

    def _keep(self) -> None:
        """Keep what is to be seen now."""
        self.pictures.append([row.rstrip() for row in self.rows if row.strip()])

    def _do(self, code: str) -> None:
        if code.endswith("A"):
            self._keep()  # the next picture begins
            self.row -= int(code[2:-1] or 1)
            assert self.row >= 0
        elif code == "\x1b[2K":
            self.rows[self.row] = ""
        else:
            assert code.endswith("m"), f"{code!r} is not for every terminal"

    def _write(self, text: str) -> None:
        assert not set(text) & set(map(chr, range(32))), repr(text)
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + text + row[self.column + len(text) :]
        self.column += len(text)


def play(words, *, width=110, keys=(), **environ):
    """Run the staged call on a pseudo-terminal; type each key when it is time for it.

    A key comes with the words after which it is typed, or with a file that is to have content.
    """
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in the background of a shell
        settings = {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1", **environ}
        inherited = {k: v for k, v in os.environ.items() if not OF_TERMINALS.match(k)}
        os.execve(
            sys.executable,
            [sys.executable, str(STAGED), *map(str, words)],
            {**inherited, **settings},
        )
    ioctl(fd, TIOCSWINSZ, pack("HHHH", 30, width, 0, 0))
    said, keys, until = "", list(keys), time.monotonic() + PATIENCE
    decode = codecs.getincrementaldecoder("utf-8")().decode  # a piece may end within a letter
    while time.monotonic() < until:
        if select.select([fd], [], [], 0.05)[0]:
            try:
                piece = os.read(fd, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            said += decode(piece)
        if keys and is_time(keys[0][0], said):
            os.write(fd, keys.pop(0)[1])
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(fd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, said.replace("\r\n", "\n")


def is_time(sign: str | Path, said: str) -> bool:
    if isinstance(sign, Path):
        return sign.exists() and sign.stat().st_size > 0
    return sign in said


@pytest.fixture
def call(dataset, tmp_path):
    return [
        dataset.root,
        tmp_path / "out",
        "participant",
        "--skip-bids-validation",
        "--nprocs",
        "1",
    ]


WHOLE = re.compile(
    r"\d\d:\d\d:\d\d (sub-\S+|stopped).*"  # a message
    r"|(looking at the dataset|\d of \d runs).* \| \d+:\d\d.*"  # the head
    r"|(sub-0\d_task-rest_run-\d|sub-0\d anatomy|sub-0\d|models|dataset) +\S.*"  # a run
    r"|Ctrl-C ends the call and keeps what is finished; twice: at once"
    r"|\d runs: .*|quality: .*|failed: .*|  what to do: .*|see /.*"
)


SLOW = pytest.mark.slow
"""Each starts the command, which takes seconds."""


@pytest.mark.parametrize("width", [110, pytest.param(70, marks=SLOW), pytest.param(44, marks=SLOW)])
def test_the_terminal_shows_each_stage_and_no_torn_line(call, tmp_path, width):
    code, said = play(call, width=width, BROKEN=RUNS[2])
    assert code == 65, said
    screen = Screen(width)
    screen.feed(said)
    last = screen.pictures[-1]
    for line in last:
        assert WHOLE.fullmatch(line), line
    for run in (RUNS[0], RUNS[1], RUNS[3]):
        [done] = [line for line in last if f"{run}: done:" in line]
        assert re.search(r"anatomy [\d.]+ s, preprocess [\d.]+ s, embed connectome [\d.]+ s", done)
    assert [line for line in last if f"{RUNS[2]} failed" in line]
    assert "4 runs: 3 done, 0 reused, 1 failed" in "\n".join(last)
    assert not [line for line in last if line.startswith("Ctrl-C")]  # the view is gone
    seen = "\n".join(line for picture in screen.pictures for line in picture)
    for words in ("anatomy", "motion", "resample", "embed conn", "of 4 runs"):
        assert words in seen
    assert ("volumes" in seen) == (width >= 60)


def test_what_libraries_print_goes_to_the_log_and_not_into_the_view(call, tmp_path):
    code, said = play(call, NO_COLOR="1")
    assert code == 0, said
    [log] = (tmp_path / "out" / "logs").glob("*.log")
    text = log.read_text()
    for words in (
        "a library prints",
        "C writes to standard output",
        "C writes half a line",
        "a child prints",
        "and errs",
        "a library warns",
    ):
        assert words not in said
        assert re.search(rf"printed: .*{words}", text), words
    assert "sub-01: a message that is to be read" in said  # its colour was taken out
    assert "a line a stage" not in said  # the view shows it
    assert not re.search(r"\x1b\[[\d;]*[34]\d", said)  # no colour
    assert "\x1b[?25l" not in said  # a killed call leaves the cursor


@SLOW
def test_more_is_said_above_the_view_when_asked_for(call):
    code, said = play([*call, "-v"])
    assert code == 0, said
    for words in ("a line a stage", "printed: C writes half a linea child prints"):
        assert words in said


@pytest.mark.parametrize(
    "environ", [{"TERM": "dumb"}, pytest.param({"CI": "1"}, marks=SLOW)], ids=["dumb", "CI"]
)
def test_a_terminal_that_cannot_be_drawn_on_gets_lines(call, environ):
    code, said = play(call, **environ)
    assert code == 0, said
    lines = [clean(line) for line in said.splitlines()]
    assert COLOUR.sub("", said).count("\x1b") == 0
    for run in RUNS:
        assert sum(f"{run}: connectome: windows" in line for line in lines) == 1
        assert sum(f"{run}: done: anatomy" in line for line in lines) == 1
    assert sum("a line a stage" in line for line in lines) == 2  # once a participant


def test_a_log_file_gets_one_line_a_stage_and_quiet_says_what_is_wrong(call, tmp_path):
    def run(*words):
        environ = {**os.environ, "BROKEN": RUNS[2], "TERM": "xterm"}
        command = [sys.executable, str(STAGED), *map(str, call), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environ, timeout=PATIENCE
        )

    done = run()
    assert done.returncode == 65
    assert "\x1b[2K" not in done.stderr
    stages = [line for line in done.stderr.splitlines() if RUNS[0] in line]
    assert len(stages) == 2, stages  # embedded, done
    assert "4 runs: 3 done" in done.stdout
    (tmp_path / "out").rename(tmp_path / "before")
    quiet = run("-q")
    assert quiet.returncode == 65
    assert "a message that is to be" in quiet.stderr
    assert f"{RUNS[2]} failed" in quiet.stderr
    assert "done:" not in quiet.stderr
    assert "what to do: look at it" in quiet.stdout


def test_ctrl_c_says_once_what_is_kept_and_that_a_rerun_goes_on(call, tmp_path):
    code, said = play(call, HOLD="sub-02", keys=[("sub-02: holds", b"\x03")])
    assert code == 75
    assert said.count("stopped by SIGINT; finished results are kept") == 1
    flat = " ".join(said.split())
    assert "2 of 4 runs are finished" in flat
    assert "it goes on where this call stopped" in flat
    assert "Traceback" not in said
    code, said = play(call)
    assert code == 0, said
    assert "4 runs: 2 done, 2 reused" in said


@SLOW
def test_a_second_ctrl_c_ends_at_once(call, tmp_path):
    told = tmp_path / "told"  # once the first has come
    keys = [("a library computes", b"\x03"), (told, b"\x03")]
    code, said = play(call, STUBBORN=str(told), keys=keys)
    assert code == 75
    assert said.count("stopped by SIGINT") == 1
    assert not list((tmp_path / "out").glob(".work-*"))
