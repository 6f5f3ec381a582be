"""Calls of the app by the dozen: a process that has imported all it needs forks one for each.

A call begins in milliseconds, is a session of its own, and can be killed as a whole at any moment;
or it kills itself just before its n-th step, which is a change that it makes in the output folder:
a file opened for writing, renamed or removed, or a folder made. Nothing runs after that.

`python forkserver.py` is the server; `ForkServer` starts it, and speaks to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

LIGHT = ["nibabel", "numpy", "faiss", "pyarrow.parquet", "pydantic"]
LIGHT += [f"neurostorm_app.{name}" for name in ("bids_app.app", "models", "pipelines.retrieve")]
HEAVY = ["ants", "SimpleITK", "numba", "pandas", "scipy.ndimage", "skimage", "torch", "jinja2"]
HEAVY += ["sklearn.linear_model", "matplotlib.figure", "nipype.pipeline.engine", "nilearn.image"]
HEAVY += ["niworkflows", "nitransforms", "deepbet"]
REPORTS = ("bids_app.report.group", "bids_app.report.subject")
STEPS = ("pipelines.embed", "pipelines.preprocess.workflow", "pipelines.reidentify")
HEAVY += [f"neurostorm_app.{name}" for name in (*REPORTS, *STEPS)]
"""What calls need only of the real engines."""
CHANGES = {"os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,)}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
IN_PART = "Some of it was taken as it was."
KILLED = -int(signal.SIGKILL)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


# --- the test's side ------------------------------------------------------------------------------


class ForkServer:
    """The server, and the calls that it was asked for."""

    def __init__(self, folder: Path, *, kind: str = "real") -> None:
        self.folder = folder
        self.scratch = folder / "tmp"
        self.scratch.mkdir(parents=True)
        threads = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD | threads | {"TMPDIR": str(self.scratch)},
        )
        assert self._hear()["threads"] == 1, "a process with threads cannot be forked safely"

    def _hear(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        assert line, "the server has ended"
        return json.loads(line)

    def _ask(self, **what: Any) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._hear()

    def start(self, *words: object, engines: str = "real", **how: Any) -> Call:
        """Start a call of the app; `how`: ``step`` to die at, or ``dies`` before a rename to."""
        log = self.folder / f"call-{time.monotonic_ns()}.txt"
        texts = [str(word) for word in words]
        answer = self._ask(do="start", words=texts, engines=engines, log=str(log), how=how)
        return Call(self, answer["pid"], log)

    def call(self, *words: object, **how: Any) -> Call:
        """Make a call and wait for its end."""
        call = self.start(*words, **how)
        call.wait()
        return call

    def wait(self, pid: int) -> int:
        """Wait for a call; its exit code, or minus the signal."""
        return int(self._ask(do="wait", pid=pid)["code"])

    def close(self) -> None:
        """End the server; its calls have ended."""
        self.process.stdin.close()
        self.process.wait(300)
        self.process.stdout.close()


@dataclasses.dataclass
class Call:
    """One call of the app."""

    server: ForkServer
    pid: int
    log: Path
    code: int | None = None

    def wait(self) -> int:
        """Wait for its end."""
        if self.code is None:
            self.code = self.server.wait(self.pid)
        return self.code

    def kill_after(self, seconds: float) -> int:
        """Kill all of it, unless it ends before."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._has_ended():
            time.sleep(min(0.005, max(0.0, until - time.monotonic())))
        with contextlib.suppress(ProcessLookupError):  # it has just begun, or ended
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait()

    def _has_ended(self) -> bool:
        stat = Path(f"/proc/{self.pid}/stat").read_text()  # a zombie until it is waited for
        return stat.rpartition(")")[2].split()[0] == "Z"

    @property
    def said(self) -> str:
        """What it printed."""
        return self.log.read_text()

    @property
    def steps(self) -> list[str]:
        """The steps that it took."""
        found = self.log.with_suffix(".steps")
        return found.read_text().splitlines() if found.is_file() else []


# --- the server's side ----------------------------------------------------------------------------


def serve(kind: str) -> None:
    """Import what calls need, then fork one for each line."""
    for name in LIGHT + (HEAVY if kind == "real" else []):
        importlib.import_module(name)
    answer(threads=max(count_threads(), threading.active_count()))
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "start":
            pid = os.fork()
            if pid == 0:
                child(asked)
            answer(pid=pid)
        else:
            _, status = os.waitpid(asked["pid"], 0)
            answer(code=os.waitstatus_to_exitcode(status))


def count_threads() -> int:
    """Count the threads of this process, but that of jemalloc, which knows of forks."""
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum(not name.startswith("jemalloc") for name in names)


