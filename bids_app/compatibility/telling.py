"""The table of runs and consumers for a terminal, and what is missing below it.

Names come from files that anybody may have written: what is not printable is shown as its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from neurostorm_app.bids_app.compatibility.checking import Report
    from neurostorm_app.bids_app.compatibility.verdicts import Missing, Verdict

__all__ = ["shown", "tell"]

ROWS_MAX: Final = 25
"""Runs in the table; of more, those with the same verdicts share a row."""
LINES_MAX: Final = 12
"""Things that are named below the table for one consumer."""


def shown(text: str) -> str:
    r"""Replace what is not printable by its code, so that no name can command a terminal.

    Examples
    --------
    >>> print(shown("sub-\x1b[2J01"))
    sub-\x1b[2J01
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def tell(report: Report) -> Iterator[str]:
    """Write a report as lines: a table, what each consumer lacks, and what was left out.

    Yields
    ------
    str
        A line without its end.
    """
    tools = [one for one in report.consumers if not one.is_model]
    models = [one.name for one in report.consumers if one.is_model]
    header = ["run", *(one.title for one in tools), "models"]
    rows = [
        [run, *(verdicts[one.name].word for one in tools), _share(verdicts, models)]
        for run, verdicts in report.runs.items()
    ]
    yield from _table(header, rows if len(rows) <= ROWS_MAX else _join(rows))
    for one in tools:
        yield from _lacking(report, one.name, one.title)
    for names in _alike(report, models):
        yield from _lacking(report, names[0], ", ".join(names))
    if report.strange:
        n, first = len(report.strange), shown(report.strange[0])
        yield ""
        yield f"left out, since their names are not BIDS: {n}, the first {first}"


def _share(verdicts: Mapping[str, Verdict], models: Sequence[str]) -> str:
    taken = sum(verdicts[name].word == "yes" for name in models)
    return f"{taken} of {len(models)}"


def _join(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Let runs with the same verdicts share a row, the most frequent last."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for run, *words in rows:
        alike.setdefault(tuple(words), []).append(run)
    joined = sorted(alike.items(), key=lambda item: len(item[1]))
    return [[_and_more(runs), *words] for words, runs in joined]


def _and_more(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    lines = [[shown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(header))]
    for row in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _lacking(report: Report, name: str, title: str) -> Iterator[str]:
    """Name what a consumer lacks; a thing that many runs lack is named of the first."""
    first: dict[str, str] = {}
    counted: dict[str, int] = {}
    refused = 0
    for run, verdicts in report.runs.items():
        verdict = verdicts[name]
        refused += verdict.word != "yes"
        for text in dict.fromkeys(str(missing) for missing in verdict.lacking):
            told = text + _uses(verdict, text)
            key = told.replace(run, "RUN").replace(run.partition("_")[0], "WHO")
            first.setdefault(key, told)
            counted[key] = counted.get(key, 0) + 1
    if not first:
        return
    yield ""
    yield f"{shown(title)}: {refused} of {len(report.runs)} runs lack something"
    for key, text in list(first.items())[:LINES_MAX]:
        more = f"  [{counted[key]} runs]" if counted[key] > 1 else ""
        yield f"    {shown(text)}{more}"
    if len(first) > LINES_MAX:
        yield f"    and {len(first) - LINES_MAX} more; --json lists all"


def _uses(verdict: Verdict, text: str) -> str:
    """Name the uses that need a thing, unless all do."""
    counted = [use for use in verdict.uses if not use.optional]
    uses = [use.name for use in counted if text in map(str, use.lacking)]
    return "" if len(uses) == len(counted) else f", for {', '.join(uses)}"


def _alike(report: Report, models: Sequence[str]) -> list[list[str]]:
    """Put models together that lack the same things of the same runs."""
    found: dict[tuple[tuple[Missing, ...], ...], list[str]] = {}
    for name in models:
        key = tuple(verdicts[name].lacking for verdicts in report.runs.values())
        found.setdefault(key, []).append(name)
    return list(found.values())
