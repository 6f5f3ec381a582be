"""Scripts for a SLURM cluster: text from what is asked, and nothing else.

No label stands in a script: a task finds its own in a file, by its number. Paths and options are
quoted. Accounting (``sacct``) is never asked, for many clusters have none.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neurostorm_app.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.clusters.words import Asked

__all__ = ["FIRST", "KNOWN", "LABELS", "Jobs", "Need", "check_paths", "make_scripts"]

LABELS: Final = "participants.txt"
FIRST: Final = "NEUROSTORM_FIRST"
"""Variable with the number of the first task of an array, where one array cannot hold all."""
KNOWN: Final = (
    "SLURM_CPUS_PER_TASK",
    "SLURM_MEM_PER_NODE",
    "SLURM_MEM_PER_CPU",
    "CUDA_VISIBLE_DEVICES",
)
"""What a container must be told of the job."""

WRAPPER: Final = """\
child=
stopped=0
stop() {
    stopped=1
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT
# The time limit, a preemption or scancel end the app in order: what is finished is kept.
run() {
    "$@" &
    child=$!
    [ "$stopped" = 0 ] || kill -TERM "$child"
    wait "$child"
    code=$?
    while [ "$stopped" = 1 ]; do # a signal ends wait before the app ends
        stopped=0
        wait "$child" 2>/dev/null
        again=$?
        [ "$again" = 127 ] || code=$again
    done
}
# Exit code 75 says "try again": the job goes back to the queue, unless it was cancelled.
finish() {
    rm -rf "$scratch"
    job=$SLURM_JOB_ID
    [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    if [ "$code" = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$requeues" ] &&
        [ "$(squeue -h -o %T -j "$job")" = RUNNING ]; then
        echo "exit code 75: requeueing $job" >&2
        scontrol requeue "$job"
    fi
    exit "$code"
}
scratch=$(mktemp -d "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/neurostorm-XXXXXX") || exit 73
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a job asks of the cluster.

    Parameters
    ----------
    cpus : int
        Cores.
    mem, time : str
        As ``sbatch`` takes them.
    more : tuple of str
        Further options of ``sbatch``, such as ``--partition=long``.
    """

    cpus: int
    mem: str
    time: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """All jobs of a dataset.

    Parameters
    ----------
    asked : Asked
        What they are to do.
    folder : Path
        Where the scripts lie.
    command : tuple of str
        What starts the app; of a container, all before the image's own arguments.
    image : Path or None
        Image that Apptainer runs.
    modules : tuple of str
        Environment modules to load.
    participant, inference, group : Need
        What each kind of job asks; `inference` is None where one job does it all.
    limit : int or None
        Tasks of an array at a time.
    requeues : int
        Times that a job goes back to the queue by itself.
    chunk : int
        Participants of one job of inference.
    parts : int
        Jobs that share the group level before the last one.
    most : int
        Tasks that one array may have.
    after : str
        ``afterok`` or ``afterany``.
    """

    asked: Asked
    folder: Path
    command: tuple[str, ...]
    image: Path | None
    modules: tuple[str, ...]
    participant: Need
    inference: Need | None
    group: Need
    limit: int | None
    requeues: int
    chunk: int
    parts: int
    most: int
    after: str

    @property
    def throttle(self) -> str:
        """How many tasks run at a time, as an array says it."""
        return f"%{self.limit}" if self.limit else ""


def make_scripts(jobs: Jobs) -> dict[str, str]:
    """Write the script of each kind of job, by their names.

    Parameters
    ----------
    jobs : Jobs
        What they are for.

    Returns
    -------
    dict
        With the file of labels that they read.
    """
    bids, out = jobs.asked.settings.bids_dir, jobs.asked.settings.output_dir
    paths = [bids, out, jobs.folder, *jobs.asked.inputs]
    check_paths(paths, bound=jobs.image is not None)
    asked, one = jobs.asked, '"${labels[$number]:-}"'
    scripts = {LABELS: "".join(f"{label}\n" for label in asked.labels)}
    several = f'"${{labels[@]:$((number * {jobs.chunk})):{jobs.chunk}}}"'
    if jobs.inference is None:
        scripts["participant.sbatch"] = _work(jobs, jobs.participant, asked.participant, one)
    else:
        scripts["preprocess.sbatch"] = _work(jobs, jobs.participant, asked.preprocess, one)
        scripts["inference.sbatch"] = _work(jobs, jobs.inference, asked.participant, several)
    if jobs.parts > 1:
        part = ("--shard", f'"$SLURM_ARRAY_TASK_ID/{jobs.parts}"')
        call = _call(jobs, "group", asked.part, part, gpu=False)
        scripts["part.sbatch"] = _script("part", jobs, jobs.group, [call])
    call = _call(jobs, "group", asked.group, (), gpu=False)
    scripts["group.sbatch"] = _script("group", jobs, jobs.group, [call], array=False)
    return scripts


def check_paths(paths: Sequence[Path], *, bound: bool = False) -> None:
    """Refuse paths that a script or a container would read as something else.

    Parameters
    ----------
    paths : sequence of Path
        What a script names.
    bound : bool
        Whether a container is to see them by ``-B``.

    Raises
    ------
    UsageError
        If one holds a line break or, to be bound, a colon or a comma.
    """
    for path in paths:
        text = str(path)
        if not text.isprintable() or (bound and re.search("[:,]", text)):
            raise UsageError(
                f"{text!r} cannot stand in a job script: a line break, or with an image ':' or ','",
                fix="rename the folder, or give a link to it with a plain name",
            )


def _script(name: str, jobs: Jobs, need: Need, lines: Sequence[str], *, array: bool = True) -> str:
    """Put a job together: what it asks, the wrapper, and what it does."""
    asks = [
        f"--job-name=neurostorm-{name}",
        f"--cpus-per-task={need.cpus}",
        f"--mem={need.mem}",
        f"--time={need.time}",
        *need.more,
        "--requeue",
        "--kill-on-invalid-dep=yes",
        "--open-mode=append",
        "--signal=B:TERM@120",
        f"--output=log/{name}-{'%A_%a' if array else '%j'}.out",
    ]
    head = ["#!/bin/bash", *(f"#SBATCH {ask}" for ask in asks), "set -u"]
    head += [f"module load {shlex.join(jobs.modules)}"] if jobs.modules else []
    if jobs.image is not None:
        head += [
            f'[ -z "${{{known}:-}}" ] || export "APPTAINERENV_{known}=${known}"' for known in KNOWN
        ]
    head += [f"requeues={jobs.requeues}", WRAPPER.rstrip("\n")]
    return "\n".join([*head, *lines, "finish"]) + "\n"


def _work(jobs: Jobs, need: Need, words: Sequence[str], labels: str) -> str:
    """Write a job that works on participants."""
    inference = need is jobs.inference
    kind = "inference" if inference else "preprocess" if jobs.inference else "participant"
    lines = [
        f"mapfile -t labels < {shlex.quote(str(jobs.folder / LABELS))} || exit 66",
        f"number=$((SLURM_ARRAY_TASK_ID + ${{{FIRST}:-0}}))",
        f"chosen=({labels})",
        'for label in "${chosen[@]:-}"; do',
        '    case $label in "" | *[!0-9A-Za-z+]*)',
        '        echo "task $number has no label: $label" >&2',
        '        rm -rf "$scratch"',
        "        exit 64",
        "        ;;",
        "    esac",
        "done",
        _call(
            jobs,
            "participant",
            words,
            ("--participant-label", '"${chosen[@]}"', "-w", '"$scratch"'),
            gpu=inference,
        ),
    ]
    return _script(kind, jobs, need, lines)


def _call(jobs: Jobs, level: str, words: Sequence[str], more: Sequence[str], *, gpu: bool) -> str:
    """Write the call of the app; `more` is shell already."""
    settings = jobs.asked.settings
    command = [shlex.quote(word) for word in jobs.command]
    if jobs.image is not None:
        given = [settings.bids_dir, *jobs.asked.inputs]
        binds = [f"{path}:{path}:ro" for path in given] + [str(settings.output_dir)]
        command = ["apptainer", "run", "--cleanenv", "--containall", *(["--nv"] if gpu else [])]
        command += [word for bind in binds for word in ("-B", shlex.quote(bind))]
        command += ["-B", '"$scratch"', "-B", '"$scratch:/tmp"', shlex.quote(str(jobs.image))]
    place = [settings.bids_dir, settings.output_dir]
    call = [*command, *(shlex.quote(str(path)) for path in place), level]
    return " ".join(["run", *call, *map(shlex.quote, words), *more])