def answer(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def child(asked: dict[str, Any]) -> None:
    """Be one call of the app."""
    os.setsid()
    handle = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    code = 70
    try:
        from neurostorm_app.bids_app.cli import main_inner
        from neurostorm_app.bids_app.guard import guarded

        engines = engines_of(asked["engines"])
        watch(Path(asked["words"][1]), Path(asked["log"]).with_suffix(".steps"), **asked["how"])
        code = guarded("neurostorm-app", partial(main_inner, engines=engines), asked["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def watch(root: Path, log: Path, *, step: int = 0, dies: str = "", note: bool = False) -> None:
    """Die before a step in the output folder, by its number or by what is renamed to."""
    begin, taken = str(root), Counter[str]()
    notes = log.open("w") if note else None

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            places = args[:1] if isinstance(args[2], int) and args[2] & WRITING else ()
        else:
            places = tuple(args[i] for i in CHANGES.get(event, ()))
        names = [os.fsdecode(place) for place in places if isinstance(place, str | bytes | Path)]
        inside = [name for name in names if name.startswith(begin) and not is_scratch(name, begin)]
        if not inside:
            return
        taken["steps"] += 1
        if notes is not None:
            notes.write(f"{event} {inside[-1].removeprefix(begin)}\n")
            notes.flush()
        last = event == "os.rename" and bool(dies) and re.search(dies, inside[-1]) is not None
        if taken["steps"] == step or last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def is_scratch(name: str, root: str) -> bool:
    """Tell whether a path is deep in scratch, where nothing is kept; its lock is not."""
    parts = Path(name).relative_to(root).parts
    deep = len(parts) > 1 and parts[0].startswith(".work-")
    return deep and parts[1] != "held"


# --- engines --------------------------------------------------------------------------------------


def engines_of(words: str) -> Any:
    """``real``, ``fake``, ``record:FOLDER`` or ``replay:FOLDER`` of a real preprocessing."""
    from neurostorm_app.bids_app.engines import real_engines

    kind, _, folder = words.partition(":")
    real = real_engines()
    if kind == "fake":
        return steady(app_conftest().Fake())
    if kind == "record":
        return dataclasses.replace(real, preprocess=partial(record, real.preprocess, Path(folder)))
    if kind == "replay":
        return dataclasses.replace(real, preprocess=partial(replay, Path(folder)))
    return real


def app_conftest() -> Any:
    """Take what the tests of the app share: fake engines, and a tiny dataset."""
    path = Path(__file__).parents[1] / "bids_app" / "conftest.py"
    spec = importlib.util.spec_from_file_location("app_conftest", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["app_conftest"] = module
    spec.loader.exec_module(module)
    return module


def fake_dataset(root: Path) -> Any:
    """Begin a dataset of noise."""
    return app_conftest().Dataset(root)


def steady(fake: Any) -> Any:
    """Let fake pages come into being as real ones do, and what is made in part be told so."""
    from neurostorm_app.bids_app.derivatives import write_text

    def subject(root: Path, label: str) -> Path:
        write_text(root / f"sub-{label}.html", "<html></html>", root=root)
        return root / f"sub-{label}.html"

    def group(root: Path) -> Path:
        write_text(root / "group.html", "<html></html>", root=root)
        return root / "group.html"

    def preprocess(wanted: Any, **how: Any) -> Any:
        done = fake.preprocess(wanted, **how)
        return done if is_whole(wanted) else dataclasses.replace(done, methods=IN_PART)

    return dataclasses.replace(
        fake.engines(),
        preprocess=preprocess,
        write_subject_page=subject,
        write_group_page=group,
    )


def is_whole(wanted: Any) -> bool:
    """Tell whether nothing was there before."""
    return wanted.anat is None and not wanted.fits


def record(preprocess: Any, folder: Path, wanted: Any, **how: Any) -> Any:
    """Preprocess, and keep a copy of what came of it."""
    done = preprocess(wanted, **how)
    folder.mkdir(parents=True)
    numbers = Counter[str]()

    def kept(files: Any, where: str) -> dict[str, str]:
        names = {}
        for role, path in files.items():
            numbers["files"] += 1
            names[role] = f"{where}/{numbers['files']:03d}-{path.name}"
            (folder / where).mkdir(exist_ok=True)
            shutil.copyfile(path, folder / names[role])
        return names

    found = {
        "anat": kept(done.anat, "anat"),
        "bold": {name: kept(files, "bold") for name, files in done.bold.items()},
        "methods": done.methods,
        "timings": dict(done.timings),
    }
    (folder / "done.pickle").write_bytes(pickle.dumps(found))
    return done


def replay(folder: Path, wanted: Any, *, work_dir: Path, series_dir: Path, **_: Any) -> Any:
    """Give what a recorded preprocessing gave; what is wanted only in part is told otherwise."""
    from neurostorm_app.bids_app.engines import Preprocessed

    found = pickle.loads((folder / "done.pickle").read_bytes())

    def placed(files: dict[str, str]) -> dict[str, Path]:
        places = {}
        for role, name in files.items():
            place = (series_dir if role.startswith("bold:") else work_dir) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, place)
            places[role] = place
        return places

    runs = {run.name for run in wanted.runs}
    return Preprocessed(
        anat=placed(found["anat"]),
        bold={name: placed(files) for name, files in found["bold"].items() if name in runs},
        failed={},
        methods=found["methods"] if is_whole(wanted) else IN_PART,
        timings=found["timings"],
    )


if __name__ == "__main__":
    serve(sys.argv[1])
