"""Eight processes in one output folder, many times: nothing is corrupt, and no lock is left."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
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


@dataclass
class Harm:
    """What calls did to each other: what is not as it should be, and the bytes of results lost."""

    wrong: list[str] = field(default_factory=list)
    bytes_lost: int = 0

    def compare(self, bids: Path) -> None:
        """Compare the folder of the calls with that of the undisturbed way."""
        out = bids.parent / "out"
        # Which calls there were is kept: others were asked for than in the undisturbed way.
        asked = {str(path.relative_to(out)) for path in out.glob("logs/*_settings.toml")}
        found = sameness.differences(out, bids.parent / "whole")
        differ = {name: size for name, size in found.items() if name not in asked}
        self.wrong += [f"differs: {name}" for name in differ]
        self.bytes_lost += sum(differ.values())


def one_round(server: Any, bids: Path, **how: Any) -> Harm:
    """Let eight processes loose on an empty folder, twice; tell what went wrong."""
    out, whole = bids.parent / "out", bids.parent / "whole"
    shutil.rmtree(out, ignore_errors=True)
    harm = Harm(at_once(server, bids, PARTICIPANTS, **how))
    harm.wrong += [f"torn: {name}" for name in sameness.torn(out, whole)]
    harm.wrong += at_once(server, bids, GROUPS, **how)
    harm.wrong += [f"torn: {name}" for name in sameness.torn(out, whole)]
    harm.wrong += [f"left: {name}" for name in sameness.leftovers(out)]
    settle(server, bids, **how)
    harm.compare(bids)
    return harm


def run_rounds(server: Any, bids: Path, rounds: int, **how: Any) -> list[Harm]:
    undisturbed(server, bids, **how)
    return [one_round(server, bids, **how) for _ in range(rounds)]


def test_what_a_round_lost_is_counted_in_bytes(tmp_path):
    for name, content in {"whole": "0123456789", "out": "01234"}.items():
        (tmp_path / name / "logs").mkdir(parents=True)
        (tmp_path / name / "sub-01_embedding.tsv").write_text(content)
        (tmp_path / name / "kept.tsv").write_text("the same")
    (tmp_path / "whole" / "sub-02_embedding.tsv").write_text("gone")
    (tmp_path / "out" / "logs" / "call_settings.toml").write_text("asked = 1")
    (tmp_path / "out" / "sub-03_embedding.tsv").write_text("of nobody")
    harm = Harm()
    harm.compare(tmp_path / "bids")
    assert sorted(harm.wrong) == [
        "differs: sub-01_embedding.tsv",
        "differs: sub-02_embedding.tsv",
        "differs: sub-03_embedding.tsv",
    ]
    assert harm.bytes_lost == 14


def test_processes_in_one_folder_do_each_other_no_harm(light, dataset, tally):
    (harm,) = run_rounds(light, dataset, 1, engines="fake")
    shutil.rmtree(dataset.parent / "whole")
    tally("two at once", survived=not harm.wrong, bytes_lost=harm.bytes_lost)
    assert not harm.wrong, "\n".join(harm.wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_processes_twenty_times_in_one_folder(light, dataset, tally, capsys):
    begun = time.monotonic()
    harms = run_rounds(light, dataset, ROUNDS, engines="fake")
    wrong = [f"round {i}: {said}" for i, harm in enumerate(harms) for said in harm.wrong]
    survived = sum(not harm.wrong for harm in harms)
    n_calls = ROUNDS * (len(PARTICIPANTS) + len(GROUPS))
    with capsys.disabled():
        print(f"\n{ROUNDS} rounds of {PROCESSES} processes at once, {n_calls} calls, in", end=" ")
        print(f"{time.monotonic() - begun:.0f} s: {ROUNDS - survived} rounds went wrong")
    lost = sum(harm.bytes_lost for harm in harms)
    tally("two at once", injected=ROUNDS, survived=survived, bytes_lost=lost)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_real_calls_of_one_run_at_once(tmp_path, tally):
    """Both preprocess it, for no call waits for another; what they leave is the same."""
    server = forkserver.ForkServer(tmp_path / "calls")
    bids = tmp_path / "bids"
    make_phantom(bids, participants=1, runs=1, seed=5, scale="tiny", n_volumes=24)
    words = (*EVERYBODY, "--output-spaces", "MNI152NLin2009cAsym:res-native")
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
    lost = sameness.differences(out, whole)
    wrong += [f"differs: {name}" for name in lost]
    tally("two at once", survived=not wrong, bytes_lost=sum(lost.values()))
    assert not wrong, "\n".join(wrong)
