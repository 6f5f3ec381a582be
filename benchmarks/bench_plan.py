"""What a step of the preprocessing takes, against what the plan says: the source of its numbers.

    .venv/bin/python benchmarks/bench_plan.py BIDS_DIR [BIDS_DIR ...] [--work-dir DIR]

Preprocesses the first participant of each dataset, one step at a time in one thread, and prints
CPU seconds and peak memory of each step, sizes on disk, and beside them what the headers say. CPU
seconds are taken, since they change least with what else a machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.settings import Settings
    from neurostorm_app.pipelines.need import Need

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def tree_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def measure(dataset: Path, work: Path) -> None:
    """Preprocess one participant in this process; print what each step took as JSON."""
    from neurostorm_app.bids_app.inputs.dataset import find_runs
    from neurostorm_app.bids_app.settings import build_settings
    from neurostorm_app.pipelines.preprocess import nodes
    from neurostorm_app.pipelines.preprocess.workflow import Options, preprocess_participant

    inner = nodes.Step._run_interface  # noqa: SLF001

    def forgetful(self: nodes.Step, runtime: object) -> object:
        """Begin each step with the peak of the process set back."""
        Path("/proc/self/clear_refs").write_text("5")
        return inner(self, runtime)

    nodes.Step._run_interface = forgetful  # noqa: SLF001
    options = {"skip_bids_validation": True}
    settings = build_settings(dataset, work / "out", "participant", options)
    participant = find_runs(settings).participants[0]
    began, worked = time.perf_counter(), time.process_time()
    done = preprocess_participant(
        participant.t1w,
        participant.raw,
        work_dir=work / "scratch",
        series_dir=work / "series",
        options=Options(spaces=settings.science.spaces),
        n_procs=1,
    )
    for name, error in done.failed.items():
        print(f"{name} failed: {error.what}", file=sys.stderr)
    planned = plan(participant, settings)
    steps = {
        f"{path.parents[1].name}.{path.parent.name}": json.loads(path.read_text())
        for path in sorted((work / "scratch").rglob("spent.json"))
    }
    print(
        json.dumps({
            "dataset": dataset.name,
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(time.process_time() - worked, 1),
            "scratch": tree_bytes(work / "scratch"),
            "series": tree_bytes(work / "series"),
            "idle_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "steps": {
                name: {key: step[key] for key in ("seconds", "cpu_seconds", "peak_mib")}
                for name, step in steps.items()
            },
            "planned": {
                "cpu_seconds": round(planned.seconds, 1),
                "peak_mib": round(planned.memory(1) / 2**20),
                "scratch": planned.scratch,
                "output": planned.output,
                "steps": {
                    step.name: [round(step.seconds, 1), round(step.memory / 2**20)]
                    for step in planned.steps
                },
            },
        })
    )  # fmt: skip


def plan(participant: Participant, settings: Settings) -> Need:
    """Tell what the headers say of the same work."""
    from neurostorm_app.bids_app.participant.needs import facts_of
    from neurostorm_app.pipelines.estimate import estimate_anatomy, estimate_run
    from neurostorm_app.pipelines.need import Need
    from neurostorm_app.pipelines.templates import find_grid

    grids = {
        space.label: math.prod(find_grid(space.name, space.res or "1").shape)
        for space in settings.science.spaces
        if space.is_standard
    }
    need, anatomy = Need(), 0
    for run in participant.raw:
        facts = facts_of(run, participant)
        anatomy = facts.t1w
        need += estimate_run(facts, fit=True, confounds=True, series=grids, references=grids)
    if anatomy:
        need += estimate_anatomy([anatomy], n_templates=len(grids), standard=[*grids.values()])
    return need


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure(asked.datasets[0], asked.work_dir)
        return
    for dataset in asked.datasets:
        work = Path(tempfile.mkdtemp(dir=asked.work_dir))
        words = [sys.executable, __file__, str(dataset), "--work-dir", str(work), "--one"]
        done = subprocess.run(
            words,
            env=os.environ | dict.fromkeys(THREADS, "1"),
            capture_output=True,
            text=True,
            check=False,
        )
        shutil.rmtree(work)
        print(done.stdout if done.returncode == 0 else done.stderr[-3000:])


if __name__ == "__main__":
    main()
