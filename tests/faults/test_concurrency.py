"""Eight processes in one output folder, many times: nothing is corrupt, and no lock is left."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
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

ROUNDS, PROCESSES = 20, 8
PEOPLE = ("01", "02", "03")
OPTIONS = ("--models", "connectome", "--skip-bids-validation", "--nprocs", "1")
OPTIONS += ("--omp-nthreads", "1")
EVERYBODY = ("participant", *OPTIONS)
PARTICIPANTS = [
    *[EVERYBODY] * 3,
    *[(*EVERYBODY, "--participant-label", label) for label in ("01", "01", *PEOPLE)],
]
"""The same run is started at once by up to six processes."""
GROUPS = [("group",)] * 2 + [*PARTICIPANTS[:1], *PARTICIPANTS[-5:]]
"""Two group calls, while others look after what is there already."""


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    server = forkserver.ForkServer(tmp_path_factory.mktemp("light"), kind="light")
    yield server
    server.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    made = forkserver.fake_dataset(tmp_path_factory.mktemp("many") / "bids")
    for label in PEOPLE:
        made.participant(label, runs=("1",))
    return made.root


def at_once(server: Any, bids: Path, calls: list[tuple[str, ...]], **how: Any) -> list[str]:
    """Start calls together; give what those said that did not end well."""
    out = bids.parent / "out"
    started = [server.start(bids, out, *words, **how) for words in calls]
    codes = [call.wait() for call in started]
    return [f"{code}: {call.said}" for call, code in zip(started, codes, strict=True) if code]


def settle(server: Any, bids: Path, **how: Any) -> None:
    """Call once more alone, until pages show each other's newest."""
    for level in ("participant", "group") * 2:
        words = OPTIONS if level == "participant" else ()
        call = server.call(bids, bids.parent / "out", level, *words, **how)
        assert call.code == 0, call.said


def undisturbed(server: Any, bids: Path, **how: Any) -> Path:
    """Go the way with one process at a time."""
    settle(server, bids, **how)
    return (bids.parent / "out").rename(bids.parent / "whole")


def one_round(server: Any, bids: Path, **how: Any) -> list[str]:
    """Let eight processes loose on an empty folder, twice; tell what went wrong."""
    out, whole = bids.parent / "out", bids.parent / "whole"
    shutil.rmtree(out, ignore_errors=True)
    wrong = at_once(server, bids, PARTICIPANTS, **how)
    wrong += [f"torn: {name}" for name in sameness.torn(out, whole)]
    wrong += at_once(server, bids, GROUPS, **how)
    wrong += [f"torn: {name}" for name in sameness.torn(out, whole)]
    wrong += [f"left: {name}" for name in sameness.leftovers(out)]
    settle(server, bids, **how)
    # Which calls there were is kept: others were asked for than in the undisturbed way.
    asked = {str(path.relative_to(out)) for path in out.glob("logs/*_settings.toml")}
    differ = {n: size for n, size in sameness.differences(out, whole).items() if n not in asked}
    return wrong + [f"differs: {name}" for name in differ]


def run_rounds(server: Any, bids: Path, rounds: int, **how: Any) -> list[str]:
    undisturbed(server, bids, **how)
    return [f"round {i}: {said}" for i in range(rounds) for said in one_round(server, bids, **how)]


def failed_rounds(wrong: list[str]) -> int:
    return len({said.partition(":")[0] for said in wrong})


def test_processes_in_one_folder_do_each_other_no_harm(light, dataset, tally):
    wrong = run_rounds(light, dataset, 1, engines="fake")
    shutil.rmtree(dataset.parent / "whole")
    tally("two at once", survived=not wrong)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_processes_twenty_times_in_one_folder(light, dataset, tally, capsys):
    begun = time.monotonic()
    wrong = run_rounds(light, dataset, ROUNDS, engines="fake")
    n_calls = ROUNDS * (len(PARTICIPANTS) + len(GROUPS))
    with capsys.disabled():
        print(f"\n{ROUNDS} rounds of {PROCESSES} processes at once, {n_calls} calls, in", end=" ")
        print(f"{time.monotonic() - begun:.0f} s: {failed_rounds(wrong)} rounds went wrong")
    tally("two at once", injected=ROUNDS, survived=ROUNDS - failed_rounds(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_real_calls_of_one_run_at_once(tmp_path, tally):
    """Both preprocess it, for no call waits for another; what they leave is the same."""
    server = forkserver.ForkServer(tmp_path / "calls")
    bids = tmp_path / "bids"
    make_phantom(bids, participants=1, runs=1, seed=5, scale="tiny", n_volumes=24)
    words = (*EVERYBODY, "--output-spaces", "MNI152NLin2009cAsym:res-2")
    out, whole = tmp_path / "out", tmp_path / "whole"
    first = server.start(bids, out, *words, engines=f"record:{tmp_path / 'recorded'}")
    second = server.start(bids, out, *words)
    codes = [first.wait(), second.wait()]
    wrong = [] if codes == [0, 0] else [first.said, second.said]
    wrong += at_once(server, bids, [("group",)] * 2)
    wrong += [f"left: {name}" for name in sameness.leftovers(out)]
    for level in (words, ("group",)):  # pages show the newest; and the folder is whole
        assert server.call(bids, out, *level).code == 0
    out.rename(whole)
    for level in (words, ("group",)) * 2:  # one at a time, from the first one's preprocessing
        call = server.call(bids, out, *level, engines=f"replay:{tmp_path / 'recorded'}")
        assert call.code == 0, call.said
    server.close()
    wrong += [f"differs: {name}" for name in sameness.differences(out, whole)]
    tally("two at once", survived=not wrong)
    assert not wrong, "\n".join(wrong)
