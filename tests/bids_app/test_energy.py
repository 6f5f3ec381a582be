"""Energy: counters that turn over, that are not ours to read, and that are not there."""

from __future__ import annotations

import ctypes
import itertools
import json
import threading
from types import SimpleNamespace

import pytest

from neurostorm_app.bids_app.app import run_app
from neurostorm_app.bids_app.energy import Counter, Meter, find_counters
from neurostorm_app.bids_app.participant import embedding, work


class Shown:
    """A counter that shows what it is told to, in turn."""

    def __init__(self, *numbers: int | None) -> None:
        self.numbers = list(numbers)

    def __call__(self) -> int:
        number = self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]
        if number is None:
            raise PermissionError("energy_uj")
        return number


def load_driver(name):
    """Make a driver of two cards, of which one is too old to count."""

    def count(n):
        n._obj.value = 2
        return 0

    def find(i, card):
        card._obj.value = i + 1
        return 0

    def tell(card, millijoules):
        millijoules._obj.value = 5_000
        return 0 if card.value == 1 else 3

    return SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetCount_v2=count,
        nvmlDeviceGetHandleByIndex_v2=find,
        nvmlDeviceGetTotalEnergyConsumption=tell,
    )


def no_driver(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def zones(tmp_path):
    """Write what a kernel shows of one processor, of its memory, and of the whole board."""
    shown = {
        "intel-rapl:0": ("package-0", "1000000"),
        "intel-rapl:0:0": ("core", "400000"),
        "intel-rapl:0:1": ("dram", "300000"),
        "intel-rapl:1": ("psys", "9000000"),
        "intel-rapl:2": ("package-1", ""),
        "intel-rapl-mmio:0": ("package-0", "1000000"),
    }
    for zone, (name, number) in shown.items():
        folder = tmp_path / "powercap" / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text("262143328850\n")
        (folder / "energy_uj").write_text(f"{number}\n")
    (tmp_path / "powercap" / "intel-rapl:3").mkdir()
    return tmp_path / "powercap"


def test_each_joule_is_counted_by_one_counter(zones):
    """Cores are part of a package, the board holds packages, and a second way shows the same."""
    found = list(find_counters(zones, no_driver))
    assert [counter.name for counter in found] == ["package-0", "memory-0"]
    assert [counter.read() for counter in found] == [1_000_000, 300_000]
    assert {counter.turns_at for counter in found} == {262143328850}


def test_cards_tell_theirs_through_their_driver(tmp_path):
    (card,) = find_counters(tmp_path, load_driver)
    assert card.name == "gpu-0"
    assert card.read() == 5_000_000


def test_without_counters_nothing_is_measured(tmp_path):
    assert list(find_counters(tmp_path, no_driver)) == []
    assert list(find_counters(tmp_path, ctypes.CDLL)) in ([], list(find_counters(tmp_path)))
    with Meter([]) as meter:
        assert meter.take() is None


def test_a_counter_that_turns_over_goes_on():
    meter = Meter([Counter("package-0", Shown(900, 100, 700, 200), turns_at=1000)])
    assert meter.take() == {"package-0": 200e-6}
    assert meter.take() == {"package-0": 600e-6}
    assert meter.take() == {"package-0": 500e-6}


def test_what_was_taken_is_not_taken_again():
    meter = Meter([Counter("gpu-0", Shown(5, 3_000_005))])
    assert meter.take() == {"gpu-0": 3.0}
    assert meter.take() == {"gpu-0": 0.0}


@pytest.mark.parametrize("numbers", [(500, 100), (500, None)], ids=["set back", "out of reach"])
def test_a_counter_whose_count_is_not_known_is_left_out(numbers):
    lost = Counter("gpu-0", Shown(*numbers))
    kept = Counter("package-0", Shown(0, 10**6), turns_at=10**9)
    assert Meter([lost, kept]).take() == {"package-0": 1.0}
    assert Meter([Counter("gpu-0", Shown(*numbers))]).take() is None


def test_counters_are_looked_at_between_begin_and_end():
    """One that turns over many times is followed, and nobody looks at it after the end."""
    numbers, turned = itertools.count(0, 600), threading.Event()
    begun = []

    def read():
        begun.append(next(numbers))
        if begun[-1] > 5000:
            turned.set()
        return begun[-1] % 1000

    with Meter([Counter("package-0", read, turns_at=1000)], every=0.001) as meter:
        assert turned.wait(60)
        taken = meter.take()
    assert taken["package-0"] > 5000e-6
    for thread in threading.enumerate():
        if thread.name == "energy":
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("measured", [True, False])
def test_records_tell_it(measured, settings, fake, tmp_path, monkeypatch):
    def meter():
        clock = iter(range(0, 10**12, 3_600_000_000))
        return Meter([Counter("package-0", clock.__next__)] if measured else [])

    for module in (work, embedding):
        monkeypatch.setattr(module, "Meter", meter)
    run_app(settings(participant_label=["01"], run_label=["1"]), engines=fake.engines())
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/prov").glob("*.json")]
    told = {record["kind"]: record["energy"] for record in records if "energy" in record}
    assert {"anat", "embedding"} <= told.keys()
    expected = {"package-0": 3600.0} if measured else None
    assert all(joules == expected for joules in told.values())
