"""What the suite of faults has in common: one table of what was injected, survived and lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

PROPERTY = "fault"
FIRST = ("test_cluster.py", "test_kill.py", "test_cluster_dask.py", "test_concurrency.py")
"""The files that take longest: what begins last must not be what all wait for."""


@dataclass
class Row:
    """What became of the faults of one kind."""

    injected: int = 0
    survived: int = 0
    bytes_lost: int = 0


@pytest.fixture
def tally(record_property):
    """Count faults of a kind; the counts of all tests make the table at the end.

    A fault is survived if the call ended as it should (or was finished by the next one), and the
    bytes lost are those of finished results that are gone or differ afterwards.
    """

    def count(kind: str, *, injected: int = 1, survived: int, bytes_lost: int = 0) -> None:
        record_property(PROPERTY, [kind, injected, survived, bytes_lost])

    return count


@pytest.fixture(scope="session")
def one_head(tmp_path_factory):
    """Eight phantom participants of one head with a run each in bids/, its anatomy in anatomy/.

    It is estimated once for all processes that test: a registration for each would take most of
    the time of tests of lost nodes and workers, and tell nothing more of these.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    study = base / "one-head"
    with (base / "one-head.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not study.exists():
            aside = base / "one-head.part"
            shutil.rmtree(aside, ignore_errors=True)
            make_one_head(aside)
            aside.rename(study)
    return study


def make_one_head(folder, n=8):
    one, bids, anatomy = folder / "one", folder / "bids", folder / "anatomy"
    amount = ["--participants", 1, "--runs", n, "--volumes", 24, "--scale", "tiny"]
    tool("neurostorm-tools", "phantom", one, *amount)
    space = ["--output-spaces", "MNI152NLin6Asym:res-native"]
    tool("neurostorm-app", one, anatomy, "participant", "--anat-only", *space)
    bids.mkdir()
    shutil.copy(one / "dataset_description.json", bids)
    for number in range(n, 0, -1):
        own = f"sub-{number:02}"
        for path in (one / "sub-01" / "func").glob(f"*_run-{number}_*"):
            name = path.name.replace("sub-01", own).replace(f"_run-{number}_", "_run-1_")
            copy(path, bids / own / "func" / name)
        for root, target in ((one, bids), (anatomy, anatomy)):
            for path in (root / "sub-01" / "anat").iterdir():
                copy(path, target / own / "anat" / path.name.replace("sub-01", own))


def tool(name, *words):
    """Call a command of the app, which is to succeed."""
    command = [Path(sys.executable).with_name(name), *words]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


def copy(path, target):
    if path != target:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def pytest_collection_modifyitems(items):
    """Let the longest files of this folder begin first; other folders stay where they are."""
    places = [place for place, item in enumerate(items) if is_here(item.nodeid)]
    sorted_items = sorted((items[place] for place in places), key=lambda item: rank(item.nodeid))
    for place, item in zip(places, sorted_items, strict=True):
        items[place] = item


def file_of(nodeid):
    return nodeid.partition("::")[0]


def is_here(nodeid):
    return Path(file_of(nodeid)).parent.name == Path(__file__).parent.name


def rank(nodeid):
    name = Path(file_of(nodeid)).name
    return FIRST.index(name) if name in FIRST else len(FIRST)


def pytest_terminal_summary(terminalreporter):
    lines = [*count_faults(terminalreporter.stats), *list_skipped(terminalreporter.stats)]
    if lines:
        terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line(line)


def count_faults(stats):
    """Make the table of what was injected, survived and lost, a line a kind."""
    rows: dict[str, Row] = defaultdict(Row)
    for reports in stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY and getattr(report, "when", "") == "call":
                    kind, injected, survived, lost = value
                    rows[kind].injected += injected
                    rows[kind].survived += survived
                    rows[kind].bytes_lost += lost
    if not rows:
        return []
    whole = Row()
    for row in rows.values():
        whole.injected += row.injected
        whole.survived += row.survived
        whole.bytes_lost += row.bytes_lost
    width = max(map(len, rows)) + 2
    return [
        f"{'kind':<{width}}{'injected':>10}{'survived':>10}{'bytes lost':>12}",
        *[
            f"{kind:<{width}}{row.injected:>10}{row.survived:>10}{row.bytes_lost:>12}"
            for kind, row in [*sorted(rows.items()), ("all", whole)]
        ],
    ]


def list_skipped(stats):
    """Name the tests of this folder that were skipped, under the reason: their rows are short."""
    names: dict[str, list[str]] = defaultdict(list)
    for report in stats.get("skipped", ()):
        if is_here(report.nodeid) and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            names[reason].append(report.nodeid.removeprefix("tests/faults/"))
    return [
        line
        for reason, tests in names.items()
        for line in (f"skipped, {reason}:", *(f"  {test}" for test in tests))
    ]
