"""The verb ``slurm``: scripts for a cluster, how far its jobs are, and a configuration for BABS."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neurostorm_app.errors import NoInputError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from neurostorm_app.bids_app.clusters.scripts import Jobs, Need

__all__ = ["add_slurm", "call_slurm"]

NAME: Final = r"[\w.,:=+/-]+"
FORMS: Final = {
    "mem": r"\d+[KMGT]?",
    "group_mem": r"\d+[KMGT]?",
    "gpu_mem": r"\d+[KMGT]?",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
    "group_time": r"(\d+-)?\d+(:\d\d){0,2}",
    "gpu_time": r"(\d+-)?\d+(:\d\d){0,2}",
    "partition": NAME,
    "gpu_partition": NAME,
    "account": NAME,
    "qos": NAME,
    "constraint": r"[\w.,:=+/&|*()\[\]-]+",
    "gres": NAME,
}
"""What may stand in a line that sbatch reads."""


def add_slurm(verb: Any) -> None:
    """Add the arguments of the verb to its parser."""
    verb.usage = "%(prog)s BIDS_DIR OUTPUT_DIR [options] [-- options of neurostorm-app]"
    verb.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="the dataset")
    verb.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="folder of the results")
    _add_program(verb.add_argument_group("what runs"))
    _add_jobs(verb.add_argument_group("jobs"))
    _add_needs(verb.add_argument_group("what a job asks of the cluster"))
    other = verb.add_mutually_exclusive_group()
    text = "say how far the jobs are, from the reports in OUTPUT_DIR, and how to queue the rest"
    other.add_argument("--status", action="store_true", help=text)
    text = "print a configuration of the container for BABS instead of scripts"
    other.add_argument("--babs", action="store_true", help=text)
    verb.parse_known_args = partial(_parse, verb.parse_known_args)


def _parse(
    inner: Callable[..., tuple[argparse.Namespace, list[str]]],
    words: Sequence[str],
    namespace: argparse.Namespace | None = None,
) -> tuple[argparse.Namespace, list[str]]:
    """Keep what stands after ``--`` for the app; argparse would take it for ours."""
    cut = list(words).index("--") if "--" in words else len(words)
    found, unknown = inner(list(words[:cut]), namespace)
    found.words = list(words[cut + 1 :])
    return found, unknown


def _add_program(group: Any) -> None:
    program = group.add_mutually_exclusive_group()
    program.add_argument("--image", type=Path, metavar="SIF", help="image that Apptainer runs")
    text = 'what starts the app instead, quoted as one word. Default: "neurostorm-app"'
    program.add_argument("--command", default="neurostorm-app", metavar="COMMAND", help=text)
    text = "environment modules to load first, such as apptainer"
    group.add_argument("--module", nargs="+", default=(), metavar="NAME", help=text)


def _add_jobs(group: Any) -> None:
    text = "folder to write the scripts into, seen by all nodes. Default: they are printed"
    group.add_argument("--out-dir", type=Path, metavar="DIR", help=text)
    text = "two jobs: the preprocessing, one participant a task, and the models, on a GPU"
    group.add_argument("--split", action="store_true", help=text)
    numbers = {
        "limit": (None, "tasks of an array at a time. Default: no limit"),
        "requeues": (3, "times that a job queues itself again on exit code 75"),
        "chunk": (16, "with --split, participants of one job on a GPU"),
        "parts": (1, "jobs that share the group level, before the one that joins them"),
        "max-array": (1000, "tasks that one array may have (MaxArraySize of the cluster less 1)"),
    }
    for name, (default, text) in numbers.items():
        told = "" if default is None else f". Default: {default}"
        group.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text + told)
    text = "afterok: a job waits until those it needs succeeded; afterany: until they ended"
    group.add_argument("--after", choices=("afterok", "afterany"), default="afterok", help=text)


def _add_needs(group: Any) -> None:
    group.add_argument("--cpus", type=int, default=2, metavar="N", help="cores. Default: 2")
    defaults = {
        "mem": ("8G", "memory"),
        "time": ("12:00:00", "time limit"),
        "group-mem": ("16G", "memory at the group level"),
        "group-time": ("4:00:00", "time limit at the group level"),
        "gpu-mem": ("16G", "with --split, memory of a job on a GPU"),
        "gpu-time": ("4:00:00", "with --split, time limit of a job on a GPU"),
        "partition": (None, "partition"),
        "gpu-partition": (None, "with --split, partition of the jobs on a GPU"),
        "account": (None, "account"),
        "qos": (None, "quality of service"),
        "constraint": (None, "features of nodes"),
        "gres": (None, "generic resources. Default with --split, for the models: gpu:1"),
    }
    for name, (default, text) in defaults.items():
        told = "" if default is None else f". Default: {default}"
        group.add_argument(f"--{name}", default=default, metavar="X", help=text + told)


def call_slurm(asked: argparse.Namespace) -> None:
    """Do what the verb asks for."""
    from neurostorm_app import __version__
    from neurostorm_app.bids_app.clusters.babs import make_babs
    from neurostorm_app.bids_app.clusters.scripts import make_scripts
    from neurostorm_app.bids_app.clusters.status import describe_standing, read_standing
    from neurostorm_app.bids_app.clusters.submit import make_submit

    jobs = _jobs(asked)
    if asked.status:
        settings = jobs.asked.settings
        models = settings.science.models if settings.runs_models else ()
        standing = read_standing(settings.output_dir, jobs.asked.labels, models)
        print("\n".join(describe_standing(standing, jobs)))
    elif asked.babs:
        print(make_babs(jobs, str(__version__)), end="")
    else:
        scripts = {**make_scripts(jobs), "submit.sh": make_submit(jobs)}
        _write(scripts, jobs.folder, printed=asked.out_dir is None)


def _write(scripts: dict[str, str], folder: Path, *, printed: bool) -> None:
    from neurostorm_app.bids_app.derivatives import write_text

    if printed:
        print("\n".join(f"==> {folder / name} <==\n{text}" for name, text in scripts.items()))
        return
    known = folder / "participants.txt"
    if known.is_file() and known.read_text(encoding="utf-8") != scripts["participants.txt"]:
        raise UsageError(
            f"{known} lists other participants, and tasks in the queue may still read it",
            fix="choose another --out-dir, or remove the file when no job is left",
        )
    for name, text in scripts.items():
        write_text(folder / name, text)
    print(
        f"{len(scripts)} files in {folder}\nqueue them: bash {shlex.quote(str(folder))}/submit.sh"
    )


def _jobs(asked: argparse.Namespace) -> Jobs:
    """Check what was asked and put it together."""
    from neurostorm_app.bids_app.clusters.scripts import Jobs
    from neurostorm_app.bids_app.clusters.words import read_words

    _check(asked)
    words = read_words(asked.bids_dir, asked.output_dir, asked.words)
    if asked.split and not words.settings.runs_models:
        raise UsageError(
            "--split with options that run no model: there is nothing for a second job",
            fix="leave --split out, or --anat-only and the --level below full",
        )
    gpu_needs = _need(asked, "gpu", gres=asked.gres or "gpu:1")
    return Jobs(
        asked=words,
        folder=(asked.out_dir or Path.cwd()).resolve(),
        command=_command(asked.command),
        image=_image(asked.image),
        modules=tuple(asked.module),
        participant=_need(asked, "", gres=None if asked.split else asked.gres),
        inference=gpu_needs if asked.split else None,
        group=_need(asked, "group", gres=None),
        limit=asked.limit,
        requeues=asked.requeues,
        chunk=asked.chunk,
        parts=asked.parts,
        most=asked.max_array,
        after=asked.after,
    )


def _command(text: str) -> tuple[str, ...]:
    """Take the command apart as a shell does."""
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        words = ()
    if not words:
        raise UsageError(
            f"--command {text!r} is no command: it is empty, or a quotation mark is left open",
            fix="quote it whole, such as --command '/opt/env/bin/neurostorm-app'",
        )
    return words


def _image(image: Path | None) -> Path | None:
    if image is not None and not image.exists():
        raise NoInputError(
            f"--image: {image} is not there", fix="build it: apptainer build FILE.sif apptainer.def"
        )
    return None if image is None else image.resolve()


def _check(asked: argparse.Namespace) -> None:
    """Refuse what sbatch would read as something else."""
    given = {name: getattr(asked, name) for name in FORMS}
    wrong = [n for n, v in given.items() if v is not None and not re.fullmatch(FORMS[n], v)]
    if wrong:
        option = "--" + wrong[0].replace("_", "-")
        raise UsageError(
            f"{option} cannot be {given[wrong[0]]!r} in a job script",
            fix="write it as sbatch takes it, such as 8G, 12:00:00 or gpu:1",
        )
    strange = [name for name in asked.module if not re.fullmatch(NAME, name)]
    if strange:
        raise UsageError(
            f"--module: {strange[0]!r} is not the name of a module", fix="write it as apptainer/1.3"
        )
    least = {"cpus": 1, "limit": 1, "requeues": 0, "chunk": 1, "parts": 1, "max_array": 1}
    for name, low in least.items():
        value = getattr(asked, name)
        if value is not None and value < low:
            raise UsageError(
                f"--{name.replace('_', '-')} {value}: expected a number of at least {low}",
                fix=f"write {low} or more",
            )


def _need(asked: argparse.Namespace, kind: str, *, gres: str | None) -> Need:
    from neurostorm_app.bids_app.clusters.scripts import Need

    prefix = f"{kind}_" if kind else ""
    partition = asked.gpu_partition if kind == "gpu" else None
    more = {
        "partition": partition or asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "gres": gres,
    }
    return Need(
        cpus=asked.cpus,
        mem=getattr(asked, f"{prefix}mem"),
        time=getattr(asked, f"{prefix}time"),
        more=tuple(f"--{name}={value}" for name, value in more.items() if value is not None),
    )
