"""What the suite of faults has in common: one table of what was injected, survived and lost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pytest

PROPERTY = "fault"


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


def pytest_terminal_summary(terminalreporter):
    rows: dict[str, Row] = defaultdict(Row)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY and getattr(report, "when", "") == "call":
                    kind, injected, survived, lost = value
                    rows[kind].injected += injected
                    rows[kind].survived += survived
                    rows[kind].bytes_lost += lost
    if not rows:
        return
    width = max(map(len, rows), default=0) + 2
    write = terminalreporter.write_line
    terminalreporter.section("faults")
    write(f"{'kind':<{width}}{'injected':>10}{'survived':>10}{'bytes lost':>12}")
    whole = Row()
    for kind, row in sorted(rows.items()):
        write(f"{kind:<{width}}{row.injected:>10}{row.survived:>10}{row.bytes_lost:>12}")
        whole.injected += row.injected
        whole.survived += row.survived
        whole.bytes_lost += row.bytes_lost
    write(f"{'all':<{width}}{whole.injected:>10}{whole.survived:>10}{whole.bytes_lost:>12}")
