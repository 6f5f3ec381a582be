"""How far the jobs of a dataset are, from the run reports in the output folder alone."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.bids_app.clusters.scripts import FIRST
from neurostorm_app.bids_app.clusters.submit import ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.clusters.scripts import Jobs

__all__ = ["Standing", "describe_standing", "read_standing"]

REPORT: Final = re.compile(r"sub-([0-9A-Za-z+]+)((?:_[a-z]+-[0-9A-Za-z+]+)*)_report\.json")


@dataclass(slots=True)
class Standing:
    """How far each participant is, by the number of its task.

    Parameters
    ----------
    done : list of int
        All runs have what was asked.
    partial : list of int
        Preprocessed, but not embedded with all models that were asked.
    failed : dict
        Name of the worst run, its exit code and its message.
    missing : list of int
        Without any report.
    """

    done: list[int] = field(default_factory=list)
    partial: list[int] = field(default_factory=list)
    failed: dict[int, tuple[str, int, str]] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)


def read_standing(root: Path, labels: Sequence[str], models: Sequence[str]) -> Standing:
    """Read how far each participant is.

    Parameters
    ----------
    root : Path
        The output folder.
    labels : sequence of str
        Participants, in the order of the array.
    models : sequence of str
        What each run is to be embedded with.
    """
    reports: dict[str, list[dict[str, Any]]] = {}
    logs = root / "logs"
    for path in sorted(logs.iterdir()) if logs.is_dir() else ():
        if (match := REPORT.fullmatch(path.name)) and (run := _read(path)):
            reports.setdefault(match[1], []).append(run)
    standing = Standing()
    for number, label in enumerate(labels):
        runs = reports.get(label)
        if not runs:
            standing.missing.append(number)
            continue
        # Of an anatomy that was made alone, it says nothing of the runs.
        whole = {"name": f"sub-{label}", "status": "done"}.items()
        runs = [run for run in runs if not whole <= run.items()] or runs
        worst = max(runs, key=lambda run: (run["status"] == "failed", run["exit_code"] != 75))
        if worst["status"] == "failed":
            standing.failed[number] = (worst["name"], worst["exit_code"], worst["error"])
        elif all(set(models) <= set(run["models"]) for run in runs):
            standing.done.append(number)
        else:
            standing.partial.append(number)
    return standing


def _read(path: Path) -> dict[str, Any] | None:
    """Read of a report what counts here; one that cannot be read is a run to do again."""
    name = path.name.removesuffix("_report.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        error = content["error"] or {"what": ""}
        return {
            "name": name,
            "status": content["status"],
            "exit_code": int(content["exit_code"]),
            "models": list(content["models"]),
            "error": str(error["what"]),
        }
    except FileNotFoundError:
        if not path.is_symlink():
            return None  # removed since the folder was listed: what it told of is mended
        told = f"{path.name} is a link to a file that is not here: datalad get {path}"
    except (ValueError, KeyError, TypeError):
        told = f"{path.name} is damaged"
    return {"name": name, "status": "failed", "exit_code": 75, "models": [], "error": told}


def describe_standing(standing: Standing, jobs: Jobs) -> Iterator[str]:
    """Say how far the jobs are, and which command queues what is left.

    Parameters
    ----------
    standing : Standing
        As read.
    jobs : Jobs
        As they were queued.

    Yields
    ------
    str
        One line each.
    """
    labels = jobs.asked.labels
    counts = f"{len(standing.done)} done, {len(standing.partial)} without all models, "
    counts += f"{len(standing.failed)} failed, {len(standing.missing)} missing"
    yield f"{len(labels)} participants: {counts}"
    for number, (name, code, what) in sorted(standing.failed.items()):
        yield f"failed: task {number}: {name} [exit code {code}]: {what}"
    if standing.missing:
        yield f"missing: tasks {ranges(standing.missing)}"
    again = sorted([*standing.missing, *standing.failed])
    if not again and not standing.partial:
        yield "nothing is left to do at the participant level"
        return
    yield "to queue what is left, and the group level after it:"
    yield f"cd {shlex.quote(str(jobs.folder))}"
    yield from _again(jobs, again, standing.partial)


def _again(jobs: Jobs, again: Sequence[int], partial: Sequence[int]) -> Iterator[str]:
    """Write the commands that queue what is left."""
    needed = ""
    if jobs.inference is None:
        again, partial = sorted([*again, *partial]), ()
    first = "participant" if jobs.inference is None else "preprocess"
    for block, line in enumerate(_arrays(jobs, first, again, "")):
        yield f"first{block}=$({line})"
        needed += f":${{first{block}}}"
    if jobs.inference is not None:
        chunks = sorted({number // jobs.chunk for number in (*again, *partial)})
        after = f"{jobs.after}{needed}" if needed else ""
        needed = ""
        for block, line in enumerate(_arrays(jobs, "inference", chunks, after)):
            yield f"then{block}=$({line})"
            needed += f":${{then{block}}}"
    if jobs.parts > 1:
        line = _sbatch("part", f"1-{jobs.parts}", after=f"{jobs.after}{needed}")
        yield f"parts=$({line})"
        needed = ":$parts"
    yield _sbatch("group", "", after=f"{jobs.after}{needed}")


def _arrays(jobs: Jobs, script: str, numbers: Sequence[int], after: str) -> Iterator[str]:
    """Write the call of sbatch for some tasks, one for each array that they are in."""
    for start in sorted({number // jobs.most * jobs.most for number in numbers}):
        here = [n - start for n in numbers if start <= n < start + jobs.most]
        yield _sbatch(script, f"{ranges(here)}{jobs.throttle}", start=start, after=after)


def _sbatch(script: str, array: str, *, start: int = 0, after: str = "") -> str:
    words = ["sbatch", "--parsable"]
    words += [f"--array={array}"] if array else []
    words += [f"--export=ALL,{FIRST}={start}"] if start else []
    words += [f'"--dependency={after}"'] if after else []
    return " ".join([*words, f"{script}.sbatch"])
