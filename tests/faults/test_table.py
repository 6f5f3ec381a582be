"""What the suite says at its end, and in which order it runs."""

from __future__ import annotations

from types import SimpleNamespace

from .conftest import count_faults, list_skipped, pytest_collection_modifyitems


def report(nodeid, *counts, longrepr=None):
    properties = [("fault", list(count)) for count in counts]
    return SimpleNamespace(
        nodeid=nodeid, when="call", user_properties=properties, longrepr=longrepr
    )


def test_the_table_adds_up_what_was_injected_survived_and_lost():
    stats = {
        "passed": [report("a", ("kill -9", 4, 4, 0), ("disk full", 1, 1, 0)), report("b")],
        "failed": [report("c", ("kill -9", 2, 1, 77))],
        "": [SimpleNamespace(when="setup", user_properties=[("fault", ["kill -9", 9, 9, 0])])],
    }
    assert [line.split() for line in count_faults(stats)] == [
        ["kind", "injected", "survived", "bytes", "lost"],
        ["disk", "full", "1", "1", "0"],
        ["kill", "-9", "6", "5", "77"],
        ["all", "7", "6", "77"],
    ]
    assert count_faults({"passed": [report("b")]}) == []


def test_what_was_skipped_is_named_under_its_reason():
    why = ("tests/faults/test_disk.py", 12, "Skipped: no small disk")
    skipped = [
        report("tests/faults/test_disk.py::test_full[a/b]", longrepr=why),
        report("tests/faults/test_disk.py::test_fuller", longrepr=why),
        report("tests/models/test_golden.py::test_real", longrepr=("", 1, "Skipped: no scans")),
    ]
    assert list_skipped({"skipped": skipped}) == [
        "skipped, no small disk:",
        "  test_disk.py::test_full[a/b]",
        "  test_disk.py::test_fuller",
    ]
    assert list_skipped({}) == []


def test_the_longest_files_begin_first_and_other_folders_stay_where_they_are():
    before = ["models/test_a.py", *("faults/" + name for name in NAMES), "test_z.py"]
    items = [SimpleNamespace(nodeid=f"tests/{name}::test_it[a/b::c]") for name in before]
    pytest_collection_modifyitems(items)
    names = [item.nodeid.partition("::")[0].rpartition("/")[2] for item in items]
    assert names == ["test_a.py", *sorted(NAMES, key=ORDER.index), "test_z.py"]


NAMES = ("test_cluster_dask.py", "test_disk.py", "test_cluster.py", "test_fuzz.py", "test_kill.py")
ORDER = ("test_cluster.py", "test_kill.py", "test_cluster_dask.py", "test_disk.py", "test_fuzz.py")
