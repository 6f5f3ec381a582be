"""Keys and stamps: when a result still holds."""

from __future__ import annotations

import os

import pytest

from neurostorm_app.bids_app.provenance import Ledger, Stamp, Unit, key_of, sha256_of, versions


def unit(**changes):
    facts = {
        "name": "sub-01_anat",
        "kind": "anat",
        "about": {"participant": "01"},
        "settings": {"seed": 1, "res": "2"},
        "inputs": {"bids:raw:x": "aa"},
    }
    return Unit(**{**facts, **changes})


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path)


@pytest.fixture
def written(ledger):
    """A unit with one output and its record."""
    path = ledger.root / "sub-01" / "x.txt"
    path.parent.mkdir()
    path.write_text("result")
    ledger.write(unit(), {path: sha256_of(path)}, stamps={}, measured={"seconds": 1.0})
    return path


def test_a_key_does_not_depend_on_order():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"seed": 2, "res": "2"}},
        {"inputs": {"bids:raw:x": "bb"}},
        {"inputs": {"bids:raw:y": "aa"}},
        {"kind": "bold"},
    ],
    ids=["setting", "content", "file", "kind"],
)
def test_a_key_depends_on_all_that_matters(changes):
    assert unit(**changes).key != unit().key


def test_a_key_does_not_depend_on_where_the_record_stands():
    assert unit(name="other", about={}).key == unit().key


def test_a_unit_holds_while_its_outputs_do(ledger, written):
    assert ledger.holds(unit())
    assert not ledger.holds(unit(settings={"seed": 2, "res": "2"}))
    written.write_text("Result")
    os.utime(written, (1, 1))  # clocks of disks may be coarse
    assert not ledger.holds(unit())
    written.unlink()
    assert not ledger.holds(unit())


def test_a_touched_or_copied_output_still_holds(ledger, written):
    os.utime(written, (1, 1))
    assert ledger.holds(unit())


def test_a_damaged_record_is_no_record(ledger, written):
    ledger.path("sub-01_anat").write_text("{")
    assert not ledger.holds(unit())


def test_an_unchanged_input_is_not_read_again(tmp_path, monkeypatch):
    path = tmp_path / "scan"
    path.write_bytes(b"scan")
    known = Stamp.of(path)
    path.chmod(0)
    assert Stamp.of(path, known) is known


def test_a_changed_input_is_read_again(tmp_path):
    path = tmp_path / "scan"
    path.write_bytes(b"scan")
    known = Stamp.of(path)
    path.write_bytes(b"scam")
    os.utime(path, ns=(known.mtime + 1, known.mtime + 1))
    assert Stamp.of(path, known).sha256 != known.sha256


def test_inputs_are_known_by_the_record_in_the_next_call(ledger, tmp_path, written):
    scan = tmp_path / "scan"
    scan.write_bytes(b"scan")
    sha256 = ledger.hash_input(scan, "sub-01_anat", "role")
    ledger.write(unit(), {written: sha256_of(written)}, stamps={"role": scan}, measured={})
    stamps = ledger.read("sub-01_anat")["stamps"]
    assert stamps["role"]["sha256"] == sha256
    assert stamps["role"]["size"] == 4


def test_versions_name_what_may_change_a_number():
    found = versions()
    assert {"python", "neurostorm-app", "numpy", "torch"} <= found.keys()
