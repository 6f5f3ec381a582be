"""Energy that the machine took while work was done, as its own counters say.

Linux shows those of processors (RAPL), NVIDIA's driver those of its cards (NVML). They count for
the whole machine, other people's work included. Nothing is estimated: where no counter can be read,
as on most machines for anybody but root, there is no number.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Counter", "Meter", "find_counters"]

ZONES: Final = Path("/sys/class/powercap")
EVERY: Final = 30.0
"""Seconds between readings: the smallest counters of processors hold 65 kJ, so that one that takes
2 kW does not turn over unseen."""


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter of energy.

    Parameters
    ----------
    name : str
        Such as ``package-0``.
    read : callable
        Gives microjoules; raises OSError where it cannot be read.
    turns_at : int
        Microjoules after which it begins at 0 again; 0: it never does.
    """

    name: str
    read: Callable[[], int]
    turns_at: int = 0


def find_counters(
    zones: Path = ZONES, load: Callable[[str], Any] = ctypes.CDLL
) -> Iterator[Counter]:
    """Yield the counters that can be read: packages of processors, their memory, and cards."""
    for counter in (*_of_processors(zones), *_of_cards(load)):
        with contextlib.suppress(OSError, ValueError):
            counter.read()
            yield counter


def _of_processors(zones: Path) -> Iterator[Counter]:
    """Yield packages and memory; cores are part of a package, and ``psys`` holds packages."""
    for folder in sorted(zones.glob("intel-rapl:*")):
        with contextlib.suppress(OSError, ValueError):
            name = (folder / "name").read_text().strip().replace("dram", "memory")
            turns_at = int((folder / "max_energy_range_uj").read_text())
            shown = folder / "energy_uj"
            if re.fullmatch(r"package-\d+|memory", name):
                name += f"-{folder.name.split(':')[1]}" * (name == "memory")
                yield Counter(name, partial(_read_zone, shown), turns_at)


def _read_zone(path: Path) -> int:
    return int(path.read_text())


def _of_cards(load: Callable[[str], Any]) -> Iterator[Counter]:
    try:
        nvml = load("libnvidia-ml.so.1")
    except OSError:
        return
    n = ctypes.c_uint()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(n)):
        return
    for i in range(n.value):
        card = ctypes.c_void_p()
        if not nvml.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(card)):
            yield Counter(f"gpu-{i}", partial(_read_card, nvml, card))


def _read_card(nvml: Any, card: ctypes.c_void_p) -> int:
    millijoules = ctypes.c_ulonglong()
    if nvml.nvmlDeviceGetTotalEnergyConsumption(card, ctypes.byref(millijoules)):
        raise OSError("the driver does not tell the energy of this card")
    return millijoules.value * 1000


class Meter:
    """Adds up what counters count; while it is entered, turns of a counter are not missed."""

    def __init__(self, counters: Sequence[Counter] | None = None, every: float = EVERY) -> None:
        known = tuple(find_counters()) if counters is None else counters
        self._last = {counter: counter.read() for counter in known}
        self._spent = dict.fromkeys(known, 0)
        self._every, self._lock, self._ended = every, threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        """Begin to look at the counters now and then."""
        if self._last:
            threading.Thread(target=self._watch, name="energy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            self._update()

    def _update(self) -> None:
        with self._lock:
            for counter, last in list(self._last.items()):
                shown = -1
                with contextlib.suppress(OSError, ValueError):
                    shown = counter.read()
                step = shown - last + (counter.turns_at if shown < last else 0)
                if shown < 0 or step < 0:  # out of reach, or set back: what it counted is not known
                    del self._last[counter], self._spent[counter]
                    continue
                self._last[counter] = shown
                self._spent[counter] += step

    def take(self) -> dict[str, float] | None:
        """Give the joules of each counter since the last taking; None if there is no counter."""
        self._update()
        with self._lock:
            taken = {counter.name: spent / 1e6 for counter, spent in self._spent.items()}
            self._spent = dict.fromkeys(self._spent, 0)
        return taken or None
