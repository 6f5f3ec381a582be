"""The work on one participant: preprocess, embed, report; each unit only if it is not there.

A run that fails keeps its error, and the others go on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.derivatives import (
    copy_aside,
    write_json,
    write_text,
)
from neurostorm_app.bids_app.embedding import embed_runs
from neurostorm_app.bids_app.outputs import ANAT, BOLD, image_sidecar
from neurostorm_app.bids_app.provenance import Unit, now
from neurostorm_app.bids_app.results import Progress, RunResult, StageTime, contained
from neurostorm_app.bids_app.units import (
    anat_unit,
    bold_unit,
    output_paths,
    ready_from_precomputed,
    ready_from_raw,
)
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.resources import peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.dataset import Participant
    from neurostorm_app.bids_app.engines import Preprocessed
    from neurostorm_app.bids_app.outputs import Output
    from neurostorm_app.bids_app.units import Call, Ready
    from neurostorm_app.pipelines.stage import Run

__all__ = ["process_participants"]

log = logging.getLogger(__name__)


def process_participants(participants: Sequence[Participant], call: Call) -> list[RunResult]:
    """Give each run of some participants its results.

    Parameters
    ----------
    participants : sequence of Participant
        The runs to work on: of one participant, or of several whose runs are all preprocessed, so
        that the models never wait for the next participant.
    call : Call
        What all participants share.

    Returns
    -------
    list of RunResult
        One a run, in the order of participants and of their names.
    """
    progress: dict[str, Progress] = {}
    makers: dict[str, Callable[[], Ready]] = {}
    for participant in participants:
        names = [run.name for run in participant.raw] + [i.name for i in participant.precomputed]
        here = {name: Progress(name) for name in sorted(names)}
        ready = _preprocess(participant, call, here)
        made = {name: partial(_same, run) for name, run in ready.items()}
        made |= {i.name: partial(ready_from_precomputed, i, call) for i in participant.precomputed}
        progress |= here
        makers |= {name: made[name] for name in here if name in made}
    if not (call.stops and any(run.errors for run in progress.values())):
        embed_runs(makers, progress, call)
    results = [run.result() for run in progress.values()]
    for result in results:
        _write_run_report(result, call.root)
    return results


def _same(ready: Ready) -> Ready:
    return ready


def _write_run_report(result: RunResult, root: Path) -> None:
    """Write the report of a run; one that tells of the work itself is not replaced."""
    path = root / "logs" / f"{result.name}_report.json"
    if result.status == "reused" and path.is_file():
        with contextlib.suppress(ValueError, AttributeError):
            if json.loads(path.read_text(encoding="utf-8")).get("status") != "failed":
                return
    write_json(path, result.as_dict(), root=root)


def _preprocess(
    participant: Participant, call: Call, progress: Mapping[str, Progress]
) -> dict[str, Ready]:
    """Bring the raw runs to standard space, those that are not there yet."""
    ready: dict[str, Ready] = {}
    if not participant.raw:
        return ready
    units: dict[str, Unit] = {}
    with contained(*(progress[run.name] for run in participant.raw)):
        anat = anat_unit(participant.label, participant.t1w, call)
        for run in participant.raw:
            with contained(progress[run.name]):
                units[run.name] = bold_unit(run, anat, call)
        stale = [
            run
            for run in participant.raw
            if run.name in units and not call.ledger.holds(units[run.name])
        ]
        if stale or not call.ledger.holds(anat):
            _make(participant, stale, anat, units, call, progress)
    for run in participant.raw:
        if run.name in units and not progress[run.name].errors:
            with contained(progress[run.name]):
                ready[run.name] = ready_from_raw(run, units[run.name], call)
                progress[run.name].outputs += call.ledger.output_hashes(units[run.name].name)
    return ready


def _make(
    participant: Participant,
    stale: Sequence[Run],
    anat: Unit,
    units: Mapping[str, Unit],
    call: Call,
    progress: Mapping[str, Progress],
) -> None:
    """Preprocess what is stale and take the files into the output folder."""
    label, ledger = participant.label, call.ledger
    paths = output_paths(ANAT, f"sub-{label}", "anat", call)
    qc = call.root / "logs" / f"sub-{label}_qc.json"
    reused = ledger.holds(anat)
    what = f"{len(stale)} runs" if reused else f"anatomy and {len(stale)} runs"
    log.info("sub-%s: preprocessing %s", label, what)
    started, begin = now(), time.monotonic()
    work = call.scratch / f"sub-{label}"
    done = call.engines.preprocess(
        participant.t1w,
        stale,
        work_dir=work,
        science=call.settings.science,
        plan=call.plan,
        anat={**paths, "qc": qc} if reused else None,
    )
    seconds = time.monotonic() - begin
    measured = {"started": started, "seconds": round(seconds, 2), **_costs(done)}
    if not reused and done.anat:
        _keep_anat(participant, anat, done, paths, call, measured)
        for run in participant.raw:
            progress[run.name].stages.append(StageTime("anatomy", seconds))
    for run in stale:
        with contained(progress[run.name]):
            _keep_bold(run, units[run.name], done, call, measured)
            progress[run.name].stages.append(StageTime("preprocess", seconds))
    log.info("sub-%s: preprocessed in %.1f s%s", label, seconds, _longest(done.timings))
    if not done.failed:
        shutil.rmtree(work, ignore_errors=True)


def _costs(done: Preprocessed) -> dict[str, Any]:
    """Say what the preprocessing took, for the record."""
    stages = {name: round(seconds, 2) for name, seconds in done.timings.items()}
    return {"peak_memory": done.peak_memory or peak_memory(), "stages": stages}


def _longest(timings: Mapping[str, float], n: int = 4) -> str:
    """Name the steps that took longest."""
    longest = sorted(timings.items(), key=lambda step: -step[1])[:n]
    return ": " + ", ".join(f"{name} {s:.0f} s" for name, s in longest) if longest else ""


def _keep_anat(
    participant: Participant,
    unit: Unit,
    done: Preprocessed,
    paths: Mapping[str, Path],
    call: Call,
    measured: Mapping[str, Any],
) -> None:
    label = participant.label
    sources = [call.uri(path) for path in participant.t1w]
    written = _store(ANAT, done.anat, paths, sources, call, None)
    _keep_logs(f"sub-{label}", done.anat, call)
    if done.methods:
        write_text(call.root / "logs" / f"sub-{label}_methods.md", done.methods, root=call.root)
    stamps = {call.uri(path): path for path in participant.t1w}
    call.ledger.write(unit, written, stamps=stamps, measured=measured)


def _keep_bold(
    run: Run, unit: Unit, done: Preprocessed, call: Call, measured: Mapping[str, Any]
) -> None:
    failure = done.failed.get(run.name) or done.failed.get(f"sub-{run.participant}")
    if failure is not None:
        raise failure
    if run.name not in done.bold:
        raise AppError(
            f"{run.name}: the preprocessing ended with neither files nor an error",
            fix="this is a defect: please report it with the log file in OUTPUT_DIR/logs",
        )
    paths = output_paths(BOLD, run.name, "func", call)
    sources = [call.uri(run.bold), call.uri(paths["hmc_xfm"]), call.uri(paths["coreg_xfm"])]
    written = _store(BOLD, done.bold[run.name], paths, sources, call, run.metadata)
    _keep_logs(run.name, done.bold[run.name], call)
    call.ledger.write(unit, written, stamps={call.uri(run.bold): run.bold}, measured=measured)


def _store(
    outputs: Sequence[Output],
    files: Mapping[str, Path],
    paths: Mapping[str, Path],
    sources: Sequence[str],
    call: Call,
    metadata: Mapping[str, Any] | None,
) -> dict[Path, str]:
    """Copy files to their places and write their sidecars; return hashes by path."""
    written: dict[Path, str] = {}
    res = call.settings.science.space[1]
    for output in outputs:
        path = paths[output.role]
        written[path] = copy_aside(files[output.role], path, root=call.root)
        if output.facts is not None:
            sidecar = path.with_name(path.name.removesuffix(output.extension) + ".json")
            content = image_sidecar(output, sources=sources, res=res, metadata=metadata)
            written[sidecar] = write_json(sidecar, content, root=call.root)
    return written


def _keep_logs(name: str, files: Mapping[str, Path], call: Call) -> None:
    if "qc" in files:
        copy_aside(files["qc"], call.root / "logs" / f"{name}_qc.json", root=call.root)
