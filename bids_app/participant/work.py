"""The work on one participant: preprocess, embed, report; each piece only if it is not there.

A run that fails keeps its error, and the others go on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from neurostorm_app.bids_app.derivatives import write_json
from neurostorm_app.bids_app.energy import Meter
from neurostorm_app.bids_app.participant.admission import admit
from neurostorm_app.bids_app.participant.derived import derive
from neurostorm_app.bids_app.participant.embedding import embed_runs
from neurostorm_app.bids_app.participant.image_sidecars import said
from neurostorm_app.bids_app.participant.keeping import Keeper, mend, read_qc
from neurostorm_app.bids_app.participant.pieces_anat import anat_pieces
from neurostorm_app.bids_app.participant.pieces_run import run_pieces
from neurostorm_app.bids_app.participant.units import (
    choose_space,
    ready_from_precomputed,
    ready_from_raw,
)
from neurostorm_app.bids_app.participant.wanting import want
from neurostorm_app.bids_app.provenance import now
from neurostorm_app.bids_app.results import (
    Progress,
    RunResult,
    StageTime,
    contained,
    tell_result,
)
from neurostorm_app.errors import AppError
from neurostorm_app.pipelines.progress import renaming
from neurostorm_app.pipelines.resources import peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from neurostorm_app.bids_app.engines import Preprocessed, Wanted
    from neurostorm_app.bids_app.inputs.dataset import Participant
    from neurostorm_app.bids_app.inputs.precomputed import Precomputed
    from neurostorm_app.bids_app.participant.pieces import Anatomy, RunPieces
    from neurostorm_app.bids_app.participant.units import Call, Ready

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
    makers: dict[str, Callable[[str], Ready]] = {}
    for participant in participants:
        names = [run.name for run in participant.raw] + [i.name for i in participant.precomputed]
        if call.settings.selection.anat_only:
            names = [f"sub-{participant.label}"]
        here = {name: Progress(name) for name in sorted(names)}
        done = _preprocess(participant, call, here)
        made: dict[str, Callable[[str], Ready]] = {}
        if call.settings.science.has_standard:
            made = {name: partial(_in_space, pieces, call) for name, pieces in done.items()}
        made |= {i.name: partial(_as_given, i, call) for i in participant.precomputed}
        progress |= here
        makers |= {name: made[name] for name in here if name in made}
    if call.settings.runs_models and not call.is_over(progress):
        embed_runs(makers, progress, call)
    derive(makers, progress, call)
    results = [run.result() for run in progress.values()]
    if call.is_over(progress):
        tried = [result for result in results if result.errors or result.stages or result.outputs]
        if untried := [result.name for result in results if result not in tried]:
            log.error("stopped at the first failure: %s not tried", ", ".join(untried))
        results = tried
    for result in results:
        _write_run_report(result, call)
        tell_result(result)
    return results


def _in_space(pieces: RunPieces, call: Call, wanted: str) -> Ready:
    return ready_from_raw(pieces, choose_space(call.settings.science.spaces, wanted), call)


def _as_given(item: Precomputed, call: Call, _: str) -> Ready:
    return ready_from_precomputed(item, call)


def _write_run_report(result: RunResult, call: Call) -> None:
    """Write the report of a run; one that tells of the work itself is not replaced."""
    path = call.root / "logs" / f"{result.name}_report.json"
    if result.status == "reused" and path.is_file():
        with contextlib.suppress(ValueError, AttributeError):
            if json.loads(path.read_text(encoding="utf-8")).get("status") != "failed":
                return
    write_json(path, call.rules.record(result.as_dict()), root=call.root)


def _preprocess(
    participant: Participant, call: Call, progress: Mapping[str, Progress]
) -> dict[str, RunPieces]:
    """Make what is not there yet; give the pieces of the runs that are complete."""
    anat_only = call.settings.selection.anat_only
    if not (participant.raw or anat_only):
        return {}
    done: dict[str, RunPieces] = {}
    names = [run.name for run in participant.raw] or list(progress)
    with contained(*(progress[name] for name in names)):
        anat = anat_pieces(participant, call)
        runs: dict[str, RunPieces] = {}
        for run in participant.raw:
            if call.is_over(progress):
                break
            with contained(progress[run.name]):
                runs[run.name] = run_pieces(run, anat, participant.fits.get(run.name), call)
        mend(participant.label, anat, runs, call)
        _make_stale(participant, anat, runs, call, progress)
        done = {name: pieces for name, pieces in runs.items() if not progress[name].errors}
        if call.is_over(progress):
            done = {name: p for name, p in done.items() if all(piece.held(call) for piece in p.all)}
        for name, pieces in done.items():
            progress[name].quality = _quality(call.root, name)
            for piece in pieces.all:
                if not piece.given:
                    progress[name].outputs += call.ledger.output_hashes(piece.unit.name)
    return done


def _make_stale(
    participant: Participant,
    anat: Anatomy | None,
    runs: Mapping[str, RunPieces],
    call: Call,
    progress: Mapping[str, Progress],
) -> None:
    """Make what is not there, as far as there is room for it."""
    stale = {
        name: pieces
        for name, pieces in runs.items()
        if not all(piece.held(call) for piece in pieces.all)
    }
    if not stale and (anat is None or all(piece.held(call) for piece in anat.all)):
        return
    fitting, plan = admit(participant, anat, stale, call, progress)
    if stale and not fitting:
        return
    names = [run.name for run in participant.raw] or list(progress)
    parts = [fitting]
    if call.stops and fitting:  # side by side, the others would go on when one fails
        parts = [{name: pieces} for name, pieces in fitting.items()]
    for part in parts:
        if not call.is_over(progress):
            # What goes wrong with a part says nothing of runs that are done, or not tried.
            with contained(*(progress[name] for name in part or names)):
                _make(participant, anat, part, replace(call, plan=plan), progress, others=runs)


def _quality(root: Path, name: str) -> Mapping[str, Any] | None:
    """Read what the preprocessing thinks of a run."""
    _, quality = said(read_qc(root / "logs" / f"{name}_qc.json"), "quality")
    return quality if isinstance(quality, dict) and "verdict" in quality else None


def _make(
    participant: Participant,
    anat: Anatomy | None,
    stale: Mapping[str, RunPieces],
    call: Call,
    progress: Mapping[str, Progress],
    *,
    others: Mapping[str, RunPieces],
) -> None:
    """Preprocess what is stale and take the files into the output folder, beside `others`."""
    label = participant.label
    wanted = want(participant, anat, stale, call)
    held = wanted.anat is not None or anat is None
    words = _words(wanted, len(stale), anatomy=not held)
    log.info("sub-%s: preprocessing %s", label, words, extra={"step": True})
    started, begin = now(), time.monotonic()
    work, series = (folder / f"sub-{label}" for folder in (call.scratch, call.series_dir))
    with (
        Meter() as meter,
        renaming(lambda name: name if name.startswith("sub-") else f"sub-{label} {name}"),
    ):
        done = call.engines.preprocess(
            wanted, work_dir=work, series_dir=series, settings=call.settings, plan=call.plan
        )
    seconds = time.monotonic() - begin
    keeper = Keeper(
        call=call,
        series_dir=series,
        anat=anat,
        measured={"started": started, "seconds": round(seconds, 2), **_costs(done, meter)},
    )
    keeper.keep_methods(
        label,
        done.methods,
        pieces=[*(anat.all if anat else ()), *(p for run in stale.values() for p in run.all)],
        others=[piece for run in others.values() for piece in run.all],
        added=wanted.anat is not None or bool(wanted.fits),
    )
    if anat and done.anat:
        keeper.keep_anat(label, done, given=wanted.anat is not None)
        names = [run.name for run in participant.raw] or list(progress)
        names = list(stale) if call.stops and stale else names  # others may never be tried
        for name in () if held else names:
            progress[name].stages.append(StageTime("anatomy", seconds))
    elif anat and not stale:
        raise next(iter(done.failed.values()), _nothing(f"sub-{label}"))
    for name, pieces in stale.items():
        with contained(progress[name]):
            failure = done.failed.get(name) or done.failed.get(f"sub-{label}")
            if failure is not None:
                raise failure
            if name not in done.bold:
                raise _nothing(name)
            keeper.keep_run(pieces, done.bold[name], given=name in wanted.fits)
            progress[name].stages.append(StageTime("preprocess", seconds))
    took = _longest(done.timings)
    log.info("sub-%s: preprocessed in %.1f s%s", label, seconds, took, extra={"step": True})
    shutil.rmtree(series, ignore_errors=True)
    if not done.failed:
        shutil.rmtree(work, ignore_errors=True)


def _nothing(name: str) -> AppError:
    return AppError(
        f"{name}: the preprocessing ended with neither files nor an error",
        fix="this is a defect: please report it with the log file in OUTPUT_DIR/logs",
    )


def _words(wanted: Wanted, n_runs: int, *, anatomy: bool) -> str:
    """Say what is going to be made."""
    what = ["the anatomy"] * anatomy + [f"{n_runs} runs"] * bool(n_runs)
    known = f", estimates of {len(wanted.fits)} reused" if wanted.fits else ""
    labels = " ".join(space.label for space in wanted.spaces) or "no space"
    return f"{' and '.join(what) or 'spaces of the anatomy'} ({labels}, {wanted.level}{known})"


def _costs(done: Preprocessed, meter: Meter) -> dict[str, Any]:
    """Say what the preprocessing took, for the record."""
    stages = {name: round(seconds, 2) for name, seconds in done.timings.items()}
    memory = done.peak_memory or peak_memory()
    return {"peak_memory": memory, "energy": meter.take(), "stages": stages}


def _longest(timings: Mapping[str, float], n: int = 4) -> str:
    """Name the steps that took longest."""
    longest = sorted(timings.items(), key=lambda step: -step[1])[:n]
    return ": " + ", ".join(f"{name} {s:.0f} s" for name, s in longest) if longest else ""
