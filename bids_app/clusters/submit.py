"""What queues the jobs of a dataset, each after those it needs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from neurostorm_app.bids_app.clusters.scripts import FIRST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neurostorm_app.bids_app.clusters.scripts import Jobs

__all__ = ["blocks", "make_submit", "ranges"]


def make_submit(jobs: Jobs) -> str:
    """Write the script that queues all jobs.

    Parameters
    ----------
    jobs : Jobs
        What is queued.
    """
    return "\n".join(_lines(jobs)) + "\n"


def blocks(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut an array where a cluster would refuse it: first number and length of each block."""
    for first in range(0, count, most):
        yield first, min(most, count - first)


def ranges(numbers: Sequence[int]) -> str:
    """Write numbers as an array takes them.

    Examples
    --------
    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _lines(jobs: Jobs) -> Iterator[str]:
    """Write what queues all jobs, each after those it needs."""
    yield "#!/bin/bash"
    yield "# Queue all jobs; each waits for those it needs. Their numbers are printed."
    yield "set -eu"
    yield f"cd {shlex.quote(str(jobs.folder))}"
    yield f"mkdir -p log {shlex.quote(str(jobs.asked.settings.output_dir))}"
    yield "queue() {"
    yield "    local job"
    yield '    job=$(sbatch --parsable "$@") || exit 1'
    yield '    echo "${job%%;*}"'
    yield "}"
    first = "participant" if jobs.inference is None else "preprocess"
    names = []
    for block, (start, length) in enumerate(blocks(len(jobs.asked.labels), jobs.most)):
        names.append(f"{first}{block}")
        yield _queue(names[-1], first, f"0-{length - 1}{jobs.throttle}", start=start)
    needed = "".join(f":${{{name}}}" for name in names)
    if jobs.inference is not None:
        yield "inference="
        yield from _chunks(jobs)
        needed = "$inference"
    if jobs.parts > 1:
        yield _queue("parts", "part", f"1-{jobs.parts}", after=f"{jobs.after}{needed}")
        needed = ":$parts"
    yield _queue("group", "group", "", after=f"{jobs.after}{needed}")


def _chunks(jobs: Jobs) -> Iterator[str]:
    """Queue each job of inference after the jobs that fill it."""
    count = len(jobs.asked.labels)
    for chunk in range(-(-count // jobs.chunk)):
        here = range(chunk * jobs.chunk, min(count, (chunk + 1) * jobs.chunk))
        fill = "".join(f":${{preprocess{i // jobs.most}}}_{i % jobs.most}" for i in here)
        start = chunk // jobs.most * jobs.most
        array, after = str(chunk - start), f"{jobs.after}{fill}"
        yield _queue("job", "inference", array, start=start, after=after)
        yield "inference+=:$job"


def _queue(name: str, script: str, array: str, *, start: int = 0, after: str = "") -> str:
    options = [f"--array={array}"] if array else []
    options += [f"--export=ALL,{FIRST}={start}"] if start else []
    options += [f'"--dependency={after}"'] if after else []
    words = " ".join([*options, f"{script}.sbatch"])
    return f'{name}=$(queue {words})\necho "{script}: ${name}"'
