"""SIGKILL at any moment, call again, and every byte is what it would have been.

With fake engines a call is killed before each of the steps that it takes in the output folder, one
after the other. With the real ones, on a phantom, it is killed at random moments; most of these
calls take the preprocessing from a recording, for a whole one would hold up the suite for hours.
"""

from __future__ import annotations

import importlib.util
import random
import re
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from neurostorm_app.pipelines.phantom import make_phantom


def beside(name: str) -> Any:
    """Import a module that lies beside this one."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look it up
        spec.loader.exec_module(module)
    return sys.modules[name]


forkserver, sameness = beside("forkserver"), beside("sameness")

SEED = 20251106
RANDOM, REAL = 96, 4
"""Kills at random moments: with a recorded preprocessing, and within a real one."""
OPTIONS = ("--models", "connectome", "--skip-bids-validation", "--nprocs", "1")
OPTIONS += ("--omp-nthreads", "1", "--report-viewer", "off")
SPACE = ("--output-spaces", "MNI152NLin2009cAsym:res-native")
"""With voxels as large as those of the phantom: finer ones only take time."""
LEVELS = ("participant", "group")


@dataclass
class Way:
    """How a dataset is worked through, always in the same folder: its path is kept in a file."""

    server: Any
    bids: Path
    engines: str
    options: tuple[str, ...] = OPTIONS
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.bids.parent / "out"

    @property
    def whole(self) -> Path:
        """What an undisturbed run leaves."""
        return self.bids.parent / "whole"

    def start(self, level: str, **how: Any) -> Any:
        words = self.options if level == "participant" else ()
        engines = how.pop("engines", self.engines)
        return self.server.start(self.bids, self.out, level, *words, engines=engines, **how)

    def finish(self, *levels: str, **how: Any) -> list[Any]:
        """Call each level, which ends well."""
        calls = []
        for level in levels:
            begin = time.monotonic()
            calls.append(self.start(level, **how))
            assert calls[-1].wait() == 0, calls[-1].said
            self.seconds.setdefault(level, time.monotonic() - begin)
        return calls

    def anew(self, copy: Path | None = None) -> None:
        """Begin with an empty folder, or with what is in another one."""
        shutil.rmtree(self.out, ignore_errors=True)
        if copy is not None:
            shutil.copytree(copy, self.out)

    def check(self, *, whole: Path | None = None) -> dict[str, int]:
        """Compare all files with those of the undisturbed run; nothing else may lie there."""
        aside = dict.fromkeys(sameness.leftovers(self.out), 0)
        return sameness.differences(self.out, whole or self.whole) | aside


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    server = forkserver.ForkServer(tmp_path_factory.mktemp("light"), kind="light")
    yield server
    server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = forkserver.ForkServer(tmp_path_factory.mktemp("calls"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def fake(light, tmp_path_factory):
    """Go an undisturbed way with fake engines, and note the steps of each level."""
    folder = tmp_path_factory.mktemp("fake")
    dataset = forkserver.fake_dataset(folder / "bids")
    dataset.participant("01", runs=("1",))
    way = Way(light, dataset.root, "fake")
    participant = way.finish("participant", note=True)
    shutil.copytree(way.out, folder / "embedded")
    group = way.finish("group", note=True)
    way.out.rename(way.whole)
    return way, {"participant": participant[0].steps, "group": group[0].steps}


def begin(way: Way, level: str) -> None:
    way.anew(None if level == "participant" else way.bids.parent / "embedded")


def kill_at_steps(way: Way, level: str, steps: list[int]) -> dict[str, Any]:
    """Kill a call before a step and call again; tell what was not as it should be."""
    wrong: dict[str, Any] = {}
    for step in steps:
        begin(way, level)
        code = way.start(level, step=step).wait()
        half = sameness.torn(way.out, way.whole)
        ended = way.start(level).wait()
        lost = way.check(whole=way.bids.parent / "embedded" if level == "participant" else None)
        if (code, half, ended, lost) != (forkserver.KILLED, [], 0, {}):
            wrong[f"{level} {step}"] = (code, half, ended, lost)
    return wrong


def lost_bytes(wrong: dict[str, Any]) -> int:
    return sum(sum(found[-1].values()) for found in wrong.values())


def where(steps: list[str], pattern: str) -> int:
    """Find the number of the first step of a kind."""
    return next(i for i, step in enumerate(steps, 1) if re.search(pattern, step))


def test_a_call_that_was_killed_at_a_delicate_moment_is_finished_to_the_same_bytes(fake, tally):
    way, steps = fake
    moments = {
        # A table has its name, its sidecar is not yet written; both are, and their record is not.
        "participant": [
            where(steps["participant"], r"rename .*connectome_embedding\.tsv$") + 1,
            where(steps["participant"], r"rename /prov/sub-01_.*desc-connectome_embedding\.json$"),
            where(steps["participant"], r"rename /prov/sub-01_task-rest_run-1_fit\.json$"),
        ],
        "group": [where(steps["group"], r"rename .*_index\.faiss$")],
    }
    wrong: dict[str, Any] = {}
    for level, numbers in moments.items():
        wrong |= kill_at_steps(way, level, numbers)
    tally("kill -9", injected=4, survived=4 - len(wrong), bytes_lost=lost_bytes(wrong))
    assert not wrong


def changing(steps: list[str]) -> list[int]:
    """Number the steps before which something has changed: not those after a folder that was."""
    seen: set[str] = set()
    numbers = []
    for number, step in enumerate(["", *steps[:-1]], 1):
        if not step.startswith("os.mkdir") or step not in seen:
            numbers.append(number)
        seen.add(step)
    return numbers


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("level", LEVELS)
def test_a_call_may_be_killed_before_any_step(fake, level, tally, capsys):
    way, steps = fake
    numbers = changing(steps[level])
    begun, n = time.monotonic(), len(numbers)
    wrong = kill_at_steps(way, level, numbers)
    kinds = Counter(steps[level][number - 1].split()[0] for number in numbers)
    with capsys.disabled():
        print(f"\n{level}: killed before each of {n} steps ({dict(kinds)}), called again, compared")
        print(f"  {n - len(wrong)} times the same bytes, in {time.monotonic() - begun:.0f} s")
    tally("kill -9", injected=n, survived=n - len(wrong), bytes_lost=lost_bytes(wrong))
    assert not wrong


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_file_that_a_crash_cut_off_is_made_again(fake, tally, capsys):
    """A file system that loses power may leave a file empty or short under its final name."""
    way, _ = fake
    way.anew()
    way.finish(*LEVELS, *LEVELS)  # the page of a participant shows the group, if there is one
    settled = way.bids.parent / "settled"
    way.out.rename(settled)
    names = [name for name, path in sameness.files_of(settled).items() if path.stat().st_size]
    wrong: dict[str, Any] = {}
    for number, name in enumerate(names):
        way.anew(settled)
        path = way.out / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2 if number % 2 else 0])
        kept = {n: p.stat().st_mtime_ns for n, p in sameness.files_of(way.out).items()}
        # The page of a participant shows the index, which the group level makes again if need be.
        codes = [way.start(level).wait() for level in (*LEVELS, "participant")]
        changed = [n for n, t in kept.items() if (way.out / n).stat().st_mtime_ns != t]
        lost = way.check(whole=settled)
        if any(codes) or lost:
            wrong[name] = (codes, lost)
        elif len(changed) > len(names) // 2:
            wrong[name] = (codes, {f"{len(changed)} files were made again": 0})
    with capsys.disabled():
        print(f"\n{len(names)} files cut off, {len(names) - len(wrong)} made again")
    lost = lost_bytes(wrong)
    tally("file cut off", injected=len(names), survived=len(names) - len(wrong), bytes_lost=lost)
    assert not wrong


# --- the real engines, on a phantom ---------------------------------------------------------------


@pytest.fixture(scope="module")
def phantom(server, tmp_path_factory):
    """Go an undisturbed way with the real engines, and record the preprocessing."""
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder / "bids", participants=1, runs=1, seed=5, scale="tiny", n_volumes=24)
    way = Way(server, folder / "bids", f"replay:{folder / 'recorded'}", (*OPTIONS, *SPACE))
    begun = time.monotonic()
    way.finish("participant", engines=f"record:{folder / 'recorded'}")
    whole = time.monotonic() - begun
    way.seconds.clear()
    way.finish("group")
    way.out.rename(way.whole)
    return way, whole


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_undisturbed_runs_differ_in_nothing_but_what_is_masked(phantom, capsys):
    way, _ = phantom
    way.anew()
    way.finish(*LEVELS)
    assert way.check() == {}
    here, there = sameness.files_of(way.out), sameness.files_of(way.whole)
    differ = [n for n in here if here[n].read_bytes() != there[n].read_bytes()]
    masked = r"prov/.*|sub-01\.html|group\.html|logs/.*_report\.json|retrieval/.*\.parquet"
    with capsys.disabled():
        print(
            f"\n{len(here)} files of two undisturbed runs: {len(here) - len(differ)} are the same"
        )
        for pattern, fields in sameness.MASKED.items():
            print(f"  masked in {pattern}: {', '.join(fields)}")
        print(f"  masked in Parquet: columns {', '.join(sameness.COLUMNS)}; in pages: times")
    assert [name for name in differ if not re.fullmatch(masked, name)] == []


PHASES = (
    ("starting", r"prov/sub-.*"),
    ("keeping the anatomy", r"prov/sub-01_task-.*_fit\.json"),
    ("keeping the run", r"prov/sub-01_.*_confounds\.json"),
    ("embedding", r"prov/sub-01_.*_embedding\.json"),
    ("report and page", r"prov/sub-01_report\.json"),
    ("group: collecting", r"prov/desc-.*_index\.json"),
    ("group: page", r"prov/group_report\.json"),
)
"""What a call is at, as long as there is no such file."""


def phase(out: Path) -> str:
    """Tell what a call was at when it was killed."""
    names = list(sameness.files_of(out)) if out.is_dir() else []
    there = (name for name, file in PHASES if not any(re.fullmatch(file, n) for n in names))
    return next(there, "at its end")


@dataclass
class Count:
    """What became of kills at random moments."""

    phases: Counter = field(default_factory=Counter)
    moments: list[str] = field(default_factory=list)
    cycles: int = 0
    files: int = 0
    wrong: dict[str, Any] = field(default_factory=dict)

    def kill(self, way: Way, level: str, moment: float, **how: Any) -> bool:
        """Kill a call of a level after some seconds; False if it ended before."""
        code = way.start(level, **how).kill_after(moment)
        if code == 0:
            return False
        self.moments.append(f"{level[0]}{moment:.2f}")
        self.phases[phase(way.out)] += 1
        if half := (sameness.torn(way.out, way.whole) if way.out.is_dir() else []):
            self.wrong[f"{level} {moment:.3f}"] = dict.fromkeys(half, 0)
        if code != forkserver.KILLED:
            self.wrong[f"{level} {moment:.3f} ended with {code}"] = {}
        return True

    def compare(self, way: Way) -> None:
        """Compare all files at the end of a cycle."""
        self.cycles += 1
        self.files += len(sameness.files_of(way.whole))
        if lost := way.check():
            self.wrong[f"cycle {self.cycles}"] = lost

    @property
    def lost(self) -> int:
        return sum(sum(found.values()) for found in self.wrong.values())

    def tell(self, seconds: float) -> str:
        lines = [f"{sum(self.phases.values())} kills at random moments, seed {SEED}"]
        lines += [f"  {n:3d} while {name}" for name, n in self.phases.most_common()]
        lines += [
            f"  {self.cycles} times compared whole: {self.files} files, {self.lost} bytes lost"
        ]
        lines += [f"  seconds after the start of a level (p, g): {' '.join(self.moments)}"]
        return "\n".join([*lines, f"  in {seconds:.0f} s"])


def measure(way: Way) -> float:
    """Measure how long it takes without a kill; give the seconds until all is embedded.

    The second way counts: what is read for the first time takes longer.
    """
    for _ in range(2):
        way.anew()
        way.seconds.clear()
        begun = time.time()
        way.finish(*LEVELS)
    return max(path.stat().st_mtime for path in way.out.glob("prov/sub-*_embedding.json")) - begun


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_cost_no_byte(phantom, tally, capsys):
    """Moments are uniform over a level; a killed call is called again.

    Every second one of the participant level falls before its page, which takes most of the time.
    """
    way, _ = phantom
    embedded = measure(way)
    rng, count, begun = random.Random(SEED), Count(), time.monotonic()
    while sum(count.phases.values()) < RANDOM:
        way.anew()
        for level, kills in zip(LEVELS, (6, 3), strict=True):
            for number in range(kills):
                early = level == "participant" and number % 2 == 0
                latest = embedded if early else way.seconds[level]
                if not count.kill(way, level, rng.uniform(0, latest)):
                    break
            way.finish(level)
        count.compare(way)
    n = sum(count.phases.values())
    with capsys.disabled():
        print("\n" + count.tell(time.monotonic() - begun))
    tally("kill -9", injected=n, survived=n - len(count.wrong), bytes_lost=count.lost)
    assert not count.wrong
    assert not list(way.server.scratch.iterdir()), "a killed call left files in TMPDIR"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_within_the_real_preprocessing_cost_no_byte(phantom, tally, capsys):
    way, seconds = phantom
    rng, count, begun = random.Random(SEED + 1), Count(), time.monotonic()
    way.anew()
    for _ in range(REAL):
        if not count.kill(way, "participant", rng.uniform(0, seconds / 3), engines="real"):
            break
    way.finish("participant", engines="real")
    way.finish("group", engines="real")
    count.compare(way)
    n = sum(count.phases.values())
    with capsys.disabled():
        print("\nreal preprocessing: " + count.tell(time.monotonic() - begun))
    tally("kill -9", injected=n, survived=n - len(count.wrong), bytes_lost=count.lost)
    assert not count.wrong


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "record",
    [
        r"prov/sub-01_task-rest_run-1_fit\.json$",
        r"prov/sub-01_task-rest_run-1_space-.*_boldref\.json$",
        r"prov/sub-01_task-rest_run-1_confounds\.json$",
    ],
    ids=["no estimates", "estimates only", "no confounds"],
)
def test_what_a_killed_call_kept_is_enough_for_the_real_preprocessing(phantom, record, tally):
    """The rest is made from the files that were kept, and is the same to the byte."""
    way, _ = phantom
    way.anew()
    assert way.start("participant", dies=record).wait() == forkserver.KILLED
    way.finish(*LEVELS, engines="real")
    lost = way.check()
    tally("kill -9", survived=not lost, bytes_lost=sum(lost.values()))
    assert not lost
